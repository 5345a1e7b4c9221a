"""One simulated quadrotor as a robot: real time, a ground, motors that stop without commands.

Pure simulation; sim/robot_node.py gives it its ROS topics.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch

from robot_policies import rotation
from sim.quadrotor import airframes, dynamics
from sim.quadrotor.airframes import Airframes
from sim.quadrotor.dynamics import State

MAX_STEP_S = 0.01
"""Longest integration step: the one the dynamics were checked with."""
CRASH_TILT = 0.5
"""rad: touching the ground tilted more than this is a crash."""


@dataclass(frozen=True)
class Measurement:
    """What the robot's sensors say, without noise; arrays of float64."""

    time: float
    """s, since the start of the simulation."""
    position: np.ndarray
    """[3] m, world."""
    quaternion_xyzw: np.ndarray
    """[4], body to world."""
    velocity_body: np.ndarray
    """[3] m/s, body."""
    angular_velocity: np.ndarray
    """[3] rad/s, body."""
    specific_force: np.ndarray
    """[3] m/s^2, body: what an accelerometer reads."""


class SimulatedQuadrotor:
    """A quadrotor standing on the ground at z = 0, until its motors lift it."""

    def __init__(
        self, airframe: Airframes, position: tuple[float, float], motor_timeout_s: float
    ) -> None:
        """Place one quadrotor (an Airframes of one) at x, y on the ground, motors off.

        Raises ValueError for more than one airframe.
        """
        if airframe.count != 1:
            raise ValueError(f"airframe: expected one quadrotor, found {airframe.count}")
        self._airframe = airframe
        self._start = position
        self._motor_timeout_s = motor_timeout_s
        self.reset()

    def reset(self) -> None:
        """Back to the start, standing, motors off; time goes on."""
        hover = dynamics.hover_state(self._airframe)
        data = torch.zeros_like(hover.data)
        data[0, 0], data[1, 0] = self._start
        data[6] = 1.0
        self._state = State(data)
        self._motors = np.zeros(4)
        self._motors_time = -math.inf
        self._force, self._force_until = np.zeros(3), -math.inf
        self.time = getattr(self, "time", 0.0)
        self.crashed = False

    def command(self, motors: np.ndarray) -> None:
        """Set the rotor speeds [4], normalised 0..1, until the next command or the timeout.

        Raises ValueError for another shape or a number that is not finite.
        """
        if motors.shape != (4,) or not _fits(motors):
            raise ValueError(f"motors: expected 4 finite numbers, found {motors}")
        self._motors, self._motors_time = motors.astype(np.float64), self.time

    def push(self, force: np.ndarray, duration_s: float) -> None:
        """Apply a force [3] (N, world) for a while from now on.

        Raises ValueError for another shape or a number that is not finite.
        """
        if force.shape != (3,) or not _fits(force):
            raise ValueError(f"force: expected 3 finite numbers, found {force}")
        self._force, self._force_until = force.astype(np.float64), self.time + duration_s

    def advance(self, duration_s: float) -> None:
        """Simulate `duration_s` seconds, in steps of at most 10 ms."""
        count = math.ceil(duration_s / MAX_STEP_S - 1e-9)
        for _ in range(count):
            self._step(duration_s / count)

    def measure(self) -> Measurement:
        """What the sensors say now."""
        state, force = self._state, self._acting_force()
        quaternion = _vector(state.quaternion_xyzw)
        attitude = rotation.to_matrix(quaternion)
        if self._stands():
            specific = attitude.T @ np.array([0.0, 0.0, airframes.GRAVITY])
        else:
            column = torch.tensor(force, dtype=torch.float32)[:, None]
            specific = _vector(dynamics.specific_force(state, self._airframe, column))
        return Measurement(
            time=self.time,
            position=_vector(state.position),
            quaternion_xyzw=quaternion,
            velocity_body=attitude.T @ _vector(state.linear_velocity),
            angular_velocity=_vector(state.angular_velocity),
            specific_force=specific,
        )

    def _step(self, dt: float) -> None:
        off = self.crashed or self.time - self._motors_time > self._motor_timeout_s
        action = torch.tensor(np.zeros(4) if off else self._motors, dtype=torch.float32)[:, None]
        force = torch.tensor(self._acting_force(), dtype=torch.float32)[:, None]
        with torch.inference_mode():
            self._state = dynamics.step(self._state, action, self._airframe, force, dt)
        self.time += dt
        self._touch_ground()

    def _acting_force(self) -> np.ndarray:
        return self._force if self.time < self._force_until else np.zeros(3)

    def _stands(self) -> bool:
        return float(self._state.position[2, 0]) <= 0.0

    def _touch_ground(self) -> None:
        """A ground without bounce or slip: what touches it stands, level, or has crashed."""
        if not self._stands():
            return
        data = self._state.data.clone()
        tilt = float(rotation.tilt(_vector(self._state.quaternion_xyzw)))
        self.crashed = self.crashed or tilt > CRASH_TILT
        data[2] = 0.0
        data[7:10] = data[7:10].clamp(min=0.0) * torch.tensor([[0.0], [0.0], [1.0]])
        data[10:13] = 0.0
        if not self.crashed:
            heading = torch.nn.functional.normalize(data[5:7], dim=0)
            data[3:7] = torch.cat([torch.zeros(2, 1), heading])
        self._state = State(data)


def _vector(rows: torch.Tensor) -> np.ndarray:
    return rows[:, 0].numpy().astype(np.float64)


def _fits(values: np.ndarray) -> bool:
    """Finite also as the 32-bit numbers that the dynamics are computed in."""
    return bool((np.abs(values) <= np.finfo(np.float32).max).all())
