"""What every subcommand is, ends with, and asks of its arguments."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Protocol

from tyro.conf import arg

from robot_policies.strict import Violation

if TYPE_CHECKING:
    from rich.console import RenderableType

    from robot_policies.bundle import PolicyBundle

PASS, GATE_FAILED, BAD_INPUT, REFUSED, INCONCLUSIVE, INTERNAL = 0, 1, 2, 3, 4, 70
NOT_COMPARABLE = REFUSED
INTERRUPTED, NOBODY_READS = 130, 141

Json = Annotated[bool, arg(help="Print one JSON document on standard output.")]


@dataclass(frozen=True)
class Outcome:
    """What a subcommand ends with."""

    code: int
    document: Mapping[str, Any]
    """What --json prints."""
    shown: Sequence[RenderableType]
    """What a person reads."""


class Command(Protocol):
    """A subcommand: its fields are its arguments."""

    @property
    def json(self) -> bool:
        """Print one JSON document instead of text."""
        ...

    def run(self) -> Outcome:
        """Do it."""
        ...


class UsageError(ValueError):
    """An argument that cannot be meant."""


def require_files(kind: str, paths: Iterable[Path]) -> None:
    """Raise UsageError for a path that is no file."""
    for path in paths:
        if not path.is_file():
            found = "a directory" if path.is_dir() else "nothing"
            raise UsageError(f"{path}: expected {kind}, found {found}; correct the path")


def require_default(command: Any, names: Iterable[str], why: str) -> None:
    """Raise UsageError where one of these options of a command is not what it is by default."""
    given = {entry.name: entry.default for entry in fields(command)}
    for name in names:
        if (value := getattr(command, name)) != given[name]:
            option = f"--{name.replace('_', '-')}"
            raise UsageError(f"{option}: expected none {why}; found {value}")


def require_bundle(name: str) -> None:
    """Raise UsageError where the path or zoo:NAME is no bundle's folder."""
    from robot_policies.bundle import zoo_names

    if name.startswith("zoo:"):
        if name not in zoo_names():
            known = ", ".join(zoo_names()) or "an empty zoo"
            mend = "`robot-policies import raptor` makes zoo:raptor"
            raise UsageError(f"{name}: no such bundle, found {known}; {mend}")
    elif not Path(name).is_dir():
        raise UsageError(f"{name}: expected a bundle's directory or zoo:NAME; correct the path")


def written(bundle: PolicyBundle, notes: Sequence[str] = ()) -> Outcome:
    """Say where the bundle is and how well its graph replays the record."""
    from robot_policies.runtime import OnnxPolicy

    difference = OnnxPolicy(bundle).replay(bundle.golden)[1]
    steps = len(bundle.golden.reset)
    document = {
        "ok": True,
        "bundle": str(bundle.path),
        "sha256": bundle.contract.sha256(),
        "golden_steps": steps,
        "max_difference": difference,
        "tolerance": bundle.contract.tolerance,
        "notes": list(notes),
    }
    text = f"wrote {bundle.path} ({steps} golden steps replay within {difference:.2g})"
    return Outcome(PASS, document, [text, *(f"note: {note}" for note in notes)])


_STYLES = {"ok": "green", "warn": "yellow", "not run": "yellow", "fail": "red", "failed": "red"}


def rich_table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> RenderableType:
    """Columns that fold where the terminal is narrow, with a status in its colour."""
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False)
    for column in columns:
        table.add_column(Text(column), overflow="fold")
    for row in rows:
        table.add_row(*(Text(cell, style=_STYLES.get(cell, "")) for cell in row))
    return table


def bullets(violations: Iterable[Violation]) -> list[RenderableType]:
    """A line for each."""
    return [f"- {violation}" for violation in violations]
