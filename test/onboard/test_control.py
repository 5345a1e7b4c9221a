"""deploy/control.py: one tick at a time, with the real RAPTOR bundle."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deploy.control import ControlState, Now, Reading
from deploy.control import tick as tick_at
from deploy.safety import Mode, SafetyConfig
from robot_policies import load_policy

PERIOD = 0.01
CONFIG = SafetyConfig(
    lower=(0.0,) * 4,
    upper=(1.0,) * 4,
    safe_command=(0.0,) * 4,
    start_command=(0.1,) * 4,
    ramp_in_s=0.0,
    max_rate=(100.0,) * 4,
    hold_timeout_s=0.1,
    max_future_s=0.01,
)


def tick(state, item, now, policy, config):
    """One tick, with both clocks at `now`."""
    return tick_at(state, item, Now(now, now), policy, config)


@pytest.fixture(scope="module")
def raptor():
    return load_policy("zoo:raptor")


@pytest.fixture
def policy(raptor):
    raptor.reset()
    return raptor


def reading(stamp, height=-0.2, **changes):
    """Level, at rest, 20 cm below the set-point."""
    signals = {
        "position_error": np.array([[0.0, 0.0, height]]),
        "rotation_matrix": np.eye(3).reshape(1, 9),
        "linear_velocity_error": np.zeros((1, 3)),
        "angular_velocity": np.zeros((1, 3)),
    }
    return Reading(stamp, signals | changes)


def run(policy, readings, config=CONFIG, delay=0.001):
    """Tick once per reading, each a millisecond after its stamp."""
    state, decisions = ControlState(), []
    for item in readings:
        state, decision = tick(state, item, item.stamp + delay, policy, config)
        decisions.append(decision)
    return state, decisions


def test_good_readings_give_commands_within_the_limits(policy):
    _, decisions = run(policy, [reading(k * PERIOD) for k in range(50)])
    assert all(decision.mode is Mode.OK and decision.stepped for decision in decisions)
    commands = np.array([decision.command for decision in decisions])
    assert commands.shape == (50, 4)
    assert ((commands >= 0) & (commands <= 1)).all()


def test_the_same_calls_give_the_same_commands(policy):
    flight = [reading(k * PERIOD, height=-0.01 * k) for k in range(20)]
    first = [decision.command for decision in run(policy, flight)[1]]
    policy.reset()
    second = [decision.command for decision in run(policy, flight)[1]]
    np.testing.assert_array_equal(first, second)


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (reading(5 * PERIOD, position_error=np.array([[np.nan, 0, 0]])), "position_error"),
        (reading(5 * PERIOD, angular_velocity=np.array([[0, np.inf, 0]])), "angular_velocity"),
        (reading(5 * PERIOD, position_error=np.zeros((1, 2))), "shape|array"),
        (reading(5 * PERIOD, elbow=np.zeros((1, 1))), "elbow"),
        (reading(1 * PERIOD), "time goes backwards"),
        (reading(5 * PERIOD + 0.5), "in the future"),
        (Reading(5 * PERIOD, refusal="frames differ"), "frames differ"),
    ],
    ids=["nan", "infinite", "shape", "extra name", "backwards", "future", "interface"],
)
def test_a_bad_reading_is_held_with_its_reason_and_the_next_good_one_goes_on(policy, bad, reason):
    state, _ = run(policy, [reading(k * PERIOD) for k in range(5)])
    held, decision = tick(state, bad, 5 * PERIOD, policy, CONFIG)
    assert decision.mode is Mode.HOLD
    assert decision.command is None
    assert not decision.stepped
    assert any(word in decision.reason for word in reason.split("|"))
    _, decision = tick(held, reading(6 * PERIOD), 6 * PERIOD, policy, CONFIG)
    assert decision.command is not None


def test_a_stale_reading_is_held_and_says_how_old_it_is(policy):
    state, _ = run(policy, [reading(0.0)])
    _, decision = tick(state, reading(0.01), 0.5, policy, CONFIG)
    assert decision.mode is Mode.HOLD
    assert "at most 50 ms old, found 490 ms" in decision.reason


def test_lasting_refusals_end_in_the_latched_safe_command(policy):
    state, _ = run(policy, [reading(k * PERIOD) for k in range(5)])
    last, modes = reading(4 * PERIOD), []
    for k in range(5, 60):
        state, decision = tick(state, last, k * PERIOD, policy, CONFIG)
        modes.append(decision.mode)
    assert modes.index(Mode.HOLD) < modes.index(Mode.FALLBACK)
    np.testing.assert_array_equal(decision.command, CONFIG.safe_command)
    state, decision = tick(state, reading(0.61), 0.61, policy, CONFIG)
    assert decision.mode is Mode.FALLBACK, "only a new activation ends it"


def test_before_the_first_command_waiting_is_no_fault(policy):
    state = ControlState()
    for k in range(1000):
        state, decision = tick(state, None, k * PERIOD, policy, CONFIG)
    assert decision.mode is Mode.HOLD
    assert decision.reason == "no input yet"
    _, decision = tick(state, reading(10.0), 10.0, policy, CONFIG)
    assert decision.mode is Mode.OK


@pytest.mark.parametrize("sensor_hz", [100, 120, 125, 200, 250, 400, 1000])
def test_a_fast_sensor_does_not_make_the_policy_faster(policy, sensor_hz):
    """Stamps as they come: seconds since 1970, with a little jitter."""
    jitter = np.random.default_rng(0).normal(0, 0.0001, 3 * sensor_hz)
    stamps = 1.7e9 + np.arange(3 * sensor_hz) / sensor_hz + jitter
    _, decisions = run(policy, [reading(stamp) for stamp in stamps])
    assert sum(decision.stepped for decision in decisions) == pytest.approx(300, rel=0.05)
    assert sum(decision.missed for decision in decisions) < 15


@pytest.mark.parametrize("sensor_hz", [20, 50, 75])
def test_a_sensor_slower_than_the_policy_ends_the_flight_at_its_start(policy, sensor_hz):
    _, decisions = run(policy, [reading(k / sensor_hz) for k in range(20)])
    assert decisions[-1].mode is Mode.FALLBACK
    assert decisions[-1].command == CONFIG.safe_command
    assert "trained to be stepped at 100 Hz" in decisions[-1].reason
    assert sum(decision.stepped for decision in decisions) <= 11


def test_a_clock_that_is_set_back_does_not_prolong_a_hold(policy):
    state, _ = run(policy, [reading(1000 + k * PERIOD) for k in range(5)], delay=0.0)
    for k in range(20):
        now = Now(stamp=990 + k * PERIOD, steady=1000.05 + k * PERIOD)
        state, decision = tick_at(state, reading(now.stamp), now, policy, CONFIG)
    assert decision.mode is Mode.FALLBACK
    assert "time goes backwards" in decision.reason


def test_sensor_jitter_costs_no_step(policy):
    jitter = np.random.default_rng(0).uniform(-0.0015, 0.0015, 200)
    _, decisions = run(policy, [reading(1 + k * PERIOD + jitter[k]) for k in range(200)])
    assert sum(decision.stepped for decision in decisions) == 200
    assert sum(decision.missed for decision in decisions) == 0


def test_a_burst_after_a_pause_is_not_stepped_on_in_a_hurry(policy):
    slow = [reading(k * 1.02 * PERIOD) for k in range(100)]
    burst = [reading(slow[-1].stamp + k * PERIOD / 10) for k in range(1, 21)]
    _, decisions = run(policy, slow + burst)
    assert sum(decision.stepped for decision in decisions[:100]) == 100
    assert sum(decision.stepped for decision in decisions[100:]) in (2, 3)


def test_a_gap_is_counted_and_warned_of(policy):
    _, decisions = run(policy, [reading(0.0), reading(0.04), reading(0.05)])
    assert decisions[1].missed == 3
    assert decisions[1].mode is Mode.WARN
    assert "40 ms apart" in decisions[1].reason
    assert decisions[2].mode is Mode.OK


def test_ramp_in_starts_from_the_start_command(policy):
    config = replace(CONFIG, ramp_in_s=0.5)
    _, decisions = run(policy, [reading(k * PERIOD) for k in range(100)], config)
    np.testing.assert_allclose(decisions[0].command, config.start_command)
    share = np.array([np.abs(np.array(d.command) - 0.1).max() for d in decisions[:20]])
    assert (np.diff(share) >= 0).all()


def test_rate_limit_holds_between_any_two_commands_and_is_told(policy):
    config = replace(CONFIG, max_rate=(2.0,) * 4)
    _, decisions = run(policy, [reading(k * PERIOD, height=-0.5) for k in range(50)], config)
    commands = np.array([config.start_command, *(decision.command for decision in decisions)])
    assert np.abs(np.diff(commands, axis=0)).max() <= 2.0 * PERIOD + 1e-9
    assert decisions[0].mode is Mode.WARN
    assert "rate limited" in decisions[0].reason


numbers = st.floats(width=32, allow_nan=True, allow_infinity=True)


@settings(max_examples=150, deadline=None)
@given(
    flight=st.lists(
        st.tuples(numbers, numbers, st.floats(-0.05, 0.2), st.floats(0, 0.1)),
        min_size=1,
        max_size=30,
    )
)
def test_whatever_the_sensors_say_no_bad_command_leaves(raptor, flight):
    """Random numbers, stamps and delays: a command is finite and within the limits, or none."""
    raptor.reset()
    state, now = ControlState(), 0.0
    for position, rate, step, delay in flight:
        now += max(step, 0.0)
        item = reading(
            now + step - delay,
            position_error=np.full((1, 3), position),
            angular_velocity=np.full((1, 3), rate),
        )
        state, decision = tick(state, item, now, raptor, CONFIG)
        if decision.command is None:
            assert decision.mode is Mode.HOLD or not decision.stepped
        else:
            assert np.isfinite(decision.command).all()
            assert all(0 <= value <= 1 for value in decision.command)
        assert decision.reason or decision.mode is Mode.OK
