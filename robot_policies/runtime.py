"""Run a bundle: numpy and ONNX Runtime only, one thread, no allocation worth naming per step."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

from robot_policies import bundle as bundles
from robot_policies.bundle import GRAPH, Golden, PolicyBundle
from robot_policies.contract import Contract
from robot_policies.signals import ActionMap, ObservationBuffer, maybe_not_finite
from robot_policies.strict import ContractError, Violation, differences, parse_json
from robot_policies.weights import weight_violations

METADATA_KEY = "robot_policies.contract"
_EXPORT = "export the policy again"
_UNSOUND = Violation(
    "step",
    "a policy whose last output was finite",
    "one that gave numbers that are not finite, or failed",
    "call reset() and start again",
)


@dataclass
class LastStep:
    """What the newest step told besides its command; zero and NaN seconds after a reset."""

    raw_action: np.ndarray
    """[B, Ta, Da]: the graph's output before scale, offset and limits."""
    feature: np.ndarray | None
    """[B, F]: the features that out-of-distribution scores look at, where the graph gives them."""
    inference_s: float
    """Seconds from named signals to named commands."""


class OnnxPolicy:
    """A policy with the direct form: one graph, called once per step.

    Observation [B, To, Do], recurrent state and noise go in; the action [B, Ta, Da] and the new
    state come out. Buffers are bound once per reset, so a step allocates only its result.
    """

    def __init__(self, bundle: PolicyBundle) -> None:
        """Open the graph (ContractError where it is not the one that the contract describes)."""
        self.contract = bundle.contract
        self._session = open_graph(bundle.content[GRAPH], bundle.contract)
        self.static_batch = _batch_of(self._session)
        """The only batch that the graph takes, or None where it takes any."""
        self.reset(self.static_batch or 1)

    def reset(
        self, batch: int = 1, seed: int = 0, initial: Mapping[str, np.ndarray] | None = None
    ) -> None:
        """Start `batch` episodes: initial recurrent state, empty history, seeded noise.

        Args:
            batch: B, the number of robots side by side.
            seed: of the noise (a policy without noise inputs does not depend on it).
            initial: what to start from instead of the contract's values, by name:
                "previous_action" [B, Da] (raw) or a recurrent state [B, *shape].

        Raises:
            ContractError: an unknown name or a wrong shape in `initial`, or a batch that the
                graph cannot take.
        """
        if batch < 1 or self.static_batch not in (None, batch):
            expected = "1 or more" if self.static_batch is None else f"{self.static_batch}"
            mend = "use this batch, or export with a dynamic one"
            raise ContractError([Violation("batch", expected, str(batch), mend)])
        values = self._initial(dict(initial or {}), batch)
        if not hasattr(self, "_observation") or len(self._raw) != batch:
            self._bind(batch)
        for output in self._outputs.values():
            output[...] = 0.0
        self._observation.reset(values.get("previous_action"))
        for state in self.contract.state:
            self._state[state.name][...] = values[state.name]
        self._generator = np.random.default_rng(seed)
        self._inference_s = math.nan
        self._sound = True

    def step(self, signals: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Advance one control period.

        Args:
            signals: every signal of the contract with source "robot", by name, [B, *shape].

        Returns:
            Commands by name, [B, Ta, *shape], in the contract's units and within its limits.

        Raises:
            ContractError: wrong names or shapes, or a value that is not finite. A refused input
                changes nothing. After a refused output (an action or a recurrent state) there is
                nothing sound to go on from: every step is refused until `reset`.
        """
        started = time.perf_counter()
        if not self._sound:
            raise ContractError([_UNSOUND])
        self._observation.push(signals)
        for buffer in self._noise.values():
            self._generator.standard_normal(out=buffer, dtype=np.float32)
        self._sound = False  # until the graph has run to its end and its outputs are finite
        self._session.run_with_iobinding(self._binding)
        if maybe_not_finite(self._flat) and not np.isfinite(self._flat).all():
            raise ContractError(list(_output_violations(self._outputs)))
        for source, target in self._carry:
            target[...] = source
        self._sound = True
        command = self._actions(self._raw)
        self._inference_s = time.perf_counter() - started
        return command

    @property
    def last(self) -> LastStep:
        """What the newest step told; copies, made when asked for."""
        feature = self._feature
        feature = None if feature is None else feature.reshape(len(feature), -1).copy()
        return LastStep(self._raw.copy(), feature, self._inference_s)

    def replay(self, golden: Golden) -> tuple[Golden, float]:
        """Run the recorded observations again.

        Returns:
            What came out, and the largest absolute difference from the record (inf where a
            number is not finite). The policy is reset by this.
        """
        steps, batch = golden.action.shape[:2]
        action = np.empty_like(golden.action)
        state = {name: np.empty_like(value) for name, value in golden.state.items()}
        for index in range(steps):
            if golden.reset[index]:
                self.reset(batch)
            self._observation.vector[...] = golden.observation[index]
            for name, buffer in self._noise.items():
                buffer[...] = golden.noise[name][index]
            self._session.run_with_iobinding(self._binding)
            for source, target in self._carry:
                target[...] = source
            action[index] = self._raw
            for spec in self.contract.state:
                state[spec.output][index] = self._state[spec.name]
        self.reset(self.static_batch or 1)
        found = Golden(golden.reset, golden.observation, action, state, golden.noise)
        return found, max(float(errors.max()) for errors in replay_errors(found, golden).values())

    def _initial(self, given: dict[str, Any], batch: int) -> dict[str, np.ndarray]:
        shapes = {state.name: (batch, *state.shape) for state in self.contract.state}
        shapes["previous_action"] = (batch, self.contract.action_size)
        violations, values = [], {}
        for name, value in given.items():
            found = _numbers(value)
            if name not in shapes:
                expected, said = "one of " + ", ".join(shapes), "an unknown name"
            elif found is None:
                expected, said = "numbers", type(value).__name__
            elif found.shape != shapes[name]:
                expected, said = str(list(shapes[name])), str(list(found.shape))
            elif not np.isfinite(found).all():
                expected, said = "finite numbers", "others"
            else:
                values[name] = found
                continue
            mend = "correct the argument of reset"
            violations.append(Violation(f"initial {name}", expected, said, mend))
        if violations:
            raise ContractError(violations)
        for state in self.contract.state:
            value = np.asarray(state.initial, np.float32).reshape(state.shape)
            values.setdefault(state.name, np.broadcast_to(value, (batch, *state.shape)))
        return values

    def _bind(self, batch: int) -> None:
        """Allocate the buffers for this batch and bind them to the session."""
        contract = self.contract
        self._state, self._noise, self._carry, self._feature = {}, {}, [], None
        # The action and the states in one piece, so that one pass sees whether they are finite.
        shapes = {"action": (batch, contract.chunk.steps, contract.action_size)}
        shapes |= {state.output: (batch, *state.shape) for state in contract.state}
        self._flat, outputs = _in_one_piece(shapes)
        self._raw = outputs["action"]
        self._observation = ObservationBuffer(contract, batch, previous_action=self._raw[:, 0])
        self._actions = ActionMap(contract, batch)
        for state in contract.state:
            self._state[state.name] = np.zeros((batch, *state.shape), np.float32)
            self._carry.append((outputs[state.output], self._state[state.name]))
        for noise in contract.noise:
            self._noise[noise.name] = np.zeros((batch, *noise.shape), np.float32)
        if contract.feature is not None:
            if contract.feature not in outputs:
                size = {o.name: o.shape for o in self._session.get_outputs()}[contract.feature][-1]
                outputs[contract.feature] = np.zeros((batch, size), np.float32)
            self._feature = outputs[contract.feature]
        self._binding = self._session.io_binding()
        inputs = {"observation": self._observation.vector, **self._state, **self._noise}
        for name, array in inputs.items():
            self._binding.bind_input(name, "cpu", 0, np.float32, array.shape, array.ctypes.data)
        for name, array in outputs.items():
            self._binding.bind_output(name, "cpu", 0, np.float32, array.shape, array.ctypes.data)
        self._outputs = outputs  # the session writes into them: keep them alive


def _numbers(value: Any) -> np.ndarray | None:
    """As float32 (infinite where too large for that), or None where it is no array of numbers."""
    try:
        found = np.asarray(value)
    except ValueError:  # rows of different lengths
        return None
    with np.errstate(over="ignore"):
        return found.astype(np.float32) if found.dtype.kind in "fiub" else None


def _in_one_piece(
    shapes: Mapping[str, tuple[int, ...]],
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """A vector of zeros, and arrays of these shapes that share its memory, one after the other."""
    sizes = [math.prod(shape) for shape in shapes.values()]
    whole = np.zeros(sum(sizes), np.float32)
    parts = np.split(whole, np.cumsum(sizes)[:-1])
    arrays = {
        name: part.reshape(shape)
        for (name, shape), part in zip(shapes.items(), parts, strict=True)
    }
    return whole, arrays


def _output_violations(outputs: Mapping[str, np.ndarray]) -> Iterator[Violation]:
    mend = "do not use this policy here; see its model card for the range it knows"
    for name, value in outputs.items():
        if not np.isfinite(value).all():
            yield Violation(name, "finite numbers", f"{value.reshape(-1)}", mend)


def load_policy(name: str | Path, trusted_keys: Sequence[str | Path] = ()) -> OnnxPolicy:
    """Load a bundle for use: hashes, signature where keys are given, graph and golden replay.

    Args:
        name: a path or zoo:NAME.
        trusted_keys: ed25519 public keys (PEM); if any is given, a signature is demanded.

    Raises:
        ContractError: with every violation.
    """
    bundle = bundles.read(name, trusted_keys)
    policy = OnnxPolicy(bundle)
    require_replay(policy, bundle.golden)
    return policy


def require_replay(policy: OnnxPolicy, golden: Golden) -> float:
    """Replay a golden run; returns its largest absolute difference from the record.

    Raises ContractError where that leaves the contract's tolerance, or where the graph fails.
    """
    try:
        found, difference = policy.replay(golden)
    except ContractError:
        raise
    except Exception as error:  # ONNX Runtime's exceptions share no base class
        text = " ".join(str(error).split())[:200]
        failed = Violation("golden replay", "a graph that runs", text, _EXPORT)
        raise ContractError([failed]) from None
    tolerance = policy.contract.tolerance
    if difference <= tolerance:
        return difference
    errors = replay_errors(found, golden)
    first = {k: int(np.argmax(v > tolerance)) for k, v in errors.items() if v.max() > tolerance}
    name = min(first, key=lambda key: first[key])
    violation = Violation(
        "golden replay",
        f"the recorded run within {tolerance:g}",
        f"a largest difference of {difference:.3g}, first in {name} at step {first[name]}"
        + ("" if math.isfinite(difference) else " (not finite)"),
        "this machine or this graph computes something else: do not fly it; export it again",
    )
    raise ContractError([violation])


def replay_errors(found: Golden, golden: Golden) -> dict[str, np.ndarray]:
    """Largest absolute difference at each step [T] of the action and of each recurrent state.

    Infinite where a number is not finite: a comparison with NaN would let it pass.
    """
    pairs = {"action": (found.action, golden.action)}
    pairs |= {f"state {name}": (found.state[name], v) for name, v in golden.state.items()}
    errors = {}
    for name, (left, right) in pairs.items():
        error = np.abs(left - right).reshape(len(left), -1).max(axis=1)
        errors[name] = np.where(np.isfinite(error), error, np.inf)
    return errors


def open_graph(content: bytes, contract: Contract) -> ort.InferenceSession:
    """Open a graph on the CPU with one thread, and check it against its contract.

    Raises:
        ContractError: the graph cannot be loaded from its bytes alone, has weights that are not
            finite, belongs to another contract, or has other inputs and outputs.
    """
    _require_weights(content)
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    try:
        # Its fallback would load a broken graph twice, and print about it.
        session = ort.InferenceSession(
            content, options, providers=["CPUExecutionProvider"], enable_fallback=0
        )
    except Exception as error:  # ONNX Runtime's exceptions share no base class
        found = " ".join(str(error).split())[:200]
        mend = "export the policy again, with all weights inside the one file (no external data)"
        expected = "a graph that loads from its bytes alone"
        raise ContractError([Violation(GRAPH, expected, found, mend)]) from None
    try:
        violations = [
            *_metadata_violations(session, contract),
            *_port_violations(session, contract),
        ]
    except UnicodeDecodeError as error:
        violations = [Violation(GRAPH, "names and metadata in UTF-8", str(error), _EXPORT)]
    if violations:
        raise ContractError(violations)
    return session


def _require_weights(content: bytes) -> None:
    try:
        violations = list(weight_violations(GRAPH, content))
    except (ValueError, RecursionError) as error:
        found = f"{type(error).__name__}: {error}"
        violations = [Violation(GRAPH, "an ONNX model", found, _EXPORT)]
    if violations:
        raise ContractError(violations)


def _metadata_violations(session: ort.InferenceSession, contract: Contract) -> Iterator[Violation]:
    """Compare the contract that the graph carries with policy.json, key by key."""
    carried = session.get_modelmeta().custom_metadata_map.get(METADATA_KEY)
    if carried is None:
        expected = f"metadata {METADATA_KEY}"
        mend = "make a bundle of it with `robot-policies import onnx`"
        yield Violation(GRAPH, expected, "a graph without a contract", mend)
        return
    if carried == contract.to_json():
        return
    try:
        inside = parse_json(carried, f"{GRAPH} metadata")
    except ContractError as error:
        yield from error.violations
        return
    found = parse_json(contract.to_json(), "policy.json")
    mend = "policy.json and policy.onnx are not a pair: copy both from one export"
    for path, left, right in differences(inside, found):
        yield Violation(f"policy.json.{path}", f"{left} (as {GRAPH} says)", right, mend)


def _port_violations(session: ort.InferenceSession, contract: Contract) -> Iterator[Violation]:
    """Compare the graph's inputs and outputs with the contract: names, shapes, types."""
    inputs: dict[str, tuple[int, ...]] = {
        "observation": (contract.observation_steps, contract.observation_size)
    }
    inputs |= {state.name: state.shape for state in contract.state}
    inputs |= {noise.name: noise.shape for noise in contract.noise}
    outputs: dict[str, tuple[int, ...]] = {"action": (contract.chunk.steps, contract.action_size)}
    outputs |= {state.output: state.shape for state in contract.state}
    found = {port.name: port for port in session.get_outputs()}
    if contract.feature is not None and contract.feature not in outputs:
        port = found.get(contract.feature)
        width = port.shape[-1] if port is not None and isinstance(port.shape[-1], int) else 0
        outputs[contract.feature] = (width,)
    yield from _compare_ports("input", inputs, {p.name: p for p in session.get_inputs()})
    yield from _compare_ports("output", outputs, found)


def _compare_ports(
    kind: str, expected: Mapping[str, tuple[int, ...]], found: Mapping[str, Any]
) -> Iterator[Violation]:
    for name in sorted(expected.keys() | found.keys()):
        where = f"{GRAPH} {kind} {name}"
        if name not in found:
            yield Violation(where, f"[B, {_sizes(expected[name])}]", "nothing", _EXPORT)
        elif name not in expected:
            yield Violation(where, f"no such {kind}", f"{found[name].shape}", _EXPORT)
        elif tuple(found[name].shape[1:]) != expected[name] or found[name].type != "tensor(float)":
            shape = f"float [B, {_sizes(expected[name])}]"
            yield Violation(where, shape, f"{found[name].type} {found[name].shape}", _EXPORT)


def _sizes(shape: tuple[int, ...]) -> str:
    return ", ".join(map(str, shape))


def _batch_of(session: ort.InferenceSession) -> int | None:
    """The fixed batch of the graph's inputs, or None where it is dynamic."""
    fixed = {i.shape[0] for i in session.get_inputs() if i.shape and isinstance(i.shape[0], int)}
    return min(fixed) if fixed else None
