"""Disturbances: each does what its name says, and nothing else."""

import math

import numpy as np
import pytest
import torch

from sim.quadrotor import airframes, dynamics, scenario
from sim.quadrotor.cases import CASES
from sim.quadrotor.disturbances import Disturbances, Gusts, SensorNoise, Sensors, World
from sim.quadrotor.dynamics import State


@pytest.fixture
def flights():
    return scenario.sample(50, 4, seed=0, with_force=True, position_range=0.5)


def test_without_disturbances_the_world_leaves_everything_as_it_is(flights):
    world = World(Disturbances(), flights, seed=0)
    action = torch.rand(4, 200)
    assert world.measure(flights.state) is flights.state
    reached, fleet, force = world.step(action)
    assert torch.equal(reached, action) and torch.equal(force, flights.force)
    assert torch.equal(fleet.mass, flights.airframes.mass)


def test_a_delay_keeps_the_first_rotor_speeds_and_then_shifts(flights):
    world = World(Disturbances(delay_steps=2), flights, seed=0)
    actions = [torch.full((4, 200), value) for value in (0.1, 0.2, 0.3, 0.4)]
    reached = [world.step(action)[0] for action in actions]
    assert torch.equal(reached[0], flights.state.rotor_speed)
    assert torch.equal(reached[1], flights.state.rotor_speed)
    assert torch.equal(reached[2], actions[0]) and torch.equal(reached[3], actions[1])


def test_a_payload_arrives_at_its_step_and_changes_the_mass_alone(flights):
    world = World(Disturbances(payload_factor=1.2, payload_step=3), flights, seed=0)
    action = flights.airframes.hover_action
    fleets = [world.step(action)[1] for _ in range(5)]
    gain = [float((fleet.mass / flights.airframes.mass).mean()) for fleet in fleets]
    assert gain == pytest.approx([1, 1, 1, 1.2, 1.2])
    assert torch.equal(fleets[4].inertia, flights.airframes.inertia)


def test_gusts_have_their_spread_and_their_correlation_time():
    fleet = airframes.standard("x500_sim").repeat(2000)
    gusts = Gusts(Disturbances(gust_std=0.05, gust_time_s=0.5), fleet, seed=0)
    forces = torch.stack([gusts.step() for _ in range(51)]) / fleet.weight
    for row in (0, 50):  # stationary from the start
        assert float(forces[row].std()) == pytest.approx(0.05, rel=0.05)
    correlation = float((forces[0] * forces[50]).mean()) / 0.05**2
    assert correlation == pytest.approx(math.exp(-1), abs=0.05)


def test_sensor_noise_has_its_spread_and_attitudes_stay_rotations(flights):
    big = State(flights.state.data.repeat(1, 50))
    measured = Sensors(SensorNoise(), seed=0).measure(big)
    spreads = {"position": 0.01, "linear_velocity": 0.02, "angular_velocity": 0.05}
    for name, spread in spreads.items():
        error = getattr(measured, name) - getattr(big, name)
        assert float(error.std()) == pytest.approx(spread, rel=0.02), name
    assert torch.equal(measured.rotor_speed, big.rotor_speed)
    true, seen = (s.rotation_matrix.reshape(3, 3, -1).permute(2, 0, 1) for s in (big, measured))
    torch.testing.assert_close(seen @ seen.mT, torch.eye(3).expand_as(seen), atol=1e-5, rtol=0)
    turn = true.mT @ seen  # exp([e]x), to first order 1 + [e]x
    vector = torch.stack([turn[:, 2, 1], turn[:, 0, 2], turn[:, 1, 0]])
    assert float(vector.std()) == pytest.approx(math.radians(1), rel=0.02)


def test_a_large_rotation_is_the_exponential_of_its_vector():
    level = dynamics.hover_state(airframes.standard("race").repeat(64))
    noise = SensorNoise(position=0, linear_velocity=0, attitude=2.0, angular_velocity=0)
    seen = Sensors(noise, seed=1).measure(level).rotation_matrix.reshape(3, 3, -1)
    e = 2.0 * np.random.default_rng([1, 7]).standard_normal((12, 64), np.float32)[3:6]
    skew = torch.zeros(64, 3, 3)
    for (i, j), row in {(2, 1): 0, (0, 2): 1, (1, 0): 2}.items():
        skew[:, i, j], skew[:, j, i] = torch.tensor(e[row]), -torch.tensor(e[row])
    expected = torch.linalg.matrix_exp(skew).permute(1, 2, 0)
    torch.testing.assert_close(seen, expected, atol=1e-5, rtol=0)


def test_each_disturbance_is_fixed_by_the_seed_and_does_not_shift_the_others(flights):
    gusty = Disturbances(gust_std=0.05)
    both = Disturbances(gust_std=0.05, noise=SensorNoise())
    action = flights.airframes.hover_action
    forces = []
    for disturbances, seed in ((gusty, 0), (both, 0), (gusty, 1)):
        world = World(disturbances, flights, seed)
        world.measure(flights.state)
        forces.append(world.step(action)[2])
    assert torch.equal(forces[0], forces[1]) and not torch.equal(forces[0], forces[2])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"gust_std": -1.0}, "gust_std: expected zero or more, found -1"),
        ({"gust_time_s": 0.0}, "gust_time_s: expected above 0 s"),
        ({"payload_factor": math.nan}, "payload_factor: expected above 0, found nan"),
        ({"delay_steps": -1}, "delay_steps: expected zero or more"),
    ],
)
def test_senseless_disturbances_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        Disturbances(**change)


def test_a_load_that_cannot_be_carried_is_refused(flights):
    with pytest.raises(ValueError, match="thrust over weight: expected at least 1"):
        World(Disturbances(payload_factor=9.0), flights, seed=0)


def test_cases_change_what_they_name(flights):
    assert torch.equal(CASES["nominal"].prepare(flights, 0).force, flights.force)
    assert not CASES["calm"].prepare(flights, 0).force.any()
    thrown = CASES["any-attitude"].prepare(flights, 0)
    moving = (flights.state.linear_velocity != 0).any(dim=0)
    assert torch.equal(thrown.state.data[:, ~moving], flights.state.data[:, ~moving])
    rate = thrown.state.angular_velocity[:, moving].norm(dim=0)
    torch.testing.assert_close(rate, torch.full_like(rate, 10.0))
    angle = 2 * torch.acos(thrown.state.quaternion_xyzw[3, moving].clamp(-1, 1))
    assert float(angle.mean()) == pytest.approx(math.pi / 2, abs=0.25)
    assert float(angle.max()) > 0.95 * math.pi
