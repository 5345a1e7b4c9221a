"""What lies between a policy and its robot: noise, bias and latency one way, delay the other.

Then, on purpose, commands that are none of the policy's.

    observation = ObservationChannel({"joint_position": 7}, count=1024, seed=0, longest=2)
    action = ActionChannel(actuators, count=1024, longest=2)
    random = RandomActions(actuators, lower, upper, count=1024, seed=0)
    randomization = Randomization(spec, 0, 1024, models=[engine, observation, action, random])

Tasks apply these, so that they act alike in every engine; `randomization` sets them, like an
engine, by the protocol `Parameters`. `longest` is spec.longest("observation_latency"), and of
"actuator_delay". White noise comes from the counter-based generator, too: it depends on seed,
environment, episode, signal and step alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numba
import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special

from sim.draws import FloatArray, Streams
from sim.randomization import IdArray
from sim.randomization_terms import RANDOM_ACTION


class DelayLine:
    """Gives [N, W] numbers back, each after its own number of steps (a ring buffer)."""

    def __init__(self, count: int, width: int, longest: int) -> None:
        """No delay yet, and zeros before the first step. `longest` is the most steps."""
        self._past = np.zeros((longest + 1, count, width))
        self._newest = np.zeros(count, np.intp)
        self._delay = np.zeros((count, width), np.intp)

    @property
    def longest(self) -> int:
        """Steps."""
        return len(self._past) - 1

    def set_delay(self, ids: IdArray, columns: Sequence[int], steps: FloatArray) -> None:
        """Delay K columns of environments `ids` [M] by `steps` [M, K], or [M, 1] for all alike.

        Raises ValueError for what is not whole, below zero or above `longest`.
        """
        if not ((steps >= 0) & (steps <= self.longest) & (steps == np.round(steps))).all():
            expected = f"whole numbers of steps from 0 to {self.longest}"
            raise ValueError(f"delay: expected {expected}; found {np.unique(steps).tolist()[:8]}")
        self._delay[ids[:, None], columns] = steps

    def reset(self, ids: IdArray, value: FloatArray) -> None:
        """Let all earlier values of `ids` [M] have been `value` [M, W]."""
        self._past[:, ids] = value

    def step(self, ids: IdArray, value: FloatArray) -> FloatArray:
        """Take the newest values [M, W] of `ids` [M]; return those that arrive now [M, W]."""
        arrived = np.empty_like(value)
        _turn(self._past, self._newest, self._delay, ids, value, arrived)
        return arrived


@numba.njit(cache=True)
def _turn(
    past: FloatArray, newest: NDArray[np.intp], delay: NDArray[np.intp], ids: IdArray,
    value: FloatArray, arrived: FloatArray,
) -> None:  # fmt: skip
    slots, _, width = past.shape
    for m, n in enumerate(ids):
        newest[n] = (newest[n] + 1) % slots
        past[newest[n], n] = value[m]
        for k in range(width):
            arrived[m, k] = past[(newest[n] - delay[n, k]) % slots, n, k]


class ActionChannel:
    """Delays the commands of K actuators in N environments (see DelayLine)."""

    capabilities = frozenset({"actuator_delay"})

    def __init__(self, actuators: Sequence[str], count: int, longest: int) -> None:
        """No delay yet."""
        self._actuators = tuple(actuators)
        self._line = DelayLine(count, len(self._actuators), longest)

    def reset(self, ids: IdArray, command: FloatArray) -> None:
        """Begin an episode; until the first command arrives, `command` [M, K] acts."""
        self._line.reset(ids, command)

    def step(self, ids: IdArray, command: FloatArray) -> FloatArray:
        """The policy's commands [M, K] to environments `ids` [M] -> those that act now."""
        return self._line.step(ids, command)

    def names(self, kind: str) -> tuple[str, ...]:
        """See Parameters."""
        return self._actuators if kind == "actuators" else ()

    def nominal(self, parameter: str, names: Sequence[str]) -> FloatArray:
        """See Parameters: no delay, [K]."""
        return np.zeros(len(names))

    def set(self, parameter: str, names: Sequence[str], ids: IdArray, values: FloatArray) -> None:
        """See Parameters."""
        self._line.set_delay(ids, [self._actuators.index(name) for name in names], values)


class RandomActions:
    """Lets random commands act in the place of what arrives at K actuators in N environments.

    They are drawn anew in each step, uniformly between two limits, which a task has from raw
    actions of -1 and 1: the ranges of an arm's servos themselves would be blows.
    """

    capabilities = frozenset({RANDOM_ACTION})

    def __init__(
        self, actuators: Sequence[str], lower: FloatArray, upper: FloatArray, count: int, seed: int
    ) -> None:
        """Limits [K] in the commands' units; nothing random until something is set."""
        self._actuators = tuple(actuators)
        self._lower, self._upper = lower, upper
        self._streams = Streams(seed, {_RANDOM: len(self._actuators)})
        self._left = np.zeros((count, len(self._actuators)), np.int64)
        self._episode, self._step = np.zeros((2, count), np.int64)
        self.acted = np.zeros(count, bool)
        """[N] whether a random command acted in the last step."""

    def reset(self, ids: IdArray, episodes: ArrayLike) -> None:
        """Begin the episodes [M] of environments `ids` [M]; `acted` stays, as of the step past."""
        self._episode[ids], self._step[ids], self._left[ids] = episodes, 0, 0

    def step(self, ids: IdArray, command: FloatArray) -> FloatArray:
        """The commands [M, K] that arrive in environments `ids` [M] -> those that act now."""
        replaced = self._left[ids] > 0
        self.acted[ids] = replaced.any(axis=1)
        step = self._step[ids]
        self._step[ids] += 1
        if not replaced.any():
            return command
        self._left[ids] -= replaced
        u = self._streams.uniform(ids, self._episode[ids], step)[_RANDOM]
        return np.where(replaced, self._lower + (self._upper - self._lower) * u, command)

    def names(self, kind: str) -> tuple[str, ...]:
        """See Parameters."""
        return self._actuators if kind == "actuators" else ()

    def nominal(self, parameter: str, names: Sequence[str]) -> FloatArray:
        """See Parameters: for no step, [K]."""
        return np.zeros(len(names))

    def set(self, parameter: str, names: Sequence[str], ids: IdArray, values: FloatArray) -> None:
        """See Parameters: for how many steps from now on."""
        self._left[ids[:, None], [self._actuators.index(name) for name in names]] = values


_RANDOM = "action/random"  # no term's: their names have no /


class ObservationChannel:
    """Measures named signals [N, W] with bias and white noise, and gives them back with latency.

    Until the first measurement arrives, the one at the reset is given.
    """

    capabilities = frozenset({"observation_noise", "observation_bias", "observation_latency"})

    def __init__(self, widths: Mapping[str, int], count: int, seed: int, longest: int) -> None:
        """Signals by name and width W; exact until something is set."""
        self._widths = dict(widths)
        ends = np.cumsum([0, *widths.values()]).tolist()
        self._columns = dict(zip(widths, map(slice, ends[:-1], ends[1:]), strict=True))
        self._bias, self._noise = np.zeros((2, count, ends[-1]))
        self._line = DelayLine(count, ends[-1], longest)
        self._seed = seed
        self._noisy: list[str] = []
        self._streams = Streams(seed, {})
        self._episode, self._step = np.zeros((2, count), np.int64)

    def reset(self, ids: IdArray, episodes: ArrayLike) -> None:
        """Begin the episodes [M] of environments `ids` [M]."""
        self._episode[ids], self._step[ids] = episodes, 0

    def measure(self, ids: IdArray, signals: Mapping[str, FloatArray]) -> dict[str, FloatArray]:
        """True signals name -> [M, W] of environments `ids` [M] -> what the policy is told.

        To be asked once a control step, and once after a reset. Raises ValueError for other
        signals than those of the start.
        """
        found = {name: value.shape for name, value in signals.items()}
        expected = {name: (len(ids), width) for name, width in self._widths.items()}
        if found != expected:
            raise ValueError(f"measure: expected the signals {expected}; found {found}")
        value = np.concatenate([signals[name] for name in self._widths], axis=1, dtype=float)
        value += self._bias[ids]
        uniform = self._streams.uniform(ids, self._episode[ids], self._step[ids])
        for name, u in zip(self._noisy, uniform.values(), strict=True):
            columns = self._columns[name]
            value[:, columns] += self._noise[ids, columns] * special.ndtri(u)
        first = self._step[ids] == 0
        self._line.reset(ids[first], value[first])
        self._step[ids] += 1
        told = self._line.step(ids, value)
        return {name: told[:, columns] for name, columns in self._columns.items()}

    def names(self, kind: str) -> tuple[str, ...]:
        """See Parameters."""
        return tuple(self._widths) if kind == "signals" else ()

    def nominal(self, parameter: str, names: Sequence[str]) -> FloatArray:
        """See Parameters: exact; [K], and [K, W] of the bias of signals of one width."""
        if parameter == "observation_bias":
            return np.stack([np.zeros(self._widths[name]) for name in names])
        return np.zeros(len(names))

    def set(self, parameter: str, names: Sequence[str], ids: IdArray, values: FloatArray) -> None:
        """See Parameters."""
        for k, name in enumerate(names):
            columns, value = self._columns[name], values[:, k].reshape(len(ids), -1)
            if parameter == "observation_latency":
                self._line.set_delay(ids, range(columns.start, columns.stop), value)
            elif parameter == "observation_bias":
                self._bias[ids, columns] = value
            else:
                self._noise[ids, columns] = value
                self._hear(name)

    def _hear(self, name: str) -> None:
        """Let a signal have noise, from a stream of its own."""
        if name not in self._noisy:
            self._noisy.append(name)
            widths = {f"{name}/noise": self._widths[name] for name in self._noisy}
            self._streams = Streams(self._seed, widths)  # no term's: their names have no /
