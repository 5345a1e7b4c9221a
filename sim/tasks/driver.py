"""A bundle in a task: whether its contract fits, and the step from signals to raw actions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from robot_policies import OnnxPolicy
from robot_policies.contract import Action, Contract, Observation
from robot_policies.strict import ContractError, Violation
from sim.draws import FloatArray
from sim.tasks.task import Float32Array, Task


class Driver:
    """Steps the N environments of a task with a policy.

    Clipping of signals, scale, offset and limits of actions are the bundle's own.
    """

    def __init__(self, policy: OnnxPolicy, task: Task) -> None:
        """The policy is one that `require_fit` accepts."""
        self._policy, self._task = policy, task
        self._asked = [s.name for s in policy.contract.observation if s.source == "robot"]
        self._own, self._tasks = _scale_offset(policy.contract.action), _scale_offset(task.action)
        self._alike = _limits(policy.contract.action) == _limits(task.action) and all(
            np.array_equal(mine, theirs)
            for mine, theirs in zip(self._own, self._tasks, strict=True)
        )

    def begin(self, seed: int) -> None:
        """After the task was reset: new episodes in all environments, noise from the seed."""
        previous = self._task.previous_action
        if not self._alike:
            scale, offset = self._tasks
            previous = _raw(previous * scale + offset, self._own)
        initial = {"previous_action": previous}
        self._policy.reset(self._task.num_envs, seed, initial)

    def act(self) -> Float32Array:
        """The raw actions [N, Da] of the task that give the policy's commands.

        Of a chunk they are its steps one after the other. All environments play theirs alike.
        """
        signals = self._task.signals()
        commands = self._policy.act({name: signals[name] for name in self._asked})
        if self._alike:
            return self._policy.acted
        parts = [value.reshape(self._task.num_envs, -1) for value in commands.values()]
        return _raw(np.concatenate(parts, axis=1), self._tasks)


def require_fit(policies: Mapping[str, OnnxPolicy], task: Task) -> None:
    """Raise ContractError, with every violation, where policies are none for the task."""
    violations = [
        Violation(f"{name}, {v.where}", v.expected, v.found, v.mend)
        for name, policy in policies.items()
        for v in _violations(policy, task)
    ]
    if violations:
        raise ContractError(violations)


def notes(contract: Contract, task: Task) -> list[str]:
    """In what the task's robot is not the one that the policy was trained on; both may fly."""
    found = []
    if contract.robot.model != task.robot.model:
        found.append(f"made for the robot {contract.robot.model}, evaluated on {task.robot.model}")
    if contract.gains != task.gains:
        found.append("the robot's gains are not those that it was made for")
    return found


def _violations(policy: OnnxPolicy, task: Task) -> Iterator[Violation]:
    contract = policy.contract
    mend = f"give a bundle made for this task, or the robot of {contract.name} (robot)"
    for field in ("joints", "actuators"):
        yield from _different(f"robot.{field}", task.robot, contract.robot, (field,), mend)
    yield from _observation_violations(contract.observation, task, mend)
    yield from _action_violations(contract.action, task, mend)
    rate = contract.timing.control_hz
    if rate != task.timing.control_hz:
        expected = f"{task.timing.control_hz:g} Hz"
        yield Violation("timing.control_hz", expected, f"{rate:g} Hz", mend)
    previous = any(signal.source == "previous_action" for signal in contract.observation)
    if contract.chunk.steps != 1 and previous:
        found = f"previous_action, and chunks of {contract.chunk.steps}"
        yield Violation("observation", "no previous_action, where chunks are played", found, mend)
    if policy.static_batch not in (None, task.num_envs):
        found = f"a graph for {policy.static_batch}"
        mend = f"export it with a dynamic batch, or ask for {policy.static_batch} environments"
        yield Violation("batch", f"{task.num_envs} environments", found, mend)


def _observation_violations(
    asked: Sequence[Observation], task: Task, mend: str
) -> Iterator[Violation]:
    """It need not ask for all signals, and may ask in another order: they travel by name."""
    known = {s.name: s for s in task.observation if s.source == "robot"}
    for signal in asked:
        if signal.source != "robot":
            continue
        where = f"observation.{signal.name}"
        if signal.name not in known:
            yield Violation(where, f"one of {', '.join(known)}", "an unknown signal", mend)
            continue
        fields = ("unit", "frame", "shape", "elements")
        yield from _different(where, known[signal.name], signal, fields, mend)


def _action_violations(given: Sequence[Action], task: Task, mend: str) -> Iterator[Violation]:
    names = [[action.name for action in actions] for actions in (task.action, given)]
    if names[0] != names[1]:
        yield Violation("action", ", ".join(names[0]), ", ".join(names[1]), mend)
        return
    fields = ("unit", "frame", "shape", "elements", "mode")
    for wanted, action in zip(task.action, given, strict=True):
        yield from _different(f"action.{action.name}", wanted, action, fields, mend)


def _different(
    where: str, wanted: object, found: object, fields: Sequence[str], mend: str
) -> Iterator[Violation]:
    for field in fields:
        left, right = getattr(wanted, field), getattr(found, field)
        if left != right:
            name = where if where.endswith(field) else f"{where}.{field}"
            yield Violation(name, _text(left), _text(right), mend)


def _text(value: object) -> str:
    return ", ".join(map(str, value)) if isinstance(value, tuple) else str(value)


def _limits(actions: Sequence[Action]) -> list[tuple[tuple[float, ...], tuple[float, ...]]]:
    return [(action.lower, action.upper) for action in actions]


def _scale_offset(actions: Sequence[Action]) -> tuple[FloatArray, FloatArray]:
    """[Da] each."""
    scale = [value for action in actions for value in action.scale]
    offset = [value for action in actions for value in action.offset]
    return np.array(scale), np.array(offset)


def _raw(
    command: FloatArray | Float32Array, scale_offset: tuple[FloatArray, FloatArray]
) -> Float32Array:
    """The raw actions [N, Da] that are scaled and offset to commands [N, Da]."""
    scale, offset = scale_offset
    return ((command - offset) / scale).astype(np.float32)
