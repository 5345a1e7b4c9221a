"""What came out of a sweep: a table, a CSV file and a JSON document."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from sim.sweeps.grid import Spec


@dataclass(frozen=True)
class Row:
    """How one run ended."""

    spec: Spec
    figures: Mapping[str, float | None] = field(default_factory=dict)
    """None where one is not finite."""
    bundle: str | None = None
    """Relative to the output."""
    seconds: float | None = None
    error: str = ""
    """Why it failed, in one line; empty where it did not."""

    @property
    def status(self) -> Literal["done", "failed"]:
        """How it ended, in a word."""
        return "failed" if self.error else "done"


@dataclass(frozen=True)
class Summary:
    """The runs of a sweep, or of one shard of it, in the grid's order."""

    task: str
    rows: tuple[Row, ...]

    @property
    def ok(self) -> bool:
        """Whether all runs are done; otherwise the exit code is 1."""
        return not self.failures()

    def failures(self) -> list[str]:
        """A line for each run that failed: which, why, and where to read on."""
        return [
            f"{row.spec}: {row.error}; see logs/{row.spec.key}.txt"
            for row in self.rows
            if row.error
        ]

    def table(self) -> tuple[list[str], list[list[str]]]:
        """Headings and rows of text: the grid's values, status, seconds, figures and run."""
        columns, *rows = [cells[:-2] for cells in self._cells()]
        return columns, [[*map(_text, row)] for row in rows]

    def csv(self) -> str:
        """The same in full precision, with bundles and reasons."""
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows(self._cells())
        return text.getvalue()

    def document(self) -> dict[str, Any]:
        """The same as one JSON document."""
        entries = [
            {
                "run": row.spec.key,
                "values": row.spec.values,
                "status": row.status,
                "figures": dict(row.figures),
                "seconds": row.seconds,
                "bundle": row.bundle,
                "error": row.error,
            }
            for row in self.rows
        ]
        return {"ok": self.ok, "task": self.task, "runs": entries}

    def _cells(self) -> list[list[Any]]:
        """Headings, and the values of each row."""
        paths = list(self.rows[0].spec.values) if self.rows else []
        names = list(dict.fromkeys(name for row in self.rows for name in row.figures))
        columns = [*paths, "status", "seconds", *names, "run", "bundle", "error"]
        return [columns] + [
            [
                *row.spec.values.values(), row.status, row.seconds,
                *map(row.figures.get, names), row.spec.key, row.bundle, row.error,
            ]
            for row in self.rows
        ]  # fmt: skip


def _text(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    return "-" if value is None else str(value)
