"""Collecting demonstrations, episode by episode, so that a killed collection can go on.

Every episode is a file of its own in .collecting/ until `close` puts all of them into the layout
of a LeRobotDataset. A name is given only to what is complete and on the disk: whenever the
collection is killed, all but the episode under way are kept.
"""

from __future__ import annotations

import fcntl
import io
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from robot_policies.datasets import layout, merging
from robot_policies.datasets.layout import Column
from robot_policies.strict import InputError, Violation, differences, require

_COLLECTED = ".collected"
_HEADER = "collection.json"
_NOTHING: Mapping[str, Any] = MappingProxyType({})


class Writer:
    """A data set under way; a context manager that closes it, unless an exception ends it."""

    def __init__(
        self,
        path: str | Path,
        *,
        columns: Sequence[Column],
        fps: float,
        robot: str,
        source: Mapping[str, Any],
        resume: bool,
    ) -> None:
        """Begin a data set at `path`, or go on with the one that is there, where `resume` says so.

        Args:
            path: its directory, which must not exist unless `resume`.
            columns: of every row.
            fps: rows per second.
            robot: what moved, in a word.
            source: what makes the data (JSON values), kept in meta/robot_policies.json; "made_by"
                in it (who began it, with which versions) may differ where the rest is the same.
            resume: whether to go on after the episodes that are complete.

        Raises:
            InputError: columns that cannot be, or other columns, fps, robot or source than the
                collection was begun with.
            FileExistsError: the path exists and `resume` is False, or it is no data set that a
                Writer made, or another Writer has it open.
        """
        self.path, self.columns, self.episodes = Path(path), tuple(columns), 0
        self.done = False
        """The data set is complete: nothing can be added."""
        self._header = _header(self.columns, fps, robot, source)
        self._folder = self.path / layout.COLLECTING
        self._extra: dict[str, type] | None = None
        self._lock: io.IOBase | None = None
        if self.path.exists() and not resume:
            raise FileExistsError(f"{path} exists; give another path, or resume=True to go on")
        if self.path.exists() and not self._folder.exists() and any(self.path.iterdir()):
            self._open_complete()
        else:
            self._open_collection()

    def add(
        self, task: str, episode: Mapping[str, np.ndarray], extra: Mapping[str, Any] = _NOTHING
    ) -> int:
        """Keep an episode for good, and return its index.

        Args:
            task: what it does, in words.
            episode: column -> [T, *shape], of the column's type.
            extra: numbers or texts about it, in every episode the same; meta/episodes has them as
                columns extra/NAME.

        Raises:
            InputError: with every violation; nothing of the episode is kept.
        """
        index = self.episodes
        if self._lock is None:
            mend = "collect further episodes into another data set"
            raise InputError(
                [Violation(f"episode {index}", "an open Writer", "a closed one", mend)]
            )
        extra = {k: v.item() if isinstance(v, np.generic) else v for k, v in extra.items()}
        kinds = {name: type(value) for name, value in extra.items()}
        _check(
            index,
            self.columns,
            task,
            episode,
            extra,
            kinds if self._extra is None else self._extra,
        )
        _write_synced(self._file(index), merging.pack(task, episode, extra))
        self.episodes, self._extra = index + 1, kinds
        return index

    def close(self) -> None:
        """Put the episodes into the layout of a LeRobotDataset; nothing to do when that is done.

        Raises InputError where there is no episode yet.
        """
        if self._lock is None:
            return
        if not self.episodes:
            mend = "add an episode first"
            raise InputError([Violation(str(self.path), "at least one episode", "none", mend)])
        merged = self._folder / "merged"
        shutil.rmtree(merged, ignore_errors=True)
        files = [self._file(index) for index in range(self.episodes)]
        merging.merge(files, self._header, self.columns, merged)
        for name in ("data", "meta"):
            shutil.rmtree(self.path / name, ignore_errors=True)  # of a close that was killed
            os.rename(merged / name, self.path / name)
        # The collection ends with this one step: until then it can be resumed.
        os.rename(self._folder, self.path / _COLLECTED)
        merging.sync(self.path)
        self._release()
        self.done = True
        shutil.rmtree(self.path / _COLLECTED)

    def __enter__(self) -> Writer:
        """The writer itself."""
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Close; after an exception only let go, for a resumed Writer to go on."""
        try:
            if kind is None:
                self.close()
        finally:
            self._release()

    def _open_complete(self) -> None:
        if not (self.path / layout.OWN).is_file():
            raise FileExistsError(f"{self.path} is no data set of a Writer; give another path")
        self._header = _same(layout.read_json(self.path, layout.OWN), self._header)
        self.episodes, self.done = layout.read_info(self.path).total_episodes, True
        shutil.rmtree(self.path / _COLLECTED, ignore_errors=True)  # of a close that was killed

    def _open_collection(self) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        is_new = not (self._folder / _HEADER).exists()
        if not is_new:
            self._header = _same(layout.read_json(self._folder, _HEADER), self._header)
        self._lock = (self._folder / "lock").open("w")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self._release()
            raise FileExistsError(f"{self.path} is being collected by another Writer") from None
        if is_new:
            _write_synced(self._folder / _HEADER, json.dumps(self._header, indent=2).encode())
        while self._file(self.episodes).exists():
            self.episodes += 1
        if self.episodes:
            extra = merging.unpack(self._file(0))[1]["extra"]
            self._extra = {name: type(value) for name, value in extra.items()}

    def _file(self, index: int) -> Path:
        return self._folder / f"episode-{index:06d}.npz"

    def _release(self) -> None:
        if self._lock is not None:
            self._lock.close()
            self._lock = None


def _header(
    columns: Sequence[Column], fps: float, robot: str, source: Mapping[str, Any]
) -> dict[str, Any]:
    """What a resumed collection must have in common with the one that was begun."""
    names = [column.name for column in columns]
    reserved = {column.name for column in layout.INDICES}
    usable = [name for name in names if name and "/" not in name and name not in reserved]
    try:
        document = json.loads(json.dumps(dict(source), allow_nan=False))
    except (TypeError, ValueError) as error:
        mend = "give numbers, texts, lists and objects only"
        raise InputError([Violation("source", "JSON values", str(error), mend)]) from None
    require(
        "data set",
        (bool(names) and len(set(usable)) == len(names), "columns",
         f"different names, without / and none of {', '.join(sorted(reserved))}", names),
        (layout.is_rate(fps), "fps", "a positive number", fps),
        (isinstance(robot, str) and bool(robot), "robot", "a text", robot),
    )  # fmt: skip
    described = json.loads(json.dumps([asdict(column) for column in columns]))
    return {"columns": described, "fps": float(fps), "robot": robot, "source": document}


def _same(recorded: dict[str, Any], given: dict[str, Any]) -> dict[str, Any]:
    """The header as it was first recorded, by whoever began the collection."""
    mend = "resume with what the collection was begun with, or give another path"
    if different := list(differences(_decisive(recorded), _decisive(given))):
        raise InputError(Violation(f"collection {key}", a, b, mend) for key, a, b in different)
    return recorded


def _decisive(header: dict[str, Any]) -> dict[str, Any]:
    source = {key: value for key, value in header["source"].items() if key != "made_by"}
    return {**header, "source": source}


def _check(
    index: int,
    columns: Sequence[Column],
    task: str,
    episode: Mapping[str, np.ndarray],
    extra: Mapping[str, Any],
    kinds: Mapping[str, type],
) -> None:
    """Raise InputError with everything for which an episode cannot be kept."""
    length = max((len(value) for value in episode.values() if np.ndim(value)), default=0)
    checks: list[tuple[bool, str, str, object]] = [
        (isinstance(task, str) and bool(task.strip()), "task", "a text", task),
        (length > 0, "length", "at least one row", length),
    ]
    for name in episode.keys() - {column.name for column in columns}:
        checks.append((False, f"column {name}", "no such column", "an unknown column"))
    for column in columns:
        value, key = episode.get(column.name), f"column {column.name}"
        expected = f"{column.dtype} {[length, column.width]}"
        if not isinstance(value, np.ndarray):
            checks.append((False, key, expected, type(value).__name__))
        elif (found := f"{value.dtype} {list(value.shape)}") != expected:
            checks.append((False, key, expected, found))
        else:
            wrong = value[~np.isfinite(value).all(1)]
            checks.append((not wrong.size, key, "finite numbers", wrong[:1]))
    for name in kinds.keys() | extra.keys():
        kind, value = kinds.get(name), extra.get(name)
        # NaN and what is too large for int64 are no numbers here: Parquet could not keep them.
        usable = isinstance(value, str) or (isinstance(value, int | float) and abs(value) < 2**63)
        expected = "a finite number or a text, as in every episode" if kind else "no such key"
        checks.append((usable and type(value) is kind, f"extra {name}", expected, value))
    require(f"episode {index}", *checks)


def _write_synced(path: Path, content: bytes) -> None:
    """Write a file that has its name only once all of it is on the disk."""
    if path.exists():
        raise FileExistsError(f"{path} exists: an episode before it was removed")
    staging = path.with_suffix(".new")
    with staging.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    os.rename(staging, path)
    merging.sync(path.parent)
