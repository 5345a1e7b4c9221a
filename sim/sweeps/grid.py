"""From a sweep's YAML file to one resolved configuration for each run."""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from robot_policies.strict import InputError, Violation, require
from robot_policies.strict_yaml import load_yaml
from sim.runs import plain
from sim.sweeps.families import Family, Plain, family_of, gathered

VERSION = "1"
"""Of what a run computes: change it, and every run is done anew."""
KEY_LENGTH = 16

Grid = dict[str, list[Any]]


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

    def __str__(self) -> str:
        """The grid's values."""
        return ", ".join(f"{path} {value}" for path, value in self.values.items())


def read(file: Path, task: str) -> list[Spec]:
    """The runs that a YAML file asks for, the grid's last path changing fastest.

    Raises InputError with every violation, FileNotFoundError without the file, ValueError for
    another TASK/FAMILY.
    """
    family = family_of(task)
    try:
        base, grid = _declared(file)
        return _specs(task, family, base, grid, file.parent)
    except InputError as error:
        each = dict.fromkeys(error.violations)  # once, not once for each combination
        where = (replace(item, where=f"{file.name}: {item.where}") for item in each)
        raise InputError(where) from None


def _declared(file: Path) -> tuple[Plain, Grid]:
    """`base` and `grid`. Raises InputError."""
    try:
        document = load_yaml(file)
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # ValueError: not UTF-8
        raise _refused("keys and values in YAML", " ".join(str(error).split())) from None
    named = isinstance(document, dict) and document.keys() == {"base", "grid"}
    if not named or not all(isinstance(part, dict) for part in document.values()):
        raise _refused("the keys base and grid, each with names and values", str(document))
    base, grid = document["base"], document["grid"]
    require("sweep", (bool(grid), "grid", "one path or more, each with its values", "none"))
    expected = "a list of one value or more"
    lists = ((isinstance(v, list) and v != [], path, expected, v) for path, v in grid.items())
    require("grid", *lists)
    twice = _given_twice(base, grid)
    found = f"several for {', '.join(twice)}"
    require("sweep", (not twice, "grid", "one place for each path, in base or in grid", found))
    return base, grid


def _refused(expected: str, found: str) -> InputError:
    mend = "write it as config/sweep_example.yaml is written"
    return InputError([Violation("sweep", expected, found[:200], mend)])


def _given_twice(base: Plain, grid: Grid) -> list[str]:
    """The paths that several places give, or within which another place gives one."""
    given = [*((path, [value]) for path, value in base.items()), *grid.items()]
    places = [
        {leaf for value in values for leaf in _leaves(path, value)} for path, values in given
    ]
    return sorted(
        {
            leaf
            for one, other in itertools.permutations(places, 2)
            for leaf in one
            if any(f"{path}.".startswith(f"{leaf}.") for path in other)
        }
    )


def _leaves(path: str, value: Any) -> list[str]:
    if not isinstance(value, dict):
        return [str(path)]
    return [leaf for key, inner in value.items() for leaf in _leaves(f"{path}.{key}", inner)]


def _specs(task: str, family: Family, base: Plain, grid: Grid, near: Path) -> list[Spec]:
    """Of every combination. Raises InputError with the violations of all."""
    violations: list[Violation] = []
    specs: dict[str, Spec] = {}
    common = _changed(family.defaults(), base)
    for combination in itertools.product(*grid.values()):
        values = dict(zip(grid, combination, strict=True))
        with gathered(violations):
            config = family.configure(_changed(common, values), near)
            configuration = plain(config)
            key = _key(task, configuration, family.files(config))
            spec = Spec(task, values, configuration, key)
            if (first := specs.setdefault(key, spec)) is not spec:
                same = f"{first} and {spec}, which are the same run"
                raise _refused("a run of its own for each combination", same)
    if violations:
        raise InputError(violations)
    return [*specs.values()]


def _changed(document: Any, change: Any) -> Any:
    """A plain document with a change; a mapping changes only what its paths lead to."""
    if not isinstance(change, dict):
        return change
    if isinstance(document, list):
        items = {str(number): item for number, item in enumerate(document)}
        changed = _changed(items, change)
        return [*changed.values()] if changed.keys() == items.keys() else changed
    changed = dict(document) if isinstance(document, dict) else {}
    for path, value in change.items():
        name, _, rest = str(path).partition(".")
        changed[name] = _changed(changed.get(name), {rest: value} if rest else value)
    return changed


def _key(task: str, configuration: Plain, files: Sequence[Path]) -> str:
    contents = [hashlib.sha256(file.read_bytes()).hexdigest() for file in files]
    text = json.dumps([VERSION, task, configuration, contents], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:KEY_LENGTH]
