"""Meta-World as a task: its starts, its physics and its rules, without its Python at each step."""

from dataclasses import replace
from pathlib import Path

import mujoco
import numpy as np
import pytest
from metaworld.sawyer_xyz_env import SawyerXYZEnv

from robot_policies.strict import InputError
from sim import tasks
from sim.randomization_terms import Spec, Term, load
from sim.tasks.meta_world import KINDS, STEP_M, Scripted, create

CONFIG = Path(__file__).parents[2] / "config"
N = 3


def make(kind, count=N, seed=0, randomization=None, **options):
    task = tasks.make(
        f"meta-world/{kind}", engine="mujoco", count=count, seed=seed,
        threads=options.pop("threads", 1), randomization=randomization, **options,
    )  # fmt: skip
    task.reset(seed=seed)
    return task


def raw(commands):
    """What the task is told for an expert's commands."""
    return (commands / [STEP_M, STEP_M, STEP_M, 1.0]).astype(np.float32)


def play(task):
    """The expert's first episode in every environment: their records, by environment."""
    expert, running = Scripted(task.scene), np.full(task.num_envs, True)
    expert.begin(np.arange(task.num_envs), np.zeros(task.num_envs, int))
    task.episodes = []
    while running.any():
        _, _, terminated, truncated, _ = task.step(raw(expert.act()))
        ended = terminated | truncated
        task.scene.rest(np.flatnonzero(ended))
        running &= ~ended
    blocks, task.episodes = task.episodes, None
    records = {name: np.concatenate([b[name] for b in blocks]) for name in blocks[0]}
    order = np.argsort(records["environment"])
    return {name: column[order] for name, column in records.items()}


@pytest.mark.parametrize(
    "kind", ["pick-place", "push", "assembly", "disassemble", "bin-picking", "basketball"]
)
def test_the_expert_succeeds_and_success_ends_the_episode(kind):
    records = play(make(kind))
    assert records["success"].sum() >= 2
    assert (records["length"][records["success"]] < KINDS[kind].episode_steps).all()
    np.testing.assert_array_equal(records["return"], records["success"])


def meta_worlds_own(scene):
    """Its environment, with its own reset, begun as our first one; and its observation."""
    theirs = create(scene.kind)
    theirs._reset_hand = lambda steps=50: SawyerXYZEnv._reset_hand(theirs, steps)
    theirs._last_rand_vec = scene.random_vectors(np.array([0]), np.array([0]))[0]
    return theirs, theirs.reset()[0]


def present(observation):
    """Meta-World's present frame and the goal: [21], attitudes up to sign."""
    frame = observation[[*range(18), 36, 37, 38]].copy()
    frame[7:11] *= np.sign(frame[7:11][np.abs(frame[7:11]).argmax()])
    return frame


@pytest.mark.parametrize("kind", KINDS)
def test_it_starts_moves_and_judges_as_meta_world_itself(kind):
    scene = make(kind, count=1, seed=2).scene
    theirs, observation = meta_worlds_own(scene)
    np.testing.assert_allclose(present(scene.observation()[0]), present(observation), atol=1e-6)
    # They settled twice, which differs in the eighth digit: contacts would make more of it.
    state, expert = scene._batch.state[0], Scripted(scene)
    mujoco.mj_setState(theirs.model, theirs.data, state, mujoco.mjtState.mjSTATE_INTEGRATION)
    success, steps = np.array([False]), 0
    while not success[0] and steps < scene.episode_steps:
        command = expert.act()
        observation, _, _, _, info = theirs.step(command[0] / [STEP_M, STEP_M, STEP_M, 1.0])
        scene.step(command)
        distance, success = scene.kind.judge(scene)
        np.testing.assert_allclose(
            present(scene.observation()[0]), present(observation), atol=1e-7
        )
        assert success[0] == bool(info["success"])
        if info["obj_to_target"]:  # of the wrench Meta-World gives none
            np.testing.assert_allclose(distance[0], info["obj_to_target"], atol=1e-7)
        steps += 1
    assert steps > 10


def test_the_weld_that_holds_the_hand_has_meta_worlds_numbers_and_a_zero():
    model = make("push", count=1).scene.model
    (row,) = model.eq_data[model.eq_type == mujoco.mjtEq.mjEQ_WELD]
    np.testing.assert_array_equal(row, [0, 0, 0, 0, 0, 0, -1, 0, 0, 0, 5, 0])


# Episodes.


def test_starts_depend_on_seed_environment_and_episode_alone():
    np.random.seed(1)  # which Meta-World itself would draw from
    task = make("push")
    few, many, other = (
        t.scene.observation() for t in (task, make("push", count=8), make("push", seed=1))
    )
    np.testing.assert_array_equal(few, many[:N])
    assert len(np.unique(many[:, 4])) == 8  # the puck's x
    task.reset()
    assert (few[:, 4] != other[:, 4]).all() and (few[:, 4] != task.scene.observation()[:, 4]).all()


def test_the_same_seed_gives_the_same_episodes_on_any_number_of_threads():
    alone, together = play(make("pick-place")), play(make("pick-place", threads=2))
    for name, column in alone.items():
        np.testing.assert_array_equal(column, together[name])


def test_object_and_goal_are_apart_as_meta_world_demands():
    scene = make("disassemble", count=1).scene
    vectors = scene.random_vectors(np.arange(500), np.zeros(500, int))
    assert (vectors >= scene._starts.low).all() and (vectors <= scene._starts.high).all()
    gaps = np.linalg.norm(vectors[:, :2] - vectors[:, 3:5], axis=1)
    assert gaps.min() >= 0.1 and (gaps < 0.11).any()


def test_who_rests_is_not_simulated_until_its_next_reset():
    task = make("push", count=2)
    still, up = task.scene.observation()[1], np.tile(np.float32([0, 0, 1, -1]), (2, 1))
    task.scene.rest(np.array([1]))
    for _ in range(task.scene.episode_steps):
        np.testing.assert_array_equal(task.scene.observation()[1], still)
        task.step(up)
    assert task.scene.observation()[0, 2] == pytest.approx(0.2, abs=0.02)  # begun anew
    for _ in range(10):
        task.step(up)
    assert (task.scene.observation()[:, 2] > 0.22).all()


def test_a_raw_action_of_one_is_a_centimetre_and_a_closed_gripper():
    task = make("pick-place", count=1)
    command = task.commands(np.array([[1.0, -2.0, 0.5, 1.0]]))
    np.testing.assert_allclose(command, [[0.01, -0.01, 0.005, 1.0]], rtol=1e-6)
    before = task.signals()["gripper_opening"]
    for _ in range(20):
        task.step(np.float32([[0, 0, 0, 1]]))
    assert task.signals()["gripper_opening"] < before - 0.5


def test_what_meta_world_has_not_is_refused():
    for changes, message in (
        ({"robot": CONFIG / "arm_example.yaml"}, "robot: expected none"),
        ({"device": "gpu"}, "device: expected cpu"),
    ):
        with pytest.raises(ValueError, match=message):
            make("push", **changes)
    heavy = load_term(parameter="mass", names=("object",), distribution={"uniform": (1.0, 2.0)})
    with pytest.raises(InputError, match=r"can be set here \(actuator_delay, displacement"):
        make("push", randomization=heavy)


# Perturbations.


def load_term(**changes):
    (term,) = load(CONFIG / "perturbations_object_moved.yaml").terms
    return Spec((replace(term, **changes),))


def steps_of(task, count, action=(0, 0, 0, -1)):
    """The task after each of `count` steps with one raw action."""
    for _ in range(count):
        task.step(np.tile(np.float32(action), (task.num_envs, 1)))
        yield task


def test_random_actions_act_for_eight_steps_at_their_time_and_are_told():
    spec = load(CONFIG / "perturbations_random_actions.yaml")
    task, calm = make("push", count=20, randomization=spec), make("push", count=20)
    seen = [(t.disturbed, t.scene.observation()[:, :3]) for t in steps_of(task, 50)]
    disturbed, hand = (np.array(column) for column in zip(*seen, strict=True))
    unmoved = np.array([t.scene.observation()[:, :3] for t in steps_of(calm, 50)])
    first = disturbed.argmax(axis=0)
    assert first.min() >= 20 and first.max() <= 28 and len(set(first)) > 2
    for n, k in enumerate(first):
        np.testing.assert_array_equal(np.flatnonzero(disturbed[:, n]), np.arange(k, k + 8))
        np.testing.assert_array_equal(hand[:k, n], unmoved[:k, n])
        assert (hand[k + 1 :, n] != unmoved[k + 1 :, n]).all()


def test_perturbations_are_recorded_and_the_same_again():
    spec = load(CONFIG / "perturbations_random_actions.yaml")
    first, again = (play(make("pick-place", randomization=spec)) for _ in range(2))
    np.testing.assert_array_equal(first["random_actions/gripper"], 8)
    nominal = play(make("pick-place"))
    assert (first["length"] != nominal["length"]).all()
    np.testing.assert_array_equal(first["length"], again["length"])


def test_the_object_is_moved_once_by_what_is_recorded():
    spec = load(CONFIG / "perturbations_object_moved.yaml")
    task = make("push", count=10, randomization=spec)
    task.episodes = []
    seen = [t.scene.observation()[:, 4:6] for t in steps_of(task, task.scene.episode_steps - 1)]
    jumps = np.abs(np.diff(seen, axis=0)) > 0.02
    assert (jumps.sum(axis=0) == 1).all() and (jumps[..., 0] == jumps[..., 1]).all()
    when = jumps[..., 0].argmax(axis=0) + 1
    assert when.min() >= 16 and when.max() <= 24
    moved = seen[30] - seen[10]
    np.testing.assert_allclose(np.linalg.norm(moved, axis=1), 0.05, atol=2e-3)
    (_,) = steps_of(task, 1)
    (block,) = task.episodes
    told = np.stack([block[f"object_moved/object[{k}]"] for k in range(2)], axis=1)
    np.testing.assert_allclose(moved, told, atol=2e-3)


def test_delayed_commands_act_two_steps_later():
    delay = load(CONFIG / "perturbations_delay.yaml")
    late, prompt = make("push", randomization=delay), make("push")
    heights = [
        [t.scene.observation()[:, 2] for t in steps_of(task, 8, (0, 0, -1, -1))]
        for task in (late, prompt)
    ]
    np.testing.assert_allclose(heights[0][2:], heights[1][:-2], atol=1e-3)
    assert (heights[1][-1] < heights[0][-1] - 5e-3).all()


def test_they_are_for_arms_too():
    def once(parameter, *names, **drawn):
        return Term(parameter, parameter, names, "set", drawn, True, None, at_s=(0.1, 0.1))

    joints = (f"joint{k}" for k in range(1, 8))
    blows = once("random_action", *joints, choice=(4.0,), probabilities=(1.0,))
    spec = Spec((once("displacement", "box", uniform=(0.03, 0.03)), blows))
    pushing = {"engine": "mujoco", "count": 2, "seed": 0, "threads": 1}
    task = tasks.make("arm-push", randomization=spec, **pushing)
    task.reset()
    box, disturbed = [], []
    for _ in range(12):
        box.append(task.scene.signals()["box_position"][:, :2])
        task.step(np.zeros((2, 7), np.float32))
        disturbed.append(task.disturbed)
    np.testing.assert_array_equal(np.flatnonzero(np.array(disturbed)[:, 0]), [5, 6, 7, 8])
    change = np.diff(box, axis=0)
    np.testing.assert_allclose(change[5], 0.03, atol=2e-3)  # 0.1 s have passed after five steps
    assert np.abs(np.delete(change, 5, axis=0)).max() < 5e-3
    link = Spec((once("displacement", "link7", uniform=(0.0, 0.1)),))
    with pytest.raises(InputError, match="one of the free_bodies box, found link7"):
        tasks.make("arm-push", randomization=link, **pushing)
