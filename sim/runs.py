"""A run folder: what a training run was, how it went, and where it goes on after a kill.

    config.yaml        the resolved configuration; only this one may resume the run
    environment.json   command, seed, versions, platform, git revision; the same for each resume
    metrics.jsonl      one line per log: {"time", "stage", "step", "metrics"}
    events/            the same for TensorBoard, rebuilt from metrics.jsonl at every resume
    checkpoints/       STAGE.pt, the newest checkpoint of a stage
    results/           STAGE.pt, what a finished stage made
    lock               held while a process uses the folder

A trainer is a row of named stages, each counting its own steps:

    with Run.resume(path, config) if resume else Run.create(path, config, command) as run:
        if run.finished("teacher") is None:
            step, payload = run.load("teacher") or (0, fresh())
            with run.progress("teacher", total, step) as bar:
                ...
                run.log("teacher", step, {"return": 611.0})
                bar.update(step, {"return": 611.0})
                run.save("teacher", step, payload)
            run.finish("teacher", payload)

A step is a number of steps done: what is saved at step 100 goes on with the 101st.
"""

from __future__ import annotations

import fcntl
import json
import math
import os
import platform
import re
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path, PurePath
from typing import IO, Any, Protocol

import torch
import yaml

from robot_policies.graph import provenance
from robot_policies.strict import differences

_FORMAT = "robot_policies run, format 1"
_PLAIN_PROGRESS_SECONDS = 30.0

Metrics = Mapping[str, float]


@dataclass(frozen=True)
class Seconds:
    """Time spent: `cpu` of this process and its ended children, `wall` on the clock."""

    cpu: float = 0.0
    wall: float = 0.0

    def __add__(self, other: Seconds) -> Seconds:
        """Both together."""
        return Seconds(self.cpu + other.cpu, self.wall + other.wall)

    def __sub__(self, other: Seconds) -> Seconds:
        """What `other` is short of this."""
        return Seconds(self.cpu - other.cpu, self.wall - other.wall)


class Bar(Protocol):
    """What `Run.progress` gives."""

    def update(self, step: int, metrics: Metrics | None = None) -> None:
        """Show `step` steps done; without metrics the last ones stay."""
        ...


class Run:
    """An open run folder; made by `create` or `resume`, used in a `with` statement."""

    path: Path

    def __init__(self, path: Path, resources: ExitStack) -> None:
        """Use `create` or `resume`; `resources` holds the lock."""
        self.path = path
        self._resources = resources
        self._spent: dict[str, Seconds] = {}
        self._started: dict[str, Seconds] = {}
        for name in ("checkpoints", "results"):
            (path / name).mkdir(exist_ok=True)
        entries = self._trim_metrics()
        self._metrics = resources.enter_context(_metrics_file(path).open("a", encoding="utf-8"))
        self._events = self._rebuild_events(entries)

    @classmethod
    def create(cls, path: str | Path, config: Any, command: str) -> Run:
        """Begin a run in a new folder.

        Args:
            path: the folder; its parents are made.
            config: a dataclass of plain values, sequences, mappings, paths and such dataclasses:
                everything that the result depends on, and nothing else (the folder and whether
                to resume belong to the command). A field `seed` goes to environment.json.
            command: the command line that starts the run.

        Raises:
            FileExistsError: the folder exists.
            ValueError: the configuration holds something else.
        """
        path = Path(path)
        document = plain(config)
        try:
            path.mkdir(parents=True)
        except FileExistsError:
            raise FileExistsError(
                f"{path}: expected no such folder, found one, and a run is never overwritten; "
                "go on with it by --resume, or name another folder"
            ) from None
        with ExitStack() as resources:
            _lock(path, resources)
            environment = {"command": command, "seed": document.get("seed")} | _environment()
            _write_json(path / "environment.json", environment | {"resumed": []})
            # Written last: a folder with a configuration is a whole one.
            write_atomically(path / "config.yaml", yaml.safe_dump(document, sort_keys=False))
            return cls(path, resources.pop_all())

    @classmethod
    def resume(cls, path: str | Path, config: Any) -> Run:
        """Open the folder of a run that ended early, or of a finished one.

        Metrics beyond the last checkpoint of their stage are cut off: those steps come again.

        Raises:
            FileNotFoundError: there is no run in this folder.
            BlockingIOError: another process uses it.
            ValueError: it has another configuration (every difference is named), or a file in it
                is damaged or foreign.
        """
        path = Path(path)
        if not (path / "config.yaml").is_file():
            raise FileNotFoundError(
                f"{path}: expected the folder of a run, found no config.yaml in it; "
                "begin the run without --resume"
            )
        with ExitStack() as resources:
            _lock(path, resources)
            _require_same(path, plain(config))
            _note_resume(path / "environment.json")
            return cls(path, resources.pop_all())

    def __enter__(self) -> Run:
        """The run itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close it."""
        self.close()

    def close(self) -> None:
        """Write out what is buffered and let others use the folder."""
        self._resources.close()

    def log(self, stage: str, step: int, metrics: Metrics) -> None:
        """Append metrics to metrics.jsonl and to TensorBoard's scalars `stage/name`.

        A value that is not finite is written as null.
        """
        _check_stage(stage)
        values = {name: float(value) for name, value in metrics.items()}
        finite = {k: value if math.isfinite(value) else None for k, value in values.items()}
        entry = {"time": round(time.time(), 3), "stage": stage, "step": step, "metrics": finite}
        self._metrics.write(json.dumps(entry, allow_nan=False) + "\n")
        self._metrics.flush()
        self._show(entry)

    def save(self, stage: str, step: int, payload: Mapping[str, Any]) -> None:
        """Replace the checkpoint of a stage, in one piece or not at all.

        The payload holds tensors and plain values. Raises ValueError for anything else: it could
        not be read back without running code from the file.
        """
        os.fsync(self._metrics.fileno())
        self._write("checkpoints", stage, step, payload)

    def load(self, stage: str) -> tuple[int, dict[str, Any]] | None:
        """(step, payload) of the checkpoint, tensors on the CPU; None where there is none yet.

        Raises ValueError when the file is damaged or is no checkpoint of this stage.
        """
        document = self._read("checkpoints", stage)
        return None if document is None else (document["step"], document["payload"])

    def finish(self, stage: str, payload: Mapping[str, Any]) -> None:
        """Store what a stage made; a payload as in `save`."""
        self._write("results", stage, None, payload)

    @property
    def command(self) -> str:
        """The command line that began the run."""
        return json.loads((self.path / "environment.json").read_text(encoding="utf-8"))["command"]

    def finished(self, stage: str) -> dict[str, Any] | None:
        """What `finish` stored, tensors on the CPU; None while the stage is not finished.

        Raises ValueError when the file is damaged or is no result of this stage.
        """
        document = self._read("results", stage)
        return None if document is None else document["payload"]

    @property
    def stages(self) -> list[str]:
        """The finished stages, in the order in which they ended."""
        results = (self.path / "results").glob("*.pt")
        return [path.stem for path in sorted(results, key=lambda path: path.stat().st_mtime_ns)]

    def seconds(self, stage: str) -> Seconds:
        """Time spent within `progress` of a stage, over all resumes.

        Time between the last checkpoint and a kill is not in it, as its steps are not.
        """
        if stage not in self._spent:
            document = self._read("results", stage) or self._read("checkpoints", stage)
            self._spent[stage] = Seconds(**document["seconds"]) if document else Seconds()
        running = _now() - self._started[stage] if stage in self._started else Seconds()
        return self._spent[stage] + running

    @contextmanager
    def progress(self, stage: str, total: int, start: int = 0) -> Iterator[Bar]:
        """Show progress from `start` to `total` steps on standard error, and time the stage.

        A bar on a terminal, elsewhere one plain line every half minute.
        """
        self.seconds(stage)  # those of the checkpoint, before the clock runs
        self._started[stage] = _now()
        make = _terminal_bar if sys.stderr.isatty() else _plain_bar
        try:
            with make(stage, total, start) as bar:
                yield bar
        finally:
            self._spent[stage] = self.seconds(stage)
            del self._started[stage]

    def _write(
        self, folder: str, stage: str, step: int | None, payload: Mapping[str, Any]
    ) -> None:
        _check_stage(stage)
        spent = self.seconds(stage)
        document = {
            "format": _FORMAT,
            "kind": folder,
            "stage": stage,
            "step": step,
            "seconds": {"cpu": spent.cpu, "wall": spent.wall},
            "payload": dict(payload),
        }
        save_atomically(self.path / folder / f"{stage}.pt", document)

    def _read(self, folder: str, stage: str) -> dict[str, Any] | None:
        _check_stage(stage)
        path = self.path / folder / f"{stage}.pt"
        if not path.exists():
            return None
        document = load_strictly(path)
        keys = ("format", "kind", "stage")
        found = [document.get(key) for key in keys] if isinstance(document, dict) else document
        if found != [_FORMAT, folder, stage]:
            raise ValueError(
                f"{path}: expected {_FORMAT}, {folder} of stage {stage!r}; found another file; "
                "put the right one back, or delete it to do the stage again"
            )
        return document

    def _trim_metrics(self) -> list[dict[str, Any]]:
        """Cut metrics.jsonl back to the checkpoints; what stays in it."""
        file = _metrics_file(self.path)
        if not file.exists():
            return []
        reach: dict[str, float] = {}
        kept = []
        for entry in _read_entries(file):
            stage = entry["stage"]
            if stage not in reach:
                reach[stage] = self._reach(stage)
            if entry["step"] <= reach[stage]:
                kept.append(entry)
        write_atomically(file, "".join(json.dumps(entry) + "\n" for entry in kept))
        return kept

    def _reach(self, stage: str) -> float:
        """The last step of a stage that does not come again."""
        if self._read("results", stage) is not None:
            return math.inf
        checkpoint = self.load(stage)
        return -math.inf if checkpoint is None else checkpoint[0]

    def _rebuild_events(self, entries: list[dict[str, Any]]) -> Any:
        """TensorBoard's writer, after all that metrics.jsonl holds.

        TensorBoard can only cut all stages at one step, so its files are made anew.
        """
        from torch.utils.tensorboard import SummaryWriter

        folder = self.path / "events"
        shutil.rmtree(folder, ignore_errors=True)
        self._events = SummaryWriter(str(folder))
        self._resources.callback(self._events.close)
        for entry in entries:
            self._show(entry)
        return self._events

    def _show(self, entry: dict[str, Any]) -> None:
        """Give one line of metrics.jsonl to TensorBoard."""
        for name, value in entry["metrics"].items():
            if value is not None:
                tag = f"{entry['stage']}/{name}"
                self._events.add_scalar(tag, value, entry["step"], walltime=entry["time"])


# Files that are whole or not there.


def save_atomically(path: Path, document: Any) -> None:
    """Save tensors and plain values with torch so that a kill leaves the old file or the new one.

    Raises ValueError when `load_strictly` could not read the file.
    """

    def write(staging: Path) -> None:
        torch.save(document, staging)
        try:
            torch.load(staging, weights_only=True)
        except Exception as error:  # torch.load raises whatever its unpickler meets
            raise ValueError(
                f"{path}: expected tensors and plain values (numbers, texts, lists, dicts), found "
                f"something else; turn it into these. {_first_line(error)}"
            ) from None

    _replace(path, write)


def load_strictly(path: Path) -> Any:
    """Load what `save_atomically` wrote, tensors on the CPU, without running code from the file.

    Raises ValueError when the file is damaged or foreign.
    """
    try:
        return torch.load(path, weights_only=True, map_location="cpu")
    except Exception as error:  # torch.load raises whatever its unpickler meets
        raise ValueError(
            f"{path}: expected a whole file that this project wrote, found a damaged or foreign "
            f"one; put the right one back, or delete it to do its work again. {_first_line(error)}"
        ) from None


def _first_line(error: Exception) -> str:
    return f"({type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''})"


def _replace(path: Path, write: Callable[[Path], None]) -> None:
    """Put in place what `write` puts beside, once it is on the disk."""
    staging = path.with_name(f"{path.name}.{os.getpid()}.new")  # its own, of all who write it
    try:
        write(staging)
        _sync(staging)
        staging.replace(path)
    finally:
        staging.unlink(missing_ok=True)
    _sync(path.parent)


def _sync(path: Path) -> None:
    """Wait until a file or folder is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_atomically(path: Path, text: str) -> None:
    """Write a text so that a kill leaves the old file or the new one."""

    def write(staging: Path) -> None:
        staging.write_text(text, encoding="utf-8")

    _replace(path, write)


def _write_json(path: Path, document: Mapping[str, Any]) -> None:
    write_atomically(path, json.dumps(document, indent=2) + "\n")


def _metrics_file(path: Path) -> Path:
    return path / "metrics.jsonl"


def _read_entries(file: Path) -> Iterator[dict[str, Any]]:
    """The lines of metrics.jsonl; a last line that a kill cut short is left out."""
    lines = file.read_text(encoding="utf-8").split("\n")
    for number, line in enumerate(lines[:-1], start=1):
        try:
            entry = json.loads(line)
            whole = entry.keys() == {"time", "stage", "step", "metrics"}
        except (ValueError, AttributeError):
            whole = False
        if not whole:
            raise ValueError(
                f"{file}, line {number}: expected a line of metrics, found {line[:60]!r}; "
                "delete the line"
            )
        yield entry


# Configuration, environment, lock.


def plain(config: Any) -> Any:
    """A configuration as config.yaml holds it. Raises ValueError for what cannot be there."""
    return _plain(config, type(config).__name__)


def _plain(value: Any, where: str) -> Any:
    """A configuration as YAML's plain values."""
    if is_dataclass(value) and not isinstance(value, type):
        return {f.name: _plain(getattr(value, f.name), f"{where}.{f.name}") for f in fields(value)}
    if isinstance(value, Mapping):
        return {str(key): _plain(item, f"{where}.{key}") for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item, f"{where}[{index}]") for index, item in enumerate(value)]
    if isinstance(value, PurePath):
        return str(value)
    if value is None or type(value) in (bool, int, float, str):
        return value
    raise ValueError(
        f"{where}: expected a number, text, sequence, mapping, path or dataclass; found "
        f"{type(value).__name__}; keep such objects out of the configuration"
    )


def _require_same(path: Path, found: Any) -> None:
    """Refuse another configuration than the stored one, naming every difference."""
    try:
        expected = yaml.safe_load((path / "config.yaml").read_text(encoding="utf-8"))
    except (yaml.YAMLError, ValueError) as error:
        raise ValueError(
            f"{path / 'config.yaml'}: expected YAML, found {error}; restore it"
        ) from None
    unlike = list(differences(expected, found))
    if unlike:
        lines = (f"  {key}: expected {stored}, found {given}" for key, stored, given in unlike)
        raise ValueError(
            f"{path}: expected the configuration that the run began with, found another; resume "
            "with the same one, or begin another run in another folder\n" + "\n".join(lines)
        )


def _environment() -> dict[str, Any]:
    """The machine as far as a result may depend on it, without its names and paths."""
    origin = provenance(source="", licence="", seeds=(), data_sha256="")
    return {
        "time": round(time.time(), 3),
        "git_revision": origin.git_revision,
        "git_dirty": origin.git_dirty,
        "versions": origin.versions,
        "platform": {
            "system": platform.system(),
            "machine": platform.machine(),
            "cpu_capability": torch.backends.cpu.get_cpu_capability(),
            "cpus": os.cpu_count(),
            "torch_threads": torch.get_num_threads(),
        },
    }


def _note_resume(file: Path) -> None:
    """Add this environment: code and versions may have changed since the run began."""
    try:
        document = json.loads(file.read_text(encoding="utf-8"))
        document["resumed"].append(_environment())
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise ValueError(
            f"{file}: expected what the run's beginning wrote, found no such document; restore it"
        ) from None
    _write_json(file, document)


def _lock(path: Path, resources: ExitStack) -> None:
    """Hold the folder for this process until `resources` close; its death frees it too."""
    file: IO[str] = resources.enter_context((path / "lock").open("w"))
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise BlockingIOError(
            f"{path}: expected a folder that nobody uses, found another process at work in it; "
            "wait until it ends, or name another folder"
        ) from None


def _check_stage(stage: str) -> None:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]*", stage):
        raise ValueError(
            f"stage: expected letters, digits, '_' and '-' (it names files), found {stage!r}"
        )


# Progress.


def _now() -> Seconds:
    used = os.times()
    children = used.children_user + used.children_system
    return Seconds(used.user + used.system + children, time.monotonic())


def _format(metrics: Metrics) -> str:
    return "  ".join(f"{name} {value:.4g}" for name, value in metrics.items())


@contextmanager
def _terminal_bar(stage: str, total: int, start: int) -> Iterator[Bar]:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(),
        TimeElapsedColumn(), TimeRemainingColumn(),
        TextColumn("{task.fields[metrics]}", markup=False),
    )  # fmt: skip
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task(stage, total=total, completed=start, metrics="")

        class TerminalBar:
            def update(self, step: int, metrics: Metrics | None = None) -> None:
                progress.update(task, completed=step)
                if metrics is not None:
                    progress.update(task, metrics=_format(metrics))

        yield TerminalBar()


@contextmanager
def _plain_bar(stage: str, total: int, start: int) -> Iterator[Bar]:
    bar = _PlainBar(stage, total, start)
    yield bar
    bar.show()


class _PlainBar:
    def __init__(self, stage: str, total: int, start: int) -> None:
        self.stage, self.total, self.step = stage, total, start
        self.metrics: Metrics = {}
        self.began = self.shown = time.monotonic()
        self.paced: tuple[int, float] | None = None

    def update(self, step: int, metrics: Metrics | None = None) -> None:
        self.step = step
        # The first step may compile for a minute: the pace is that of the others.
        self.paced = self.paced or (step, time.monotonic())
        self.metrics = self.metrics if metrics is None else metrics
        if time.monotonic() - self.shown >= _PLAIN_PROGRESS_SECONDS:
            self.show()

    def show(self) -> None:
        self.shown = time.monotonic()
        line = f"{self.stage} {self.step}/{self.total}  {self.shown - self.began:.0f} s"
        first, since = self.paced or (self.step, self.shown)
        if self.step > first:
            pace = (self.shown - since) / (self.step - first)
            line += f", {pace * (self.total - self.step):.0f} s left"
        print(f"{line}  {_format(self.metrics)}".rstrip(), file=sys.stderr, flush=True)
