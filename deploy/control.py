"""One control step: a reading in, a command or a refusal with its reason out.

`tick` has no clock, no ROS and no hidden memory: the next state is a result, and its one effect
is to advance the policy, on a tick that was not refused. The same calls give the same commands.

    OK / WARN  the command was sent
    HOLD       this input was refused: nothing is sent (the guard's timeout goes on running)
    FALLBACK   refused for longer than hold_timeout_s: the safe command, until a new activation
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Protocol

import numpy as np

from deploy.safety import Mode, SafetyConfig, Vector, limit, limit_rate, ramp, refuse_time
from robot_policies.contract import Contract
from robot_policies.strict import ContractError

EARLY = 0.25
"""Share of a control period by which a reading may leave the policy's grid (sensors jitter)."""
LATE = 1.5
"""Control periods after which a step counts as missed."""


class Policy(Protocol):
    """What `tick` needs of robot_policies.runtime.OnnxPolicy."""

    contract: Contract

    def step(self, signals: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Named signals [1, *shape] to named commands [1, Ta, *shape]."""
        ...


@dataclass(frozen=True)
class Reading:
    """The newest input of a robot, as its interface (deploy/quadrotor.py) made it."""

    stamp: float
    """s, of the oldest input that it was made of."""
    signals: Mapping[str, np.ndarray] = field(default_factory=dict)
    """Named signals of the contract, [1, *shape]."""
    refusal: str = ""
    """Why no signals could be made."""
    warning: str = ""
    """What is less than right with them."""


@dataclass(frozen=True)
class ControlState:
    """What one tick hands to the next."""

    mode: Mode = Mode.OK
    started: float | None = None
    """s, when the first command was sent; the ramp runs from here."""
    stamp: float | None = None
    """s, of the reading stepped on last."""
    due: float | None = None
    """s, the stamp at which the next step is due."""
    command: Vector | None = None
    """[Da], sent last."""
    refused_since: float | None = None
    """s, since when every input was refused."""
    reason: str = ""


@dataclass(frozen=True)
class Decision:
    """The outcome of a tick."""

    command: Vector | None
    """[Da] in the contract's units, finite and within its limits; None: send nothing."""
    mode: Mode
    reason: str
    stepped: bool
    """Whether the policy was stepped."""
    missed: int = 0
    """Control periods that passed without a step."""


def tick(
    state: ControlState, reading: Reading | None, now: float, policy: Policy, config: SafetyConfig
) -> tuple[ControlState, Decision]:
    """Decide what to send at time `now` (s, of the readings' clock).

    Call it on every reading and, so that silence is noticed, from a watchdog timer.
    """
    if state.mode is Mode.FALLBACK:
        return state, Decision(config.safe_command, state.mode, state.reason, False)
    refusal = _refusal(state, reading, now, policy.contract, config)
    if refusal or reading is None:
        return _refused(state, refusal, now, config)
    period = 1.0 / policy.contract.timing.control_hz
    if not _is_due(state, reading, period):
        return state, Decision(None, state.mode, state.reason, stepped=False)
    try:
        chunk = policy.step(reading.signals)
    except ContractError as error:
        return _refused(state, str(error), now, config)
    wanted = tuple(number for value in chunk.values() for number in value[0, 0].ravel().tolist())
    if not all(map(math.isfinite, wanted)):
        return _refused(state, f"the policy's command is not finite: {wanted}", now, config)
    return _accept(state, reading, wanted, now, period, config)


def _refusal(
    state: ControlState,
    reading: Reading | None,
    now: float,
    contract: Contract,
    config: SafetyConfig,
) -> str:
    if reading is None:
        return "no input yet"
    timing = contract.timing
    time = refuse_time(
        reading.stamp, now, state.stamp, timing.max_observation_age_s, config.max_future_s
    )
    return reading.refusal or time


def _is_due(state: ControlState, reading: Reading, period: float) -> bool:
    """Whether to step: a policy is stepped at the rate it was trained at, also by fast sensors."""
    return state.due is None or reading.stamp >= state.due - EARLY * period


def _refused(
    state: ControlState, reason: str, now: float, config: SafetyConfig
) -> tuple[ControlState, Decision]:
    since = now if state.refused_since is None else state.refused_since
    # Before the first command nothing moves, so waiting for inputs may take as long as it takes.
    if state.started is not None and now - since > config.hold_timeout_s:
        mode, command = Mode.FALLBACK, config.safe_command
        reason = f"inputs refused for more than {config.hold_timeout_s:g} s: {reason}"
    else:
        mode, command = Mode.HOLD, None
    state = replace(state, mode=mode, reason=reason, refused_since=since)
    return state, Decision(command, mode, reason, stepped=False)


def _accept(
    state: ControlState,
    reading: Reading,
    wanted: Vector,
    now: float,
    period: float,
    config: SafetyConfig,
) -> tuple[ControlState, Decision]:
    """Ramp, limit the rate, and schedule the next step."""
    started = now if state.started is None else state.started
    command = ramp(wanted, config.start_command, now - started, config.ramp_in_s)
    elapsed = period if state.stamp is None else max(reading.stamp - state.stamp, period)
    previous = config.start_command if state.command is None else state.command
    command, changed = limit_rate(command, previous, config.max_rate, elapsed)
    # Once more in double precision: the contract's limits were applied to 32-bit numbers.
    command = limit(command, zip(config.lower, config.upper, strict=True))
    missed = 0 if elapsed <= LATE * period else round(elapsed / period) - 1
    warnings = [reading.warning] if reading.warning else []
    if missed:
        warnings.append(f"{missed} control periods missed: readings {elapsed * 1e3:.0f} ms apart")
    if changed:
        warnings.append(f"rate limited on element {', '.join(map(str, changed))}")
    reason = "; ".join(warnings)
    mode = Mode.WARN if warnings else Mode.OK
    # Keep to the grid of the first reading; where readings fall behind it, it waits for them, so
    # that a burst after a pause is not stepped on faster than the policy was trained at.
    due = max(state.due or 0.0, reading.stamp - EARLY * period)
    state = ControlState(
        mode=mode, reason=reason, started=started,
        stamp=reading.stamp, due=due + period, command=command,
    )  # fmt: skip
    return state, Decision(command, mode, reason, stepped=True, missed=missed)
