"""Any ONNX policy, with a YAML file that names its signals, as a bundle (needs onnx, not torch).

The YAML holds the sections of the contract, and `graph`, which says how the model's own inputs
and outputs map to them (config/import_example.yaml explains each key). The model is kept as it
is; nodes around it rename, reorder and reshape, so that the whole has the standard form.

What others export differs in: an observation without the To axis, histories flattened signal by
signal (IsaacLab) or step by step, recurrent states [layers, B, hidden] (rsl_rl), several inputs,
a batch fixed at 1, weights in a file beside the model.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from robot_policies.bundle import (
    GRAPH,
    MIN_GOLDEN_STEPS,
    Golden,
    PolicyBundle,
    refuse_overwrite,
)
from robot_policies.contract import Contract
from robot_policies.graph import Source, model_card, random_inputs, stamp, write_graphs
from robot_policies.importers.onnx_original import OriginalModel, load_model
from robot_policies.importers.onnx_signals import read_signals
from robot_policies.importers.onnx_wrap import wrap
from robot_policies.runtime import OnnxPolicy, require_replay
from robot_policies.strict import ContractError, InputError, Violation


def import_onnx(
    model: str | Path,
    signals: str | Path,
    path: str | Path,
    *,
    golden: str | Path | None = None,
    replace: bool = False,
    seed: int = 0,
) -> tuple[PolicyBundle, tuple[str, ...]]:
    """Make a bundle of a model and the YAML file that names its signals.

    Args:
        model: the ONNX file; external weights beside it are taken into the bundle.
        signals: the YAML file.
        path: the bundle's directory.
        golden: npz with observation [T, B, To, Do], action [T, B, Ta, Da], optionally reset [T]
            and noise/NAME [T, B, *shape], recorded by what trained the policy. Without it, the
            ORIGINAL model is recorded on random observations drawn from `seed`.
        replace: exchange an existing bundle for the new one.
        seed: of the random observations.

    Returns:
        The bundle, and remarks for the user.

    Raises:
        ContractError: the YAML lacks or contradicts something, the model does not fit it, or the
            wrapped graph does not reproduce the original; with every violation.
        FileExistsError: the path exists and `replace` is False.
    """
    refuse_overwrite(path, replace)
    proto, digest = load_model(Path(model))
    contract, mapping, document = read_signals(Path(signals), Path(model).name, digest)
    given = None if golden is None else _read_golden(Path(golden), contract)
    original = OriginalModel(proto, contract, mapping)
    inputs = random_inputs(contract, batch=original.batch or 2, seed=seed)
    graph, truth, notes = _standard_form(original, original.record(*inputs), seed)
    if given is not None:
        _require_batch(given, graph)
        truth = _with_states(given, original)
    card = model_card(contract, f"robot-policies import onnx {Path(model).name}")
    training = {"imported_from": Path(model).name, "sha256": digest, "signals": document}
    source = Source(training, card)
    bundle = write_graphs({GRAPH: graph}, contract, truth, source, path, replace=replace)
    return bundle, notes


# The wrapped graph.


def _standard_form(
    original: OriginalModel, recorded: Golden, seed: int
) -> tuple[onnx.ModelProto, Golden, tuple[str, ...]]:
    """Wrap the model with a dynamic batch where that is right, else with a fixed one.

    Returns:
        The graph, a record of the original with a batch that the graph takes, and remarks.
    """
    notes = [
        f"the model's output {name} is not used"
        for name in original.outputs.keys()
        - {original.mapping.action, original.mapping.feature}
        - {item.output for item in original.mapping.states}
    ]
    graph = wrap(original, batch=None)
    if _any_batch_is_right(graph, original.contract, recorded, seed):
        return graph, recorded, tuple(sorted(notes))
    batch = original.batch or 1
    graph = wrap(original, batch)
    if recorded.action.shape[1] != batch:
        contract = original.contract
        recorded = original.record(*random_inputs(contract, batch=batch, seed=seed))
    try:
        require_replay(_open(graph, original.contract), recorded)
    except ContractError as error:
        raise ContractError(
            [dataclasses.replace(v, where=f"wrapped model, {v.where}") for v in error.violations]
        ) from None
    notes.append(f"the batch stays fixed at {batch}: the model's own nodes know no other")
    return graph, recorded, tuple(sorted(notes))


def _any_batch_is_right(
    graph: onnx.ModelProto, contract: Contract, recorded: Golden, seed: int
) -> bool:
    """Compare with the original, and a batch of three with three batches of one."""
    try:
        policy = _open(graph, contract)
        if policy.replay(recorded)[1] > contract.tolerance:
            return False
        observation, reset, noise = random_inputs(contract, steps=32, batch=3, seed=seed)
        together = _run(policy, contract, observation, reset, noise)
        for index in range(3):
            one = slice(index, index + 1)
            alone = {name: value[:, one] for name, value in noise.items()}
            single = _run(policy, contract, observation[:, one], reset, alone)
            if not np.abs(together[:, one] - single).max() <= contract.tolerance:
                return False
    except Exception:  # any refusal by ONNX Runtime means the same: this batch cannot be used
        return False
    return True


def _run(
    policy: OnnxPolicy,
    contract: Contract,
    observation: np.ndarray,
    reset: np.ndarray,
    noise: Mapping[str, np.ndarray],
) -> np.ndarray:
    lead = observation.shape[:2]
    blank = np.zeros((*lead, contract.chunk.steps, contract.action_size), np.float32)
    states = {s.output: np.zeros((*lead, *s.shape), np.float32) for s in contract.state}
    return policy.replay(Golden(reset, observation, blank, states, dict(noise)))[0].action


def _open(graph: onnx.ModelProto, contract: Contract) -> OnnxPolicy:
    return OnnxPolicy(PolicyBundle(Path(), contract, {}, {GRAPH: stamp(graph, contract)}))


# A run recorded by whoever trained the policy.


def _read_golden(path: Path, contract: Contract) -> Golden:
    """Read the user's record, without recurrent states; cheap, and so before any other work."""
    try:
        with np.load(path, allow_pickle=False) as archive:
            arrays = {key: archive[key] for key in archive.files}
    except OSError:
        raise
    except Exception as error:  # numpy and zipfile raise many kinds for bytes that are not npz
        mend = "write it with numpy.savez(path, observation=..., action=...)"
        found = f"{type(error).__name__}: {error}"
        raise InputError([Violation(path.name, "an npz file", found, mend)]) from None
    violations = list(_golden_violations(path.name, arrays, contract))
    if violations:
        raise ContractError(violations)
    steps = len(arrays["observation"])
    reset = np.asarray(arrays.get("reset", np.arange(steps) == 0), bool)
    noise = {n.name: arrays[f"noise/{n.name}"] for n in contract.noise}
    return Golden(reset, arrays["observation"], arrays["action"], {}, noise)


def _require_batch(given: Golden, graph: onnx.ModelProto) -> None:
    fixed = graph.graph.input[0].type.tensor_type.shape.dim[0].dim_value
    found = given.action.shape[1]
    if fixed and found != fixed:
        expected = f"[T, {fixed}, ...]: the model's own nodes know no batch but {fixed}"
        mend = f"record {fixed} at a time, or export the model with a dynamic batch"
        raise ContractError([Violation("golden run", expected, f"{found} environments", mend)])


def _with_states(given: Golden, original: OriginalModel) -> Golden:
    """Add the recurrent states that the original model reaches."""
    recorded = original.record(given.observation, given.reset, given.noise)
    return dataclasses.replace(recorded, action=given.action)


def _golden_violations(
    name: str, arrays: Mapping[str, np.ndarray], contract: Contract
) -> Iterator[Violation]:
    observation = arrays.get("observation")
    lead = ("T", "B") if observation is None or observation.ndim < 2 else observation.shape[:2]
    shapes: dict[str, tuple[Any, ...]] = {
        "observation": (*lead, contract.observation_steps, contract.observation_size),
        "action": (*lead, contract.chunk.steps, contract.action_size),
    }
    shapes |= {f"noise/{spec.name}": (*lead, *spec.shape) for spec in contract.noise}
    for key in sorted(arrays.keys() - shapes.keys() - {"reset"}):
        yield Violation(f"{name} {key}", "no such array", "an extra array", "remove it")
    for key, shape in shapes.items():
        where, mend = f"{name} {key}", "record it again"
        if key not in arrays:
            yield Violation(where, f"an array {list(shape)}", "nothing", mend)
        elif arrays[key].shape != shape or arrays[key].dtype != np.float32:
            found = f"{arrays[key].dtype} {list(arrays[key].shape)}"
            yield Violation(where, f"float32 {list(shape)}", found, mend)
        elif len(arrays[key]) < MIN_GOLDEN_STEPS or not arrays[key].shape[1]:
            expected = f">= {MIN_GOLDEN_STEPS} steps of >= 1 environment"
            yield Violation(where, expected, f"{list(arrays[key].shape[:2])}", mend)
        elif not np.isfinite(arrays[key]).all():
            yield Violation(where, "finite numbers", "others", mend)
    reset = arrays.get("reset")
    if reset is not None and (reset.shape != lead[:1] or not reset[:1].all()):
        found = f"{list(reset.shape)}"
        yield Violation(f"{name} reset", f"[{lead[0]}], true at first", found, "record it again")
