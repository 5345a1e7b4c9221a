"""Where an evaluation starts: which quadrotors, in which states, pushed by which forces.

Everything is drawn on the CPU from one seed, in streams of its own for each part, so that the
same seed means the same quadrotors with and without force, and any simulator can fly the same
scenario from the saved file.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from sim.quadrotor import airframes as frames
from sim.quadrotor.airframes import Airframes
from sim.quadrotor.dynamics import State


@dataclass(frozen=True)
class Scenario:
    """Start conditions of N = quadrotors x episodes flights, airframe-major."""

    airframes: Airframes
    """N airframes: each quadrotor repeated for its episodes."""
    state: State
    """The initial states."""
    force: Tensor
    """[3, N] N, world, constant over an episode."""
    episodes: int
    """Flights of each quadrotor."""

    def __post_init__(self) -> None:
        """Refuse parts that do not belong together."""
        count = self.airframes.count
        found = (self.state.count, tuple(self.force.shape))
        if found != (count, (3, count)) or self.episodes < 1 or count % self.episodes:
            raise ValueError(
                f"Scenario: expected {count} states, force [3, {count}] and episodes that divide "
                f"{count}; found {found[0]} states, force {list(found[1])}, {self.episodes} "
                "episodes"
            )

    @property
    def quadrotors(self) -> int:
        """How many different quadrotors fly."""
        return self.airframes.count // self.episodes

    def arrays(self) -> dict[str, np.ndarray]:
        """All of it by name: the fields of Airframes, `state` [17, N], `force`, `episodes`."""
        named = {f.name: getattr(self.airframes, f.name) for f in fields(Airframes)}
        named |= {"state": self.state.data, "force": self.force}
        arrays = {name: value.detach().cpu().numpy() for name, value in named.items()}
        return arrays | {"episodes": np.array(self.episodes)}

    def save(self, path: Path) -> None:
        """Write `arrays` as an npz file."""
        np.savez(path, **self.arrays())  # pyright: ignore[reportArgumentType]

    @staticmethod
    def load(path: Path) -> Scenario:
        """Read what `save` wrote. Raises ValueError when an array is missing or does not fit."""
        with np.load(path) as stored:
            return Scenario.from_arrays({name: stored[name] for name in stored.files})

    @staticmethod
    def from_arrays(arrays: Mapping[str, np.ndarray]) -> Scenario:
        """The scenario that `arrays` describes; other names among them are left alone."""
        names = [f.name for f in fields(Airframes)]
        if missing := {*names, "state", "force", "episodes"} - set(arrays):
            raise ValueError(
                f"Scenario: expected the arrays of a scenario; missing {sorted(missing)}"
            )
        return Scenario(
            airframes=Airframes(**{name: torch.from_numpy(arrays[name]) for name in names}),
            state=State(torch.from_numpy(arrays["state"])),
            force=torch.from_numpy(arrays["force"]),
            episodes=int(arrays["episodes"]),
        )


def sample(
    count: int, episodes: int, seed: int, *, with_force: bool, position_range: float | None
) -> Scenario:
    """RAPTOR's evaluation: `count` sampled quadrotors, `episodes` flights each.

    position_range: +-m around the target; None starts within +-10 arm lengths, as in training.
    Raises ValueError for counts below 1, a negative seed or a range that is not positive.
    """
    return on_airframes(
        frames.sample(count, seed), episodes, seed,
        with_force=with_force, position_range=position_range,
    )  # fmt: skip


def on_airframes(
    quadrotors: Airframes,
    episodes: int,
    seed: int,
    *,
    with_force: bool,
    position_range: float | None,
) -> Scenario:
    """The same for given quadrotors, for example a standard model."""
    if episodes < 1:
        raise ValueError(f"episodes: expected at least 1, found {episodes}")
    fleet = quadrotors.repeat(episodes)
    normal = np.random.default_rng([seed, 3]).standard_normal((fleet.count, 3)).T
    force = torch.tensor(normal, dtype=fleet.mass.dtype) * fleet.force_std * with_force
    return Scenario(fleet, initial_states(fleet, seed, position_range), force, episodes)


def initial_states(airframes: Airframes, seed: int, position_range: float | None) -> State:
    """Draw RAPTOR's initial states, in the airframes' floating-point type.

    One in ten starts at the target, level and at rest. The others: position +-position_range
    (None: +-10 arm lengths), velocities +-1 m/s and +-1 rad/s, tilted about a random axis by
    U(0, 1) rad. Rotor speeds are U(0, 0.5) for all.
    Source: L2F, 30_sample_initial_state.h (which ignores its own max_angle).

    Raises ValueError unless position_range is positive or None, or for a negative seed.
    """
    if seed < 0 or not (position_range is None or position_range > 0):
        raise ValueError(
            "initial_states: expected seed >= 0 and position_range above 0 m (or None for ten arm "
            f"lengths); found {seed} and {position_range}"
        )
    draw = np.random.default_rng([seed, 2]).random((airframes.count, 17)).T
    at_target = draw[0] < 0.1
    arms = 10 * airframes.arm_length.double().numpy()
    reach = arms if position_range is None else position_range
    motion = np.concatenate([(2 * draw[1:4] - 1) * reach, 2 * draw[4:10] - 1])
    motion[:, at_target] = 0
    attitude = _random_attitude(draw[10:12], draw[12])
    attitude[:, at_target] = [[0.0], [0.0], [0.0], [1.0]]
    joined = np.concatenate([motion[:3], attitude, motion[3:], draw[13:17] / 2])
    return State(torch.tensor(joined, dtype=airframes.mass.dtype))


def tumbling(flights: Scenario, seed: int, rate: float = 10.0) -> Scenario:
    """The same flights, thrown: any attitude, turning at `rate` rad/s about any axis.

    The attitude is turned from level by U(0, pi) about a uniform axis; positions, linear
    velocities and rotor speeds stay, and so do the flights that start at rest.

    Raises ValueError for a negative seed or rate.
    """
    if seed < 0 or not 0 <= rate < np.inf:
        raise ValueError(
            f"tumbling: expected seed >= 0 and a rate of 0 rad/s or more; found {seed} and {rate}"
        )
    draw = np.random.default_rng([seed, 8]).random((flights.airframes.count, 5)).T
    turned = [_random_attitude(draw[:2], np.pi * draw[2]), rate * _random_axis(draw[3:5])]
    attitude, omega = (torch.tensor(part, dtype=flights.state.data.dtype) for part in turned)
    state = flights.state
    thrown = State.of(state.position, attitude, state.linear_velocity, omega, state.rotor_speed)
    resting = (state.data[7:13] == 0).all(dim=0)
    return replace(flights, state=State(torch.where(resting, state.data, thrown.data)))


def _random_attitude(uniform: np.ndarray, angle: np.ndarray) -> np.ndarray:
    """quaternion_xyzw [4, N]: axis from two uniform rows, angle [N] rad."""
    return np.concatenate([_random_axis(uniform) * np.sin(angle / 2), np.cos(angle / 2)[None]])


def _random_axis(uniform: np.ndarray) -> np.ndarray:
    """[3, N] directions, uniform on the sphere, from two uniform rows."""
    azimuth = 2 * np.pi * uniform[0]
    up = 1 - 2 * uniform[1]
    level = np.sqrt(1 - up**2)
    return np.stack([level * np.cos(azimuth), level * np.sin(azimuth), up])
