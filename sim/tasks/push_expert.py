"""A scripted expert for arm-push that has two ways to do it: about the left, or the right.

The hand first swings out to one side of the straight way, by chance and whatever the state, then
comes behind the box and pushes. A policy that takes the mean of both ways does neither: that is
what `side` sees, in what a hand did or in what a policy intends.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sim.draws import FloatArray, Streams
from sim.randomization import IdArray
from sim.tasks.arm import ArmScene
from sim.tasks.experts import Kinematics
from sim.tasks.push import Push
from sim.tasks.scene import BoolArray


@dataclass(frozen=True)
class Style:
    """How the expert moves. Distances are of the hand's point, in the plane of the floor."""

    detour_m: float = 0.1
    """How far beside the straight way it swings out."""
    behind_m: float = 0.1
    """From the box's centre, where it begins to push; more than a corner and the hand need."""
    clear_m: float = 0.095
    """From the box's centre, which it keeps on the way there."""
    passed_m: float = 0.025
    """From where it swings out to, when it turns to the box."""
    aligned_m: float = 0.01
    """From the point behind the box, when it begins to push."""
    height: float = 0.4
    """Of the hand's point, per height of the box's centre; a low hand tips the box less."""
    approach_m_s: float = 0.6
    push_m_s: float = 0.6
    slowing_per_s: float = 8.0
    """Speed per distance from where it is to stop."""
    steering: float = -0.3
    """Angle of the hand's motion per angle by which the box goes astray."""
    astray_rad: float = 0.8
    """That angle at which it leaves the box, and comes behind it anew."""
    beyond_m: float = 0.1
    """Behind the goal, on the line from where a push began: what it steers to, so that it does
    not turn about when near."""
    short_m: float = 0.004
    """Along that line: where a push ends."""
    done_m: float = 0.02
    """From the goal: where it lets the box be after a push."""


STYLE = Style()
MARGIN_M = 0.03
"""Beside the straight way: what commits to a side."""
FOOTPRINT_M = 0.06
"""From the centre of where the box stood: a hand that is there, pushes."""

# Sides: +1 is the left of one who looks from the hand's start to the box, -1 the right.


def side(
    hand_positions: FloatArray, box_position: FloatArray, goal: FloatArray,
    margin_m: float = MARGIN_M,
) -> int:  # fmt: skip
    """Which way a path goes: +1 left, -1 right, 0 committed to neither.

    hand_positions      [T, 3] or [T, 2] m, world: first where the hand is, then a path or a chunk
    box_position, goal  [3] or [2] m, world, at its start

    What counts is how far the path leaves the strip that the straight way to behind the box
    spans, seen from the hand's start to the box, before the hand pushes.
    """
    path, box, goal = hand_positions[:, :2], box_position[:2], goal[:2]
    low, high = (ends[0] for ends in _strip(path[:1], box[None], goal[None]))
    pushes = np.linalg.norm(path - box, axis=1) < FOOTPRINT_M
    approach = path[: np.argmax(pushes)] if pushes.any() else path
    if not len(approach):
        return 0
    lateral = (approach - path[0]) @ _left(_unit(box - path[0]))
    left, right = lateral.max() - high, low - lateral.min()
    if max(left, right) < margin_m:
        return 0
    return 1 if left > right else -1


def hand_path(scene: ArmScene, joint_positions: FloatArray) -> FloatArray:
    """Where the hand is at joint positions, or commands for them: [T, J] rad -> [T, 3] m."""
    return Kinematics(scene).at(joint_positions).position


class PushExpert:
    """Moves the hands of all environments of a Push; see sim.tasks.experts.Expert."""

    def __init__(self, scene: Push, seed: int) -> None:
        """Sides are functions of seed, environment and episode."""
        self._scene = scene
        self._kinematics = Kinematics(scene)
        self._streams = Streams(seed, {"expert/side": 1})
        count = scene.count
        self.sides = np.ones(count, int)
        """[N] of the running episodes."""
        self._via, self._line = np.zeros((2, count, 2))
        self._height = np.zeros(count)
        self._stage = np.zeros(count, int)

    def begin(self, ids: IdArray, episodes: IdArray) -> None:
        """Choose the way for the episodes [M] that begin in environments `ids` [M]."""
        u = self._streams.uniform(ids, episodes, 0)["expert/side"][:, 0]
        self.sides[ids] = np.where(u < 0.5, 1, -1)
        signals = self._scene.signals()
        hand, box, goal = (signals[f"{n}_position"][ids] for n in ("hand", "box", "goal"))
        self._via[ids] = _via(hand[:, :2], box[:, :2], goal[:, :2], self.sides[ids])
        self._height[ids] = STYLE.height * box[:, 2]
        self._stage[ids] = _ASIDE

    def act(self) -> FloatArray:
        """Joint positions [N, J] to command now, rad."""
        signals = self._scene.signals()
        hand, box, goal = (signals[f"{name}_position"] for name in ("hand", "box", "goal"))
        velocity = np.empty_like(hand)
        velocity[:, :2] = self._steer(hand[:, :2], box[:, :2], goal[:, :2])
        velocity[:, 2] = STYLE.slowing_per_s * (self._height - hand[:, 2])
        return self._kinematics.command(signals["joint_position"], velocity)

    def _steer(self, hand: FloatArray, box: FloatArray, goal: FloatArray) -> FloatArray:
        """[N, 2] m/s; all arguments [N, 2] m."""
        behind = box - STYLE.behind_m * _unit(goal - box)
        aligned = (self._stage == _BEHIND) & _near(hand, behind, STYLE.aligned_m)
        self._line[aligned] = _unit(goal - box)[aligned]
        self._stage[aligned] = _PUSH
        self._stage[(self._stage == _ASIDE) & _near(hand, self._via, STYLE.passed_m)] = _BEHIND
        aim = goal + STYLE.beyond_m * self._line
        remaining = ((goal - box) * self._line).sum(1)
        self._end_pushes(_astray(hand, box, aim), remaining, _near(box, goal, STYLE.done_m))
        ways = [
            _around(hand, self._via, box),
            _around(hand, behind, box),
            _pushing(hand, box, aim, remaining),
            np.zeros_like(hand),
        ]
        return np.stack(ways)[self._stage, np.arange(len(hand))]

    def _end_pushes(self, astray: FloatArray, remaining: FloatArray, there: BoolArray) -> None:
        """[N] each. What went astray, or ended beside the goal, is begun again from behind."""
        pushing = self._stage == _PUSH
        short = remaining < STYLE.short_m
        self._stage[pushing & (short | (np.abs(astray) > STYLE.astray_rad))] = _BEHIND
        self._stage[pushing & short & there] = _DONE


_ASIDE, _BEHIND, _PUSH, _DONE = range(4)


def _via(hand: FloatArray, box: FloatArray, goal: FloatArray, sides: IdArray) -> FloatArray:
    """[M, 2] beside the middle of the straight way, by the detour beyond the strip's edge."""
    ahead = _unit(box - hand)
    low, high = _strip(hand, box, goal)
    lateral = np.where(sides > 0, high + STYLE.detour_m, low - STYLE.detour_m)
    behind = box - STYLE.behind_m * _unit(goal - box)
    middle = ((behind - hand) * ahead).sum(1, keepdims=True).clip(0) / 2
    return hand + middle * ahead + lateral[:, None] * _left(ahead)


def _strip(
    hand: FloatArray, box: FloatArray, goal: FloatArray
) -> tuple[FloatArray, FloatArray]:  # fmt: skip
    """The right and the left edge [M] of the straight way from the hand to behind the box.

    In m to the left of the line from hand to box, which is never too short to have a direction.
    """
    behind = box - STYLE.behind_m * _unit(goal - box)
    end = ((behind - hand) * _left(_unit(box - hand))).sum(1)
    return np.minimum(end, 0), np.maximum(end, 0)


def _around(hand: FloatArray, target: FloatArray, box: FloatArray) -> FloatArray:
    """[N, 2] m/s to a target, along a circle about the box where it is in the way."""
    way = target - hand
    speed = (STYLE.slowing_per_s * _norm(way)).clip(0.2, STYLE.approach_m_s)
    direction, inwards = _unit(way), _unit(box - hand)
    radial = (direction * inwards).sum(1, keepdims=True)
    blocked = (_norm(box - hand) < STYLE.clear_m) & (radial > 0)
    return speed * np.where(blocked, _unit(direction - radial * inwards), direction)


def _near(points: FloatArray, target: FloatArray, distance_m: float) -> BoolArray:
    """[N] whether points are there."""
    return np.linalg.norm(target - points, axis=1) < distance_m


def _pushing(
    hand: FloatArray, box: FloatArray, aim: FloatArray, remaining: FloatArray
) -> FloatArray:  # fmt: skip
    """[N, 2] m/s that keep the hand behind the box on its way to `aim`, over `remaining` [N] m.

    By friction the box clings to the hand and goes where the hand goes, rather than to turn
    before it. So the hand does not steer from behind: it moves to where the box is to be, and a
    little against the side to which the box turns.
    """
    ahead = _unit(aim - box)
    turn = (STYLE.steering * _astray(hand, box, aim)[:, None]).clip(-np.pi / 2, np.pi / 2)
    speed = (STYLE.slowing_per_s * remaining[:, None]).clip(0.05, STYLE.push_m_s)
    return speed * (np.cos(turn) * ahead + np.sin(turn) * _left(ahead))


def _astray(hand: FloatArray, box: FloatArray, goal: FloatArray) -> FloatArray:
    """[N] rad from the direction box to goal to that from hand to box, to the left."""
    ahead, facing = _unit(goal - box), _unit(box - hand)
    return np.arctan2((facing * _left(ahead)).sum(1), (facing * ahead).sum(1))


def _norm(vectors: FloatArray) -> FloatArray:
    """[..., 2] -> [..., 1]."""
    return np.linalg.norm(vectors, axis=-1, keepdims=True)


def _unit(vectors: FloatArray) -> FloatArray:
    return vectors / np.maximum(_norm(vectors), 1e-9)


def _left(vectors: FloatArray) -> FloatArray:
    """[..., 2], turned by a quarter to the left."""
    return np.stack([-vectors[..., 1], vectors[..., 0]], axis=-1)
