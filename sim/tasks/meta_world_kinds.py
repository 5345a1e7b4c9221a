"""The tasks of Meta-World that this project has, and when each of them is done.

The rules are those of Meta-World's own environments (metaworld 3.0.0, evaluate_state), for N
environments at once; test/sim/test_meta_world.py holds the two together.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np

from sim.draws import FloatArray
from sim.tasks.scene import BoolArray


class Sight(Protocol):
    """Where things are now, [N, 3] m, world."""

    @property
    def goal(self) -> FloatArray:
        """Where the object is to be."""
        ...

    def point(self, of: Literal["body", "site"], name: str) -> FloatArray:
        """Where a body or site of the model is."""
        ...


Verdict = tuple[FloatArray, BoolArray]
"""Distance [N] m, success [N]."""


@dataclass(frozen=True)
class Thing:
    """What a policy is told of an object: <name>_position, <name>_quaternion_xyzw."""

    name: str
    of: Literal["body", "site"]
    point: str
    """The body or site that is its position."""
    body: str | None
    """The body that has its attitude; None: it does not turn, and no attitude is told."""


@dataclass(frozen=True)
class Kind:
    """A task of Meta-World."""

    environment: str
    """Meta-World's name for it."""
    about: str
    """What a policy for it does, in a sentence."""
    things: tuple[Thing, ...]
    """The first has a free joint: it is what randomisation calls `object`."""
    judge: Callable[[Sight], Verdict]
    apart_m: float
    """The least distance on the floor between the two halves of Meta-World's random numbers."""
    xyzw: bool
    """In which order Meta-World's own observation has quaternions; the other is wxyz."""
    episode_steps: int
    """More where the scripted experts need more."""
    settles_anew: bool = False
    """Where the peg stands decides how the object comes to lie. It takes 10 ms an episode."""


def _length(vector: FloatArray) -> FloatArray:
    return np.linalg.norm(vector, axis=1)


def _within(of: Literal["body", "site"], name: str, radius: float, *scale: float) -> Callable:
    """Success within `radius` of the goal; errors in x, y, z are scaled where a scale is given."""

    def judge(sight: Sight) -> Verdict:
        error = (sight.point(of, name) - sight.goal) * np.array(scale or (1.0,))
        distance = _length(error)
        return distance, distance <= radius

    return judge


def _assembly(sight: Sight) -> Verdict:
    error = sight.goal - sight.point("site", "RoundNut")
    return _length(error), (_length(error[:, :2]) < 0.02) & (error[:, 2] > 0)


def _disassemble(sight: Sight) -> Verdict:
    missing = sight.goal[:, 2] - sight.point("site", "RoundNut-8")[:, 2]
    return np.maximum(missing, 0), missing < 0


def _stick_pull(sight: Sight) -> Verdict:
    handle, stick = sight.point("site", "insertion"), sight.point("site", "stick_end")
    beside = np.abs(stick - handle)
    inserted = (stick[:, 0] >= handle[:, 0]) & (beside[:, 1] <= 0.04) & (beside[:, 2] <= 0.06)
    distance = _length(handle - sight.goal)
    return distance, (distance <= 0.12) & inserted


def _basketball(sight: Sight) -> Verdict:
    hoop = sight.goal.copy()
    hoop[:, 2] = 0.3  # slightly above it
    distance = _length((sight.point("body", "bsktball") - hoop) * np.array([1.0, 1.0, 2.0]))
    return distance, distance <= 0.08


_PUCK = (Thing("puck", "body", "obj", "obj"),)
_WRENCH = (Thing("wrench", "site", "RoundNut-8", "RoundNut"),)

KINDS = {
    "pick-place": Kind(
        "pick-place-v3", "Picks a puck up and holds it at a goal in the air.",
        _PUCK, _within("body", "obj", 0.07), 0.15, xyzw=True, episode_steps=200,
    ),
    "push": Kind(
        "push-v3", "Pushes a puck over a table to a goal.",
        _PUCK, _within("body", "obj", 0.05), 0.15, xyzw=True, episode_steps=200,
    ),
    "assembly": Kind(
        "assembly-v3", "Picks a wrench up and puts its ring on a peg.",
        _WRENCH, _assembly, 0.1, xyzw=False, episode_steps=250,
    ),
    "peg-insert-side": Kind(
        "peg-insert-side-v3", "Picks a peg up and inserts it into a hole from the side.",
        (Thing("peg", "site", "pegGrasp", "peg"),),
        _within("site", "pegHead", 0.07, 1.0, 2.0, 2.0), 0.1, xyzw=True, episode_steps=250,
    ),
    "disassemble": Kind(
        "disassemble-v3", "Lifts a wrench off the peg on which its ring lies.",
        _WRENCH, _disassemble, 0.1, xyzw=False, episode_steps=250, settles_anew=True,
    ),
    "stick-pull": Kind(
        "stick-pull-v3", "Picks a stick up, puts it into a handle and pulls a thermos by it.",
        (Thing("stick", "body", "stick", "stick"), Thing("handle", "site", "insertion", None)),
        _stick_pull, 0.1, xyzw=True, episode_steps=250,
    ),
    "bin-picking": Kind(
        "bin-picking-v3", "Carries a cube from one bin into another.",
        (Thing("cube", "body", "obj", "obj"),), _within("body", "obj", 0.05), 0.0,
        xyzw=False, episode_steps=250,
    ),
    "basketball": Kind(
        "basketball-v3", "Carries a ball into a hoop.",
        (Thing("ball", "body", "bsktball", "bsktball"),), _basketball, 0.15,
        xyzw=False, episode_steps=200,
    ),
}  # fmt: skip
"""By what follows meta-world/ in a task's name."""
