"""Randomisation: declared strictly, drawn alike for everyone, applied to a made-up arm."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from robot_policies.strict import InputError
from sim.channels import ActionChannel, DelayLine, ObservationChannel, RandomActions
from sim.draws import Streams, extremes, fault, philox, quantile
from sim.randomization import Randomization
from sim.randomization_terms import PARAMETERS, Spec, Term, load

EXAMPLE = Path(__file__).parents[2] / "config" / "randomization_example.yaml"
ALL = np.arange(8)
DRAWN_BEFORE = [
    0.3161936275428161,
    0.01593048742506653,
    0.0601807456696406,
    0.6024991235462949,
    0.9303392922738567,
]


class Arm:
    """An engine that remembers what it is told: three links and joints, per environment."""

    capabilities = frozenset(
        {
            "mass",
            "inertia",
            "centre_of_mass",
            "friction",
            "damping",
            "armature",
            "kp",
            "kd",
            "push",
        }
    )

    def __init__(self, count=8, links=7):
        self.count = count
        self.bodies = tuple(f"link{i + 1}" for i in range(links))
        self.joints = tuple(f"joint{i + 1}" for i in range(links))
        ramp = np.arange(1.0, links + 1)
        self.at_first = {name: ramp / 10 for name in ("damping", "armature", "kp", "kd")}
        self.at_first |= {"mass": ramp, "friction": np.full(links, 0.8)}
        self.at_first["inertia"] = ramp[:, None] * np.array([0.01, 0.02, 0.025])
        self.at_first["centre_of_mass"] = np.tile([0.0, 0.0, -0.1], (links, 1))
        self.at_first["push"] = np.zeros((links, 3))
        self.now = {key: np.repeat(v[None], count, 0) for key, v in self.at_first.items()}

    def names(self, kind):
        named = {"bodies": self.bodies, "geoms": self.bodies}
        return named.get(kind, self.joints if kind in ("joints", "actuators") else ())

    def nominal(self, parameter, names):
        return self.at_first[parameter][self._columns(parameter, names)]

    def set(self, parameter, names, ids, values):
        self.now[parameter][np.ix_(ids, self._columns(parameter, names))] = values

    def _columns(self, parameter, names):
        known = self.names(PARAMETERS[parameter].of)
        return [known.index(name) for name in names]


def term(**changes):
    """A term that varies the mass of two links by a factor, and whatever is changed."""
    written = {
        "name": "link_mass",
        "parameter": "mass",
        "names": ("link1", "link2"),
        "operation": "scale",
        "distribution": {"uniform": (0.7, 1.3)},
        "shared": False,
        "interval_s": None,
    }
    return Term(**written | changes)


FRICTION = term(name="floor", parameter="friction", names=("link3",), operation="set")
PUSH = term(
    name="bump", parameter="push", names=("link2",), operation="set", interval_s=(0.5, 1.5)
)


def randomized(*terms, arm=None, seed=0):
    arm = arm or Arm()
    return arm, Randomization(Spec(terms), seed, arm.count, [arm])


# The generator.


@pytest.mark.parametrize(
    ("counter", "key", "expected"),
    [  # tests/kat_vectors of Random123, the authors' own
        ("00000000 " * 4, "00000000 " * 2, "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
        ("ffffffff " * 4, "ffffffff " * 2, "408f276d 41c83b0e a20bc7c6 6d5451fd"),
        (
            "243f6a88 85a308d3 13198a2e 03707344",
            "a4093822 299f31d0",
            "d16cfe09 94fdcceb 5001e420 24126ea1",
        ),
    ],
)
def test_philox_gives_its_authors_known_answers(counter, key, expected):
    counter, key, expected = (
        tuple(np.uint32(int(word, 16)) for word in words.split())
        for words in (counter, key, expected)
    )
    assert philox(counter, key) == expected


def test_what_is_drawn_stays_what_it_was():
    """Numbers written down once: a logged seed must give the same robots in years to come."""
    (u,) = Streams(7, {"link_mass": 5}).uniform([3], [2], [1]).values()
    assert u.tolist() == [DRAWN_BEFORE]


@given(
    ids=st.lists(st.integers(0, 63), min_size=0, max_size=20, unique=True),
    other=st.integers(1, 9),
    seed=st.integers(0, 2**70),
)
@settings(max_examples=30, deadline=None)
def test_a_draw_depends_on_nothing_but_seed_environment_episode_and_stream(ids, other, seed):
    every = np.arange(64)
    alone = Streams(seed, {"a": 6}).uniform(every, every % 5, 3)
    ids = np.array(ids, int)
    among = Streams(seed, {"b": other, "a": 6, "c": 2}).uniform(ids, ids % 5, 3)
    np.testing.assert_array_equal(among["a"], alone["a"][ids])
    for distribution in ({"log_uniform": (0.1, 3.0)}, {"normal": (0.0, 1.0)}):
        drawn = quantile(distribution, among["a"])
        np.testing.assert_array_equal(drawn, quantile(distribution, alone["a"])[ids])


def test_streams_environments_episodes_and_moments_are_independent_and_uniform():
    ids = np.arange(5000)
    base = {"seed": 0, "name": "a", "ids": ids, "episode": 0, "moment": 0}
    changes = [{}, {"seed": 1}, {"name": "b"}, {"ids": ids + 5000}, {"episode": 1}, {"moment": 1}]
    columns = []
    for given_ in (base | change for change in changes):
        streams = Streams(given_["seed"], {given_["name"]: 5})
        columns += [*streams.uniform(given_["ids"], given_["episode"], given_["moment"]).values()]
    drawn = np.hstack(columns)
    assert drawn.min() > 0 and drawn.max() < 1
    assert min(stats.kstest(column, "uniform").pvalue for column in drawn.T) > 1e-4
    correlation = np.corrcoef(drawn.T) - np.eye(drawn.shape[1])
    assert np.abs(correlation).max() < 4.5 / len(ids) ** 0.5


@pytest.mark.parametrize("wrong", [[-1], [2**32], [0.5], [[1]]])
def test_counters_that_would_wrap_are_refused(wrong):
    with pytest.raises(ValueError, match=r"episode: expected whole numbers \[M\] from 0 to 2\^32"):
        Streams(0, {"a": 1}).uniform([0], wrong, 0)


# Distributions.


@pytest.mark.parametrize(
    ("distribution", "peer"),
    [
        ({"uniform": (-1.0, 3.0)}, stats.uniform(-1, 4)),
        ({"log_uniform": (0.5, 8.0)}, stats.loguniform(0.5, 8)),
        ({"normal": (2.0, 0.5)}, stats.truncnorm(-3, 3, 2, 0.5)),
    ],
)
def test_draws_are_quantiles_of_their_distribution(distribution, peer):
    (u,) = Streams(0, {"a": 4}).uniform(np.arange(1000), 0, 0).values()
    np.testing.assert_allclose(quantile(distribution, u), peer.ppf(u), rtol=1e-9)


def test_choices_come_as_often_as_their_probabilities_say():
    (u,) = Streams(0, {"a": 4}).uniform(np.arange(5000), 0, 0).values()
    distribution = {"choice": (2.0, 0.0, 1.0), "probabilities": (0.5, 0.3, 0.2)}
    values, counts = np.unique(quantile(distribution, u), return_counts=True)
    assert values.tolist() == [0, 1, 2]
    assert stats.chisquare(counts, 20_000 * np.array([0.3, 0.2, 0.5])).pvalue > 1e-3


number = st.floats(-1e3, 1e3)


@given(
    numbers=st.lists(number, min_size=2, max_size=2),
    kind=st.sampled_from(["uniform", "log_uniform", "normal"]),
)
@settings(max_examples=200, deadline=None)
def test_no_draw_leaves_the_range_that_was_checked(numbers, kind):
    distribution = {kind: tuple(numbers)}
    if fault(distribution):
        return
    values = quantile(distribution, np.array([2**-33, 0.1, 0.5, 0.9, 1 - 2**-33]))
    low, high = extremes(distribution)
    assert (values >= low).all() and (values <= high).all() and (np.diff(values) >= 0).all()


# What is declared.


def test_the_example_draws_a_seven_joint_arm():
    spec, arm, ids = load(EXAMPLE), Arm(count=64), np.arange(64)
    observation = ObservationChannel(
        {"joint_position": 7, "joint_velocity": 7}, 64, 0, spec.longest("observation_latency")
    )
    action = ActionChannel(arm.joints, 64, spec.longest("actuator_delay"))
    randomization = Randomization(spec, 0, 64, [arm, observation, action])
    draws = randomization.reset(ids, ids * 0)
    assert set(draws) == {declared.name for declared in spec.terms} - {"bump"}
    for declared in (d for d in spec.terms if d.name in draws):
        drawn, reached = draws[declared.name], extremes(declared.distribution)
        assert drawn.shape[:2] == (64, len(declared.names))
        assert min(reached) <= drawn.min() < drawn.max() <= max(reached)


def rewritten(tmp_path, change):
    """A copy of the example whose terms `change` has spoilt."""
    document = yaml.safe_load(EXAMPLE.read_text())
    change({item["name"]: item for item in document["terms"]}, document["terms"])
    path = tmp_path / "own.yaml"
    path.write_text(yaml.safe_dump(document))
    return path


def test_every_violation_of_a_file_is_named_at_once(tmp_path):
    def spoil(terms, _):
        terms["link_mass"]["colour"] = "red"
        del terms["payload"]["shared"]
        terms["payload_centre"]["distribution"] = {"uniform": [0.02, -0.02]}
        terms["joint_damping"]["distribution"] = {"log_uniform": [0.0, 2.0]}
        terms["joint_damping"]["names"] = []
        terms["joint_armature"]["distribution"] = {"uniform": [-0.5, 1.2]}
        terms["servo_stiffness"]["parameter"] = "dampin"
        terms["command_delay"]["distribution"]["probabilities"] = [0.5, 0.3, 0.1]
        terms["encoder_noise"]["distribution"] = {"uniform": [-0.1, 0.1]}
        terms["encoder_latency"]["distribution"] = {"uniform": [0, 2]}
        terms["bump"]["interval_s"] = None

    with pytest.raises(InputError) as caught:
        load(rewritten(tmp_path, spoil))
    text = str(caught.value)
    for expected in (
        "own.yaml: randomization.terms[0].colour: expected no such key",
        "randomization.terms[1].shared: expected the key, found nothing",
        "term payload_centre.distribution: expected uniform: [low, high] with low at most high",
        "term joint_damping.distribution: expected log_uniform: [low, high] with 0 below low",
        "term joint_damping.names: expected one name or more, each once, found []",
        "term joint_armature.distribution: expected factors of zero or more, found -0.5 of",
        "term servo_stiffness.parameter: expected one of the parameters, such as damping, found",
        "term command_delay.distribution: expected a probability above 0 for each choice, 1 in",
        "term encoder_noise.distribution: expected observation_noise zero or more, found -0.1 of",
        "term encoder_latency.distribution: expected a choice of whole numbers of steps",
        "term bump.interval_s: expected [low, high] here or in at_s, since push is an event, "
        "found null",
    ):
        assert expected in text
    assert len(caught.value.violations) == 11


def test_terms_that_get_into_each_others_way_are_refused(tmp_path):
    def spoil(_, terms):
        terms.append(dict(terms[1]))
        terms.append(terms[1] | {"name": "tool", "names": ["link6"]})

    with pytest.raises(InputError) as caught:
        load(rewritten(tmp_path, spoil))
    text = str(caught.value)
    assert "term payload.name: expected a name of its own, found 2 terms of this name" in text
    assert "term tool.names: expected one term for the mass of link6" in text
    assert "found the terms link_mass and tool" in text


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": "a/b"}, "name: expected a text without /"),
        ({"names": ("link1", "link1")}, "names: expected one name or more, each once"),
        ({"operation": "times"}, "operation: expected scale or add or set for mass"),
        ({"parameter": "inertia", "operation": "add"}, "expected scale for inertia, found add"),
        ({"distribution": {"uniform": (0.0, 1.0)}}, "expected factors above zero, found 0 of"),
        ({"distribution": {"normal": (1.0, 0.4)}}, r"factors above zero, found -0\.2 of"),
        ({"distribution": {"normal": (1.0, -1.0)}}, "with a std of zero or more"),
        ({"distribution": {"uniform": (1.0,)}}, r"one of \{uniform: \[low, high\]\}, "),
        ({"distribution": {"gamma": (1.0, 2.0)}}, r"one of \{uniform: \[low, high\]\}, "),
        ({"distribution": {"uniform": (1.0, 2.0), "normal": (1.0, 2.0)}}, "expected one of"),
        ({"distribution": {}}, "distribution: expected one of"),
        ({"distribution": {"choice": (), "probabilities": ()}}, "distribution: expected one of"),
        ({"distribution": {"choice": (1.0,), "probabilities": (0.5, 0.5)}}, "a probability above"),
        ({"interval_s": (2.0, 1.0)}, "interval_s: expected null, or"),
        ({"interval_s": (0.0, 1.0)}, "with low from 0.001 to high"),
        (
            {"operation": "set", "distribution": {"uniform": (-1.0, 1.0)}},
            "mass above zero, found -",
        ),
        (
            {"operation": "set", "distribution": {"uniform": (0.0, 1.0)}},
            "mass above zero, found 0",
        ),
        (
            {
                "parameter": "actuator_delay",
                "operation": "set",
                "distribution": {"choice": (0.5,), "probabilities": (1.0,)},
            },
            "expected actuator_delay whole, zero or more, found 0.5 of",
        ),
        (
            {
                "parameter": "observation_latency",
                "operation": "add",
                "distribution": {"choice": (0.0, 0.5), "probabilities": (0.5, 0.5)},
            },
            "distribution: expected a choice of whole numbers of steps",
        ),
    ],
)
def test_a_senseless_term_is_refused(changes, message):
    with pytest.raises(InputError, match=message):
        term(**changes)


# Terms meet a model.


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"names": ("lnk1", "link2")},
            "term link_mass.names: expected one of the bodies, such as link1 .*, found lnk1",
        ),
        ({"names": ("tower",)}, "expected one of the bodies link1, link2, .*, found tower"),
        (
            {"parameter": "stiffness", "names": ("joint1",)},
            r"link_mass.parameter: expected a parameter that can be set here \(armature, .*",
        ),
        (
            {"operation": "add", "distribution": {"uniform": (-1.5, 1.0)}},
            r"expected mass above zero, found -0.5 kg for link1 \(nominal 1.0, add -1.5 of",
        ),
        (
            {"operation": "add", "distribution": {"normal": (0.0, 0.4)}},
            r"found -0.2 kg for link1 \(nominal 1.0, add -1.2 of .*; narrow the distribution",
        ),
        (
            {"parameter": "armature", "names": ("joint3",)},
            r"operation: expected a nominal armature that a factor changes, found 0.0 of joint3; "
            "use add or set",
        ),
    ],
)
def test_what_does_not_fit_the_model_is_refused(changes, message):
    arm = Arm()
    arm.at_first["armature"][2] = 0.0
    with pytest.raises(InputError, match=message) as caught:
        randomized(term(**changes), replace(FRICTION, names=("flor",)), arm=arm)
    assert "term floor.names: expected one of the bodies" not in str(caught.value)
    assert "term floor.names: expected one of the geoms" in str(caught.value)  # all at once


def test_signals_of_different_widths_need_terms_of_their_own():
    channel = ObservationChannel({"position": 7, "goal": 3}, 2, 0, 0)
    bias = term(parameter="observation_bias", names=("position", "goal"), operation="add")
    with pytest.raises(InputError, match=r"position \[7\], goal \[3\]; write a term for each"):
        Randomization(Spec((bias,)), 0, 2, [channel])


@pytest.mark.parametrize(
    ("operation", "low", "high"), [("scale", 0.7, 1.3), ("add", 0.7, 1.3), ("set", 0.7, 1.3)]
)
def test_operations_start_from_the_nominal_value_every_time(operation, low, high):
    arm, randomization = randomized(term(operation=operation))
    for episode in (0, 1):
        drawn = randomization.reset(ALL, ALL * 0 + episode)["link_mass"]
        assert drawn.shape == (8, 2) and drawn.min() >= low and drawn.max() <= high
        nominal = np.array([1.0, 2.0])
        expected = {"scale": nominal * drawn, "add": nominal + drawn, "set": drawn}[operation]
        np.testing.assert_array_equal(arm.now["mass"][:, :2], expected)
    np.testing.assert_array_equal(arm.now["mass"][:, 2:], np.arange(3.0, 8)[None].repeat(8, 0))


def test_one_factor_scales_all_moments_and_additions_have_a_number_for_each_axis():
    inertia = term(name="inertia", parameter="inertia")
    centre = term(name="centre", parameter="centre_of_mass", operation="add")
    arm, randomization = randomized(inertia, centre)
    draws = randomization.reset(ALL, ALL)
    assert draws["inertia"].shape == (8, 2, 1) and draws["centre"].shape == (8, 2, 3)
    assert len(np.unique(draws["centre"])) == 8 * 2 * 3
    ratio = arm.now["inertia"][:, :2] / arm.at_first["inertia"][:2]
    np.testing.assert_allclose(ratio, draws["inertia"].repeat(3, 2), rtol=1e-15)


def test_inertia_goes_with_mass_where_that_is_asked_for():
    payload = term(
        parameter="mass_and_inertia", operation="add", distribution={"uniform": (0.0, 0.5)}
    )
    arm, randomization = randomized(payload)
    randomization.reset(ALL, ALL)
    ratio = arm.now["mass"] / arm.at_first["mass"]
    assert len(np.unique(ratio[:, :2])) == 16 and (ratio[:, 2:] == 1).all()
    np.testing.assert_allclose(
        arm.now["inertia"] / arm.at_first["inertia"], ratio[..., None].repeat(3, 2)
    )


def test_names_share_a_draw_or_have_their_own():
    _, randomization = randomized(term(shared=True), replace(FRICTION, names=("link3", "link4")))
    draws = randomization.reset(ALL, ALL)
    assert (np.ptp(draws["link_mass"], axis=1) == 0).all()
    assert (np.ptp(draws["floor"], axis=1) > 0).all()


@given(order=st.permutations(range(8)), parts=st.integers(1, 4), count=st.integers(8, 40))
@settings(max_examples=20, deadline=None)
def test_engines_batches_and_orders_of_resets_change_no_draw(order, parts, count):
    arm, randomization = randomized(term(), FRICTION)
    randomization.reset(ALL, ALL + 3)
    other, same = randomized(FRICTION, term(), arm=Arm(count))
    for ids in np.array_split(np.array(order), parts):
        same.reset(ids, ids + 3)
    for parameter in arm.now:
        np.testing.assert_array_equal(other.now[parameter][:8], arm.now[parameter])


def test_another_seed_or_episode_draws_another_robot():
    _, randomization = randomized(term())
    _, other = randomized(term(), seed=1)
    first, second = randomization.draw(ALL, ALL * 0), randomization.draw(ALL, ALL * 0 + 1)
    assert not np.isin(second["link_mass"], first["link_mass"]).any()
    assert not np.isin(other.draw(ALL, ALL * 0)["link_mass"], first["link_mass"]).any()


def test_seeds_and_counts_below_their_least_are_refused():
    with pytest.raises(ValueError, match="count >= 1 and seed >= 0; found 8 and -1"):
        randomized(term(), seed=-1)


def test_environments_that_do_not_exist_are_refused():
    _, randomization = randomized(term())
    with pytest.raises(ValueError, match=r"expected environments 0 to 7; found \[3, 8\]"):
        randomization.reset(np.array([3, 8]), np.array([0, 0]))


def test_records_are_flat_columns_by_term_and_name():
    centre = term(name="centre", parameter="centre_of_mass", names=("link3",), operation="add")
    _, randomization = randomized(term(), centre, PUSH)
    draws = randomization.reset(ALL[2:5], ALL[2:5])
    columns = randomization.records(draws)
    assert list(columns) == [
        *("link_mass/link1", "link_mass/link2"),
        *("centre/link3[0]", "centre/link3[1]", "centre/link3[2]"),
    ]
    np.testing.assert_array_equal(columns["link_mass/link2"], draws["link_mass"][:, 1])
    np.testing.assert_array_equal(columns["centre/link3[2]"], draws["centre"][:, 0, 2])


# Intervals.


def pushed(randomization, step_s, until_s, ids=ALL):
    """When each push came, and which: [(environment, time in s, push [3])]."""
    events = []
    for k in range(round(until_s / step_s) + 1):
        due = randomization.advance(ids, np.full(len(ids), k * step_s))
        for where, drawn in due.values():
            events += [(i, k * step_s, push[0]) for i, push in zip(where, drawn, strict=True)]
    return events


def test_pushes_come_at_intervals_within_their_range_and_never_at_a_reset():
    arm, randomization = randomized(PUSH)
    assert randomization.reset(ALL, ALL) == {} and not arm.now["push"].any()
    events = pushed(randomization, 0.01, 20.0)
    for environment in ALL:
        times = [0.0, *(t for i, t, _ in events if i == environment)]
        gaps = np.diff(times)
        assert gaps.min() > 0.49 and gaps.max() < 1.52 and gaps.std() > 0.1
    pushes = np.array([push for _, _, push in events])
    assert len(np.unique(pushes)) == pushes.size
    np.testing.assert_array_equal(arm.now["push"][events[-1][0], 1], events[-1][2])


def test_a_push_and_the_time_before_it_are_numbered_draws_of_the_terms_streams():
    _, randomization = randomized(PUSH, seed=5)
    randomization.reset(ALL, ALL)
    events = [(t, push) for i, t, push in pushed(randomization, 0.01, 6.0) if i == 3]
    streams = Streams(5, {"bump": 3, "bump/interval": 1})
    due_s = 0.0
    for number, (time_s, push) in enumerate(events):
        due_s += 0.5 + streams.uniform(3, 3, number)["bump/interval"].item()
        assert due_s <= time_s < due_s + 0.01 + 1e-9
        expected = quantile({"uniform": (0.7, 1.3)}, streams.uniform(3, 3, number + 1)["bump"][0])
        np.testing.assert_array_equal(push, expected)
    assert len(events) > 3


def test_what_is_due_does_not_depend_on_how_often_one_asks():
    gain = term(name="gain", parameter="kp", names=("joint1",), interval_s=(0.05, 0.15))
    gains = []
    for step_s in (0.01, 0.5, 5.0):
        arm, randomization = randomized(gain)
        randomization.reset(ALL, ALL)
        pushed(randomization, step_s, 5.0)
        gains.append(arm.now["kp"][:, 0])
    np.testing.assert_array_equal(gains[0], gains[1])
    np.testing.assert_array_equal(gains[0], gains[2])


def test_a_reset_starts_the_intervals_of_its_own_environments_again():
    _, randomization = randomized(PUSH)
    randomization.reset(ALL, ALL * 0)
    before = pushed(randomization, 0.1, 4.0)
    randomization.reset(ALL[:4], ALL[:4] * 0)
    after = pushed(randomization, 0.1, 4.0)
    assert {i for i, *_ in after} == set(range(4))
    for (i, t, push), (j, u, again) in zip([e for e in before if e[0] < 4], after, strict=True):
        assert (i, t) == (j, u) and (push == again).all()
    randomization.reset(ALL[:4], ALL[:4] * 0 + 1)
    other = pushed(randomization, 0.1, 4.0)
    assert not np.isin([push for *_, push in other], [push for *_, push in before]).any()


# What the task applies.


@given(data=st.data())
@settings(max_examples=40, deadline=None)
def test_a_delay_line_gives_back_what_was_given_that_many_steps_ago(data):
    count, width, longest = 3, 2, data.draw(st.integers(0, 4))
    line = DelayLine(count, width, longest)
    past = {i: [np.zeros(width)] * (longest + 1) for i in range(count)}
    delay = np.zeros((count, width), int)
    subset = st.lists(st.integers(0, count - 1), unique=True).map(lambda x: np.array(x, int))
    for k in range(data.draw(st.integers(1, 12))):
        ids = data.draw(subset)
        value = 10.0 * k + np.arange(len(ids) * width).reshape(-1, width)
        if data.draw(st.booleans()):
            line.reset(ids, value)
            past |= {i: [value[m]] * (longest + 1) for m, i in enumerate(ids)}
            delay[ids] = data.draw(st.integers(0, longest))
            line.set_delay(ids, range(delay.shape[1]), delay[ids].astype(float))
        arrived = line.step(ids, value)
        for m, i in enumerate(ids):
            past[i] = [value[m], *past[i]][: longest + 1]
            expected = [past[i][delay[i, w]][w] for w in range(width)]
            assert arrived[m].tolist() == expected


def test_without_a_term_no_step_needs_to_be_remembered():
    assert Spec(()).longest("actuator_delay") == 0


def test_a_delay_beyond_the_longest_is_refused():
    with pytest.raises(ValueError, match=r"whole numbers of steps from 0 to 2; found \[3.0\]"):
        DelayLine(1, 1, 2).set_delay(np.array([0]), [0], np.array([[3.0]]))


def test_commands_act_after_the_delay_of_their_actuator():
    delay = {"choice": (0.0, 1.0, 2.0), "probabilities": (0.4, 0.3, 0.3)}
    late = term(parameter="actuator_delay", names=("b", "a"), operation="set", distribution=delay)
    channel = ActionChannel(["a", "b"], 8, Spec((late,)).longest("actuator_delay"))
    randomization = Randomization(Spec((late,)), 0, 8, [channel])
    steps = randomization.reset(ALL, ALL)["link_mass"][:, ::-1]  # in the channel's order
    channel.reset(ALL, np.full((8, 2), -1.0))
    for k in range(6):
        acting = channel.step(ALL, np.full((8, 2), float(k)))
        np.testing.assert_array_equal(acting, np.where(k >= steps, k - steps, -1.0))


def channel_of(*terms, count=200, longest=2, seed=0):
    channel = ObservationChannel({"position": 3, "goal": 2}, count, seed, longest)
    randomization = Randomization(Spec(terms), seed, count, [channel])
    ids = np.arange(count)
    draws = randomization.reset(ids, ids * 0)
    channel.reset(ids, ids * 0)
    return channel, draws, ids


NOISE = term(name="noise", parameter="observation_noise", names=("position",), operation="set")
SIGNALS = {"position": np.zeros((200, 3)), "goal": np.ones((200, 2))}


def test_without_terms_signals_are_measured_exactly():
    channel, _, ids = channel_of()
    measured = channel.measure(ids, SIGNALS)
    assert all((measured[name] == SIGNALS[name]).all() for name in SIGNALS)


def test_noise_is_white_with_the_spread_that_was_drawn():
    channel, draws, ids = channel_of(replace(NOISE, names=("position", "goal")))
    measured = [channel.measure(ids, SIGNALS) for _ in range(60)]
    errors = np.stack([np.hstack([m["position"], m["goal"] - 1]) for m in measured])
    noise = errors / draws["noise"][None, :, [0, 0, 0, 1, 1]]  # [60, 200, 5]
    assert stats.kstest(noise.ravel(), "norm").pvalue > 1e-3
    assert abs((noise[1:] * noise[:-1]).mean()) < 4 / noise.size**0.5
    correlation = np.corrcoef(noise.reshape(-1, 5).T) - np.eye(5)
    assert np.abs(correlation).max() < 4.5 / noise[..., 0].size ** 0.5


def test_noise_depends_on_seed_environment_episode_signal_and_step_alone():
    bias = term(name="bias", parameter="observation_bias", names=("goal",), operation="set")
    channel, _, ids = channel_of(NOISE, longest=0)
    every = [channel.measure(ids, SIGNALS)["position"] for _ in range(3)]
    other, _, _ = channel_of(bias, NOISE)
    for _ in range(2):
        other.measure(ids, SIGNALS)
    some = ids[[7, 3]]
    part = other.measure(some, {name: value[some] for name, value in SIGNALS.items()})
    np.testing.assert_array_equal(part["position"], every[2][some])
    channel.reset(ids, ids * 0 + 1)
    assert not np.isin(channel.measure(ids, SIGNALS)["position"], every[0]).any()


def test_bias_stays_for_an_episode_and_has_a_number_for_each_element():
    bias = term(name="bias", parameter="observation_bias", names=("position",), operation="add")
    channel, draws, ids = channel_of(bias)
    assert draws["bias"].shape == (200, 1, 3) and len(np.unique(draws["bias"])) == 600
    for _ in range(2):
        np.testing.assert_array_equal(
            channel.measure(ids, SIGNALS)["position"], draws["bias"][:, 0]
        )


def test_latency_gives_old_measurements_and_none_from_before_the_reset():
    distribution = {"choice": (0.0, 1.0, 2.0), "probabilities": (0.4, 0.3, 0.3)}
    late = term(
        parameter="observation_latency",
        names=("goal",),
        operation="set",
        distribution=distribution,
    )
    channel, draws, ids = channel_of(late)
    for episode in range(2):
        channel.reset(ids, ids * 0 + episode)
        for k in range(5):
            value = 100.0 * episode + k
            goal = channel.measure(ids, SIGNALS | {"goal": np.full((200, 2), value)})["goal"]
            seen = 100.0 * episode + np.maximum(k - draws["link_mass"], 0)
            np.testing.assert_array_equal(goal, seen.repeat(2, 1))


def test_signals_that_were_not_announced_are_refused():
    channel, _, ids = channel_of()
    with pytest.raises(ValueError, match=r"expected the signals .*'goal': .*; found"):
        channel.measure(ids, {"position": np.zeros((200, 3))})


def test_neither_an_engine_nor_torch_is_needed():
    code = (
        "import sys, sim.channels, sim.randomization; "
        "print(sorted({'torch', 'mujoco', 'genesis'} & sys.modules.keys()))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=EXAMPLE.parents[1]
    )
    assert done.stdout.strip() == "[]", done.stderr


# Events.


AT = term(name="late", parameter="kp", names=("joint1",), at_s=(0.4, 0.6))


def test_once_an_episode_means_once_at_a_time_within_its_range():
    arm, randomization = randomized(AT)
    for episode in (ALL, ALL + 9):
        first = randomization.reset(ALL, episode)["late"]
        found = [randomization.advance(ALL, np.full(8, 0.1 * k)) for k in range(1, 30)]
        times = {
            n: 0.1 * k for k, drawn in enumerate(found, 1) for n in drawn.get("late", [()])[0]
        }
        assert sum(len(drawn["late"][0]) for drawn in found if drawn) == 8
        assert min(times.values()) > 0.35 and max(times.values()) < 0.65
        assert (arm.now["kp"][:, 0] != first[:, 0] * arm.at_first["kp"][0]).all()


def test_a_term_comes_once_or_again_and_again():
    with pytest.raises(InputError, match="at_s: expected null, or no interval_s"):
        replace(AT, interval_s=(0.5, 1.0))
    with pytest.raises(InputError, match=r"at_s: expected null, or \[low, high\] with low from"):
        replace(AT, at_s=(0.0, 1.0))
    with pytest.raises(InputError, match="since random_action is an event"):
        replace(RANDOM, at_s=None)


RANDOM = term(
    name="blows", parameter="random_action", names=("b",), operation="set", at_s=(0.1, 0.1),
    distribution={"choice": (2.0, 3.0), "probabilities": (0.5, 0.5)},
)  # fmt: skip


def test_random_actions_replace_what_arrives_for_as_many_steps_as_drawn():
    channel = RandomActions(["a", "b"], np.array([-1.0, -3.0]), np.array([1.0, -2.0]), 8, seed=0)
    randomization = Randomization(Spec((RANDOM,)), 0, 8, [channel])
    randomization.reset(ALL, ALL)
    channel.reset(ALL, ALL)
    steps = randomization.advance(ALL, np.full(8, 0.2))["blows"][1][:, 0]
    assert set(steps) == {2.0, 3.0}
    drawn = []
    for k in range(5):
        acting = channel.step(ALL, np.zeros((8, 2)))
        np.testing.assert_array_equal(channel.acted, k < steps)
        np.testing.assert_array_equal(acting[:, 0], 0)  # a is no name of the term
        np.testing.assert_array_equal(acting[k >= steps, 1], 0)
        drawn += acting[k < steps, 1].tolist()
    assert -3 <= min(drawn) < max(drawn) <= -2 and len(set(drawn)) == steps.sum()
