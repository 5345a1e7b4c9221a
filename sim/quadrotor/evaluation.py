"""The RAPTOR evaluation protocol for any policy: hold or follow a target from a disturbed start.

Source: arXiv 2509.11481 and its public configuration (reward 1.5 - |p| - 0.1 yaw - |delta a|,
-100 on termination; 500 steps of 10 ms).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from sim.estimate import Estimate
from sim.quadrotor.airframes import Airframes
from sim.quadrotor.disturbances import UNDISTURBED, Disturbances, World
from sim.quadrotor.dynamics import PROTOCOL_DT, Parts, State, Step, check_dt, check_finite, step
from sim.quadrotor.scenario import Scenario
from sim.quadrotor.trajectories import Reference

EPISODE_STEPS = 500
FINAL_STEPS = 100
"""The last second, over which the final distance is averaged."""
SETTLING_STEPS = 100
"""The first second, which the tracking error leaves out."""
TERMINATION_REWARD = -100.0


class Policy(Protocol):
    """What the protocol flies; robot_policies.OnnxPolicy is one."""

    @property
    def last(self) -> Any:
        """Its raw_action [B, 1, 4] is the network's output before scale, offset and limits."""
        ...

    def reset(self, batch: int, seed: int, initial: Mapping[str, np.ndarray]) -> None:
        """Begin `batch` episodes; initial["previous_action"] is raw, [B, 4]."""
        ...

    def step(self, signals: Mapping[str, np.ndarray]) -> Mapping[str, np.ndarray]:
        """Signals of `observe` in, {"motors": [B, 1, 4]} out, normalised rotor speed 0 to 1."""
        ...


Watch = Callable[[State, State, Tensor], None]
"""Told the true state, its error and who still flies [N], at first and after every step."""


@dataclass(frozen=True)
class Limits:
    """What ends an episode, per axis; infinity switches a limit off."""

    position_arms: float = 20.0
    """Distance from the target in arm lengths."""
    linear_velocity: float = 2.0
    """m/s from the target's velocity, world."""
    angular_velocity: float = 35.0
    """rad/s, body."""


PROTOCOL_LIMITS = Limits()


@dataclass(frozen=True)
class Result:
    """What happened, one row of arrays per quadrotor and one column per episode."""

    total_reward: np.ndarray
    """[quadrotors, episodes] sum of rewards."""
    survived: np.ndarray
    """[quadrotors, episodes] bool."""
    final_distance: np.ndarray
    """[quadrotors, episodes] m, mean over the last second; infinite where not survived."""
    tracking_error: np.ndarray
    """[quadrotors, episodes] m, root mean square of the distance from the target after the first
    second; infinite where not survived."""

    def summary(self, resamples: int = 2000, seed: int = 0) -> dict[str, Estimate]:
        """The protocol's figures; shares and survival as fractions of all episodes.

        Intervals come from a percentile bootstrap that redraws whole quadrotors, since the
        episodes of one quadrotor are not independent.
        """
        rows = _redrawn(len(self.survived), resamples, seed)
        return {
            name: _estimate(figure(values), _redo(figure, values, rows))
            for name, (figure, values) in self._figures().items()
        }

    def minus(self, other: Result, resamples: int = 2000, seed: int = 0) -> dict[str, Estimate]:
        """The figures' differences from those of `other`, paired: the same quadrotors redrawn.

        Not a number where both are infinite. Raises ValueError for other numbers of flights.
        """
        if self.survived.shape != other.survived.shape:
            raise ValueError(
                f"minus: expected results of the same flights, {list(self.survived.shape)}; "
                f"found {list(other.survived.shape)}"
            )
        rows, theirs = _redrawn(len(self.survived), resamples, seed), other._figures()
        estimates = {}
        for name, (figure, left) in self._figures().items():
            right = theirs[name][1]
            with np.errstate(invalid="ignore"):  # infinite less infinite
                redone = _redo(figure, left, rows) - _redo(figure, right, rows)
                estimates[name] = _estimate(figure(left) - figure(right), redone)
        return estimates

    def _figures(self) -> dict[str, tuple[Callable[..., np.ndarray], np.ndarray]]:
        """Name -> statistic, and the values [quadrotors, episodes] that it is taken of."""
        return {
            "return": (np.mean, self.total_reward),
            "survival": (np.mean, self.survived),
            "median final distance": (np.median, self.final_distance),
            "share below 0.1 m": (np.mean, self.final_distance < 0.1),
            "share below 0.2 m": (np.mean, self.final_distance < 0.2),
            "median tracking error": (np.median, self.tracking_error),
        }


def observe(state: State) -> dict[str, np.ndarray]:
    """The signals of a policy whose target is the state's origin at rest, float32 [N, D].

    For any other target give the error, see `error_of`.
    position_error 3 (m, world), rotation_matrix 9 (row-major, body to world),
    linear_velocity_error 3 (m/s, world), angular_velocity 3 (rad/s, body).
    """
    signals = {
        "position_error": state.position,
        "rotation_matrix": state.rotation_matrix,
        "linear_velocity_error": state.linear_velocity,
        "angular_velocity": state.angular_velocity,
    }
    return {name: value.T.contiguous().float().numpy() for name, value in signals.items()}


def error_of(state: State, reference: Reference | None, index: int) -> State:
    """The state with position and linear velocity counted from row `index` of the reference."""
    if reference is None:
        return state
    return State.of(
        state.position - reference.position[index],
        state.quaternion_xyzw,
        state.linear_velocity - reference.velocity[index],
        state.angular_velocity,
        state.rotor_speed,
    )


def terminated(state: State, airframes: Airframes, limits: Limits) -> Tensor:
    """[N] bool: which quadrotors are beyond a limit on any axis (or no longer finite).

    `state` is the error where the target moves. L2F compares the state itself, also then, so that
    a trajectory beyond 20 arm lengths ends the flight of whoever follows it.
    """
    within = (
        (state.position.abs() <= limits.position_arms * airframes.arm_length).all(dim=0)
        & (state.linear_velocity.abs() <= limits.linear_velocity).all(dim=0)
        & (state.angular_velocity.abs() <= limits.angular_velocity).all(dim=0)
    )
    return ~within


def reward(state: State | Parts, raw_action: Tensor, previous_raw_action: Tensor) -> Tensor:
    """[N] reward of a step that does not terminate: error before it, raw actions [4, N]."""
    distance = state.position.norm(dim=0)
    yaw = 2 * torch.acos(1 - state.quaternion_xyzw[2].abs())
    return 1.5 - distance - 0.1 * yaw - (raw_action - previous_raw_action).norm(dim=0)


@torch.no_grad()
def evaluate(
    policy: Policy,
    scenario: Scenario,
    *,
    seed: int = 0,
    limits: Limits = PROTOCOL_LIMITS,
    steps: int = EPISODE_STEPS,
    advance: Step = step,
    reference: Reference | None = None,
    disturbances: Disturbances = UNDISTURBED,
    disturbance_seed: int = 0,
    watch: Watch | None = None,
) -> Result:
    """Fly every episode of the scenario at once with `policy`, `steps` steps of 10 ms.

    A terminated quadrotor stays where it ended. As in L2F, the change of action in the first
    reward is counted from zero, while the policy's own previous action starts at the raw value of
    the initial rotor speed. Reward, limits and distances count from the reference (None: the
    origin), by the true state. `seed` goes to the policy. `advance` may be
    dynamics.compile_step().

    Raises ValueError for fewer steps than two seconds, a reference that does not fit, a policy
    that returns another shape than [N, 1, 4], or a non-finite action.
    """
    if steps < (least := SETTLING_STEPS + FINAL_STEPS):
        raise ValueError(f"steps: expected at least {least} (two seconds), found {steps}")
    if reference is not None:
        reference.require(steps, scenario.airframes.count)
    check_dt(scenario.airframes, PROTOCOL_DT)
    state, world = scenario.state, World(disturbances, scenario, disturbance_seed)
    initial = (2 * state.rotor_speed - 1).T.contiguous().float().numpy()
    policy.reset(batch=state.count, seed=seed, initial={"previous_action": initial})
    score, previous = _Score(state.count, steps), torch.zeros_like(state.rotor_speed)
    error = error_of(state, reference, 0)
    if watch is not None:
        watch(state, error, torch.ones(state.count, dtype=torch.bool))
    for index in range(steps):
        action, raw = _act(policy, world.measure(error))
        check_finite(error, action)
        reached, airframes, force = world.step(action)
        following = advance(state, reached, airframes, force, PROTOCOL_DT)
        following_error = error_of(following, reference, index + 1)
        ended = terminated(following_error, airframes, limits)
        gain = torch.where(ended, TERMINATION_REWARD, reward(error, raw, previous))
        alive = score.add(gain, ended, following_error)
        state = State(torch.where(alive, following.data, state.data))
        error, previous = error_of(state, reference, index + 1), raw
        if watch is not None:
            watch(state, error, alive)
    return score.result(scenario.episodes)


class _Score:
    """Adds up what N flights earn, until they end."""

    def __init__(self, count: int, steps: int) -> None:
        self._alive = torch.ones(count, dtype=torch.bool)
        self._total, self._final, self._square = torch.zeros(3, count, dtype=torch.float64)
        self._index, self._steps = 0, steps

    def add(self, gain: Tensor, ended: Tensor, error: State) -> Tensor:
        """Take one step's reward [N], ends [N] and error after it; [N] bool: who flies on."""
        self._total += torch.where(self._alive, gain, 0.0)
        self._alive = self._alive & ~ended
        distance = error.position.norm(dim=0)
        if self._index >= self._steps - FINAL_STEPS:
            self._final += distance / FINAL_STEPS
        if self._index >= SETTLING_STEPS:
            self._square += distance**2 / (self._steps - SETTLING_STEPS)
        self._index += 1
        return self._alive

    def result(self, episodes: int) -> Result:
        parts = (self._total, self._alive, self._final, self._square.sqrt())
        return result_of(*(part.numpy() for part in parts), episodes=episodes)


def result_of(
    total_reward: np.ndarray,
    survived: np.ndarray,
    final_distance: np.ndarray,
    tracking_error: np.ndarray,
    episodes: int,
) -> Result:
    """A Result from flat arrays [N], airframe-major; distances of the lost become infinite."""
    distances = (np.where(survived, v, np.inf) for v in (final_distance, tracking_error))
    return Result(*(v.reshape(-1, episodes) for v in (total_reward, survived, *distances)))


def pool(results: Sequence[Result], *, same_quadrotors: bool) -> Result:
    """Several results as one; the episodes of the same quadrotors come side by side."""
    names = [field.name for field in fields(Result)]
    axis = 1 if same_quadrotors else 0
    return Result(*(np.concatenate([getattr(r, n) for r in results], axis) for n in names))


def _act(policy: Policy, state: State) -> tuple[Tensor, Tensor]:
    """The policy's motor command and raw action, both [4, N]."""
    motors = policy.step(observe(state))["motors"]
    raw = policy.last.raw_action
    expected = (state.count, 1, state.rotor_speed.shape[0])
    for name, value in (("motors", motors), ("raw_action", raw)):
        if np.shape(value) != expected:
            raise ValueError(
                f"policy: expected {name} of shape {list(expected)}, found {list(np.shape(value))}"
            )
    dtype = state.data.dtype
    return torch.tensor(motors[:, 0].T, dtype=dtype), torch.tensor(raw[:, 0].T, dtype=dtype)


def _redrawn(quadrotors: int, resamples: int, seed: int) -> np.ndarray:
    """[resamples, quadrotors] indices of quadrotors, drawn with replacement."""
    return np.random.default_rng(seed).integers(quadrotors, size=(resamples, quadrotors))


def _redo(figure: Callable[..., np.ndarray], values: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """[resamples] the figure of redrawn quadrotors; in parts, to keep memory small."""
    parts = np.array_split(rows, max(1, rows.size * values.shape[1] // 2_000_000))
    return np.concatenate([figure(values[part], axis=(1, 2)) for part in parts])


def _estimate(value: np.ndarray, redrawn: np.ndarray) -> Estimate:
    """A value with the percentile interval of its redraws."""
    low, high = np.percentile(redrawn, [2.5, 97.5], method="nearest")  # infinities do not mix
    return Estimate(float(value), float(low), float(high))
