"""One control step: a reading in, a command or a refusal with its reason out.

`tick` has no clock, no ROS and no hidden memory: the next state is a result, and its one effect
is to advance the policy, on a tick that was not refused. The same calls give the same commands.

    OK / WARN  the command was sent
    HOLD       this input was refused: nothing is sent (the guard's timeout goes on running)
    FALLBACK   refused for longer than hold_timeout_s, or fed at another rate than it was trained
               at: the safe command, until a new activation
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import NamedTuple, Protocol

import numpy as np

from deploy.safety import Mode, SafetyConfig, Vector, limit, limit_rate, ramp, refuse_time
from robot_policies.contract import Contract
from robot_policies.strict import ContractError

EARLY = 0.25
"""Share of a control period by which a reading may come before its time (sensors jitter)."""
LAG = 0.4
"""Share of a control period by which the grid of steps may lag behind the readings."""
RATE_STEPS, RATE_PERIODS = 10, 1.25
"""A flight whose first RATE_STEPS readings ALL come later than this has another rate."""


class Now(NamedTuple):
    """The time of a tick, s."""

    stamp: float
    """On the clock of the readings' stamps, which may be set."""
    steady: float
    """On a clock that only goes forward: for durations."""


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
    """s (steady), when the first command was sent; the ramp runs from here."""
    stamp: float | None = None
    """s, of the reading stepped on last."""
    due: float | None = None
    """s, the stamp at which the next step is due."""
    command: Vector | None = None
    """[Da], sent last."""
    refused_since: float | None = None
    """s (steady), since when every input was refused."""
    steps: int = 0
    late: int = 0
    """How many of the steps came later than RATE_PERIODS."""
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
    state: ControlState, reading: Reading | None, now: Now, policy: Policy, config: SafetyConfig
) -> tuple[ControlState, Decision]:
    """Decide what to send at time `now`.

    Call it on every reading and, so that silence is noticed, from a watchdog timer.
    """
    if state.mode is Mode.FALLBACK:
        return state, Decision(config.safe_command, state.mode, state.reason, False)
    refusal = _refusal(state, reading, now.stamp, policy.contract, config)
    if refusal or reading is None:
        return _refused(state, refusal, now.steady, config)
    period = 1.0 / policy.contract.timing.control_hz
    if not _is_due(state, reading, period):
        return state, Decision(None, state.mode, state.reason, stepped=False)
    try:
        chunk = policy.step(reading.signals)
    except ContractError as error:
        return _refused(state, str(error), now.steady, config)
    wanted = tuple(number for value in chunk.values() for number in value[0, 0].ravel().tolist())
    if not all(map(math.isfinite, wanted)):
        refusal = f"the policy's command is not finite: {wanted}"
        return _refused(state, refusal, now.steady, config)
    state, decision = _accept(state, reading, wanted, now.steady, period, config)
    return (state, decision) if state.late < RATE_STEPS else _wrong_rate(state, period, config)


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
        reason = f"inputs refused for more than {config.hold_timeout_s:g} s: {reason}"
        return _fall_back(state, reason, config)
    state = replace(state, mode=Mode.HOLD, reason=reason, refused_since=since)
    return state, Decision(None, Mode.HOLD, reason, stepped=False)


def _wrong_rate(
    state: ControlState, period: float, config: SafetyConfig
) -> tuple[ControlState, Decision]:
    limit_ms = RATE_PERIODS * period * 1e3
    reason = f"all of the first {RATE_STEPS} readings came more than {limit_ms:.1f} ms apart"
    rate = f"the policy was trained to be stepped at {1 / period:g} Hz"
    return _fall_back(state, f"{reason}: {rate}; speed the sensor up", config)


def _fall_back(
    state: ControlState, reason: str, config: SafetyConfig
) -> tuple[ControlState, Decision]:
    state = replace(state, mode=Mode.FALLBACK, reason=reason)
    return state, Decision(config.safe_command, Mode.FALLBACK, reason, stepped=False)


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
    behind = 0.0 if state.due is None else reading.stamp - state.due
    missed = max(int(behind / period + EARLY), 0)
    warnings = [reading.warning] if reading.warning else []
    if missed:
        warnings.append(f"{missed} control periods missed: readings {elapsed * 1e3:.0f} ms apart")
    if changed:
        warnings.append(f"rate limited on element {', '.join(map(str, changed))}")
    reason = "; ".join(warnings)
    mode = Mode.WARN if warnings else Mode.OK
    # Keep to the grid of the first reading; where readings fall behind it, it waits for them, so
    # that a burst after a pause is not stepped on faster than the policy was trained at.
    due = max(state.due or 0.0, reading.stamp - LAG * period)
    is_late = state.steps == state.late and elapsed > RATE_PERIODS * period
    state = ControlState(
        mode=mode, reason=reason, started=started,
        stamp=reading.stamp, due=due + period, command=command,
        # The first step has no interval, so it counts with the second.
        steps=state.steps + (state.stamp is not None), late=state.late + is_late,
    )  # fmt: skip
    return state, Decision(command, mode, reason, stepped=True, missed=missed)
