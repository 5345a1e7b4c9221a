"""From a trained network to a bundle: ONNX graph, parity check, golden replay (needs torch)."""

from __future__ import annotations

import io
import platform
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
import yaml
from torch import Tensor, nn

from robot_policies import bundle as bundles
from robot_policies.bundle import GRAPH, Golden, PolicyBundle
from robot_policies.contract import Contract, Provenance
from robot_policies.runtime import METADATA_KEY, OnnxPolicy, replay_violations
from robot_policies.strict import ContractError, Violation

OPSET = 20
_CHECKPOINT_KEYS = {"family", "network", "weights", "contract", "training"}


@dataclass(frozen=True)
class Source:
    """What goes into a bundle beside the network and its contract."""

    training: Mapping[str, Any]
    """The resolved configuration that made the policy (training.yaml)."""
    model_card: str
    """Markdown (README.md)."""


def export(
    network: nn.Module,
    contract: Contract,
    golden: Golden,
    source: Source,
    path: str | Path,
    *,
    replace: bool = False,
) -> PolicyBundle:
    """Export a network in the direct form and write its bundle.

    Args:
        network: forward(observation [B, To, Do], *states, *noise) -> (action [B, Ta, Da],
            *states[, feature]), in the contract's order.
        contract: what the network was trained for.
        golden: a recorded run of the NETWORK (or of its authors' own code): the graph must
            reproduce it within the contract's tolerance before the bundle gets its name.
        source: configuration and model card.
        path: the bundle's directory.
        replace: exchange an existing bundle for the new one.

    Raises:
        ContractError: the graph does not reproduce the record, or does not fit the contract.
        FileExistsError: the path exists and `replace` is False.
    """
    return write_graph(to_onnx(network, contract), contract, golden, source, path, replace=replace)


def write_graph(
    graph: onnx.ModelProto,
    contract: Contract,
    golden: Golden,
    source: Source,
    path: str | Path,
    *,
    replace: bool = False,
) -> PolicyBundle:
    """Write a bundle around a graph, after it has replayed the golden run (see `export`)."""
    files = {
        GRAPH: stamp(graph, contract),
        "golden.npz": golden.to_bytes(),
        "training.yaml": yaml.safe_dump(dict(source.training), sort_keys=True).encode(),
        "README.md": source.model_card.encode(),
    }
    return bundles.write(path, contract, files, replace=replace, check=_require_replay)


def export_checkpoint(
    checkpoint: str | Path, path: str | Path, *, replace: bool = False, seed: int = 0
) -> PolicyBundle:
    """Export a checkpoint that `save_checkpoint` wrote; golden observations are drawn from `seed`.

    Raises:
        ContractError: the file is no such checkpoint, or its network does not fit its contract.
        FileExistsError: the path exists and `replace` is False.
    """
    document = _load_checkpoint(Path(checkpoint))
    contract = Contract.from_json(document["contract"], "checkpoint contract")
    network = _build_network(document["family"], document["network"])
    network.load_state_dict(document["weights"])
    golden = record(network, contract, *random_inputs(contract, seed=seed))
    card = model_card(contract, f"robot-policies export {Path(checkpoint).name}")
    source = Source(yaml.safe_load(document["training"]), card)
    return export(network, contract, golden, source, path, replace=replace)


def save_checkpoint(
    path: str | Path,
    network: nn.Module,
    sizes: Mapping[str, Any],
    contract: Contract,
    training: Mapping[str, Any],
) -> None:
    """Save weights together with all that `export_checkpoint` needs (no pickled code)."""
    document = {
        "family": contract.family,
        "network": dict(sizes),
        "weights": network.state_dict(),
        "contract": contract.to_json(),
        "training": yaml.safe_dump(dict(training), sort_keys=True),
    }
    staging = Path(f"{path}.new")
    torch.save(document, staging)
    staging.replace(path)


def to_onnx(network: nn.Module, contract: Contract) -> onnx.ModelProto:
    """Trace the network to an ONNX graph with a dynamic batch and the contract's names."""
    batch = torch.export.Dim("batch")
    arguments = _arguments(contract, batch=2)
    outputs = ["action", *(state.output for state in contract.state)]
    if contract.feature is not None and contract.feature not in outputs:
        outputs.append(contract.feature)
    program = torch.onnx.export(
        network.eval(),
        tuple(arguments.values()),
        dynamo=True,
        input_names=list(arguments),
        output_names=outputs,
        dynamic_shapes=tuple({0: batch} for _ in arguments),
        opset_version=OPSET,
        external_data=False,
        verbose=False,
    )
    assert program is not None  # the exporter returns None only in its legacy modes
    return _without_debug_information(program.model_proto)


def random_inputs(
    contract: Contract, *, steps: int = 64, batch: int = 2, seed: int = 0
) -> tuple[np.ndarray, np.ndarray, dict[str, np.ndarray]]:
    """Draw standard normal observations and noise, with a reset half-way, for a golden run.

    Returns:
        observation [T, B, To, Do], reset [T], noise by name [T, B, *shape].
    """
    generator = np.random.default_rng(seed)

    def normal(*shape: int) -> np.ndarray:
        return generator.standard_normal((steps, batch, *shape)).astype(np.float32)

    observation = normal(contract.observation_steps, contract.observation_size)
    reset = np.zeros(steps, bool)
    reset[[0, steps // 2]] = True
    return observation, reset, {spec.name: normal(*spec.shape) for spec in contract.noise}


def record(
    network: nn.Module,
    contract: Contract,
    observation: np.ndarray,
    reset: np.ndarray,
    noise: Mapping[str, np.ndarray],
) -> Golden:
    """Run the network in torch and record what comes out (shapes as in `random_inputs`)."""
    steps, batch = observation.shape[:2]
    network.eval()
    actions: list[np.ndarray] = []
    states: dict[str, list[np.ndarray]] = {spec.output: [] for spec in contract.state}
    current: list[Tensor] = []
    for step in range(steps):
        if reset[step]:
            current = _initial_states(contract, batch)
        noises = [torch.from_numpy(noise[spec.name][step]) for spec in contract.noise]
        with torch.no_grad():
            outputs = network(torch.from_numpy(observation[step]), *current, *noises)
        outputs = outputs if isinstance(outputs, tuple) else (outputs,)
        current = list(outputs[1 : 1 + len(contract.state)])
        actions.append(outputs[0].numpy())
        for spec, value in zip(contract.state, current, strict=True):
            states[spec.output].append(value.numpy())
    stacked = {name: np.stack(values) for name, values in states.items()}
    return Golden(reset, observation, np.stack(actions), stacked, dict(noise))


def stamp(graph: onnx.ModelProto, contract: Contract) -> bytes:
    """Put the contract into the graph's metadata, so that no other policy.json pairs with it."""
    del graph.metadata_props[:]
    graph.metadata_props.add(key=METADATA_KEY, value=contract.to_json())
    graph.metadata_props.add(key="robot_policies.sha256", value=contract.sha256())
    return graph.SerializeToString()


def provenance(source: str, licence: str, seeds: tuple[int, ...], data_sha256: str) -> Provenance:
    """Describe this machine's versions and, inside a checkout, its git revision."""
    folder = Path(__file__).parent

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(folder), *arguments]
        try:
            return subprocess.run(command, capture_output=True, text=True, check=True).stdout
        except (OSError, subprocess.CalledProcessError):
            return ""

    versions = {name: metadata.version(name) for name in ("torch", "onnx", "onnxruntime", "numpy")}
    return Provenance(
        source=source,
        licence=licence,
        git_revision=git("rev-parse", "HEAD").strip() or "unknown",
        git_dirty=bool(git("status", "--porcelain", "--untracked-files=no").strip()),
        seeds=seeds,
        data_sha256=data_sha256,
        versions={"python": platform.python_version(), **versions},
    )


def model_card(contract: Contract, command: str, about: str = "") -> str:
    """A model card: what the policy is, its signals, and the command that made it."""
    signals = [
        f"| {'in' if hasattr(s, 'history') else 'out'} | {s.name} | {list(s.shape)} | {s.unit} "
        f"| {s.frame} | {', '.join(s.elements)} |"
        for s in (*contract.observation, *contract.action)
    ]
    lines = [
        f"# {contract.name}",
        about or f"A policy of the family {contract.family} for {contract.robot.model}.",
        f"Licence: {contract.provenance.licence}. Source: {contract.provenance.source}.",
        f"Stepped at {contract.timing.control_hz:g} Hz. Made by `{command}`.",
        "| | signal | shape | unit | frame | elements |\n|---|---|---|---|---|---|\n"
        + "\n".join(signals),
    ]
    return "\n\n".join(lines) + "\n"


def _require_replay(path: Path) -> None:
    bundle = bundles.read(path)
    violations = list(replay_violations(OnnxPolicy(bundle), bundle.golden))
    if violations:
        raise ContractError(violations)


def _arguments(contract: Contract, batch: int) -> dict[str, Tensor]:
    size = (batch, contract.observation_steps, contract.observation_size)
    states = zip(contract.state, _initial_states(contract, batch), strict=True)
    return (
        {"observation": torch.zeros(size)}
        | {spec.name: value for spec, value in states}
        | {spec.name: torch.zeros(batch, *spec.shape) for spec in contract.noise}
    )


def _initial_states(contract: Contract, batch: int) -> list[Tensor]:
    return [
        torch.tensor(spec.initial).reshape(1, *spec.shape).repeat(batch, *[1] * len(spec.shape))
        for spec in contract.state
    ]


def _without_debug_information(graph: onnx.ModelProto) -> onnx.ModelProto:
    """Drop stack traces and paths, which the exporter leaves in every node."""
    graph.doc_string = graph.producer_version = ""
    for item in _described(graph):
        item.doc_string = ""
        if hasattr(item, "metadata_props"):
            del item.metadata_props[:]
    return graph


def _described(graph: onnx.ModelProto) -> Iterator[Any]:
    inner = graph.graph
    yield inner
    for group in (inner.node, inner.input, inner.output, inner.value_info, inner.initializer):
        yield from group


def _load_checkpoint(path: Path) -> dict[str, Any]:
    mend = "give a checkpoint that robot_policies.export.save_checkpoint wrote"
    try:
        document = torch.load(io.BytesIO(path.read_bytes()), map_location="cpu", weights_only=True)
    except OSError:
        raise
    except Exception as error:  # torch raises many kinds for bytes that are no checkpoint
        found = " ".join(str(error).split())[:120]
        raise ContractError([Violation(path.name, "a checkpoint", found, mend)]) from None
    keys = set(document) if isinstance(document, dict) else set()
    if keys != _CHECKPOINT_KEYS:
        expected = "the keys " + ", ".join(sorted(_CHECKPOINT_KEYS))
        found = ", ".join(sorted(map(str, keys))) or "none"
        raise ContractError([Violation(path.name, expected, found, mend)])
    return document


def _build_network(family: str, sizes: Mapping[str, Any]) -> nn.Module:
    from robot_policies.models.foundation import FoundationPolicy

    families: dict[str, type[nn.Module]] = {"foundation": FoundationPolicy}
    if family not in families:
        expected = "one of " + ", ".join(families)
        mend = "export it with the release that trained it"
        raise ContractError([Violation("checkpoint family", expected, family, mend)])
    return families[family](**sizes)
