"""From a trained network to a bundle: ONNX graphs, parity check, golden replay (needs torch)."""

from __future__ import annotations

import io
import logging
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
import yaml
from torch import Tensor, nn

from robot_policies.bundle import (
    ENCODE,
    GRAPH,
    REFINE,
    Golden,
    PolicyBundle,
    refuse_overwrite,
)
from robot_policies.contract import FRESH, SAMPLE, Contract
from robot_policies.graph import Source, model_card, random_inputs, write_graphs
from robot_policies.models import families
from robot_policies.models.chunk import ChunkPolicy
from robot_policies.strict import ContractError, InputError, Violation

OPSET = 20
_TRAIN_AGAIN = "take another checkpoint of this run, or train again"
_CHECKPOINT = {"family": str, "network": dict, "weights": dict, "contract": str, "training": str}


def export(
    network: nn.Module,
    contract: Contract,
    golden: Golden,
    source: Source,
    path: str | Path,
    *,
    replace: bool = False,
) -> PolicyBundle:
    """Export a network and write its bundle.

    Args:
        network: of the direct form, forward(observation [B, To, Do], *states, *noise) -> (action
            [B, Ta, Da], *states[, feature]), in the contract's order; or a ChunkPolicy, where the
            contract has a refinement.
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
    graphs = to_graphs(network, contract)
    return write_graphs(graphs, contract, golden, source, path, replace=replace)


def export_checkpoint(
    checkpoint: str | Path, path: str | Path, *, replace: bool = False, seed: int = 0
) -> PolicyBundle:
    """Export a checkpoint that `save_checkpoint` wrote; golden observations are drawn from `seed`.

    Raises:
        InputError: the file is no such checkpoint.
        ContractError: its network does not fit its contract.
        FileExistsError: the path exists and `replace` is False.
    """
    refuse_overwrite(path, replace)
    document = _load_checkpoint(Path(checkpoint))
    contract = Contract.from_json(document["contract"], "checkpoint contract")
    network = build_network(document["family"], document["network"])
    _load_weights(network, document["weights"])
    golden = record_random(network, contract, seed)
    card = model_card(contract, f"robot-policies export {Path(checkpoint).name}")
    source = Source(yaml.safe_load(document["training"]), card)
    return export(network, contract, golden, source, path, replace=replace)


def checkpoint_contract(checkpoint: str | Path) -> Contract:
    """What a checkpoint was trained for, before long work; raises as `export_checkpoint`."""
    document = _load_checkpoint(Path(checkpoint))
    return Contract.from_json(document["contract"], "checkpoint contract")


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


def to_graphs(network: nn.Module, contract: Contract) -> dict[str, onnx.ModelProto]:
    """File -> graph: one of the direct form, or one that encodes and one that refines."""
    if contract.refinement is None:
        return {GRAPH: to_onnx(network, contract)}
    assert isinstance(network, ChunkPolicy)
    feature = [] if contract.feature is None else [contract.feature]
    observation = torch.zeros(2, contract.observation_steps, contract.observation_size)
    with torch.no_grad():
        context, _ = network.encode(observation)
    sample = torch.zeros(2, *contract.refinement.sample)
    inputs = {
        "context": context, SAMPLE: sample,
        "schedule": torch.zeros(2, len(contract.refinement.columns)),
    }  # fmt: skip
    if network.takes_fresh_noise:
        inputs[FRESH] = sample.clone()  # of one tensor given twice the exporter makes one input
    outputs = ["next_sample", "action", *contract.refinement.told]
    return {
        ENCODE: trace(Encoder(network), {"observation": observation}, ["context", *feature]),
        REFINE: trace(RefiningStep(network), inputs, outputs),
    }


def to_onnx(network: nn.Module, contract: Contract) -> onnx.ModelProto:
    """Trace a network of the direct form to a graph with the contract's names."""
    outputs = ["action", *(state.output for state in contract.state)]
    if contract.feature is not None and contract.feature not in outputs:
        outputs.append(contract.feature)
    return trace(network, _arguments(contract, batch=2), outputs)


class Encoder(nn.Module):
    """The graph `encode` of a chunk policy."""

    def __init__(self, policy: ChunkPolicy) -> None:
        super().__init__()
        self.policy = policy

    def forward(self, observation: Tensor) -> tuple[Tensor, Tensor]:
        """Observation [B, To, Do] -> context [B, C], feature [B, F]."""
        return self.policy.encode(observation)


class RefiningStep(nn.Module):
    """The graph `refine` of a chunk policy."""

    def __init__(self, policy: ChunkPolicy) -> None:
        super().__init__()
        self.policy = policy

    def forward(
        self, context: Tensor, sample: Tensor, schedule: Tensor, fresh: Tensor | None = None
    ) -> tuple[Tensor, ...]:
        """See ChunkPolicy.step."""
        return self.policy.step(context, sample, schedule, fresh)


def trace(
    network: nn.Module, arguments: Mapping[str, Tensor], outputs: Sequence[str]
) -> onnx.ModelProto:
    """An ONNX graph with a dynamic batch and these names, the inputs in the network's order.

    Raises ContractError, naming the module, for an operator that ONNX has not.
    """
    batch = torch.export.Dim("batch")
    shapes = tuple({0: batch} for _ in arguments)
    network.eval()
    values = tuple(arguments.values())
    with _quiet_exporter():
        try:
            exported = torch.onnx.export(
                network, values, dynamo=True, input_names=list(arguments),
                output_names=list(outputs), dynamic_shapes=shapes, opset_version=OPSET,
                external_data=False, verbose=False,
            )  # fmt: skip
        except torch.onnx.OnnxExporterError as error:
            raise ContractError([_unsupported(network, values, error)]) from None
    assert exported is not None  # the exporter returns None only in its legacy modes
    return _without_debug_information(exported.model_proto)


def record(
    network: nn.Module,
    contract: Contract,
    observation: np.ndarray,
    reset: np.ndarray,
    noise: Mapping[str, np.ndarray],
) -> Golden:
    """Run the network in torch and record what comes out (shapes as in `random_inputs`)."""
    if contract.refinement is not None:
        return _record_chunks(network, contract, observation, reset, noise)
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


def _record_chunks(
    network: nn.Module,
    contract: Contract,
    observation: np.ndarray,
    reset: np.ndarray,
    noise: Mapping[str, np.ndarray],
) -> Golden:
    assert contract.refinement is not None and isinstance(network, ChunkPolicy)
    network.eval()
    sampler = contract.refinement.sampler(None)
    actions = []
    for step, seen in enumerate(observation):
        given = [torch.from_numpy(noise[spec.name][step]) for spec in contract.noise]
        actions.append(network.generate(torch.from_numpy(seen), sampler, given).action.numpy())
    return Golden(reset, observation, np.stack(actions), {}, dict(noise))


def _unsupported(network: nn.Module, values: tuple[Tensor, ...], error: Exception) -> Violation:
    """Which module made the operator that the exporter's message names."""
    program = torch.export.export(network, values)
    texts: list[str] = []
    cause: BaseException | None = error
    while cause is not None:
        texts.append(str(cause))
        cause = cause.__cause__ or cause.__context__
    found = re.search(r"op='([\w.]+)'", " ".join(texts))
    operator = found.group(1) if found else "an operator that the exporter does not name"
    made_by = "the network"
    for node in program.graph.nodes:
        if found and str(node.target).startswith(operator):
            path, kind = list(node.meta.get("nn_module_stack", {}).values())[-1]
            made_by = f"{path or 'the network itself'} ({str(kind).split('.')[-1]})"
            break
    expected = f"standard operators of ONNX (opset {OPSET})"
    mend = "write that module's forward with other operators"
    return Violation(f"module {made_by}", expected, operator, mend)


@contextmanager
def _quiet_exporter() -> Iterator[None]:
    """Drop the exporter's remarks on its own workings and on packages that it would like."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


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
        found = f"{type(error).__name__}: {' '.join(str(error).split()).split('. ')[0][:120]}"
        raise InputError([Violation(path.name, "a checkpoint", found, mend)]) from None
    if not isinstance(document, dict) or not _is_checkpoint(document):
        keys = document if isinstance(document, dict) else ()
        expected = ", ".join(f"{key} ({kind.__name__})" for key, kind in _CHECKPOINT.items())
        found = ", ".join(f"{key} ({type(document[key]).__name__})" for key in keys)
        raise InputError([Violation(path.name, expected, found or "no keys", mend)])
    return document


def _is_checkpoint(document: Mapping[Any, Any]) -> bool:
    return document.keys() == _CHECKPOINT.keys() and all(
        isinstance(document[key], kind) for key, kind in _CHECKPOINT.items()
    )


def build_network(family: str, sizes: Mapping[str, Any]) -> nn.Module:
    """A new network, as `robot_policies.models.families.build`; raises ContractError."""
    if family not in families.NAMES:
        expected = "one of " + ", ".join(families.NAMES)
        mend = "export it with the release that trained it"
        raise ContractError([Violation("checkpoint family", expected, family, mend)])
    try:
        return families.build(family, sizes)
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise ContractError(
            [_broken("checkpoint network", "the sizes of its network", error)]
        ) from None


def _load_weights(network: nn.Module, weights: Mapping[str, Any]) -> None:
    try:
        network.load_state_dict(weights)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ContractError(
            [_broken("checkpoint weights", "the tensors of its network", error)]
        ) from None


def record_random(network: nn.Module, contract: Contract, seed: int) -> Golden:
    """A golden run on drawn inputs, like those in its data where the network knows them.

    Raises ContractError where the network does not fit the contract.
    """
    observation, reset, noise = random_inputs(contract, seed=seed)
    try:
        if isinstance(network, ChunkPolicy):
            observation = network.measured(torch.from_numpy(observation)).numpy()
        return record(network, contract, observation, reset, noise)
    except (TypeError, ValueError, RuntimeError) as error:
        expected = "inputs and outputs as its contract says"
        raise ContractError([_broken("checkpoint network", expected, error)]) from None


def _broken(where: str, expected: str, error: Exception) -> Violation:
    found = " ".join(str(error).split())[:160]
    return Violation(where, expected, found, _TRAIN_AGAIN)
