"""Sweeps: a training run for every combination of a grid's values, each done only once.

    options = Options("arm-reach/ppo", Path("config/sweep_example.yaml"), Path("runs/rates"))
    summary = sweep(options)              # trains what is missing
    columns, rows = summary.table()

    OUTPUT/runs/KEY/      a run's folder (see sim/runs.py); done.json in it once the run has ended
    OUTPUT/logs/KEY.txt   what the run printed, and a line for each time that it began or ended
    OUTPUT/locks/KEY      held while a process works on the run
    OUTPUT/summary.json   and .csv: the grid's values, figures, status and seconds of every run

KEY is a hash of all that decides how a run comes out, so the same OUTPUT serves a grid that grows,
and several processes on one file system: whoever comes next does what is missing.
"""

from __future__ import annotations

import csv
import fcntl
import hashlib
import io
import itertools
import json
import os
import re
import shutil
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import MISSING, dataclass, fields, replace
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Literal, Protocol, TypeVar

import yaml

from robot_policies.strict import InputError, Violation, decode
from robot_policies.strict_yaml import load_yaml

if TYPE_CHECKING:
    from robot_policies.bundle import PolicyBundle

VERSION = "1"
"""Of what a run computes: change it, and every run is done anew."""
KEY_LENGTH = 16
AVERAGED = 0.1
"""Share of a stage, its end, over which its figures are averaged."""

Plain = dict[str, Any]
T = TypeVar("T")


# What to sweep, and where.


@dataclass(frozen=True)
class Shard:
    """One of several equal shares, for a Slurm array's tasks; `index` counts from 1."""

    index: int
    count: int

    @classmethod
    def parse(cls, text: str) -> Shard:
        """Of "3/8". Raises ValueError for what is no share."""
        match = re.fullmatch(r"([0-9]+)/([0-9]+)", text)
        shard = cls(*map(int, match.groups())) if match else None
        if shard is None or not 1 <= shard.index <= shard.count:
            raise ValueError(
                f"shard: expected I/N with I from 1 to N, such as 3/8, found {text!r}; in Slurm, "
                "sbatch --array=1-N and $SLURM_ARRAY_TASK_ID/$SLURM_ARRAY_TASK_COUNT"
            )
        return shard

    def of(self, items: Sequence[T]) -> Sequence[T]:
        """Items index, index + count and so on; the shares of all indices are all items."""
        return items[self.index - 1 :: self.count]


@dataclass(frozen=True)
class Options:
    """What is swept; raises ValueError for what cannot be."""

    task: str
    """TASK/FAMILY, see `family_of`."""
    file: Path
    """YAML: the base and the grid, as config/sweep_example.yaml explains."""
    output: Path
    """A new folder, or that of a sweep to go on with. All machines that take part share it."""
    executor: Literal["local", "ray", "shard"] = "local"
    """local: processes of this machine. ray: the cluster at RAY_ADDRESS, or this machine where
    that is not set. shard: processes of this machine, which do one share of the runs."""
    shard: str | None = None
    """I/N, with executor shard: run I, I + N, I + 2 N and so on."""
    workers: int = 2
    """How many runs at a time, each with one thread."""
    command: str = ""
    """The command line, for the runs' records."""

    def __post_init__(self) -> None:
        """Refuse contradictions before a folder is made."""
        if self.executor not in ("local", "ray", "shard"):
            raise ValueError(f"executor: expected local, ray or shard; found {self.executor!r}")
        if self.workers < 1:
            raise ValueError(f"workers: expected at least 1, found {self.workers}")
        if self.executor == "shard" and self.shard is None:
            raise ValueError("executor shard: expected --shard I/N, found none; say which share")
        if self.executor != "shard" and self.shard is not None:
            raise ValueError(
                f"shard: expected none with executor {self.executor}, found {self.shard!r}; "
                "leave it out, or take --executor shard"
            )
        self.share()

    def share(self) -> Shard:
        """The runs that are this call's to do."""
        return Shard(1, 1) if self.shard is None else Shard.parse(self.shard)


def sweep(options: Options) -> Summary:
    """Do the runs that are missing, show progress on standard error, write the summary.

    A run that raises an exception fails alone. One whose worker dies is begun again, from its
    last checkpoint, a few times.

    Raises:
        InputError: the YAML file holds something else; every violation is named.
        FileExistsError: OUTPUT is a folder of something else.
        ModuleNotFoundError: ray is not installed.
    """
    share, specs = options.share(), read(options.file, options.task)
    if options.executor == "ray":
        from sim.executors import require_ray

        require_ray()
    output = options.output.resolve()
    _prepare(output)
    rows = _do(share.of(specs), output, options)
    summary = Summary(options.task, tuple(rows))
    name = f"summary-{share.index}-of-{share.count}" if options.shard else "summary"
    _write_whole(output / f"{name}.json", json.dumps(summary.document(), indent=1) + "\n")
    _write_whole(output / f"{name}.csv", summary.csv())
    return summary


# From the YAML file to one resolved configuration for each run.


@dataclass(frozen=True)
class Spec:
    """One run: everything that decides how it comes out."""

    task: str
    """TASK/FAMILY."""
    values: Plain
    """Of the grid: dotted path -> value as the file has it."""
    configuration: Plain
    """Resolved: the configuration's plain form, as config.yaml in the run's folder has it."""
    key: str
    """Of `task`, `configuration` and the contents of the files that it names."""


def read(file: Path, task: str) -> list[Spec]:
    """The runs that a YAML file asks for, the grid's last path changing fastest.

    Raises InputError with every violation, FileNotFoundError without the file.
    """
    violations: list[Violation] = []
    base, grid = _declared(file, violations)
    family = family_of(task)
    specs = []
    for combination in itertools.product(*grid.values()):
        values = dict(zip(grid, combination, strict=True))
        document = family.defaults()
        for path, value in (*base.items(), *values.items()):
            document = _changed(document, path.split("."), value)
        config = family.decode(document, file.parent, violations)
        if config is not None:
            specs.append(_spec(task, values, family, config))
    violations += _repeated(specs)
    if violations:
        each = {str(violation): violation for violation in violations}.values()
        raise InputError(replace(item, where=f"{file.name}: {item.where}") for item in each)
    return specs


def _declared(file: Path, violations: list[Violation]) -> tuple[Plain, dict[str, list[Any]]]:
    """`base` and `grid`, as far as they are sound."""
    try:
        document = load_yaml(file)
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # ValueError: not UTF-8
        found = " ".join(str(error).split())[:200]
        raise InputError([_wrong(file.name, "keys and values in YAML", found)]) from None
    document = document if isinstance(document, dict) else {}
    if document.keys() != {"base", "grid"}:
        found = ", ".join(map(str, document)) or "neither"
        violations.append(_wrong("sweep", "the keys base and grid, and no others", found))
    parts = []
    for name in ("base", "grid"):
        part = document.get(name, {})
        if not (isinstance(part, dict) and all(isinstance(key, str) for key in part)):
            violations.append(_wrong(name, "names and values", part))
            part = {}
        parts.append(part)
    base, grid = parts
    violations += _unsound(base, grid)
    return base, {path: v if isinstance(v, list) else [v] for path, v in grid.items() if v != []}


def _unsound(base: Plain, grid: Plain) -> Iterator[Violation]:
    if not grid:
        yield _wrong("grid", "one path or more, each with its values", "none")
    for path, values in grid.items():
        listed = isinstance(values, list) and len(values) > 0
        if not listed or any(value in values[:n] for n, value in enumerate(values)):
            yield _wrong(f"grid.{path}", "a list of one value or more, each once", values)
        for other in grid:
            if other.startswith(f"{path}."):
                yield _wrong(f"grid.{path}", f"no path above {other}", "both")
    given = [path for key, value in base.items() for path in _leaves(key, value)]
    for path in {path: None for path in given if [*given, *grid].count(path) > 1}:
        yield _wrong(f"base.{path}", "one place that gives it", "several")


def _leaves(path: str, value: Any) -> Iterator[str]:
    if not isinstance(value, dict):
        yield path
        return
    for key, inner in value.items():
        yield from _leaves(f"{path}.{key}", inner)


def _changed(document: Any, path: Sequence[str], value: Any) -> Any:
    """A plain document with another value at `path`; a mapping changes only what it names."""
    if path:
        first, *rest = path
        if isinstance(document, list) and first.isdecimal() and int(first) < len(document):
            number = int(first)
            inner = _changed(document[number], rest, value)
            return [*document[:number], inner, *document[number + 1 :]]
        document = document if isinstance(document, dict) else {}
        return {**document, first: _changed(document.get(first), rest, value)}
    if not isinstance(value, dict):
        return value
    document = document if isinstance(document, dict) else {}
    for key, inner in value.items():
        document = _changed(document, [str(key)], inner)
    return document


def _spec(task: str, values: Plain, family: Family, config: Any) -> Spec:
    from sim.runs import plain

    configuration = plain(config)
    contents = [hashlib.sha256(file.read_bytes()).hexdigest() for file in family.files(config)]
    text = json.dumps([VERSION, task, configuration, contents], sort_keys=True)
    key = hashlib.sha256(text.encode()).hexdigest()[:KEY_LENGTH]
    return Spec(task, values, configuration, key)


def _repeated(specs: Sequence[Spec]) -> Iterator[Violation]:
    first: dict[str, Spec] = {}
    for spec in specs:
        if (other := first.setdefault(spec.key, spec)) is not spec:
            found = f"{_told(other.values)} and {_told(spec.values)}, which are the same run"
            yield _wrong("grid", "a run of its own for each combination", found)


def _wrong(where: str, expected: str, found: object) -> Violation:
    text = found if isinstance(found, str) else repr(found)
    return Violation(where, expected, text[:200], "correct the file")


def _told(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{path} {_cell(value)}" for path, value in values.items())


# The kinds of training.


class Family(Protocol):
    """How policies of one kind are configured and trained."""

    @property
    def figures(self) -> tuple[str, ...]:
        """Those of the log that summarise a run; each is taken from the last stage that has it."""
        ...

    def defaults(self) -> Plain:
        """The configuration's defaults; what has none must come from the sweep's file."""
        ...

    def decode(self, document: Plain, near: Path, violations: list[Violation]) -> Any:
        """The typed configuration of a plain one, or None and more violations.

        near: the folder from which relative paths start.
        """
        ...

    def files(self, config: Any) -> Sequence[Path]:
        """The files that a configuration names, of which its result depends."""
        ...

    def train(self, config: Any, folder: Path, *, resume: bool, command: str) -> PolicyBundle:
        """Train in the run folder `folder`, or go on with it; ends with a bundle in it."""
        ...


def family_of(task: str) -> Family:
    """By TASK/FAMILY. Raises ValueError for none that is known."""
    if task == "quadrotor/foundation":
        return _Foundation()
    from sim.tasks import TASKS

    name, _, kind = task.rpartition("/")
    if kind != "ppo" or name not in TASKS:
        known = ", ".join([f"{name}/ppo" for name in TASKS] + ["quadrotor/foundation"])
        raise ValueError(f"task: expected one of {known}; found {task!r}")
    return _Reinforcement(name, TASKS[name])


def _defaults(kind: Any) -> Plain:
    from sim.runs import plain

    given = {}
    for field in fields(kind):
        if field.default is not MISSING:
            given[field.name] = field.default
        elif field.default_factory is not MISSING:
            given[field.name] = field.default_factory()
    return plain(given)


class _Reinforcement:
    """sim/reinforcement.py in one of the tasks."""

    figures = ("return", "success", "final_distance", "error")

    def __init__(self, task: str, engines: Sequence[str]) -> None:
        self._task, self._engines = task, engines

    def defaults(self) -> Plain:
        from sim.reinforcement import ReinforcementConfig

        return _defaults(ReinforcementConfig) | {"task": self._task}

    def decode(self, document: Plain, near: Path, violations: list[Violation]) -> Any:
        """Of `randomization` also the path of its file; `robot` is one."""
        from sim.reinforcement import ReinforcementConfig

        before = len(violations)
        robot, terms = document.get("robot"), document.get("randomization")
        violations += self._refused(document)
        if isinstance(terms, str):
            terms = _randomization(near / terms, violations)
        known = {**document, "robot": None, "randomization": terms}
        config = decode(ReinforcementConfig, known, "configuration", violations)
        if isinstance(robot, str) and config is not None:
            config = replace(config, robot=(near / robot).resolve())
            with _gathered("configuration.robot", violations):
                self.files(config)
        return config if len(violations) == before else None

    def _refused(self, document: Plain) -> Iterator[Violation]:
        robot, engine = document["robot"], document.get("engine", self._engines[0])
        if document["task"] != self._task:
            expected = f"{self._task}, as the command says, or nothing"
            yield _wrong("configuration.task", expected, document["task"])
        if engine not in self._engines:
            yield _wrong("configuration.engine", " or ".join(self._engines), engine)
        if not (robot is None or isinstance(robot, str)):
            yield _wrong("configuration.robot", "the path of a YAML file, or null", robot)

    def files(self, config: Any) -> Sequence[Path]:
        if config.robot is None:
            return ()
        if config.task == "quadrotor":
            from sim.quadrotor import airframes

            airframes.load(config.robot)
            return (config.robot,)
        from sim.tasks import arm

        return config.robot, Path(arm.load(config.robot).model)

    def train(self, config: Any, folder: Path, *, resume: bool, command: str) -> PolicyBundle:
        from sim.reinforcement import train_bundle

        return train_bundle(config, folder, resume=resume, threads=1, command=command)


class _Foundation:
    """sim/quadrotor/foundation.py."""

    figures = ("return", "survival", "error")

    def defaults(self) -> Plain:
        from sim.quadrotor.foundation import FoundationConfig

        return _defaults(FoundationConfig)

    def decode(self, document: Plain, near: Path, violations: list[Violation]) -> Any:
        from sim.quadrotor.foundation import FoundationConfig

        return decode(FoundationConfig, document, "configuration", violations)

    def files(self, config: Any) -> Sequence[Path]:
        return ()

    def train(self, config: Any, folder: Path, *, resume: bool, command: str) -> PolicyBundle:
        from sim.quadrotor.foundation import train_bundle

        return train_bundle(
            config, folder, resume=resume, executor="local", workers=1, threads=1, command=command
        )


def _randomization(path: Path, violations: list[Violation]) -> Plain | None:
    from sim.randomization_terms import load
    from sim.runs import plain

    with _gathered("configuration.randomization", violations):
        return plain(load(path))
    return None


@contextmanager
def _gathered(where: str, violations: list[Violation]) -> Iterator[None]:
    """Add what is wrong with a file to the violations."""
    try:
        yield
    except InputError as error:
        violations.extend(error.violations)
    except (OSError, ValueError) as error:
        violations.append(_wrong(where, "a file that can be read", str(error)))


# One run.


def run(job: Plain) -> Plain:
    """Train one Spec in its folder, from its checkpoint where there is one; once done, it is done.

    job: "task", "configuration" and "key" of a Spec, "output", and "command" for the record.
    Returns "figures", "bundle" (path relative to the output) and "seconds".

    Raises BlockingIOError while another process works on the same run, InputError for another
    configuration, and what training raises.
    """
    output, key = Path(job["output"]), job["key"]
    violations: list[Violation] = []
    family = family_of(job["task"])
    config = family.decode(job["configuration"], output, violations)
    if violations:
        raise InputError(violations)
    with _alone(output / "locks" / key):
        if (result := finished(output, key)) is not None:
            return result
        with _logged(output / "logs" / f"{key}.txt"):
            folder = output / "runs" / key
            resume = (folder / "config.yaml").is_file()
            if not resume:  # killed before it was a run's folder
                shutil.rmtree(folder, ignore_errors=True)
            bundle = family.train(config, folder, resume=resume, command=job["command"])
        result = {
            "figures": _figures(folder, family.figures),
            "bundle": str(bundle.path.relative_to(output)),
            "seconds": _seconds(bundle.path),
        }
        _write_whole(_done_file(output, key), json.dumps(result, indent=1) + "\n")
    return result


def finished(output: Path, key: str) -> Plain | None:
    """What `run` returned; None while it is not done.

    Raises ValueError where the record is damaged.
    """
    file = _done_file(output, key)
    if not file.exists():
        return None
    try:
        result = json.loads(file.read_text(encoding="utf-8"))
        whole = result.keys() == {"figures", "bundle", "seconds"}
    except (ValueError, AttributeError):
        whole = False
    if not whole:
        raise ValueError(
            f"{file}: expected a run's figures, bundle and seconds, found something else; delete "
            "the file, and the sweep makes it again"
        )
    return result if (output / result["bundle"]).is_dir() else None


def _done_file(output: Path, key: str) -> Path:
    return output / "runs" / key / "done.json"


def _figures(folder: Path, names: Sequence[str]) -> dict[str, float | None]:
    """Means over the end of the last stage that logged them; None where one is not finite."""
    lines = (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    columns: dict[str, dict[str, list[float | None]]] = {name: {} for name in names}
    for entry in map(json.loads, lines):
        for name in columns.keys() & entry["metrics"].keys():
            columns[name].setdefault(entry["stage"], []).append(entry["metrics"][name])
    last = {name: [*stages.values()][-1] for name, stages in columns.items() if stages}
    return {name: _mean(values[-max(1, int(AVERAGED * len(values))) :]) for name, values in
            last.items()}  # fmt: skip


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if len(known) == len(values) else None


def _seconds(bundle: Path) -> float:
    """By the clock, in all stages and over all resumes."""
    training = yaml.safe_load((bundle / "training.yaml").read_text(encoding="utf-8"))
    return sum(stage["wall"] for stage in training["seconds"].values())


@contextmanager
def _alone(lock: Path) -> Iterator[None]:
    """Hold a lock file, which the death of this process frees, too."""
    with lock.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise BlockingIOError(
                f"run {lock.name}: expected nobody at work on it, found another process; call "
                "again when that has ended"
            ) from None
        yield


@contextmanager
def _logged(path: Path) -> Iterator[None]:
    """Send all that is printed, by libraries and child processes too, to the end of a file."""
    with path.open("a", encoding="utf-8") as log:
        _mark(log, "begins")
        with _redirected(log):
            try:
                yield
            except Exception:
                traceback.print_exc(file=log)
                _mark(log, "failed")
                raise
        _mark(log, "finished")


def _mark(log: IO[str], event: str) -> None:
    now = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime())
    print(f"{now} UTC, process {os.getpid()}: {event}", file=log, flush=True)


@contextmanager
def _redirected(log: IO[str]) -> Iterator[None]:
    kept = {descriptor: os.dup(descriptor) for descriptor in (1, 2)}
    try:
        _direct({descriptor: log.fileno() for descriptor in kept})
        yield
    finally:
        _direct(kept)
        for copy in kept.values():
            os.close(copy)


def _direct(targets: Mapping[int, int]) -> None:
    """Let standard output (1) and error (2) lead elsewhere from here on."""
    sys.stdout.flush()
    sys.stderr.flush()
    for descriptor, target in targets.items():
        os.dup2(target, descriptor)


# All runs.


def _prepare(output: Path) -> None:
    """Make the folder, or take that of a sweep."""
    if output.exists() and not (output / "runs").is_dir() and any(output.iterdir()):
        raise FileExistsError(
            f"{output}: expected a new folder or that of a sweep, found another one; give a new "
            "name"
        )
    for name in ("runs", "logs", "locks"):
        (output / name).mkdir(parents=True, exist_ok=True)


def _do(specs: Sequence[Spec], output: Path, options: Options) -> list[Row]:
    """Do what is missing; a row for each spec, in their order."""
    from sim.executors import run_jobs

    rows = {
        spec.key: Row(spec, "done", **result)
        for spec in specs
        if (result := finished(output, spec.key)) is not None
    }
    missing = [spec for spec in specs if spec.key not in rows]
    common = {"output": str(output), "command": options.command}
    jobs = [
        {"task": spec.task, "configuration": spec.configuration, "key": spec.key, **common}
        for spec in missing
    ]
    executor = "ray" if options.executor == "ray" else "local"
    workers = max(1, min(options.workers, len(jobs)))
    with (
        run_jobs(run, jobs, None, executor=executor, workers=workers, version=VERSION) as results,
        _progress(len(specs)) as show,
    ):
        show([*rows.values()])
        for outcome in results:
            spec = missing[outcome.index]
            rows[spec.key] = _row(spec, output, outcome.value, outcome.error)
            show([*rows.values()])
    return [rows[spec.key] for spec in specs]


def _row(spec: Spec, output: Path, result: Plain | None, error: str) -> Row:
    if result is None:  # the job, which is told after its fault, is the row's
        return Row(spec, "failed", error=error.partition("; job {")[0])
    if finished(output, spec.key) is None:
        error = "its files are not in OUTPUT; machines that take part must share OUTPUT"
        return Row(spec, "failed", error=error)
    return Row(spec, "done", **result)


Show = Callable[[Sequence["Row"]], None]


@contextmanager
def _progress(total: int) -> Iterator[Show]:
    """Show how many runs are done, failed and left: a bar on a terminal, lines elsewhere."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}", markup=False), BarColumn(), TimeElapsedColumn())
    terminal = sys.stderr.isatty()
    with Progress(*columns, console=Console(stderr=True), disable=not terminal) as bar:
        task = bar.add_task("", total=total)

        def show(rows: Sequence[Row]) -> None:
            failed = sum(row.status == "failed" for row in rows)
            done, left = len(rows) - failed, total - len(rows)
            text = f"runs: {done} done, {failed} failed, {left} left"
            bar.update(task, completed=len(rows), description=text)
            if not terminal:
                print(text, file=sys.stderr, flush=True)

        yield show


# What came out.


@dataclass(frozen=True)
class Row:
    """How one run ended."""

    spec: Spec
    status: Literal["done", "failed"]
    figures: Mapping[str, float | None] | None = None
    bundle: str | None = None
    """Relative to the output."""
    seconds: float | None = None
    error: str = ""
    """Why it failed, in one line."""


@dataclass(frozen=True)
class Summary:
    """The runs of a sweep, or of one shard of it, in the grid's order."""

    task: str
    rows: tuple[Row, ...]

    @property
    def ok(self) -> bool:
        """Whether all runs are done; otherwise the exit code is 1."""
        return all(row.status == "done" for row in self.rows)

    def failures(self) -> list[str]:
        """A line for each run that failed: which, why, and where to read on."""
        return [
            f"{_told(row.spec.values)}: {row.error}; see logs/{row.spec.key}.txt"
            for row in self.rows
            if row.status == "failed"
        ]

    def table(self) -> tuple[list[str], list[list[str]]]:
        """Headings and rows of text: the grid's values, status, seconds, figures and run."""
        columns, rows = self._cells()
        return columns, [[*map(_cell, row)] for row in rows]

    def csv(self) -> str:
        """The same in full precision, with bundles and reasons."""
        columns, rows = self._cells()
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow([*columns, "bundle", "error"])
        for cells, row in zip(rows, self.rows, strict=True):
            writer.writerow([*cells, row.bundle, row.error])
        return text.getvalue()

    def document(self) -> Plain:
        """The same as one JSON document."""
        entries = [
            {
                "run": row.spec.key,
                "values": row.spec.values,
                "status": row.status,
                "figures": dict(row.figures or {}),
                "seconds": row.seconds,
                "bundle": row.bundle,
                "error": row.error,
            }
            for row in self.rows
        ]
        return {"ok": self.ok, "task": self.task, "runs": entries}

    def _cells(self) -> tuple[list[str], list[list[Any]]]:
        paths = list(self.rows[0].spec.values) if self.rows else []
        names = list(dict.fromkeys(name for row in self.rows for name in row.figures or {}))
        return [*paths, "status", "seconds", *names, "run"], [
            [
                *row.spec.values.values(), row.status, row.seconds,
                *((row.figures or {}).get(name) for name in names), row.spec.key,
            ]
            for row in self.rows
        ]  # fmt: skip


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    return "-" if value is None else str(value)


def _write_whole(path: Path, text: str) -> None:
    """Write a file so that a kill leaves the old one or the new one."""
    staging = path.with_name(f"{path.name}.{os.getpid()}.new")
    with staging.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    staging.replace(path)
