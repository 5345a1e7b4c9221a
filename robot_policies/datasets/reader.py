"""Reading a data set into memory, and refusing it with everything that is wrong with it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from robot_policies.datasets import layout, statistics
from robot_policies.datasets.layout import Column
from robot_policies.datasets.rows import Rows, load, violations_of
from robot_policies.strict import InputError, Violation

T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class Dataset:
    """Demonstrations: E episodes, N rows in all, joined in order."""

    path: Path
    fps: float
    robot: str
    """Empty where the data set does not name one."""
    columns: tuple[Column, ...]
    """Those that were asked for."""
    starts: NDArray[np.int64]
    """[E+1] first row of each episode, and the end."""
    values: dict[str, NDArray[Any]]
    """Column -> [N, *shape]."""
    statistics: dict[str, dict[str, NDArray[Any]]]
    """Column -> min, max, mean, std (float64 [n]) and count (int64 [1]), as stats.json says."""
    tasks: tuple[str, ...]
    """[E] what each episode does, in words."""
    source: dict[str, Any]
    """What made it, as given to Writer; {} for a data set from elsewhere."""
    sha256: str
    """Of the data files' bytes, one file after the other."""

    def episode(self, index: int) -> dict[str, NDArray[Any]]:
        """Column -> [T, *shape] of one episode, 0 <= index < E."""
        first, end = self.starts[index], self.starts[index + 1]
        return {name: values[first:end] for name, values in self.values.items()}


def columns_of(path: str | Path) -> tuple[Column, ...]:
    """The columns that `read` could read, from meta/info.json alone.

    Pictures, texts and lerobot's own indices are left out. Raises InputError, as `read`.
    """
    return layout.own_columns(layout.read_info(Path(path)))


def read(
    path: str | Path,
    *,
    columns: Mapping[str, tuple[str, ...] | None],
    fps: float | None = None,
) -> Dataset:
    """Read a complete LeRobotDataset v3.0, whoever wrote it.

    Args:
        path: its directory.
        columns: those wanted, each with the names of its numbers in the order expected; None: any,
            as the data set has them. Other columns are ignored.
        fps: the rate expected; None: any.

    Raises:
        InputError: with every violation, by episode and column: missing files or columns, another
            version, rate or order, lengths and frames that do not fit, numbers that are not
            finite, statistics that are missing or are not those of the data.
    """
    path, report = Path(path), _Report()
    info = layout.read_info(path)
    if fps is not None and not math.isclose(fps, info.fps, rel_tol=1e-9):
        where, mend = f"{layout.INFO}.fps", "use data of the same rate, or train for this one"
        report.violations.append(Violation(where, f"{fps:g} Hz", f"{info.fps:g} Hz", mend))
    tried = [report.attempt(layout.column_of, info, *item) for item in columns.items()]
    wanted = [column for column in tried if column is not None]
    source = report.attempt(_read_source, path)
    tasks = report.attempt(_read_tasks, path)
    rows = report.attempt(load, path, info, wanted)
    if rows is not None:
        report.violations.extend(violations_of(rows, info, tasks))
    found = _read_statistics(path, wanted, rows, report)
    if report.violations or rows is None or tasks is None or source is None:
        raise InputError(report.violations)
    values = {column.name: rows.values[column.name] for column in wanted}
    texts = tuple(tasks[index] for index in rows.values["task_index"][rows.starts[:-1], 0])
    return Dataset(
        path, info.fps, info.robot, tuple(wanted), rows.starts, values, found, texts, source,
        rows.sha256,
    )  # fmt: skip


@dataclass(frozen=True)
class _Report:
    """Gathers what is wrong with the parts, so that all of it can be said at once."""

    violations: list[Violation] = field(default_factory=list)

    def attempt(self, read_part: Callable[..., T], *arguments: Any) -> T | None:
        """The part, or None where it was refused."""
        try:
            return read_part(*arguments)
        except InputError as error:
            self.violations.extend(error.violations)
            return None


def _read_source(path: Path) -> dict[str, Any]:
    if not (path / layout.OWN).exists():
        return {}
    source = layout.read_json(path, layout.OWN).get("source")
    if not isinstance(source, dict):
        raise InputError([Violation(layout.OWN, "source, an object", str(source), layout.COPY)])
    return source


def _read_tasks(path: Path) -> dict[int, str]:
    """Index -> text. The texts are the index of a pandas table, under whatever name."""
    table = layout.read_parquet(layout.read_bytes(path, layout.TASKS), layout.TASKS)
    names = [name for name in table.column_names if name != "task_index"]
    if len(names) != 1 or len(table.column_names) != 2:
        found, mend = ", ".join(table.column_names), "write it again with lerobot 0.4"
        raise InputError([Violation(layout.TASKS, "task_index and a text", found, mend)])
    return dict(zip(table["task_index"].to_pylist(), table[names[0]].to_pylist(), strict=True))


def _read_statistics(
    path: Path, columns: list[Column], rows: Rows | None, report: _Report
) -> dict[str, dict[str, NDArray[Any]]]:
    """Of each column, compared with its rows where those are fit for it."""
    document = report.attempt(layout.read_json, path, layout.STATS)
    found = {}
    for column in columns if document is not None else ():
        if (parsed := report.attempt(statistics.parse, column, document)) is None:
            continue
        found[column.name] = parsed
        if rows is not None and rows.is_sound(column.name):
            values = rows.values[column.name]
            report.violations.extend(statistics.disagreements(column, parsed, values))
    return found
