"""Fields of ROS messages for robot_policies.logs: one message -> its fields.

A field is a number, a tuple of numbers, a text, or a list.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def _xyz(vector: Any) -> tuple[float, float, float]:
    return vector.x, vector.y, vector.z


def _xyzw(quaternion: Any) -> tuple[float, float, float, float]:
    return quaternion.x, quaternion.y, quaternion.z, quaternion.w


def _header(message: Any) -> dict[str, Any]:
    stamp = message.header.stamp
    nanoseconds = stamp.sec * 10**9 + stamp.nanosec
    return {"stamp": nanoseconds, "frame_id": message.header.frame_id}


def _odometry(message: Any) -> dict[str, Any]:
    return _header(message) | {
        "child_frame_id": message.child_frame_id,
        "position": _xyz(message.pose.pose.position),
        "quaternion_xyzw": _xyzw(message.pose.pose.orientation),
        "linear_velocity": _xyz(message.twist.twist.linear),
        "angular_velocity": _xyz(message.twist.twist.angular),
    }


def _imu(message: Any) -> dict[str, Any]:
    return _header(message) | {
        "quaternion_xyzw": _xyzw(message.orientation),
        "angular_velocity": _xyz(message.angular_velocity),
        "linear_acceleration": _xyz(message.linear_acceleration),
    }


def _joint_state(message: Any) -> dict[str, Any]:
    return _header(message) | {
        "labels": tuple(message.name),
        "position": tuple(message.position),
        "velocity": tuple(message.velocity),
        "effort": tuple(message.effort),
    }


def _trajectory(message: Any) -> dict[str, Any]:
    nan = float("nan")
    point = message.points[0] if message.points else None
    pose = point.transforms[0] if point and point.transforms else None
    twist = point.velocities[0] if point and point.velocities else None
    return _header(message) | {
        "position": _xyz(pose.translation) if pose else (nan,) * 3,
        "quaternion_xyzw": _xyzw(pose.rotation) if pose else (nan,) * 4,
        "linear_velocity": _xyz(twist.linear) if twist else (nan,) * 3,
        "angular_velocity": _xyz(twist.angular) if twist else (nan,) * 3,
    }


def _multi_array(message: Any) -> dict[str, Any]:
    dimensions = message.layout.dim
    label = dimensions[0].label if len(dimensions) == 1 else ""
    return {"labels": tuple(label.split(",")) if label else (), "data": tuple(message.data)}


def _wrench(message: Any) -> dict[str, Any]:
    return {"force": _xyz(message.force), "torque": _xyz(message.torque)}


def _diagnostics(message: Any) -> dict[str, Any]:
    statuses = [
        {
            "name": status.name,
            "level": int(status.level),
            "message": status.message,
            "hardware_id": status.hardware_id,
            "values": {pair.key: pair.value for pair in status.values},
        }
        for status in message.status
    ]
    return {"stamp": _header(message)["stamp"], "status": statuses}


def _data(message: Any) -> dict[str, Any]:
    return {"data": message.data}


ROWS: dict[str, Callable[[Any], dict[str, Any]]] = {
    "nav_msgs/Odometry": _odometry,
    "sensor_msgs/Imu": _imu,
    "sensor_msgs/JointState": _joint_state,
    "trajectory_msgs/MultiDOFJointTrajectory": _trajectory,
    "std_msgs/Float64MultiArray": _multi_array,
    "geometry_msgs/Wrench": _wrench,
    "diagnostic_msgs/DiagnosticArray": _diagnostics,
    **{f"std_msgs/{name}": _data for name in ("String", "Bool", "Float32", "Float64", "Int64")},
}
"""Message type -> what takes a decoded message of that type apart."""
