"""Demonstrations: episodes of a task that a scripted expert acts in, as a data set.

    config = CollectConfig("arm-push", episodes=200, seed=0)
    dataset = collect(config, Path("data/push"), resume=False, command="...")

Episodes are simulated in rounds of one for each environment, which are seeded as those of an
evaluation are. So attempt number round * environments + environment is the same in every
collection with the same configuration: an interrupted one goes on to the same data set.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from itertools import count
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from robot_policies.datasets import Column, Dataset, Writer, read
from robot_policies.graph import provenance
from robot_policies.strict import InputError, Violation, decode, parse_json, require
from sim import tasks
from sim.randomization_terms import load
from sim.runs import plain, write_atomically
from sim.tasks import experts
from sim.tasks.evaluation import round_seed
from sim.tasks.experts import Expert
from sim.tasks.scene import BoolArray
from sim.tasks.task import Float32Array, Task

Rows = dict[str, NDArray[Any]]
"""Column -> [T, width] of an episode, or [N, width] of a step of all environments."""

STATE, ACTION = "observation.state", "action"
REWARD, DONE, SUCCESS, DISTURBED = "next.reward", "next.done", "next.success", "disturbed"

FEWEST_ATTEMPTS = 20
"""After so many the expert is judged."""
FEWEST_SUCCESSES = 0.25
"""As a share of the attempts, or the collection stops."""
TALLY = "attempts.json"
"""In the data set's folder: a Tally."""


@dataclass(frozen=True)
class CollectConfig:
    """All that decides a data set. Raises InputError, with every violation, for what cannot be."""

    task: str
    """One of sim.tasks.TASKS with a scripted expert."""
    episodes: int
    """How many to keep."""
    seed: int
    """Of all that is drawn."""
    engine: str = "mujoco"
    """One that simulates the task."""
    environments: int = 25
    """Simulated at once. With the seed it decides what is drawn for an episode."""
    randomization: Path | None = None
    """YAML as config/randomization_example.yaml; None: everything as in the model."""
    robot: Path | None = None
    """YAML with a robot of your own; see sim/tasks/README.md."""
    keep: Literal["successes", "all"] = "successes"
    """all: failures of the expert, too, but none whose simulation diverged."""

    def __post_init__(self) -> None:
        """Refuse contradictions before anything is simulated."""
        require(
            "collection",
            (self.episodes >= 1, "episodes", "1 or more", self.episodes),
            (self.seed >= 0, "seed", "0 or more", self.seed),
            (self.environments >= 1, "environments", "1 or more", self.environments),
            (self.keep in ("successes", "all"), "keep", "successes or all", self.keep),
        )


@dataclass(frozen=True)
class Demonstration:
    """An episode of the expert."""

    number: int
    """Of the attempt: round * environments + environment."""
    success: bool
    diverged: bool
    rows: Rows


@dataclass(frozen=True)
class Tally:
    """How a collection went, up to the attempt that is counted last."""

    attempts: int = 0
    successes: int = 0
    kept: int = 0

    def count(self, attempt: Demonstration, kept: bool) -> Tally:
        """With one attempt more."""
        return Tally(self.attempts + 1, self.successes + attempt.success, self.kept + kept)

    @property
    def failures(self) -> int:
        """Of the expert."""
        return self.attempts - self.successes


def tally(path: Path) -> Tally:
    """What `collect` counted in a data set's folder; none yet where it never got that far."""
    file = path / TALLY
    if not file.exists():
        return Tally()
    violations: list[Violation] = []
    found = decode(Tally, parse_json(file.read_bytes(), TALLY), TALLY, violations)
    if violations:
        raise InputError(violations)
    return found


def collect(config: CollectConfig, output: Path, *, resume: bool, command: str) -> Dataset:
    """Let the expert act until there are enough episodes; with a progress bar on a terminal.

    config   decides the data set, bit by bit
    output   a new folder; with `resume` also that of an interrupted collection
    command  the command line, for the record

    Raises what sim.tasks.make and experts.make do, FileExistsError for a folder that exists,
    InputError for one that holds another collection, and ValueError for an expert that fails in
    more than three quarters of its attempts.
    """
    spec = None if config.randomization is None else load(config.randomization)
    task = tasks.make(
        config.task, engine=config.engine, count=config.environments, seed=config.seed, threads=1,
        randomization=spec, robot=config.robot,
    )  # fmt: skip
    expert = experts.make(config.task, task.scene, config.seed)
    with Writer(
        output, columns=columns(task), fps=task.timing.control_hz, robot=task.robot.model,
        source=_source(config, task, command), resume=resume,
    ) as writer:  # fmt: skip
        if not writer.done:
            with _progress(config.task, config.episodes) as show:
                _fill(writer, config, task, expert, show)
    return read(output, columns={column.name: None for column in columns(task)})


def columns(task: Task) -> tuple[Column, ...]:
    """The columns of demonstrations of a task.

    observation.state  what the policy is told, without the previous action
    action             the expert's command in the contract's units, also where another acted
    next.reward        of the step
    next.done          the episode ended with the step
    next.success       and as it should; False within an episode
    disturbed          a random action acted in the expert's place (task.disturbed)
    """
    told = [signal for signal in task.observation if signal.source == "robot"]
    return (
        _column(STATE, "float32", [f"{s.name}/{element}" for s in told for element in s.elements]),
        _column(ACTION, "float32", [f"{a.name}/{e}" for a in task.action for e in a.elements]),
        _column(REWARD, "float32", ["reward"]),
        _column(DONE, "bool", ["done"]),
        _column(SUCCESS, "bool", ["success"]),
        _column(DISTURBED, "bool", ["disturbed"]),
    )


def _column(name: str, dtype: str, elements: list[str]) -> Column:
    return Column(name, dtype, (len(elements),), tuple(elements))


def _source(config: CollectConfig, task: Task, command: str) -> dict[str, Any]:
    """What made the data set, as plain values; without times, which would differ."""
    origin = provenance(source="", licence="", seeds=(), data_sha256="")
    terms = () if config.randomization is None else load(config.randomization).terms
    return {
        "configuration": plain(config),
        "randomization": [plain(term) for term in terms],
        "interface": plain(task.scene.interface),
        "made_by": {
            "command": command, "git_revision": origin.git_revision,
            "git_dirty": origin.git_dirty, "versions": origin.versions,
        },
    }  # fmt: skip


def _fill(
    writer: Writer, config: CollectConfig, task: Task, expert: Expert, show: Callable[[int], None]
) -> None:
    """Add what is missing; the round under way is simulated anew, and what is there, skipped."""
    counted = tally(writer.path)
    for attempt in attempts(task, expert, config.seed, counted.attempts // task.num_envs):
        keep = attempt.success if config.keep == "successes" else not attempt.diverged
        counted = counted.count(attempt, keep)
        if keep and counted.kept > writer.episodes:
            writer.add(task.scene.about, attempt.rows, {"attempt": attempt.number})
        _require_successes(config, counted)
        show(counted.kept)
        full = counted.kept == config.episodes
        if full or counted.attempts % task.num_envs == 0:
            write_atomically(writer.path / TALLY, json.dumps(asdict(counted)) + "\n")
        if full:
            return


def _require_successes(config: CollectConfig, counted: Tally) -> None:
    """Stop where an expert is none, rather than to go on for hours."""
    few = counted.successes < FEWEST_SUCCESSES * counted.attempts
    if few and counted.attempts >= FEWEST_ATTEMPTS:
        share = counted.successes / counted.attempts
        randomized = f"randomised by {config.randomization}" if config.randomization else "nominal"
        raise ValueError(
            f"{config.task}, {randomized}: expected an expert that succeeds in "
            f"{FEWEST_SUCCESSES:.0%} of its attempts or more; found {share:.0%} of "
            f"{counted.attempts}. Randomise less, or give a robot that it can handle"
        )


# The simulation.


def attempts(task: Task, expert: Expert, seed: int, first: int) -> Iterator[Demonstration]:
    """The expert's attempts in order, from round `first` on, without end."""
    for number in count(first):
        yield from _round(task, expert, seed, number)


def _round(task: Task, expert: Expert, seed: int, number: int) -> list[Demonstration]:
    """One episode of each environment; who is done, rests."""
    ids = np.arange(task.num_envs)
    task.reset(seed=round_seed(seed, number))
    expert.begin(ids, np.full(task.num_envs, number))
    running = np.full(task.num_envs, True)
    length, diverged = np.zeros(task.num_envs, int), np.zeros(task.num_envs, bool)
    steps: list[Rows] = []
    while running.any():
        row, lost = _step(task, expert)
        steps.append(row)
        ended = row[DONE][:, 0]
        task.scene.rest(np.flatnonzero(ended))
        length += running
        diverged |= lost & running
        running &= ~ended
    joined = {name: np.stack([row[name] for row in steps], axis=1) for name in steps[0]}
    made = []
    for i in ids.tolist():
        rows = {name: values[i, : length[i]] for name, values in joined.items()}
        success = bool(rows[SUCCESS][-1, 0])
        made.append(Demonstration(number * len(ids) + i, success, bool(diverged[i]), rows))
    return made


def _step(task: Task, expert: Expert) -> tuple[Rows, BoolArray]:
    """A control period of all environments: its rows, and who diverged [N]."""
    state = np.concatenate([v.reshape(task.num_envs, -1) for v in task.signals().values()], axis=1)
    raw = _raw(task, expert.act())
    _, reward, terminated, truncated, infos = task.step(raw)
    none = np.zeros(task.num_envs, bool)
    final = infos.get("final_info", {"success": none, "diverged": none})
    row = {
        STATE: state,
        ACTION: task.commands(raw),
        REWARD: reward.astype(np.float32),
        DONE: terminated | truncated,
        SUCCESS: final["success"],
        DISTURBED: task.disturbed,
    }
    return {name: value.reshape(task.num_envs, -1) for name, value in row.items()}, final[
        "diverged"
    ]


def _raw(task: Task, commands: NDArray[np.float64]) -> Float32Array:
    """The raw actions [N, Da] that the contract maps to commands [N, Da]."""
    scale, offset = (
        np.array([x for action in task.action for x in getattr(action, key)])
        for key in ("scale", "offset")
    )
    return ((commands - offset) / scale).astype(np.float32)


# Progress.


@contextmanager
def _progress(name: str, total: int) -> Iterator[Callable[[int], None]]:
    """What is called with the number of episodes kept: a bar, or a line for each tenth."""
    if not sys.stderr.isatty():
        yield _Tenths(name, total).show
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as bar:
        shown = bar.add_task(name, total=total)
        yield lambda kept: bar.update(shown, completed=kept)


class _Tenths:
    def __init__(self, name: str, total: int) -> None:
        self._name, self._total, self._shown = name, total, 0

    def show(self, kept: int) -> None:
        tenth = 10 * kept // self._total
        if tenth > self._shown:
            self._shown = tenth
            print(f"{self._name} {kept}/{self._total} episodes", file=sys.stderr, flush=True)
