"""Bundles side by side in a task: paired episodes, intervals, records, and any episode again."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import mujoco
import numpy as np
import pytest
import torch
from pyarrow import parquet

from robot_policies import load_policy
from robot_policies.models.actor import ActorPolicy
from robot_policies.strict import ContractError, InputError
from sim import tasks
from sim.reinforcement import Network, ReinforcementConfig, write_bundle
from sim.tasks import figures
from sim.tasks.arm import ArmScene
from sim.tasks.driver import Driver
from sim.tasks.evaluation import Options, correlation_table, evaluate, remarks, run, table
from sim.tasks.evaluation import worst_table as worst
from sim.tasks.replay import replay, require_rendering

ROOT = Path(__file__).parents[2]
RANDOMIZED = ROOT / "config" / "randomization_example.yaml"
NETWORKS = {"mlp": Network(hidden=(8,)), "gru": Network(hidden=(8,), memory=5)}
E, N = 10, 4
"""Three rounds, of which the last is not used up."""


def write(name, folder, of="arm-reach"):
    """A bundle for a task that has learned nothing; its path."""
    config = ReinforcementConfig(0, of, "mujoco", network=NETWORKS[name])
    task = make(of)
    torch.manual_seed(len(name))
    network = NETWORKS[name]
    sizes = (sum(len(s.elements) for s in task.observation), len(task.robot.actuators))
    actor = ActorPolicy(*sizes, network.hidden, network.memory, network.context)
    return str(write_bundle(actor, task, {"command": "this test"}, config, folder).path)


def make(task="arm-reach", count=1):
    return tasks.make(
        task, engine="mujoco", count=count, seed=0, threads=1, randomization=None
    )  # fmt: skip


@pytest.fixture(scope="module")
def bundles(tmp_path_factory):
    folders = {name: tmp_path_factory.mktemp(name) for name in NETWORKS}
    return tuple(write(name, folder) for name, folder in folders.items())


def options(bundles, **changes):
    small = {"randomization": RANDOMIZED, "episodes": E, "environments": N}
    return Options(tuple(bundles), "arm-reach", "mujoco", **(small | changes))


def fly(given):
    return evaluate({name: load_policy(name) for name in given.bundles}, given)


@pytest.fixture(scope="module")
def evaluation(bundles):
    return fly(options(bundles))


# The episodes.


def test_all_bundles_meet_the_same_episodes(evaluation, bundles):
    left, right = (evaluation.parameters(name) for name in bundles)
    assert left.keys() == right.keys() and "payload/link7" in left
    for name, values in left.items():
        np.testing.assert_array_equal(values, right[name])
    assert len(set(left["payload/link7"])) == E
    returns = [evaluation.records[name]["return"] for name in bundles]
    assert (returns[0] != returns[1]).all()
    for episode in (1, E - 1):
        pair = [replay(evaluation, name, episode).signals for name in bundles]
        for signal in ("target_position", "joint_position"):
            np.testing.assert_array_equal(pair[0][signal][0], pair[1][signal][0])


def test_the_seed_decides_everything(evaluation, bundles):
    again, other = fly(options(bundles)), fly(options(bundles, seed=1))
    for name in bundles:
        for column, values in evaluation.records[name].items():
            np.testing.assert_array_equal(values, again.records[name][column])
            assert values.dtype != float or (values != other.records[name][column]).any()
    assert again.document() == evaluation.document()


def test_an_episode_that_ends_early_counts_once(monkeypatch, bundles):
    """Environment 1 diverges at every step, so that it begins episode after episode."""
    monkeypatch.setattr(ArmScene, "diverged", lambda scene: np.array([1]))
    found = fly(options(bundles[:1]))
    record = found.records[bundles[0]]
    first = np.arange(E) % N == 1
    np.testing.assert_array_equal(record["diverged"], first)
    np.testing.assert_array_equal(record["length"], np.where(first, 1, 125))
    assert not record["success"][first].any()
    (remark,) = remarks(found)
    assert "3 diverged, which are failures: 1 (environment 1), 5 (env" in remark
    assert [episode for episode, _ in found.worst(bundles[0])[:3]] == [1, 5, 9]


def test_the_quadrotor_of_the_zoo_flies_its_task():
    given = Options(("zoo:quadrotor",), "quadrotor", "torch", episodes=32, environments=32)
    found = fly(given)
    assert found.figures["zoo:quadrotor"]["success"].value > 0.9
    again = replay(found, "zoo:quadrotor", 7)
    assert again.commands["motors"].shape == (500, 4) and again.distance.shape == (501,)


def test_the_arm_of_the_zoo_reaches_on_robots_like_those_it_was_trained_on():
    given = options(("zoo:arm-reach",), episodes=100, environments=100, seed=11)
    found = fly(given).figures["zoo:arm-reach"]
    assert found["mean final distance"].high < 0.02 and found["success"].low > 0.8


# The figures.


def test_intervals_of_success_are_those_of_the_literature():
    """Newcombe, "Two-sided confidence intervals for the single proportion", 1998, table I."""
    held = np.arange(263) < 81
    for method, low, high in (("wilson", 0.2553, 0.3662), ("exact", 0.2527, 0.3676)):
        found = figures.share(held, method)
        assert found.value == 81 / 263
        assert (found.low, found.high) == pytest.approx((low, high), abs=5e-5)


def test_pairs_tell_more_than_two_separate_intervals():
    generator = np.random.default_rng(0)
    hard = generator.normal(0, 1, 200)
    left, right = hard + generator.normal(0, 0.01, 200), hard + 0.1
    found = figures.difference(np.mean, right, left, seed=0)
    assert 0.09 < found.low < found.value < found.high < 0.11
    alone = figures.bootstrapped(np.mean, left, seed=0)
    assert alone.high - alone.low == pytest.approx(2 * 1.96 / 200**0.5, rel=0.15)


def test_the_parameter_that_goes_with_failure_is_found_among_many():
    generator = np.random.default_rng(0)
    parameters = {f"noise/{i}": generator.uniform(size=100) for i in range(30)}
    parameters["mass/link"] = generator.uniform(size=100)
    parameters["mass/link, shared"] = parameters["mass/link"].copy()
    parameters["constant"] = np.ones(100)
    bad = parameters["mass/link"] ** 3 + generator.normal(0, 0.1, 100)
    bad[int(np.argmax(bad))] = np.inf  # it diverged
    first, *others = figures.correlations(bad, parameters)
    assert first.parameter == "mass/link" and first.rank_correlation > 0.7
    assert first.adjusted_p_value == pytest.approx(31 * first.p_value)
    assert first.adjusted_p_value < 1e-3
    assert len(others) == 30 and min(other.adjusted_p_value for other in others) > 0.05
    shown = figures.unusual(parameters, int(np.argmax(parameters["noise/3"])))
    assert ("noise/3", 99.5) in [(row.parameter, row.percentile) for row in shown]


def test_holms_adjustment_is_known():
    adjusted = figures.holm(np.array([0.01, 0.04, 0.03, 0.005]))
    assert adjusted == pytest.approx([0.03, 0.06, 0.06, 0.02])


def test_tables_have_all_bundles_and_their_differences(evaluation, bundles):
    columns, rows = table(evaluation)
    first, second = bundles
    assert [row[0] for row in rows] == [first, second, f"{second}, minus {first}"]
    assert all(len(row) == len(columns) for row in rows)
    value = evaluation.differences[second]["return"].value
    means = [evaluation.figures[name]["return"].value for name in bundles]
    assert value == pytest.approx(means[1] - means[0])
    assert len(worst(evaluation, first)[1]) == 10
    assert len(correlation_table(evaluation, first)[1]) == 10


# The files.


def test_every_episode_is_in_the_parquet_file(bundles, tmp_path):
    given = options(bundles, output=tmp_path / "deep" / "out", pictures=(E - 1,))
    found = run(given)
    read = parquet.read_table(given.output / "episodes.parquet")
    assert read.num_rows == 2 * E
    columns = read.to_pydict()
    assert columns["bundle"] == [bundles[0]] * E + [bundles[1]] * E
    assert columns["episode"] == [*range(E)] * 2
    assert columns["environment"] == [episode % N for episode in range(E)] * 2
    for name, values in found.records[bundles[1]].items():
        np.testing.assert_array_equal(columns[name][E:], values)
    about = {key.decode(): json.loads(text) for key, text in read.schema.metadata.items()}
    assert (about["task"], about["engine"], about["seed"]) == ("arm-reach", "mujoco", 0)
    assert len({*about["bundles"].values()}) == 2
    assert about["randomization"][0]["name"] == "link_mass"
    assert {path.name for path in given.output.iterdir()} == {
        "result.json", "episodes.parquet", "index.html",
        "bundle1_episode9.png", "bundle2_episode9.png",
    }  # fmt: skip
    assert (given.output / "bundle2_episode9.png").read_bytes().startswith(b"\x89PNG")
    document = json.loads((given.output / "result.json").read_text())
    assert document["figures"][bundles[0]]["success"]["value"] == 0
    with pytest.raises(InputError, match="output: expected a folder that does not exist yet"):
        options(bundles, output=given.output)


# An episode again.


@pytest.mark.parametrize("episode", [0, 5, E - 1])
def test_any_episode_is_reproduced_exactly(evaluation, bundles, episode):
    for name in bundles:
        again = replay(evaluation, name, episode)
        record = evaluation.records[name]
        assert again.outcome["return"] == record["return"][episode]
        assert again.distance[-1] == record["final_distance"][episode]
        hand, target = (again.signals[f"{n}_position"][:-1] for n in ("hand", "target"))
        distance = np.linalg.norm(hand - target, axis=1)
        np.testing.assert_array_equal(distance, again.distance[:-1])
        assert again.commands["joint_position"].shape == (125, 7)


def test_a_replay_that_differs_is_no_replay(evaluation, bundles):
    records = {name: dict(columns) for name, columns in evaluation.records.items()}
    records[bundles[0]]["return"] = records[bundles[0]]["return"] + 1e-12
    forged = replace(evaluation, records=records)
    with pytest.raises(RuntimeError, match=r"expected the episode as recorded, \{'return'"):
        replay(forged, bundles[0], 2)
    with pytest.raises(ValueError, match="episode 0 to 9; found"):
        replay(evaluation, bundles[0], E)


FILM = """
from pathlib import Path
from sim.tasks.evaluation import Options, run
run(Options(({0!r},), "arm-reach", "mujoco", episodes=3, environments=3, videos=(2,),
    output=Path({1!r})))
"""


def test_an_arm_is_filmed(bundles, tmp_path):
    import av

    script = FILM.format(bundles[0], str(tmp_path / "out"))
    ran = subprocess.run(
        [sys.executable, "-c", script], env=os.environ | {"MUJOCO_GL": "egl"},
        capture_output=True, text=True, cwd=ROOT, check=False,
    )  # fmt: skip
    if "expected an OpenGL context" in ran.stderr:
        pytest.skip("this machine cannot render")
    assert ran.returncode == 0, ran.stderr
    with av.open(tmp_path / "out" / "bundle1_episode2.mp4") as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    assert len(frames) == 63 and frames[0].shape == (240, 320, 3)
    assert np.abs(frames[0].astype(int) - frames[-1]).max() > 50  # it moves
    red = frames[0][..., 0].astype(int) - frames[0][..., 2]
    assert (red > 40).sum() > 5  # the target
    assert "bundle1_episode2.mp4" in (tmp_path / "out" / "index.html").read_text()


def test_where_nothing_can_be_rendered_the_message_says_what_is_missing(monkeypatch):
    def fail(*arguments):
        raise AttributeError("no GLContext")

    monkeypatch.setattr(mujoco, "Renderer", fail)
    monkeypatch.setenv("MUJOCO_GL", "disable")
    message = "MUJOCO_GL set to disable .*no GLContext.*MUJOCO_GL=egl, and install Mesa's EGL"
    with pytest.raises(OSError, match=message):
        require_rendering()


# What is refused.


def test_a_bundle_for_another_robot_is_refused_with_every_violation(leg):
    with pytest.raises(ContractError) as refused:
        fly(options((str(leg),)))
    text = str(refused.value)
    for where in (
        "robot.joints", "robot.actuators", "observation.angular_velocity: expected one of",
        "observation.joint_position.elements", "action: expected joint_position, found joint_targ",
    ):  # fmt: skip
        assert f"{leg}, {where}" in text


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda c: {
                "timing": replace(c.timing, control_hz=100.0),
                "chunk": replace(c.chunk, interval_s=0.01),
            },
            "timing.control_hz: expected 50 Hz, found 100 Hz",
        ),
        (
            lambda c: {"action": (replace(c.action[0], mode="delta"),)},
            "action.joint_position.mode: expected absolute, found delta",
        ),
        (
            lambda c: {"observation": (replace(c.observation[0], unit="1"), *c.observation[1:])},
            "observation.joint_position.unit: expected rad, found 1",
        ),
        (lambda c: {"chunk": replace(c.chunk, steps=2)}, "no previous_action, where chunks"),
    ],
)
def test_a_bundle_of_another_rate_mode_unit_or_chunk_is_refused(bundles, change, message):
    policy = load_policy(bundles[0])
    policy.contract = replace(policy.contract, **change(policy.contract))
    with pytest.raises(ContractError, match=message):
        evaluate({"mine": policy}, options(("mine",)))


def test_scale_offset_and_limits_are_the_bundles_own(bundles):
    policy, task = load_policy(bundles[0]), make(count=N)
    (action,) = policy.contract.action
    other = replace(action, scale=(0.1,) * 7, offset=(0.2,) * 7, lower=(0.15,) * 7)
    policy.contract = replace(policy.contract, action=(other,))
    driver = Driver(policy, task)
    task.reset(seed=0)
    driver.begin(seed=0)
    expected = policy.step(task.signals())["joint_position"][:, 0]
    driver.begin(seed=0)
    raw = driver.act()
    np.testing.assert_allclose(task.commands(raw), expected, atol=1e-6)
    assert expected.min() == np.float32(0.15) and np.ptp(expected) > 0.01


def test_a_robot_of_another_model_may_be_flown_and_is_remarked_on(bundles):
    policy = load_policy(bundles[0])
    robot = replace(policy.contract.robot, model="arm7_heavy")
    policy.contract = replace(policy.contract, robot=robot, gains=None)
    found = evaluate({"mine": policy}, options(("mine",), episodes=3))
    assert remarks(found) == [
        "mine: made for the robot arm7_heavy, evaluated on arm7",
        "mine: the robot's gains are not those that it was made for",
    ]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"bundles": ("a", "a")}, "bundles: expected one or more, none of them twice"),
        ({"episodes": 2}, "episodes: expected 3 or more, for intervals, found 2"),
        ({"environments": 0, "seed": -1}, "environments: expected 1(.|\n)*seed: expected 0"),
        ({"pictures": (3,)}, "output: expected a folder for pictures and videos"),
        ({"pictures": (E,), "output": Path("new")}, "expected episodes from 0 to 9"),
        ({"task": "quadrotor", "videos": (1,), "output": Path("new")}, "ask for pictures"),
    ],
)
def test_contradictions_are_named_before_anything_is_simulated(changes, message):
    with pytest.raises(InputError, match=message):
        replace(options(("a",)), **changes)


# Meta-World.


def test_a_bundle_for_meta_world_is_evaluated_pictured_and_replayed(tmp_path):
    name = write("mlp", tmp_path, "meta-world/push")
    moved = ROOT / "config" / "perturbations_object_moved.yaml"
    given = Options(
        (name,), "meta-world/push", "mujoco", randomization=moved, episodes=5, environments=4
    )  # fmt: skip
    evaluation = fly(given)
    record = evaluation.records[name]
    assert record["length"].max() <= 200 and set(record["success"]) <= {True, False}
    assert len(record["object_moved/object[0]"]) == 5
    replayed = replay(evaluation, name, 4)
    replayed.picture(tmp_path / "four.png")
    assert list(replayed.commands) == ["hand_displacement", "gripper"]
    assert replayed.poses.shape == (record["length"][4], replayed.model.nq)
