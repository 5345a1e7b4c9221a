"""From a trained network to a bundle: ONNX graph, parity check, golden replay (needs torch)."""

from __future__ import annotations

import io
import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
import yaml
from torch import Tensor, nn

from robot_policies.bundle import Golden, PolicyBundle, refuse_overwrite
from robot_policies.contract import Contract
from robot_policies.graph import Source, model_card, random_inputs, write_graph
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
    network = _build_network(document["family"], document["network"])
    _load_weights(network, document["weights"])
    golden = _record_random(network, contract, seed)
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
    with _quiet_exporter():
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


def _build_network(family: str, sizes: Mapping[str, Any]) -> nn.Module:
    from robot_policies.models.actor import ActorPolicy
    from robot_policies.models.foundation import FoundationPolicy

    families: dict[str, type[nn.Module]] = {"actor": ActorPolicy, "foundation": FoundationPolicy}
    if family not in families:
        expected = "one of " + ", ".join(families)
        mend = "export it with the release that trained it"
        raise ContractError([Violation("checkpoint family", expected, family, mend)])
    try:
        return families[family](**sizes)
    except (TypeError, ValueError, RuntimeError) as error:
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


def _record_random(network: nn.Module, contract: Contract, seed: int) -> Golden:
    try:
        return record(network, contract, *random_inputs(contract, seed=seed))
    except (TypeError, ValueError, RuntimeError) as error:
        expected = "inputs and outputs as its contract says"
        raise ContractError([_broken("checkpoint network", expected, error)]) from None


def _broken(where: str, expected: str, error: Exception) -> Violation:
    found = " ".join(str(error).split())[:160]
    return Violation(where, expected, found, _TRAIN_AGAIN)
