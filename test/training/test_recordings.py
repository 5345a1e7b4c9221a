"""Real data: read, checked, and refused with the reason."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from leg_policy import leg_contract

from robot_policies import recordings
from robot_policies.logs import Log, Topic
from robot_policies.recordings import Recording
from robot_policies.strict import InputError
from robot_policies.strict_yaml import decode_yaml

CONTRACT = leg_contract()
SOURCES = """
signals:
  angular_velocity: {topic: /imu, field: angular_velocity}
  joint_position: {topic: /joint_states, field: position}
commands:
  joint_target: {topic: /joint_states, field: effort}
"""


def recording(length=200, seed=0, episodes=4):
    """Rates about zero, and three joints about different angles."""
    generator = np.random.default_rng(seed)
    signals = {
        "angular_velocity": 0.5 * generator.normal(size=(length, 3)),
        "joint_position": np.array([0.0, 0.8, -1.5]) + 0.1 * generator.normal(size=(length, 3)),
    }
    commands = {"joint_target": signals["joint_position"] + 0.1}
    return Recording(
        signals, commands, 0.02 * np.arange(length), np.arange(length) // (length // episodes)
    )


def failed(found, simulated=None):
    return [c for c in recordings.checks(found, CONTRACT, simulated) if not c.passed]


def test_what_is_saved_is_read_again(tmp_path):
    found = recording()
    found.save(tmp_path / "obs.npz")
    again = recordings.read(tmp_path / "obs.npz", CONTRACT)
    np.testing.assert_array_equal(again.observations, found.observations)
    np.testing.assert_array_equal(again.commands["joint_target"], found.commands["joint_target"])
    assert again.starts.tolist() == [0, 50, 100, 150, 200]


def test_a_missing_or_misshapen_signal_is_named(tmp_path):
    np.savez(tmp_path / "obs.npz", time=np.zeros(4), joint_position=np.zeros((4, 2)))
    with pytest.raises(InputError) as refused:
        recordings.read(tmp_path / "obs.npz", CONTRACT)
    told = str(refused.value)
    assert "angular_velocity: expected [4, 3], found only joint_position, time" in told
    assert "joint_position: expected numbers [4, 3], found float64 [4, 2]" in told


def test_transitions_stay_within_an_episode():
    before, after, rows = recording(40).transitions()
    assert before.shape == (36, 9) and after.shape == (36, 6)
    assert not {9, 19, 29, 39} & set(rows.tolist())


def test_sound_data_pass_every_check():
    assert failed(recording(seed=1), recording()) == []


@pytest.mark.parametrize(
    ("spoil", "name", "told"),
    [
        (lambda r: replace(r, time=r.time * 3), "rate", "16.7 Hz, of 50 Hz"),
        (lambda r: replace(r, time=r.time[::-1].copy()), "time", "not after the one before"),
        (lambda r: replace(r, time=r.time + 1.0 * (r.time > 1.5) + 2.0 * (r.time > 1.9)),
         "gaps", "the longest 2.020 s"),
        (lambda r: changed(r, "joint_position", lambda v: np.where(v > 0.99, np.nan, v)),
         "finite", "joint_position at"),
        (lambda r: changed(r, "joint_position", np.degrees), "joint_position unit", "degrees"),
        (lambda r: changed(r, "joint_position", lambda v: v[:, [2, 0, 1]]),
         "joint_position unit or order", "in the order thigh, calf, hip"),
        (lambda r: changed(r, "angular_velocity", lambda v: v + 400.0),
         "angular_velocity unit or order", "standard deviations from simulation"),
    ],
)  # fmt: skip
def test_what_cannot_be_compared_fails_a_check(spoil, name, told):
    (check, *_) = failed(spoil(recording(seed=1)), recording())
    assert check.name == name
    assert told in check.told


def changed(found, signal, how):
    return replace(found, signals={**found.signals, signal: how(found.signals[signal])})


def test_a_few_samples_are_too_few():
    (check,) = failed(recording(40))
    assert str(check) == "FAIL samples: 40 samples in 4 episodes; 50 are needed"


# Logs.


def log(labels=("thigh", "calf", "hip")):
    """An IMU at 100 Hz and joint states at 50 Hz, that falls silent between 2 and 3 s."""
    quick, slow = np.arange(0, 5, 0.01), np.arange(0, 5, 0.02)
    slow = slow[(slow < 2) | (slow > 3)]
    position = np.stack([slow, 10 + slow, 20 + slow], axis=1)
    joints = {"position": position, "effort": position + 0.5}
    imu = Topic("/imu", "", quick, {"angular_velocity": np.zeros((len(quick), 3))})
    return Log(0, {"/imu": imu, "/joint_states": Topic("/joint_states", "", slow, joints, labels)})


def read_log(tmp_path, found):
    (tmp_path / "sources.yaml").write_text(SOURCES)
    found.save(tmp_path / "log.npz")
    return recordings.read(tmp_path / "log.npz", CONTRACT, tmp_path / "sources.yaml")


def test_a_log_is_sampled_at_the_control_rate_and_joints_go_by_name(tmp_path):
    found = read_log(tmp_path, log())
    hip, thigh, _ = found.signals["joint_position"][10]
    assert thigh == pytest.approx(found.time[10]) and hip == pytest.approx(20 + found.time[10])
    assert np.median(np.diff(found.time)) == pytest.approx(0.02)
    assert not ((found.time > 2.1) & (found.time < 3)).any()  # there was nothing to tell
    assert found.commands["joint_target"][10, 1] == pytest.approx(0.5 + found.time[10])


def test_the_example_of_sources_can_be_read():
    example = Path(__file__).parents[2] / "config/log_sources_example.yaml"
    found = decode_yaml(recordings.Sources, example, "sources")
    assert found.signals["joint_position"].topic == "/joint_states"


def test_a_log_without_a_joint_or_a_topic_is_refused(tmp_path):
    with pytest.raises(
        InputError, match="labels: expected hip, thigh, calf, found thigh, calf, a"
    ):
        read_log(tmp_path, log(labels=("thigh", "calf", "ankle")))


def test_a_policy_that_asks_for_less_is_shown_less_in_its_order():
    found = recording()
    (_, joints, previous) = CONTRACT.observation
    asked = leg_contract(observation=(joints, previous))
    assert list(found.of(asked).signals) == ["joint_position"]
    other = leg_contract(observation=(replace(joints, name="joint_angle"), previous))
    with pytest.raises(InputError, match="joint_angle: expected one of angular_velocity"):
        found.of(other)
