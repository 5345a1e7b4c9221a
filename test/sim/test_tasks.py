"""Tasks as vector environments: episodes, signals, randomisation, divergence, own robots."""

import importlib.util
import subprocess
import sys
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import gymnasium
import mujoco
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from robot_policies.contract import SCHEMA_VERSION, Chunk, Contract, Conventions, Provenance
from robot_policies.signals import ActionMap, ObservationBuffer
from robot_policies.strict import InputError
from sim import engines, tasks
from sim.engines import Engine
from sim.randomization_terms import Spec, Term, load
from sim.tasks import arm, push
from sim.tasks.parameters import scaled

CONFIG = Path(__file__).parents[2] / "config"
N = 4
KINDS = ("arm-reach", "arm-push", "quadrotor")


def make(task="arm-reach", **changes):
    engine = "torch" if task == "quadrotor" else "mujoco"
    options = {"engine": engine, "count": N, "seed": 0, "threads": 1, "randomization": None}
    return tasks.make(task, **(options | changes))


def term(parameter, *names, interval_s=None, operation="set", shared=True, **distribution):
    distribution = {key: tuple(value) for key, value in distribution.items()}
    return Term(parameter, parameter, names, operation, distribution, shared, interval_s)


def random_actions(task, steps, seed=0, size=0.3):
    shape = (steps, *task.action_space.shape)
    return np.random.default_rng(seed).normal(0, size, shape).astype(np.float32)


def roll(task, steps, seed=0):
    """Observations, rewards and ends of random actions."""
    return [task.step(raw)[:4] for raw in random_actions(task, steps, seed)]


def assert_same(left, right):
    for (obs, *rest), (other, *others) in zip(left, right, strict=True):
        for name in obs:
            np.testing.assert_array_equal(obs[name], other[name])
        for value, expected in zip(rest, others, strict=True):
            np.testing.assert_array_equal(value, expected)


def shorten(task, steps):
    """Episodes of so many steps."""
    task.scene.episode_steps = steps


def part(task, observation, name):
    """One signal's columns of observation["policy"]."""
    start = 0
    for signal in task.observation:
        if signal.name == name:
            return observation["policy"][:, start : start + len(signal.elements)]
        start += len(signal.elements)
    raise KeyError(name)


# A vector environment.


@pytest.mark.parametrize("kind", KINDS)
def test_a_task_is_a_vector_environment(kind):
    task = make(kind)
    observation, infos = task.reset(seed=3)
    assert task.metadata["autoreset_mode"] is AutoresetMode.SAME_STEP
    assert task.num_envs == N and infos == {}
    assert task.observation_space.contains(observation)
    for raw in random_actions(task, 5):
        assert task.action_space.contains(raw)
        observation, reward, terminated, truncated, infos = task.step(raw)
        assert task.observation_space.contains(observation)
        assert reward.shape == terminated.shape == truncated.shape == (N,)
        assert (reward.dtype, terminated.dtype) == (np.float64, np.bool_)
        assert np.isfinite(reward).all()
    sizes = {name: space.shape for name, space in task.single_observation_space.items()}
    assert sizes["policy"] == (sum(len(s.elements) for s in task.observation),)
    assert task.single_action_space.shape == (len(task.robot.actuators),)


@pytest.mark.parametrize("kind", KINDS)
def test_the_seed_decides_everything(kind):
    task, other = make(kind), make(kind, seed=5)
    first = task.reset(seed=5)[0]
    runs = [roll(task, 4)]
    np.testing.assert_array_equal(first["policy"], other.reset()[0]["policy"])
    runs.append(roll(other, 4))
    task.reset()  # the next episodes, which differ
    runs.append(roll(task, 4))
    np.testing.assert_array_equal(first["privileged"], task.reset(seed=5)[0]["privileged"])
    runs.append(roll(task, 4))
    assert_same(runs[0], runs[1])
    assert_same(runs[0], runs[3])
    assert not np.array_equal(runs[0][0][0]["policy"], runs[2][0][0]["policy"])
    assert not np.array_equal(first["policy"], task.reset(seed=6)[0]["policy"])


def test_an_environment_does_not_depend_on_how_many_there_are():
    few, many = make(), make(count=9)
    few.reset(), many.reset()
    np.testing.assert_array_equal(few.scene.signals()["target_position"],
                                  many.scene.signals()["target_position"][:N])  # fmt: skip


def test_final_observations_are_the_old_episodes_and_observations_the_new_ones():
    task = make()
    shorten(task, 3)
    observation, _ = task.reset()
    old_target = part(task, observation, "target_position")
    actions = random_actions(task, 3)
    for raw in actions:
        observation, _, terminated, truncated, infos = task.step(raw)
    assert truncated.all() and not terminated.any()
    final = infos["final_obs"]
    np.testing.assert_array_equal(part(task, final, "target_position"), old_target)
    np.testing.assert_array_equal(part(task, final, "previous_action"), actions[-1])
    assert (part(task, observation, "target_position") != old_target).any(1).all()
    assert not part(task, observation, "previous_action").any()
    rest = np.array(arm.ARM7.rest_position_rad)
    assert np.abs(part(task, observation, "joint_position") - rest).max() < 0.2 + 1e-6


class Brief(gymnasium.Env):
    """Ends after one step."""

    observation_space = gymnasium.spaces.Box(-1, 1, (2,), np.float32)
    action_space = gymnasium.spaces.Box(-1, 1, (1,), np.float32)

    def reset(self, *, seed=None, options=None):
        return np.zeros(2, np.float32), {}

    def step(self, action):
        return np.ones(2, np.float32), 0.0, False, True, {"return": 2.5, "success": True}


def test_infos_are_those_of_gymnasiums_own_vector_environments():
    theirs = SyncVectorEnv([Brief] * N, autoreset_mode=AutoresetMode.SAME_STEP)
    theirs.reset()
    expected = theirs.step(np.zeros((N, 1), np.float32))[4]
    task = make()
    task.reset()
    shorten(task, 1)
    task.reset()
    task._deadline[1] = 9
    infos = task.step(random_actions(task, 1)[0])[4]
    assert infos.keys() == expected.keys()
    for key, value in expected["final_info"].items():
        found = infos["final_info"][key]
        assert (found.shape, found.dtype) == (value.shape, value.dtype)
    assert infos["_final_info"].tolist() == infos["_final_obs"].tolist() == [1, 0, 1, 1]
    assert infos["final_info"]["_return"].tolist() == [True, False, True, True]
    assert task.step(random_actions(task, 1)[0])[4].keys() == expected.keys()
    task._deadline[:] = 9
    assert task.step(random_actions(task, 1)[0])[4] == {}


def test_records_hold_what_happened_and_are_kept_only_when_asked_for():
    task = make(randomization=Spec((term("mass", "link5", uniform=(1, 3)),)))
    shorten(task, 2)
    task.reset()
    roll(task, 2)
    assert task.episodes is None
    task.episodes = []
    rewards = np.array([step[1] for step in roll(task, 4)])
    assert [block["episode"].tolist() for block in task.episodes] == [[1] * N, [2] * N]
    block = task.episodes[1]
    assert block["environment"].tolist() == [0, 1, 2, 3]
    np.testing.assert_allclose(block["return"], rewards[2:].sum(0))
    assert block["length"].tolist() == [2] * N
    assert ((block["mass/link5"] >= 1) & (block["mass/link5"] <= 3)).all()
    assert not block["success"].any() and not block["diverged"].any()


def test_staggered_episodes_end_at_different_times():
    task = make(count=16)
    shorten(task, 8)
    task.reset()
    task.stagger()
    ends = np.array([step[3] for step in roll(task, 8)]).sum(1)
    assert ends.sum() >= 16 and ends.max() < 10


# The contract.


def contract_of(task):
    return Contract(
        schema_version=SCHEMA_VERSION, name="random", family="actor", robot=task.robot,
        observation=task.observation, action=task.action,
        chunk=Chunk(1, 1 / task.timing.control_hz), conventions=Conventions(),
        timing=task.timing, state=(), noise=(), feature=None, gains=task.gains, tolerance=1e-5,
        provenance=Provenance("", "", "", False, (), "", {}), calibration=None,
    )  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_a_policy_sees_and_does_in_a_task_what_its_contract_says(kind):
    task = make(kind)
    observation, _ = task.reset()
    contract = contract_of(task)  # which refuses a contradiction
    previous = task.previous_action
    buffer, mapping = ObservationBuffer(contract, N, previous), ActionMap(contract, N)
    arrived = []
    real = task.scene.step
    task.scene.step = lambda command: (arrived.append(command), real(command))
    for raw in random_actions(task, 4, size=5.0):
        np.testing.assert_array_equal(buffer.push(task.signals())[:, 0], observation["policy"])
        observation = task.step(raw)[0]
        (command,) = mapping(raw[:, None]).values()
        np.testing.assert_array_equal(arrived[-1], command[:, 0])
        previous[:] = task.previous_action


def test_the_arms_contract_tells_its_gains_and_limits():
    task = make()
    assert task.gains.stiffness == (2000,) * 4 + (800,) * 3
    assert task.timing.control_hz == 50
    assert task.action[0].offset == arm.ARM7.rest_position_rad
    assert task.action[0].upper == (2.9, 1.8, 2.9, 2.9, 2.9, 1.8, 2.9)
    assert task.robot.joints == task.scene.engine.names("joints")


# Randomisation.


def test_noise_and_bias_reach_the_policy_and_not_the_privileged():
    spec = Spec((
        term("observation_noise", "joint_velocity", uniform=(0.5, 0.5)),
        term("observation_bias", "joint_position", uniform=(0.1, 0.1)),
    ))  # fmt: skip
    task, exact = make(randomization=spec), make()
    for (seen, *_), (true, *_) in zip(
        [task.reset(), *roll(task, 3)], [exact.reset(), *roll(exact, 3)], strict=True
    ):
        shift = part(task, seen, "joint_position") - part(exact, true, "joint_position")
        assert shift == pytest.approx(np.full((N, 7), 0.1), abs=1e-6)
        noise = part(task, seen, "joint_velocity") - part(exact, true, "joint_velocity")
        assert 0.25 < noise.std() < 1
        signals = true["privileged"].shape[1]
        np.testing.assert_array_equal(seen["privileged"][:, :signals], true["privileged"])


def test_latency_makes_what_the_policy_sees_old():
    late = term("observation_latency", "joint_position", choice=(2,), probabilities=(1,))
    task = make(randomization=Spec((late,)))
    first, _ = task.reset()
    steps = [first, *(step[0] for step in roll(task, 4))]
    for now, seen in enumerate(steps):
        then = steps[max(now - 2, 0)]["privileged"][:, :7]
        np.testing.assert_array_equal(part(task, seen, "joint_position"), then)
    assert not np.array_equal(steps[4]["privileged"][:, :7], steps[2]["privileged"][:, :7])


def test_a_new_episode_sees_nothing_of_the_old_one():
    late = term("observation_latency", "joint_position", choice=(2,), probabilities=(1,))
    noisy = term("observation_noise", "target_position", uniform=(0.1, 0.1))
    task = make(randomization=Spec((late, noisy)))
    shorten(task, 3)
    task.reset()
    first = task.signals()["target_position"] - task.scene.signals()["target_position"]
    seen = roll(task, 3)[-1][0]
    start = seen["privileged"][:, :7]
    np.testing.assert_array_equal(part(task, seen, "joint_position"), start)
    seen = roll(task, 2)[-1][0]  # still what was measured at the start
    np.testing.assert_array_equal(part(task, seen, "joint_position"), start)
    task.reset(seed=0)
    again = task.signals()["target_position"] - task.scene.signals()["target_position"]
    np.testing.assert_allclose(again, first, atol=1e-7)


def test_delayed_commands_arrive_later_and_the_start_is_held_until_then():
    delay = term("actuator_delay", *arm.ARM7.actuators, choice=(1,), probabilities=(1,))
    task = make(randomization=Spec((delay,)))
    task.reset()
    start = task.scene.engine.read("joint_position")
    arrived = []
    task.scene.step = arrived.append
    actions = random_actions(task, 2)
    for raw in actions:
        task.step(raw)
    np.testing.assert_array_equal(arrived[0], start)
    np.testing.assert_array_equal(arrived[1], task.commands(actions[0]))


def test_every_term_of_the_example_is_met_in_an_episode_and_recorded():
    spec = load(CONFIG / "randomization_example.yaml")
    task = make(randomization=spec, count=64)
    task.reset()
    began, task.episodes = task.parameters, []
    for _ in range(task.scene.episode_steps):
        last = task.parameters
        task.step(np.zeros((64, 7), np.float32))
    (block,) = task.episodes
    for term in spec.terms:
        columns = [name for name in block if name.startswith(f"{term.name}/")]
        assert columns and all(np.ptp(block[name]) > 0 for name in columns)
    pushed = np.abs(block["bump/link5[0]"])
    assert (pushed > 0).mean() > 0.3 and pushed.max() <= 4  # one or two, each of up to 2 N s
    gain = task.parameter_names.index("servo_stiffness/joint1")
    assert (began[:, gain] != last[:, gain]).mean() > 0.9
    np.testing.assert_allclose(block["servo_stiffness/joint1"], 1 + 0.15 * last[:, gain])


def test_pushes_that_no_episode_meets_are_refused():
    (bump,) = [t for t in load(CONFIG / "randomization_example.yaml").terms if t.name == "bump"]
    late = Spec((replace(bump, interval_s=(2.5, 8.0)),))
    with pytest.raises(InputError, match=r"below the 2.5 s of an episode, found \[2.5, 8.0\]"):
        make(randomization=late)


def test_privileged_observations_end_with_the_draws_from_minus_one_to_one():
    task = make(randomization=load(CONFIG / "randomization_example.yaml"), count=64)
    observation, _ = task.reset()
    names = task.parameter_names
    assert names[:2] == ("link_mass/link1", "link_mass/link2") and "bump/link5[0]" not in names
    found = task.parameters
    np.testing.assert_array_equal(observation["privileged"][:, -len(names) :], np.float32(found))
    assert np.abs(found).max() <= 1 and (found.max(0) > 0).all() and (found.min(0) < 0).all()
    mass = task.scene.engine.model.nominal("mass", ["link1"])[0]
    body = task.scene.engine.model.ids("bodies", ["link1"])
    now = task.scene.engine._batch.expand("body_mass")[:, body]
    np.testing.assert_allclose(now[:, 0] / mass, 1 + 0.3 * found[:, 0], rtol=1e-12)


def test_draws_at_intervals_change_the_parameters_within_an_episode():
    often = term("kp", "joint1", interval_s=(0.04, 0.04), operation="scale", uniform=(0.5, 1.5))
    task = make(randomization=Spec((often,)))
    task.reset()
    seen = [task.parameters]
    for raw in random_actions(task, 4):
        observation = task.step(raw)[0]
        seen.append(task.parameters)
        np.testing.assert_array_equal(observation["privileged"][:, -1:], np.float32(seen[-1]))
    changed = [bool((a != b).all()) for a, b in pairwise(seen)]
    assert changed == [False, True, False, True]
    gain = task.scene.engine._batch.expand("actuator_gainprm")[:, 0, 0]
    np.testing.assert_allclose(gain, 2000 * (1 + 0.5 * seen[-1][:, 0]))


@pytest.mark.parametrize(
    ("distribution", "values", "expected"),
    [
        ({"uniform": (1, 3)}, [1, 2.5, 3], [-1, 0.5, 1]),
        ({"log_uniform": (0.5, 2)}, [0.5, 1, 2], [-1, 0, 1]),
        ({"normal": (1, 0.1)}, [0.7, 1.15, 1.3], [-1, 0.5, 1]),
        ({"choice": (2, 0, 1), "probabilities": (0.5, 0.2, 0.3)}, [0, 1, 2], [-1, 0, 1]),
        ({"uniform": (2, 2)}, [2, 2], [0, 0]),
    ],
)
def test_draws_are_scaled_by_the_range_of_their_distribution(distribution, values, expected):
    assert scaled(distribution, np.array(values, float)) == pytest.approx(expected)


class Teleport(Engine):
    """Another engine, whose joints are at once where they are commanded to."""

    name = "genesis"

    def __init__(self, engine, path, count, *, timestep, substeps, threads, device):
        super().__init__(path, count, timestep, substeps)
        mj = self.model.mj
        self._qpos, self._qvel = np.tile(mj.qpos0, (count, 1)), np.zeros((count, mj.nv))
        self._datas = [mujoco.MjData(mj) for _ in range(count)]

    def diverged(self):
        return np.zeros(0, int)

    def _reset(self, ids, qpos, qvel):
        self._qpos[ids], self._qvel[ids] = qpos, qvel

    def _step(self, command, pushed, bodies, force):
        self._qpos[:, : command.shape[1]] = command

    def _joints(self, field, ids):
        return (self._qpos if field == "joint_position" else self._qvel)[:, ids]

    def _bodies(self, field, ids):
        for data, qpos in zip(self._datas, self._qpos, strict=True):
            data.qpos[:] = qpos
            mujoco.mj_kinematics(self.model.mj, data)
        if field == "body_position":
            return np.array([data.xpos[ids] for data in self._datas])
        return np.array([data.xquat[ids][:, [1, 2, 3, 0]] for data in self._datas])

    def _derive(self, ids):
        pass

    def _set(self, parameter, at, ids, values):
        pass


@pytest.mark.parametrize("kind", ["arm-reach", "arm-push"])
def test_every_engine_gets_the_same_starts_targets_draws_and_noise(kind, monkeypatch):
    example = load(CONFIG / "randomization_example.yaml").terms
    spec = Spec(tuple(one for one in example if one.parameter != "observation_latency"))
    both = [make(kind, randomization=spec, seed=7)]
    monkeypatch.setattr(engines, "create", Teleport)
    both.append(make(kind, randomization=spec, seed=7, engine="genesis"))
    at_reset = []
    for task in both:
        shorten(task, 3)
        at_reset.append(task.reset()[0])
        roll(task, 5)  # into the next episodes, on different ways
    for name, value in at_reset[0].items():
        np.testing.assert_allclose(value, at_reset[1][name], rtol=0, atol=1e-6)
    np.testing.assert_array_equal(both[0].parameters, both[1].parameters)
    signals = [task.scene.signals() for task in both]
    aim = "target_position" if kind == "arm-reach" else "goal_position"
    np.testing.assert_array_equal(signals[0][aim], signals[1][aim])
    assert not np.allclose(signals[0]["joint_position"], signals[1]["joint_position"], atol=1e-3)
    noise = [
        task.signals()["joint_position"] - true["joint_position"]
        for task, true in zip(both, signals, strict=True)
    ]
    np.testing.assert_allclose(noise[0], noise[1], rtol=0, atol=1e-6)
    assert np.abs(noise[0]).max() > 1e-4


# Divergence.


def test_a_diverged_environment_is_reset_and_counted_and_the_others_go_on():
    task, calm = make(), make()
    task.episodes = []
    task.reset(), calm.reset()
    fast = np.zeros((1, 7))
    fast[:] = 1e30
    start = task.scene.engine.read("joint_position")
    task.scene.engine.reset(np.array([2]), start[2:3], fast)
    actions = random_actions(task, 3)
    for index, raw in enumerate(actions):
        observation, reward, terminated, truncated, infos = task.step(raw)
        expected = calm.step(raw)
        others = [0, 1, 3]
        np.testing.assert_array_equal(observation["policy"][others], expected[0]["policy"][others])
        assert terminated.tolist() == [False, False, index == 0, False]
        assert np.isfinite(reward).all() and not truncated.any()
        assert all(np.isfinite(value).all() for value in observation.values())
        if index == 0:
            assert reward[2] == arm.DIVERGED_REWARD
            assert all(np.isfinite(value).all() for value in infos["final_obs"].values())
            assert infos["final_info"]["diverged"].tolist() == [False, False, True, False]
    assert task.diverged.tolist() == [0, 0, 1, 0]
    assert task.divergence_report() == "1 of 4 environments diverged (2: once)"
    assert calm.divergence_report() == "none of 4 environments diverged"
    (block,) = task.episodes
    assert block["environment"].tolist() == [2] and block["diverged"].all()
    assert not block["success"].any()


def test_the_report_names_those_that_diverged_most(monkeypatch):
    task = make(count=12)
    task.reset()
    monkeypatch.setattr(task.scene, "diverged", lambda: np.arange(3, 12))
    task.step(random_actions(task, 1)[0])
    monkeypatch.setattr(task.scene, "diverged", lambda: np.array([11]))
    task.step(random_actions(task, 1)[0])
    report = task.divergence_report()
    assert report.startswith("9 of 12 environments diverged (3: once, 4: once")
    assert "11: 2 times, and 1 more" in report


# The arm's tasks.


def joints_for(scene, target):
    """Joint positions that bring the hand to a target: damped least squares from rest."""
    mj = scene.engine.model.mj
    data, jacobian = mujoco.MjData(mj), np.zeros((3, mj.nv))
    data.qpos[:] = scene.arm.rest_position_rad
    low, high = mj.jnt_range.T
    for _ in range(200):
        mujoco.mj_kinematics(mj, data)
        mujoco.mj_comPos(mj, data)
        mujoco.mj_jacSite(mj, data, jacobian, None, mj.site("hand").id)
        error = target - data.site_xpos[0]
        step = jacobian.T @ np.linalg.solve(jacobian @ jacobian.T + 1e-3 * np.eye(3), error)
        data.qpos[:] = (data.qpos + 0.5 * step).clip(low, high)
    return data.qpos.copy()


def test_targets_lie_in_the_workspace_and_are_reached_by_who_knows_how():
    task = make(count=8)
    scene = task.scene
    low, high = np.array(arm.ARM7.workspace_m).T
    assert ((scene.targets >= low) & (scene.targets <= high)).all() and len(scene.targets) == 2048
    task.reset()
    joints = np.array([joints_for(scene, target) for target in scene.signals()["target_position"]])
    raw = (joints - arm.ARM7.rest_position_rad) / arm.ARM7.action_scale_rad
    first = None
    for _ in range(scene.episode_steps):
        _, reward, _, truncated, infos = task.step(raw.astype(np.float32))
        first = reward if first is None else first
    assert truncated.all() and (reward > first + 0.1).all()
    final = infos["final_info"]
    assert np.median(final["final_distance"]) < 0.03  # gravity is not compensated
    np.testing.assert_array_equal(final["success"], final["final_distance"] < 0.02)


def test_the_box_starts_near_and_its_goal_is_far():
    task = make("arm-push", count=64)
    signals = (task.reset(), task.scene.signals())[1]
    box, goal = signals["box_position"], signals["goal_position"]
    assert ((box[:, 0] >= 0.42) & (box[:, 0] <= 0.52 + 1e-9)).all()
    assert ((goal[:, 0] >= 0.62 - 1e-9) & (goal[:, 0] <= 0.72)).all()
    assert box[:, 2] == pytest.approx(0.03) and goal[:, 2] == pytest.approx(0.03)
    assert np.abs(goal[:, 1]).max() <= 0.2 and np.ptp(goal[:, 1]) > 0.2
    hand = signals["hand_position"]
    assert (hand[:, 0] < box[:, 0]).all() and (hand[:, 2] < 0.1).all()


def test_pushing_moves_the_box_towards_the_goal():
    task = make("arm-push")
    task.reset()
    far = task.scene.signals()
    scene = task.scene
    behind = far["box_position"] + np.array([0.2, 0, 0.01])  # through the box
    joints = np.array([joints_for(scene_like(scene), target) for target in behind])
    raw = (joints - push.ARM7_PUSH.rest_position_rad) / push.ARM7_PUSH.action_scale_rad
    for _ in range(60):
        task.step(raw.astype(np.float32))
    moved = scene.signals()["box_position"] - far["box_position"]
    assert (moved[:, 0] > 0.03).sum() >= 3


def scene_like(scene):
    """The push scene's arm on the model without the box, for `joints_for`."""
    plain = make(count=1).scene
    plain.arm = scene.arm
    return plain


# Own robots.


def test_the_example_is_this_projects_arm():
    assert arm.load(CONFIG / "arm_example.yaml") == arm.ARM7


needs_genesis = pytest.mark.skipif(
    importlib.util.find_spec("genesis") is None, reason="its package has the robots"
)


@needs_genesis
def test_the_franka_is_a_robot_of_ones_own():
    task = make(robot=CONFIG / "arm_franka.yaml")
    task.reset()
    steps = roll(task, 5)
    assert task.robot.actuators == tuple(f"actuator{i}" for i in range(1, 8))
    assert contract_of(task).robot.model == "panda_nohand"
    assert np.isfinite([step[1] for step in steps]).all()
    assert task.divergence_report() == "none of 4 environments diverged"


UR5E = """
model: package:genesis/assets/xml/universal_robots_ur5e/ur5e.xml
joints: [shoulder_pan, shoulder_lift, elbow, wrist_1, wrist_2]
actuators: [shoulder_pan, shoulder_lift, elbow, wrist_1, wrist_2]
hand: {kind: body, name: wrist_3_link, offset_m: [0.0, 0.1, 0.0]}
rest_position_rad: [0.0, -1.5708, 1.5708, -1.5708, -1.5708]
start_offset_rad: 0.1
action_scale_rad: 0.5
workspace_m: [[-0.8, 0.8], [-0.8, 0.8], [0.2, 0.8]]
control_hz: 50.0
substeps: 10
episode_s: 2.0
success_distance_m: 0.02
"""


@needs_genesis
def test_a_body_with_an_offset_is_a_hand_and_other_joints_are_held(tmp_path):
    path = tmp_path / "ur5e.yaml"
    path.write_text(UR5E)
    task = make(robot=path)
    observation, _ = task.reset()
    site = task.scene.engine.read("site_position", ["attachment_site"])[:, 0]
    np.testing.assert_allclose(part(task, observation, "hand_position"), site, atol=1e-6)
    roll(task, 5)
    held = task.scene.engine.read("joint_position", ["wrist_3"])
    assert np.abs(held).max() < 0.05 and task.action_space.shape == (N, 5)


def edited(tmp_path, old, new):
    text = (CONFIG / "arm_example.yaml").read_text()
    assert old in text
    path = tmp_path / "arm.yaml"
    path.write_text(text.replace(old, new))
    return path


@pytest.mark.parametrize(
    ("old", "new", "complaint"),
    [
        ("sim/models/arm7.xml\n\n", "sim/models/arm8.xml\n\n", "the path of an MJCF file"),
        ("package:sim/models", "package:simulation/models", "install simulation"),
        ("joints: [joint1,", "joints: [joint9,", "such as joint.*found joint9"),
        ("actuators: [joint1, joint2", "actuators: [joint2, joint1", "servo of joint1"),
        ("name: hand", "name: head", "found head"),
        ("[0.0, 0.5, 0.0, 1.5", "[0.0, 0.5, 0.0, -1.5", "-0.1 to 2.9 for joint4, found -1.5"),
        ("[[0.3, 0.7]", "[[5.3, 5.7]", "enlarge or move"),
        ("[[0.3, 0.7]", "[[0.7, 0.3]", "low below high"),
        ("substeps: 10", "substeps: 0", "1 or more"),
        ("control_hz: 50.0", "control_hz: 0.0", "above zero"),
        ("episode_s: 2.5", "seconds: 2.5", "no such key"),
    ],
)
def test_an_arm_that_cannot_be_is_refused(tmp_path, old, new, complaint):
    with pytest.raises(InputError, match=complaint):
        make(robot=edited(tmp_path, old, new))


def test_pushing_needs_a_box():
    with pytest.raises(InputError, match=r"one free body, the box, found none"):
        make("arm-push", robot=CONFIG / "arm_example.yaml")


# The quadrotor.


def test_the_quadrotor_earns_what_its_evaluation_says():
    torch = pytest.importorskip("torch")
    from robot_policies import load_policy
    from sim.quadrotor.evaluation import evaluate
    from sim.quadrotor.scenario import Scenario

    task, policy = make("quadrotor", count=12, seed=2), load_policy("zoo:quadrotor")
    task.reset()
    scene = task.scene
    scenario = Scenario(scene.airframes, scene.state, torch.zeros(3, 12), episodes=1)
    expected = evaluate(policy, scenario)
    task.episodes = []
    policy.reset(batch=12, seed=0, initial={"previous_action": task.previous_action})
    for _ in range(scene.episode_steps):
        policy.step(task.signals())
        task.step(policy.last.raw_action[:, 0])
    ends = {name: np.concatenate([b[name] for b in task.episodes]) for name in task.episodes[0]}
    first = ends["episode"] == 0
    order = np.argsort(ends["environment"][first])
    found = ends["return"][first][order]
    np.testing.assert_allclose(found, expected.total_reward[:, 0], rtol=1e-6)
    survived = ends["length"][first][order] == scene.episode_steps
    np.testing.assert_array_equal(survived, expected.survived[:, 0])
    assert survived.sum() >= 6
    assert ends["success"][first].sum() >= 6


def test_a_quadrotor_has_mass_inertia_and_pushes_of_its_own():
    spec = Spec((
        term("mass_and_inertia", "quadrotor", operation="scale", uniform=(0.8, 1.2)),
        term("push", "quadrotor", interval_s=(0.02, 0.02), uniform=(0.01, 0.01)),
    ))  # fmt: skip
    task = make("quadrotor", robot=CONFIG / "airframe_example.yaml", randomization=spec)
    task.reset()
    frames, factor = task.scene.airframes, 1 + 0.2 * task.parameters[:, 0]
    np.testing.assert_allclose(frames.mass.numpy() / 0.0306, factor, rtol=1e-6)
    np.testing.assert_allclose(
        frames.inertia[2].numpy() / 1.745951732253285e-05, factor, rtol=1e-6
    )
    hover, speed = 2 * frames.hover_action.T.numpy() - 1, []
    for _ in range(4):  # the push falls due after the second step, and acts in the third
        speed.append(task.scene.state.linear_velocity.numpy())
        task.step(hover)
    speed.append(task.scene.state.linear_velocity.numpy())
    change = np.diff(speed, axis=0)[:, 0]
    pushed = change[2] - (change[1] + change[3]) / 2
    assert pushed == pytest.approx(0.01 / frames.mass.numpy(), rel=0.1)


def test_what_cannot_be_randomised_of_a_quadrotor_is_refused():
    heavy = Spec((term("mass", "quadrotor", operation="scale", uniform=(1, 3)),))
    with pytest.raises(InputError, match=r"where airframes are sampled.*give one airframe"):
        make("quadrotor", randomization=heavy)
    with pytest.raises(InputError, match="which full thrust carries"):
        make("quadrotor", randomization=heavy, robot=CONFIG / "airframe_example.yaml")


# Refusals.


def test_what_there_is_not_is_refused():
    with pytest.raises(ValueError, match="one of arm-reach, arm-push, quadrotor, meta-world"):
        make("fly")
    with pytest.raises(ValueError, match="mujoco or genesis, which simulate arm-reach"):
        make(engine="torch")
    with pytest.raises(ValueError, match="expected torch, which"):
        make("quadrotor", engine="mujoco")
    with pytest.raises(ValueError, match="count >= 1"):
        make(count=0)
    with pytest.raises(ValueError, match="expected cpu"):
        make("quadrotor", device="gpu")
    with pytest.raises(InputError, match="found link77"):
        make(randomization=Spec((term("mass", "link77", uniform=(1, 2)),)))


def test_actions_that_are_none_are_refused():
    task = make()
    raw = random_actions(task, 1)[0]
    with pytest.raises(gymnasium.error.ResetNeeded, match="call reset"):
        task.step(raw)
    task.reset()
    with pytest.raises(ValueError, match=r"actions \[4, 7\]; found \[7, 4\]"):
        task.step(raw.T)
    raw[1, 2] = np.inf
    with pytest.raises(ValueError, match=r"finite actions; found others in rows \[1\]"):
        task.step(raw)
    with pytest.raises(ValueError, match="no options"):
        task.reset(options={"target": 1})


def test_arms_on_mujoco_need_no_torch():
    code = (
        "import sys; from sim import tasks; task = tasks.make('arm-reach', engine='mujoco', "
        "count=1, seed=0, threads=1, randomization=None); task.reset(); "
        "print(sorted({'torch', 'genesis'} & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_episodes_of_an_own_length():
    described = replace(arm.ARM7, episode_s=0.5)
    assert described.episode_steps == 25 and described.timestep_s == pytest.approx(0.002)
