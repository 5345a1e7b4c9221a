"""Fly bundles side by side in the RAPTOR protocol: `robot-policies evaluate`.

All bundles fly the same quadrotors, starts, references and disturbances, so that differences are
paired; every figure has a 95 % interval from a bootstrap over quadrotors, or over the flights of
one airframe alone.
"""

from __future__ import annotations

import importlib.util
import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from robot_policies import OnnxPolicy, load_policy
from robot_policies.contract import Contract
from robot_policies.strict import ContractError, Violation
from sim.estimate import Estimate
from sim.quadrotor import airframes, l2f_peer, scenario, trajectories
from sim.quadrotor.airframes import Airframes
from sim.quadrotor.cases import CASES, Case
from sim.quadrotor.disturbances import UNDISTURBED
from sim.quadrotor.dynamics import PROTOCOL_DT, State
from sim.quadrotor.evaluation import (
    EPISODE_STEPS,
    PROTOCOL_LIMITS,
    Limits,
    Result,
    pool,
    result_of,
)
from sim.quadrotor.scenario import Scenario
from sim.quadrotor.trajectories import Reference

SIGNALS = {
    "position_error": ("m", "world", (3,)),
    "rotation_matrix": ("1", "world_from_body", (9,)),
    "linear_velocity_error": ("m/s", "world", (3,)),
    "angular_velocity": ("rad/s", "body", (3,)),
}
"""What the protocol tells a policy: name -> unit, frame, shape."""
MOTORS = ("front_right", "back_right", "back_left", "front_left")
POSITION_RANGE = 0.5
KNOWN_LIMITS = Limits(math.inf, math.inf)
"""Known airframes fly without the limits on position and velocity, as the peer's did."""
PATHS = 3
"""Flights of which the trace keeps the path."""


@dataclass(frozen=True)
class Options:
    """What is flown; raises ValueError for what cannot be."""

    bundles: tuple[str, ...]
    """Paths or zoo:NAME; the others are compared with the first."""
    quadrotors: int | None = None
    """How many are sampled for each seed; None: 128, or the known ones."""
    episodes: int = 8
    """Flights of each quadrotor."""
    seeds: tuple[int, ...] = (0, 1)
    """One set of quadrotors (or only of starts, where they are known) for each."""
    cases: tuple[str, ...] = ("nominal",)
    """Names in CASES."""
    airframes: str = "sampled"
    """sampled, standard, or a YAML file of one (see airframes.load)."""
    trajectory: str = "hold"
    simulator: Literal["torch", "l2f"] = "torch"
    l2f_python: Path | None = None
    """An interpreter with L2F; this one where omitted."""
    seed: int = 0
    """Of the bootstrap, and of policies that draw noise."""

    def __post_init__(self) -> None:
        """Refuse contradictions before anything flies."""
        _require_distinct("bundles", self.bundles)
        _require_distinct("seeds", self.seeds)
        _require_distinct("cases", self.cases)
        _require_known("cases", self.cases, tuple(CASES))
        _require_known("trajectory", (self.trajectory,), trajectories.TRAJECTORIES)
        if self.known and self.quadrotors is not None:
            raise ValueError(
                f"quadrotors: expected none for airframes {self.airframes}, which are "
                f"{len(self.known)}; found {self.quadrotors}"
            )
        self._require_samples()
        self._require_carried()
        if self.simulator == "l2f":
            self._require_l2f()

    def _require_samples(self) -> None:
        """An interval from one sample would have no width."""
        name, found = "quadrotors", self.count
        if self.known:  # which have a row each, of their own flights
            name, found = "episodes x seeds", self.episodes * len(self.seeds)
        if found < 2:
            raise ValueError(f"{name}: expected at least 2, for an interval; found {found}")

    def _require_carried(self) -> None:
        """Refuse a payload that comes after everything else was flown."""
        for name, airframe in self.known.items():
            for case in self.cases:
                factor = CASES[case].disturbances.payload_factor
                if (left := float(airframe.thrust_to_weight) / factor) < 1:
                    raise ValueError(
                        f"cases: expected payloads that {name} can carry, found {case}, "
                        f"{factor:g} times the mass, which leaves a thrust over weight of "
                        f"{left:.3g}; leave the case out"
                    )

    def _require_l2f(self) -> None:
        if self.trajectory != "hold":
            raise ValueError(
                f"simulator: expected torch for the trajectory {self.trajectory}, found l2f; it "
                "flies hold alone"
            )
        if disturbed := [n for n in self.cases if CASES[n].disturbances != UNDISTURBED]:
            able = [n for n, case in CASES.items() if case.disturbances == UNDISTURBED]
            raise ValueError(
                f"simulator: expected torch for the cases {', '.join(disturbed)}, found l2f; it "
                f"flies {', '.join(able)}"
            )
        most, flights = l2f_peer.MAX_FLIGHTS, self.count * self.episodes
        if flights > most:
            raise ValueError(
                f"simulator: l2f takes at most {most} flights at once, found {flights}; lower "
                "--quadrotors or --episodes, and give more --seeds"
            )
        if self.l2f_python is None and importlib.util.find_spec("l2f") is None:
            try:
                l2f_peer.version()
            except ImportError as error:
                raise ValueError(str(error)) from None

    @property
    def count(self) -> int:
        """How many different quadrotors fly for each seed."""
        if self.known:
            return len(self.known)
        return 128 if self.quadrotors is None else self.quadrotors

    @property
    def limits(self) -> Limits:
        """What ends a flight."""
        return KNOWN_LIMITS if self.known else PROTOCOL_LIMITS

    @property
    def known(self) -> dict[str, Airframes]:
        """The airframes that fly, by name; none where they are sampled."""
        if self.airframes == "sampled":
            return {}
        if self.airframes == "standard":
            return {name: airframes.standard(name) for name in airframes.STANDARD_NAMES}
        if not self.airframes.endswith((".yaml", ".yml")):
            raise ValueError(
                f"airframes: expected sampled, standard or a YAML file, found {self.airframes!r}"
            )
        return {Path(self.airframes).stem: airframes.load(self.airframes)}


def _require_distinct(name: str, values: Sequence[object]) -> None:
    if not values or len(set(values)) < len(values):
        found = ", ".join(map(str, values)) or "none"
        raise ValueError(f"{name}: expected at least one, none of them twice; found {found}")


def _require_known(name: str, values: Sequence[str], known: Sequence[str]) -> None:
    if unknown := [value for value in values if value not in known]:
        raise ValueError(f"{name}: expected some of {', '.join(known)}; found {unknown[0]!r}")


class Trace:
    """Watches the flights of one set, for the plots."""

    def __init__(self, episodes: int) -> None:
        """Watch flights that lie airframe-major."""
        self._episodes = episodes
        self._distance: list[Tensor] = []
        self._path: list[Tensor] = []

    def __call__(self, state: State, error: State, alive: Tensor) -> None:
        """Take one step (see evaluation.Watch)."""
        distance = error.position.norm(dim=0)
        self._distance.append(torch.where(alive, distance, math.inf))
        self._path.append(state.position[:, :: self._episodes][:, :PATHS])

    @property
    def distance(self) -> np.ndarray:
        """[T, N] m from the target; infinite from where a flight ended."""
        return torch.stack(self._distance).numpy()

    @property
    def path(self) -> np.ndarray:
        """[T, 3, up to PATHS] m, world: the first flight of each of the first quadrotors."""
        return torch.stack(self._path).numpy()


@dataclass(frozen=True)
class Row:
    """The flights of one bundle in one case."""

    bundle: str
    case: str
    sets: Mapping[str, Result]
    """By seed, or by airframe where they are known."""
    total: Result
    trace: Trace | None
    """Of the first seed; None where L2F flew."""


Line = tuple[str, str, dict[str, Estimate]]
"""Bundle, set, figures."""


@dataclass(frozen=True)
class Evaluation:
    """Everything that was flown, and its figures."""

    options: Options
    hashes: Mapping[str, str]
    """Bundle -> SHA-256 of its contract."""
    references: Reference
    """Of the first seed."""
    rows: list[Row]

    def of(self, case: str) -> list[Row]:
        """The rows of one case, the first bundle first."""
        return [row for row in self.rows if row.case == case]

    @cached_property
    def lines(self) -> dict[str, list[Line]]:
        """By case: each set of every bundle, all of them, and what differs from the first."""
        return {case: [*self._lines(case)] for case in self.options.cases}

    def _lines(self, case: str) -> Iterator[Line]:
        seed, rows = self.options.seed, self.of(case)
        for row in rows:
            for name, result in row.sets.items():
                yield row.bundle, name, result.summary(seed=seed)
            if len(row.sets) > 1:
                yield row.bundle, "all", row.total.summary(seed=seed)
            if row is not rows[0]:
                difference = row.total.minus(rows[0].total, seed=seed)
                yield row.bundle, f"all, minus {rows[0].bundle}", difference

    def document(self) -> dict[str, Any]:
        """What --json prints: numbers, null where infinite or undefined."""
        plain = {k: str(v) if isinstance(v, Path) else v for k, v in vars(self.options).items()}
        return {"ok": True, "options": plain, "bundles": dict(self.hashes), "cases": [
            {"case": name, "description": CASES[name].description, "figures": [
                {"bundle": bundle, "set": label, **{n: _numbers(e) for n, e in figures.items()}}
                for bundle, label, figures in self.lines[name]
            ]}
            for name in self.options.cases
        ]}  # fmt: skip


def _numbers(estimate: Estimate) -> dict[str, float | None]:
    return {n: v if math.isfinite(v) else None for n, v in vars(estimate).items()}


COLUMNS: dict[str, tuple[str, float, str]] = {
    "return": ("return", 1, ".1f"),
    "survival": ("survive %", 100, ".1f"),
    "median final distance": ("median final p, m", 1, ".4f"),
    "share below 0.1 m": ("< 0.1 m %", 100, ".1f"),
    "share below 0.2 m": ("< 0.2 m %", 100, ".1f"),
    "median tracking error": ("median tracking, m", 1, ".4f"),
}
"""Figure -> heading, scale and format of its column."""


def table(evaluation: Evaluation, case: str) -> tuple[list[str], list[list[str]]]:
    """Headings and rows of text."""
    rows = [[bundle, name, *cells(figures)] for bundle, name, figures in evaluation.lines[case]]
    return ["bundle", "set", *(heading for heading, _, _ in COLUMNS.values())], rows


def cells(figures: Mapping[str, Estimate]) -> list[str]:
    """The figures as text in the order of COLUMNS: value and 95 % interval."""
    return [_cell(figures[name], scale, form) for name, (_, scale, form) in COLUMNS.items()]


def _cell(estimate: Estimate, scale: float, form: str) -> str:
    value, low, high = (
        "-" if math.isnan(number) else f"{scale * number:{form}}"
        for number in (estimate.value, estimate.low, estimate.high)
    )
    return f"{value} [{low}, {high}]"


def run(options: Options) -> Evaluation:
    """Fly everything; a progress bar on standard error, where that is a terminal.

    Raises ContractError for a bundle that the protocol cannot fly, ValueError for bad options.
    """
    policies = {name: load(name) for name in options.bundles}
    hashes = {name: policy.contract.sha256() for name, policy in policies.items()}
    torch.set_num_threads(1)  # the batches are too small for more
    flown: dict[tuple[str, str], list[tuple[Result, Trace | None]]] = {}
    for case, seed, bundle in _progress(options):
        flight = _fly(policies[bundle], bundle, CASES[case], seed, options)
        flown.setdefault((case, bundle), []).append(flight)
    rows = [_row(case, bundle, flights, options) for (case, bundle), flights in flown.items()]
    return Evaluation(options, hashes, _reference(options, options.seeds[0]), rows)


def load(name: str) -> OnnxPolicy:
    """A bundle that the protocol can fly. Raises ContractError with every reason against it."""
    policy = load_policy(name)
    if violations := list(_mismatches(policy.contract)):
        raise ContractError(violations)
    return policy


def _mismatches(contract: Contract) -> Iterator[Violation]:
    mend = f"the quadrotor task cannot fly the bundle {contract.name}: give one made for it"
    asked = {s.name: s for s in contract.observation if s.source == "robot"}
    if asked.keys() != SIGNALS.keys():
        yield Violation("observation", ", ".join(SIGNALS), ", ".join(asked), mend)
    for name in asked.keys() & SIGNALS.keys():
        signal = asked[name]
        found = (signal.unit, signal.frame, signal.shape)
        if found != SIGNALS[name]:
            yield Violation(f"observation.{name}", str(SIGNALS[name]), str(found), mend)
    if [(a.name, a.elements, a.unit, a.mode) for a in contract.action] != [
        ("motors", MOTORS, "1", "absolute")
    ]:
        found = "; ".join(f"{a.name} {', '.join(a.elements)}" for a in contract.action)
        yield Violation("action", f"motors {', '.join(MOTORS)}, absolute", found, mend)
    elif any(set(v) != {0.5} for v in (contract.action[0].scale, contract.action[0].offset)):
        found = f"{contract.action[0].scale} and {contract.action[0].offset}"
        yield Violation("action.motors", "scale and offset 0.5 (raw is -1 to 1)", found, mend)
    rate, steps = contract.timing.control_hz, contract.chunk.steps
    if (rate, steps) != (round(1 / PROTOCOL_DT), 1):
        yield Violation("timing", "100 Hz, one action a step", f"{rate:g} Hz, {steps}", mend)


def _progress(options: Options) -> Iterator[tuple[str, int, str]]:
    """Case, seed and bundle of every flight to make, shown as progress."""
    from rich.console import Console
    from rich.progress import Progress

    flights = [(c, s, b) for c in options.cases for s in options.seeds for b in options.bundles]
    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not sys.stderr.isatty()) as bar:
        task = bar.add_task("", total=len(flights))
        for case, seed, bundle in flights:
            bar.update(task, description=f"{case}, seed {seed}, {bundle}")
            yield case, seed, bundle
            bar.advance(task)


def _fly(
    policy: OnnxPolicy, bundle: str, case: Case, seed: int, options: Options
) -> tuple[Result, Trace | None]:
    flights = _flights(options, seed)
    if options.simulator == "l2f":
        prepared, limits = case.prepare(flights, seed), case.loosen(options.limits)
        extra = {"bundle": np.array(_address(bundle)), "seed": np.array(options.seed)}
        return fly_in_l2f(prepared, options.l2f_python, limits, extra), None
    trace = Trace(options.episodes)
    reference = None if options.trajectory == "hold" else _reference(options, seed)
    result = case.fly(
        policy, flights, seed,
        policy_seed=options.seed, limits=options.limits, reference=reference, watch=trace,
    )  # fmt: skip
    return result, trace


def fly_in_l2f(
    flights: Scenario, python: Path | None, limits: Limits, extra: Mapping[str, np.ndarray]
) -> Result:
    """Fly a scenario in L2F: the bundle that `extra` names, or the authors' numpy policy.

    Raises ValueError or ImportError where L2F cannot be had, see l2f_peer.run.
    """
    arrays = {**flights.arrays(), "limits": np.array(list(vars(limits).values())), **extra}
    found = l2f_peer.run("fly", arrays, python)
    names = ("total_reward", "survived", "final_distance", "tracking_error")
    return result_of(*(found[name] for name in names), episodes=flights.episodes)


def _address(bundle: str) -> str:
    """What names the bundle also where another directory is the current one."""
    return bundle if bundle.startswith("zoo:") else str(Path(bundle).resolve())


def _flights(options: Options, seed: int) -> Scenario:
    known = list(options.known.values())
    fleet = airframes.join(known) if known else airframes.sample(options.count, seed)
    return scenario.on_airframes(
        fleet, options.episodes, seed, with_force=True, position_range=POSITION_RANGE
    )


def _reference(options: Options, seed: int) -> Reference:
    count = options.count * options.episodes
    return trajectories.sample(options.trajectory, count, EPISODE_STEPS, seed)


def _row(
    case: str, bundle: str, flights: Sequence[tuple[Result, Trace | None]], options: Options
) -> Row:
    results, traces = zip(*flights, strict=True)
    total = pool(results, same_quadrotors=bool(options.known))
    sets = _sets(results, total, options)
    if len(options.known) == 1:
        (total,) = sets.values()
    return Row(bundle, case, sets, total, traces[0])


def _sets(results: Sequence[Result], total: Result, options: Options) -> dict[str, Result]:
    """The parts of `total`; of one airframe alone the episodes are the samples."""
    if not options.known:
        return {f"seed {s}": result for s, result in zip(options.seeds, results, strict=True)}
    return {
        name: Result(*(values[index][:, None] for values in vars(total).values()))
        for index, name in enumerate(options.known)
    }
