"""The guard's judgement: which commands may reach the motors. Pure; guard_node.py is its shell.

The guard trusts nobody: it judges every command again by itself, and where commands stop or
break a limit it trips, and gives the safe command until an operator resets it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np


@dataclass(frozen=True)
class GuardConfig:
    """What the guard lets through; nothing has a default."""

    elements: tuple[str, ...]
    """Actuator names in the robot's order."""
    lower: tuple[float, ...]
    upper: tuple[float, ...]
    safe_command: tuple[float, ...]
    timeout_s: float
    """Longest silence between two commands."""

    def __post_init__(self) -> None:
        """Refuse limits that protect nothing."""
        count = len(self.elements)
        for name in ("lower", "upper", "safe_command"):
            value = np.asarray(getattr(self, name))
            if value.shape != (count,) or not np.isfinite(value).all():
                raise ValueError(f"{name}: expected {count} finite numbers, found {value}")
        safe = np.asarray(self.safe_command)
        if count == 0 or not (np.less(self.lower, self.upper)).all():
            raise ValueError(f"lower < upper for each element: found {self.lower}, {self.upper}")
        if not ((np.asarray(self.lower) <= safe) & (safe <= np.asarray(self.upper))).all():
            raise ValueError(f"safe_command: expected within the limits, found {safe}")
        if not 0 < self.timeout_s <= 1:
            raise ValueError(f"timeout_s: expected in (0, 1], found {self.timeout_s}")


@dataclass(frozen=True)
class GuardState:
    """WAITING for a first command, PASSING commands on, or TRIPPED for a reason."""

    last: float | None = None
    """s (steady), when the last command was passed on."""
    heard: float | None = None
    """s (steady), when the last command of any kind came, passed on or not."""
    reason: str = ""
    """Why it is tripped; empty while it is not."""
    trips: int = 0

    @property
    def name(self) -> str:
        """WAITING, PASSING or TRIPPED."""
        return "TRIPPED" if self.reason else "WAITING" if self.last is None else "PASSING"


def judge(
    state: GuardState, labels: Sequence[str], values: np.ndarray, now: float, config: GuardConfig
) -> tuple[GuardState, np.ndarray | None]:
    """Judge a command that came at `now` (s, steady): what to send on, None for nothing.

    While tripped, commands are not passed on: `watch` gives the safe command.
    """
    state, _ = watch(state, now, config)  # a late command does not undo a timeout
    state = replace(state, heard=now)
    if state.reason:
        return state, None
    reason = _refusal(labels, values, config)
    if reason:
        return _trip(state, reason), np.array(config.safe_command)
    return replace(state, last=now), values


def watch(
    state: GuardState, now: float, config: GuardConfig
) -> tuple[GuardState, np.ndarray | None]:
    """Call at a steady rate: the safe command while tripped or when commands stopped, or None."""
    if not state.reason and state.last is not None and now - state.last > config.timeout_s:
        silence = f"no command for {(now - state.last) * 1e3:.0f} ms"
        state = _trip(state, f"{silence}, expected one every {config.timeout_s * 1e3:.0f} ms")
    return state, np.array(config.safe_command) if state.reason else None


def reset(state: GuardState, now: float, config: GuardConfig) -> tuple[GuardState, str]:
    """The operator's reset: wait for a first command again, or say why not yet.

    While a policy is sending, a reset would let its full command through in one step, long after
    its ramp: it has to be deactivated first.
    """
    if state.reason and state.heard is not None and now - state.heard <= config.timeout_s:
        return state, "commands are coming: deactivate the policy, reset, then activate it"
    return GuardState(trips=state.trips), ""


def trip(state: GuardState, reason: str) -> GuardState:
    """Stop passing commands on, for a reason found elsewhere."""
    return state if state.reason else _trip(state, reason)


def _trip(state: GuardState, reason: str) -> GuardState:
    return replace(state, reason=reason, trips=state.trips + 1)


def _refusal(labels: Sequence[str], values: np.ndarray, config: GuardConfig) -> str:
    if tuple(labels) != config.elements:
        return f"expected elements {', '.join(config.elements)}, found {', '.join(labels)}"
    if values.shape != (len(config.elements),):
        return f"expected {len(config.elements)} numbers, found {list(values.shape)}"
    if not np.isfinite(values).all():
        return f"not finite: {values}"
    outside = (values < config.lower) | (values > config.upper)
    if outside.any():
        names = ", ".join(
            f"{config.elements[index]} {values[index]:.4g}" for index in np.flatnonzero(outside)
        )
        return f"outside the limits: {names}"
    return ""
