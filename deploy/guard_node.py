"""The guard: a process of its own between policy and motors (see deploy/guard.py).

    policy/motors  Float64MultiArray -> | guard_node | -> motors  Float64MultiArray
    ~/reset  Trigger                 -> |            | -> /diagnostics

It passes good commands on at once. It gives the safe command, at `watch_hz`, from the first bad
command, or from the first silence longer than `timeout_s`, until ~/reset is called, and when it is
itself ended. Worst case from the last command to the safe one: timeout_s + 1 / watch_hz, and the
machine's scheduling.
"""

from __future__ import annotations

import array
import gc
import sys
import time
from dataclasses import dataclass, fields

import numpy as np
from rclpy.node import Node
from std_msgs.msg import Float64MultiArray, MultiArrayDimension
from std_srvs.srv import Trigger

from deploy import guard
from deploy.guard import GuardConfig, GuardState
from robot_policies.ros import ERROR, NEWEST, OK, STEADY, Diagnostics, read_parameters, run

DIAGNOSTICS_HZ = 5.0


@dataclass(frozen=True)
class GuardNodeConfig(GuardConfig):
    """Parameters of guard_node (config/quadrotor.yaml describes each)."""

    watch_hz: float

    def __post_init__(self) -> None:
        """Refuse what would make the promised reaction time untrue."""
        super().__post_init__()
        if not 20 <= self.watch_hz <= 1000:
            raise ValueError(f"watch_hz: expected 20 to 1000, found {self.watch_hz}")


class GuardNode(Node):
    """See the module's docstring."""

    def __init__(self) -> None:
        """Read the parameters; raises ContractError with everything that is wrong with them."""
        super().__init__("guard_node")
        config = read_parameters(self, GuardNodeConfig)
        self._config = GuardConfig(*(getattr(config, f.name) for f in fields(GuardConfig)))
        self._state = GuardState()
        size = len(config.elements)
        dimension = MultiArrayDimension(label=",".join(config.elements), size=size, stride=size)
        self._message = Float64MultiArray()
        self._message.layout.dim = [dimension]
        self._publisher = self.create_publisher(Float64MultiArray, "motors", NEWEST)
        self.create_subscription(Float64MultiArray, "policy/motors", self._on_command, NEWEST)
        self.create_service(Trigger, "~/reset", self._on_reset)
        # On the steady clock: the guard watches also when the ROS clock is set, or stands still.
        self.create_timer(1 / config.watch_hz, self._on_watch, clock=STEADY)
        self._diagnostics = Diagnostics(self)
        self.create_timer(1 / DIAGNOSTICS_HZ, self._report, clock=STEADY)
        gc.collect()
        gc.freeze()

    def _on_command(self, message: Float64MultiArray) -> None:
        dimensions = list(message.layout.dim)
        labels = dimensions[0].label.split(",") if len(dimensions) == 1 else []
        values = np.asarray(message.data, np.float64)
        before = self._state
        self._state, command = guard.judge(before, labels, values, time.monotonic(), self._config)
        self._send(before, command)

    def _on_watch(self) -> None:
        before = self._state
        self._state, command = guard.watch(before, time.monotonic(), self._config)
        self._send(before, command)

    def _send(self, before: GuardState, command: np.ndarray | None) -> None:
        # The motors first, the log after.
        if command is not None:
            self._message.data = array.array("d", command)
            self._publisher.publish(self._message)
        if self._state.trips > before.trips:
            self.get_logger().error(f"tripped: {self._state.reason}")
            self._report()

    def _on_reset(self, request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        was = f"{self._state.name} {self._state.reason}".strip()
        self._state, refusal = guard.reset(self._state, time.monotonic(), self._config)
        response.success = not refusal
        response.message = refusal or f"was {was}"
        self.get_logger().info(f"reset: {response.message}")
        return response

    def stop(self) -> None:
        """End with the safe command, if commands have ever flowed."""
        if self._state.name == "WAITING":
            return
        # More than once, and with time to leave: nothing repeats it after this.
        for _ in range(3):
            self._send(self._state, np.array(self._config.safe_command))
            time.sleep(0.02)

    def _report(self) -> None:
        before = self._state
        if (publishers := self.count_publishers("policy/motors")) > 1:
            self._state = guard.trip(before, f"{publishers} nodes publish policy/motors")
            if self._state is not before:
                self.get_logger().error(f"tripped: {self._state.reason}")
        state = self._state
        values = {"state": state.name, "reason": state.reason, "trips": state.trips}
        message = state.reason or state.name
        self._diagnostics.publish(ERROR if state.reason else OK, message, values)


def main() -> None:
    """Run the node."""
    sys.exit(run(GuardNode))


if __name__ == "__main__":
    main()
