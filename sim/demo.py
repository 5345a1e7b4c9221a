"""Fly the demonstration: robot, guard, policy and recorder as real ROS 2 processes, and a report.

Take-off, hover, figure-eight, a push, landing. Everything is recorded as MCAP; at the end a table
is printed and one HTML page with plots is written. Exit code 0 where the flight kept its limits.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from geometry_msgs.msg import Transform, Twist, Wrench
from rclpy.node import Node
from rclpy.utilities import try_shutdown
from rich.console import Console
from std_msgs.msg import String
from trajectory_msgs.msg import MultiDOFJointTrajectory, MultiDOFJointTrajectoryPoint

from robot_policies import logs, report, report_page
from robot_policies.ros import NEWEST
from sim.quadrotor.mission import DEMONSTRATION, Phase

SETPOINT_HZ = 50.0
READY_S = 60.0
NODES = ("robot_node", "guard_node", "policy_node")
MODULES = {
    "robot_node": "sim.robot_node",
    "guard_node": "deploy.guard_node",
    "policy_node": "deploy.policy_node",
    "recorder_node": "deploy.recorder_node",
}
console = Console(stderr=True)


@dataclass(frozen=True)
class DemoConfig:
    """Fly a bundle in simulation through the real nodes.

    Example: python -m sim.demo --bundle zoo:quadrotor --output flight/first
    """

    bundle: str = "zoo:quadrotor"
    """A bundle's directory, or zoo:NAME."""
    params_file: Path = Path(__file__).parents[1] / "config" / "quadrotor.yaml"
    """Parameters of the nodes."""
    output: Path | None = None
    """Directory to make for log and report (flight/DATE-TIME where not given)."""
    push_n: float = 0.15
    """Force of the push along y, for the parameter file's push_duration_s."""


Check = Callable[[], None]
"""Raises FlightError where a node has ended."""


class FlightError(RuntimeError):
    """The flight could not be flown; the text says why."""


class Mission(Node):
    """Publishes set-points, the current phase and the push; listens to /diagnostics."""

    def __init__(self, world_frame: str) -> None:
        """Create the topics."""
        super().__init__("mission")
        self.status: dict[str, dict[str, str]] = {}
        """Node name -> the values of its newest status."""
        self._world_frame = world_frame
        self._setpoint = self.create_publisher(MultiDOFJointTrajectory, "setpoint", NEWEST)
        self._phase = self.create_publisher(String, "phase", 10)
        self._push = self.create_publisher(Wrench, "push", 10)
        self.create_subscription(DiagnosticArray, "/diagnostics", self._on_diagnostics, 10)

    def wait_for(self, nodes: tuple[str, ...], deadline_s: float, check: Check) -> None:
        """Wait until every node reports and the policy is active; FlightError after the time."""
        deadline = time.monotonic() + deadline_s
        while True:
            rclpy.spin_once(self, timeout_sec=0.1)
            check()
            policy = self.status.get("policy_node", {})
            missing = [name for name in nodes if name not in self.status]
            if not missing and policy.get("state") != "INACTIVE":
                return
            if time.monotonic() > deadline:
                found = ", ".join(missing) or f"policy_node inactive: {policy.get('message')}"
                raise FlightError(f"not ready after {deadline_s:g} s: {found}")

    def fly(self, phases: tuple[Phase, ...], push_n: float) -> None:
        """Go through the phases in real time."""
        for phase in phases:
            console.print(f"  {phase.name} ({phase.duration_s:g} s)")
            self._phase.publish(String(data=phase.name))
            if phase.name == "push":
                push = Wrench()
                push.force.y = push_n
                self._push.publish(push)
            self._follow(phase)

    def _follow(self, phase: Phase) -> None:
        start = time.monotonic()
        step = 0
        while step / SETPOINT_HZ < phase.duration_s:
            self._send(phase, step / SETPOINT_HZ)
            step += 1
            while (rest := start + step / SETPOINT_HZ - time.monotonic()) > 0:
                rclpy.spin_once(self, timeout_sec=rest)

    def _send(self, phase: Phase, elapsed: float) -> None:
        position, velocity = phase.target(elapsed)
        transform, twist = Transform(), Twist()
        for target, values in ((transform.translation, position), (twist.linear, velocity)):
            target.x, target.y, target.z = (float(value) for value in values)
        point = MultiDOFJointTrajectoryPoint(transforms=[transform], velocities=[twist])
        message = MultiDOFJointTrajectory(points=[point], joint_names=["base_link"])
        message.header.frame_id = self._world_frame
        message.header.stamp = self.get_clock().now().to_msg()
        self._setpoint.publish(message)

    def _on_diagnostics(self, message: DiagnosticArray) -> None:
        for status in message.status:
            values = {value.key: value.value for value in status.values}
            self.status[status.name] = {"message": status.message, **values}


@contextlib.contextmanager
def node_processes(config: DemoConfig, output: Path) -> Iterator[dict[str, subprocess.Popen]]:
    """Start the nodes as processes that log into `output`; end them with SIGTERM."""
    arguments = {
        "policy_node": ["-p", f"bundle:={config.bundle}", "-p", "autostart:=true"],
        "recorder_node": ["-p", f"output:={output / 'log'}"],
    }
    processes = {}
    try:
        for name, module in MODULES.items():
            ros = ["--ros-args", "--params-file", str(config.params_file)]
            command = [sys.executable, "-m", module, *ros, *arguments.get(name, [])]
            with open(output / f"{name}.txt", "w") as log:
                processes[name] = subprocess.Popen(command, stdout=log, stderr=log)
        yield processes
    finally:
        # The recorder last, so that the end of the others is on record.
        for process in processes.values():
            process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(timeout=20)
            process.kill()


def _prepare_environment() -> None:
    # This is a demonstration: its commands stay on this machine.
    os.environ.setdefault("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
    # Not shared memory, of which killed processes of any earlier run leave pieces in the way.
    os.environ.setdefault("FASTDDS_BUILTIN_TRANSPORTS", "UDPv4")
    os.environ.setdefault("ROS_DOMAIN_ID", str(os.getpid() % 100 + 1))
    # ROS from PyPI keeps its index in the environment's own folder, and does not say so.
    if (Path(sys.prefix) / "share" / "ament_index").is_dir():
        os.environ.setdefault("AMENT_PREFIX_PATH", sys.prefix)


def _require_running(processes: dict[str, subprocess.Popen], output: Path) -> None:
    for name, process in processes.items():
        if process.poll() is not None:
            told = (output / f"{name}.txt").read_text().strip()[-2000:]
            raise FlightError(f"{name} ended with {process.returncode}:\n{told}")


def fly(config: DemoConfig) -> report.FlightReport:
    """Fly the mission and write log and report into the output directory.

    Raises:
        FlightError: the bundle was refused, a node did not start, or ended in flight.
        FileExistsError: the output directory exists.
    """
    command = [sys.executable, "-m", "robot_policies.cli", "verify", config.bundle]
    if code := subprocess.run(command).returncode:
        raise FlightError(f"the bundle was refused: {' '.join(command[2:])} ended with {code}")
    output = config.output or Path("flight") / time.strftime("%Y%m%d-%H%M%S")
    output.mkdir(parents=True)
    _prepare_environment()
    rclpy.init()
    mission = Mission(world_frame="world")
    try:
        with node_processes(config, output) as processes:
            console.print(f"starting {', '.join(MODULES)} (their output: {output})")
            mission.wait_for(NODES, READY_S, lambda: _require_running(processes, output))
            mission.fly(DEMONSTRATION, config.push_n)
            _require_running(processes, output)
    finally:
        mission.destroy_node()
        try_shutdown()
    log = logs.read(output / "log")
    flight = report.flight(log)
    (output / "report.html").write_text(report_page.page(flight, log), encoding="utf-8")
    console.print(f"log {output / 'log'}, report {output / 'report.html'}")
    return flight


def main() -> int:
    """Command line: see DemoConfig."""
    import tyro

    try:
        flight = fly(tyro.cli(DemoConfig))
    except (FlightError, OSError, ValueError) as error:
        console.print(str(error), style="red", markup=False, highlight=False)
        return 1 if isinstance(error, FlightError) else 2
    except KeyboardInterrupt:
        return 130
    Console().print(flight.table())
    return 0 if flight.ok else 1


if __name__ == "__main__":
    sys.exit(main())
