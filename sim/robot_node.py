"""A ROS 2 node that IS the simulated robot: the same topics as the real one, in real time.

    motors   Float64MultiArray -> |            | -> odometry  nav_msgs/Odometry, twist in body
    push     Wrench, N, world  -> | robot_node | -> imu  sensor_msgs/Imu
    ~/reset  Trigger           -> |            | -> /diagnostics

Time stamps are the simulation's: exact multiples of the odometry period, in step with the clock.
/diagnostics tells, seen from the robot, how long each motor command took after its odometry.
"""

from __future__ import annotations

import os
import sys
import time
from dataclasses import dataclass

import numpy as np
import torch
from geometry_msgs.msg import Wrench
from nav_msgs.msg import Odometry
from rclpy.node import Node
from rclpy.time import Time
from sensor_msgs.msg import Imu
from std_msgs.msg import Float64MultiArray
from std_srvs.srv import Trigger

from robot_policies.ros import (
    ERROR,
    NEWEST,
    OK,
    STEADY,
    Diagnostics,
    Durations,
    read_parameters,
    run,
)
from sim.quadrotor import airframes
from sim.quadrotor.robot import Measurement, SimulatedQuadrotor

DIAGNOSTICS_HZ = 5.0
MOTORS = "front_right,back_right,back_left,front_left"


@dataclass(frozen=True)
class RobotNodeConfig:
    """Parameters of robot_node (config/quadrotor.yaml describes each)."""

    airframe: str
    start: tuple[float, ...]
    odometry_hz: float
    motor_timeout_s: float
    push_duration_s: float
    world_frame: str
    body_frame: str

    def __post_init__(self) -> None:
        """Refuse what cannot be simulated."""
        make_airframe(self.airframe)
        if not 10 <= self.odometry_hz <= 1000:
            raise ValueError(f"odometry_hz: expected 10 to 1000, found {self.odometry_hz}")
        if len(self.start) != 2:
            raise ValueError(f"start: expected x and y (m), found {self.start}")
        for name in ("motor_timeout_s", "push_duration_s"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name}: expected more than 0, found {getattr(self, name)}")


class RobotNode(Node):
    """See the module's docstring."""

    def __init__(self) -> None:
        """Read the parameters; raises ContractError with everything that is wrong with them."""
        super().__init__("robot_node")
        config = read_parameters(self, RobotNodeConfig)
        self._config, self._period = config, 1 / config.odometry_hz
        airframe = make_airframe(config.airframe)
        x, y = config.start
        self._robot = SimulatedQuadrotor(airframe, (x, y), config.motor_timeout_s)
        self._robot.advance(self._period)  # the first step is slow: not in real time
        self._durations = Durations("latency")
        self._commands = self._missed = self._refused = 0
        self._answered = True
        self._odometry, self._imu = self._messages()
        self._odometry_publisher = self.create_publisher(Odometry, "odometry", NEWEST)
        self._imu_publisher = self.create_publisher(Imu, "imu", NEWEST)
        self.create_subscription(Float64MultiArray, "motors", self._on_motors, NEWEST)
        self.create_subscription(Wrench, "push", self._on_push, 10)
        self.create_service(Trigger, "~/reset", self._on_reset)
        self._diagnostics = Diagnostics(self)
        self.create_timer(1 / DIAGNOSTICS_HZ, self._report, clock=STEADY)
        # The stamps are on the ROS clock, their steps on the simulation's.
        self._epoch = self.get_clock().now().nanoseconds - round(self._robot.time * 1e9)
        self._published = time.monotonic()
        self.create_timer(self._period, self._advance, clock=STEADY)

    def _messages(self) -> tuple[Odometry, Imu]:
        odometry, imu = Odometry(), Imu()
        odometry.header.frame_id = self._config.world_frame
        odometry.child_frame_id = imu.header.frame_id = self._config.body_frame
        return odometry, imu

    def _advance(self) -> None:
        """Catch up with the clock; publish the newest state only, as a sensor would."""
        elapsed = (self.get_clock().now().nanoseconds - self._epoch) * 1e-9 - self._robot.time
        periods = int(elapsed / self._period + 0.01)
        if periods < 1:
            return
        for _ in range(min(periods, 100)):
            self._robot.advance(self._period)
        if periods > 100:  # suspended, not slow: do not simulate the gap
            self._epoch += round((periods - 100) * self._period * 1e9)
        self._publish(self._robot.measure())

    def _publish(self, measurement: Measurement) -> None:
        stamp = Time(nanoseconds=self._epoch + round(measurement.time * 1e9)).to_msg()
        self._odometry.header.stamp = self._imu.header.stamp = stamp
        pose, twist = self._odometry.pose.pose, self._odometry.twist.twist
        _set_xyz(pose.position, measurement.position)
        _set_xyz(pose.orientation, measurement.quaternion_xyzw)
        pose.orientation.w = float(measurement.quaternion_xyzw[3])
        _set_xyz(twist.linear, measurement.velocity_body)
        _set_xyz(twist.angular, measurement.angular_velocity)
        if not self._answered:
            self._missed += 1
        # Once commands flow, each odometry wants an answer before the next one.
        self._answered = self._commands == 0
        self._published = time.monotonic()
        self._odometry_publisher.publish(self._odometry)
        self._imu.orientation = pose.orientation
        self._imu.angular_velocity = twist.angular
        _set_xyz(self._imu.linear_acceleration, measurement.specific_force)
        self._imu_publisher.publish(self._imu)

    def _on_motors(self, message: Float64MultiArray) -> None:
        received = time.monotonic()
        labels = [dimension.label for dimension in message.layout.dim]
        try:
            if labels != [MOTORS]:
                raise ValueError(f"motors: expected the order {MOTORS}, found {labels}")
            self._robot.command(np.asarray(message.data))
        except ValueError as error:
            self._refused += 1
            self.get_logger().error(str(error), throttle_duration_sec=1.0)
            return
        self._commands += 1
        if not self._answered:
            self._durations.add(received - self._published)
            self._answered = True

    def _on_push(self, message: Wrench) -> None:
        force = np.array([message.force.x, message.force.y, message.force.z])
        try:
            self._robot.push(force, self._config.push_duration_s)
        except ValueError as error:
            self.get_logger().error(str(error))

    def _on_reset(self, request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        self._robot.reset()
        response.success, response.message = True, "standing at the start"
        return response

    def _report(self) -> None:
        values = {
            "commands": self._commands,
            "refused_commands": self._refused,
            "missed_deadlines": self._missed,
            "load": " ".join(f"{load:.2f}" for load in os.getloadavg()),
            **self._durations.figures(),
        }
        crashed = self._robot.crashed
        self._diagnostics.publish(ERROR if crashed else OK, "crashed" if crashed else "", values)


def make_airframe(name: str) -> airframes.Airframes:
    """A standard airframe by name, or "sampled:SEED" (ValueError for another text)."""
    kind, _, seed = name.partition(":")
    if kind != "sampled":
        return airframes.standard(name)
    if not seed.isdigit():
        raise ValueError(f"airframe: expected a standard name or sampled:SEED, found {name!r}")
    return airframes.sample(count=1, seed=int(seed))


def _set_xyz(target: object, values: np.ndarray) -> None:
    target.x, target.y, target.z = (float(v) for v in values[:3])  # type: ignore[attr-defined]


def main() -> None:
    """Run the node."""
    torch.set_num_threads(1)
    sys.exit(run(RobotNode))


if __name__ == "__main__":
    main()
