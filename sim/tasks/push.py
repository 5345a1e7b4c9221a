"""arm-push: push a box over the floor to a goal."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np

from robot_policies.strict import InputError, Violation
from sim import engines
from sim.draws import FloatArray
from sim.randomization import IdArray
from sim.tasks.arm import ARM7, POINT_CLIP, Arm, ArmScene
from sim.tasks.reach import mean_square_velocity
from sim.tasks.scene import Score, Signals

ARM7_PUSH = replace(
    ARM7,
    model=str(engines.ARM_PUSH),
    rest_position_rad=(0.0, 0.62, 0.0, 2.16, 0.0, 0.31, 0.0),
    start_offset_rad=0.05,
    workspace_m=((0.42, 0.72), (-0.2, 0.2), (0.0, 0.1)),
    episode_s=3.0,
    success_distance_m=0.03,
)
"""This project's arm, its hand between the base and the box."""


@dataclass(frozen=True)
class Weights:
    """Of the reward of a step."""

    hand: float = 0.5
    """Per m from the hand to the box."""
    distance: float = 2.0
    """Per m from the box to the goal."""
    precision: float = 1.0
    """At the goal; with distance d (m) it falls as exp(-(d / near)^2)."""
    near_m: float = 0.05
    action_change: float = 0.01
    """Per mean square of the change of the raw actions."""
    joint_velocity: float = 0.005
    """Per mean square of the joints' velocities, rad^2/s^2."""


class Push(ArmScene):
    """The box starts in the third of the workspace next to the base (low x), its goal is in the
    farthest third; both at the height at which the model has the box.
    """

    about = "Pushes a box over the floor to a goal with the hand of a robot arm."
    aims = ("hand_position", "box_position", "goal_position")
    widths: ClassVar = {"start/box": 2, "goal/position": 2}
    weights = Weights()

    def __init__(self, arm: Arm, **simulation: Any) -> None:
        """See ArmScene. Raises InputError unless the model has one free body, the box."""
        super().__init__(arm, **simulation)
        free = self.engine.names("free_bodies")
        if len(free) != 1:
            mend = "put a body with a freejoint into the model, as sim/models/arm7_push.xml does"
            found = ", ".join(free) or "none"
            raise InputError([Violation("arm.model", "one free body, the box", found, mend)])
        self._box = free
        self._height = self.engine.model.mj.body(free[0]).pos[2]
        self._goal = np.zeros((self.count, 3))

    def place(self, ids: IdArray, u: dict[str, FloatArray]) -> FloatArray:
        """See ArmScene."""
        self._goal[ids] = self._on_floor(2 / 3, u["goal/position"])
        return self._on_floor(0, u["start/box"])[:, None]

    def signals(self) -> Signals:
        """See Scene. The box's attitude is what no policy is told."""
        points = {
            "hand_position": self.hand_position(),
            "box_position": self.engine.read("body_position", self._box)[:, 0],
            "goal_position": self._goal.copy(),
            "box_quaternion_xyzw": self.engine.read("body_quaternion_xyzw", self._box)[:, 0],
        }
        return self.joint_signals() | points

    def score(self, signals: Signals, raw: FloatArray, previous: FloatArray) -> Score:
        """See Scene."""
        w = self.weights
        box = signals["box_position"].clip(-POINT_CLIP, POINT_CLIP)  # it may have been flung
        distance = np.linalg.norm(box - signals["goal_position"], axis=1)
        reward = w.precision * np.exp(-((distance / w.near_m) ** 2)) - w.distance * distance
        reward -= w.hand * np.linalg.norm(box - signals["hand_position"], axis=1)
        reward -= w.action_change * np.square(raw - previous).mean(1)
        reward -= w.joint_velocity * mean_square_velocity(signals)
        success = distance < self.arm.success_distance_m
        return Score(reward, np.zeros(self.count, bool), distance, success)

    def _on_floor(self, nearest: float, u: FloatArray) -> FloatArray:
        """[M, 2] numbers from 0 to 1 -> [M, 3] m, x from the share `nearest` on, of a third."""
        low, high = np.array(self.arm.workspace_m)[:2].T
        share = np.stack([nearest + u[:, 0] / 3, u[:, 1]], axis=1)
        return np.column_stack([low + share * (high - low), np.full(len(u), self._height)])
