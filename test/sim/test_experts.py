"""Scripted experts: that they can do their tasks, and that arm-push has two ways to do it."""

import numpy as np
import pytest

from sim import tasks
from sim.demonstrations import attempts
from sim.tasks import experts
from sim.tasks.push import Push
from sim.tasks.push_expert import PushExpert, hand_path, side

N = 20


def make(task, count=N):
    return tasks.make(
        task, engine="mujoco", count=count, seed=0, threads=1, randomization=None
    )  # fmt: skip


def push(count=N):
    """A task, and its scene as what it is."""
    task = make("arm-push", count)
    assert isinstance(task.scene, Push)
    return task, task.scene


def first_round(name):
    """The demonstrations of one round, and the expert that gave them."""
    task = make(name)
    expert = experts.make(name, task.scene, seed=0)
    found = attempts(task, expert, seed=0, first=0)
    return expert, [next(found) for _ in range(N)]


@pytest.fixture(scope="module")
def pushes():
    return first_round("arm-push")


def points(demonstration):
    """Where the hand, the box and the goal are, [T, 3] each."""
    state = demonstration.rows["observation.state"].astype(float)
    return state[:, 14:17], state[:, 17:20], state[:, 20:23]


def test_the_expert_pushes_the_box_to_the_goal(pushes):
    _, demonstrations = pushes
    assert sum(d.success for d in demonstrations) >= 0.9 * N


def test_a_path_shows_which_side_was_drawn(pushes):
    expert, demonstrations = pushes
    for drawn, demonstration in zip(expert.sides, demonstrations, strict=True):
        hand, box, goal = points(demonstration)
        assert side(hand, box[0], goal[0]) == drawn


def test_the_first_chunk_of_commands_shows_it(pushes):
    expert, demonstrations = pushes
    _, scene = push(count=1)
    for drawn, demonstration in zip(expert.sides, demonstrations, strict=True):
        hand, box, goal = points(demonstration)
        chunk = hand_path(scene, demonstration.rows["action"][:12].astype(float))
        assert side(np.vstack([hand[:1], chunk]), box[0], goal[0]) == drawn


def test_sides_are_drawn_evenly_by_seed_environment_and_episode():
    expert = PushExpert(push()[1], seed=0)
    drawn = []
    for episode in range(50):
        expert.begin(np.arange(N), np.full(N, episode))
        drawn.append(expert.sides.copy())
    assert abs(np.mean(drawn)) < 0.1  # three standard deviations of 1000
    assert len(np.unique(drawn, axis=0)) == 50
    again = PushExpert(push(count=3)[1], seed=0)
    again.begin(np.arange(3), np.full(3, 49))
    assert (again.sides == drawn[-1][:3]).all()


def test_the_mean_of_both_ways_is_committed_to_neither():
    chunks = {}
    task, scene = push(count=1)
    for episode in range(8):
        task.reset(seed=3)  # the same start
        expert = PushExpert(scene, seed=0)
        expert.begin(np.arange(1), np.full(1, episode))
        start = scene.signals()
        chunk = [expert.act()[0]]
        for _ in range(11):
            command = (chunk[-1] - task.action[0].offset) / task.action[0].scale
            task.step(command[None].astype(np.float32))
            chunk.append(expert.act()[0])
        chunks[expert.sides[0]] = np.array(chunk)

    def seen(chunk):
        hand = np.vstack([start["hand_position"], hand_path(scene, chunk)])
        return side(hand, start["box_position"][0], start["goal_position"][0])

    assert [seen(chunks[1]), seen(chunks[-1])] == [1, -1]
    assert seen((chunks[1] + chunks[-1]) / 2) == 0


@pytest.mark.parametrize(("lateral", "expected"), [(0.05, 1), (-0.05, -1), (0.02, 0), (0.0, 0)])
def test_a_side_is_what_leaves_the_straight_way_by_the_margin(lateral, expected):
    path = np.array([[0.3, 0.0], [0.33, lateral], [0.36, 0.0], [0.42, 0.0], [0.6, 0.3]])
    box, goal = np.array([0.46, 0.0]), np.array([0.7, 0.0])
    assert side(path, box, goal) == expected  # what follows within the box's footprint is a push


def test_the_expert_of_arm_reach_holds_the_target():
    _, demonstrations = first_round("arm-reach")
    assert all(d.success for d in demonstrations)


def test_tasks_without_an_expert_are_refused():
    with pytest.raises(ValueError, match=r"arm-push, arm-reach, meta-world.*found quadrotor"):
        experts.make("quadrotor", make("arm-reach", count=1).scene, seed=0)
