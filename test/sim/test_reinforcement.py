"""PPO in tasks: what is exported is what was trained, and a run goes on where it ended."""

import copy
import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from robot_policies import load_policy
from robot_policies.strict import InputError
from sim import reinforcement
from sim.randomization_terms import Spec, Term
from sim.reinforcement import (
    PARAMETERS,
    Adaptation,
    Network,
    Optimisation,
    ReinforcementConfig,
    actor_of,
    groups,
    make_ppo,
    make_task,
    train_bundle,
)
from sim.runs import Run

PAYLOAD = Spec((
    Term(
        name="payload", parameter="mass", names=("link7",), operation="add",
        distribution={"uniform": (0.0, 0.5)}, shared=False, interval_s=None,
    ),
))  # fmt: skip
KINDS = {
    "feed-forward": Network(hidden=(16, 8)),
    "recurrent": Network(hidden=(16, 8), memory=6),
    "context": Network(hidden=(16, 8), memory=6, context=3),
}


def configuration(kind: str = "feed-forward", iterations: int = 2) -> ReinforcementConfig:
    return ReinforcementConfig(
        seed=0, task="arm-reach", engine="mujoco", environments=8, randomization=PAYLOAD,
        network=KINDS[kind], ppo=Optimisation(iterations=iterations, steps=4),
        adaptation=Adaptation(iterations=2, steps=4),
    )  # fmt: skip


def train(config: ReinforcementConfig, path, resume: bool = False):
    return train_bundle(config, path, resume=resume, threads=1, command="train")


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_actor_goes_from_nothing_to_a_bundle(kind, tmp_path):
    train(configuration(kind), tmp_path / "run")
    policy = load_policy(str(tmp_path / "run" / "bundle"))
    task = make_task(configuration(kind), threads=1)
    task.reset(seed=5)
    policy.reset(batch=8)
    command = policy.step(task.signals())["joint_position"]
    assert command.shape == (8, 1, 7)
    assert [s.name for s in policy.contract.observation] == [s.name for s in task.observation]
    assert policy.contract.gains == task.gains


@pytest.mark.parametrize("kind", ["feed-forward", "recurrent"])
def test_the_exported_actor_is_the_trained_one_also_after_an_episode(kind):
    config = configuration(kind)
    task = make_task(config, threads=1)
    seen = groups(task.reset(seed=0)[0], task, config)
    task.stagger()
    algorithm = make_ppo(seen, task, config)
    theirs = algorithm.get_policy()
    theirs.update_normalization(seen)
    ours, state, ended = actor_of(theirs, config.network), torch.zeros(8, 6), 0
    for _ in range(60):
        with torch.no_grad():
            expected = theirs(seen)
            memory = () if kind == "feed-forward" else (state,)
            found, *states, _ = ours(seen["policy"].unsqueeze(1), *memory)
        torch.testing.assert_close(found[:, 0], expected, rtol=1e-5, atol=1e-5)
        told, _, terminated, truncated, _ = task.step(found[:, 0].clip(-1, 1).numpy())
        done = torch.from_numpy(terminated | truncated)
        theirs.reset(done)
        state = torch.where(done[:, None], 0.0, states[0]) if states else state
        ended += int(done.sum())
        seen = groups(told, task, config)
    assert ended > 0


def test_the_context_actor_decides_as_the_trained_one_once_it_knows_the_context():
    config = configuration("context")
    task = make_task(config, threads=1)
    seen = groups(task.reset(seed=0)[0], task, config)
    theirs = make_ppo(seen, task, config).get_policy()
    theirs.update_normalization(seen)
    ours = actor_of(theirs, config.network)
    with torch.no_grad():
        found = ours.decide(ours.normalise(seen["policy"]), theirs.encoder(seen[PARAMETERS]))[0]
        torch.testing.assert_close(found, theirs(seen), rtol=1e-5, atol=1e-6)


def test_the_normaliser_travels_inside_the_actor():
    config = configuration()
    task = make_task(config, threads=1)
    seen = groups(task.reset(seed=0)[0], task, config)
    algorithm = make_ppo(seen, task, config)
    algorithm.get_policy().update_normalization(seen)
    actor = actor_of(algorithm.get_policy(), config.network)
    torch.testing.assert_close(actor.mean, seen["policy"].mean(dim=0))
    assert actor.scale.max() > 10  # a signal that hardly varies is scaled up


def test_a_memory_learns_what_the_encoder_knows(tmp_path):
    config = replace(
        configuration("context"), adaptation=Adaptation(iterations=40, steps=4, learning_rate=1e-2)
    )
    train(config, tmp_path / "run")
    lines = map(json.loads, (tmp_path / "run" / "metrics.jsonl").read_text().splitlines())
    errors = [line["metrics"]["error"] for line in lines if line["stage"] == "adaptation"]
    assert np.mean(errors[-5:]) < 0.7 * np.mean(errors[:5])


def test_an_actor_that_is_told_the_parameters_depends_on_them():
    config = configuration("context")
    task = make_task(config, threads=1)
    seen = groups(task.reset(seed=0)[0], task, config)
    actor = make_ppo(seen, task, config).get_policy()
    other = seen.clone()
    other[PARAMETERS] = -seen[PARAMETERS]
    with torch.no_grad():
        assert not torch.allclose(actor(seen), actor(other))


def test_the_critic_alone_is_told_what_no_robot_knows():
    config = configuration()
    task = make_task(config, threads=1)
    seen = groups(task.reset(seed=0)[0], task, config)
    algorithm = make_ppo(seen, task, config)
    sizes = [seen["policy"].shape[1], seen["privileged"].shape[1]]
    assert algorithm.actor.obs_dim == sizes[0]
    assert algorithm.critic.obs_dim == sum(sizes)


def test_a_run_goes_on_from_its_checkpoint(tmp_path, monkeypatch):
    monkeypatch.setattr(reinforcement, "CHECKPOINT_S", 0.0)
    config, path = configuration(iterations=4), tmp_path / "run"
    collect, begun = reinforcement.collect, []

    def dies_at_the_third(algorithm, *arguments):
        begun.append(copy.deepcopy(algorithm.save()))
        if len(begun) == 3:
            raise KeyboardInterrupt
        return collect(algorithm, *arguments)

    monkeypatch.setattr(reinforcement, "collect", dies_at_the_third)
    with pytest.raises(KeyboardInterrupt):
        train(config, path)
    train(config, path, resume=True)
    assert len(begun) == 3 + 2  # iterations 3 and 4
    assert_same(begun[2], begun[3])  # weights, normalisers and the optimiser's state
    train(config, path, resume=True)
    assert len(begun) == 5  # finished: nothing is trained twice


def assert_same(left, right):
    """Nested dictionaries and lists of numbers and tensors."""
    assert type(left) is type(right)
    if isinstance(left, dict):
        assert left.keys() == right.keys()
        for key in left:
            assert_same(left[key], right[key])
    elif isinstance(left, list):
        for a, b in zip(left, right, strict=True):
            assert_same(a, b)
    elif isinstance(left, torch.Tensor):
        assert torch.equal(left, right)
    else:
        assert left == right


@pytest.mark.parametrize("kind", KINDS)
def test_a_diverging_environment_is_named_and_training_goes_on(
    kind, tmp_path, monkeypatch, capsys
):
    make = reinforcement.make_task

    def with_a_bad_one(*arguments):
        task = make(*arguments)
        diverged, steps = task.scene.diverged, []

        def third_step():
            steps.append(0)
            return np.array([5]) if len(steps) == 3 else diverged()

        monkeypatch.setattr(task.scene, "diverged", third_step)
        return task

    monkeypatch.setattr(reinforcement, "make_task", with_a_bad_one)
    train(configuration(kind), tmp_path / "run")
    assert "1 of 8 environments diverged (5: once)" in capsys.readouterr().err
    train(configuration(kind), tmp_path / "run", resume=True)
    assert "1 of 8 environments diverged (5: once)" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("kind", "change", "message"),
    [
        ("feed-forward", {"network": Network(context=4)}, "a memory that infers the context"),
        ("context", {"randomization": None}, "parameters, for a context to infer, found none"),
        ("context", {"randomization": Spec(())}, "parameters, for a context to infer"),
        ("recurrent", {"environments": 6}, "mini_batches: .* the 6 environments can be shared by"),
        ("feed-forward", {"ppo": Optimisation(steps=0)}, "ppo.steps: expected at least 1"),
        ("feed-forward", {"ppo": Optimisation(initial_std=0)}, "ppo.initial_std: .* above 0"),
        ("feed-forward", {"ppo": Optimisation(discount=5)}, "ppo.discount: .* from 0 to 1"),
        ("context", {"adaptation": Adaptation(iterations=0)}, "adaptation.iterations: expected"),
        ("feed-forward", {"task": "arm-dance"}, "expected one of arm-reach"),
    ],
)
def test_what_cannot_be_trained_is_refused(kind, change, message):
    with pytest.raises(InputError, match=message):
        replace(configuration(kind), **change)


def test_a_run_resumes_only_with_its_own_configuration(tmp_path):
    train(configuration(), tmp_path / "run")
    with pytest.raises(ValueError, match="iterations"):
        Run.resume(tmp_path / "run", configuration(iterations=9))
