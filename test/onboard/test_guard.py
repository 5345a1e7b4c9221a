"""The guard's judgement, without ROS."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deploy import guard
from deploy.guard import GuardConfig, GuardState

MOTORS = ("front_right", "back_right", "back_left", "front_left")
CONFIG = GuardConfig(
    elements=MOTORS,
    lower=(0.0,) * 4,
    upper=(1.0,) * 4,
    safe_command=(0.0,) * 4,
    timeout_s=0.07,
)
GOOD = np.full(4, 0.5)


def test_good_commands_pass_unchanged():
    state, command = guard.judge(GuardState(), MOTORS, GOOD, 1.0, CONFIG)
    assert state.name == "PASSING"
    np.testing.assert_array_equal(command, GOOD)


def test_before_the_first_command_it_sends_nothing():
    state, command = guard.watch(GuardState(), 100.0, CONFIG)
    assert state.name == "WAITING"
    assert command is None


@pytest.mark.parametrize(
    ("labels", "values", "reason"),
    [
        (MOTORS, np.array([0.5, np.nan, 0.5, 0.5]), "not finite"),
        (MOTORS, np.array([0.5, np.inf, 0.5, 0.5]), "not finite"),
        (MOTORS, np.array([0.5, 0.5, 1.01, 0.5]), "back_left 1.01"),
        (MOTORS, np.array([-0.1, 0.5, 0.5, 0.5]), "front_right -0.1"),
        (MOTORS, np.zeros(3), "expected 4 numbers"),
        (MOTORS[::-1], GOOD, "expected elements front_right"),
        ([], GOOD, "expected elements"),
    ],
)
def test_a_bad_command_trips_at_once_and_stays_tripped(labels, values, reason):
    state, _ = guard.judge(GuardState(), MOTORS, GOOD, 1.0, CONFIG)
    state, command = guard.judge(state, labels, values, 1.01, CONFIG)
    assert state.name == "TRIPPED"
    assert reason in state.reason
    np.testing.assert_array_equal(command, CONFIG.safe_command)
    state, command = guard.judge(state, MOTORS, GOOD, 1.02, CONFIG)
    assert command is None
    assert state.trips == 1


def test_silence_trips_even_when_the_next_message_is_the_late_one():
    state, _ = guard.judge(GuardState(), MOTORS, GOOD, 1.0, CONFIG)
    state, command = guard.judge(state, MOTORS, GOOD, 1.08, CONFIG)
    assert command is None
    _, command = guard.watch(state, 1.081, CONFIG)
    np.testing.assert_array_equal(command, CONFIG.safe_command)
    assert "no command for 80 ms" in state.reason


def test_reset_waits_for_a_command_and_keeps_the_count():
    state = GuardState(last=1.0, heard=1.0, reason="silence", trips=2)
    state, refusal = guard.reset(state, 49.0, CONFIG)
    assert refusal == ""
    assert (state.name, state.trips) == ("WAITING", 2)
    state, command = guard.judge(state, MOTORS, GOOD, 50.0, CONFIG)
    assert state.name == "PASSING"
    assert command is not None


def test_reset_is_refused_while_a_policy_is_sending():
    """Its ramp is long over: the motors would jump from nothing to flight."""
    state = GuardState(last=1.0, reason="silence", trips=1)
    state, _ = guard.judge(state, MOTORS, GOOD, 5.0, CONFIG)
    state, refusal = guard.reset(state, 5.01, CONFIG)
    assert "deactivate the policy" in refusal
    assert state.name == "TRIPPED"
    state, refusal = guard.reset(state, 5.1, CONFIG)
    assert (refusal, state.name) == ("", "WAITING")


def test_a_trip_for_a_reason_found_elsewhere():
    state = guard.trip(GuardState(last=1.0), "2 nodes publish policy/motors")
    assert (state.name, state.trips) == ("TRIPPED", 1)
    assert guard.trip(state, "again").trips == 1


@given(st.lists(st.floats(width=64), max_size=6), st.floats(0, 2))
def test_what_passes_is_finite_and_within_the_limits(values, now):
    state = GuardState(last=1.0)
    _, command = guard.judge(state, MOTORS, np.array(values), now, CONFIG)
    if command is not None:
        assert command.shape == (4,)
        assert ((command >= 0) & (command <= 1)).all()


@pytest.mark.parametrize(
    "change",
    [
        {"lower": (0.0,) * 3},
        {"upper": (0.0,) * 4},
        {"safe_command": (2.0,) * 4},
        {"safe_command": (float("nan"),) * 4},
        {"timeout_s": 0.0},
        {"elements": ()},
    ],
)
def test_limits_that_protect_nothing_are_refused(change):
    with pytest.raises(ValueError, match=r"expected|found"):
        replace(CONFIG, **change)
