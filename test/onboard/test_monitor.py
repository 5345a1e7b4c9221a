"""The dynamics that a bundle carries, and the monitor's levels and alarms."""

from types import SimpleNamespace

import numpy as np
import pytest

from robot_policies import monitor as monitors
from robot_policies.contract import Calibration
from robot_policies.dynamics import Dynamics
from robot_policies.monitor import Monitor, levels
from robot_policies.strict import ContractError


def drift(usual=1.0):
    """x moves by what is commanded; one signal, one command, no hidden features."""
    return Dynamics(
        np.zeros(2), np.ones(2), np.zeros((2, 0)), np.zeros(0), np.array([[0.0], [1.0]]),
        np.zeros(1), np.eye(1), np.array(usual), np.array(1.0),
    )  # fmt: skip


def bundle(thresholds):
    signal = SimpleNamespace(name="x", source="robot", elements=("x",))
    contract = SimpleNamespace(
        name="test", observation=(signal,), action=(SimpleNamespace(name="push"),), action_size=1,
        calibration=Calibration("mahalanobis", 0.05, thresholds),
    )  # fmt: skip
    return SimpleNamespace(contract=contract, content={"calibration.npz": drift().to_bytes()})


def run(watch, scores, moves):
    """Push by 1 each step; the robot moves by `moves` instead."""
    x, told = 0.0, []
    for score, move in zip(scores, moves, strict=True):
        told.append(watch.update(score, {"x": np.array([[x]])}, {"push": np.array([[1.0]])}))
        x += move
    return told


def test_a_robot_that_does_as_it_should_is_left_alone():
    told = run(Monitor(bundle({"states": 2.0, "dynamics": 5.0})), [1.0] * 50, [1.0] * 50)
    assert {alarm.channel for alarm in told} == {""}
    assert told[-1].levels["states"] == pytest.approx(0.5, abs=0.01)


def test_changed_dynamics_alarm_and_stay():
    moves = [1.0] * 10 + [5.0] * 10 + [1.0] * 30  # 3 above the usual 1, of which 2 are summed up
    told = run(Monitor(bundle({"states": 2.0, "dynamics": 5.0})), [1.0] * 50, moves)
    channels = [alarm.channel for alarm in told]
    assert channels[10] == "" and channels[13] == "dynamics"
    assert channels[-1] == "dynamics"


def test_a_strange_feature_alarms_and_a_reset_forgets():
    watch = Monitor(bundle({"states": 2.0, "dynamics": 5.0}))
    assert run(watch, [10.0] * 9, [1.0] * 9)[-1].channel == "states"
    watch.reset()
    assert run(watch, [1.0] * 9, [1.0] * 9)[-1].channel == ""


def test_a_score_that_is_no_number_is_an_alarm():
    watch = Monitor(bundle({"states": 2.0, "dynamics": 5.0}))
    assert run(watch, [np.nan], [1.0])[-1].channel == "states"


def test_whole_episodes_have_the_monitors_levels():
    generator = np.random.default_rng(0)
    scores, moves = generator.random(40), 1 + 3 * generator.random(40)
    told = run(Monitor(bundle({"states": 1.0, "dynamics": 1.0})), scores, moves)
    x = np.concatenate([[0], np.cumsum(moves)])[:40, None]
    before = np.concatenate([x, np.ones((40, 1))], axis=1)[:-1]
    states, dynamics = levels(scores, drift().residual(before, x[1:]))
    assert [alarm.levels["states"] for alarm in told] == pytest.approx(states.tolist())
    assert [alarm.levels["dynamics"] for alarm in told] == pytest.approx(dynamics.tolist())


def test_a_bundle_that_is_not_calibrated_or_damaged_is_refused():
    plain = bundle({"states": 1.0, "dynamics": 1.0})
    plain.contract.calibration = None
    with pytest.raises(ContractError, match="robot-policies calibrate"):
        Monitor(plain)
    damaged = drift(usual=np.nan).to_bytes()
    with pytest.raises(ContractError, match=r"calibration\.npz usual: expected finite numbers"):
        Dynamics.from_bytes(damaged, 2, 1, monitors.CALIBRATION)
    with pytest.raises(ContractError, match=r"weights: expected finite numbers \[3, 1\]"):
        Dynamics.from_bytes(drift().to_bytes(), 3, 1, monitors.CALIBRATION)
