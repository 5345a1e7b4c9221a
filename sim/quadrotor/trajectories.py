"""Where a quadrotor is to be at which time: hold, Langevin, figure-eight, waypoints.

Every trajectory is drawn on the CPU from one seed, in a stream of its own, and starts at the
world's origin. World ENU, SI units, layout (time, axis, quadrotor).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from sim.quadrotor.dynamics import PROTOCOL_DT

DAMPING, FREQUENCY, SPREAD, SMOOTHING = 1.0, 2.0, 0.5, 0.01
"""gamma 1/s, omega rad/s, sigma m/s^1.5 and alpha of RAPTOR's Langevin references."""


def langevin_step(reference: Tensor, noise: Tensor) -> Tensor:
    """Advance N Langevin references by PROTOCOL_DT.

    reference  [12, N] rows 0-2 position (m), 3-5 velocity (m/s), both smooth and to be followed;
               6-8 and 9-11 the raw ones, a damped oscillator driven by noise. Zeros at the start
    noise      [3, N] standard normal numbers, new ones for every step

    Fit for torch.compile: no branch, no parameter, nothing changed in place.
    Source: L2F (rl-tools at e43ae4b, l2f/operations_generic/70_post_integration.h).
    """
    position, velocity, raw_position, raw_velocity = reference.unflatten(0, (4, 3)).unbind()
    pull = -DAMPING * raw_velocity - FREQUENCY**2 * raw_position
    raw_velocity = raw_velocity + pull * PROTOCOL_DT + SPREAD * PROTOCOL_DT**0.5 * noise
    raw_position = raw_position + raw_velocity * PROTOCOL_DT
    velocity = SMOOTHING * raw_velocity + (1 - SMOOTHING) * velocity
    position = position + velocity * PROTOCOL_DT
    return torch.cat([position, velocity, raw_position, raw_velocity])


@dataclass(frozen=True)
class Reference:
    """Where N quadrotors are to be, and how fast, at T instants PROTOCOL_DT apart.

    A flight of n steps needs n + 1 of them. Raises ValueError where the parts do not fit.
    """

    position: Tensor
    """[T, 3, N] m, world."""
    velocity: Tensor
    """[T, 3, N] m/s, world."""

    def __post_init__(self) -> None:
        """Refuse parts that do not belong together."""
        shapes = tuple(self.position.shape), tuple(self.velocity.shape)
        if shapes[0] != shapes[1] or len(shapes[0]) != 3 or shapes[0][1] != 3:
            raise ValueError(
                "Reference: expected position and velocity of one shape [T, 3, N]; found "
                f"{list(shapes[0])} and {list(shapes[1])}"
            )

    def require(self, steps: int, count: int) -> None:
        """Raise ValueError unless `count` quadrotors can follow this for `steps` steps."""
        length, _, found = self.position.shape
        if length <= steps or found != count:
            raise ValueError(
                f"reference: expected at least {steps + 1} instants for {count} quadrotors; "
                f"found {length} for {found}. Sample it with these numbers"
            )


def sample(name: str, count: int, steps: int, seed: int) -> Reference:
    """A reference of TRAJECTORIES for `count` quadrotors and flights of `steps` steps, float32.

    The first n references of a seed are the same for every count >= n.
    Raises ValueError for an unknown name, counts below 1 or a negative seed.
    """
    if name not in _MAKERS:
        known = ", ".join(TRAJECTORIES)
        raise ValueError(f"trajectory: expected one of {known}; found {name!r}")
    if count < 1 or steps < 1 or seed < 0:
        raise ValueError(
            "trajectory: expected count >= 1, steps >= 1 and seed >= 0; found "
            f"{count}, {steps} and {seed}"
        )
    return _MAKERS[name](count, steps, seed)


def _hold(count: int, steps: int, seed: int) -> Reference:
    """Stay at the origin."""
    still = torch.zeros(1, 3, 1).expand(steps + 1, 3, count)
    return Reference(still, still)


def _langevin(count: int, steps: int, seed: int) -> Reference:
    """Wander about the origin, as the references of RAPTOR's training do."""
    normal = np.random.default_rng([seed, 4]).standard_normal((count, steps, 3), np.float32)
    rows = [torch.zeros(12, count)]
    for noise in torch.from_numpy(normal).permute(1, 2, 0):
        rows.append(langevin_step(rows[-1], noise))
    joined = torch.stack(rows)
    return Reference(joined[:, 0:3], joined[:, 3:6])


EIGHT_SIZE, EIGHT_ROUND_S, EIGHT_EASE_S = (0.8, 0.4), 4.5, 1.0
"""Half-axes (m) along x and y, seconds for a round, and seconds to reach that pace: one round
in the 5 s of an episode, at up to 1.6 m/s."""


def _figure_eight(count: int, steps: int, seed: int) -> Reference:
    """A level lemniscate (of Gerono), the same for all, entered with a pace that grows."""
    time = torch.arange(steps + 1, dtype=torch.float64) * PROTOCOL_DT
    pace = (time / EIGHT_EASE_S).clamp(max=1)
    progress = torch.where(pace < 1, time * pace / 2, time - EIGHT_EASE_S / 2)
    rate = 2 * math.pi / EIGHT_ROUND_S
    angle, speed = rate * progress, rate * pace
    along, across = EIGHT_SIZE
    level = torch.zeros_like(time)
    position = [along * angle.sin(), across * (2 * angle).sin(), level]
    velocity = [along * speed * angle.cos(), 2 * across * speed * (2 * angle).cos(), level]
    stacked = (torch.stack(rows, dim=1)[:, :, None].float() for rows in (position, velocity))
    return Reference(*(rows.expand(-1, -1, count) for rows in stacked))


WAYPOINT_BOX, WAYPOINT_S = 0.5, 1.5
"""m from the origin on each axis within which waypoints lie, and seconds from one to the next."""


def _waypoints(count: int, steps: int, seed: int) -> Reference:
    """From rest to rest between random points, along minimum-jerk curves (Flash & Hogan 1985)."""
    time = np.arange(steps + 1) * PROTOCOL_DT / WAYPOINT_S
    leg = time.astype(int)
    drawn = np.random.default_rng([seed, 5]).random((count, leg[-1] + 1, 3))
    points = np.concatenate([np.zeros((count, 1, 3)), WAYPOINT_BOX * (2 * drawn - 1)], axis=1)
    start, travel = points[:, leg], np.diff(points, axis=1)[:, leg]
    share = (time - leg)[:, None]
    position = start + travel * share**3 * (10 - 15 * share + 6 * share**2)
    velocity = travel * 30 * share**2 * (1 - share) ** 2 / WAYPOINT_S
    return Reference(*(torch.tensor(v.transpose(1, 2, 0)).float() for v in (position, velocity)))


_MAKERS: dict[str, Callable[[int, int, int], Reference]] = {
    "hold": _hold,
    "langevin": _langevin,
    "figure-eight": _figure_eight,
    "waypoints": _waypoints,
}
TRAJECTORIES = tuple(_MAKERS)
