"""Scenarios: reproducible, exportable start conditions."""

import numpy as np
import pytest
import torch

from sim.quadrotor import scenario
from sim.quadrotor.scenario import Scenario


def draw(**changes):
    arguments = {"count": 500, "episodes": 4, "seed": 0, "with_force": True, "position_range": 0.5}
    return scenario.sample(**{**arguments, **changes})


def test_a_seed_fixes_everything_and_the_force_can_be_left_out():
    first, again, calm = draw(), draw(), draw(with_force=False)
    for name, value in first.arrays().items():
        np.testing.assert_array_equal(value, again.arrays()[name])
    assert torch.equal(first.state.data, calm.state.data)
    assert not calm.force.any()
    assert not torch.equal(first.state.data, draw(seed=1).state.data)


def test_initial_states_follow_the_protocol():
    flights = draw()
    state = flights.state
    resting = (state.linear_velocity == 0).all(dim=0)
    assert float(resting.double().mean()) == pytest.approx(0.1, abs=0.03)
    assert (state.position[:, resting] == 0).all()
    assert (state.quaternion_xyzw[3, resting] == 1).all()
    angle = 2 * torch.acos(state.quaternion_xyzw[3, ~resting].clamp(max=1))
    limits = [(state.position, 0.5), (state.linear_velocity, 1), (state.angular_velocity, 1)]
    for value, limit in [*limits, (angle, 1), (state.rotor_speed, 0.5)]:
        assert 0.99 * limit < float(value.abs().max()) <= limit + 1e-3
    assert float(angle.mean()) == pytest.approx(0.5, abs=0.03)
    assert float(state.rotor_speed.min()) >= 0


def test_without_a_range_the_start_is_within_ten_arm_lengths():
    flights = draw(position_range=None)
    arms = flights.state.position.abs() / flights.airframes.arm_length
    assert 9.9 < float(arms.max()) <= 10.001


def test_forces_have_the_spread_of_their_quadrotor():
    flights = draw()
    scaled = flights.force / flights.airframes.force_std
    assert float(scaled.std()) == pytest.approx(1, abs=0.03)


def test_saving_and_loading_keeps_every_bit(tmp_path):
    flights = draw(count=3)
    flights.save(tmp_path / "flights.npz")
    loaded = Scenario.load(tmp_path / "flights.npz")
    assert loaded.quadrotors == 3 and loaded.episodes == 4
    for name, value in flights.arrays().items():
        np.testing.assert_array_equal(value, loaded.arrays()[name])


def test_incomplete_or_contradictory_scenarios_are_refused(tmp_path):
    flights = draw(count=3)
    arrays = flights.arrays()
    del arrays["force"]
    np.savez(tmp_path / "partial.npz", **arrays)
    with pytest.raises(ValueError, match=r"missing \['force'\]"):
        Scenario.load(tmp_path / "partial.npz")
    with pytest.raises(ValueError, match="expected 12 states"):
        Scenario(flights.airframes, flights.state, flights.force[:, :5], 4)


@pytest.mark.parametrize("change", [{"seed": -1}, {"episodes": 0}, {"position_range": 0.0}])
def test_senseless_requests_are_refused(change):
    with pytest.raises(ValueError, match="expected"):
        draw(**change)


def test_thrown_flights_differ_in_attitude_and_turning_rate_alone():
    flights = draw()
    thrown, again = (scenario.tumbling(flights, seed=0) for _ in range(2))
    assert torch.equal(thrown.state.data, again.state.data)
    assert torch.equal(thrown.force, flights.force)
    for part in ("position", "linear_velocity", "rotor_speed"):
        assert torch.equal(getattr(thrown.state, part), getattr(flights.state, part))
    torch.testing.assert_close(thrown.state.quaternion_xyzw.norm(dim=0), torch.ones(2000))
    with pytest.raises(ValueError, match="a rate of 0 rad/s or more; found 0 and -1"):
        scenario.tumbling(flights, seed=0, rate=-1.0)
