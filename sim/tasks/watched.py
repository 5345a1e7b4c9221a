"""What a specification may look at in a task: scalars with units, of the truth, step by step.

    units(task)["position_error"]                  # "m"
    traces = Traces(["tilt", "position_error"])
    found = evaluate(policies, options, watch=traces)                # sim.tasks.evaluation
    traces.of("mine", found.records["mine"]["length"])["tilt"]       # [E, T]

Of every task: `distance` from where the robot, or what it pushes, is to be; each element of each
signal that a policy is told, `joint_position/joint1`; and the norms of those signals, such as
`position_error`. Of quadrotors also `tilt`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
from numpy.typing import NDArray

from sim.draws import FloatArray
from sim.tasks.scene import Scene, Signals
from sim.tasks.task import Task

ROTATION_MATRIX = "rotation_matrix"
TILT, DISTANCE = "tilt", "distance"


def units(task: Task) -> dict[str, str]:
    """Name -> unit of all that may be looked at."""
    return {name: unit for name, unit, _ in _scalars(task.scene, task.scene.signals())}


def look(task: Task) -> dict[str, FloatArray]:
    """Name -> [N] now."""
    return {name: value for name, _, value in _scalars(task.scene, task.scene.signals())}


def _scalars(scene: Scene, signals: Signals) -> Iterator[tuple[str, str, FloatArray]]:
    nothing = np.zeros((scene.count, sum(len(a.elements) for a in scene.interface.action)))
    yield DISTANCE, "m", scene.score(signals, nothing, nothing).distance
    for signal in scene.interface.observation:
        if signal.source != "robot":
            continue
        value = signals[signal.name]
        for i, element in enumerate(signal.elements):
            yield f"{signal.name}/{element}", signal.unit, value[:, i]
        if len(signal.elements) > 1 and signal.name != ROTATION_MATRIX:
            yield signal.name, signal.unit, np.linalg.norm(value, axis=1)
        if signal.name == ROTATION_MATRIX:
            yield TILT, "rad", np.arccos(value[:, 8].clip(-1.0, 1.0))


class Traces:
    """Keeps what was looked at, of every bundle, episode and step of an evaluation."""

    def __init__(self, names: Iterable[str]) -> None:
        """names: of `units`, those to keep."""
        self._names = tuple(names)
        self._steps: dict[str, dict[int, list[dict[str, FloatArray]]]] = {}

    def __call__(self, bundle: str, number: int, task: Task) -> None:
        """Take a step of all environments (sim.tasks.evaluation.Watch)."""
        seen = look(task)
        row = {name: seen[name] for name in self._names}
        self._steps.setdefault(bundle, {}).setdefault(number, []).append(row)

    def of(self, bundle: str, length: NDArray[np.int64]) -> dict[str, FloatArray]:
        """Name -> [E, T] of E episodes with so many steps each; the last one goes on to the end.

        T is that of the longest episode.
        """
        longest = int(length.max())
        found = {}
        for name in self._names:
            rounds = [
                _padded(np.stack([row[name] for row in steps], axis=1), longest)
                for _, steps in sorted(self._steps[bundle].items())
            ]
            values = np.concatenate(rounds)[: len(length)]
            last = np.minimum(np.arange(longest), length[:, None] - 1)
            found[name] = np.take_along_axis(values, last, axis=1)
        return found


def _padded(values: FloatArray, length: int) -> FloatArray:
    """[N, T] to a length by the last column, or cut."""
    missing = max(length - values.shape[1], 0)
    return np.pad(values, ((0, 0), (0, missing)), mode="edge")[:, :length]
