"""The test's end of the wire: publishes set-points and sensor data, records what comes back."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from geometry_msgs.msg import Transform
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState, GetState
from nav_msgs.msg import Odometry
from rcl_interfaces.srv import SetParameters
from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor
from rclpy.parameter import Parameter
from rclpy.qos import QoSProfile, ReliabilityPolicy
from std_msgs.msg import Float64MultiArray, MultiArrayDimension
from std_srvs.srv import Trigger
from trajectory_msgs.msg import MultiDOFJointTrajectory, MultiDOFJointTrajectoryPoint

from robot_policies.ros import NEWEST

EVERY = QoSProfile(depth=2000, reliability=ReliabilityPolicy.BEST_EFFORT)
"""For what is judged: nothing is overwritten unseen while this process is not scheduled."""
MOTORS = "front_right,back_right,back_left,front_left"


class Pilot:
    """A node in this process, with everything that it has heard."""

    def __init__(self, domain: int) -> None:
        self.context = Context()
        rclpy.init(context=self.context, domain_id=domain)
        self.node = rclpy.create_node("pilot", context=self.context)
        self.executor = SingleThreadedExecutor(context=self.context)
        self.executor.add_node(self.node)
        self.position: np.ndarray | None = None
        self.commands: list[tuple[float, np.ndarray]] = []
        """Time (s, monotonic) and values of everything that reached the motors."""
        self.policy_commands: list[tuple[float, np.ndarray]] = []
        self.status: dict[str, dict[str, str]] = {}
        create = self.node.create_subscription
        create(Odometry, "odometry", self._on_odometry, NEWEST)
        create(Float64MultiArray, "motors", self._keep(self.commands), EVERY)
        create(Float64MultiArray, "policy/motors", self._keep(self.policy_commands), EVERY)
        create(DiagnosticArray, "/diagnostics", self._on_diagnostics, 10)
        publish = self.node.create_publisher
        self._setpoint = publish(MultiDOFJointTrajectory, "setpoint", NEWEST)
        self._odometry = publish(Odometry, "odometry", NEWEST)
        self._policy = None

    def close(self) -> None:
        self.executor.shutdown()
        self.node.destroy_node()
        rclpy.shutdown(context=self.context)

    def spin(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        while (rest := end - time.monotonic()) > 0:
            self.executor.spin_once(timeout_sec=rest)

    def until(self, condition: Any, timeout: float, what: str, doing: Any = None) -> None:
        """Spin (and do) until the condition holds."""
        end = time.monotonic() + timeout
        while not condition():
            assert time.monotonic() < end, f"waited {timeout} s for {what}; {self.status}"
            if doing is not None:
                doing()
            self.spin(0.02)

    def go_to(self, x: float, y: float, z: float, frame: str = "world") -> None:
        transform = Transform()
        transform.translation.x, transform.translation.y, transform.translation.z = x, y, z
        point = MultiDOFJointTrajectoryPoint(transforms=[transform])
        message = MultiDOFJointTrajectory(points=[point])
        message.header.frame_id = frame
        self._setpoint.publish(message)

    def send_odometry(self, height: float = 0.8, delay_s: float = 0.0, **changes: float) -> None:
        """Odometry of a robot hovering at `height`, stamped `delay_s` ago."""
        message = Odometry(child_frame_id="base_link")
        now = self.node.get_clock().now().nanoseconds - round(delay_s * 1e9)
        message.header.stamp.sec, message.header.stamp.nanosec = divmod(now, 10**9)
        message.header.frame_id = "world"
        message.pose.pose.position.z = height
        message.pose.pose.orientation.w = changes.get("w", 1.0)
        message.pose.pose.position.x = changes.get("x", 0.0)
        message.twist.twist.angular.y = changes.get("rate", 0.0)
        self._odometry.publish(message)

    def hover(self, seconds: float, hz: float = 100.0) -> None:
        """Play a robot that hovers, in real time."""
        start = time.monotonic()
        for step in range(round(seconds * hz)):
            self.send_odometry()
            self.spin(max(start + (step + 1) / hz - time.monotonic(), 0.0))

    def pose_as_a_policy(self) -> None:
        self._policy = self.node.create_publisher(Float64MultiArray, "policy/motors", NEWEST)

    def stop_posing(self) -> None:
        self.node.destroy_publisher(self._policy)

    def send_policy_command(self, values: list[float], labels: str = MOTORS) -> None:
        if self._policy is None:
            self.pose_as_a_policy()
        message = Float64MultiArray(data=values)
        message.layout.dim = [MultiArrayDimension(label=labels, size=4, stride=4)]
        self._policy.publish(message)

    def change_state(self, transition: str) -> bool:
        identifier = getattr(Transition, f"TRANSITION_{transition.upper()}")
        request = ChangeState.Request(transition=Transition(id=identifier))
        return self.call(ChangeState, "policy_node/change_state", request).success

    def state(self) -> str:
        request = GetState.Request()
        return self.call(GetState, "policy_node/get_state", request).current_state.label

    def reset_guard(self) -> Trigger.Response:
        return self.call(Trigger, "guard_node/reset", Trigger.Request())

    def set_parameter(self, node: str, name: str, value: float) -> bool:
        parameter = Parameter(name, value=value).to_parameter_msg()
        request = SetParameters.Request(parameters=[parameter])
        return self.call(SetParameters, f"{node}/set_parameters", request).results[0].successful

    def call(self, kind: Any, name: str, request: Any) -> Any:
        client = self.node.create_client(kind, name)
        self.until(client.service_is_ready, 30, name)
        future = client.call_async(request)
        self.until(future.done, 30, name)
        self.node.destroy_client(client)
        return future.result()

    def _keep(self, record: list[tuple[float, np.ndarray]]) -> Any:
        def keep(message: Float64MultiArray) -> None:
            record.append((time.monotonic(), np.array(message.data)))

        return keep

    def _on_odometry(self, message: Odometry) -> None:
        point = message.pose.pose.position
        self.position = np.array([point.x, point.y, point.z])

    def _on_diagnostics(self, message: DiagnosticArray) -> None:
        for status in message.status:
            values = {value.key: value.value for value in status.values}
            self.status[status.name] = {"message": status.message, **values}
