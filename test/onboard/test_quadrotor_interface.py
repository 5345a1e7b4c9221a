"""Messages in, named signals out. Messages are read by their fields, so no ROS is needed."""

from dataclasses import replace
from types import SimpleNamespace as Message

import numpy as np
import pytest

from deploy.quadrotor import QuadrotorInterface
from robot_policies import flights, rotation
from robot_policies.bundle import read
from robot_policies.logs import Log, Topic
from robot_policies.strict import ContractError


def vector(x=0.0, y=0.0, z=0.0, w=None):
    return Message(x=x, y=y, z=z, w=w)


def quaternion(yaw=0.0):
    return vector(*rotation.from_yaw(yaw))


def odometry(stamp=1.0, position=(0, 0, 0), attitude=None, velocity=(0, 0, 0), rates=(0, 0, 0)):
    seconds = int(stamp)
    pose = Message(position=vector(*position), orientation=attitude or quaternion())
    twist = Message(linear=vector(*velocity), angular=vector(*rates))
    return Message(
        header=Message(
            frame_id="world", stamp=Message(sec=seconds, nanosec=round((stamp - seconds) * 1e9))
        ),
        child_frame_id="base_link",
        pose=Message(pose=pose),
        twist=Message(twist=twist),
    )


def setpoint(position=(0, 0, 1), yaw=0.0, velocity=None, frame="world"):
    transform = Message(translation=vector(*position), rotation=quaternion(yaw))
    velocities = [] if velocity is None else [Message(linear=vector(*velocity))]
    point = Message(transforms=[transform], velocities=velocities)
    return Message(header=Message(frame_id=frame), points=[point])


@pytest.fixture
def interface():
    contract = read("zoo:raptor").contract
    return QuadrotorInterface(contract, "world", "base_link", setpoint_timeout_s=0.2)


def test_without_a_setpoint_it_refuses(interface):
    assert "no set-point" in interface.read(odometry(), 1.0).refusal


def test_a_new_flight_forgets_the_setpoint_of_the_one_before(interface):
    interface.take_setpoint(setpoint(), 1.0)
    assert interface.read(odometry(), 1.0).refusal == ""
    interface.forget()
    assert "no set-point" in interface.read(odometry(), 1.0).refusal


def test_errors_are_position_minus_setpoint_in_the_world(interface):
    interface.take_setpoint(setpoint((1, 2, 3), velocity=(0.1, 0, 0)), 1.0)
    reading = interface.read(odometry(1.25, (1, 2, 2.5), velocity=(0.3, 0, 0)), 1.0)
    assert reading.stamp == pytest.approx(1.25)
    assert reading.signals["position_error"] == pytest.approx(np.array([[0, 0, -0.5]]))
    assert reading.signals["linear_velocity_error"] == pytest.approx(np.array([[0.2, 0, 0]]))
    assert reading.signals["rotation_matrix"] == pytest.approx(np.eye(3).reshape(1, 9))


def test_the_twist_is_turned_from_body_to_world(interface):
    interface.take_setpoint(setpoint(), 1.0)
    flying_north = odometry(attitude=quaternion(np.pi / 2), velocity=(1, 0, 0))
    signals = interface.read(flying_north, 1.0).signals
    assert signals["linear_velocity_error"] == pytest.approx(np.array([[0, 1, 0]]))
    assert signals["rotation_matrix"].reshape(3, 3)[:, 0] == pytest.approx([0, 1, 0])


def test_a_setpoint_with_yaw_turns_the_world(interface):
    """At the wanted heading the policy sees itself level at yaw 0, and errors ahead as +x."""
    interface.take_setpoint(setpoint((0, 0, 0), yaw=np.pi / 2), 1.0)
    signals = interface.read(odometry(position=(0, 1, 0), attitude=quaternion(np.pi / 2)), 1.0)
    assert signals.signals["rotation_matrix"] == pytest.approx(np.eye(3).reshape(1, 9))
    assert signals.signals["position_error"] == pytest.approx(np.array([[1, 0, 0]]))


def test_an_old_moving_setpoint_is_held_at_rest(interface):
    interface.take_setpoint(setpoint((0, 0, 1), velocity=(1, 0, 0)), 1.0)
    assert interface.read(odometry(), 1.1).warning == ""
    reading = interface.read(odometry(), 1.5)
    assert "stale" in reading.warning
    assert reading.signals["linear_velocity_error"] == pytest.approx(np.zeros((1, 3)))


def test_a_log_tells_what_was_told_onboard(interface):
    generator = np.random.default_rng(0)
    attitudes = generator.normal(size=(6, 4))
    attitudes /= np.linalg.norm(attitudes, axis=1, keepdims=True)
    flown = {name: generator.normal(size=(6, 3)) for name in ("position", "velocity", "rates")}
    aims, yaws, speeds = generator.normal(size=(2, 3)), (0.5, -2.0), ((0.3, 0, 0.1), None)
    nan = np.full(3, np.nan)
    log = Log(0, {
        "/odometry": Topic("/odometry", "", 0.1 * np.arange(6), {
            "position": flown["position"], "quaternion_xyzw": attitudes,
            "linear_velocity": flown["velocity"], "angular_velocity": flown["rates"],
        }),
        "/setpoint": Topic("/setpoint", "", np.array([0.15, 0.35]), {
            "position": aims, "quaternion_xyzw": rotation.from_yaw(np.array(yaws)),
            "linear_velocity": np.array([nan if v is None else v for v in speeds]),
        }),
    })  # fmt: skip
    found = flights.signals(log, "/odometry", "/setpoint")
    for row, index in enumerate(range(2, 6)):  # before 0.15 s there was no set-point
        aim = int(index >= 4)
        interface.take_setpoint(setpoint(aims[aim], yaws[aim], speeds[aim]), 0.1 * index)
        message = odometry(
            0.1 * index, flown["position"][index], vector(*attitudes[index]),
            flown["velocity"][index], flown["rates"][index],
        )  # fmt: skip
        told = interface.read(message, 0.1 * index).signals
        for name, (time, values) in found.items():
            assert time[row] == pytest.approx(0.1 * index)
            np.testing.assert_allclose(values[row], told[name][0], atol=1e-9)


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (setpoint((np.nan, 0, 1)), "finite"),
        (setpoint(frame="odom_ned"), "odom_ned"),
        (Message(header=Message(frame_id="world"), points=[]), "one point"),
    ],
)
def test_a_bad_setpoint_keeps_the_one_before(interface, bad, reason):
    interface.take_setpoint(setpoint((0, 0, 1)), 1.0)
    assert reason in interface.take_setpoint(bad, 1.1)
    reading = interface.read(odometry(position=(0, 0, 1)), 1.1)
    assert reading.signals["position_error"] == pytest.approx(np.zeros((1, 3)))
    assert reason in reading.warning


def test_wrong_frames_and_broken_quaternions_are_refused(interface):
    interface.take_setpoint(setpoint(), 1.0)
    wrong = odometry()
    wrong.header.frame_id = "odom_ned"
    assert "odom_ned" in interface.read(wrong, 1.0).refusal
    for attitude in (vector(0, 0, 0, 0.5), vector(0, 0, 0, np.nan)):
        assert "quaternion" in interface.read(odometry(attitude=attitude), 1.0).refusal


@pytest.mark.parametrize(
    ("index", "change", "named"),
    [
        (0, {"frame": "body"}, "position_error.frame"),
        (0, {"unit": "rad"}, "position_error.unit"),
        (2, {"elements": ("y", "x", "z")}, "linear_velocity_error.elements"),
        (3, {"name": "angular_rate"}, "angular_rate"),
    ],
)
def test_a_policy_with_other_signals_is_refused(index, change, named):
    contract = read("zoo:raptor").contract
    signals = list(contract.observation)
    signals[index] = replace(signals[index], **change)
    with pytest.raises(ContractError, match=named):
        QuadrotorInterface(replace(contract, observation=tuple(signals)), "world", "base_link", 1)
