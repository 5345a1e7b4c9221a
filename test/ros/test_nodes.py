"""The nodes as real processes: discovery, lifecycle, parameters, flight, and every fault."""

import signal
import time

import numpy as np
import pytest
import yaml
from conftest import PARAMETERS

NAN, INF = float("nan"), float("inf")
HOVER_SETPOINT = (0.0, 0.0, 1.0)


def every_command_is_safe(pilot):
    """Nothing that is not finite or outside the limits was ever on a motor topic."""
    values = np.array([value for _, value in (*pilot.commands, *pilot.policy_commands)])
    assert len(values) > 0
    assert np.isfinite(values).all()
    assert ((values >= 0) & (values <= 1)).all()
    return True


def start_flight(processes, pilot):
    """Robot, guard and policy; up to a steady hover at 1 m."""
    for module in ("sim.robot_node", "deploy.guard_node", "deploy.policy_node"):
        processes.start_node(module)
    pilot.until(
        lambda: (
            "missed_periods" in pilot.status.get("policy_node", {})
            and {"guard_node", "robot_node"} <= pilot.status.keys()
            and pilot.position is not None
        ),
        60,
        "the nodes",
    )
    pilot.until(lambda: at(pilot, HOVER_SETPOINT), 20, "hover", lambda: pilot.go_to(0.0, 0.0, 1.0))


def at(pilot, point, tolerance=0.1):
    return np.linalg.norm(pilot.position - np.array(point)) < tolerance


def parameters(tmp_path, node, **changes):
    """A copy of the parameter file; a value of None removes the parameter."""
    document = yaml.safe_load(PARAMETERS.read_text())
    content = document[node]["ros__parameters"] | changes
    document[node]["ros__parameters"] = {k: v for k, v in content.items() if v is not None}
    path = tmp_path / "parameters.yaml"
    path.write_text(yaml.safe_dump(document))
    return path


def test_flight_to_a_setpoint_and_a_clean_end(processes, pilot):
    start_flight(processes, pilot)
    target = (0.4, -0.3, 1.2)
    pilot.until(lambda: at(pilot, target), 20, "the set-point", lambda: pilot.go_to(*target))
    pilot.spin(1.0)
    assert at(pilot, target), "it stays there"
    assert pilot.status["policy_node"]["state"] in ("OK", "WARN")
    assert pilot.status["guard_node"]["state"] == "PASSING"
    assert every_command_is_safe(pilot)
    for name in ("policy_node", "guard_node", "robot_node"):
        assert processes.terminate(name) == 0, processes.log(name)
        assert "Traceback" not in processes.log(name)


def test_the_guard_gives_the_safe_command_when_the_policy_is_killed_in_flight(processes, pilot):
    start_flight(processes, pilot)
    processes.running["policy_node"].send_signal(signal.SIGKILL)
    killed = time.monotonic()
    pilot.spin(1.0)
    safe = next(when for when, value in pilot.commands if when > killed and not value.any())
    assert safe - killed < 0.1
    assert every_command_is_safe(pilot)
    assert "TRIPPED" in pilot.status["guard_node"]["state"]
    assert "no command for" in pilot.status["guard_node"]["reason"]
    assert "no command for" in pilot.reset_guard()
    pilot.until(lambda: pilot.status["guard_node"]["state"] == "WAITING", 5, "the reset")


def test_lifecycle(processes, pilot, tmp_path):
    """unconfigured -> inactive -> active -> inactive -> unconfigured -> and all again."""
    processes.start_node("deploy.policy_node", "-p", "autostart:=false")
    for _ in range(2):
        assert pilot.state() == "unconfigured"
        assert pilot.change_state("configure")
        assert pilot.state() == "inactive"
        pilot.policy_commands.clear()
        pilot.go_to(*HOVER_SETPOINT)
        pilot.hover(0.3)
        assert pilot.policy_commands == [], "an inactive policy sends nothing"
        assert pilot.change_state("activate")
        pilot.go_to(*HOVER_SETPOINT)
        pilot.hover(0.5)
        assert len(pilot.policy_commands) > 20
        assert pilot.change_state("deactivate")
        pilot.spin(0.1)
        pilot.policy_commands.clear()
        pilot.hover(0.3)
        assert pilot.policy_commands == []
        assert pilot.change_state("cleanup")
    assert processes.terminate("policy_node") == 0


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"max_rate": None}, "parameter max_rate: expected a list of float, found nothing"),
        ({"ramp_in": 0.3}, "parameter ramp_in: expected one of"),
        ({"hold_timeout_s": "soon"}, "parameter hold_timeout_s: expected a number"),
        ({"upper": [1.0, 1.0]}, "upper: expected 4 numbers"),
        ({"bundle": "zoo:eagle"}, "zoo:eagle"),
        ({"trusted_keys": ["nobody.pem"]}, "nobody.pem"),
    ],
)
def test_bad_parameters_are_refused_by_name(processes, pilot, tmp_path, change, named):
    path = parameters(tmp_path, "policy_node", autostart=False, **change)
    processes.start_node("deploy.policy_node", parameters=path)
    assert not pilot.change_state("configure")
    assert pilot.state() == "unconfigured"
    assert named in processes.log("policy_node")
    assert "Traceback" not in processes.log("policy_node")


@pytest.mark.parametrize(
    ("module", "change", "named"),
    [
        ("deploy.guard_node", {"timeout_s": 0.0}, "timeout_s: expected in (0, 1]"),
        ("deploy.guard_node", {"lower": None}, "parameter lower"),
        ("sim.robot_node", {"airframe": "brick"}, "brick"),
    ],
)
def test_a_node_that_cannot_start_says_why_and_exits_with_2(
    processes, tmp_path, module, change, named
):
    name = module.rsplit(".", 1)[1]
    processes.start_node(module, parameters=parameters(tmp_path, name, **change))
    assert processes.running[name].wait(timeout=60) == 2
    assert named in processes.log(name)
    assert "Traceback" not in processes.log(name)


@pytest.fixture
def flying(processes, pilot):
    """Policy and guard are real; the test plays the robot, so that it can lie."""
    processes.start_node("deploy.guard_node")
    processes.start_node("deploy.policy_node")
    pilot.until(lambda: "steps" in pilot.status.get("policy_node", {}), 60, "the policy")
    pilot.until(lambda: "guard_node" in pilot.status, 60, "the guard")
    pilot.go_to(*HOVER_SETPOINT)
    pilot.hover(1.0)
    if pilot.status["guard_node"]["state"] == "TRIPPED":
        pilot.reset_guard()  # the start-up of a busy machine may be slow; the flight is not
        pilot.hover(0.5)
    assert pilot.commands[-1][1].any(), "the motors turn"
    return pilot


FAULTS = {
    "nan position": {"x": NAN},
    "infinite position": {"x": INF},
    "nan rate": {"rate": NAN},
    "infinite rate": {"rate": -INF},
    "nan attitude": {"w": NAN},
    "no attitude": {"w": 0.0},
    "stale": {"delay_s": 0.5},
    "future": {"delay_s": -0.5},
}


def test_a_single_bad_reading_is_refused_and_flight_goes_on(flying):
    for fault in FAULTS.values():
        flying.send_odometry(**fault)
        flying.hover(0.1)
    assert flying.status["policy_node"]["state"] in ("OK", "WARN", "HOLD")
    assert flying.status["guard_node"]["state"] == "PASSING"
    assert every_command_is_safe(flying)
    assert flying.commands[-1][1].any()


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
def test_lasting_bad_readings_end_in_the_safe_command(flying, fault):
    began = time.monotonic()
    for _ in range(50):
        flying.send_odometry(**fault)
        flying.spin(0.01)
    safe = next(when for when, value in flying.commands if when > began and not value.any())
    assert safe - began < 0.2
    assert every_command_is_safe(flying)
    flying.until(lambda: flying.status["policy_node"]["state"] == "FALLBACK", 5, "FALLBACK")
    flying.hover(0.3)
    assert not flying.commands[-1][1].any(), "good readings do not undo it: the operator does"


def test_time_going_backwards(flying):
    """An older stamp alone is refused; when nothing newer follows, it ends in FALLBACK."""
    flying.send_odometry(delay_s=0.04)
    flying.hover(0.3)
    assert flying.status["policy_node"]["state"] in ("OK", "WARN", "HOLD")
    flying.send_odometry(delay_s=0.04)
    flying.spin(0.5)
    assert not flying.commands[-1][1].any()
    assert flying.status["policy_node"]["state"] == "FALLBACK"
    assert "backwards" in flying.status["policy_node"]["reason"]


def test_silence_of_the_sensors_ends_in_the_safe_command(flying):
    flying.spin(0.5)
    assert not flying.commands[-1][1].any()
    assert "stale" in flying.status["policy_node"]["reason"]


@pytest.mark.parametrize(
    ("values", "labels", "reason"),
    [
        ([0.5, 0.5, 0.5, 0.5], "rear_left,rear_right,left,right", "expected elements front_right"),
        ([0.5, NAN, 0.5, 0.5], None, "not finite"),
        ([0.5, INF, 0.5, 0.5], None, "not finite"),
        ([0.5, 0.5, 0.5, 1.2], None, "outside the limits: front_left 1.2"),
        ([0.5, 0.5, 0.5], None, "expected 4 numbers"),
    ],
)
def test_the_guard_stops_a_policy_that_sends_what_it_must_not(
    processes, pilot, values, labels, reason
):
    processes.start_node("deploy.guard_node")
    pilot.until(lambda: "guard_node" in pilot.status, 60, "the guard")
    good = [0.5, 0.5, 0.5, 0.5]
    pilot.until(lambda: pilot.commands, 5, "commands", lambda: pilot.send_policy_command(good))
    pilot.reset_guard()
    sent = time.monotonic()
    if labels is None:
        pilot.send_policy_command(values)
    else:
        pilot.send_policy_command(values, labels)
    pilot.until(lambda: any(when > sent for when, _ in pilot.commands), 5, "the safe command")
    pilot.until(lambda: reason in pilot.status["guard_node"]["reason"], 5, reason)
    after = [value for when, value in pilot.commands if when > sent]
    assert not np.any(after), "nothing of it, and nothing but the safe command, got through"
