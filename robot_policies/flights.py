"""A quadrotor's signals in a log, as they were told onboard (deploy/quadrotor.py).

    found = signals(log, odometry="/odometry", setpoint="/setpoint")
    time, values = found["position_error"]            # [T] s, [T, 3] m

Of each odometry message with the newest set-point, in a world turned by its heading. A moving
set-point that went stale is not held at rest, as it is onboard.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from robot_policies import rotation
from robot_policies.logs import Log

FloatArray = NDArray[np.float64]


def signals(log: Log, odometry: str, setpoint: str) -> dict[str, tuple[FloatArray, FloatArray]]:
    """Name -> times [T] s and values [T, W]; messages before the first set-point are left out.

    Raises KeyError where a topic was not recorded.
    """
    flown, aimed = log[odometry], log[setpoint]
    newest = np.searchsorted(aimed.time, flown.time, side="right") - 1
    told, newest = newest >= 0, newest[newest >= 0]
    attitude = rotation.to_matrix(flown["quaternion_xyzw"][told])
    heading = rotation.yaw(aimed["quaternion_xyzw"])[newest]
    turn = rotation.to_matrix(rotation.from_yaw(-heading))
    velocity = np.einsum("tij,tj->ti", attitude, flown["linear_velocity"][told])
    wanted = np.nan_to_num(aimed["linear_velocity"])[newest]
    found = {
        "position_error": _turned(turn, flown["position"][told] - aimed["position"][newest]),
        "rotation_matrix": (turn @ attitude).reshape(-1, 9),
        "linear_velocity_error": _turned(turn, velocity - wanted),
        "angular_velocity": flown["angular_velocity"][told],
    }
    return {name: (flown.time[told], values) for name, values in found.items()}


def _turned(turn: FloatArray, vectors: FloatArray) -> FloatArray:
    return np.einsum("tij,tj->ti", turn, vectors)
