"""Collecting demonstrations: what is in a data set, and that a killed collection loses nothing."""

import json
import os
import signal
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from robot_policies.cli.entry import main
from robot_policies.datasets import Writer, read
from robot_policies.strict import InputError
from sim import demonstrations, tasks
from sim.demonstrations import CollectConfig, Tally, collect, tally
from sim.tasks import experts
from sim.tasks.experts import ReachExpert
from sim.tasks.push import Push

PERTURBED = Path(__file__).parents[2] / "config" / "perturbations_random_actions.yaml"
PUSH = CollectConfig("arm-push", episodes=6, seed=0, environments=4)
REACH = CollectConfig("arm-reach", episodes=10, seed=0, environments=4)
"""Three rounds, of which the last is not used up."""


def gather(config, path, resume=False):
    return collect(config, path, resume=resume, command="this test")


def files(path):
    """Every file of a data set, by name."""
    return {str(f.relative_to(path)): f.read_bytes() for f in path.rglob("*") if f.is_file()}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A collection of REACH that nobody interrupted."""
    path = tmp_path_factory.mktemp("data") / "whole"
    gather(REACH, path)
    return path


def test_a_data_set_says_what_the_policy_is_told_and_the_expert_commands(tmp_path):
    dataset = gather(PUSH, tmp_path / "push")
    state, action = dataset.columns[:2]
    assert (state.name, state.shape, action.name, action.shape) == (
        "observation.state", (23,), "action", (7,)
    )  # fmt: skip
    assert state.elements[0] == "joint_position/joint1"
    assert state.elements[-1] == "goal_position/z"
    assert action.elements[-1] == "joint_position/joint7"
    assert (dataset.fps, dataset.robot) == (50, "arm7_push")
    assert set(dataset.tasks) == {Push.about}
    asked = {"observation.state": state.elements, "action": action.elements}
    assert read(tmp_path / "push", columns=asked, fps=50).sha256 == dataset.sha256


def test_only_the_last_row_of_an_episode_is_done_and_a_success(whole):
    dataset = read(whole, columns={"next.done": None, "next.success": None})
    ends = np.zeros(len(dataset.values["next.done"]), bool)
    ends[dataset.starts[1:] - 1] = True
    assert (dataset.values["next.done"][:, 0] == ends).all()
    assert (dataset.values["next.success"][:, 0] == ends).all()


def test_commands_are_within_the_limits_and_lead_to_the_next_state(whole):
    dataset = read(whole, columns={"observation.state": None, "action": None})
    episode = dataset.episode(0)
    task = tasks.make(
        "arm-reach", engine="mujoco", count=4, seed=0, threads=1, randomization=None
    )  # fmt: skip
    task.reset(seed=demonstrations.round_seed(0, 0))
    (action,) = task.action
    for state, command in zip(episode["observation.state"], episode["action"], strict=True):
        assert (command >= action.lower).all() and (command <= action.upper).all()
        told = np.concatenate([value[0] for value in task.signals().values()])
        assert told == pytest.approx(state, abs=1e-5)
        task.step(np.tile((command - action.offset) / action.scale, (4, 1)).astype(np.float32))


def test_the_record_has_all_that_decides_the_data(whole):
    source = json.loads((whole / "meta" / "robot_policies.json").read_text())["source"]
    assert source["configuration"]["task"] == "arm-reach"
    assert source["configuration"]["seed"] == 0
    assert source["interface"]["timing"]["control_hz"] == 50
    assert [s["unit"] for s in source["interface"]["action"]] == ["rad"]
    assert source["made_by"]["command"] == "this test"
    assert {"git_revision", "git_dirty", "versions"} <= source["made_by"].keys()
    assert source["randomization"] == []


def test_the_same_configuration_gives_the_same_bytes(whole, tmp_path):
    gather(REACH, tmp_path / "again")
    assert files(tmp_path / "again") == files(whole)


def test_another_seed_gives_other_data(whole, tmp_path):
    other = gather(replace(REACH, seed=1, episodes=4), tmp_path / "other")
    first = read(whole, columns={"observation.state": None})
    assert not np.allclose(other.episode(0)["observation.state"][0],
                           first.episode(0)["observation.state"][0])  # fmt: skip


@pytest.mark.parametrize("added", [4, 9])
def test_an_interrupted_collection_resumes_to_the_same_data_set(
    added, whole, tmp_path, monkeypatch
):
    def interrupted(self, *arguments):
        if self.episodes == added:
            raise KeyboardInterrupt
        return Writer.add(self, *arguments)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(demonstrations, "Writer", type("Short", (Writer,), {"add": interrupted}))
        gather(REACH, tmp_path / "set")
    with pytest.raises(InputError):
        read(tmp_path / "set", columns={"action": None})
    gather(REACH, tmp_path / "set", resume=True)
    assert files(tmp_path / "set") == files(whole)


def test_whole_rounds_are_not_simulated_again(tmp_path, monkeypatch):
    begun = []

    def begin(self, ids, episodes):
        begun.append(int(episodes[0]))
        if len(begun) == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(ReachExpert, "begin", begin)
    with pytest.raises(KeyboardInterrupt):
        gather(REACH, tmp_path / "set")
    gather(REACH, tmp_path / "set", resume=True)
    assert begun == [0, 1, 2, 2]


def test_a_killed_process_resumes_to_the_same_data_set(whole, tmp_path):
    path = tmp_path / "set"
    child = os.fork()
    if not child:
        gather(REACH, path)
        os._exit(0)
    while not list(path.glob(".collecting/episode-*0.npz")):
        time.sleep(0.001)
    os.kill(child, signal.SIGKILL)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL  # not done yet
    gather(REACH, path, resume=True)
    assert files(path) == files(whole)


def test_a_data_set_is_neither_overwritten_nor_continued_otherwise(whole):
    before = files(whole)
    with pytest.raises(FileExistsError):
        gather(REACH, whole)
    with pytest.raises(InputError, match="seed"):
        gather(replace(REACH, seed=1), whole, resume=True)
    gather(REACH, whole, resume=True)
    assert files(whole) == before


class Idle:
    """An expert that never moves."""

    def __init__(self, task, scene, seed):
        self._still = np.tile(scene.arm.rest_position_rad, (scene.count, 1))

    def begin(self, ids, episodes):
        pass

    def act(self):
        return self._still


def test_an_expert_that_fails_ends_the_collection_in_words(tmp_path, monkeypatch):
    monkeypatch.setattr(demonstrations.experts, "make", Idle)
    with pytest.raises(ValueError, match=r"arm-push, nominal: .*25% .* found 0% of 20"):
        gather(PUSH, tmp_path / "set")


def test_failures_are_kept_on_request(tmp_path, monkeypatch):
    monkeypatch.setattr(demonstrations.experts, "make", Idle)
    dataset = gather(replace(PUSH, keep="all"), tmp_path / "set")
    assert not dataset.values["next.success"].any()
    assert tally(tmp_path / "set") == Tally(attempts=6, successes=0, kept=6)


@pytest.mark.parametrize(
    ("changes", "named"), [({"episodes": 0}, "episodes"), ({"seed": -1}, "seed"),
                           ({"environments": 0}, "environments")]
)  # fmt: skip
def test_impossible_configurations_are_refused(changes, named):
    with pytest.raises(InputError, match=named):
        replace(PUSH, **changes)


def test_disturbed_steps_are_flagged_and_keep_the_experts_command(tmp_path, monkeypatch):
    pytest.importorskip("metaworld")
    make, commands = experts.make, []

    def make_overheard(*arguments):
        expert = make(*arguments)
        act = expert.act
        expert.act = lambda: commands.append(act()) or commands[-1]  # pyright: ignore
        return expert

    monkeypatch.setattr(demonstrations.experts, "make", make_overheard)
    config = CollectConfig("meta-world/push", episodes=4, seed=0, environments=4)
    dataset = gather(replace(config, randomization=PERTURBED), tmp_path / "set")
    disturbed = np.split(dataset.values["disturbed"][:, 0], dataset.starts[1:-1])
    assert [episode.sum() for episode in disturbed] == [8] * 4
    assert all(20 <= episode.argmax() <= 28 for episode in disturbed)
    given = np.array(commands)[: len(disturbed[0]), 0]
    assert dataset.episode(0)["action"] == pytest.approx(given, abs=1e-6)


def test_the_command_says_what_it_wrote(tmp_path, capsys):
    arguments = ["collect", "arm-reach", "--episodes", "3", "--environments", "3", "--seed", "0"]
    arguments += ["--output", str(tmp_path / "set"), "--json"]
    assert main(arguments) == 0
    said = json.loads(capsys.readouterr().out)
    assert (said["episodes"], said["attempts"], said["failures"]) == (3, 3, 0)
    assert said["mean_steps"] == 125
    assert main(arguments) == 2  # the folder exists
    assert main([*arguments, "--resume"]) == 0
    assert main(["collect", "quadrotor", *arguments[2:-3], "--output", str(tmp_path / "no")]) == 2
