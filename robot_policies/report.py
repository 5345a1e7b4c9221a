"""The report of a flight: figures and verdicts from its log, as table, dictionary and HTML page.

    log = logs.read("flights/first")
    flight = report.flight(log)
    rich.print(flight.table())
    Path("report.html").write_text(report_page.page(flight, log))

Times are those at which messages were published, where the log knows them; positions are compared
with the set-point interpolated to the same instant. The last phase ends with the last set-point;
what nodes report after it, while they are being shut down, is not the flight's.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from robot_policies.logs import Log, LogError, Topic

SETTLED_S = 2.0
"""The end of a hover phase, in which it counts as settled."""
GAP_PERIODS = 3.0
"""Odometry that pauses for longer than this many median periods leaves a gap."""
SATURATED = 0.001
"""Distance from 0 or 1 within which a motor counts as saturated."""

ABSENT = "not in the log"

Status = tuple[float, dict[str, Any]]
"""Time (s) and content of a node's status on /diagnostics."""


@dataclass(frozen=True)
class FlightLimits:
    """What a flight is held to."""

    hover_error_m: float = 0.06
    """Mean distance from the set-point over the last SETTLED_S of each hover."""
    recovery_error_m: float = 0.1
    """After a push, the flight has to come back to this distance."""
    guard_trips: int = 0


@dataclass(frozen=True)
class Phase:
    """Distance from the set-point (m) in one phase of the mission; None without samples."""

    name: str
    start_s: float
    end_s: float
    rmse_m: float | None
    mean_m: float | None
    peak_m: float | None
    settled_m: float | None
    """Mean over the last SETTLED_S."""


@dataclass(frozen=True)
class Latency:
    """From odometry to the motor command that answers it, ms."""

    source: str
    p50_ms: float
    p99_ms: float
    max_ms: float


@dataclass(frozen=True)
class Motor:
    """Use of a motor in flight: shares of its commands."""

    name: str
    mean: float
    low: float
    """Share of commands at the lower limit."""
    high: float
    """Share of commands at the upper limit."""


@dataclass(frozen=True)
class StateChange:
    """A node reported another state, or another reason for it."""

    time_s: float
    node: str
    state: str
    reason: str


@dataclass(frozen=True)
class Odometry:
    """How regular the odometry was."""

    rate_hz: float
    gaps: int
    longest_gap_s: float
    not_finite: int
    """Messages with a position that is no number."""


@dataclass(frozen=True)
class Figure:
    """A line of the summary; `passed` is None where nothing is demanded."""

    name: str
    value: str
    limit: str = ""
    passed: bool | None = None


@dataclass(frozen=True)
class FlightReport:
    """What a log tells of a flight; None where it does not, and what is demanded then fails."""

    limits: FlightLimits
    duration_s: float
    phases: tuple[Phase, ...]
    hover_error_m: float | None
    """The worst settled hover."""
    figure_eight_rmse_m: float | None
    pushed: bool
    push_peak_m: float | None
    push_recovery_s: float | None
    """From the push until the distance stays below the limit; None: not before the phase ended."""
    latencies: tuple[Latency, ...]
    missed_deadlines: int | None
    commands: int | None
    inference_p99_ms: float | None
    guard_trips: int | None
    crashed: bool | None
    states: tuple[StateChange, ...]
    motors: tuple[Motor, ...]
    odometry: Odometry
    damage: str
    """What of the log could not be read."""

    @property
    def figures(self) -> tuple[Figure, ...]:
        """The summary, line by line."""
        return tuple(_figures(self))

    @property
    def ok(self) -> bool:
        """Whether all that was demanded is in the log, and passed."""
        return all(figure.passed is not False for figure in self.figures)

    def to_dict(self) -> dict[str, Any]:
        """A JSON document: every field, and the verdicts."""
        verdicts = {f.name: f.passed for f in self.figures if f.limit}
        return asdict(self) | {"verdicts": verdicts, "ok": self.ok}

    def table(self) -> Any:
        """Summary and phases, for a rich console."""
        return _rich_tables(self)


def flight(log: Log, limits: FlightLimits = FlightLimits()) -> FlightReport:
    """Evaluate a flight; raises LogError where /odometry or /setpoint is missing."""
    odometry = _require(log, "/odometry")
    time, error = tracking(odometry, _require(log, "/setpoint"))
    phases = tuple(_phases(log, time, error))
    pushes = [_push(log, phase, time, error, limits) for phase in phases if phase.name == "push"]
    recoveries = [recovery for _, recovery in pushes]
    eights = [phase for phase in phases if phase.name == "figure-eight"]
    hovers = [phase.settled_m for phase in phases if phase.name == "hover"]
    statuses = list(_statuses(log, phases[-1].end_s if phases else np.inf))
    return FlightReport(
        limits=limits,
        duration_s=float(time[-1] - time[0]),
        phases=phases,
        hover_error_m=max((value for value in hovers if value is not None), default=None),
        figure_eight_rmse_m=_rms(error[_inside(time, eights)]),
        pushed=bool(pushes),
        push_peak_m=max((peak for peak, _ in pushes if peak is not None), default=None),
        push_recovery_s=None if None in recoveries else max(recoveries, default=None),  # type: ignore[type-var]
        latencies=tuple(_latencies(log, statuses)),
        missed_deadlines=_count(_last(statuses, "robot_node", "missed_deadlines")),
        commands=_count(_last(statuses, "robot_node", "commands")),
        inference_p99_ms=_last(statuses, "policy_node", "inference_p99_ms"),
        guard_trips=_count(_last(statuses, "guard_node", "trips")),
        crashed=_crashed(statuses),
        states=tuple(_state_changes(statuses)),
        motors=tuple(_motors(log, phases)),
        odometry=_regularity(odometry),
        damage=log.damage,
    )


# Reading the log


def find(log: Log, name: str) -> Topic | None:
    """A topic with at least one message, or None."""
    topic = log.get(name)
    return topic if topic is not None and len(topic.time) else None


def _require(log: Log, name: str) -> Topic:
    """A topic with positions [T, 3]."""
    topic = find(log, name)
    if topic is None:
        found = ", ".join(log) or "no topics"
        raise LogError(f"a flight report needs {name}, found {found}; record it as well")
    position = topic.fields.get("position")
    if not isinstance(position, np.ndarray) or position.dtype.kind not in "fiu":
        found = f"the fields {', '.join(topic.fields) or 'none'}"
    elif position.shape[1:] != (3,):
        found = f"the shape {list(position.shape)}"
    else:
        return topic
    raise LogError(f"{name}: expected positions [T, 3], found {found}; record them")


def clock(topic: Topic) -> np.ndarray:
    """Times [T] s, never decreasing: of publication where known, else of receipt."""
    return np.maximum.accumulate(topic.fields.get("published", topic.time))


def _statuses(log: Log, end: float) -> Iterator[Status]:
    """Every status on /diagnostics up to the time `end`, with its time."""
    topic = find(log, "/diagnostics")
    if topic is not None:
        for time, statuses in zip(clock(topic), topic["status"], strict=True):
            for status in statuses if time <= end else ():
                yield float(time), status


def _last(statuses: Sequence[Status], node: str, key: str) -> float | None:
    """The newest number that a node reported under `key`."""
    values = [status["values"] for _, status in statuses if status["name"] == node]
    texts = [value[key] for value in values if key in value]
    try:
        return float(texts[-1]) if texts else None
    except ValueError:
        raise LogError(f"{node}: expected a number as {key}, found {texts[-1]!r}") from None


def _count(number: float | None) -> int | None:
    return None if number is None else int(number)


def _crashed(statuses: Sequence[Status]) -> bool | None:
    messages = [status["message"] for _, status in statuses if status["name"] == "robot_node"]
    return "crashed" in messages if messages else None


def _state_changes(statuses: Sequence[Status]) -> Iterator[StateChange]:
    levels = ("OK", "WARN", "ERROR", "STALE")
    current: dict[str, tuple[str, str]] = {}
    for time, status in statuses:
        values = status["values"]
        state = values.get("state", levels[min(status["level"], 3)])
        reason = values.get("reason", status["message"])
        if current.get(status["name"]) != (state, reason):
            current[status["name"]] = state, reason
            yield StateChange(time, status["name"], state, reason)


# Figures


def tracking(odometry: Topic, setpoint: Topic) -> tuple[np.ndarray, np.ndarray]:
    """Times [T] s of the odometry, and the distance [T] m from the set-point at each."""
    time, target_time = clock(odometry), clock(setpoint)
    given = np.isfinite(setpoint["position"]).all(axis=1)
    if not given.any():
        raise LogError("/setpoint: expected positions, found none that is finite; record them")
    target = [
        np.interp(time, target_time[given], axis[given], left=np.nan, right=np.nan)
        for axis in setpoint["position"].T
    ]
    return time, np.linalg.norm(odometry["position"] - np.stack(target, axis=1), axis=1)


def _phases(log: Log, time: np.ndarray, error: np.ndarray) -> Iterator[Phase]:
    topic = find(log, "/phase")
    if topic is None:
        return
    names, times = topic["data"], clock(topic)
    starts = [i for i, name in enumerate(names) if i == 0 or name != names[i - 1]]
    last = min(time[-1], clock(_require(log, "/setpoint"))[-1])
    ends = [*(float(times[i]) for i in starts[1:]), float(last)]
    for index, end in zip(starts, ends, strict=True):
        start = float(times[index])
        within = error[_finite_between(time, error, start, end)]
        settled = error[_finite_between(time, error, max(start, end - SETTLED_S), end)]
        mean, peak = (float(within.mean()), float(within.max())) if len(within) else (None, None)
        last = float(settled.mean()) if len(settled) else None
        yield Phase(names[index], start, end, _rms(within), mean, peak, last)


def _finite_between(time: np.ndarray, error: np.ndarray, start: float, end: float) -> np.ndarray:
    return (time >= start) & (time < end) & np.isfinite(error)


def _inside(time: np.ndarray, phases: Sequence[Phase]) -> np.ndarray:
    inside = np.zeros(len(time), bool)
    for phase in phases:
        inside |= (time >= phase.start_s) & (time < phase.end_s)
    return inside


def _rms(values: np.ndarray) -> float | None:
    values = values[np.isfinite(values)]
    return float(np.sqrt(np.mean(values**2))) if len(values) else None


def _push(
    log: Log, phase: Phase, time: np.ndarray, error: np.ndarray, limits: FlightLimits
) -> tuple[float | None, float | None]:
    """Largest distance after a push (m), and the time (s) until it stays below the limit."""
    onset = next((t for t in push_times(log) if phase.start_s <= t < phase.end_s), phase.start_s)
    after = _finite_between(time, error, onset, phase.end_s)
    time, error = time[after], error[after]
    if not len(error):
        return None, None
    far = np.flatnonzero(error >= limits.recovery_error_m)
    if not len(far):
        return float(error.max()), 0.0
    returned = None if far[-1] == len(error) - 1 else float(time[far[-1] + 1] - onset)
    return float(error.max()), returned


def push_times(log: Log) -> list[float]:
    """When a force (s) began to act."""
    topic = find(log, "/push")
    if topic is None:
        return []
    return clock(topic)[np.linalg.norm(topic["force"], axis=1) > 0].tolist()


def _latencies(log: Log, statuses: Sequence[Status]) -> Iterator[Latency]:
    values = [_last(statuses, "robot_node", f"latency_{key}_ms") for key in ("p50", "p99", "max")]
    if None not in values:
        yield Latency("odometry to motors, seen by the robot", *values)  # type: ignore[arg-type]
    for topic, name in (("/policy/motors", "policy"), ("/motors", "guard")):
        seconds = answers(log, topic)
        if len(seconds):
            quantiles = (float(q) for q in np.quantile(seconds, [0.5, 0.99, 1.0]) * 1e3)
            yield Latency(f"odometry to {name}'s command, by the log", *quantiles)


def answers(log: Log, name: str) -> np.ndarray:
    """Times [N] (s) from each odometry to the first command before the next one."""
    commands = find(log, name)
    if commands is None:
        return np.zeros(0)
    sent, answered = clock(_require(log, "/odometry")), clock(commands)
    newest = np.searchsorted(sent, answered, side="right") - 1
    _, first = np.unique(newest, return_index=True)
    first = first[newest[first] >= 0]
    return answered[first] - sent[newest[first]]


def _motors(log: Log, phases: Sequence[Phase]) -> Iterator[Motor]:
    topic = find(log, "/motors")
    if topic is None:
        return
    flown = _inside(clock(topic), phases) if phases else np.ones(len(topic.time), bool)
    commands = topic["data"][flown]
    names = topic.labels or tuple(f"motor {i}" for i in range(topic["data"].shape[1]))
    for name, values in zip(names, commands.T, strict=True):
        if len(values):
            low, high = (values <= SATURATED).mean(), (values >= 1 - SATURATED).mean()
            yield Motor(name, float(values.mean()), float(low), float(high))


def _regularity(odometry: Topic) -> Odometry:
    steps = np.diff(clock(odometry))
    not_finite = int((~np.isfinite(odometry["position"]).all(axis=1)).sum())
    if not steps.sum() > 0:
        raise LogError("/odometry: expected a flight of some time, found one instant; record more")
    gaps = int((steps > GAP_PERIODS * np.median(steps)).sum())
    return Odometry(float(len(steps) / steps.sum()), gaps, float(steps.max()), not_finite)


# The summary


def _figures(report: FlightReport) -> Iterator[Figure]:
    yield from _tracking_figures(report)
    for latency in report.latencies:
        value = f"p50 {latency.p50_ms:.2f}, p99 {latency.p99_ms:.2f}, max {latency.max_ms:.2f} ms"
        yield Figure(f"latency, {latency.source}", value)
    if report.missed_deadlines is not None:
        of = "" if report.commands is None else f" beside {report.commands} commands"
        yield Figure("missed deadlines", f"{report.missed_deadlines}{of}")
    if report.inference_p99_ms is not None:
        yield Figure("inference p99", f"{report.inference_p99_ms:.3f} ms")
    yield from _safety_figures(report)
    odometry = report.odometry
    longest = f"longest {odometry.longest_gap_s * 1e3:.0f} ms"
    regular = f"{odometry.rate_hz:.1f} Hz, {odometry.gaps} gaps ({longest})"
    yield Figure("odometry", f"{regular}, {odometry.not_finite} not finite")
    yield Figure("log", report.damage or "whole", "whole", not report.damage)


def _tracking_figures(report: FlightReport) -> Iterator[Figure]:
    limits = report.limits
    hover, limit = report.hover_error_m, limits.hover_error_m
    value = ABSENT if hover is None else f"{hover:.3f} m"
    passed = hover is not None and hover <= limit
    yield Figure(f"hover error (last {SETTLED_S:g} s)", value, f"<= {limit:g} m", passed)
    if (eight := report.figure_eight_rmse_m) is not None:
        yield Figure("figure-eight RMSE", f"{eight:.3f} m")
    if report.pushed:
        peak = "unknown" if report.push_peak_m is None else f"{report.push_peak_m:.3f} m"
        yield Figure("push: largest error", peak)
        recovery = report.push_recovery_s
        value = "not within the phase" if recovery is None else f"after {recovery:.2f} s"
        limit = f"below {limits.recovery_error_m:g} m again"
        yield Figure("push: recovery", value, limit, recovery is not None)


def _safety_figures(report: FlightReport) -> Iterator[Figure]:
    """What is demanded has its line even where the log does not tell: silence is no proof."""
    trips, most = report.guard_trips, report.limits.guard_trips
    value = ABSENT if trips is None else str(trips)
    yield Figure("guard trips", value, f"<= {most}", trips is not None and trips <= most)
    states = dict.fromkeys(change.state for change in _in_flight(report, "policy_node"))
    passed = bool(states) and "FALLBACK" not in states
    yield Figure("states of the policy", ", ".join(states) or ABSENT, "no FALLBACK", passed)
    value = {True: "crashed", False: "intact", None: ABSENT}[report.crashed]
    yield Figure("robot", value, "intact", report.crashed is False)
    if report.motors:
        most_used = max(report.motors, key=lambda motor: motor.low + motor.high)
        share = f"{100 * (most_used.low + most_used.high):.1f} % of commands"
        yield Figure("motor saturation, at most", f"{share} ({most_used.name})")


def _in_flight(report: FlightReport, node: str) -> list[StateChange]:
    """The state in which the first phase found a node, and every change after it."""
    changes = [change for change in report.states if change.node == node]
    takeoff = report.phases[0].start_s if report.phases else -np.inf
    before = [change for change in changes if change.time_s <= takeoff]
    return before[-1:] + [change for change in changes if change.time_s > takeoff]


def verdict_text(passed: bool | None) -> str:
    """Verdict in a word; empty where there is none."""
    return {True: "pass", False: "FAIL", None: ""}[passed]


def _metres(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


PHASE_COLUMNS = ("phase", "start s", "duration s", "RMSE m", "mean m", "max m", "settled m")


def phase_row(phase: Phase) -> tuple[str, ...]:
    """The cells of PHASE_COLUMNS."""
    errors = (phase.rmse_m, phase.mean_m, phase.peak_m, phase.settled_m)
    times = (f"{phase.start_s:.1f}", f"{phase.end_s - phase.start_s:.1f}")
    return (phase.name, *times, *map(_metres, errors))


def _rich_tables(report: FlightReport) -> Any:
    from rich.console import Group
    from rich.markup import escape
    from rich.table import Table

    summary = Table("figure", "value", "limit", "verdict", title="Flight")
    for figure in report.figures:
        style = {True: "green", False: "bold red", None: ""}[figure.passed]
        cells = (figure.name, figure.value, figure.limit, verdict_text(figure.passed))
        summary.add_row(*map(escape, cells), style=style)
    phases = Table(title="Position error by phase")
    for index, column in enumerate(PHASE_COLUMNS):
        phases.add_column(column, justify="left" if index == 0 else "right")
    for phase in report.phases:
        phases.add_row(*map(escape, phase_row(phase)))
    return Group(summary, phases)
