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
import time
import traceback
from dataclasses import dataclass
from typing import Any

import numpy as np
from nav_msgs.msg import Odometry
from rcl_interfaces.msg import SetParametersResult
from rclpy._rclpy_pybind11 import RCLError
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from std_msgs.msg import Float64MultiArray, MultiArrayDimension
from trajectory_msgs.msg import MultiDOFJointTrajectory

from deploy.control import ControlState, Decision, Now, Reading, tick
from deploy.quadrotor import QuadrotorInterface
from deploy.safety import Mode, SafetyConfig
from robot_policies.contract import Contract
from robot_policies.ros import (
    ERROR,
    NEWEST,
    OK,
    STEADY,
    WARN,
    Diagnostics,
    Durations,
    read_parameter,
    read_parameters,
    run,
)
from robot_policies.runtime import OnnxPolicy, load_policy
from robot_policies.strict import ContractError
from robot_policies.verify import verify

DIAGNOSTICS_HZ = 5.0
_LEVELS = {Mode.OK: OK, Mode.WARN: WARN, Mode.HOLD: ERROR, Mode.FALLBACK: ERROR}


@dataclass(frozen=True)
class PolicyNodeConfig(SafetyConfig):
    """Parameters of policy_node (config/quadrotor.yaml describes each)."""

    bundle: str
    autostart: bool
    trusted_keys: tuple[str, ...]
    world_frame: str
    body_frame: str
    setpoint_timeout_s: float

    def __post_init__(self) -> None:
        """Refuse what QuadrotorInterface takes on trust; `check` does the rest."""
        if not 0 < self.setpoint_timeout_s < 3600:
            found = self.setpoint_timeout_s
            raise ValueError(f"setpoint_timeout_s: expected seconds > 0, found {found}")
        if not (self.world_frame and self.body_frame):
            raise ValueError("world_frame and body_frame: expected names, found nothing")


class PolicyNode(LifecycleNode):
    """See the module's docstring."""

    def __init__(self) -> None:
        """Start unconfigured, or go through configure and activate where autostart says so."""
        super().__init__("policy_node")
        self._policy: OnnxPolicy | None = None
        self._control: ControlState | None = None
        self._reading: Reading | None = None
        self._refusal = ""
        self._handles: list = []
        self._diagnostics = Diagnostics(self)
        self.create_timer(1 / DIAGNOSTICS_HZ, self._report, clock=STEADY)
        self._refuse_impossible_transitions()
        if read_parameter(self, "autostart", bool, read_only=False):
            self._autostart_timer = self.create_timer(0.0, self._autostart, clock=STEADY)
        self.add_on_set_parameters_callback(self._refuse_change)

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Verify the bundle, check it against robot and parameters, and warm it up."""
        try:
            self._configure()
        except ContractError as error:
            return self._refuse([str(violation) for violation in error.violations])
        except Exception as error:  # rclpy would swallow it without a word
            return self._refuse([f"internal error: {error!r}", traceback.format_exc()])
        self._refusal = ""
        return TransitionCallbackReturn.SUCCESS

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Forget everything of the flight before: recurrent state, ramp, mode."""
        assert self._policy is not None  # configure succeeded
        self._policy.reset()
        self._interface.forget()
        self._reading, self._told = None, (Mode.OK, "")
        self._steps = self._missed = 0
        # What lives now lives on: keep the collector from walking through it in flight.
        gc.collect()
        gc.freeze()
        self._control = ControlState()
        return TransitionCallbackReturn.SUCCESS

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Stop sending; the guard's timeout then gives the safe command."""
        self._control = None
        return TransitionCallbackReturn.SUCCESS

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

    def on_error(self, state: LifecycleState) -> TransitionCallbackReturn:
        """A transition failed in an unforeseen way: back to unconfigured, with nothing left."""
        return self.on_cleanup(state)

    def _refuse(self, reasons: list[str]) -> TransitionCallbackReturn:
        self._refusal = reasons[0]
        for reason in reasons:
            self.get_logger().error(reason)
        return TransitionCallbackReturn.FAILURE

    def _refuse_change(self, parameters: list) -> SetParametersResult:
        """Parameters are read by configure; changed later they would have no effect."""
        if self._policy is None:
            return SetParametersResult(successful=True)
        reason = "configured: deactivate, clean up, set, and configure again"
        return SetParametersResult(successful=False, reason=reason)

    def _refuse_impossible_transitions(self) -> None:
        """Answer success = False where rclpy would end the process, for example in flight."""
        service = self._service_change_state
        change_state = service.callback

        def answer(request: Any, response: Any) -> Any:
            try:
                return change_state(request, response)
            except RCLError as error:
                self.get_logger().warning(f"refused: {' '.join(str(error).split())[:200]}")
                response.success = False
                return response

        service.callback = answer

    def _configure(self) -> None:
        config = read_parameters(self, PolicyNodeConfig, read_only=False)
        report = verify(config.bundle, config.trusted_keys)
        if not report.ok:
            raise ContractError(report.violations)
        policy = load_policy(config.bundle, config.trusted_keys)
        config.check(policy.contract)
        self._safety = config
        self._interface = QuadrotorInterface(
            policy.contract, config.world_frame, config.body_frame, config.setpoint_timeout_s
        )
        self._message = _command_message(policy.contract)
        self._durations = Durations("inference")
        self._policy = policy
        # Silence is noticed at most half an observation age after it has begun to matter.
        self._connect(watch_s=policy.contract.timing.max_observation_age_s / 2)
        self.get_logger().info(f"{config.bundle}: {policy.contract.name} verified")

    def _connect(self, watch_s: float) -> None:
        self._publisher = self.create_publisher(Float64MultiArray, "policy/motors", NEWEST)
        odometry = self.create_subscription(Odometry, "odometry", self._on_odometry, NEWEST)
        setpoint = self.create_subscription(
            MultiDOFJointTrajectory, "setpoint", self._on_setpoint, NEWEST
        )
        watchdog = self.create_timer(watch_s, self._watch, clock=STEADY)
        self._handles = [
            (self.destroy_publisher, self._publisher),
            (self.destroy_subscription, odometry),
            (self.destroy_subscription, setpoint),
            (self.destroy_timer, watchdog),
        ]

    def _autostart(self) -> None:
        self.destroy_timer(self._autostart_timer)
        try:
            if self.trigger_configure() == TransitionCallbackReturn.SUCCESS:
                self.trigger_activate()
        except RCLError:
            self.get_logger().info("autostart: another node has already configured this one")

    def _now(self) -> Now:
        return Now(self.get_clock().now().nanoseconds * 1e-9, time.monotonic())

    def _on_setpoint(self, message: MultiDOFJointTrajectory) -> None:
        refusal = self._interface.take_setpoint(message, time.monotonic())
        if refusal:
            self.get_logger().warning(refusal, throttle_duration_sec=1.0)

    def _on_odometry(self, message: Odometry) -> None:
        if self._control is not None:
            now = self._now()
            self._reading = self._interface.read(message, now.steady)
            self._tick(now)

    def _watch(self) -> None:
        self._tick(self._now())

    def _tick(self, now: Now) -> None:
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
        kind = re.sub(r"[-\d.]+", "", decision.reason) if decision.reason else ""
        told = (decision.mode, kind)
        if told != self._told:
            self._told = told
            text = f"{decision.mode.value} {decision.reason}".strip()
            if decision.mode in (Mode.OK, Mode.WARN):
                self.get_logger().info(text, throttle_duration_sec=1.0)
            elif decision.mode is Mode.HOLD:
                self.get_logger().error(text, throttle_duration_sec=1.0)
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
