"""The hand-driven reverse pass gives autograd's gradients."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from robot_policies.models.foundation import FoundationPolicy
from sim.quadrotor import airframes as frames
from sim.quadrotor import networks
from sim.quadrotor.adjoint import Layout, Reversible
from sim.quadrotor.dynamics import Parts
from sim.quadrotor.environment import Flights, Mixture
from sim.quadrotor.objective import CostWeights
from sim.quadrotor.rollout import descent_step, student_act, teacher_act

COUNT, STEPS, NO_BOUND = 12, 6, 1e9
TERMS = CostWeights(1, 0.1, 1, 0.1, 0.1, 0.1, 3).tensor()


pytestmark = pytest.mark.usefixtures("uncompiled")


def student():
    torch.manual_seed(0)
    policy = FoundationPolicy(**networks.STUDENT_SIZES)
    torch.nn.init.normal_(policy.initial_state)
    return networks.student_weights(policy)


POLICIES = {
    "student": (student_act, student),
    "conditioned teacher": (
        teacher_act, lambda: networks.make_teachers(1, networks.CONDITIONED_SIZE, 0)
    ),
    "stacked teachers": (
        teacher_act, lambda: networks.make_teachers(3, networks.TEACHER_OBSERVATION_SIZE, 0)
    ),
}  # fmt: skip


def make_flights():
    mixture = Mixture(0.1, 0.1, delay=0.9, noise=0.9, gusts=0.5, langevin=0.9)
    return Flights(frames.sample(COUNT, 5), COUNT, mixture, 0)


def start_of(flights, act, weights):
    return flights.begin(weights[-1]) if act is student_act else flights.flight


def differentiated_by_autograd(act, weights, flights, noises):
    step, flight, paid = descent_step(act), start_of(flights, act, weights), 0.0
    for noise in noises:
        flight, price, _, _ = step(weights, flight, flights.world, noise, TERMS)
        paid = paid + price
    return flight, paid


@pytest.mark.parametrize("name", POLICIES)
def test_gradients_are_those_of_autograd(name):
    act, make = POLICIES[name]
    flights, weights = make_flights(), networks.trainable(make())
    noises = [flights.noise() for _ in range(STEPS)]
    course = Reversible(descent_step(act), flights.flight, flights.world)
    start = start_of(flights, act, weights)
    flight, paid, _, alive = course.fly(weights, start, flights.world, noises, TERMS, NO_BOUND)
    wanted_flight, wanted = differentiated_by_autograd(act, weights, flights, noises)
    torch.testing.assert_close(paid, wanted)
    torch.testing.assert_close(torch.cat(flight.state), torch.cat(wanted_flight.state))
    assert alive.shape == (COUNT,)
    price = torch.rand(COUNT)  # every flight counts differently
    found, all_expected = (torch.autograd.grad(x @ price, weights) for x in (paid, wanted))
    for gradient, expected in zip(found, all_expected, strict=True):
        assert expected.abs().max() > 0
        scale = float(expected.abs().max())
        torch.testing.assert_close(gradient, expected, rtol=1e-4, atol=1e-5 * scale)


def test_rotors_that_differ_keep_their_own_gradients():
    flights = make_flights()
    spread = 1 + 0.3 * torch.rand(4, 1)
    alike = flights.world.airframes
    airframes = replace(alike, rise_time=alike.rise_time * spread)
    flights.world = replace(flights.world, airframes=airframes)
    weights = networks.trainable(student())
    noises = [flights.noise() for _ in range(STEPS)]
    course = Reversible(descent_step(student_act), flights.flight, flights.world)
    start = flights.begin(weights[-1])
    _, paid, _, _ = course.fly(weights, start, flights.world, noises, TERMS, NO_BOUND)
    _, wanted = differentiated_by_autograd(student_act, weights, flights, noises)
    found, expected = (torch.autograd.grad(x.sum(), weights[6])[0] for x in (paid, wanted))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_a_flight_that_explodes_is_bounded_alone():
    flights, weights = make_flights(), student()
    noises = [flights.noise() for _ in range(STEPS)]
    course = Reversible(descent_step(student_act), flights.flight, flights.world)
    begun = flights.begin(weights[-1])
    parts = [x.clone().requires_grad_() for x in begun.state]
    start = replace(begun, state=Parts(*parts))

    def gradients(bound):
        _, paid, _, _ = course.fly(weights, start, flights.world, noises, TERMS, bound)
        return torch.cat(torch.autograd.grad(paid.sum(), parts))

    free = gradients(NO_BOUND)
    bound = 2 * float(free.norm(dim=0).median())
    bounded = gradients(bound)
    assert bounded.norm(dim=0).max() <= bound < free.norm(dim=0).max()
    kept = torch.isclose(bounded, free).all(dim=0)
    assert COUNT / 2 <= kept.sum() < COUNT


def test_a_layout_gives_back_what_it_packed():
    world = make_flights().world
    layout = Layout(world)
    back = layout.unpack(layout.pack(world))
    assert torch.equal(back.airframes.rotor_position, world.airframes.rotor_position)
    assert torch.equal(back.moving, world.moving)
