"""Compiled steps of training, and horizons made of them.

A step is a network, the dynamics and a cost, fused by torch.compile for one number of flights.
The first call takes about a minute; the compiler's cache makes later runs begin in seconds.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from robot_policies.strict import require
from sim.quadrotor import networks
from sim.quadrotor.adjoint import Reversible, Step
from sim.quadrotor.descent import Horizon, Journal, Schedule, descend
from sim.quadrotor.environment import (
    Flight,
    Flights,
    Mixture,
    World,
    disturb,
    ended,
    fly,
    observe,
)
from sim.quadrotor.evaluation import EPISODE_STEPS
from sim.quadrotor.networks import Weights
from sim.quadrotor.objective import CostWeights, cost, gain, loss_of


@dataclass(frozen=True)
class Descent:
    """A stage that learns through the dynamics."""

    schedule: Schedule
    bound: float
    """Longest gradient of a flight's cost with respect to its state: smaller, and accuracy comes
    first; larger, and so do the flights that are nearly lost."""
    mixture: Mixture
    start: CostWeights
    end: CostWeights
    ramp: float
    """Share of the stage over which the cost's weights move from start to end."""

    def __post_init__(self) -> None:
        """Refuse what no stage can have."""
        require(
            "descent",
            (self.bound > 0, "bound", "above 0", self.bound),
            (0 < self.ramp <= 1, "ramp", "above 0, at most 1", self.ramp),
        )


@dataclass(frozen=True)
class Rating:
    """How whole episodes of N flights went."""

    total_reward: Tensor
    """[N]."""
    survived: Tensor
    """[N] bool."""
    error: Tensor
    """[3, N] m, mean position error from 2.5 to 5 s."""

    def offset(self, groups: int) -> Tensor:
        """[3, groups] m, the mean error of neighbouring flights, of those that survived."""
        kept = torch.where(self.survived, self.error, 0).reshape(3, groups, -1).sum(dim=2)
        return kept / self.survived.reshape(groups, -1).sum(dim=1).clamp(min=1)


Act = Callable[[Weights, Flight, World, Tensor], tuple[Tensor, Tensor]]


def student_act(
    weights: Weights, flight: Flight, world: World, noise: Tensor
) -> tuple[Tensor, Tensor]:
    """The student's raw action and new memory."""
    observation = disturb(observe(flight), world, noise)
    return networks.student(weights, observation, flight.memory)


def teacher_act(
    weights: Weights, flight: Flight, world: World, noise: Tensor
) -> tuple[Tensor, Tensor]:
    """The same of the stacked or the conditioned teacher, by the width of its first layer."""
    inputs = [observe(flight), flight.state.rotor_speed]
    if weights[0].shape[2] > networks.TEACHER_OBSERVATION_SIZE:
        inputs += [flight.last, flight.older, world.features]
    return networks.teachers(weights, torch.cat(inputs)), flight.memory


def descent_step(act: Act) -> Step:
    """A step of a policy that learns through the dynamics: flight, cost, reward, ended."""

    def step(
        weights: Weights, flight: Flight, world: World, noise: Tensor, terms: Tensor
    ) -> tuple[Flight, Tensor, Tensor, Tensor]:
        action, memory = act(weights, flight, world, noise)
        following = fly(flight, world, action, memory, noise)
        over = ended(following, world)
        return following, cost(flight, following, world, terms), gain(flight, action, over), over

    return step


def compile_imitation(teacher: Act) -> Callable[..., tuple[Flight, Tensor, Tensor, Tensor]]:
    """A step of distillation: flight, squared error [N] of the student's action, reward, ended.

    The student's memory carries gradients, the flight does not. Where `led` [N] is 1 the teacher
    flies; `offset` [3, N] (m) is what the teacher would leave as a steady error, taken off the
    target that it sees, so that it comes to rest on the true one.
    """

    def step(
        weights: Weights, teacher_weights: Weights, flight: Flight, world: World, noise: Tensor,
        led: Tensor, offset: Tensor,
    ) -> tuple[Flight, Tensor, Tensor, Tensor]:  # fmt: skip
        action, memory = student_act(weights, flight, world, noise)
        with torch.no_grad():
            target = torch.cat([flight.reference[0:3] - offset, flight.reference[3:]])
            label, _ = teacher(teacher_weights, replace(flight, reference=target), world, noise)
            flown = action + led * (label - action)
            following = fly(flight, world, flown, flight.memory, noise)
            over = ended(following, world)
            earned = gain(flight, flown, over)
        error = (action - label).square().mean(dim=0)
        return replace(following, memory=memory), error, earned, over

    return torch.compile(step, fullgraph=True, dynamic=False)


def descend_through_dynamics(
    name: str, stage: Descent, act: Act, weights: Weights, flights: Flights, journal: Journal, *,
    stacked: bool = False,
) -> Weights:  # fmt: skip
    """Improve a policy by the gradient of its cost through the dynamics."""
    course = _course(act, weights, flights)

    def objective(weights: Weights, iteration: int) -> tuple[Tensor, Horizon]:
        share = iteration / (stage.ramp * stage.schedule.iterations)
        terms = stage.start.towards(stage.end, share)
        noises = [flights.noise() for _ in range(stage.schedule.horizon)]
        start = _start(act, weights, flights)
        flight, paid, earned, alive = course.fly(
            weights, start, flights.world, noises, terms, stage.bound
        )
        steps = stage.schedule.horizon
        return loss_of(paid / steps), _conclude(flights, flight, earned, alive, steps)

    return descend(name, weights, objective, flights, stage.schedule, journal, stacked=stacked)


_courses: dict[Any, Reversible] = {}


def _course(act: Act, weights: Weights, flights: Flights) -> Reversible:
    """The compiled step, that of an earlier stage where it has the same shapes."""
    key = (act, flights.count, *(w.shape for w in weights))
    if key not in _courses:
        _courses[key] = Reversible(descent_step(act), flights.flight, flights.world)
    return _courses[key]


@torch.no_grad()
def rate(act: Act, weights: Weights, flights: Flights) -> Rating:
    """Fly one whole episode of every flight, uncompiled."""
    flight, world = _start(act, weights, flights), flights.world
    alive = torch.ones(flights.count, dtype=torch.bool)
    total, error = torch.zeros(flights.count), torch.zeros(3, flights.count)
    for index in range(EPISODE_STEPS):
        noise = flights.noise()
        action, memory = act(weights, flight, world, noise)
        following = fly(flight, world, action, memory, noise)
        over = ended(following, world)
        total += torch.where(alive, gain(flight, action, over), 0)
        alive &= ~over
        flight = following
        if index >= EPISODE_STEPS // 2:
            away = flight.state.position - flight.reference[0:3]
            error += away / (EPISODE_STEPS - EPISODE_STEPS // 2)
    return Rating(total, alive, error)


def _start(act: Act, weights: Weights, flights: Flights) -> Flight:
    """Where the next horizon begins; a recurrent policy brings its initial memory."""
    return flights.begin(weights[-1]) if act is student_act else flights.flight


def horizon(
    step: Callable[[Flight, Tensor], tuple[Flight, Tensor, Tensor, Tensor]],
    flights: Flights,
    start: Flight,
    steps: int,
) -> tuple[Tensor, Horizon]:
    """Fly `steps` steps of `step(flight, noise)` from `start`, and renew the flights.

    Returns the mean cost [N] of each flight, and what happened.
    """
    flight, alive = start, torch.ones(flights.count, dtype=torch.bool)
    paid, earned = torch.zeros(flights.count), torch.zeros(flights.count)
    for _ in range(steps):
        flight, price, income, over = step(flight, flights.noise())
        # Beyond its end a flight pays on: that, not the end itself, has a gradient.
        paid = paid + price
        earned += torch.where(alive, income, 0)
        alive = alive & ~over
    return paid / steps, _conclude(flights, flight, earned, alive, steps)


def _conclude(
    flights: Flights, flight: Flight, earned: Tensor, alive: Tensor, steps: int
) -> Horizon:
    """Figures of a horizon that ended with `flight`; renews the flights."""
    old = alive & (flights.age + steps >= EPISODE_STEPS / 2)
    distance = (flight.state.position - flight.reference[0:3]).detach().norm(dim=0)
    error = float(distance[old].median()) if old.any() else float("nan")
    survival = float(alive.float().mean()) ** (EPISODE_STEPS / steps)
    reward = float(earned[alive].mean()) * EPISODE_STEPS / steps if alive.any() else float("nan")
    flights.renew(flight, ~alive, steps)
    return Horizon(reward, survival, error)
