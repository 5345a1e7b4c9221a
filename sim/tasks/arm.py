"""A robot arm as users describe it, and what every task with it has in common."""

# Compiled modules of the simulators ship no type information.
# pyright: reportAttributeAccessIssue=false

from __future__ import annotations

import importlib.util
from abc import abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar, Literal

import mujoco
import numpy as np

from robot_policies.contract import Action, Gains, Observation, Robot, Timing
from robot_policies.rotation import to_matrix
from robot_policies.strict import InputError, Violation, require
from robot_policies.strict_yaml import decode_yaml
from sim import engines
from sim.draws import FloatArray, Streams
from sim.engines import Engine, Model
from sim.randomization import IdArray
from sim.randomization_terms import closest
from sim.tasks.scene import Interface, Scene, Signals, Start

JOINT_SPEED_CLIP = 10.0
"""rad/s, of the joint velocities that a policy is shown."""
OVERSHOOT = 0.1
"""rad, by which a joint may pass the ends of its range before a policy no longer sees it."""
DIVERGED_REWARD = -10.0
"""More than an arm can lose in an ordinary step, so that none seeks to break the simulation."""

XYZ = ("x", "y", "z")

# The description.


@dataclass(frozen=True)
class Hand:
    """The point of the arm that is moved to targets."""

    kind: Literal["site", "body"]
    name: str
    """Of the site or body in the model."""
    offset_m: tuple[float, float, float]
    """In the frame of the site or body."""


def _once(names: tuple[str, ...]) -> bool:
    return len(set(names)) == len(names) > 0


@dataclass(frozen=True)
class Arm:
    """An arm with position servos; config/arm_example.yaml explains every key.

    Raises InputError, with every violation, for what contradicts itself.
    """

    model: str
    """Path of the MJCF file."""
    joints: tuple[str, ...]
    """J hinges, in the order of the policy's signals."""
    actuators: tuple[str, ...]
    """Their position servos, in the same order."""
    hand: Hand
    rest_position_rad: tuple[float, ...]
    """[J] where raw action 0 commands the joints to, and about which episodes start."""
    start_offset_rad: float
    """The most by which each joint starts elsewhere; drawn uniformly."""
    action_scale_rad: float
    """Of the commanded position, for a raw action of 1."""
    workspace_m: tuple[tuple[float, float], tuple[float, float], tuple[float, float]]
    """[low, high] of x, y and z in the world: where targets lie."""
    control_hz: float
    substeps: int
    """Of the simulation in a control period."""
    episode_s: float
    success_distance_m: float
    """The distance at the end that counts as success."""

    def __post_init__(self) -> None:
        """Refuse what contradicts itself, whatever the model."""
        joints = len(self.joints)
        workspace = all(low < high for low, high in self.workspace_m)
        require(
            "arm",
            (_once(self.joints), "joints", "one joint or more, each once", list(self.joints)),
            (len(self.actuators) == joints and _once(self.actuators), "actuators",
             "one a joint, each once", list(self.actuators)),
            (len(self.rest_position_rad) == joints, "rest_position_rad", "a number for each joint",
             list(self.rest_position_rad)),
            (self.start_offset_rad >= 0, "start_offset_rad", "zero or more",
             self.start_offset_rad),
            (self.action_scale_rad > 0, "action_scale_rad", "above zero", self.action_scale_rad),
            (workspace, "workspace_m", "[low, high] of x, y, z, low below high", self.workspace_m),
            (self.control_hz > 0, "control_hz", "above zero", self.control_hz),
            (self.substeps >= 1, "substeps", "1 or more", self.substeps),
            (self.episode_steps >= 1, "episode_s", "a control period or more", self.episode_s),
            (self.success_distance_m > 0, "success_distance_m", "above zero",
             self.success_distance_m),
        )  # fmt: skip

    @property
    def timestep_s(self) -> float:
        """Of the simulation."""
        return 1 / (self.control_hz * self.substeps) if self.control_hz > 0 else 0.0

    @property
    def episode_steps(self) -> int:
        """Control steps."""
        return round(self.episode_s * self.control_hz)


ARM7 = Arm(
    model=str(engines.ARM),
    joints=tuple(f"joint{i}" for i in range(1, 8)),
    actuators=tuple(f"joint{i}" for i in range(1, 8)),
    hand=Hand("site", "hand", (0.0, 0.0, 0.0)),
    rest_position_rad=(0.0, 0.5, 0.0, 1.5, 0.0, 0.8, 0.0),
    start_offset_rad=0.2,
    action_scale_rad=0.5,
    workspace_m=((0.3, 0.7), (-0.4, 0.4), (0.2, 0.7)),
    control_hz=50.0,
    substeps=10,
    episode_s=2.5,
    success_distance_m=0.02,
)
"""This project's arm, as config/arm_example.yaml says it."""


def load(path: str | Path) -> Arm:
    """An arm of your own from a YAML file.

    Raises InputError with every violation, FileNotFoundError without the file.
    """
    arm = decode_yaml(Arm, Path(path), "arm")
    return replace(arm, model=str(_model_path(arm.model, Path(path).parent)))


def _model_path(model: str, folder: Path) -> Path:
    """`model` next to the YAML, or package:NAME/... of an installed package, not imported."""
    package, _, rest = model.removeprefix("package:").partition("/")
    if not model.startswith("package:"):
        path = folder / model
    elif package and (found := importlib.util.find_spec(package)) is not None:
        path = Path((found.submodule_search_locations or [""])[0]) / rest
    else:
        expected = "package:NAME/path of an installed package"
        raise InputError([Violation("arm.model", expected, model, f"install {package}")])
    if not path.is_file():
        mend = "write it relative to this YAML file, or as package:NAME/path"
        raise InputError([Violation("arm.model", "the path of an MJCF file", model, mend)])
    return path.resolve()


# The description and the model.


def check(arm: Arm, model: Model) -> None:
    """Raise InputError, with every violation, where the model lacks what the arm names."""
    violations = list(_unknown_names(arm, model))
    if not violations:
        violations += _violations(arm, model)
    if violations:
        raise InputError(violations)


def _unknown_names(arm: Arm, model: Model) -> Iterator[Violation]:
    for key, kind, names in (
        ("joints", "joints", arm.joints),
        ("actuators", "actuators", arm.actuators),
        ("hand.name", {"site": "sites", "body": "bodies"}[arm.hand.kind], (arm.hand.name,)),
    ):
        known = model.names(kind)
        for name in names:
            if name not in known:
                expected = closest(kind, name, known)
                yield Violation(f"arm.{key}", expected, name, "correct the name")


def _violations(arm: Arm, model: Model) -> Iterator[Violation]:
    mj, joints = model.mj, model.ids("joints", arm.joints)
    actuators = model.ids("actuators", arm.actuators)
    for joint, name in zip(joints, arm.joints, strict=True):
        if mj.jnt_type[joint] != mujoco.mjtJoint.mjJNT_HINGE.value:
            mend = "leave it out: it stays where the model has it"
            yield Violation("arm.joints", "hinges", name, mend)
        if not mj.jnt_limited[joint]:
            yield Violation("arm.joints", "joints with a range", name, "add range to the joint")
    for actuator, joint, name in zip(actuators, joints, arm.actuators, strict=True):
        if model.joint_of(actuator) != joint:
            expected = f"the servo of {mj.joint(joint).name}"
            yield Violation("arm.actuators", expected, name, "put them in the joints' order")
        if not mj.actuator_ctrllimited[actuator]:
            mend = "add ctrlrange to the actuator"
            yield Violation("arm.actuators", "servos with a range", name, mend)
    for rest, joint in zip(arm.rest_position_rad, joints, strict=True):
        low, high = mj.jnt_range[joint]
        if mj.jnt_limited[joint] and not low <= rest <= high:
            expected = f"{low:.4g} to {high:.4g} for {mj.joint(joint).name}"
            yield Violation("arm.rest_position_rad", expected, str(rest), "correct the value")


# The simulation.


class ArmScene(Scene):
    """N arms, commanded to joint positions; tasks add what is to be done with them."""

    lost_reward = DIVERGED_REWARD
    aims: ClassVar[tuple[str, ...]]
    """The signals [3] m, world, that this task adds to the arm's."""
    widths: ClassVar[Mapping[str, int]]
    """How many numbers this task draws for an episode, by a name with /."""

    def __init__(
        self, arm: Arm, *, engine: str, count: int, threads: int, device: Literal["cpu", "gpu"]
    ) -> None:
        """Raises what `check` and engines.create do."""
        path = Path(arm.model)
        check(arm, Model(path, arm.timestep_s))  # before an engine is built, which takes seconds
        self.arm, self.count, self.episode_steps = arm, count, arm.episode_steps
        self.engine = engines.create(
            engine, path, count,
            timestep=arm.timestep_s, substeps=arm.substeps, threads=threads, device=device,
        )  # fmt: skip
        self.models = (self.engine,)
        self._set_columns(self.engine)
        self.interface = self._interface()

    @abstractmethod
    def place(self, ids: IdArray, u: dict[str, FloatArray]) -> FloatArray | None:
        """Begin episodes of `ids` [M] with numbers u, name -> [M, width], from 0 to 1.

        Returns where the free bodies are, [M, F, 3] m; None: as in the model.
        """

    def seed(self, seed: int) -> None:
        """See Scene."""
        self._streams = Streams(seed, {"start/joints": len(self.arm.joints), **self.widths})

    def reset(self, ids: IdArray, episodes: IdArray) -> Start:
        """See Scene."""
        u = self._streams.uniform(ids, episodes, 0)
        offset = self.arm.start_offset_rad * (2 * u.pop("start/joints") - 1)
        start = (np.array(self.arm.rest_position_rad) + offset).clip(*self._range)
        position = np.tile(self._held_position, (len(ids), 1))
        position[:, self._joint_columns] = start
        free = self.place(ids, u)
        self.engine.reset(ids, position, np.zeros_like(position), free)
        return Start(start, np.zeros_like(start))

    def step(self, command: FloatArray) -> None:
        """See Scene."""
        every = np.tile(self._held_command, (self.count, 1))
        every[:, self._actuator_columns] = command
        self.engine.step(every)

    def diverged(self) -> IdArray:
        """See Scene."""
        return self.engine.diverged()

    def joint_signals(self) -> Signals:
        """joint_position (rad) and joint_velocity (rad/s), [N, J] each."""
        fields = ("joint_position", "joint_velocity")
        return {field: self.engine.read(field, self.arm.joints) for field in fields}

    def hand_position(self) -> FloatArray:
        """[N, 3] m, world."""
        hand = self.arm.hand
        position = self.engine.read(f"{hand.kind}_position", [hand.name])[:, 0]
        if not any(hand.offset_m):
            return position
        turned = self.engine.read(f"{hand.kind}_quaternion_xyzw", [hand.name])[:, 0]
        return position + to_matrix(turned) @ np.array(hand.offset_m)

    def _set_columns(self, engine: Engine) -> None:
        """Where the arm's joints and actuators are among the model's; the others are held."""
        model, arm = engine.model, self.arm
        joints, actuators = engine.names("joints"), engine.names("actuators")
        self._joint_columns = [joints.index(name) for name in arm.joints]
        self._actuator_columns = [actuators.index(name) for name in arm.actuators]
        self._held_position = model.mj.qpos0[model.mj.jnt_qposadr[model.ids("joints", joints)]]
        moved = model.joint_of(model.ids("actuators", actuators))
        self._held_command = model.mj.qpos0[model.mj.jnt_qposadr[moved]]
        self._range = model.mj.jnt_range[model.ids("joints", arm.joints)].T

    def _interface(self) -> Interface:
        arm, model = self.arm, self.engine.model
        limits = model.mj.actuator_ctrlrange[model.ids("actuators", arm.actuators)]
        many = len(arm.actuators)
        action = Action(
            "joint_position", (many,), "rad", "actuator", arm.actuators,
            scale=(arm.action_scale_rad,) * many, offset=arm.rest_position_rad,
            lower=tuple(limits[:, 0].tolist()), upper=tuple(limits[:, 1].tolist()),
            mode="absolute",
        )  # fmt: skip
        gains = (tuple(model.nominal(g, arm.actuators).tolist()) for g in ("kp", "kd"))
        return Interface(
            robot=Robot(model.path.stem, arm.joints, arm.actuators),
            observation=(*self._joint_observations(), *map(_point, self.aims), self._previous()),
            action=(action,),
            gains=Gains(*gains),
            timing=Timing(arm.control_hz, 5 / arm.control_hz, 0.5 / arm.control_hz),
        )

    def _joint_observations(self) -> Iterator[Observation]:
        joints = self.arm.joints
        seen = (float(self._range.min() - OVERSHOOT), float(self._range.max() + OVERSHOOT))
        speeds = (-JOINT_SPEED_CLIP, JOINT_SPEED_CLIP)
        for name, unit, clip in (
            ("joint_position", "rad", seen), ("joint_velocity", "rad/s", speeds)
        ):  # fmt: skip
            yield Observation(name, "robot", (len(joints),), unit, "joint", joints, 1, clip)

    def _previous(self) -> Observation:
        actuators = self.arm.actuators
        return Observation(
            "previous_action", "previous_action", (len(actuators),), "1", "actuator", actuators,
            1, None,
        )  # fmt: skip


POINT_CLIP = 2.0
"""m, of the points that a policy is shown: an arm reaches none beyond, a box may be flung."""


def _point(name: str) -> Observation:
    return Observation(name, "robot", (3,), "m", "world", XYZ, 1, (-POINT_CLIP, POINT_CLIP))
