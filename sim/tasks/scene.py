"""What a task simulates and rewards; sim/tasks/task.py makes episodes of it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from robot_policies.contract import Action, Gains, Observation, Robot, Timing
from sim.draws import FloatArray
from sim.randomization import IdArray, Parameters

BoolArray = NDArray[np.bool_]
Signals = dict[str, FloatArray]
"""Name -> [N, W], flat, without noise."""


@dataclass(frozen=True)
class Interface:
    """The part of a contract that a task decides.

    Export and evaluation take it from here, so that they cannot disagree with training.
    """

    robot: Robot
    observation: tuple[Observation, ...]
    action: tuple[Action, ...]
    gains: Gains | None
    timing: Timing


@dataclass(frozen=True)
class Start:
    """How the episodes of M environments begin."""

    command: FloatArray
    """[M, Da] in the contract's units: what acts until a delayed first command arrives."""
    previous_action: FloatArray
    """[M, Da] raw: what the policy is told at first."""


@dataclass(frozen=True)
class Score:
    """What the step just taken is worth."""

    reward: FloatArray
    """[N]"""
    ended: BoolArray
    """[N] the episode cannot go on."""
    distance: FloatArray
    """[N] m, from where the robot, or what it pushes, is to be."""
    success: BoolArray
    """[N] were the episode to end now."""


class Scene(ABC):
    """N robots with something to do. Arrays are numpy; SI units; world ENU."""

    about: str
    """What a policy for it does, in a sentence: for the model card."""
    interface: Interface
    count: int
    """N."""
    episode_steps: int
    """Control steps after which an episode is over."""
    models: Sequence[Parameters]
    """What randomisation sets, beside the channels."""
    lost_reward: float
    """Of the step in which a robot's simulation diverges."""

    @abstractmethod
    def seed(self, seed: int) -> None:
        """Draw all that follows from this seed."""

    @abstractmethod
    def reset(self, ids: IdArray, episodes: IdArray) -> Start:
        """Begin the episodes [M] of environments `ids` [M], whose parameters are drawn."""

    @abstractmethod
    def step(self, command: FloatArray) -> None:
        """Advance by a control period with the commands that arrive, [N, Da]."""

    @abstractmethod
    def signals(self) -> Signals:
        """The truth now, in new arrays.

        The interface's signals in its order, then those that no policy is told.
        """

    @abstractmethod
    def score(self, signals: Signals, raw: FloatArray, previous: FloatArray) -> Score:
        """Judge the step that led to `signals`; raw actions of it and the one before [N, Da]."""

    def rest(self, ids: IdArray) -> None:
        """Nobody watches environments `ids` [M] until they are reset.

        Scenes that can do so cheaply do not simulate them meanwhile; others go on.
        """
        del ids

    @abstractmethod
    def diverged(self) -> IdArray:
        """The environments whose state is no longer finite, until they are reset."""
