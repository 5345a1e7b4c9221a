"""Quaternions are xyzw and turn body into world."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from robot_policies import rotation

unit = st.tuples(*[st.floats(-1, 1)] * 4).map(np.array).filter(lambda q: np.linalg.norm(q) > 0.1)


@given(unit)
def test_the_matrix_is_a_rotation(quaternion):
    quaternion = quaternion / np.linalg.norm(quaternion)
    matrix = rotation.to_matrix(quaternion)
    np.testing.assert_allclose(matrix @ matrix.T, np.eye(3), atol=1e-12)
    assert np.linalg.det(matrix) == pytest.approx(1.0)


@given(st.floats(-3.1, 3.1))
def test_yaw_turns_x_towards_y(angle):
    quaternion = rotation.from_yaw(angle)
    assert rotation.yaw(quaternion) == pytest.approx(angle)
    expected = [np.cos(angle), np.sin(angle), 0]
    assert rotation.to_matrix(quaternion)[:, 0] == pytest.approx(expected)
    assert rotation.tilt(quaternion) == pytest.approx(0.0, abs=1e-7)


def test_tilt_of_a_batch():
    roll = np.array([[0.0, 0, 0, 1], [np.sin(0.25), 0, 0, np.cos(0.25)]])
    assert rotation.tilt(roll) == pytest.approx([0.0, 0.5])


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_quarter_turn_about_an_axis_takes_the_next_one_to_the_one_after(axis):
    quaternion = np.array([0.0, 0.0, 0.0, np.sqrt(0.5)])
    quaternion[axis] = np.sqrt(0.5)
    turned = rotation.to_matrix(quaternion) @ np.eye(3)[(axis + 1) % 3]
    assert turned == pytest.approx(np.eye(3)[(axis + 2) % 3])
