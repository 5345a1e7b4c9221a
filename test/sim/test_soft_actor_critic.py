"""The paper's teacher: its environment step by step, its updates and its weights."""

from dataclasses import asdict, replace

import numpy as np
import pytest
import torch

pytest.importorskip("stable_baselines3", reason="needs the extra sac")

from robot_policies.strict import InputError
from sim.quadrotor import airframes, soft_actor_critic
from sim.quadrotor.dynamics import PROTOCOL_DT, State, step
from sim.quadrotor.evaluation import EPISODE_STEPS, TERMINATION_REWARD, reward
from sim.quadrotor.soft_actor_critic import (
    TRUNCATED,
    Hover,
    SoftActorCriticConfig,
    act,
    fly,
    job_of,
    train_soft_actor_critic,
)

SMALL = SoftActorCriticConfig(
    seed=0, steps=80, environments=4, warm_up=40, checkpoints=2, evaluation_episodes=4
)
SHAPES = {"w0": (64, 26), "b0": (64,), "w1": (64, 64), "b1": (64,), "w2": (4, 64), "b2": (4,)}


@pytest.fixture
def quadrotor():
    return airframes.sample(1, seed=5000)


@pytest.fixture
def short_episodes(monkeypatch):
    """Episodes of so many steps."""
    monkeypatch.setattr(soft_actor_critic, "EPISODE_STEPS", 12)
    monkeypatch.setattr(soft_actor_critic, "FINAL_STEPS", 4)
    return 12


def state_of(observation):
    """The simulator's state from observations, by the rows that are its parts."""
    rows = torch.from_numpy(observation).T
    rotation = rows[3:12].reshape(3, 3, -1).double()
    w = (1 + rotation.diagonal(dim1=0, dim2=1).sum(dim=-1)).sqrt() / 2  # tilt is below 1 rad
    skew = [rotation[2, 1] - rotation[1, 2], rotation[0, 2] - rotation[2, 0]]
    skew.append(rotation[1, 0] - rotation[0, 1])
    quaternion = torch.stack([*(part / (4 * w) for part in skew), w]).float()
    return State.of(rows[0:3], quaternion, rows[12:15], rows[15:18], rows[22:26])


def test_a_step_is_the_simulators(quadrotor):
    flights = 64
    calm = replace(quadrotor, force_std=torch.zeros(1))
    hover = Hover(calm, flights, seed=0)
    before = hover.reset()
    np.testing.assert_allclose(before[:, 18:22], 2 * before[:, 22:26] - 1, atol=1e-6)
    action = np.random.default_rng(0).uniform(-1, 1, (flights, 4)).astype(np.float32)
    after, gain, done, _ = hover.step(action)

    raw = torch.from_numpy(action).T.contiguous()
    start, fleet = state_of(before), calm.repeat(flights)
    expected = step(start, (raw + 1) / 2, fleet, torch.zeros(3, flights), PROTOCOL_DT)
    flying = ~done
    assert flying.sum() > flights / 2
    torch.testing.assert_close(
        state_of(after[flying]).data, expected.data[:, flying], atol=1e-4, rtol=1e-4
    )
    np.testing.assert_array_equal(after[flying, 18:22], action[flying])
    # The first change of action is counted from zero, though the policy sees another one.
    counted = reward(start, raw, torch.zeros_like(raw)).numpy()
    np.testing.assert_allclose(gain[flying], counted[flying], atol=1e-3)


def test_an_ended_flight_is_charged_and_begins_anew(quadrotor):
    hover = Hover(quadrotor, flights=8, seed=0)
    hover.reset()
    ended = np.zeros(8, dtype=bool)
    for _ in range(EPISODE_STEPS):
        observation, gain, done, infos = hover.step(-np.ones((8, 4), dtype=np.float32))
        reach = 10 * float(quadrotor.arm_length) + 1e-3
        for index in np.flatnonzero(done):
            assert gain[index] == TERMINATION_REWARD and not infos[index][TRUNCATED]
            assert np.abs(observation[index, :3]).max() <= reach  # a new start ...
            assert np.abs(infos[index]["terminal_observation"][12:15]).max() > 2  # ... too fast
        ended |= done
    assert ended.all()  # without thrust nobody stays


def test_a_flight_of_full_length_is_cut_and_not_charged(quadrotor, short_episodes):
    hover = Hover(quadrotor, flights=64, seed=0)
    hover.reset()
    action = quadrotor.repeat(64).hover_action.T.numpy() * 2 - 1
    for _ in range(short_episodes - 1):
        *_, infos = hover.step(action)
        assert not any(info.get(TRUNCATED) for info in infos)
    _, gain, done, infos = hover.step(action)
    cut = np.array([info.get(TRUNCATED, False) for info in infos])
    assert cut.sum() > 30 and done[cut].all()
    assert (gain[cut] > TERMINATION_REWARD / 2).all()


def test_a_job_gives_the_best_checkpoint_as_plain_weights(quadrotor, short_episodes):
    result = train_soft_actor_critic(job_of(5000, 0, SMALL))
    assert {name: tuple(value.shape) for name, value in result["weights"].items()} == SHAPES
    assert len(result["checkpoints"]) == 2 and result["return"] == max(result["checkpoints"])
    rated = fly(result["weights"], quadrotor, SMALL.evaluation_episodes, SMALL.seed + 2**31)
    assert rated.score == result["return"]


def test_the_same_job_gives_the_same_weights(short_episodes):
    first, again = (train_soft_actor_critic(job_of(5000, 1, SMALL)) for _ in range(2))
    assert all(torch.equal(first["weights"][n], again["weights"][n]) for n in SHAPES)
    other = train_soft_actor_critic(job_of(5000, 1, replace(SMALL, seed=1)))
    assert not torch.equal(first["weights"]["w0"], other["weights"]["w0"])


def test_plain_weights_act_as_the_actor_that_they_come_from(quadrotor):
    learner = soft_actor_critic._learner(Hover(quadrotor, 4, 0), SMALL)
    learner.learn(SMALL.steps)
    observation = Hover(quadrotor, 16, seed=1).reset()
    expected, _ = learner.predict(observation, deterministic=True)
    found = act(soft_actor_critic._weights(learner.actor), torch.from_numpy(observation))
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-6)


def test_the_critics_learn_every_step_and_the_actor_every_second(quadrotor):
    learner = soft_actor_critic._learner(Hover(quadrotor, 4, 0), SMALL)
    learner.learn(60)
    made = {"critic": learner.critic, "actor": learner.actor}
    steps = {name: _updates(network.optimizer) for name, network in made.items()}
    assert steps["critic"] == 2 * steps["actor"] == learner._n_updates > 0
    rates = [
        o.param_groups[0]["lr"] for o in (learner.actor.optimizer, learner.ent_coef_optimizer)
    ]
    assert rates == [3e-4, 1e-4]


def test_weights_that_are_not_finite_are_never_returned(quadrotor, short_episodes, monkeypatch):
    weights = {name: torch.zeros(shape) for name, shape in SHAPES.items()}
    broken = [weights | {"b2": torch.full((4,), float("nan"))}, weights]
    monkeypatch.setattr(soft_actor_critic, "_weights", lambda _: broken.pop(0))
    found, history = soft_actor_critic.train(quadrotor, SMALL)
    assert found is weights and len(history) == 1
    broken += [weights | {"w0": torch.full((64, 26), float("inf"))}] * 2
    with pytest.raises(ValueError, match="expected finite weights, found none in any checkpoint"):
        soft_actor_critic.train(quadrotor, SMALL)


def _updates(optimizer):
    return int(next(iter(optimizer.state.values()))["step"])


def test_a_wrong_job_is_refused_with_every_key():
    job = job_of(5000, 0, SMALL) | {"steps": "many", "layers": 3}
    with pytest.raises(
        InputError, match=r"(?s)job\.layers: .*unknown.*job\.steps: .* 'many'|many"
    ):
        train_soft_actor_critic(job)


@pytest.mark.parametrize(
    ("change", "message"),
    [({"steps": 40}, "steps: expected more than the warm-up of 40"),
     ({"batch": 0}, "batch: expected at least 1, found 0")],
)  # fmt: skip
def test_counts_that_cannot_be_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        SoftActorCriticConfig(**(asdict(SMALL) | change))
