"""A TEST DOUBLE of ROS 2's launch, for machines where launch_ros is not installed.

It is not ROS. It stands in for exactly the names that this project's launch files import: it
evaluates the same file, resolves its arguments and conditions, and tells the command line of each
declared node, so that a test can start them as real processes. Where launch_ros is importable, the
tests run the launch files through the real one as well.
"""

from __future__ import annotations

import importlib.util
import sys
import types
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Context:
    """What substitutions are resolved in."""

    arguments: dict[str, str]
    prefix: Path


@dataclass(frozen=True)
class LaunchDescription:
    entities: list[Any]


@dataclass(frozen=True)
class DeclareLaunchArgument:
    name: str
    default_value: Any = None
    description: str = ""


@dataclass(frozen=True)
class LaunchConfiguration:
    name: str

    def resolve(self, context: Context) -> str:
        return context.arguments[self.name]


@dataclass(frozen=True)
class PathJoinSubstitution:
    parts: list[Any]

    def resolve(self, context: Context) -> str:
        return str(Path(*(text(part, context) for part in self.parts)))


@dataclass(frozen=True)
class NotEqualsSubstitution:
    left: Any
    right: Any

    def resolve(self, context: Context) -> str:
        return str(text(self.left, context) != text(self.right, context)).lower()


@dataclass(frozen=True)
class FindPackageShare:
    package: str

    def resolve(self, context: Context) -> str:
        return str(context.prefix / "share" / self.package)


@dataclass(frozen=True)
class IfCondition:
    condition: Any

    def holds(self, context: Context) -> bool:
        value = text(self.condition, context).lower()
        if value not in ("true", "false", "1", "0"):
            raise ValueError(f"condition: expected true or false, found {value!r}")
        return value in ("true", "1")


@dataclass(frozen=True)
class ParameterFile:
    path: Any


@dataclass(frozen=True)
class ParameterValue:
    value: Any
    value_type: type

    def resolve(self, context: Context) -> str:
        value = text(self.value, context)
        if self.value_type is bool and value.lower() not in ("true", "false"):
            raise ValueError(f"expected true or false, found {value!r}")
        return value.lower() if self.value_type is bool else value


@dataclass(frozen=True)
class Node:
    package: str
    executable: str
    parameters: list[Any] = field(default_factory=list)
    output: str = "log"
    condition: IfCondition | None = None

    def command(self, context: Context) -> list[str]:
        """The command line, as launch_ros would build it."""
        program = context.prefix / "lib" / self.package / self.executable
        command = [str(program), "--ros-args"]
        for parameter in self.parameters:
            if isinstance(parameter, ParameterFile):
                command += ["--params-file", text(parameter.path, context)]
            else:
                for name, value in parameter.items():
                    command += ["-p", f"{name}:={text(value, context)}"]
        return command


_MODULES = {
    "launch": [LaunchDescription],
    "launch.actions": [DeclareLaunchArgument],
    "launch.conditions": [IfCondition],
    "launch.substitutions": [LaunchConfiguration, NotEqualsSubstitution, PathJoinSubstitution],
    "launch_ros": [],
    "launch_ros.actions": [Node],
    "launch_ros.parameter_descriptions": [ParameterFile, ParameterValue],
    "launch_ros.substitutions": [FindPackageShare],
}


def text(value: Any, context: Context) -> str:
    return value.resolve(context) if hasattr(value, "resolve") else str(value)


def resolve(file: Path, prefix: Path, given: Mapping[str, str]) -> dict[str, list[str]]:
    """Evaluate a launch file: executable name -> command line of every node that would start.

    Raises:
        ValueError: an unknown argument, or one without default that is not given.
    """
    entities = _load(file).generate_launch_description().entities
    declared = [entity for entity in entities if isinstance(entity, DeclareLaunchArgument)]
    unknown = given.keys() - {argument.name for argument in declared}
    if unknown:
        raise ValueError(f"unknown launch arguments: {', '.join(sorted(unknown))}")
    context = Context({}, prefix)
    for argument in declared:
        if argument.name not in given and argument.default_value is None:
            raise ValueError(f"missing launch argument: {argument.name}")
        value = given.get(argument.name, argument.default_value)
        context.arguments[argument.name] = text(value, context)
    nodes = [entity for entity in entities if isinstance(entity, Node)]
    return {
        node.executable: node.command(context)
        for node in nodes
        if node.condition is None or node.condition.holds(context)
    }


def _load(file: Path) -> Any:
    """Import the launch file with the double in place of launch and launch_ros."""
    kept = {name: sys.modules.pop(name) for name in list(sys.modules) if name in _MODULES}
    try:
        for name, members in _MODULES.items():
            module = types.ModuleType(name)
            module.__dict__.update({member.__name__: member for member in members})
            sys.modules[name] = module
        specification = importlib.util.spec_from_file_location("launch_file", file)
        assert specification is not None and specification.loader is not None
        loaded = importlib.util.module_from_spec(specification)
        specification.loader.exec_module(loaded)
        return loaded
    finally:
        for name in _MODULES:
            sys.modules.pop(name, None)
        sys.modules.update(kept)
