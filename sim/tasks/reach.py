"""arm-reach: bring the hand to a target, and hold it there."""

# Compiled modules of the simulators ship no type information.
# pyright: reportAttributeAccessIssue=false

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import mujoco
import numpy as np

from robot_policies.strict import InputError, Violation
from sim.draws import FloatArray, Streams
from sim.engines import Model
from sim.randomization import IdArray
from sim.tasks.arm import JOINT_SPEED_CLIP, Arm, ArmScene
from sim.tasks.scene import Score, Signals

TARGETS = 2048
"""Different ones."""
_BATCH = 4096
"""Joint configurations tried at once."""
_BATCHES = 16
_FEWEST = 64
"""Targets in the workspace, or it is no workspace of this arm."""


@dataclass(frozen=True)
class Weights:
    """Of the reward of a step."""

    distance: float = 1.0
    """Per m from the target."""
    precision: float = 1.0
    """At the target; with distance d (m) it falls as exp(-(d / near)^2)."""
    near_m: float = 0.05
    action_change: float = 0.01
    """Per mean square of the change of the raw actions."""
    joint_velocity: float = 0.005
    """Per mean square of the joints' velocities, rad^2/s^2."""


class Reach(ArmScene):
    """Targets are points that the hand reaches; the same ones for every engine."""

    about = "Brings the hand of a robot arm to a target, and holds it there."
    aims = ("target_position", "hand_position")
    widths: ClassVar = {"target/index": 1}
    weights = Weights()

    def __init__(self, arm: Arm, **simulation: Any) -> None:
        """See ArmScene."""
        super().__init__(arm, **simulation)
        self.targets = reachable(arm, self.engine.model)
        """[K, 3] m, world, to draw from."""
        self._target = np.zeros((self.count, 3))

    def place(self, ids: IdArray, u: dict[str, FloatArray]) -> None:
        """See ArmScene: choose the targets."""
        index = (u["target/index"][:, 0] * len(self.targets)).astype(int)
        self._target[ids] = self.targets[index]

    def signals(self) -> Signals:
        """See Scene."""
        points = {"target_position": self._target.copy(), "hand_position": self.hand_position()}
        return self.joint_signals() | points

    def score(self, signals: Signals, raw: FloatArray, previous: FloatArray) -> Score:
        """See Scene."""
        w = self.weights
        distance = np.linalg.norm(signals["hand_position"] - signals["target_position"], axis=1)
        reward = w.precision * np.exp(-((distance / w.near_m) ** 2)) - w.distance * distance
        reward -= w.action_change * np.square(raw - previous).mean(1)
        reward -= w.joint_velocity * mean_square_velocity(signals)
        success = distance < self.arm.success_distance_m
        return Score(reward, np.zeros(self.count, bool), distance, success)


def mean_square_velocity(signals: Signals) -> FloatArray:
    """[N] of the joints, rad^2/s^2, limited as what a policy sees is."""
    velocity = signals["joint_velocity"].clip(-JOINT_SPEED_CLIP, JOINT_SPEED_CLIP)
    return np.square(velocity).mean(1)


def reachable(arm: Arm, model: Model) -> FloatArray:
    """[K, 3] m: where random joint positions put the hand, of those within the workspace.

    By MuJoCo alone, and the same at every call. Raises InputError where next to none is within.
    """
    low, high = np.array(arm.workspace_m).T
    limits = model.mj.jnt_range[model.ids("joints", arm.joints)].T
    streams = Streams(0, {"targets/joints": len(arm.joints)})
    found, many = [], 0
    for batch in range(_BATCHES):
        u = streams.uniform(np.arange(_BATCH), 0, batch)["targets/joints"]
        hands = _hands(arm, model, limits[0] + u * (limits[1] - limits[0]))
        found.append(hands[((hands >= low) & (hands <= high)).all(1)])
        many += len(found[-1])
        if many >= TARGETS:
            break
    if many < _FEWEST:
        expected = f"a box in which the hand is in at least {_FEWEST} of {_BATCH * _BATCHES} poses"
        mend = f"enlarge or move it in {Path(arm.model).name}'s world"
        raise InputError([Violation("arm.workspace_m", expected, str(many), mend)])
    return np.concatenate(found)[:TARGETS]


def _hands(arm: Arm, model: Model, positions: FloatArray) -> FloatArray:
    """Joint positions [K, J] -> hand positions [K, 3] m, world."""
    data = mujoco.MjData(model.mj)
    columns = model.mj.jnt_qposadr[model.ids("joints", arm.joints)]
    hand = getattr(data, arm.hand.kind)(arm.hand.name)
    offset = np.array(arm.hand.offset_m)
    found = np.empty((len(positions), 3))
    for row, position in zip(found, positions, strict=True):
        data.qpos[columns] = position
        mujoco.mj_kinematics(model.mj, data)
        row[:] = hand.xpos + hand.xmat.reshape(3, 3) @ offset
    return found
