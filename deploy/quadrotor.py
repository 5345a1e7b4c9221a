"""The quadrotor's interface: ROS messages in, the named signals of a policy's contract out.

Pure numpy: messages are read by their fields, so tests need no ROS. Odometry is ENU / FLU with the
twist in the body frame (REP 103, REP 105, nav_msgs/Odometry). Errors are given in a frame turned
by the set-point's heading, as PX4's mc_raptor does, so that the policy always flies at yaw 0.
"""

from __future__ import annotations

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

    stamp: float
    """s, when it was received."""
    position: np.ndarray
    """[3] m, world."""
    velocity: np.ndarray
    """[3] m/s, world."""
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
        self._setpoint: Setpoint | None = None
        self._setpoint_refusal = ""

    def take_setpoint(self, message: Any, now: float) -> str:
        """Take a trajectory_msgs/MultiDOFJointTrajectory, whose first point is where to be.

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
        """Make a Reading of a nav_msgs/Odometry at time `now` (s)."""
        stamp = seconds(odometry.header.stamp)
        refusal = self._refuse_frames(odometry)
        position, quaternion, velocity, rates = _numbers(odometry)
        norm = float(np.linalg.norm(quaternion))
        if not refusal and not abs(norm - 1) < 0.01:
            refusal = f"odometry quaternion_xyzw: expected length 1, found {norm:.3f}"
        setpoint = self._setpoint
        if not refusal and setpoint is None:
            refusal = self._setpoint_refusal or "no set-point yet: publish one"
        if refusal or setpoint is None:
            return Reading(stamp, refusal=refusal)
        target, warning = self._hold_if_old(setpoint, now)
        signals = _signals(position, quaternion / norm, velocity, rates, target)
        return Reading(stamp, signals, warning=self._setpoint_refusal or warning)

    def _refuse_frames(self, odometry: Any) -> str:
        expected = (self._world_frame, self._body_frame)
        found = (odometry.header.frame_id, odometry.child_frame_id)
        if found == expected:
            return ""
        return f"odometry frames: expected {expected}, found {found}; correct the parameters"

    def _hold_if_old(self, setpoint: Setpoint, now: float) -> tuple[Setpoint, str]:
        """Without fresh set-points stay where the last one was, at rest."""
        if now - setpoint.stamp <= self._setpoint_timeout_s:
            return setpoint, ""
        held = Setpoint(setpoint.stamp, setpoint.position, np.zeros(3), setpoint.yaw)
        # A set-point at rest is complete in itself: only a moving one is missed.
        return held, "set-point stale: holding its position" if setpoint.velocity.any() else ""


def seconds(stamp: Any) -> float:
    """Seconds of a builtin_interfaces/Time."""
    return stamp.sec + stamp.nanosec * 1e-9


def _numbers(odometry: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Position [3], quaternion_xyzw [4], linear [3] and angular velocity [3] (both body)."""
    pose, twist = odometry.pose.pose, odometry.twist.twist
    return (
        _xyz(pose.position),
        np.array([*_xyz(pose.orientation), pose.orientation.w]),
        _xyz(twist.linear),
        _xyz(twist.angular),
    )


def _xyz(vector: Any) -> np.ndarray:
    return np.array([vector.x, vector.y, vector.z], np.float64)


def _signals(
    position: np.ndarray,
    quaternion: np.ndarray,
    velocity: np.ndarray,
    rates: np.ndarray,
    target: Setpoint,
) -> dict[str, np.ndarray]:
    """The policy's signals [1, n], in a world turned by the set-point's heading."""
    heading = rotation.to_matrix(rotation.from_yaw(target.yaw)).T
    attitude = rotation.to_matrix(quaternion)
    return {
        "position_error": (heading @ (position - target.position))[None],
        "rotation_matrix": (heading @ attitude).reshape(1, 9),
        "linear_velocity_error": (heading @ (attitude @ velocity - target.velocity))[None],
        "angular_velocity": rates[None],
    }


def _read_setpoint(message: Any, world_frame: str, now: float) -> Setpoint:
    if message.header.frame_id != world_frame:
        raise ValueError(f"expected frame {world_frame!r}, found {message.header.frame_id!r}")
    if len(message.points) < 1 or len(message.points[0].transforms) != 1:
        raise ValueError("expected one point with one transform")
    point = message.points[0]
    pose = point.transforms[0]
    quaternion = np.array([*_xyz(pose.rotation), pose.rotation.w])
    position = _xyz(pose.translation)
    velocity = _xyz(point.velocities[0].linear) if len(point.velocities) else np.zeros(3)
    numbers = np.concatenate([position, velocity, quaternion])
    if not np.isfinite(numbers).all():
        raise ValueError(f"expected finite numbers, found {numbers}")
    if not abs(np.linalg.norm(quaternion) - 1) < 0.01:
        raise ValueError(f"expected a quaternion_xyzw of length 1, found {quaternion}")
    return Setpoint(now, position, velocity, float(rotation.yaw(quaternion)))


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
