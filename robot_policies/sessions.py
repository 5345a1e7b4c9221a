"""ONNX Runtime sessions: opened on one thread, checked against a contract, bound to arrays."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import onnxruntime as ort

from robot_policies.bundle import ENCODE, GRAPH, REFINE
from robot_policies.contract import FRESH, OOD_SCORE, SAMPLE, Contract, Sampler
from robot_policies.strict import ContractError, Violation, differences, parse_json
from robot_policies.weights import weight_violations

METADATA_KEY = "robot_policies.contract"
_EXPORT = "export the policy again"

Shape = tuple[int | None, ...]
"""Without the batch; None where the graph alone knows."""


def open_graph(content: bytes, contract: Contract) -> ort.InferenceSession:
    """Open the graph of the direct form on the CPU with one thread.

    Raises:
        ContractError: the graph cannot be loaded from its bytes alone, has weights that are not
            finite, belongs to another contract, or has other inputs and outputs.
    """
    session = _open(content, GRAPH)
    inputs: dict[str, Shape] = {
        "observation": (contract.observation_steps, contract.observation_size)
    }
    inputs |= {state.name: state.shape for state in contract.state}
    inputs |= {noise.name: noise.shape for noise in contract.noise}
    outputs: dict[str, Shape] = {"action": (contract.chunk.steps, contract.action_size)}
    outputs |= {state.output: state.shape for state in contract.state}
    if contract.feature is not None:
        outputs.setdefault(contract.feature, (None,))
    if contract.calibration is not None:
        outputs[OOD_SCORE] = ()
    _require(session, GRAPH, contract, inputs, outputs)
    return session


def open_pair(
    encode: bytes, refine: bytes, contract: Contract
) -> tuple[ort.InferenceSession, ort.InferenceSession]:
    """Open the graphs of the iterative form.

    Raises ContractError as `open_graph`, and where the context differs in size between the two.
    """
    assert contract.refinement is not None
    first, second = _open(encode, ENCODE), _open(refine, REFINE)
    outputs: dict[str, Shape] = {"context": (None,)}
    if contract.feature is not None:
        outputs[contract.feature] = (None,)
    if contract.calibration is not None:
        outputs[OOD_SCORE] = ()
    observation = (contract.observation_steps, contract.observation_size)
    _require(first, ENCODE, contract, {"observation": observation}, outputs)
    sample = contract.refinement.sample
    inputs: dict[str, Shape] = {
        "context": sizes_of(first)["context"], SAMPLE: sample,
        "schedule": (len(contract.refinement.columns),),
    }  # fmt: skip
    if any(sampler.fresh_noise for sampler in contract.refinement.samplers):
        inputs[FRESH] = sample
    outputs = {"next_sample": sample, "action": (contract.chunk.steps, contract.action_size)}
    outputs |= dict.fromkeys(contract.refinement.told, ())
    _require(second, REFINE, contract, inputs, outputs)
    return first, second


def sizes_of(session: ort.InferenceSession) -> dict[str, tuple[int, ...]]:
    """Output -> its shape without the batch."""
    return {port.name: tuple(port.shape[1:]) for port in session.get_outputs()}


def batch_of(sessions: Sequence[ort.InferenceSession]) -> int | None:
    """The fixed batch of the graphs' inputs, or None where it is dynamic."""
    ports = [port for session in sessions for port in session.get_inputs()]
    fixed = {port.shape[0] for port in ports if port.shape and isinstance(port.shape[0], int)}
    return min(fixed) if fixed else None


def bind(
    session: ort.InferenceSession,
    inputs: Mapping[str, np.ndarray],
    outputs: Mapping[str, np.ndarray],
) -> ort.IOBinding:
    """Let the session read and write these float32 arrays, which the caller keeps alive."""
    binding = session.io_binding()
    for name, array in inputs.items():
        binding.bind_input(name, "cpu", 0, np.float32, array.shape, array.ctypes.data)
    for name, array in outputs.items():
        binding.bind_output(name, "cpu", 0, np.float32, array.shape, array.ctypes.data)
    return binding


def noise_shapes(contract: Contract, sampler: Sampler | None) -> dict[str, tuple[int, ...]]:
    """Noise that a chunk takes by the direct form, or by a sampler: name -> shape."""
    if contract.refinement is None or sampler is None:
        return {noise.name: noise.shape for noise in contract.noise}
    shapes: dict[str, tuple[int, ...]] = {SAMPLE: contract.refinement.sample}
    if sampler.fresh_noise:
        shapes[FRESH] = (len(sampler.schedule), *contract.refinement.sample)
    return shapes


def _open(content: bytes, file: str) -> ort.InferenceSession:
    _require_weights(file, content)
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    try:
        # Its fallback would load a broken graph twice, and print about it.
        return ort.InferenceSession(
            content, options, providers=["CPUExecutionProvider"], enable_fallback=0
        )
    except Exception as error:  # ONNX Runtime's exceptions share no base class
        found = " ".join(str(error).split())[:200]
        mend = "export the policy again, with all weights inside the one file (no external data)"
        expected = "a graph that loads from its bytes alone"
        raise ContractError([Violation(file, expected, found, mend)]) from None


def _require(
    session: ort.InferenceSession,
    file: str,
    contract: Contract,
    inputs: Mapping[str, Shape],
    outputs: Mapping[str, Shape],
) -> None:
    """Raise ContractError for another contract, and for other ports: names, shapes, types."""
    try:
        violations = [
            *_metadata_violations(session, contract, file),
            *_compare_ports(file, "input", inputs, {p.name: p for p in session.get_inputs()}),
            *_compare_ports(file, "output", outputs, {p.name: p for p in session.get_outputs()}),
        ]
    except UnicodeDecodeError as error:
        violations = [Violation(file, "names and metadata in UTF-8", str(error), _EXPORT)]
    if violations:
        raise ContractError(violations)


def _require_weights(file: str, content: bytes) -> None:
    try:
        violations = list(weight_violations(file, content))
    except (ValueError, RecursionError) as error:
        found = f"{type(error).__name__}: {error}"
        violations = [Violation(file, "an ONNX model", found, _EXPORT)]
    if violations:
        raise ContractError(violations)


def _metadata_violations(
    session: ort.InferenceSession, contract: Contract, file: str
) -> Iterator[Violation]:
    """Compare the contract that the graph carries with policy.json, key by key."""
    carried = session.get_modelmeta().custom_metadata_map.get(METADATA_KEY)
    if carried is None:
        expected = f"metadata {METADATA_KEY}"
        mend = "make a bundle of it with `robot-policies import onnx`"
        yield Violation(file, expected, "a graph without a contract", mend)
        return
    if carried == contract.to_json():
        return
    try:
        inside = parse_json(carried, f"{file} metadata")
    except ContractError as error:
        yield from error.violations
        return
    found = parse_json(contract.to_json(), "policy.json")
    mend = f"policy.json and {file} are not a pair: copy both from one export"
    for path, left, right in differences(inside, found):
        yield Violation(f"policy.json.{path}", f"{left} (as {file} says)", right, mend)


def _compare_ports(
    file: str, kind: str, expected: Mapping[str, Shape], found: Mapping[str, Any]
) -> Iterator[Violation]:
    for name in sorted(expected.keys() | found.keys()):
        where = f"{file} {kind} {name}"
        if name not in found:
            yield Violation(where, _text(expected[name]), "nothing", _EXPORT)
        elif name not in expected:
            yield Violation(where, f"no such {kind}", f"{found[name].shape}", _EXPORT)
        elif not _fits(found[name].shape[1:], expected[name]) or (
            found[name].type != "tensor(float)"
        ):
            shape = f"{found[name].type} {found[name].shape}"
            yield Violation(where, f"float {_text(expected[name])}", shape, _EXPORT)


def _fits(found: Sequence[Any], expected: Shape) -> bool:
    return len(found) == len(expected) and all(
        isinstance(size, int) if wanted is None else size == wanted
        for size, wanted in zip(found, expected, strict=True)
    )


def _text(shape: Shape) -> str:
    return f"[{', '.join(['B', *('any' if size is None else str(size) for size in shape)])}]"
