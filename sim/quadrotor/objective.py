"""What training through the dynamics minimises: RAPTOR's reward, smooth, with a barrier."""

from __future__ import annotations

from dataclasses import astuple, dataclass

import torch
from torch import Tensor

from sim.quadrotor.environment import Flight, World
from sim.quadrotor.evaluation import TERMINATION_REWARD, reward

CAP = 10.0
"""Of a flight's mean cost: what is wholly lost teaches nothing."""

NEARBY = 0.05
"""m, where the term for precision has risen to its half."""


@dataclass(frozen=True)
class CostWeights:
    """Weights of the cost's terms; the reward of the protocol is 1, 0.1, 1 and nothing else."""

    position: float = 1.0
    """Per m."""
    yaw: float = 0.1
    """Per rad."""
    action_change: float = 1.0
    """Per norm of the change of the raw action."""
    linear_velocity: float = 0.0
    angular_velocity: float = 0.0
    tilt: float = 0.0
    barrier: float = 1.0
    """Against coming near a limit that ends the episode."""
    precision: float = 0.0
    """Per |p| / (|p| + 5 cm), which is steep near the target only."""

    def tensor(self) -> Tensor:
        """[8], an input of the compiled step, so that a schedule compiles nothing anew."""
        return torch.tensor(astuple(self))

    def towards(self, end: CostWeights, share: float) -> Tensor:
        """[8] between these weights (share 0) and `end` (share 1)."""
        return torch.lerp(self.tensor(), end.tensor(), min(max(share, 0.0), 1.0))


def cost(flight: Flight, following: Flight, world: World, weights: Tensor) -> Tensor:
    """[N] cost of the step from `flight` to `following`, whose `previous` is the action taken."""
    state = following.state
    position = state.position - following.reference[0:3]
    velocity = state.linear_velocity - following.reference[3:6]
    rate, action = state.angular_velocity, following.previous
    x, y, z, _ = state.quaternion_xyzw.unbind()
    near = torch.relu(position.abs() / world.reach - 0.8).square().sum(dim=0)
    fast = torch.relu(velocity.abs() - 0.7 * world.speed).square().sum(dim=0)
    spinning = torch.relu(rate.abs() - 20).square().sum(dim=0)
    distance = _norm(position)
    terms = (
        distance,
        2 * torch.sqrt(2 * z.abs() + 1e-5),
        _norm(action - flight.previous),
        _norm(velocity),
        _norm(rate),
        2 * (x * x + y * y),  # 1 - cos(tilt)
        fast + 6 * near + 0.002 * spinning,
        distance / (distance + NEARBY),
    )
    saturated = torch.relu(action.abs() - 1).sum(dim=0)
    return saturated + sum(w * t for w, t in zip(weights.unbind(), terms, strict=True))


def loss_of(costs: Tensor) -> Tensor:
    """The loss of flights with mean `costs` [N] a step.

    Its logarithm keeps the few that are nearly lost from outweighing all others.
    """
    return torch.log1p(costs.clamp(max=CAP)).mean()


def gain(flight: Flight, action: Tensor, over: Tensor) -> Tensor:
    """[N] reward of the protocol for taking `action` in `flight`; `over` where that ended it."""
    error = flight.state._replace(position=flight.state.position - flight.reference[0:3])
    return torch.where(over, TERMINATION_REWARD, reward(error, action, flight.previous))


def _norm(rows: Tensor) -> Tensor:
    """Euclidean norm of columns, smooth at zero."""
    return torch.sqrt(rows.square().sum(dim=0) + 1e-6)
