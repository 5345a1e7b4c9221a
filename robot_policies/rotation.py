"""The few quaternion functions that run onboard. Quaternions are xyzw, Hamilton, unit length.

A quaternion q of frame `world_from_body` turns body coordinates into world coordinates.
"""

from __future__ import annotations

from typing import Any

import numpy as np


def matrix_rows(x: Any, y: Any, z: Any, w: Any) -> tuple[tuple[Any, Any, Any], ...]:
    """The three rows of the rotation matrix; x, y, z, w are floats, or arrays of one shape."""
    return (
        (1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)),
        (2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)),
        (2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)),
    )


def to_matrix(quaternion_xyzw: np.ndarray) -> np.ndarray:
    """Rotation matrices [..., 3, 3] of unit quaternions [..., 4]."""
    rows = matrix_rows(*np.moveaxis(np.asarray(quaternion_xyzw, np.float64), -1, 0))
    return np.stack([np.stack(row, axis=-1) for row in rows], axis=-2)


def from_yaw(yaw: np.ndarray | float) -> np.ndarray:
    """Quaternion [..., 4] of a rotation about world z (rad)."""
    half = np.asarray(yaw, np.float64) / 2
    zero = np.zeros_like(half)
    return np.stack([zero, zero, np.sin(half), np.cos(half)], axis=-1)


def yaw(quaternion_xyzw: np.ndarray) -> np.ndarray:
    """Heading (rad) about world z of quaternions [..., 4]."""
    x, y, z, w = np.moveaxis(np.asarray(quaternion_xyzw, np.float64), -1, 0)
    return np.arctan2(2 * (w * z + x * y), 1 - 2 * (y * y + z * z))


def tilt(quaternion_xyzw: np.ndarray) -> np.ndarray:
    """Angle (rad) between body z and world z of quaternions [..., 4]."""
    x, y, _, _ = np.moveaxis(np.asarray(quaternion_xyzw, np.float64), -1, 0)
    return np.arccos(np.clip(1 - 2 * (x * x + y * y), -1.0, 1.0))
