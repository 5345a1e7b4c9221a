"""Airframes: the standard models, RAPTOR's sampler, and what is refused."""

from dataclasses import fields, replace
from pathlib import Path

import pytest
import torch
import yaml

from robot_policies.strict import InputError
from robot_policies.strict_yaml import decode_yaml
from sim.quadrotor import airframes
from sim.quadrotor.airframes import GRAVITY, STANDARD_NAMES, Airframes, Ranges

CONFIG = Path(__file__).parents[2] / "config"


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


def same(left, right):
    """Names of the fields in which two fleets are equal."""
    names = [field.name for field in fields(Airframes)]
    return {name for name in names if torch.equal(getattr(left, name), getattr(right, name))}


MASS_BEFORE = [2.946916103363037, 0.16833893954753876]
INERTIA_BEFORE = [0.00028311210917308927, 0.0002899518294725567, 0.0005249265814200044]
CURVE_BEFORE = [0.03863708674907684, 0.15753047168254852, 1.010852336883545]
ALL = {field.name for field in fields(Airframes)}


def edited(tmp_path, example, **changes):
    """A copy of an example file with other values; None leaves the key out."""
    document = yaml.safe_load((CONFIG / example).read_text()) | changes
    kept = {key: value for key, value in document.items() if value is not None}
    path = tmp_path / "own.yaml"
    path.write_text(yaml.safe_dump(kept))
    return path


def test_the_file_of_ranges_holds_the_papers():
    ranges = decode_yaml(Ranges, CONFIG / "quadrotor_ranges.yaml", "ranges")
    assert ranges == Ranges()
    assert same(airframes.sample(100, 3), airframes.sample(100, 3, ranges)) == ALL


def test_the_papers_quadrotors_stay_what_they_were():
    """Numbers written down before there were ranges: every stored comparison rests on them."""
    fleet = airframes.sample(1000, seed=5)
    assert fleet.mass[[0, 999]].tolist() == MASS_BEFORE
    assert fleet.inertia[:, 999].tolist() == INERTIA_BEFORE
    assert fleet.thrust_curve[0, :, 999].tolist() == CURVE_BEFORE


def test_own_ranges_change_what_they_name_and_nothing_else(tmp_path):
    path = edited(
        tmp_path, "quadrotor_ranges.yaml", torque_constant=[0.1, 0.2], inertia_z_to_x=[1.2, 2.0]
    )
    fleet, paper = (
        airframes.sample(2000, 0, decode_yaml(Ranges, path, "ranges")),
        airframes.sample(2000, 0),
    )
    assert same(fleet, paper) == ALL - {"torque_constant", "inertia"}
    ratio = fleet.inertia[2] / fleet.inertia[0]
    assert float(ratio.min()) == pytest.approx(1.2, abs=0.01)
    assert float(ratio.max()) == pytest.approx(2.0, abs=0.01)


def test_a_share_of_the_thrust_curves_has_a_random_shape():
    fleet = airframes.sample(4000, 0, Ranges(thrust_curve_shapes=0.3))
    paper = airframes.sample(4000, 0)
    assert same(fleet, paper) == ALL - {"thrust_curve"}
    torch.testing.assert_close(fleet.thrust_to_weight, paper.thrust_to_weight)
    other = (fleet.thrust_curve != paper.thrust_curve).any(dim=1)[0]
    assert float(other.float().mean()) == pytest.approx(0.3, abs=0.03)
    idle, _, bend = (fleet.thrust_curve[0] / fleet.thrust_curve[0].sum(dim=0))[:, other]
    assert float(idle.min()) >= 0 and float(idle.max()) <= airframes.MAX_IDLE_SHARE
    assert float(bend.min()) < 0.02 and float(bend.max()) > 0.94


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"wingspan": [1, 2]}, r"own\.yaml: ranges\.wingspan: expected no such key"),
        ({"mass": None}, r"ranges\.mass: expected the key, found nothing"),
        ({"mass": [5, 0.02]}, r"ranges\.mass: expected \[low, high\].* found \[5.0, 0.02\]"),
        ({"mass": [0, 1]}, r"ranges\.mass: expected a value above zero"),
        ({"mass": 1.0}, r"ranges\.mass: expected a list of 2"),
        ({"thrust_to_weight": [0.9, 2]}, r"thrust_to_weight: expected at least 1, or none"),
        ({"inertia_y_to_x": [-1, 1]}, r"inertia_y_to_x: expected a value above zero"),
        ({"inertia_z_to_x": [1.5, 2.5]}, r"inertia_z_to_x: expected moments of a rigid body"),
        ({"rise_time": [0.1, float("inf")]}, r"rise_time\[1\]: expected a finite number"),
        ({"size_deviation_std": float("nan")}, r"size_deviation_std: expected a finite number"),
        ({"force_share": -0.1}, r"force_share: expected zero or more"),
        ({"rise_time": [0.002, 0.005]}, r"rise_time: expected at least 0.01 s"),
        ({"torque_constant": [0, 0.1]}, r"torque_constant: expected a value above zero"),
        (
            {"thrust_to_weight": [2, 40], "thrust_curve_shapes": 0.5},
            r"thrust_to_weight: expected below 20",
        ),
        ({"thrust_curve_shapes": 1.5}, r"thrust_curve_shapes: expected a share from 0 to 1"),
    ],
)
def test_ranges_that_no_fleet_can_have_are_refused_by_name(tmp_path, changes, message):
    with pytest.raises(InputError, match=message):
        decode_yaml(Ranges, edited(tmp_path, "quadrotor_ranges.yaml", **changes), "ranges")


def test_every_wrong_range_is_named_at_once():
    with pytest.raises(InputError) as caught:
        Ranges(mass=(float("nan"), 1.0), force_share=float("nan"), fall_time=(0.0, 0.1))
    where = [violation.where for violation in caught.value.violations]
    assert where == ["ranges.mass", "ranges.fall_time", "ranges.force_share"]


def test_the_example_of_an_own_airframe_is_the_crazyflie():
    fleet = airframes.load(CONFIG / "airframe_example.yaml")
    assert same(fleet, airframes.standard("crazyflie")) == ALL


def test_numbers_may_be_written_without_a_point(tmp_path):
    path = tmp_path / "own.yaml"
    text = (CONFIG / "airframe_example.yaml").read_text()
    path.write_text(text.replace("9.416556729130406e-06", "9e-6"))
    assert float(airframes.load(path).inertia[0, 0]) == pytest.approx(9e-6)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mass": 0.05}, r"thrust_curve: expected a thrust over weight .* found 0.898 .*hover"),
        ({"mass": 0.001}, r"thrust_curve\[0\]: expected less thrust than the weight"),
        ({"mass": 0}, r"airframe\.mass: expected a value above zero"),
        ({"inertia": [-1e-5, 1e-5, 1e-5]}, r"inertia\[0\]: expected a value above zero"),
        ({"inertia": [2.1705e2, 2e-2, 4e-2]}, r"inertia: expected moments of a rigid body"),
        ({"arm": [0.1, 0]}, r"arm\[1\]: expected a value above zero"),
        ({"fall_time": -0.1}, r"fall_time: expected a value above zero"),
        ({"torque_constant": -1}, r"torque_constant: expected zero or more"),
        ({"rise_time": float("nan")}, r"rise_time: expected a finite number"),
        ({"rotors": 6}, r"airframe\.rotors: expected no such key"),
        ({"arm": None}, r"airframe\.arm: expected the key"),
    ],
)
def test_an_own_airframe_that_cannot_fly_is_refused_by_name(tmp_path, changes, message):
    with pytest.raises(InputError, match=message):
        airframes.load(edited(tmp_path, "airframe_example.yaml", **changes))


def test_what_is_no_yaml_is_named(tmp_path):
    path = tmp_path / "own.yaml"
    path.write_text("mass: 1\nmass: 2\n")
    with pytest.raises(InputError, match=r"own\.yaml: airframe: .* duplicate key 'mass'"):
        airframes.load(path)
