"""Airframes: the standard models, RAPTOR's sampler, and what is refused."""

from dataclasses import fields, replace

import pytest
import torch

from sim.quadrotor import airframes
from sim.quadrotor.airframes import GRAVITY, STANDARD_NAMES, Airframes


@pytest.mark.parametrize("name", STANDARD_NAMES)
def test_hover_action_carries_the_weight(name):
    fleet = airframes.standard(name)
    c0, c1, c2 = fleet.thrust_curve.unbind(dim=1)
    thrust = (c0 + c1 * fleet.hover_action + c2 * fleet.hover_action**2).sum(dim=0)
    torch.testing.assert_close(thrust, fleet.weight, rtol=1e-5, atol=0)
    assert (fleet.hover_action > 0).all() and (fleet.hover_action < 1).all()


def test_the_typing_error_in_the_source_of_x500_real_is_mended():
    inverse_in_the_source = 46.072333563695004
    assert float(airframes.standard("x500_real").inertia[0, 0]) == pytest.approx(
        1 / inverse_in_the_source
    )


def test_an_unknown_name_is_answered_with_the_known_ones():
    with pytest.raises(ValueError, match=r"expected one of crazyflie, .*; found 'boeing'"):
        airframes.standard("boeing")


def test_samples_follow_the_published_distribution():
    fleet = airframes.sample(20_000, seed=0)
    ratio = fleet.thrust_to_weight
    arm = fleet.rotor_position[0, 0]
    torque_to_inertia = 2**0.5 * arm * fleet.max_thrust / 4 / fleet.inertia[0]
    force_share = fleet.force_std * 3 / (ratio * fleet.mass * 0.3 * (ratio - 1))
    uniform = {
        "thrust to weight": (ratio, 1.5, 5.0),
        "cube root of mass": (fleet.mass ** (1 / 3), 0.02 ** (1 / 3), 5.0 ** (1 / 3)),
        "torque to inertia": (torque_to_inertia, 40, 1200),
        "torque constant": (fleet.torque_constant[0], 0.005, 0.05),
        "rise time": (fleet.rise_time[0], 0.03, 0.1),
        "fall time": (fleet.fall_time[0], 0.03, 0.3),
        "force share": (force_share, 0, 1),
    }
    for name, (values, low, high) in uniform.items():
        quantile = ((values - low) / (high - low)).sort().values
        expected = (torch.arange(len(values)) + 0.5) / len(values)
        # Kolmogorov-Smirnov: 1.95 / sqrt(n) is exceeded once in a thousand.
        assert float((quantile - expected).abs().max()) < 1.95 / len(values) ** 0.5, name


def test_arms_scale_with_size_and_their_deviation_has_median_ten_elevenths():
    fleet, nominal = airframes.sample(20_000, seed=0), airframes.standard("crazyflie")
    factor = fleet.arm_length / nominal.arm_length / (fleet.mass / nominal.mass) ** (1 / 3)
    assert float(factor.median()) == pytest.approx(1 / 1.1, rel=0.01)


def test_the_first_quadrotors_of_a_seed_do_not_depend_on_the_count():
    few, many = airframes.sample(3, seed=5), airframes.sample(100, seed=5)
    for field in fields(Airframes):
        assert torch.equal(getattr(few, field.name), getattr(many, field.name)[..., :3])
    assert not torch.equal(few.mass, airframes.sample(3, seed=6).mass)


def test_repeat_select_and_join_keep_quadrotors_apart():
    fleet = airframes.sample(3, seed=0)
    assert fleet.repeat(2).mass.tolist() == [m for m in fleet.mass.tolist() for _ in range(2)]
    assert fleet.select(torch.tensor([2, 0])).mass.tolist() == fleet.mass[[2, 0]].tolist()
    both = airframes.join([fleet, airframes.standard("race")])
    assert both.count == 4 and float(both.mass[3]) == pytest.approx(0.782)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"mass": torch.tensor([0.03, -1.0])}, r"mass: expected positive values; found -1.* 1 "),
        ({"inertia": torch.zeros(3, 2)}, "inertia: expected positive values"),
        ({"rise_time": torch.zeros(4, 2)}, "rise_time: expected positive values"),
        ({"torque_constant": -torch.ones(4, 2)}, "torque_constant: expected values of zero or"),
        ({"rotor_direction": torch.zeros(4, 2)}, r"rotor_direction: expected \+1 or -1"),
        ({"force_std": torch.full((2,), float("nan"))}, "force_std: expected finite values"),
        ({"inertia": torch.ones(3)}, r"inertia: expected shape \[3, 2\].*found \[3\]"),
        ({"fall_time": torch.ones(4, 2, dtype=torch.float64)}, r"torch.float64.*Airframes.to"),
        ({"mass": torch.tensor([0.02, 5.0])}, "thrust over weight: expected at least 1"),
        ({"mass": torch.tensor(1.0)}, r"mass: expected shape \[N\]"),
    ],
)
def test_impossible_quadrotors_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        replace(airframes.standard("crazyflie").repeat(2), **change)


def test_sampling_needs_a_count_and_a_seed():
    with pytest.raises(ValueError, match="count >= 1 and seed >= 0; found 0 and -1"):
        airframes.sample(0, seed=-1)


def test_weight_uses_the_gravity_of_the_sources():
    assert float(airframes.standard("fs").weight) == pytest.approx(3.35 * GRAVITY)
