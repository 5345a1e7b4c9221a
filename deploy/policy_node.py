"""The lifecycle node that flies a bundle: the thin ROS shell around deploy/control.py.

    odometry  nav_msgs/Odometry       -> |             | -> policy/motors  Float64MultiArray
    setpoint  MultiDOFJointTrajectory -> | policy_node | -> /diagnostics

configure verifies the bundle (every violation is logged, and the node stays unconfigured) and
warms it up; activate resets it and ramps in; deactivate stops sending. It steps on the newest
odometry; a watchdog timer notices silence. With autostart it configures and activates itself.
"""

from __future__ import annotations

import array
import gc
import re
import sys
from dataclasses import dataclass

import numpy as np
from nav_msgs.msg import Odometry
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from std_msgs.msg import Float64MultiArray, MultiArrayDimension
from trajectory_msgs.msg import MultiDOFJointTrajectory

from deploy.control import ControlState, Decision, tick
from deploy.quadrotor import QuadrotorInterface
from deploy.safety import Mode, SafetyConfig
from robot_policies.contract import Contract
from robot_policies.ros import (
    ERROR,
    NEWEST,
    OK,
    WARN,
    Diagnostics,
    Durations,
    read_parameters,
    run,
)
from robot_policies.runtime import OnnxPolicy, load_policy
from robot_policies.strict import ContractError
from robot_policies.verify import verify

DIAGNOSTICS_HZ = 5.0
_LEVELS = {Mode.OK: OK, Mode.WARN: WARN, Mode.HOLD: ERROR, Mode.FALLBACK: ERROR}


@dataclass(frozen=True)
class PolicyNodeConfig:
    """Parameters of policy_node (config/quadrotor.yaml describes each)."""

    bundle: str
    autostart: bool
    trusted_keys: tuple[str, ...]
    world_frame: str
    body_frame: str
    setpoint_timeout_s: float
    lower: tuple[float, ...]
    upper: tuple[float, ...]
    safe_command: tuple[float, ...]
    start_command: tuple[float, ...]
    ramp_in_s: float
    max_rate: tuple[float, ...]
    hold_timeout_s: float
    max_future_s: float

    def safety(self) -> SafetyConfig:
        """The part that deploy/control.py needs."""
        return SafetyConfig(
            self.lower, self.upper, self.safe_command, self.start_command, self.ramp_in_s,
            self.max_rate, self.hold_timeout_s, self.max_future_s,
        )  # fmt: skip


class PolicyNode(LifecycleNode):
    """See the module's docstring."""

    def __init__(self) -> None:
        """Start unconfigured, or go through configure and activate where autostart says so."""
        super().__init__("policy_node")
        self._policy: OnnxPolicy | None = None
        self._control: ControlState | None = None
        self._refusal = ""
        self._handles: list = []
        self._diagnostics = Diagnostics(self)
        self.create_timer(1 / DIAGNOSTICS_HZ, self._report)
        self.declare_parameter("autostart", False)
        if self.get_parameter("autostart").value is True:
            self.create_timer(0.0, self._autostart)

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Verify the bundle, check it against robot and parameters, and warm it up."""
        try:
            self._configure()
        except ContractError as error:
            self._refusal = str(error.violations[0])
            for violation in error.violations:
                self.get_logger().error(str(violation))
            return TransitionCallbackReturn.FAILURE
        self._refusal = ""
        return TransitionCallbackReturn.SUCCESS

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Forget everything of the flight before: recurrent state, ramp, mode."""
        assert self._policy is not None  # configure succeeded
        self._policy.reset()
        self._reading, self._told = None, (Mode.OK, "")
        self._steps = self._missed = 0
        self._control = ControlState()
        # What lives now lives on: keep the collector from walking through it in flight.
        gc.collect()
        gc.freeze()
        return super().on_activate(state)

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Stop sending; the guard's timeout then gives the safe command."""
        self._control = None
        return super().on_deactivate(state)

    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Drop the policy and its topics."""
        self._control = self._policy = None
        for destroy, handle in self._handles:
            destroy(handle)
        self._handles = []
        return TransitionCallbackReturn.SUCCESS

    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Stop sending."""
        return self.on_cleanup(state)

    def _configure(self) -> None:
        config = read_parameters(self, PolicyNodeConfig)
        report = verify(config.bundle, config.trusted_keys)
        if not report.ok:
            raise ContractError(report.violations)
        policy = load_policy(config.bundle, config.trusted_keys)
        self._safety = config.safety()
        self._safety.check(policy.contract)
        self._interface = QuadrotorInterface(
            policy.contract, config.world_frame, config.body_frame, config.setpoint_timeout_s
        )
        self._message = _command_message(policy.contract)
        self._durations = Durations("inference")
        self._policy = policy
        # Silence is noticed half an observation age after it has begun to matter.
        self._connect(watch_s=policy.contract.timing.max_observation_age_s / 2)
        self.get_logger().info(f"{config.bundle}: {policy.contract.name} verified")

    def _connect(self, watch_s: float) -> None:
        self._publisher = self.create_publisher(Float64MultiArray, "policy/motors", NEWEST)
        odometry = self.create_subscription(Odometry, "odometry", self._on_odometry, NEWEST)
        setpoint = self.create_subscription(
            MultiDOFJointTrajectory, "setpoint", self._on_setpoint, NEWEST
        )
        watchdog = self.create_timer(watch_s, self._watch)
        self._handles = [
            (self.destroy_publisher, self._publisher),
            (self.destroy_subscription, odometry),
            (self.destroy_subscription, setpoint),
            (self.destroy_timer, watchdog),
        ]

    def _autostart(self) -> None:
        for timer in list(self.timers):
            if timer.callback == self._autostart:
                self.destroy_timer(timer)
        if self.trigger_configure() == TransitionCallbackReturn.SUCCESS:
            self.trigger_activate()

    def _now(self) -> float:
        return self.get_clock().now().nanoseconds * 1e-9

    def _on_setpoint(self, message: MultiDOFJointTrajectory) -> None:
        refusal = self._interface.take_setpoint(message, self._now())
        if refusal:
            self.get_logger().warning(refusal, throttle_duration_sec=1.0)

    def _on_odometry(self, message: Odometry) -> None:
        if self._control is not None:
            now = self._now()
            self._reading = self._interface.read(message, now)
            self._tick(now)

    def _watch(self) -> None:
        self._tick(self._now())

    def _tick(self, now: float) -> None:
        if self._control is None or self._policy is None:
            return
        self._control, decision = tick(
            self._control, self._reading, now, self._policy, self._safety
        )
        if decision.command is not None:
            self._message.data = array.array("d", decision.command)
            self._publisher.publish(self._message)
        self._count(decision)

    def _count(self, decision: Decision) -> None:
        if decision.stepped and self._policy is not None:
            self._durations.add(self._policy.last.inference_s)
            self._steps += 1
            self._missed += decision.missed
        # Once for each mode and kind of reason: the numbers in it change with every tick.
        kind = re.sub(r"[-\d.e]+", "", decision.reason) if decision.reason else ""
        told = (decision.mode, kind)
        if told != self._told:
            self._told = told
            text = f"{decision.mode.value} {decision.reason}".strip()
            if decision.mode in (Mode.OK, Mode.WARN):
                self.get_logger().info(text, throttle_duration_sec=1.0)
            else:
                self.get_logger().error(text)

    def _report(self) -> None:
        control = self._control
        if control is None:
            self._diagnostics.publish(
                ERROR if self._refusal else OK, self._refusal or "inactive", {"state": "INACTIVE"}
            )
            return
        values = {
            "state": control.mode.value,
            "reason": control.reason,
            "steps": self._steps,
            "missed_periods": self._missed,
            **self._durations.figures(),
        }
        self._diagnostics.publish(_LEVELS[control.mode], control.reason, values)


def _command_message(contract: Contract) -> Float64MultiArray:
    """A message made once; its one dimension is labelled with the elements in order."""
    message = Float64MultiArray(data=np.zeros(contract.action_size).tolist())
    size = contract.action_size
    label = ",".join(contract.action_elements)
    message.layout.dim = [MultiArrayDimension(label=label, size=size, stride=size)]
    return message


def main() -> None:
    """Run the node."""
    sys.exit(run(PolicyNode))


if __name__ == "__main__":
    main()
