"""The demonstration flight: where to be at which time, in phases."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

HEIGHT = 1.0
"""m, of all phases above the ground."""

Target = tuple[np.ndarray, np.ndarray]
"""Position [3] m and velocity [3] m/s, world."""


@dataclass(frozen=True)
class Phase:
    """A named part of the flight."""

    name: str
    duration_s: float
    target: Callable[[float], Target]
    """Where to be, t seconds after the phase began."""


def hover(time: float) -> Target:
    """Stay above the start."""
    return np.array([0.0, 0.0, HEIGHT]), np.zeros(3)


def climb(duration_s: float) -> Callable[[float], Target]:
    """Rise from the ground to HEIGHT and stay there, along a smooth (cosine) profile."""

    def target(time: float) -> Target:
        angle = math.pi * min(time / duration_s, 1.0)
        height = HEIGHT * (1 - math.cos(angle)) / 2
        speed = HEIGHT * math.pi / duration_s * math.sin(angle) / 2
        return np.array([0.0, 0.0, height]), np.array([0.0, 0.0, speed])

    return target


def descend(duration_s: float) -> Callable[[float], Target]:
    """Sink from HEIGHT to the ground: `climb` backwards."""
    up = climb(duration_s)

    def target(time: float) -> Target:
        position, velocity = up(max(duration_s - time, 0.0))
        return position, -velocity

    return target


def figure_eight(
    size: tuple[float, float], period_s: float, ease_s: float
) -> Callable[[float], Target]:
    """A lemniscate of half-axes `size` (m), one round in `period_s`, eased in over `ease_s`."""
    along, across = size

    def target(time: float) -> Target:
        # The pace grows linearly to 1, so that the curve is entered without a jump in velocity.
        pace = min(time / ease_s, 1.0)
        progress = time * pace / 2 if time < ease_s else time - ease_s / 2
        rate = 2 * math.pi / period_s
        angle, speed = rate * progress, rate * pace
        position = [along * math.sin(angle), across * math.sin(2 * angle), HEIGHT]
        velocity = [along * speed * math.cos(angle), 2 * across * speed * math.cos(2 * angle), 0.0]
        return np.array(position), np.array(velocity)

    return target


ROUND_S, EASE_S = 8.0, 2.0
DEMONSTRATION = (
    Phase("take-off", 4.0, climb(3.0)),
    Phase("hover", 6.0, hover),
    # Two rounds; half of the easing time is lost to it.
    Phase("figure-eight", 2 * ROUND_S + EASE_S / 2, figure_eight((1.0, 0.5), ROUND_S, EASE_S)),
    Phase("settle", 2.0, hover),
    Phase("push", 5.0, hover),
    Phase("land", 4.0, descend(4.0)),
)
