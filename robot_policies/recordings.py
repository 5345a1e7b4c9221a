"""What a robot, real or simulated, saw and was commanded: named signals, step by step.

    recording = read("obs.npz", contract)
    recording = read("flight.mcap", contract, sources=Path("config/log_sources_example.yaml"))
    for check in checks(recording, contract):                  # before anything is made of it
        print(check)

An npz file has `time` [M] in s, each signal by its name in the contract and each command as
`command.NAME`, [M, *shape] in the contract's units, and where there are several episodes `episode`
[M], a number for each.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from robot_policies import flights, logs
from robot_policies.contract import Action, Contract, Observation
from robot_policies.strict import OMITTED, InputError, Violation
from robot_policies.strict_yaml import decode_yaml

FloatArray = NDArray[np.float64]
GAP_STEPS = 3.0
"""Control periods without a sample that are a gap."""
GAPS = 0.01
"""Share of the steps that may be gaps."""
RATE_SHARE = 0.1
"""By which the rate may differ from the contract's."""
COMMAND = "command."
"""Before a command's name in an npz file: it may be that of a signal."""
FEWEST = 50
"""Samples: fewer tell policies apart by chance only."""
FAR = 10.0
"""Standard deviations of simulation between its median and the real one: no robot is so different,
a unit or an order is."""
FACTORS = {
    "degrees, not radians": 180 / np.pi, "millimetres, not metres": 1000.0,
    "centimetres, not metres": 100.0, "the other sign": -1.0,
}  # fmt: skip
"""What data that do not fit may be told in."""


@dataclass(frozen=True, eq=False)
class Recording:
    """M samples, one each control period, of one or more episodes one after the other."""

    signals: dict[str, FloatArray]
    """[M, *shape] each."""
    commands: dict[str, FloatArray]
    """[M, *shape] each, what was commanded after it; may be none."""
    time: FloatArray
    """[M] s."""
    episodes: NDArray[np.int64]
    """[M] numbers that never fall."""

    def __len__(self) -> int:
        """M."""
        return len(self.time)

    @property
    def starts(self) -> NDArray[np.int64]:
        """[K + 1] first sample of each episode, and M."""
        first = np.flatnonzero(np.diff(self.episodes)) + 1
        return np.concatenate([[0], first, [len(self)]])

    @property
    def observations(self) -> FloatArray:
        """[M, Do] all signals side by side."""
        return np.concatenate([v.reshape(len(self), -1) for v in self.signals.values()], axis=1)

    def of(self, contract: Contract) -> Recording:
        """What a policy is told of it, in the contract's order.

        Raises InputError where it lacks a signal.
        """
        wanted = [signal.name for signal in asked(contract)]
        if missing := [name for name in wanted if name not in self.signals]:
            known = ", ".join(self.signals)
            mend = "record it, or leave this policy out"
            raise InputError([Violation(n, f"one of {known}", "none", mend) for n in missing])
        sent = [a.name for a in contract.action if a.name in self.commands]
        return Recording(
            {name: self.signals[name] for name in wanted},
            {name: self.commands[name] for name in sent}, self.time, self.episodes,
        )  # fmt: skip

    def save(self, path: Path) -> None:
        """As an npz file that `read` reads."""
        commands = {COMMAND + name: values for name, values in self.commands.items()}
        arrays = {"time": self.time, "episode": self.episodes} | self.signals | commands
        np.savez_compressed(path, **arrays)  # type: ignore[arg-type]

    def transitions(self) -> tuple[FloatArray, FloatArray, NDArray[np.int64]]:
        """Signals and commands [L, Do + Da], what followed [L, Do], and which samples [L] it was.

        L leaves the last sample of each episode out. Without commands they are left out, too.
        """
        before = np.setdiff1d(np.arange(len(self)), self.starts[1:] - 1)
        commands = [v.reshape(len(self), -1) for v in self.commands.values()]
        seen = self.observations
        return np.concatenate([seen, *commands], axis=1)[before], seen[before + 1], before


@dataclass(frozen=True)
class Source:
    """Where a signal is in a log."""

    topic: str
    field: str
    """Of its messages, as robot_policies.logs names them."""


@dataclass(frozen=True)
class Flight:
    """Topics that a quadrotor's signals are made of, as onboard (robot_policies.flights)."""

    odometry: str
    """nav_msgs/Odometry"""
    setpoint: str
    """trajectory_msgs/MultiDOFJointTrajectory"""


@dataclass(frozen=True)
class Sources:
    """Signal or command -> where it is."""

    signals: dict[str, Source] = field(default_factory=dict, metadata=OMITTED)
    commands: dict[str, Source] = field(default_factory=dict, metadata=OMITTED)
    quadrotor: Flight | None = field(default=None, metadata=OMITTED)
    """What tells the signals that `signals` does not name."""


@dataclass(frozen=True)
class Check:
    """What was looked at before the data are believed."""

    name: str
    passed: bool
    told: str

    def __str__(self) -> str:
        return f"{'ok  ' if self.passed else 'FAIL'} {self.name}: {self.told}"


# Reading.


def read(path: Path, contract: Contract, sources: Path | None = None) -> Recording:
    """What the contract's signals were.

    Args:
        path: an npz file as above, or a log (a bag's directory, .mcap, or .npz of Log.save).
        contract: whose signals and rate.
        sources: YAML that says where signals are in a log, as config/log_sources_example.yaml.

    Raises:
        InputError: with every violation, where signals are missing or have other shapes.
        robot_policies.logs.LogError: the log cannot be read.
    """
    if sources is None:
        return _from_arrays(path, contract)
    return _from_log(logs.read(path), decode_yaml(Sources, sources, "sources"), contract)


def asked(contract: Contract) -> list[Observation]:
    """The signals that a robot must tell."""
    return [signal for signal in contract.observation if signal.source == "robot"]


def _from_arrays(path: Path, contract: Contract) -> Recording:
    try:
        with np.load(path, allow_pickle=False) as archive:
            arrays = {name: np.asarray(archive[name]) for name in archive.files}
    except (OSError, ValueError) as error:
        mend = "give an npz file, or a log together with --sources"
        raise InputError([Violation(str(path), "an npz file", str(error), mend)]) from None
    length = len(arrays.get("time", ()))
    if violations := list(_array_violations(arrays, length, contract, str(path))):
        raise InputError(violations)
    commanded = [action.name for action in contract.action]
    episodes = arrays.get("episode", np.zeros(length)).astype(np.int64)
    return Recording(
        {s.name: arrays[s.name].astype(float) for s in asked(contract)},
        {n: arrays[COMMAND + n].astype(float) for n in commanded if COMMAND + n in arrays},
        arrays["time"].astype(float), episodes,
    )  # fmt: skip


def _array_violations(
    arrays: Mapping[str, Any], length: int, contract: Contract, path: str
) -> Iterator[Violation]:
    expected = {"time": (length,), "episode": (length,)}
    expected |= {s.name: (length, *s.shape) for s in asked(contract)}
    commands = {COMMAND + action.name: (length, *action.shape) for action in contract.action}
    optional = {"episode", *commands}
    for name, shape in (expected | commands).items():
        where = f"{path}, {name}"
        if name not in arrays:
            if name not in optional:
                known = ", ".join(sorted(arrays)) or "nothing"
                yield Violation(where, f"{list(shape)}", f"only {known}", "record it")
        elif arrays[name].shape != shape or arrays[name].dtype.kind not in "fiu":
            found = f"{arrays[name].dtype} {list(arrays[name].shape)}"
            yield Violation(where, f"numbers {list(shape)}", found, "save it in this shape")


def _from_log(log: logs.Log, sources: Sources, contract: Contract) -> Recording:
    """Sampled at the control rate, with the newest message of each topic."""
    columns = _signal_columns(log, sources, contract)
    given = {
        action.name: _column(log, sources.commands[action.name], action)
        for action in contract.action if action.name in sources.commands
    }  # fmt: skip
    topics = columns | given
    begin = max(time[0] for time, _ in topics.values())
    end = min(time[-1] for time, _ in topics.values())
    interval = 1 / contract.timing.control_hz
    clock = np.arange(begin, end + interval / 2, interval)
    # Where the slowest topic fell silent, there is no sample.
    newest = {n: np.searchsorted(time, clock, side="right") - 1 for n, (time, _) in topics.items()}
    age = np.max([clock - topics[n][0][index] for n, index in newest.items()], axis=0)
    fresh = age <= GAP_STEPS * interval
    held = {n: topics[n][1][index][fresh] for n, index in newest.items()}
    return Recording(
        {name: held[name] for name in columns}, {name: held[name] for name in given},
        clock[fresh], np.zeros(fresh.sum(), np.int64),
    )  # fmt: skip


def _signal_columns(
    log: logs.Log, sources: Sources, contract: Contract
) -> dict[str, tuple[FloatArray, FloatArray]]:  # fmt: skip
    """Signal -> times [T] and values [T, *shape]."""
    flown = {}
    if sources.quadrotor is not None:
        try:
            flown = flights.signals(log, sources.quadrotor.odometry, sources.quadrotor.setpoint)
        except KeyError as error:
            found = str(error)
            violation = Violation("sources.quadrotor", "a recorded topic", found, "record it")
            raise InputError([violation]) from None
    known = {*sources.signals, *flown}
    if missing := [s.name for s in asked(contract) if s.name not in known]:
        expected = "a topic and a field"
        raise InputError([
            Violation(f"sources.signals.{name}", expected, "nothing", "say where it is")
            for name in missing
        ])  # fmt: skip
    return {
        s.name: _column(log, sources.signals[s.name], s) if s.name in sources.signals
        else flown[s.name]
        for s in asked(contract)
    }  # fmt: skip


def _column(
    log: logs.Log, source: Source, signal: Observation | Action
) -> tuple[FloatArray, FloatArray]:
    """Times [T] and values [T, *shape], by the elements' names where the topic has labels."""
    try:
        topic = log[source.topic]
        values = np.asarray(topic[source.field], float)
    except KeyError as error:
        raise InputError(
            [Violation(signal.name, "a recorded topic", str(error), "record it")]
        ) from None
    values = values.reshape(len(topic.time), -1)
    if topic.labels and len(topic.labels) == values.shape[1]:
        if missing := set(signal.elements) - set(topic.labels):
            found = ", ".join(topic.labels)
            expected = ", ".join(signal.elements)
            mend = f"rename or record {', '.join(sorted(missing))}"
            raise InputError([Violation(f"{source.topic} labels", expected, found, mend)])
        values = values[:, [topic.labels.index(element) for element in signal.elements]]
    if values.shape[1] != len(signal.elements) or not len(values):
        where = f"{source.topic}.{source.field}"
        found = f"{list(values.shape)}"
        expected = f"[T > 0, {len(signal.elements)}]"
        raise InputError([Violation(where, expected, found, "name another field")])
    return topic.time, values.reshape(len(values), *signal.shape)


# Checks.


def checks(
    recording: Recording, contract: Contract, simulated: Recording | None = None
) -> list[Check]:
    """Whether data can be compared with simulation at all; the reasons, where not.

    simulated  what the same behaviour looks like in simulation, for units and order
    """
    found = [_enough(recording), _finite(recording), *_in_time(recording, contract)]
    if simulated is not None and all(check.passed for check in found):
        found += [
            _units(signal, recording.signals[signal.name], simulated.signals[signal.name])
            for signal in asked(contract)
        ]
    return found


def _enough(recording: Recording) -> Check:
    told = f"{len(recording)} samples in {len(recording.starts) - 1} episodes; {FEWEST} are needed"
    return Check("samples", len(recording) >= FEWEST, told)


def _finite(recording: Recording) -> Check:
    bad = [
        f"{name} at {recording.time[np.flatnonzero(~finite)[0]]:.3f} s"
        for name, values in (recording.signals | recording.commands).items()
        if not (finite := np.isfinite(values).reshape(len(values), -1).all(1)).all()
    ]
    return Check("finite", not bad, "not finite: " + ", ".join(bad) if bad else "all numbers are")


def _in_time(recording: Recording, contract: Contract) -> Iterator[Check]:
    steps = np.diff(recording.time)[np.diff(recording.episodes) == 0]
    if not len(steps):
        yield Check("time", False, "expected two samples of an episode or more")
        return
    back = int((steps <= 0).sum())
    yield Check("time", back == 0, f"{back} samples are not after the one before")
    wanted, found = contract.timing.control_hz, 1 / max(float(np.median(steps)), 1e-9)
    close = abs(found / wanted - 1) <= RATE_SHARE
    yield Check("rate", close, f"{found:.1f} Hz, of {wanted:g} Hz that policies are stepped at")
    gaps = steps > GAP_STEPS / wanted
    told = f"{gaps.sum()} of more than {GAP_STEPS:g} periods, the longest {steps.max():.3f} s"
    yield Check("gaps", bool(gaps.mean() <= GAPS), told)


def _units(signal: Observation, real: FloatArray, simulated: FloatArray) -> Check:
    """Medians and spreads by element; another unit or order that would explain them is named."""
    real, simulated = (v.reshape(len(v), -1) for v in (real, simulated))
    away = _away(real, simulated)
    worst = int(away.argmax())
    told = f"{signal.elements[worst]} is {away[worst]:.1f} standard deviations from simulation"
    if away[worst] < FAR:
        if order := _better_order(real, simulated):
            names = ", ".join(signal.elements[i] for i in order)
            return Check(f"{signal.name} order", False, f"fits simulation in the order {names}")
        return Check(signal.name, True, told)
    for what, factor in FACTORS.items():
        alike = real.std(0) / factor / np.maximum(simulated.std(0), 1e-9)
        if _away(real / factor, simulated).max() < 2 and 0.3 < np.median(np.abs(alike)) < 3:
            return Check(f"{signal.name} unit", False, f"{told}: it seems to be in {what}")
    if order := _better_order(real, simulated):
        names = ", ".join(signal.elements[i] for i in order)
        told += f": it would fit in the order {names}"
    return Check(f"{signal.name} unit or order", False, told)


def _away(real: FloatArray, simulated: FloatArray) -> FloatArray:
    """[W] distance of medians, or of spreads where that is larger, in standard deviations."""
    spread = simulated.std(0)
    spread = np.where(spread > 1e-9, spread, np.inf if len(spread) else 1.0)
    medians = np.abs(np.median(real, axis=0) - np.median(simulated, axis=0)) / spread
    return np.maximum(medians, real.std(0) / spread)


def _better_order(real: FloatArray, simulated: FloatArray) -> list[int] | None:
    """Which real element each element of simulation most looks like; None where as they are."""
    from scipy.optimize import linear_sum_assignment

    shares = np.linspace(0.05, 0.95, 19)
    spread = np.maximum(simulated.std(0), 1e-9)
    left, right = (np.quantile(v, shares, axis=0) for v in (simulated, real))
    cost = np.abs(left[:, :, None] - right[:, None, :]).mean(0) / spread[:, None]
    rows, columns = linear_sum_assignment(cost)
    own = np.trace(cost)
    if own - cost[rows, columns].sum() < 0.5 * own or own < len(cost):
        return None
    return columns.tolist()
