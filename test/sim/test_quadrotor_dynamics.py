"""Quadrotor dynamics: known solutions, conservation laws, signs, gradients, refusals."""

import math
import shutil
from dataclasses import replace

import pytest
import torch

from sim.quadrotor import airframes, dynamics, scenario
from sim.quadrotor.airframes import GRAVITY
from sim.quadrotor.dynamics import State, step

DT = dynamics.PROTOCOL_DT
FRONT_RIGHT, BACK_RIGHT, BACK_LEFT, FRONT_LEFT = range(4)


def fly(state, action, fleet, force, seconds, dt=DT):
    for _ in range(round(seconds / dt)):
        state = step(state, action, fleet, force, dt)
    return state


@pytest.fixture
def x500():
    """A model without thrust at standstill, in double precision."""
    return airframes.standard("x500_sim").to(torch.float64)


@pytest.fixture
def no_force():
    return torch.zeros(3, 1, dtype=torch.float64)


@pytest.mark.parametrize("name", airframes.STANDARD_NAMES)
def test_hover_stays(name, no_force):
    fleet = airframes.standard(name).to(torch.float64)
    start = dynamics.hover_state(fleet)
    end = fly(start, fleet.hover_action, fleet, no_force, seconds=5)
    torch.testing.assert_close(end.data, start.data, rtol=0, atol=1e-9)


def test_free_fall_is_a_parabola(x500, no_force):
    still = dynamics.hover_state(x500).data.clone()
    still[13:17] = 0
    end = fly(State(still), torch.zeros_like(x500.hover_action), x500, no_force, seconds=1)
    assert float(end.position[2]) == pytest.approx(-GRAVITY / 2, abs=1e-9)
    assert float(end.linear_velocity[2]) == pytest.approx(-GRAVITY, abs=1e-9)


def test_tumbling_without_torque_keeps_angular_momentum_and_energy(x500, no_force):
    start = dynamics.hover_state(x500).data.clone()
    start[10:13] = torch.tensor([[1.0], [2.0], [-3.0]])
    start[13:17] = 0
    end = fly(State(start), torch.zeros_like(x500.hover_action), x500, no_force, seconds=2)

    def momentum_and_energy(state):
        body = x500.inertia * state.angular_velocity
        world = (state.rotation_matrix.reshape(3, 3, 1) * body[None]).sum(dim=1)
        return torch.cat([world.flatten(), (body * state.angular_velocity).sum(dim=0) / 2])

    torch.testing.assert_close(
        momentum_and_energy(end), momentum_and_energy(State(start)), rtol=1e-7, atol=0
    )
    assert float(end.quaternion_xyzw.norm()) == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize(("target", "time"), [(1.0, "rise_time"), (0.0, "fall_time")])
def test_rotors_follow_their_time_constant(target, time, no_force):
    fleet = airframes.standard("crazyflie").to(torch.float64)
    start = dynamics.hover_state(fleet)
    end = fly(start, torch.full_like(fleet.hover_action, target), fleet, no_force, seconds=0.1)
    decay = torch.exp(-0.1 / getattr(fleet, time))
    expected = target + (fleet.hover_action - target) * decay
    torch.testing.assert_close(end.rotor_speed, expected, rtol=0, atol=1e-5)


def test_the_step_is_of_fourth_order():
    flights = scenario.sample(8, 1, seed=3, with_force=True, position_range=0.5)
    fleet, force = flights.airframes.to(torch.float64), flights.force.double()
    # Rotors that only rise keep the right-hand side smooth.
    action = torch.full_like(fleet.hover_action, 0.9)
    start = State(flights.state.data.double())
    end = [fly(start, action, fleet, force, 0.2, dt).data for dt in (0.01, 0.005, 0.0005)]
    coarse, fine = ((end[i] - end[2]).norm() for i in (0, 1))
    assert 13 < float(coarse / fine) < 19  # 2^4 = 16


@pytest.mark.parametrize(
    ("stronger", "axis", "sign"),
    [
        ((BACK_LEFT, FRONT_LEFT), 0, +1),  # rolls right, about +x forward
        ((BACK_RIGHT, BACK_LEFT), 1, +1),  # pitches nose down, about +y left
        ((BACK_RIGHT, FRONT_LEFT), 2, +1),  # yaws left, about +z up
        ((FRONT_RIGHT, BACK_LEFT), 2, -1),
    ],
)
def test_rotors_turn_the_body_the_right_way(stronger, axis, sign, no_force):
    fleet = airframes.standard("crazyflie").to(torch.float64)
    action = fleet.hover_action.clone()
    action[list(stronger)] += 0.05
    rate = fly(dynamics.hover_state(fleet), action, fleet, no_force, 0.05).angular_velocity[:, 0]
    assert float(sign * rate[axis]) > 0.01
    assert float(rate.abs().sum() - rate[axis].abs()) < 1e-3


def test_disturbances_act_in_their_frames(x500):
    quarter = math.sqrt(0.5)
    start = dynamics.hover_state(x500).data.clone()
    start[3:7] = torch.tensor([[0.0], [0.0], [quarter], [quarter]])  # facing world +y
    force, torque = (torch.zeros(3, 1, dtype=torch.float64) for _ in range(2))
    force[0], torque[0] = 1.0, 1e-3
    end = step(State(start), x500.hover_action, x500, force, DT, torque=torque)
    assert float(end.linear_velocity[0]) == pytest.approx(DT / 2.0, rel=1e-3)  # 1 N on 2 kg
    assert float(end.angular_velocity[0]) == pytest.approx(1e-3 * DT / float(x500.inertia[0, 0]))


def test_an_accelerometer_reads_gravity_in_hover_and_nothing_in_free_fall(x500, no_force):
    hover = dynamics.hover_state(x500)
    reading = dynamics.specific_force(hover, x500, no_force).flatten()
    torch.testing.assert_close(reading, torch.tensor([0, 0, GRAVITY], dtype=torch.float64))
    falling = hover.data.clone()
    falling[13:17] = 0
    assert float(dynamics.specific_force(State(falling), x500, no_force).abs().max()) == 0


def test_an_accelerometer_agrees_with_the_motion():
    flights = scenario.sample(16, 1, seed=1, with_force=True, position_range=0.5)
    fleet, force = flights.airframes.to(torch.float64), flights.force.double()
    start = State(flights.state.data.double())
    dt = 1e-6
    after = step(start, start.rotor_speed, fleet, force, dt)
    acceleration = (after.linear_velocity - start.linear_velocity) / dt
    acceleration[2] += GRAVITY
    body = (start.rotation_matrix.reshape(3, 3, -1) * acceleration[:, None]).sum(dim=0)
    torch.testing.assert_close(
        dynamics.specific_force(start, fleet, force), body, rtol=1e-3, atol=1e-3
    )


def test_actions_beyond_their_limits_are_limited(x500, no_force):
    start = dynamics.hover_state(x500)
    for beyond, limit in ((7.0, 1.0), (-7.0, 0.0)):
        results = [
            step(start, torch.full_like(x500.hover_action, value), x500, no_force, DT).data
            for value in (beyond, limit)
        ]
        assert torch.equal(*results)


def test_gradients_flow_through_state_action_force_and_parameters():
    flights = scenario.sample(2, 1, seed=2, with_force=True, position_range=0.5)
    fleet = flights.airframes.to(torch.float64)
    action = (fleet.hover_action + 0.05).requires_grad_()
    inputs = [flights.state.data.double(), flights.force.double(), fleet.inertia]
    inputs = [value.clone().requires_grad_() for value in inputs]

    def two_steps(data, force, inertia, action):
        built = replace(fleet, inertia=inertia)
        state = step(State(data), action, built, force, DT)
        return step(state, action, built, force, DT).data

    assert torch.autograd.gradcheck(two_steps, (*inputs, action), atol=1e-4, eps=1e-7)


@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
def test_the_compiled_step_agrees_with_the_plain_one():
    flights = scenario.sample(64, 1, seed=4, with_force=True, position_range=0.5)
    fleet = flights.airframes
    compiled = dynamics.compile_step()
    plain = fused = flights.state
    with torch.no_grad():
        for _ in range(20):
            plain = step(plain, fleet.hover_action, fleet, flights.force, DT)
            fused = compiled(fused, fleet.hover_action, fleet, flights.force, DT)
    torch.testing.assert_close(fused.data, plain.data, rtol=1e-5, atol=1e-5)
    with pytest.raises(ValueError, match="action: expected shape"):
        compiled(fused, fleet.hover_action[:3], fleet, flights.force, DT)


def test_the_rotation_matrix_turns_body_into_world():
    half = math.sqrt(0.5)
    data = dynamics.hover_state(airframes.standard("race")).data.clone()
    data[3:7, 0] = torch.tensor([0.0, 0.0, half, half])  # a quarter turn to the left
    rotation = State(data).rotation_matrix.reshape(3, 3)
    forward_in_world = rotation @ torch.tensor([1.0, 0.0, 0.0])
    torch.testing.assert_close(forward_in_world, torch.tensor([0.0, 1.0, 0.0]))


def test_wrong_shapes_are_named(x500, no_force):
    state = dynamics.hover_state(x500)
    with pytest.raises(ValueError, match=r"action: expected shape \[4, 1\].*found \[1, 4\]"):
        step(state, x500.hover_action.T, x500, no_force, DT)
    with pytest.raises(ValueError, match=r"force: expected shape \[3, 1\].*found \[3\]"):
        step(state, x500.hover_action, x500, no_force[:, 0], DT)
    with pytest.raises(ValueError, match=r"state: expected shape \[17, 1\].*found \[13, 1\]"):
        step(State(state.data[:13]), x500.hover_action, x500, no_force, DT)


def test_non_finite_values_are_found(x500):
    state, action = dynamics.hover_state(x500), x500.hover_action.clone()
    dynamics.check_finite(state, action)
    action[2] = float("nan")
    with pytest.raises(ValueError, match="action: expected finite values; found nan in row 2"):
        dynamics.check_finite(state, action)


@pytest.mark.parametrize("dt", [0.0, -0.01, 0.05])
def test_a_step_longer_than_the_motor_is_refused(x500, dt):
    dynamics.check_dt(x500, 0.025)
    with pytest.raises(ValueError, match=r"at most 0.03 s, the shortest motor time constant"):
        dynamics.check_dt(x500, dt)
