"""The RAPTOR protocol: rewards, terminations, intervals, and policies good and bad."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from sim.quadrotor import airframes, dynamics, evaluation, scenario, trajectories
from sim.quadrotor.dynamics import State
from sim.quadrotor.evaluation import Limits, Result, evaluate, pool, reward, terminated
from sim.quadrotor.trajectories import Reference


class ConstantPolicy:
    """Commands the same motors for ever."""

    def __init__(self, motors):
        self.motors = np.asarray(motors, np.float32)

    def reset(self, batch, seed, initial):
        self.shape = (batch, 1, self.motors.size)
        assert initial["previous_action"].shape == (batch, 4)

    def step(self, signals):
        motors = np.broadcast_to(self.motors, self.shape)
        self.last = SimpleNamespace(raw_action=2 * motors - 1)
        return {"motors": motors}


class AuthorsPolicy:
    """The policy of the package foundation-policy."""

    def __init__(self):
        self.network = pytest.importorskip("foundation_policy").Raptor()

    def reset(self, batch, seed, initial):
        self.network.reset()
        self.previous = initial["previous_action"]

    def step(self, signals):
        names = (
            "position_error",
            "rotation_matrix",
            "linear_velocity_error",
            "angular_velocity",
        )
        observation = np.concatenate([*(signals[name] for name in names), self.previous], axis=1)
        self.previous = self.network.evaluate_step(observation)
        self.last = SimpleNamespace(raw_action=self.previous[:, None])
        return {"motors": np.clip((self.previous[:, None] + 1) / 2, 0, 1)}


def hovering(name, **changes):
    """One flight of a standard model from hover, with parts of the state changed."""
    fleet = airframes.standard(name)
    data = dynamics.hover_state(fleet).data.clone()
    for rows, value in changes.values():
        data[rows, 0] = value
    return scenario.Scenario(fleet, State(data), torch.zeros(3, 1), episodes=1)


def test_holding_still_on_the_target_earns_one_and_a_half_per_step():
    flights = hovering("fs")
    hover = flights.airframes.hover_action[:, 0].numpy()
    result = evaluate(ConstantPolicy(hover), flights)
    first_change = np.linalg.norm(2 * hover - 1)  # counted from zero, as in L2F
    assert result.total_reward[0, 0] == pytest.approx(1.5 * 500 - first_change, abs=1e-2)
    assert result.survived.all() and result.final_distance[0, 0] < 1e-3


def test_falling_ends_the_episode_once():
    flights = scenario.sample(8, 2, seed=0, with_force=True, position_range=0.5)
    result = evaluate(ConstantPolicy(np.zeros(4)), flights)
    assert not result.survived.any()
    assert np.isinf(result.final_distance).all()
    assert (result.total_reward < 0).all() and (result.total_reward > -100 - 600).all()


def test_reward_counts_distance_yaw_and_change_of_action():
    data = torch.zeros(17, 1)
    data[:3, 0] = torch.tensor([0.3, 0.0, 0.4])
    data[3:7, 0] = torch.tensor([0.0, 0.0, 0.5, 0.75**0.5])
    raw, previous = torch.tensor([[0.1], [0.0], [0.0], [0.0]]), torch.zeros(4, 1)
    expected = 1.5 - 0.5 - 0.1 * 2 * np.arccos(0.5) - 0.1
    assert float(reward(State(data), raw, previous)) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(
    ("row", "limit"), [(0, 20 * 0.17), (2, -20 * 0.17), (8, 2.0), (12, -35.0)]
)
def test_each_limit_ends_a_flight(row, limit):
    fleet = airframes.standard("flightmare")
    data = dynamics.hover_state(fleet).data.clone()
    data[row] = 0.999 * limit
    assert not terminated(State(data), fleet, Limits())
    data[row] = 1.001 * limit
    assert terminated(State(data), fleet, Limits())
    off = Limits(float("inf"), float("inf"), float("inf"))
    assert not terminated(State(data), fleet, off)
    data[row] = float("nan")
    assert terminated(State(data), fleet, off)


def test_the_authors_policy_survives_on_unseen_quadrotors():
    flights = scenario.sample(32, 4, seed=0, with_force=True, position_range=0.5)
    summary = evaluate(AuthorsPolicy(), flights).summary()
    assert summary["survival"].value > 0.9
    assert summary["median final distance"].value < 0.06
    assert summary["return"].low < summary["return"].value < summary["return"].high


def test_the_authors_policy_hovers_every_standard_model_as_in_its_own_simulator():
    in_l2f = {
        "crazyflie": 0.053, "x500_real": 0.022, "x500_sim": 0.024,
        "fs": 0.022, "race": 0.079, "flightmare": 0.115,
    }  # fmt: skip
    fleet = airframes.join([airframes.standard(name) for name in in_l2f])
    flights = scenario.on_airframes(fleet, 16, seed=0, with_force=False, position_range=0.5)
    limits = Limits(float("inf"), float("inf"), 35.0)
    result = evaluate(AuthorsPolicy(), flights, limits=limits)
    distance = np.median(result.final_distance, axis=1)
    np.testing.assert_allclose(distance, list(in_l2f.values()), rtol=0.05)


def test_intervals_treat_a_quadrotor_as_one_sample():
    outcome = np.random.default_rng(0).random((50, 1)) < 0.8
    distance = np.where(outcome, 0.05, np.inf)
    once = Result(outcome.astype(float), outcome, distance, distance)
    twenty = Result(*(np.repeat(v, 20, axis=1) for v in vars(once).values()))
    assert once.summary()["survival"] == twenty.summary()["survival"]
    survival = once.summary()["survival"]
    exact = np.sqrt(0.8 * 0.2 / 50)
    assert survival.high - survival.low == pytest.approx(2 * 1.96 * exact, rel=0.3)


def test_policies_that_break_the_protocol_are_refused():
    flights = hovering("fs")
    with pytest.raises(
        ValueError, match=r"expected motors of shape \[1, 1, 4\], found \[1, 1, 3\]"
    ):
        evaluate(ConstantPolicy(np.zeros(3)), flights)
    with pytest.raises(ValueError, match="action: expected finite values; found nan"):
        evaluate(ConstantPolicy(np.full(4, np.nan)), flights)
    with pytest.raises(ValueError, match="steps: expected at least 200"):
        evaluate(ConstantPolicy(np.zeros(4)), flights, steps=50)


def test_observations_are_rows_of_single_precision():
    signals = evaluation.observe(hovering("race", turn=(slice(0, 3), 0.25)).state)
    assert {name: value.shape for name, value in signals.items()} == {
        "position_error": (1, 3),
        "rotation_matrix": (1, 9),
        "linear_velocity_error": (1, 3),
        "angular_velocity": (1, 3),
    }
    assert all(value.dtype == np.float32 for value in signals.values())
    np.testing.assert_array_equal(signals["position_error"], [[0.25] * 3])
    np.testing.assert_array_equal(signals["rotation_matrix"], [np.eye(3).flatten()])


def test_errors_count_from_the_reference():
    flights = hovering("fs")
    hover = flights.airframes.hover_action[:, 0].numpy()
    beside = torch.zeros(501, 3, 1)
    beside[:, 0] = 0.3
    still = Reference(beside, torch.zeros_like(beside))
    result = evaluate(ConstantPolicy(hover), flights, reference=still)
    at_origin = evaluate(ConstantPolicy(hover), flights)
    assert result.tracking_error[0, 0] == pytest.approx(0.3, abs=1e-3)
    assert result.final_distance[0, 0] == pytest.approx(0.3, abs=1e-3)
    lost = at_origin.total_reward - result.total_reward
    assert lost[0, 0] == pytest.approx(500 * 0.3, abs=0.1)
    beyond = replace(still, velocity=torch.full_like(beside, 2.5))
    assert not evaluate(ConstantPolicy(hover), flights, reference=beyond).survived.any()


def test_the_authors_policy_follows_every_reference():
    flights = scenario.sample(16, 2, seed=0, with_force=True, position_range=0.5)
    errors = {}
    for name in trajectories.TRAJECTORIES:
        reference = trajectories.sample(name, 32, 500, seed=0)
        result = evaluate(AuthorsPolicy(), flights, reference=reference)
        errors[name] = np.median(result.tracking_error)
    assert errors["hold"] < errors["langevin"] < errors["figure-eight"] < 0.25


def test_a_watcher_sees_every_state_and_who_still_flies():
    flights = scenario.sample(4, 2, seed=0, with_force=True, position_range=0.5)
    seen = []
    result = evaluate(ConstantPolicy(np.zeros(4)), flights, watch=lambda *what: seen.append(what))
    assert len(seen) == 501 and seen[0][0] is flights.state and seen[0][2].all()
    np.testing.assert_array_equal(seen[-1][2].numpy(), result.survived.flatten())


def test_differences_are_paired_by_quadrotor():
    generator = np.random.default_rng(0)
    skill = generator.normal(600, 50, (40, 1))
    worse, better = (
        Result(skill + gain, np.ones((40, 1), bool), *np.full((2, 40, 1), 0.1))
        for gain in (0.0, 5.0)
    )
    difference = better.minus(worse)["return"]
    assert difference.value == pytest.approx(5) and difference.high - difference.low < 1e-9
    apart = better.summary()["return"].low < worse.summary()["return"].high
    assert apart  # which intervals of their own could not tell
    with pytest.raises(ValueError, match="the same flights"):
        better.minus(pool([worse, worse], same_quadrotors=True))


def test_a_difference_of_lost_majorities_is_no_number():
    lost = Result(np.zeros((9, 1)), np.zeros((9, 1), bool), *np.full((2, 9, 1), np.inf))
    assert np.isnan(lost.minus(lost)["median final distance"].value)
    assert lost.minus(lost)["survival"].value == 0
