"""What policies are trained on and how: the same flights as the evaluation's, honest gradients."""

from __future__ import annotations

import math
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from robot_policies.models.foundation import FoundationPolicy
from sim.quadrotor import airframes as frames
from sim.quadrotor import networks, scenario
from sim.quadrotor.descent import Horizon, Schedule, Silent, descend
from sim.quadrotor.disturbances import Disturbances
from sim.quadrotor.dynamics import State
from sim.quadrotor.environment import Flight, Flights, Mixture, disturb, fly, observe
from sim.quadrotor.evaluation import Limits, evaluate
from sim.quadrotor.objective import CostWeights
from sim.quadrotor.rollout import (
    Descent,
    descend_through_dynamics,
    descent_step,
    horizon,
    student_act,
    teacher_act,
)
from sim.runs import Run

COUNT = 12
CALM = Mixture()
SHORT = Schedule(6, 5, 1e-2, 1e-3, 0.9)


pytestmark = pytest.mark.usefixtures("uncompiled")


def make_flights(mixture=CALM, seed=0, **options):
    return Flights(frames.sample(COUNT, 5), COUNT, mixture, seed, **options)


def fresh_student(seed=0):
    torch.manual_seed(seed)
    return networks.student_weights(FoundationPolicy(**networks.STUDENT_SIZES))


def test_the_student_in_columns_is_the_policy_that_is_exported():
    policy = FoundationPolicy(**networks.STUDENT_SIZES)
    observation, memory = torch.randn(COUNT, 22), torch.randn(COUNT, 16)
    action, following = policy(observation[:, None], memory)
    weights = networks.student_weights(policy)
    in_columns = networks.student(weights, observation.T, memory.T)
    torch.testing.assert_close(in_columns[0].T, action[:, 0])
    torch.testing.assert_close(in_columns[1].T, following)
    assert sum(p.numel() for p in policy.parameters()) == 2084


def test_stacked_teachers_are_what_each_is_alone():
    weights = networks.make_teachers(3, 26, seed=0)
    observation = torch.randn(26, 6)  # two columns for each teacher
    together = networks.teachers(weights, observation)
    for index in range(3):
        alone = networks.teachers(
            tuple(w[index, None] for w in weights), observation[:, 2 * index :]
        )
        torch.testing.assert_close(together[:, 2 * index : 2 * index + 2], alone[:, :2])


class InColumns:
    """A student as the evaluation flies it."""

    def __init__(self, weights):
        self.weights = weights

    def reset(self, batch, seed, initial):
        self.previous = torch.from_numpy(initial["previous_action"].T.copy())
        self.memory = self.weights[-1].expand(-1, batch)

    def step(self, signals):
        rows = torch.cat([torch.from_numpy(v.T.copy()) for v in signals.values()])
        rows[:3] = rows[:3].clamp(-1, 1)
        rows[12:15] = rows[12:15].clamp(-3, 3)
        seen = torch.cat([rows, self.previous])
        action, self.memory = networks.student(self.weights, seen, self.memory)
        self.previous = action
        self.last = SimpleNamespace(raw_action=action.T[:, None].numpy())
        return {"motors": ((action.T[:, None] + 1) / 2).clamp(0, 1).numpy()}


@pytest.mark.parametrize("late", [0, 1, 2])
@torch.no_grad()
def test_training_flies_as_the_evaluation_does(late):
    weights = tuple(w.detach() for w in fresh_student())
    flights = make_flights()
    steps = torch.tensor([late >= 1, late >= 2]).float()[:, None].expand(2, COUNT)
    world = replace(flights.world, late=steps)
    started = State(torch.cat(flights.flight.state))
    raw = 2 * flights.flight.state.rotor_speed - 1
    flight = replace(flights.begin(weights[-1]), previous=raw)
    states = []
    evaluate(
        InColumns(weights),
        scenario.Scenario(world.airframes, started, world.force, episodes=1),
        steps=200,
        disturbances=Disturbances(delay_steps=late),
        limits=Limits(math.inf, math.inf, math.inf),
        watch=lambda state, error, alive: states.append(state.data),
    )
    for _ in range(40):
        action, memory = student_act(weights, flight, world, torch.zeros(15, COUNT))
        flight = fly(flight, world, action, memory, torch.zeros(15, COUNT))
    torch.testing.assert_close(torch.cat(flight.state), states[40], atol=1e-3, rtol=1e-3)


def test_sensor_noise_is_as_large_as_asked_and_turns_the_attitude():
    flights = make_flights(Mixture(noise=1.0))
    seen = observe(flights.flight)
    noise = torch.zeros(15, COUNT)
    torch.testing.assert_close(disturb(seen, flights.world, noise), seen)
    noise[6:9] = 1
    turned = disturb(seen, flights.world, noise)[3:12].T.reshape(-1, 3, 3)
    gram = turned @ turned.transpose(1, 2)
    torch.testing.assert_close(gram, torch.eye(3).expand_as(gram), atol=5e-3, rtol=0)
    assert (turned - seen[3:12].T.reshape(-1, 3, 3)).abs().max() > 1e-3


def test_the_gradient_is_that_of_the_cost():
    weights, flights = networks.trainable(fresh_student()), make_flights(Mixture(noise=1, delay=1))
    step, terms = descent_step(student_act), CostWeights().tensor()
    noise = flights.noise()

    def total(values):
        flight, paid = flights.begin(values[-1]), 0.0
        for _ in range(4):
            flight, price, _, _ = step(values, flight, flights.world, noise, terms)
            paid = paid + price.sum()
        return paid

    (gradient,) = torch.autograd.grad(total(weights), weights[6])
    direction, size = torch.randn_like(gradient), 3e-3
    moved = [(*weights[:6], weights[6] + s * size * direction, *weights[7:]) for s in (1, -1)]
    with torch.no_grad():
        slope = (total(moved[0]) - total(moved[1])) / (2 * size)
    torch.testing.assert_close((gradient * direction).sum(), slope, rtol=2e-2, atol=1e-2)


class Diary(Silent):
    """Keeps the losses."""

    def __init__(self):
        self.losses = []

    def log(self, stage, step, metrics):
        self.losses.append(metrics["loss"])


def test_learning_through_the_dynamics_lowers_the_cost():
    """Of the first tenth of a second of the same flights, over and over."""
    stage = Descent(
        Schedule(61, 10, 1e-2, 1e-3, 0.5), 1e3, CALM, CostWeights(), CostWeights(), 1.0
    )
    flights, diary = make_flights(), Diary()
    start = flights.state_dict()
    flights.renew = lambda *_: flights.load_state_dict(start)
    weights = networks.make_teachers(1, networks.CONDITIONED_SIZE, seed=0)
    descend_through_dynamics("teacher", stage, teacher_act, weights, flights, diary, stacked=True)
    first, *_, last = diary.losses
    assert last < 0.95 * first


def quadratic(weights, iteration):
    return (weights[0] ** 2).sum(), Horizon(0.0, 1.0, 0.0)


def test_a_killed_stage_goes_on_as_if_nothing_had_happened(tmp_path, monkeypatch):
    def stage(run, objective):
        return descend("s", (torch.ones(2, 3),), objective, make_flights(), SHORT, run)

    def killed(weights, iteration):
        if iteration == 4:
            raise KeyboardInterrupt
        return quadratic(weights, iteration)

    monkeypatch.setattr("sim.quadrotor.descent.CHECKPOINT_S", 0.0)
    with Run.create(tmp_path / "whole", SHORT, "test") as run:
        whole = stage(run, quadratic)
    with Run.create(tmp_path / "cut", SHORT, "test") as run, pytest.raises(KeyboardInterrupt):
        stage(run, killed)
    with Run.resume(tmp_path / "cut", SHORT) as run:
        assert run.load("s")[0] == 4
        torch.testing.assert_close(stage(run, quadratic)[0], whole[0], rtol=0, atol=0)


def test_a_stack_counts_the_network_whose_gradient_breaks_and_leaves_it_where_it_stood(tmp_path):
    stood = []

    def breaks(weights, iteration):
        if iteration == 3:
            stood.append(weights[0][1].detach().clone())
        loss, seen = quadratic(weights, iteration)
        return loss + (math.nan if iteration >= 3 else 0.0) * weights[0][1].sum(), seen

    stage = replace(SHORT, average=0.0)
    with Run.create(tmp_path / "run", SHORT, "test") as run:
        (end,) = descend(
            "s", (torch.ones(3, 2, 1),), breaks, make_flights(), stage, run, stacked=True
        )
        assert run.finished("s")["refused"] == 3
    torch.testing.assert_close(end[1], stood[0])
    assert (end[0] != end[1]).all()


def test_a_stack_goes_on_without_the_network_that_is_not_a_number():
    start = torch.ones(3, 2)
    start[1] = torch.nan
    (end,) = descend("s", (start,), quadratic, make_flights(), SHORT, Silent(), stacked=True)
    assert torch.isnan(end[1]).all()
    assert (end[[0, 2]] < 1).all()


def test_a_single_network_that_is_not_a_number_ends_the_stage():
    start = torch.full((2,), torch.nan)
    long = replace(SHORT, iterations=100)
    with pytest.raises(FloatingPointError, match="not finite in 20 iterations in a row"):
        descend("s", (start,), quadratic, make_flights(), long, Silent())


def test_a_flight_that_is_not_a_number_is_begun_anew():
    flights = make_flights()
    state = flights.flight.state
    state.position[0, 3] = torch.nan
    done = flights.renew(flights.flight, torch.zeros(COUNT, dtype=torch.bool), steps=1)
    assert done[3]
    assert torch.isfinite(torch.cat(flights.flight.state)).all()


def test_brief_episodes_end_early_and_are_never_old():
    flights = make_flights(Mixture(brief=1.0))
    nobody = torch.zeros(COUNT, dtype=torch.bool)
    flights.renew(flights.flight, ~nobody, steps=1)
    for _ in range(2):
        done = flights.renew(flights.flight, nobody, steps=100)
    assert done.all() and (flights.age == 0).all()


def test_a_checkpoint_with_another_number_of_flights_is_refused():
    stored = Flights(frames.sample(COUNT, 5), 2 * COUNT, CALM, 0).state_dict()
    with pytest.raises(ValueError, match=r"expected 12, .* found 24"):
        make_flights().load_state_dict(stored)


def test_flights_go_on_from_their_stored_state():
    mixture = Mixture(0.1, 0.1, 0.5, 0.5, 0.5, 0.5, 0.5)
    one, other = make_flights(mixture), make_flights(mixture)

    def advance(flight: Flight, noise: torch.Tensor):
        following = fly(flight, flights.world, flight.previous, flight.memory, noise)
        zero = torch.zeros(COUNT)
        return following, zero, zero, zero > 0

    flights = one
    horizon(advance, one, one.flight, 30)
    stored = one.state_dict()
    horizon(advance, other, other.flight, 10)  # has gone elsewhere meanwhile
    other.load_state_dict(stored)
    for flights in (one, other):
        horizon(advance, flights, flights.flight, 30)
    for left, right in zip(one.flight.state, other.flight.state, strict=True):
        torch.testing.assert_close(left, right, rtol=0, atol=0)
