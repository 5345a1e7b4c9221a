"""Run a bundle: numpy and ONNX Runtime only, one thread, no allocation worth naming per step.

policy = load_policy("zoo:energy-pick-place")        # or a path
policy.reset(batch=1, seed=0)
command = policy.act(signals)                        # one step of a chunk at a time
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from robot_policies import bundle as bundles
from robot_policies.bundle import ENCODE, GRAPH, REFINE, Golden, PolicyBundle, graphs_of
from robot_policies.contract import OOD_SCORE
from robot_policies.refinement import Refiner
from robot_policies.sessions import batch_of, bind, noise_shapes, open_graph, open_pair, sizes_of
from robot_policies.signals import ActionMap, ObservationBuffer, maybe_not_finite
from robot_policies.strict import ContractError, Violation

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
    ood_score: np.ndarray | None
    """[B]: how far the feature is from those of the calibration; None without one."""
    inference_s: float
    """Seconds from named signals to named commands."""
    told: dict[str, np.ndarray]
    """Of a policy with an energy: "energy" and "gradient_norm" [B] of the sample that its last
    step began with, normalised; else empty."""
    iterations: np.ndarray | None
    """[B] steps that changed the robots' samples; None where nothing is refined."""


class OnnxPolicy:
    """A policy of either form: one graph, or two of which the second refines a sample.

    Observation [B, To, Do], recurrent state and noise go in; the action [B, Ta, Da] and the new
    state come out. Buffers are bound once per reset, so a step allocates only its result.
    """

    def __init__(self, bundle: PolicyBundle, sampler: str | None = None) -> None:
        """Open the graphs.

        Args:
            bundle: as `robot_policies.bundle.read` gave it.
            sampler: of the contract's samplers; its first for None.

        Raises:
            ContractError: the graphs are not those that the contract describes, or there is no
                such sampler.
        """
        self.contract = contract = bundle.contract
        _require_graphs(bundle)
        self.sampler = (
            None if contract.refinement is None else contract.refinement.sampler(sampler)
        )
        """The way to a chunk; None where one graph gives it at once."""
        if contract.refinement is None or self.sampler is None:
            if sampler is not None:
                raise ContractError([_no_sampler(sampler)])
            self._sessions = (open_graph(bundle.content[GRAPH], contract),)
            self._refiner = None
        else:
            content = bundle.content
            self._sessions = open_pair(content[ENCODE], content[REFINE], contract)
            self._refiner = Refiner(*self._sessions, contract.refinement, self.sampler)
        self.static_batch = batch_of(self._sessions)
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
        self._chunk, self._played = {}, self.contract.chunk.steps

    def act(self, signals: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Advance one control period by the next step of the chunk, a new one after Ta steps.

        Takes signals and raises as `step`; returns commands by name, [B, *shape].
        """
        if self._played < self.contract.chunk.steps:
            if not self._sound:
                raise ContractError([_UNSOUND])
            self._observation.push(signals)  # the next chunk sees what happened meanwhile
        else:
            self._chunk, self._played = self.step(signals), 0
        self._played += 1
        return {name: command[:, self._played - 1] for name, command in self._chunk.items()}

    @property
    def acted(self) -> np.ndarray:
        """[B, Da]: the raw action that the newest `act` played."""
        return self._raw[:, self._played - 1].copy()

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
        self._run()
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
        refiner = self._refiner
        told = {} if refiner is None else {n: value.copy() for n, value in refiner.told.items()}
        iterations = None if refiner is None else refiner.iterations.copy()
        score = None if self._score is None else self._score.copy()
        return LastStep(self._raw.copy(), feature, score, self._inference_s, told, iterations)

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
            self._run()
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
        self._score = None
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
        for name, shape in noise_shapes(contract, self.sampler).items():
            self._noise[name] = np.zeros((batch, *shape), np.float32)
        if contract.feature is not None:
            if contract.feature not in outputs:
                size = sizes_of(self._sessions[0])[contract.feature]
                outputs[contract.feature] = np.zeros((batch, *size), np.float32)
            self._feature = outputs[contract.feature]
        if contract.calibration is not None:
            self._score = outputs[OOD_SCORE] = np.zeros(batch, np.float32)
        inputs = {"observation": self._observation.vector, **self._state, **self._noise}
        if self._refiner is None:
            session = self._sessions[0]
            self._run = partial(session.run_with_iobinding, bind(session, inputs, outputs))
        else:
            self._run = self._refiner.bind(inputs, outputs)
        self._outputs = outputs  # the sessions write into them: keep them alive


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


def _require_graphs(bundle: PolicyBundle) -> None:
    missing = [
        Violation(name, "a graph of the contract's form", "no such file", _EXPORT)
        for name in graphs_of(bundle.contract)
        if name not in bundle.content
    ]
    if missing:
        raise ContractError(missing)


def _no_sampler(name: str) -> Violation:
    mend = "leave it out, or take a policy that refines samples"
    return Violation("sampler", "none: one graph gives the action at once", name, mend)


def split_sampler(name: str) -> tuple[str, str | None]:
    """NAME@SAMPLER, as commands take it, as (NAME, SAMPLER); a directory of that name is one."""
    if Path(name).is_dir() or "@" not in name:
        return name, None
    bundle, _, sampler = name.rpartition("@")
    return bundle, sampler


def load_policy(
    name: str | Path, trusted_keys: Sequence[str | Path] = (), sampler: str | None = None
) -> OnnxPolicy:
    """Load a bundle for use: hashes, signature where keys are given, graph and golden replay.

    Args:
        name: a path or zoo:NAME.
        trusted_keys: ed25519 public keys (PEM); if any is given, a signature is demanded.
        sampler: of the contract's samplers; its first, which made the golden run, for None.

    Raises:
        ContractError: with every violation.
    """
    bundle = bundles.read(name, trusted_keys)
    policy = OnnxPolicy(bundle)
    require_replay(policy, bundle.golden)
    return policy if sampler is None else OnnxPolicy(bundle, sampler)


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
