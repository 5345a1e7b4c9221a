"""The RAPTOR evaluation protocol for any policy: hold the target from a disturbed start.

Source: arXiv 2509.11481 and its public configuration (reward 1.5 - |p| - 0.1 yaw - |delta a|,
-100 on termination; 500 steps of 10 ms).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from sim.quadrotor.airframes import Airframes
from sim.quadrotor.dynamics import PROTOCOL_DT, State, Step, check_dt, check_finite, step
from sim.quadrotor.scenario import Scenario

EPISODE_STEPS = 500
FINAL_STEPS = 100
"""The last second, over which the final distance is averaged."""
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


@dataclass(frozen=True)
class Limits:
    """What ends an episode, per axis; infinity switches a limit off."""

    position_arms: float = 20.0
    """Distance from the target in arm lengths."""
    linear_velocity: float = 2.0
    """m/s, world."""
    angular_velocity: float = 35.0
    """rad/s, body."""


@dataclass(frozen=True)
class Estimate:
    """A figure with its 95 % interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        """Value and interval with three significant digits."""
        return f"{self.value:.4g} [{self.low:.4g}, {self.high:.4g}]"


@dataclass(frozen=True)
class Result:
    """What happened, one row of arrays per quadrotor and one column per episode."""

    total_reward: np.ndarray
    """[quadrotors, episodes] sum of rewards."""
    survived: np.ndarray
    """[quadrotors, episodes] bool."""
    final_distance: np.ndarray
    """[quadrotors, episodes] m, mean over the last second; infinite where not survived."""

    def summary(self, resamples: int = 2000, seed: int = 0) -> dict[str, Estimate]:
        """The protocol's five figures; shares and survival as fractions of all episodes.

        Intervals come from a percentile bootstrap that redraws whole quadrotors, since the
        episodes of one quadrotor are not independent.
        """

        def estimate(figure: Callable[..., np.ndarray], values: np.ndarray) -> Estimate:
            return _clustered_bootstrap(figure, values, resamples, seed)

        return {
            "return": estimate(np.mean, self.total_reward),
            "survival": estimate(np.mean, self.survived),
            "median final distance": estimate(np.median, self.final_distance),
            "share below 0.1 m": estimate(np.mean, self.final_distance < 0.1),
            "share below 0.2 m": estimate(np.mean, self.final_distance < 0.2),
        }


def observe(state: State) -> dict[str, np.ndarray]:
    """The signals of a policy whose target is the world's origin at rest, float32 [N, D].

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


def terminated(state: State, airframes: Airframes, limits: Limits) -> Tensor:
    """[N] bool: which quadrotors are beyond a limit on any axis (or no longer finite)."""
    within = (
        (state.position.abs() <= limits.position_arms * airframes.arm_length).all(dim=0)
        & (state.linear_velocity.abs() <= limits.linear_velocity).all(dim=0)
        & (state.angular_velocity.abs() <= limits.angular_velocity).all(dim=0)
    )
    return ~within


def reward(state: State, raw_action: Tensor, previous_raw_action: Tensor) -> Tensor:
    """[N] reward of a step that does not terminate: state before it, raw actions [4, N]."""
    distance = state.position.norm(dim=0)
    yaw = 2 * torch.acos(1 - state.quaternion_xyzw[2].abs())
    return 1.5 - distance - 0.1 * yaw - (raw_action - previous_raw_action).norm(dim=0)


@torch.no_grad()
def evaluate(
    policy: Policy,
    scenario: Scenario,
    *,
    seed: int = 0,
    limits: Limits = Limits(),
    steps: int = EPISODE_STEPS,
    advance: Step = step,
) -> Result:
    """Fly every episode of the scenario at once with `policy`, `steps` steps of 10 ms.

    A terminated quadrotor stays where it ended. As in L2F, the change of action in the first
    reward is counted from zero, while the policy's own previous action starts at the raw value of
    the initial rotor speed. `seed` goes to the policy; `advance` may be dynamics.compile_step().

    Raises ValueError for fewer steps than the last second, a policy that returns another shape
    than [N, 1, 4], or a non-finite action.
    """
    if steps < FINAL_STEPS:
        raise ValueError(f"steps: expected at least {FINAL_STEPS} (one second), found {steps}")
    airframes, state = scenario.airframes, scenario.state
    check_dt(airframes, PROTOCOL_DT)
    initial = (2 * state.rotor_speed - 1).T.contiguous().float().numpy()
    policy.reset(batch=state.count, seed=seed, initial={"previous_action": initial})
    previous = torch.zeros_like(state.rotor_speed)
    alive = torch.ones(state.count, dtype=torch.bool)
    total, final = (torch.zeros(state.count, dtype=torch.float64) for _ in range(2))
    for index in range(steps):
        action, raw = _act(policy, state)
        check_finite(state, action)
        following = advance(state, action, airframes, scenario.force, PROTOCOL_DT)
        ended = alive & terminated(following, airframes, limits)
        gain = torch.where(ended, TERMINATION_REWARD, reward(state, raw, previous))
        total += torch.where(alive, gain, 0.0)
        alive &= ~ended
        state = State(torch.where(alive, following.data, state.data))
        previous = raw
        if index >= steps - FINAL_STEPS:
            final += state.position.norm(dim=0) / FINAL_STEPS
    return result_of(total.numpy(), alive.numpy(), final.numpy(), scenario.episodes)


def result_of(
    total_reward: np.ndarray, survived: np.ndarray, final_distance: np.ndarray, episodes: int
) -> Result:
    """A Result from flat arrays [N], airframe-major."""
    distance = np.where(survived, final_distance, np.inf)
    return Result(*(v.reshape(-1, episodes) for v in (total_reward, survived, distance)))


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


def _clustered_bootstrap(
    figure: Callable[..., np.ndarray], values: np.ndarray, resamples: int, seed: int
) -> Estimate:
    """`figure` of all values [quadrotors, episodes], with a percentile interval."""
    quadrotors = values.shape[0]
    chosen = np.random.default_rng(seed).integers(quadrotors, size=(resamples, quadrotors))
    redrawn = [float(figure(values[rows])) for rows in chosen]
    low, high = np.percentile(redrawn, [2.5, 97.5], method="nearest")  # infinities do not mix
    return Estimate(float(figure(values)), float(low), float(high))
