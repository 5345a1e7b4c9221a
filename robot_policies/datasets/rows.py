"""The rows of a data set: read from their Parquet files, and checked episode by episode."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from robot_policies.datasets import layout
from robot_policies.datasets.layout import COPY, INDEX_NAMES, INDICES, Column, Info
from robot_policies.strict import InputError, Violation

if TYPE_CHECKING:
    import pyarrow

# float32 seconds are this exact; lerobot allows as much (tolerance_s).
_TOLERANCE_S = 1e-4

_DROP = "remove the episode, or collect it again"


@dataclass(frozen=True, eq=False)
class Rows:
    """N rows as the files have them, and the E lengths that they should have."""

    lengths: NDArray[np.int64]
    """[E], as meta/episodes says."""
    values: dict[str, NDArray[Any]]
    """Column -> [N, n]; zero in rows that are not whole."""
    whole: dict[str, NDArray[np.bool_]]
    """Column -> [N]: the row has n numbers."""
    sha256: str
    """Of the files' bytes, one file after the other."""

    @cached_property
    def episode(self) -> NDArray[np.int64]:
        """[N] the episode that each row says it belongs to."""
        return self.values["episode_index"][:, 0]

    @cached_property
    def starts(self) -> NDArray[np.int64]:
        """[E+1] first row of each episode, and the end; of rows that are in order."""
        return np.searchsorted(self.episode, np.arange(len(self.lengths) + 1)).astype(np.int64)

    def is_sound(self, name: str) -> bool:
        """Whether every row of a column has all its numbers, and they are finite."""
        return bool(self.whole[name].all() and np.isfinite(self.values[name]).all())


def load(path: Path, info: Info, columns: Sequence[Column]) -> Rows:
    """Read these columns and lerobot's indices of all episodes.

    Raises InputError: a file is missing or unreadable, lacks a column, or has it of another type.
    """
    lengths, files = _read_episodes(path, info)
    violations = [
        Violation(f"{name} (episodes {has[0]} to {has[-1]})", "a file", "nothing", COPY)
        for name, has in files.items()
        if not (path / name).is_file()
    ]
    if violations:
        raise InputError(violations)
    wanted = {column.name: column for column in (*columns, *INDICES)}
    digest = hashlib.sha256()
    parts: list[dict[str, tuple[NDArray[Any], NDArray[np.bool_]]]] = []
    for file in files:
        content = layout.read_bytes(path, file)
        digest.update(content)
        table = layout.read_parquet(content, file, list(wanted))
        parts.append({name: _decode(table[name], wanted[name], file) for name in wanted})
    values = {name: np.concatenate([part[name][0] for part in parts]) for name in wanted}
    whole = {name: np.concatenate([part[name][1] for part in parts]) for name in wanted}
    return Rows(lengths, values, whole, digest.hexdigest())


def _read_episodes(path: Path, info: Info) -> tuple[NDArray[np.int64], dict[str, list[int]]]:
    """Lengths [E], and the data files in order, each with its episodes."""
    columns = ("episode_index", "length", "data/chunk_index", "data/file_index")
    found: list[dict[str, Any]] = []
    for file in sorted((path / layout.EPISODES).glob("*/*.parquet")):
        content = layout.read_bytes(path, str(file.relative_to(path)))
        found += layout.read_parquet(content, str(file.relative_to(path)), columns).to_pylist()
    numbers = [row["episode_index"] for row in found]
    if numbers != list(range(info.total_episodes)):
        expected = f"episodes 0 to {info.total_episodes - 1} in order, as {layout.INFO} says"
        wrong = next((i for i, number in enumerate(numbers) if number != i), len(numbers))
        said = f"{len(numbers)}, of which number {wrong} is missing or another"
        raise InputError([Violation(layout.EPISODES, expected, said, COPY)])
    files: dict[str, list[int]] = {}
    for row in found:
        place = {key: row[f"data/{key}"] for key in ("chunk_index", "file_index")}
        files.setdefault(layout.DATA.format(**place), []).append(row["episode_index"])
    return np.array([row["length"] for row in found], np.int64), files


def _decode(
    data: pyarrow.ChunkedArray, column: Column, file: str
) -> tuple[NDArray[Any], NDArray[np.bool_]]:
    """[N, n] numbers, and [N] which rows have n of them; zero elsewhere."""
    import pyarrow
    from pyarrow.compute import call_function as call

    kind: Any = data.type
    is_list = pyarrow.types.is_nested(kind)
    kind = kind.value_type if is_list else kind
    expected = pyarrow.from_numpy_dtype(np.dtype(column.dtype))
    if kind != expected:
        where, mend = f"column {column.name} in {file}", "write it as info.json declares it"
        raise InputError([Violation(where, f"numbers of type {expected}", str(kind), mend)])
    # The width of a row that is null is null itself.
    widths = call("list_value_length", [data]) if is_list else data.is_valid().cast("int32")
    whole = widths.fill_null(-1).to_numpy() == column.width
    flat = data.filter(pyarrow.array(whole))
    flat = call("list_flatten", [flat]) if is_list else flat
    gaps = flat.is_null().to_numpy().reshape(-1, column.width)
    values = np.zeros((len(data), column.width), column.dtype)
    values[whole] = (
        flat.fill_null(False if column.dtype == "bool" else 0).to_numpy().reshape(gaps.shape)
    )
    whole[whole] = ~gaps.any(1)
    return values, whole


def violations_of(rows: Rows, info: Info, tasks: Mapping[int, str] | None) -> Iterator[Violation]:
    """Yield what is wrong with the rows; `tasks`: index -> text, None where they are unknown."""
    whole = np.logical_and.reduce([rows.whole[name] for name in INDEX_NAMES])
    known = (rows.episode >= 0) & (rows.episode < len(rows.lengths))
    wrong = ~whole | ~known | (np.diff(rows.episode, prepend=0) < 0)
    if wrong.any():  # nobody can say which episode a row belongs to
        said = f"episode {rows.episode[wrong][0]} or a gap in row {np.flatnonzero(wrong)[0]}"
        expected = f"episodes 0 to {len(rows.lengths) - 1}, one after the other, without gaps"
        yield Violation("column episode_index", expected, said, COPY)
        return
    total = int(rows.lengths.sum())
    if total != info.total_frames:
        where, expected = f"{layout.INFO}.total_frames", f"{total}, as meta/episodes says"
        yield Violation(where, expected, str(info.total_frames), COPY)
    for episode in np.flatnonzero(np.diff(rows.starts) != rows.lengths):
        expected = f"{rows.lengths[episode]} rows, as meta/episodes says"
        said = str(rows.starts[episode + 1] - rows.starts[episode])
        yield Violation(f"episode {episode}", expected, said, _DROP)
    yield from _frame_violations(rows)
    yield from _time_violations(rows, info.fps)
    yield from _task_violations(rows, tasks)
    for name in rows.values:
        yield from _number_violations(rows, name)


def _frame_violations(rows: Rows) -> Iterator[Violation]:
    frames = rows.values["frame_index"][:, 0]
    wrong = frames != np.arange(len(frames)) - rows.starts[rows.episode]
    for where, first, _ in _by_episode(rows, wrong, "frame_index"):
        own = frames[rows.episode == rows.episode[first]]
        values, counts = np.unique(own, return_counts=True)
        said = [f"{value} more than once" for value in values[counts > 1][:1]]
        said += [f"no {value}" for value in np.setdiff1d(np.arange(len(own)), values)[:1]]
        found = " and ".join(said) or "another order"
        yield Violation(where, "0, 1, 2, ... once each, in order", found, _DROP)


def _time_violations(rows: Rows, fps: float) -> Iterator[Violation]:
    seconds = rows.values["timestamp"][:, 0].astype(np.float64)
    expected = rows.values["frame_index"][:, 0] / fps
    wrong = np.abs(seconds - expected) > _TOLERANCE_S + 1e-6 * np.abs(expected)
    for where, row, count in _by_episode(rows, wrong, "timestamp"):
        said = f"{seconds[row]:.6g} s ({count} such rows)"
        wanted = f"frame_index / fps = {expected[row]:.6g} s"
        yield Violation(where, wanted, said, "resample the episode at the data set's fps")


def _task_violations(rows: Rows, tasks: Mapping[int, str] | None) -> Iterator[Violation]:
    index = rows.values["task_index"][:, 0]
    unknown = ~np.isin(index, list(tasks)) if tasks is not None else np.zeros(len(index), bool)
    for where, row, _ in _by_episode(rows, unknown, "task_index"):
        yield Violation(where, f"a task of {layout.TASKS}", str(index[row]), "add its text")
    changed = np.not_equal(index, index[rows.starts[rows.episode]])
    for where, row, _ in _by_episode(rows, changed, "task_index"):
        said = f"{index[row]} after another"
        yield Violation(where, "one task per episode", said, "split the episode by its tasks")


def _number_violations(rows: Rows, name: str) -> Iterator[Violation]:
    values, whole = rows.values[name], rows.whole[name]
    for where, row, count in _by_episode(rows, ~whole, name):
        episode = rows.episode[row]
        expected = f"{rows.lengths[episode]} rows of {values.shape[1]} numbers"
        said = f"{count} rows that have not, the first is {row - rows.starts[episode]}"
        yield Violation(where, expected, said, _DROP)
    finite = np.asarray(np.isfinite(values).all(1))
    for where, row, count in _by_episode(rows, ~finite, name):
        number = values[row][~np.isfinite(values[row])][0]
        frame = row - rows.starts[rows.episode[row]]
        said = f"{number} in row {frame} ({count} such rows)"
        yield Violation(where, "finite numbers", said, _DROP)


def _by_episode(rows: Rows, wrong: NDArray[np.bool_], name: str) -> Iterator[tuple[str, int, int]]:
    """(episode and column, first wrong row, how many) of every episode with wrong rows."""
    where = np.flatnonzero(wrong)
    episodes, first, count = np.unique(rows.episode[where], return_index=True, return_counts=True)
    for episode, row, many in zip(episodes, where[first], count, strict=True):
        yield f"episode {episode} column {name}", int(row), int(many)
