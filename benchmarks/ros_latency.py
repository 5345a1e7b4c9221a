"""Odometry in to motors out, through the real policy_node in a process of its own.

This process plays the robot: it publishes odometry at a steady rate and notes when the command of
each comes back. At rates other than the policy's own, a copy of the bundle whose contract names
that rate is used (the network is the same; it is not meant to fly).

    python benchmarks/ros_latency.py --rates 100 250 --seconds 30
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnx
import rclpy
import tyro
from diagnostic_msgs.msg import DiagnosticArray
from geometry_msgs.msg import Transform
from nav_msgs.msg import Odometry
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rich.console import Console
from rich.table import Table
from std_msgs.msg import Float64MultiArray
from trajectory_msgs.msg import MultiDOFJointTrajectory, MultiDOFJointTrajectoryPoint

from robot_policies import bundle as bundles
from robot_policies.bundle import GRAPH
from robot_policies.contract import Chunk
from robot_policies.graph import stamp
from robot_policies.ros import NEWEST

GOAL_MS = 2.0


@dataclass(frozen=True)
class LatencyConfig:
    """What to measure."""

    bundle: str = "zoo:raptor"
    rates: tuple[float, ...] = (100.0, 250.0)
    """Odometry rates (Hz)."""
    seconds: float = 30.0
    """Measured time at each rate, after two seconds of warm-up."""
    params_file: Path = Path("config/quadrotor.yaml")
    realtime: int | None = None
    """Run both processes with SCHED_FIFO at this priority (needs the right to)."""


class Robot(Node):
    """Publishes odometry of a hovering robot and measures the answers."""

    def __init__(self, rate: float) -> None:
        super().__init__("robot", start_parameter_services=False)
        self.ready = False
        self.latencies: list[float] = []
        self.sent = 0
        self._period, self._published, self._answered = 1 / rate, 0.0, True
        self._odometry = Odometry(child_frame_id="base_link")
        self._odometry.header.frame_id = "world"
        self._odometry.pose.pose.orientation.w = 1.0
        self._odometry.pose.pose.position.z = 0.9
        self._publisher = self.create_publisher(Odometry, "odometry", NEWEST)
        self._setpoints = self.create_publisher(MultiDOFJointTrajectory, "setpoint", NEWEST)
        self.create_subscription(Float64MultiArray, "policy/motors", self._on_motors, NEWEST)
        self.create_subscription(DiagnosticArray, "/diagnostics", self._on_diagnostics, 10)
        self.create_timer(self._period, self._publish)
        self.create_timer(0.5, self._send_setpoint)

    def _publish(self) -> None:
        self._odometry.header.stamp = self.get_clock().now().to_msg()
        self.sent += 1
        self._answered = False
        self._published = time.perf_counter()
        self._publisher.publish(self._odometry)

    def _on_motors(self, message: Float64MultiArray) -> None:
        if not self._answered:
            self.latencies.append(time.perf_counter() - self._published)
            self._answered = True

    def _send_setpoint(self) -> None:
        transform = Transform()
        transform.translation.z = transform.rotation.w = 1.0
        message = MultiDOFJointTrajectory()
        message.header.frame_id = "world"
        message.points = [MultiDOFJointTrajectoryPoint(transforms=[transform])]
        self._setpoints.publish(message)

    def _on_diagnostics(self, message: DiagnosticArray) -> None:
        values = {v.key: v.value for status in message.status for v in status.values}
        self.ready = self.ready or int(values.get("steps", 0)) > 0


def bundle_at(rate: float, name: str, folder: Path) -> str:
    """The bundle itself, or a copy whose contract says `rate`."""
    bundle = bundles.read(name)
    if bundle.contract.timing.control_hz == rate:
        return name
    timing = replace(bundle.contract.timing, control_hz=rate)
    chunk = Chunk(bundle.contract.chunk.steps, 1 / rate)
    contract = replace(bundle.contract, timing=timing, chunk=chunk)
    graph = stamp(onnx.load_from_string(bundle.content[GRAPH]), contract)
    kept = {name: bundle.content[name] for name in bundle.files}
    path = folder / f"{rate:g}"
    bundles.write(path, contract, {**kept, GRAPH: graph})
    return str(path)


def measure(rate: float, config: LatencyConfig, folder: Path) -> Robot:
    """Run one rate."""
    command = [sys.executable, "-m", "deploy.policy_node", "--ros-args"]
    command += ["--params-file", str(config.params_file), "-p", "autostart:=true"]
    command += ["-p", f"bundle:={bundle_at(rate, config.bundle, folder)}"]
    if config.realtime is not None:
        command = ["chrt", "-f", str(config.realtime), *command]
    with open(folder / f"policy_{rate:g}.txt", "w") as log:
        policy = subprocess.Popen(command, stdout=log, stderr=log)
    robot = Robot(rate)
    executor = SingleThreadedExecutor()
    executor.add_node(robot)
    try:
        deadline = time.monotonic() + 60
        while not robot.ready:
            executor.spin_once(timeout_sec=0.1)
            if time.monotonic() > deadline or policy.poll() is not None:
                raise RuntimeError(f"the policy did not start:\n{Path(log.name).read_text()}")
        for seconds in (2.0, config.seconds):
            robot.latencies, robot.sent = [], 0
            end = time.monotonic() + seconds
            while time.monotonic() < end:
                executor.spin_once(timeout_sec=0.1)
    finally:
        policy.terminate()
        policy.wait()
        robot.destroy_node()
    return robot


def main() -> int:
    """Measure every rate; exit code 1 where the median at 100 Hz misses the goal."""
    config = tyro.cli(LatencyConfig, description=__doc__)
    os.environ.setdefault("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
    os.environ.setdefault("ROS_DOMAIN_ID", str(os.getpid() % 100 + 1))
    if config.realtime is not None:
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(config.realtime))
    rclpy.init()
    table = Table(title=f"odometry in to motors out, two processes ({config.bundle})")
    for column in ("rate Hz", "p50 ms", "p99 ms", "max ms", "answered", "load 1 min", "cores"):
        table.add_column(column, justify="right")
    missed = False
    with tempfile.TemporaryDirectory() as folder:
        for rate in config.rates:
            robot = measure(rate, config, Path(folder))
            p50, p99, top = np.quantile(robot.latencies, [0.5, 0.99, 1.0]) * 1e3
            missed = missed or (rate == 100 and p50 > GOAL_MS)
            table.add_row(
                f"{rate:g}", f"{p50:.2f}", f"{p99:.2f}", f"{top:.2f}",
                f"{len(robot.latencies)}/{robot.sent}", f"{os.getloadavg()[0]:.2f}",
                str(os.cpu_count()),
            )  # fmt: skip
    Console().print(table)
    rclpy.shutdown()
    return int(missed)


if __name__ == "__main__":
    sys.exit(main())
