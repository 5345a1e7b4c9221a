"""Evaluate bundles side by side in a task: `robot-policies evaluate --task arm-reach`.

    options = Options(("runs/a/bundle", "runs/b/bundle"), task="arm-reach", engine="mujoco",
                      randomization=Path("config/randomization_example.yaml"), seed=0)
    evaluation = run(options)
    evaluation.figures["runs/a/bundle"]["success"]     # 0.93 [0.91, 0.95]

All bundles meet the same robots, starts, targets and disturbances, so that differences are paired.
"""

from __future__ import annotations

import hashlib
import math
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Literal

import numpy as np

from robot_policies import OnnxPolicy, bundle, load_policy
from robot_policies.runtime import split_sampler
from robot_policies.strict import require
from sim import tasks
from sim.estimate import Estimate
from sim.randomization_terms import Spec, load
from sim.tasks import figures
from sim.tasks.driver import Driver, notes, require_fit
from sim.tasks.figures import Correlation, Interval, Statistic, Unusual, Values
from sim.tasks.task import Columns, Task

OUTCOMES = ("return", "length", "success", "final_distance", "diverged")
"""What is recorded of every episode, beside its parameters."""
MEANS: dict[str, tuple[str, Statistic]] = {
    "return": ("return", np.mean),
    "mean final distance": ("final_distance", np.mean),
    "median final distance": ("final_distance", np.median),
}
"""Figure -> outcome and statistic."""
SUCCESS = "success"
COLUMNS = {
    "return": ("return", 1, ".2f"),
    SUCCESS: ("success %", 100, ".1f"),
    "mean final distance": ("mean final distance, mm", 1e3, ".1f"),
    "median final distance": ("median, mm", 1e3, ".1f"),
}
"""Figure -> heading, scale and format of its column."""
Watch = Callable[[str, int, Task], None]
RENDERED = tuple(name for name in tasks.TASKS if name.startswith(("arm-", "meta-world/")))
"""The tasks of which there are videos: those that MuJoCo can show."""


@dataclass(frozen=True)
class Options:
    """What is evaluated. Raises InputError, with every violation, for what cannot be."""

    bundles: tuple[str, ...]
    """Paths or zoo:NAME, each maybe with @SAMPLER; the others are compared with the first."""
    task: str
    """One of sim.tasks.TASKS."""
    engine: str
    """One that simulates the task."""
    device: Literal["cpu", "gpu"] = "cpu"
    """Where it runs: gpu with genesis only."""
    randomization: Path | None = None
    """YAML as config/randomization_example.yaml; None: everything as in the model."""
    robot: Path | None = None
    """YAML with a robot of your own; see sim/tasks/README.md."""
    episodes: int = 1000
    """E, numbered from 0."""
    environments: int = 250
    """Simulated at once. With the seed it decides what is drawn for an episode."""
    seed: int = 0
    """Of all that is drawn, of policies that draw noise, and of the bootstrap."""
    interval: Interval = "wilson"
    """Of the success rate: wilson, or exact for Clopper and Pearson's."""
    worst_by: Literal["final_distance", "return"] = "final_distance"
    """What makes an episode a bad one."""
    worst: int = 10
    """How many of the worst episodes, and of what goes with them, are listed."""
    pictures: tuple[int, ...] = ()
    """Episodes to plot, for every bundle."""
    videos: tuple[int, ...] = ()
    """Episodes to film, for every bundle; not of the quadrotor."""
    output: Path | None = None
    """A new folder for result.json, episodes.parquet, index.html, pictures and videos."""
    threads: int = 1
    """Of the engine."""

    def __post_init__(self) -> None:
        """Refuse contradictions before anything is simulated."""
        once = len(set(self.bundles)) == len(self.bundles) > 0
        shown = (*self.pictures, *self.videos)
        there = all(0 <= episode < self.episodes for episode in shown)
        numbers = f"episodes from 0 to {self.episodes - 1}"
        require(
            "options",
            (once, "bundles", "one or more, none of them twice", self.bundles),
            (self.episodes >= 3, "episodes", "3 or more, for intervals", self.episodes),
            (self.environments >= 1, "environments", "1 or more", self.environments),
            (self.seed >= 0, "seed", "0 or more", self.seed),
            (self.worst >= 0, "worst", "0 or more", self.worst),
            (there, "pictures and videos", numbers, shown),
            (not shown or self.output is not None, "output", "a folder for pictures and videos",
             self.output),
            (not self.videos or self.task in RENDERED, "videos",
             f"none but of {', '.join(RENDERED)}; ask for pictures", self.task),
            (self.output is None or not self.output.exists(), "output",
             "a folder that does not exist yet", self.output),
        )  # fmt: skip

    @property
    def count(self) -> int:
        """N, the environments simulated at once."""
        return min(self.environments, self.episodes)

    @property
    def rounds(self) -> int:
        """How often they are simulated."""
        return -(-self.episodes // self.count)

    @cached_property
    def spec(self) -> Spec:
        """The randomisation. Raises InputError for a file that is none."""
        return Spec(()) if self.randomization is None else load(self.randomization)


@dataclass(frozen=True)
class Evaluation:
    """What came out."""

    options: Options
    hashes: dict[str, str]
    """Bundle -> SHA-256 over all of its files."""
    notes: dict[str, list[str]]
    """Bundle -> in what the robot is not the one that it was made for."""
    records: dict[str, Columns]
    """Bundle -> columns [E]: OUTCOMES and the parameters "term/name", as episodes ended;
    of pushes (N s) the sum."""
    policies: dict[str, OnnxPolicy] = field(repr=False)
    task: Task = field(repr=False)

    @cached_property
    def figures(self) -> dict[str, dict[str, Estimate]]:
        """Bundle -> figure -> its value and interval."""
        return {name: self._figures(records) for name, records in self.records.items()}

    @cached_property
    def differences(self) -> dict[str, dict[str, Estimate]]:
        """Every bundle but the first -> figure -> paired difference from the first."""
        first, *others = self.options.bundles
        means = MEANS | {SUCCESS: (SUCCESS, np.mean)}
        return {
            name: {
                figure: figures.difference(
                    statistic, self.records[name][outcome], self.records[first][outcome],
                    self.options.seed,
                )
                for figure, (outcome, statistic) in means.items()
            }
            for name in others
        }  # fmt: skip

    def bad(self, name: str) -> Values:
        """[E] how bad a bundle's episodes were; infinite where they diverged."""
        records, by = self.records[name], self.options.worst_by
        value = records[by] if by == "final_distance" else -records[by]
        return np.where(records["diverged"], np.inf, value)

    def parameters(self, name: str) -> Columns:
        """The randomised parameters of the episodes, [E] each."""
        return {n: column for n, column in self.records[name].items() if n not in OUTCOMES}

    def correlations(self, name: str) -> list[Correlation]:
        """Which parameters go with bad episodes of a bundle."""
        return figures.correlations(self.bad(name), self.parameters(name))

    def worst(self, name: str) -> list[tuple[int, list[Unusual]]]:
        """The worst episodes of a bundle, each with its most unusual parameters."""
        parameters = self.parameters(name)
        episodes = figures.worst(self.bad(name), self.options.worst)
        return [(episode, figures.unusual(parameters, episode)) for episode in episodes]

    def diverged(self, name: str) -> list[tuple[int, int]]:
        """Episode and environment of each simulation that diverged: all failures."""
        episodes = np.flatnonzero(self.records[name]["diverged"]).tolist()
        return [(episode, episode % self.options.count) for episode in episodes]

    def about(self) -> dict[str, Any]:
        """All that decides the numbers."""
        chosen = ("task", "engine", "device", "robot", "episodes", "environments", "seed")
        return {key: getattr(self.options, key) for key in chosen} | {
            "randomization": [asdict(term) for term in self.options.spec.terms],
            "bundles": dict(self.hashes),
        }

    def document(self) -> dict[str, Any]:
        """result.json; null stands for a number that is not finite."""
        names = self.options.bundles
        return _finite({
            "ok": True,
            "options": asdict(self.options),
            "about": self.about(),
            "figures": {n: _plain(found) for n, found in self.figures.items()},
            f"minus {names[0]}": {n: _plain(found) for n, found in self.differences.items()},
            "diverged": {n: [episode for episode, _ in self.diverged(n)] for n in names},
            "notes": self.notes,
            "correlations": {n: [vars(row) for row in self.correlations(n)] for n in names},
            "worst": {n: [self._bad_episode(n, *row) for row in self.worst(n)] for n in names},
        })  # fmt: skip

    def _figures(self, records: Columns) -> dict[str, Estimate]:
        found = {SUCCESS: figures.share(records[SUCCESS], self.options.interval)} | {
            name: figures.bootstrapped(statistic, records[outcome], self.options.seed)
            for name, (outcome, statistic) in MEANS.items()
        }
        return {name: found[name] for name in COLUMNS}

    def _bad_episode(self, name: str, episode: int, strange: list[Unusual]) -> dict[str, Any]:
        outcome = {key: self.records[name][key][episode].item() for key in OUTCOMES}
        return {"episode": episode} | outcome | {"unusual": [vars(row) for row in strange]}


def _plain(found: Mapping[str, Estimate]) -> dict[str, dict[str, float]]:
    return {name: dict(vars(estimate)) for name, estimate in found.items()}


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return str(value) if isinstance(value, Path) else value


# What people read.


def table(evaluation: Evaluation) -> tuple[list[str], list[list[str]]]:
    """Headings and rows of text: the figures, then the differences from the first bundle."""
    first = evaluation.options.bundles[0]
    rows = [[name, *_cells(found)] for name, found in evaluation.figures.items()]
    rows += [[f"{n}, minus {first}", *_cells(d)] for n, d in evaluation.differences.items()]
    return ["bundle", *(heading for heading, _, _ in COLUMNS.values())], rows


def remarks(evaluation: Evaluation) -> list[str]:
    """Sentences on what is to be known beside the figures."""
    found = []
    for name in evaluation.options.bundles:
        found += [f"{name}: {note}" for note in evaluation.notes[name]]
        if lost := evaluation.diverged(name):
            shown = ", ".join(f"{e} (environment {n})" for e, n in lost[:8])
            more = f" and {len(lost) - 8} more" if len(lost) > 8 else ""
            found.append(f"{name}: {len(lost)} diverged, which are failures: {shown}{more}")
    return found


def correlation_table(evaluation: Evaluation, name: str) -> tuple[list[str], list[list[str]]]:
    """Headings and rows of text: the parameters that go most surely with bad episodes."""
    rows = [
        [row.parameter, f"{row.rank_correlation:+.2f}", f"{row.p_value:.2g}",
         f"{row.adjusted_p_value:.2g}"]
        for row in evaluation.correlations(name)[: evaluation.options.worst]
    ]  # fmt: skip
    return ["parameter", "rank correlation", "p", "p by Holm"], rows


def worst_table(evaluation: Evaluation, name: str) -> tuple[list[str], list[list[str]]]:
    """Headings and rows of text: the worst episodes and what is unusual about them."""
    rows = []
    for episode, strange in evaluation.worst(name):
        outcome = {key: evaluation.records[name][key][episode] for key in OUTCOMES}
        told = [f"{u.parameter} {u.value:.3g} ({u.percentile:.0f} %)" for u in strange]
        distance = f"{1e3 * outcome['final_distance']:.1f}"
        end = "diverged" if outcome["diverged"] else "success" if outcome["success"] else "failure"
        rows.append([str(episode), f"{outcome['return']:.2f}", distance, end, "; ".join(told)])
    unusual = "most unusual parameters (percentile)"
    return ["episode", "return", "final distance, mm", "end", unusual], rows


def _cells(found: Mapping[str, Estimate]) -> list[str]:
    return [_cell(found[name], scale, form) for name, (_, scale, form) in COLUMNS.items()]


def _cell(estimate: Estimate, scale: float, form: str) -> str:
    value, low, high = (
        f"{scale * x:{form}}" for x in (estimate.value, estimate.low, estimate.high)
    )
    return f"{value} [{low}, {high}]"


# The simulation.


def run(options: Options) -> Evaluation:
    """Load, evaluate and, where there is an output, write; with a progress bar on a terminal.

    Raises what `evaluate` raises, and OSError where videos cannot be made, before anything runs.
    """
    from sim.tasks import evaluation_page, replay  # a package that is missing, is missed now

    if options.videos:
        replay.require_rendering()
    named = {name: split_sampler(name) for name in options.bundles}
    policies = {name: load_policy(path, sampler=way) for name, (path, way) in named.items()}
    hashes = {name: digest(path) for name, (path, _) in named.items()}
    evaluation = evaluate(policies, options, hashes)
    if options.output is not None:
        evaluation_page.write(evaluation, options.output)
    return evaluation


def digest(name: str) -> str:
    """SHA-256 over all files of a bundle."""
    found = bundle.read(name)
    return hashlib.sha256(bundle.policy_json(found.contract, found.files)).hexdigest()


def evaluate(
    policies: Mapping[str, OnnxPolicy], options: Options, hashes: Mapping[str, str] | None = None,
    watch: Watch | None = None,
) -> Evaluation:  # fmt: skip
    """Run loaded policies, by the names in options.bundles.

    hashes  of the bundles, for the record
    watch   called with a bundle's name, the round and the task before every step

    Raises ContractError, with every violation, for policies that are none for the task, and
    where one gives numbers that are not finite; else what sim.tasks.make raises.
    """
    if tuple(policies) != options.bundles:
        raise ValueError(f"policies: expected {options.bundles}; found {tuple(policies)}")
    task = tasks.make(
        options.task, engine=options.engine, count=options.count, seed=options.seed,
        threads=options.threads, randomization=options.spec, robot=options.robot,
        device=options.device,
    )  # fmt: skip
    require_fit(policies, task)
    total = len(policies) * options.rounds * task.scene.episode_steps
    with _progress(total) as advance:
        records = {
            name: _records(
                task,
                Driver(policy, task),
                options,
                partial(advance, name),
                (lambda *_: None) if watch is None else partial(watch, name),
            )
            for name, policy in policies.items()
        }
    remarked = {name: notes(policy.contract, task) for name, policy in policies.items()}
    return Evaluation(options, dict(hashes or {}), remarked, records, dict(policies), task)


def round_seed(seed: int, number: int) -> int:
    """The seed of a round: as if anew, so that no episode depends on how an earlier one ended.

    Hashed, so that it is not one of those that a training counted up from the same seed.
    """
    return int(np.random.SeedSequence((seed, number)).generate_state(1)[0])


def begin(task: Task, driver: Driver, seed: int, number: int) -> None:
    """Begin the first episodes of a round: of environment i that is episode number * N + i."""
    task.reset(seed=round_seed(seed, number))
    driver.begin(round_seed(seed, number))


def _records(
    task: Task, driver: Driver, options: Options, advance: Callable[[], None],
    watch: Callable[[int, Task], None],
) -> Columns:  # fmt: skip
    rounds = []
    for number in range(options.rounds):
        begin(task, driver, options.seed, number)
        rounds.append(_first_episodes(task, driver, advance, partial(watch, number)))
    return {
        name: np.concatenate([columns[name] for columns in rounds])[: options.episodes]
        for name in rounds[0]
    }


def _first_episodes(
    task: Task, driver: Driver, advance: Callable[[], None], watch: Callable[[Task], None]
) -> Columns:  # fmt: skip
    """The record of one episode for each environment, [N] each.

    Just one, or short episodes would count more often than long ones; who is done, waits.
    """
    task.episodes = []
    running = np.full(task.num_envs, True)
    while running.any():
        watch(task)
        _, _, terminated, truncated, _ = task.step(driver.act())
        ended = terminated | truncated
        task.scene.rest(np.flatnonzero(ended))
        running &= ~ended
        advance()
    blocks, task.episodes = task.episodes, None
    joined = {name: np.concatenate([block[name] for block in blocks]) for name in blocks[0]}
    first = np.flatnonzero(joined.pop("episode") == 0)
    order = first[np.argsort(joined.pop("environment")[first])]
    return {name: column[order] for name, column in joined.items()}


@contextmanager
def _progress(total: int) -> Iterator[Callable[[str], None]]:
    """What is called with a bundle's name for every step of `total`."""
    from rich.console import Console
    from rich.progress import Progress

    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not sys.stderr.isatty()) as bar:
        shown = bar.add_task("", total=total)
        yield lambda name: bar.update(shown, advance=1, description=name)
