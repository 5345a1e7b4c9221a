"""Limits that the operator declares are checked before anything moves."""

from dataclasses import replace

import pytest

from deploy.safety import SafetyConfig, limit_rate, ramp, refuse_time
from robot_policies.bundle import read
from robot_policies.strict import ContractError

GOOD = SafetyConfig(
    lower=(0.0,) * 4,
    upper=(1.0,) * 4,
    safe_command=(0.0,) * 4,
    start_command=(0.0,) * 4,
    ramp_in_s=0.3,
    max_rate=(100.0,) * 4,
    hold_timeout_s=0.1,
    max_future_s=0.01,
)


def test_good_settings_pass():
    GOOD.check(read("zoo:raptor").contract)


@pytest.mark.parametrize(
    "change",
    [
        {"safe_command": (0.0,) * 3},
        {"safe_command": (0.0, 0.0, 0.0, 1.5)},
        {"start_command": (float("nan"),) * 4},
        {"upper": (1.1,) * 4},
        {"lower": (-1.0,) * 4},
        {"max_rate": (0.0,) * 4},
        {"max_rate": (float("inf"),) * 4},
        {"hold_timeout_s": -1.0},
        {"ramp_in_s": float("nan")},
    ],
    ids=lambda change: f"{change}",
)
def test_a_setting_that_does_not_fit_is_refused_by_name(change):
    with pytest.raises(ContractError) as error:
        replace(GOOD, **change).check(read("zoo:raptor").contract)
    assert {violation.where for violation in error.value.violations} >= change.keys()


def test_tighter_limits_than_the_contract_bind_the_safe_command():
    config = replace(GOOD, upper=(0.8,) * 4, start_command=(0.9,) * 4)
    with pytest.raises(ContractError, match="start_command"):
        config.check(read("zoo:raptor").contract)


def test_ramp_blends_and_ends():
    start, command = (0.0, 0.0), (1.0, 1.0)
    assert ramp(command, start, 0.0, 1.0) == start
    assert ramp(command, start, 0.25, 1.0) == pytest.approx((0.25, 0.25))
    assert ramp(command, start, 2.0, 1.0) is command
    assert ramp(command, start, 0.0, 0.0) is command


def test_rate_limit_names_the_limited_elements():
    command, limited = limit_rate((1.0, 0.1), (0.0, 0.0), (10.0, 10.0), 0.05)
    assert command == pytest.approx((0.5, 0.1))
    assert limited == [0]


@pytest.mark.parametrize(
    ("stamp", "now", "last", "reason"),
    [
        (1.0, 1.01, 0.99, ""),
        (1.0, 1.01, None, ""),
        (1.0, 1.2, 0.99, "stale"),
        (0.9, 0.91, 0.99, "backwards"),
        (1.0, 0.9, 0.8, "future"),
    ],
)
def test_time(stamp, now, last, reason):
    assert reason in refuse_time(stamp, now, last, 0.1, 0.01)
    assert bool(refuse_time(stamp, now, last, 0.1, 0.01)) == bool(reason)
