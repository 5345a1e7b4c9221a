"""Named signals in, the observation vector out; the raw action in, named commands out.

Signals travel by NAME: a missing, extra or wrongly shaped one is refused, so that no order of
joints or topics can be mistaken for another.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from robot_policies.contract import Contract
from robot_policies.strict import ContractError, Violation


class ObservationBuffer:
    """Assembles the observation [B, To, Do] of one or more robots, in place and without copies.

    The steps are: check names, shapes and finiteness; limit each signal to its `clip` range;
    push it into the history. On the first step after a reset the history is filled with it.
    A refused step changes nothing.
    """

    def __init__(self, contract: Contract, batch: int, previous_action: np.ndarray) -> None:
        """Allocate for `batch` robots; `previous_action` [B, Da] is read where it stands."""
        steps, size = contract.observation_steps, contract.observation_size
        self.vector = np.zeros((batch, steps, size), np.float32)
        """[B, To, Do], what the graph reads; the newest step is the last."""
        self.previous_action = previous_action
        self._history = steps
        self._fresh = True
        # Without a history the newest step is the whole vector: assemble it in place.
        self._step = self.vector[:, 0] if steps == 1 else np.zeros((batch, size), np.float32)
        self._flat = self._step.reshape(-1)
        self._lower, self._upper = _clip_limits(contract, batch)
        self._has_clip = bool(np.isfinite(self._lower).any())
        self._parts = [
            (signal.name, (batch, *signal.shape), len(signal.shape) == 1)
            if signal.source == "robot"
            else None
            for signal in contract.observation
        ]
        self._shapes = {part[0]: part[1] for part in self._parts if part is not None}

    def reset(self, previous_action: np.ndarray | None = None) -> None:
        """Forget the history; `previous_action` [B, Da] is raw, and zero where none is given."""
        self._fresh = True
        self.previous_action[...] = 0.0 if previous_action is None else previous_action

    def push(self, signals: Mapping[str, np.ndarray]) -> np.ndarray:
        """Take one step of named signals [B, *shape] and return the observation [B, To, Do].

        Raises:
            ContractError: a name is missing or unknown, a shape is wrong, a value is no number
                or not finite.
        """
        try:
            names = signals.keys()
        except AttributeError:
            raise ContractError([_no_mapping(signals)]) from None
        if names != self._shapes.keys():
            raise ContractError(_name_violations(self._shapes, signals))
        values = self._in_order(signals)
        try:
            np.concatenate(values, axis=1, out=self._step)
        except TypeError:  # numpy refuses what is no real number
            raise ContractError(_type_violations(signals)) from None
        if maybe_not_finite(self._flat) and (violations := _finite_violations(signals)):
            raise ContractError(violations)
        if self._has_clip:
            np.maximum(self._step, self._lower, out=self._step)
            np.minimum(self._step, self._upper, out=self._step)
        if self._history > 1:
            self._remember()
        return self.vector

    def _in_order(self, signals: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        """The signals' values [B, n] in the contract's order."""
        values = []
        for part in self._parts:
            if part is None:
                values.append(self.previous_action)
                continue
            name, shape, is_flat = part
            value = signals[name]
            if not isinstance(value, np.ndarray) or value.shape != shape:
                raise ContractError([_shape_violation(name, shape, value)])
            values.append(value if is_flat else value.reshape(shape[0], -1))
        return values

    def _remember(self) -> None:
        if self._fresh:
            self.vector[...] = self._step[:, None]
            self._fresh = False
        else:
            self.vector[:, :-1] = self.vector[:, 1:]
            self.vector[:, -1] = self._step


class ActionMap:
    """Turns the graph's raw action [B, Ta, Da] into named commands within their limits."""

    def __init__(self, contract: Contract, batch: int) -> None:
        def joined(field: str) -> np.ndarray:
            values = [value for signal in contract.action for value in getattr(signal, field)]
            # Whole arrays: at this size numpy takes twice as long to broadcast.
            return np.tile(np.asarray(values, np.float32), (batch, contract.chunk.steps, 1))

        self._scale, self._offset = joined("scale"), joined("offset")
        self._lower, self._upper = joined("lower"), joined("upper")
        self._names: list[tuple[str, int, int, tuple[int, ...]]] = []
        start = 0
        for signal in contract.action:
            stop = start + len(signal.elements)
            self._names.append((signal.name, start, stop, signal.shape))
            start = stop

    def __call__(self, raw: np.ndarray) -> dict[str, np.ndarray]:
        """Scale, offset and limit `raw` [B, Ta, Da]; returns new arrays [B, Ta, *shape]."""
        command = raw * self._scale
        np.add(command, self._offset, out=command)
        np.maximum(command, self._lower, out=command)
        np.minimum(command, self._upper, out=command)
        if len(self._names) == 1 and len(self._names[0][3]) == 1:
            return {self._names[0][0]: command}
        lead = command.shape[:2]
        return {
            name: command[..., start:stop].reshape(*lead, *shape)
            for name, start, stop, shape in self._names
        }


def maybe_not_finite(flat: np.ndarray) -> bool:
    """Whether a vector may hold a number that is not finite; False is certain, and quick.

    One dot product instead of two passes; it also says True where a square overflows.
    """
    return not math.isfinite(flat.dot(flat))


def _clip_limits(contract: Contract, batch: int) -> tuple[np.ndarray, np.ndarray]:
    """[B, Do] lower and upper limits, infinite where a signal has none."""
    none = (-np.inf, np.inf)
    limits = [s.clip or none for s in contract.observation for _ in s.elements]
    lower, upper = np.asarray(limits, np.float32).T
    return np.tile(lower, (batch, 1)), np.tile(upper, (batch, 1))


def _name_violations(
    expected: Mapping[str, object], found: Mapping[str, object]
) -> list[Violation]:
    missing = [
        Violation(f"signal {name}", "a value", "nothing", "give every signal of the contract")
        for name in expected.keys() - found.keys()
    ]
    wanted = "one of " + ", ".join(expected)
    extra = [
        Violation(f"signal {name}", wanted, "an unknown name", "remove or rename it")
        for name in found.keys() - expected.keys()
    ]
    return sorted(missing + extra, key=lambda violation: violation.where)


def _shape_violation(name: str, expected: tuple[int, ...], value: object) -> Violation:
    mend = "give [B, *shape], with the batch of the last reset"
    found = f"{list(value.shape)}" if isinstance(value, np.ndarray) else type(value).__name__
    return Violation(f"signal {name}", f"an array {list(expected)}", found, mend)


def _no_mapping(signals: object) -> Violation:
    mend = "give a dictionary: name -> array"
    return Violation("signals", "values by name", type(signals).__name__, mend)


def _type_violations(signals: Mapping[str, np.ndarray]) -> list[Violation]:
    mend = "convert it to float32"
    return [
        Violation(f"signal {name}", "real numbers", f"an array of {value.dtype}", mend)
        for name, value in signals.items()
        if value.dtype.kind not in "fiub"
    ]


def _finite_violations(signals: Mapping[str, np.ndarray]) -> list[Violation]:
    mend = "find the sensor or the estimator that made it; the step was not taken"
    return [
        Violation(f"signal {name}", "finite numbers", f"{np.ravel(value)}", mend)
        for name, value in signals.items()
        if not (np.abs(value) <= np.finfo(np.float32).max).all()
    ]
