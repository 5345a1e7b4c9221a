"""The families of policies that can be swept: how each is configured and trained."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from robot_policies.bundle import PolicyBundle
from robot_policies.strict import InputError, Violation, decode, require
from sim.randomization_terms import load
from sim.runs import plain
from sim.tasks import TASKS, arm

Plain = dict[str, Any]


@dataclass(frozen=True)
class Family:
    """How policies of one kind are configured and trained."""

    template: Any
    """A configuration with all defaults."""
    required: tuple[str, ...]
    """Its keys that have no default, and so must come from the sweep's file."""
    figures: tuple[str, ...]
    """Those of the log that summarise a run."""
    train: Callable[..., PolicyBundle]
    """(config, folder, *, resume, command): train in a run folder, to a bundle in it."""

    def defaults(self) -> Plain:
        """The configuration's plain form, without what is required."""
        whole = plain(self.template).items()
        return {key: value for key, value in whole if key not in self.required}

    def configure(self, document: Plain, near: Path) -> Any:
        """The typed configuration of a plain one. Raises InputError with every violation.

        near: the folder from which relative paths start.
        """
        violations: list[Violation] = []
        config = decode(type(self.template), document, "configuration", violations)
        if violations:
            raise InputError(violations)
        return config

    def files(self, config: Any) -> Sequence[Path]:
        """The files that decide how a run comes out. Raises InputError where one is unsound."""
        return ()


class TaskFamily(Family):
    """Of sim/reinforcement.py, in one of the tasks of sim/tasks."""

    def configure(self, document: Plain, near: Path) -> Any:
        """`randomization` may be the path of a file, too."""
        violations: list[Violation] = []
        task, terms = document["task"], document["randomization"]
        engines = TASKS[self.template.task]
        engine = document.get("engine", engines[0])
        said = f"{self.template.task}, as the command says, or nothing"
        with gathered(violations):
            require(
                "configuration",
                (task == self.template.task, "task", said, task),
                (engine in engines, "engine", " or ".join(engines), engine),
            )
        if isinstance(terms, str):
            document = {**document, "randomization": None}
            with gathered(violations):
                document["randomization"] = plain(load(_found(near, "randomization", terms)))
        with gathered(violations):
            config = super().configure(document, near)
            if config.robot is not None:
                config = replace(config, robot=_found(near, "robot", config.robot))
        if violations:
            raise InputError(violations)
        return config

    def files(self, config: Any) -> Sequence[Path]:
        """The robot's, and its model's."""
        if config.robot is None:
            return ()
        if config.task != "quadrotor":
            return config.robot, Path(arm.load(config.robot).model)
        from sim.quadrotor import airframes

        airframes.load(config.robot)
        return (config.robot,)


def family_of(task: str) -> Family:
    """By TASK/FAMILY; its modules, which take seconds, are imported only now.

    Raises ValueError for none that is known.
    """
    if task == "quadrotor/foundation":
        from sim.quadrotor import foundation

        train = partial(foundation.train_bundle, executor="local", workers=1, threads=1)
        template, figures = foundation.FoundationConfig(seed=0), ("return", "survival", "error")
        return Family(template, ("seed",), figures, train)
    name, _, kind = task.rpartition("/")
    if kind != "ppo" or name not in TASKS:
        known = ", ".join([*(f"{name}/ppo" for name in TASKS), "quadrotor/foundation"])
        raise ValueError(f"task: expected one of {known}; found {task!r}")
    from sim import reinforcement

    train = partial(reinforcement.train_bundle, threads=1)
    template = reinforcement.ReinforcementConfig(seed=0, task=name, engine=TASKS[name][0])
    figures = ("return", "success", "final_distance", "error")
    return TaskFamily(template, ("seed", "engine"), figures, train)


@contextmanager
def gathered(violations: list[Violation]) -> Iterator[None]:
    """Add what is refused within to the violations, and go on behind it."""
    try:
        yield
    except InputError as error:
        violations.extend(error.violations)


def _found(near: Path, key: str, given: str | Path) -> Path:
    path = (near / given).resolve()
    expected = f"the path of a YAML file, from {near}"
    require("configuration", (path.is_file(), key, expected, str(given)))
    return path
