"""The nodes as real processes: discovery, lifecycle, parameters, flight, and every fault."""

import signal
import time

import numpy as np
import pytest
import yaml
from conftest import PARAMETERS
from std_srvs.srv import Trigger

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
    processes.start_node("sim.robot_node")
    start_policy(processes, pilot)
    pilot.until(lambda: pilot.position is not None, 60, "the robot")
    for _ in range(3):
        take_off(pilot, lambda: pilot.go_to(*HOVER_SETPOINT))
        pilot.until(
            lambda: at(pilot, HOVER_SETPOINT) or is_tripped(pilot),
            20,
            "hover",
            lambda: pilot.go_to(*HOVER_SETPOINT),
        )
        if not is_tripped(pilot):
            return
        recover(pilot)
        assert pilot.call(Trigger, "robot_node/reset", Trigger.Request()).success
    pytest.fail(f"no hover: {pilot.status}")


def start_policy(processes, pilot):
    processes.start_node("deploy.guard_node")
    processes.start_node("deploy.policy_node")
    pilot.until(lambda: "steps" in pilot.status.get("policy_node", {}), 60, "the policy")
    pilot.until(lambda: "guard_node" in pilot.status, 60, "the guard")


def take_off(pilot, keep_going):
    """First commands; a busy machine may stall at the start, so an operator's reset is allowed."""
    for _ in range(3):
        end = time.monotonic() + 1.0
        while time.monotonic() < end:
            keep_going()
            pilot.spin(0.01)
        if pilot.status["guard_node"]["state"] == "PASSING" and pilot.commands[-1][1].any():
            return
        recover(pilot)
    pytest.fail(f"no steady commands: {pilot.status}")


def recover(pilot):
    """What the operator does after a trip."""
    assert pilot.change_state("deactivate")
    pilot.spin(0.2)
    assert pilot.reset_guard().success
    assert pilot.change_state("activate")
    pilot.until(lambda: not is_tripped(pilot), 5, "the reset")


def is_tripped(pilot):
    return pilot.status["guard_node"]["state"] == "TRIPPED"


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


def first_stop(commands, after):
    """When the motors were first told to stop, or infinity."""
    return min((when for when, value in commands if when > after and not value.any()), default=INF)


def test_the_guard_gives_the_safe_command_when_the_policy_is_killed_in_flight(processes, pilot):
    start_flight(processes, pilot)
    processes.running["policy_node"].send_signal(signal.SIGKILL)
    killed = time.monotonic()
    pilot.spin(1.0)
    assert first_stop(pilot.commands, killed) - killed < 0.1
    assert every_command_is_safe(pilot)
    assert "TRIPPED" in pilot.status["guard_node"]["state"]
    assert "no command for" in pilot.status["guard_node"]["reason"]
    assert "no command for" in pilot.reset_guard().message
    pilot.until(lambda: pilot.status["guard_node"]["state"] == "WAITING", 5, "the reset")


def test_the_robot_stops_its_motors_when_the_guard_is_killed_in_flight(processes, pilot):
    start_flight(processes, pilot)
    processes.running["guard_node"].send_signal(signal.SIGKILL)
    pilot.until(lambda: pilot.position[2] == 0.0, 10, "the robot on the ground")


def test_the_guard_ends_with_the_safe_command(processes, pilot):
    start_flight(processes, pilot)
    assert processes.terminate("guard_node") == 0
    pilot.spin(0.2)
    assert not pilot.commands[-1][1].any()


def test_recovery_is_deactivate_reset_activate(processes, pilot):
    """A reset while the policy sends would be a step to full throttle: it is refused."""
    start_flight(processes, pilot)
    pilot.pose_as_a_policy()
    pilot.until(lambda: pilot.status["guard_node"]["state"] == "TRIPPED", 20, "the trip")
    assert "2 nodes publish policy/motors" in pilot.status["guard_node"]["reason"]
    pilot.stop_posing()
    pilot.spin(0.5)
    answer = pilot.reset_guard()
    assert not answer.success
    assert "deactivate the policy" in answer.message
    assert pilot.change_state("deactivate")
    pilot.spin(0.3)
    assert pilot.reset_guard().success
    assert pilot.change_state("activate")
    pilot.policy_commands.clear()
    pilot.spin(0.5)
    assert pilot.policy_commands == [], "the set-point of the flight before is forgotten"
    assert "no set-point" in pilot.status["policy_node"]["reason"]


def test_an_impossible_transition_is_answered_and_flight_goes_on(processes, pilot):
    start_flight(processes, pilot)
    assert not pilot.change_state("activate")
    assert not pilot.change_state("configure")
    pilot.until(lambda: at(pilot, HOVER_SETPOINT), 5, "hover", lambda: pilot.go_to(0.0, 0.0, 1.0))
    assert pilot.state() == "active"


def test_parameters_cannot_change_under_a_running_node(processes, pilot):
    start_policy(processes, pilot)
    for node, name in (("guard_node", "timeout_s"), ("policy_node", "hold_timeout_s")):
        assert not pilot.set_parameter(node, name, 0.9)


def test_the_guard_watches_while_ros_time_stands_still(processes, pilot):
    """use_sim_time without a clock: the time of ROS does not pass, that of the guard does."""
    processes.start_node("deploy.guard_node", "-p", "use_sim_time:=true")
    pilot.until(lambda: "guard_node" in pilot.status, 60, "the guard")
    good = [0.5, 0.5, 0.5, 0.5]
    pilot.until(lambda: pilot.commands, 5, "commands", lambda: pilot.send_policy_command(good))
    silent = time.monotonic()
    pilot.spin(0.5)
    assert first_stop(pilot.commands, silent) < INF


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
        pilot.until(
            lambda: len(pilot.policy_commands) > 20,
            10,
            "commands",
            lambda: (pilot.go_to(*HOVER_SETPOINT), pilot.hover(0.1)),
        )
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
        ({"setpoint_timeout_s": -1.0}, "setpoint_timeout_s: expected seconds > 0"),
        ({"bundle": "zoo:eagle"}, "zoo:eagle"),
        ({"trusted_keys": ["nobody.pem"]}, "nobody.pem"),
    ],
    ids=str,
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
        ("deploy.guard_node", {"watch_hz": 0.0}, "watch_hz: expected 20 to 1000"),
        (
            "deploy.policy_node",
            {"autostart": "yes"},
            "parameter autostart: expected true or false",
        ),
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
    start_policy(processes, pilot)
    pilot.go_to(*HOVER_SETPOINT)
    take_off(pilot, lambda: (pilot.go_to(*HOVER_SETPOINT), pilot.send_odometry()))
    pilot.hover(0.2)
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
    assert flying.status["guard_node"]["state"] == "PASSING"
    assert every_command_is_safe(flying)
    assert flying.commands[-1][1].any()


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
def test_lasting_bad_readings_end_in_the_safe_command(flying, fault):
    began = time.monotonic()
    for _ in range(50):
        flying.send_odometry(**fault)
        flying.spin(0.01)
    assert first_stop(flying.commands, began) - began < 0.3
    assert every_command_is_safe(flying)
    flying.until(lambda: flying.status["policy_node"]["state"] == "FALLBACK", 5, "FALLBACK")
    flying.hover(0.3)
    assert not flying.commands[-1][1].any(), "good readings do not undo it: the operator does"


def test_time_going_backwards(flying):
    """An older stamp is refused; when nothing newer follows, it ends in FALLBACK."""
    flying.send_odometry(delay_s=0.04)
    flying.spin(0.5)
    assert not flying.commands[-1][1].any()
    flying.until(lambda: flying.status["policy_node"]["state"] == "FALLBACK", 5, "FALLBACK")
    assert "backwards" in flying.status["policy_node"]["reason"]


def test_silence_of_the_sensors_ends_in_the_safe_command(flying):
    flying.spin(0.5)
    assert not flying.commands[-1][1].any()
    flying.until(lambda: "stale" in flying.status["policy_node"]["reason"], 5, "the reason")


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
    pilot.spin(0.2)
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
