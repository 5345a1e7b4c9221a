"""A detector goes into the graph, and its thresholds hold for whole episodes."""

import numpy as np
import pytest
from leg_policy import bundle_files, leg_contract, leg_graph

from robot_policies import bundle as bundles
from robot_policies.calibration import calibrate, fewest_episodes
from robot_policies.monitor import Monitor
from robot_policies.recordings import Recording
from robot_policies.runtime import OnnxPolicy, load_policy
from robot_policies.strict import InputError

STEPS = 120


@pytest.fixture(scope="module")
def leg_bundle(tmp_path_factory):
    path = tmp_path_factory.mktemp("calibration") / "leg"
    bundles.write(path, leg_contract(), bundle_files(leg_contract(), leg_graph()))
    return path


def episodes(path, count, seed, gain=0.2):
    """The leg in closed loop: joints follow what is commanded by a share `gain` a step."""
    policy, generator = load_policy(path), np.random.default_rng(seed)
    policy.reset(count)
    position = np.array([0.0, 0.8, -1.5]) + 0.2 * generator.normal(size=(count, 3))
    seen, sent = [], []
    for _ in range(STEPS):
        rate = 0.3 * generator.normal(size=(count, 3))
        told = {"angular_velocity": rate, "joint_position": position}
        command = policy.act({n: v.astype(np.float32) for n, v in told.items()})["joint_target"]
        seen.append((rate, position))
        sent.append(command)
        position = (
            position + gain * (command - position) + 0.01 * generator.normal(size=(count, 3))
        )
    rates, positions, commands = (
        np.stack(values, axis=1).reshape(count * STEPS, 3).astype(float)
        for values in (*zip(*seen, strict=True), sent)
    )
    time = np.tile(0.02 * np.arange(STEPS), count)
    signals = {"angular_velocity": rates, "joint_position": positions}
    numbers = np.repeat(np.arange(count), STEPS)
    return Recording(signals, {"joint_target": commands}, time, numbers)


def alarmed(path, recording):
    """[K] whether the monitor alarmed, and by which channel."""
    found, told = bundles.read(path), []
    for first, end in zip(recording.starts[:-1], recording.starts[1:], strict=True):
        policy, monitor = OnnxPolicy(found), Monitor(found)
        for t in range(first, end):
            signals = {n: v[t : t + 1].astype(np.float32) for n, v in recording.signals.items()}
            policy.act(signals)
            command = {n: v[t] for n, v in recording.commands.items()}
            alarm = monitor.update(float(policy.last.ood_score[0]), signals, command)
        told.append(alarm.channel)
    return told


def test_false_alarms_are_rare_and_changed_dynamics_are_found(leg_bundle, tmp_path):
    known = episodes(leg_bundle, 160, seed=0)
    made = calibrate(bundles.read(leg_bundle), known, tmp_path / "new", alpha=0.1, seed=0)
    assert made.contract.calibration.thresholds.keys() == {"states", "dynamics"}
    false_alarms = alarmed(tmp_path / "new", episodes(leg_bundle, 60, seed=1))
    assert sum(map(bool, false_alarms)) <= 12  # 6 are expected; more than 12 once in 100
    quick = alarmed(tmp_path / "new", episodes(leg_bundle, 10, seed=2, gain=0.8))
    assert quick.count("dynamics") >= 8


def test_a_calibrated_bundle_acts_as_before(leg_bundle, tmp_path):
    known = episodes(leg_bundle, 80, seed=0)
    calibrate(bundles.read(leg_bundle), known, tmp_path / "new", alpha=0.1, seed=0)
    before, after = (load_policy(path) for path in (leg_bundle, tmp_path / "new"))
    signals = {n: v[:1].astype(np.float32) for n, v in known.signals.items()}
    np.testing.assert_array_equal(
        before.act(signals)["joint_target"], after.act(signals)["joint_target"]
    )
    assert before.last.ood_score is None
    assert after.last.ood_score.shape == (1,) and np.isfinite(after.last.ood_score).all()


def test_what_cannot_be_calibrated_is_refused(leg_bundle, tmp_path):
    found = bundles.read(leg_bundle)
    known = episodes(leg_bundle, 20, seed=0)
    assert fewest_episodes(0.05) == 78
    with pytest.raises(InputError, match=r"expected 78 or more for alpha 0\.05, found 20"):
        calibrate(found, known, tmp_path / "new", alpha=0.05, seed=0)
    silent = Recording(known.signals, {}, known.time, known.episodes)
    with pytest.raises(InputError, match="commands, too"):
        calibrate(found, silent, tmp_path / "new", alpha=0.5, seed=0)
    assert not (tmp_path / "new").exists()
