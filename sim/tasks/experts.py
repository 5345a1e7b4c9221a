"""Scripted experts, which know the truth: what demonstrations are collected from.

task = tasks.make("arm-push", engine="mujoco", count=25, seed=0, threads=1, randomization=None)
expert = experts.make("arm-push", task.scene, seed=0)
task.reset(seed=0)
expert.begin(ids, episodes)
commands = expert.act()                                # [N, Da], in the contract's units
"""

# Compiled modules of the simulators ship no type information.
# pyright: reportAttributeAccessIssue=false

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import mujoco
import numpy as np

from sim.draws import FloatArray
from sim.randomization import IdArray
from sim.tasks.arm import ArmScene
from sim.tasks.reach import Reach
from sim.tasks.scene import Scene

REACH_M_S = 0.8
REACH_PER_S = 6.0
"""Speed of the hand of arm-reach per distance from its target."""


class Expert(Protocol):
    """Acts in the N environments of a scene."""

    def begin(self, ids: IdArray, episodes: IdArray) -> None:
        """Begin the episodes [M] of environments `ids` [M], which were reset."""
        ...

    def act(self) -> FloatArray:
        """Commands [N, Da], in the contract's units, for the state now of all environments."""
        ...


def make(task: str, scene: Scene, seed: int) -> Expert:
    """The expert for one of sim.tasks.TASKS; what it draws depends on the seed.

    Raises ValueError for a task that has none.
    """
    makers: dict[str, Callable[[Any, int], Expert]] = {
        "arm-push": _push,
        "arm-reach": _reach,
        "meta-world": _scripted,
    }
    kind = task.partition("/")[0]
    if kind not in makers:
        raise ValueError(
            f"task: expected one with a scripted expert (arm-push, arm-reach, meta-world/...); "
            f"found {task}"
        )
    return makers[kind](scene, seed)


def _push(scene: Any, seed: int) -> Expert:
    from sim.tasks.push_expert import PushExpert

    return PushExpert(scene, seed)


def _reach(scene: Any, _: int) -> Expert:
    return ReachExpert(scene)


def _scripted(scene: Any, _: int) -> Expert:
    from sim.tasks.meta_world import Scripted  # pyright: ignore[reportMissingImports]

    return Scripted(scene)


class ReachExpert:
    """Moves the hands of all environments of a Reach straight to their targets."""

    def __init__(self, scene: Reach) -> None:
        """It draws nothing."""
        self._scene = scene
        self._kinematics = Kinematics(scene, upright_m=0.0)

    def begin(self, ids: IdArray, episodes: IdArray) -> None:
        """See Expert: there is nothing to remember."""

    def act(self) -> FloatArray:
        """See Expert."""
        signals = self._scene.signals()
        way = signals["target_position"] - signals["hand_position"]
        distance = np.maximum(np.linalg.norm(way, axis=1, keepdims=True), 1e-9)
        speed = np.minimum(REACH_PER_S * distance, REACH_M_S)
        return self._kinematics.command(signals["joint_position"], speed * way / distance)


# From velocities of the hand to commands.

DOWN = np.array([0.0, 0.0, -1.0])


@dataclass(frozen=True)
class Pose:
    """Of the hands at T joint positions; world."""

    position: FloatArray
    """[T, 3] m."""
    pointing: FloatArray
    """[T, 3] the direction in the hand that is straight down at rest."""
    jacobian: FloatArray
    """[T, 6, J] of position and attitude, m/rad and rad/rad."""
    gravity: FloatArray
    """[T, J] N m that hold the arm."""


class Kinematics:
    """Inverse kinematics of an arm's hand, on a simulation of its own that is never stepped."""

    POSTURE_M = 0.02
    """Per rad: what the rest position is worth against a way; it also tames singular poses."""
    TURN_PER_S = 4.0
    POSTURE_PER_S = 2.0

    def __init__(self, scene: ArmScene, upright_m: float = 0.1) -> None:
        """Of the model as it is without randomisation.

        upright_m  per rad: what an upright hand, as at rest, is worth against a way
        """
        self._arm, self._upright = scene.arm, upright_m
        model = scene.engine.model
        self._mj, self._data = model.mj, mujoco.MjData(model.mj)
        joints = model.ids("joints", self._arm.joints)
        self._q, self._v = model.mj.jnt_qposadr[joints], model.mj.jnt_dofadr[joints]
        gains = scene.interface.gains
        assert gains is not None
        self._kp, self._kd = np.array(gains.stiffness), np.array(gains.damping)
        (action,) = scene.interface.action
        self._limits = np.array(action.lower), np.array(action.upper)
        self._rest = np.array(self._arm.rest_position_rad)
        self._pointing = self._attitude(self._rest).T @ DOWN

    def command(self, joint_position: FloatArray, velocity: FloatArray) -> FloatArray:
        """Commands [N, J] rad that give the hands velocities [N, 3] m/s, from [N, J] rad.

        Damped least squares: velocity first, then an upright hand, then the rest position. A
        servo lags behind by kd / kp seconds and hangs by gravity / kp, which the command adds.
        """
        pose = self.at(joint_position)
        turn = self.TURN_PER_S * np.cross(pose.pointing, DOWN)
        weights = np.repeat([1.0, self._upright], 3)
        jacobian = weights[:, None] * pose.jacobian
        wanted = weights * np.concatenate([velocity, turn], axis=1)
        home = self.POSTURE_PER_S * (self._rest - joint_position)
        damping = self.POSTURE_M**2
        normal = jacobian.transpose(0, 2, 1) @ jacobian + damping * np.eye(len(self._rest))
        right = (jacobian * wanted[..., None]).sum(1) + damping * home
        speed = np.linalg.solve(normal, right[..., None])[..., 0]
        command = joint_position + (self._kd * speed + pose.gravity) / self._kp
        return command.clip(*self._limits)

    def at(self, joint_positions: FloatArray) -> Pose:
        """The hands at joint positions [T, J] rad."""
        many, joints = joint_positions.shape
        pose = Pose(*(np.empty((many, *s)) for s in ((3,), (3,), (6, joints), (joints,))))
        jacobian, gravity = np.empty((6, self._mj.nv)), np.empty(self._mj.nv)
        for t, position in enumerate(joint_positions):
            attitude = self._attitude(position)
            pose.position[t] = self._hand.xpos + attitude @ np.array(self._arm.hand.offset_m)
            pose.pointing[t] = attitude @ self._pointing
            mujoco.mj_jac(
                self._mj, self._data, jacobian[:3], jacobian[3:], pose.position[t], self._body
            )
            mujoco.mj_rne(self._mj, self._data, 0, gravity)
            pose.jacobian[t], pose.gravity[t] = jacobian[:, self._v], gravity[self._v]
        return pose

    def _attitude(self, joint_position: FloatArray) -> FloatArray:
        """Bring the simulation to [J] rad; the hand's rotation matrix [3, 3]."""
        self._data.qpos[self._q] = joint_position
        mujoco.mj_kinematics(self._mj, self._data)
        mujoco.mj_comPos(self._mj, self._data)
        return self._hand.xmat.reshape(3, 3)

    @property
    def _hand(self) -> Any:
        return getattr(self._data, self._arm.hand.kind)(self._arm.hand.name)

    @property
    def _body(self) -> int:
        hand = self._arm.hand
        if hand.kind == "body":
            return self._mj.body(hand.name).id
        return int(self._mj.site(hand.name).bodyid[0])
