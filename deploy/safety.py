"""Limits and time: what keeps a command inside what the robot was declared to bear.

Everything here is pure: commands and times in, commands and reasons out.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from numpy.typing import ArrayLike

from robot_policies.contract import Contract
from robot_policies.strict import ContractError, Violation

Vector = tuple[float, ...]
"""A command [Da]. Plain floats: so few numbers cost numpy several times as long, in the loop."""


class Mode(StrEnum):
    """How far the robot is from normal operation; only FALLBACK is latched."""

    OK = "OK"
    WARN = "WARN"
    """The command was sent, but something was limited, late or missing."""
    HOLD = "HOLD"
    """An input was refused: no command was sent, the next good input goes on."""
    FALLBACK = "FALLBACK"
    """Refusals lasted too long: the safe command is sent until the operator resets."""


@dataclass(frozen=True)
class SafetyConfig:
    """What the operator declares about this robot; nothing has a default."""

    lower: tuple[float, ...]
    """[Da]: this robot's lower limits, at or inside the contract's."""
    upper: tuple[float, ...]
    """[Da]: this robot's upper limits, at or inside the contract's."""
    safe_command: tuple[float, ...]
    """[Da], in the contract's units: what is sent when the policy cannot be trusted."""
    start_command: tuple[float, ...]
    """[Da]: where the ramp-in starts."""
    ramp_in_s: float
    """Time over which commands blend from `start_command` to the policy's; 0 for none."""
    max_rate: tuple[float, ...]
    """[Da], units per second: the largest change of a command."""
    hold_timeout_s: float
    """How long inputs may be refused in operation before FALLBACK."""
    max_future_s: float
    """How far a time stamp may lie in the future before the clocks count as not synchronised."""

    def check(self, contract: Contract) -> None:
        """Refuse settings that do not fit the policy (ContractError with every violation)."""
        inside = [np.array([v for s in contract.action for v in s.lower])]
        inside.append(np.array([v for s in contract.action for v in s.upper]))
        count = len(inside[0])
        violations = []

        def refuse(name: str, expected: str) -> None:
            mend = "correct it in the parameter file"
            violations.append(Violation(name, expected, str(getattr(self, name)), mend))

        for name in ("lower", "upper"):
            if not _within(getattr(self, name), *inside):
                refuse(name, f"{count} numbers within the contract's limits")
        for name in ("safe_command", "start_command"):
            if not _within(getattr(self, name), self.lower, self.upper):
                refuse(name, f"{count} numbers within lower and upper")
        rate = np.asarray(self.max_rate)
        if rate.shape != (count,) or not ((rate > 0) & np.isfinite(rate)).all():
            refuse("max_rate", f"{count} finite numbers > 0")
        for name in ("ramp_in_s", "hold_timeout_s", "max_future_s"):
            if not 0 <= getattr(self, name) < 3600:
                refuse(name, "seconds, 0 or more")
        if violations:
            raise ContractError(violations)


def _within(values: ArrayLike, lower: ArrayLike, upper: ArrayLike) -> bool:
    value, low, high = (np.asarray(v, np.float64) for v in (values, lower, upper))
    return value.shape == low.shape == high.shape and bool(
        ((low <= value) & (value <= high)).all()
    )


def refuse_time(
    stamp: float, now: float, last_stamp: float | None, max_age_s: float, max_future_s: float
) -> str:
    """Why a reading's time cannot be trusted, or "" where it can (all in s, of one clock)."""
    if last_stamp is not None and stamp < last_stamp:
        return f"time goes backwards: stamp {last_stamp - stamp:.3f} s before the one used last"
    if now - stamp > max_age_s:
        return f"stale: expected at most {max_age_s * 1e3:.0f} ms old, found {age(now, stamp)}"
    if stamp - now > max_future_s:
        return f"{age(stamp, now)} in the future: synchronise the clocks"
    return ""


def age(now: float, stamp: float) -> str:
    """Text of a duration."""
    seconds = now - stamp
    return f"{seconds * 1e3:.0f} ms" if seconds < 10 else f"{seconds:.0f} s"


def ramp(command: Vector, start: Vector, elapsed_s: float, ramp_in_s: float) -> Vector:
    """Blend linearly from `start` [Da] to `command` [Da] over the first `ramp_in_s` seconds."""
    if elapsed_s >= ramp_in_s:
        return command
    share = max(elapsed_s, 0.0) / ramp_in_s
    return tuple((1 - share) * a + share * b for a, b in zip(start, command, strict=True))


def limit_rate(
    command: Vector, previous: Vector, max_rate: Vector, dt: float
) -> tuple[Vector, list[int]]:
    """Limit the change from `previous` [Da] to max_rate * dt; also which elements were limited."""
    steps = zip(previous, max_rate, strict=True)
    limited = limit(command, [(p - r * dt, p + r * dt) for p, r in steps])
    # Rounding of previous +- step alone is no limit.
    changed = [
        i for i, (a, b) in enumerate(zip(limited, command, strict=True)) if abs(a - b) > 1e-9
    ]
    return limited, changed


def limit(command: Vector, bounds: Iterable[tuple[float, float]]) -> Vector:
    """Limit each element of `command` [Da] to its (lower, upper)."""
    return tuple(min(max(c, low), high) for c, (low, high) in zip(command, bounds, strict=True))
