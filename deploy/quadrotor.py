"""The quadrotor's interface: ROS messages in, the named signals of a policy's contract out.

Pure numpy: messages are read by their fields, so tests need no ROS. Odometry is ENU / FLU with the
twist in the body frame (REP 103, REP 105, nav_msgs/Odometry). Errors are given in a frame turned
by the set-point's heading, as PX4's mc_raptor does, so that the policy always flies at yaw 0.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from deploy.control import Reading
from robot_policies import rotation
from robot_policies.contract import Contract
from robot_policies.strict import ContractError, Violation

XYZ = ("x", "y", "z")
ROTATION = tuple(f"r{row}{column}" for row in range(3) for column in range(3))
SIGNALS = {
    "position_error": ("m", "world", XYZ),
    "rotation_matrix": ("1", "world_from_body", ROTATION),
    "linear_velocity_error": ("m/s", "world", XYZ),
    "angular_velocity": ("rad/s", "body", XYZ),
}
"""What this robot can tell: name -> unit, frame, elements."""


@dataclass(frozen=True)
class Setpoint:
    """Where to be."""

    received: float
    """s (steady)."""
    position: tuple[float, float, float]
    """m, world."""
    velocity: tuple[float, float, float]
    """m/s, world."""
    yaw: float
    """rad, world."""


class QuadrotorInterface:
    """Joins the newest odometry with the newest set-point."""

    def __init__(
        self, contract: Contract, world_frame: str, body_frame: str, setpoint_timeout_s: float
    ) -> None:
        """Refuse a contract that asks for what this robot does not have (ContractError)."""
        if violations := list(_mismatches(contract)):
            raise ContractError(violations)
        self._world_frame, self._body_frame = world_frame, body_frame
        self._setpoint_timeout_s = setpoint_timeout_s
        self.forget()

    def forget(self) -> None:
        """Drop the set-point: a new flight waits for a new one."""
        self._setpoint: Setpoint | None = None
        self._setpoint_refusal = ""

    def take_setpoint(self, message: Any, now: float) -> str:
        """Take a trajectory_msgs/MultiDOFJointTrajectory at time `now` (s, steady).

        Its first point is where to be.

        Returns:
            Why it was refused (the set-point before is kept), or "".
        """
        try:
            self._setpoint = _read_setpoint(message, self._world_frame, now)
            self._setpoint_refusal = ""
        except ValueError as error:
            self._setpoint_refusal = f"setpoint refused: {error}"
        return self._setpoint_refusal

    def read(self, odometry: Any, now: float) -> Reading:
        """Make a Reading of a nav_msgs/Odometry at time `now` (s, steady)."""
        stamp = seconds(odometry.header.stamp)
        refusal = self._refuse_frames(odometry)
        quaternion = _xyzw(odometry.pose.pose.orientation)
        norm = math.hypot(*quaternion)
        if not refusal and not abs(norm - 1) < 0.01:
            refusal = f"odometry quaternion_xyzw: expected length 1, found {norm:.3f}"
        setpoint = self._setpoint
        if not refusal and setpoint is None:
            refusal = self._setpoint_refusal or "no set-point yet: publish one"
        if refusal or setpoint is None:
            return Reading(stamp, refusal=refusal)
        target, warning = self._hold_if_old(setpoint, now)
        signals = _signals(odometry, [value / norm for value in quaternion], target)
        return Reading(stamp, signals, warning=self._setpoint_refusal or warning)

    def _refuse_frames(self, odometry: Any) -> str:
        expected = (self._world_frame, self._body_frame)
        found = (odometry.header.frame_id, odometry.child_frame_id)
        if found == expected:
            return ""
        return f"odometry frames: expected {expected}, found {found}; correct the parameters"

    def _hold_if_old(self, setpoint: Setpoint, now: float) -> tuple[Setpoint, str]:
        """Without fresh set-points stay where the last one was, at rest."""
        if now - setpoint.received <= self._setpoint_timeout_s:
            return setpoint, ""
        held = Setpoint(setpoint.received, setpoint.position, (0.0, 0.0, 0.0), setpoint.yaw)
        # A set-point at rest is complete in itself: only a moving one is missed.
        return held, "set-point stale: holding its position" if any(setpoint.velocity) else ""


def seconds(stamp: Any) -> float:
    """Seconds of a builtin_interfaces/Time."""
    return stamp.sec + stamp.nanosec * 1e-9


def _xyz(vector: Any) -> tuple[float, float, float]:
    return vector.x, vector.y, vector.z


def _xyzw(quaternion: Any) -> tuple[float, float, float, float]:
    return quaternion.x, quaternion.y, quaternion.z, quaternion.w


def _signals(odometry: Any, quaternion: list[float], target: Setpoint) -> dict[str, np.ndarray]:
    """The policy's signals [1, n], in a world turned by the set-point's heading.

    In plain floats: so few numbers cost numpy several times as long, and this is in the loop.
    """
    cos, sin = math.cos(target.yaw), math.sin(target.yaw)

    def turned(x: float, y: float, z: float) -> tuple[float, float, float]:
        return cos * x + sin * y, cos * y - sin * x, z

    twist = odometry.twist.twist
    rows = rotation.matrix_rows(*quaternion)
    u, v, w = _xyz(twist.linear)
    velocity = [a * u + b * v + c * w for a, b, c in rows]
    columns = [turned(*column) for column in zip(*rows, strict=True)]
    position = zip(_xyz(odometry.pose.pose.position), target.position, strict=True)
    speed = zip(velocity, target.velocity, strict=True)
    return {
        "position_error": np.array([turned(*(now - aim for now, aim in position))]),
        "rotation_matrix": np.array([[n for row in zip(*columns, strict=True) for n in row]]),
        "linear_velocity_error": np.array([turned(*(now - aim for now, aim in speed))]),
        "angular_velocity": np.array([_xyz(twist.angular)]),
    }


def _read_setpoint(message: Any, world_frame: str, now: float) -> Setpoint:
    if message.header.frame_id != world_frame:
        raise ValueError(f"expected frame {world_frame!r}, found {message.header.frame_id!r}")
    if len(message.points) < 1 or len(message.points[0].transforms) != 1:
        raise ValueError("expected one point with one transform")
    point = message.points[0]
    pose = point.transforms[0]
    quaternion, position = _xyzw(pose.rotation), _xyz(pose.translation)
    velocity = _xyz(point.velocities[0].linear) if len(point.velocities) else (0.0, 0.0, 0.0)
    numbers = (*position, *velocity, *quaternion)
    if not all(map(math.isfinite, numbers)):
        raise ValueError(f"expected finite numbers, found {numbers}")
    if not abs(math.hypot(*quaternion) - 1) < 0.01:
        raise ValueError(f"expected a quaternion_xyzw of length 1, found {quaternion}")
    return Setpoint(now, position, velocity, float(rotation.yaw(np.array(quaternion))))


def _mismatches(contract: Contract) -> Iterator[Violation]:
    mend = "this bundle is not for the quadrotor interface, or was exported with other signals"
    for signal in (s for s in contract.observation if s.source == "robot"):
        where = f"observation.{signal.name}"
        if signal.name not in SIGNALS:
            yield Violation(where, "one of " + ", ".join(SIGNALS), "an unknown signal", mend)
            continue
        wanted = (signal.unit, signal.frame, signal.elements)
        for field, offered, asked in zip(
            ("unit", "frame", "elements"), SIGNALS[signal.name], wanted, strict=True
        ):
            if offered != asked:
                yield Violation(f"{where}.{field}", str(offered), str(asked), mend)
    if {s.name for s in contract.observation if s.source == "robot"} != set(SIGNALS):
        found = ", ".join(s.name for s in contract.observation)
        yield Violation("observation", ", ".join(SIGNALS), found, mend)
    if [signal.name for signal in contract.action] != ["motors"]:
        found = ", ".join(signal.name for signal in contract.action)
        yield Violation("action", "motors", found, mend)
    elif (contract.action[0].unit, contract.action[0].mode) != ("1", "absolute"):
        found = f"{contract.action[0].unit}, {contract.action[0].mode}"
        yield Violation("action.motors", "normalised rotor speed, absolute", found, mend)
