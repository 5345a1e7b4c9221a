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

from robot_policies.bundle import GRAPH, Golden, PolicyBundle, refuse_overwrite
from robot_policies.contract import Contract
from robot_policies.graph import Source, model_card, random_inputs, stamp, write_graph
from robot_policies.importers.onnx_original import OriginalModel, load_model
from robot_policies.importers.onnx_signals import read_signals
from robot_policies.importers.onnx_wrap import wrap
from robot_policies.runtime import OnnxPolicy, replay_violations
from robot_policies.strict import ContractError, Violation


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
    refuse_overwrite(Path(path), replace)
    proto, digest = load_model(Path(model))
    contract, mapping, document = read_signals(Path(signals), Path(model).name, digest)
    original = OriginalModel(proto, contract, mapping)
    inputs = random_inputs(contract, batch=original.batch or 2, seed=seed)
    recorded = original.record(*inputs)
    graph, notes = _standard_form(original, recorded, seed)
    truth = recorded if golden is None else _given_golden(Path(golden), original)
    card = model_card(contract, f"robot-policies import onnx {Path(model).name}")
    training = {"imported_from": Path(model).name, "sha256": digest, "signals": document}
    bundle = write_graph(graph, contract, truth, Source(training, card), path, replace=replace)
    return bundle, notes


# The wrapped graph.


def _standard_form(
    original: OriginalModel, recorded: Golden, seed: int
) -> tuple[onnx.ModelProto, tuple[str, ...]]:
    """Wrap the model with a dynamic batch where that is right, else with a fixed one."""
    notes = [
        f"the model's output {name} is not used"
        for name in original.outputs.keys()
        - {original.mapping.action, original.mapping.feature}
        - {item.output for item in original.mapping.states}
    ]
    graph = wrap(original, batch=None)
    if _any_batch_is_right(graph, original.contract, recorded, seed):
        return graph, tuple(sorted(notes))
    batch = original.batch or 1
    graph = wrap(original, batch)
    if recorded.action.shape[1] != batch:
        contract = original.contract
        recorded = original.record(*random_inputs(contract, batch=batch, seed=seed))
    violations = list(replay_violations(_open(graph, original.contract), recorded))
    if violations:
        raise ContractError(
            [dataclasses.replace(v, where=f"wrapped model, {v.where}") for v in violations]
        )
    notes.append(f"the batch stays fixed at {batch}: the model's own nodes know no other")
    return graph, tuple(sorted(notes))


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


def _given_golden(path: Path, original: OriginalModel) -> Golden:
    """Read the user's record; recurrent states are added from the original model."""
    try:
        with np.load(path, allow_pickle=False) as archive:
            arrays = {key: archive[key] for key in archive.files}
    except OSError:
        raise
    except Exception as error:  # numpy and zipfile raise many kinds for bytes that are not npz
        mend = "write it with numpy.savez(path, observation=..., action=...)"
        found = f"{type(error).__name__}: {error}"
        raise ContractError([Violation(path.name, "an npz file", found, mend)]) from None
    violations = list(_golden_violations(path.name, arrays, original.contract))
    if violations:
        raise ContractError(violations)
    steps = len(arrays["observation"])
    reset = np.asarray(arrays.get("reset", np.arange(steps) == 0), bool)
    noise = {n.name: arrays[f"noise/{n.name}"] for n in original.contract.noise}
    recorded = original.record(arrays["observation"], reset, noise)
    return dataclasses.replace(recorded, action=arrays["action"])


def _golden_violations(
    name: str, arrays: Mapping[str, np.ndarray], contract: Contract
) -> Iterator[Violation]:
    lead = arrays["observation"].shape[:2] if "observation" in arrays else ("T", "B")
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
    reset = arrays.get("reset")
    if reset is not None and (reset.shape != lead[:1] or not reset[:1].all()):
        found = f"{list(reset.shape)}"
        yield Violation(f"{name} reset", f"[{lead[0]}], true at first", found, "record it again")
