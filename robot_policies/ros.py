"""What the ROS 2 nodes share: parameters from a dataclass, diagnostics, a clean end on SIGTERM.

The one module of robot_policies that needs rclpy; both deploy and sim build on it.
"""

from __future__ import annotations

import signal
import typing
from collections import deque
from collections.abc import Callable
from dataclasses import fields
from typing import Any, TypeVar

import numpy as np
import rclpy
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from rcl_interfaces.msg import ParameterDescriptor
from rclpy.clock import Clock
from rclpy.clock_type import ClockType
from rclpy.executors import SingleThreadedExecutor
from rclpy.logging import get_logger
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSProfile, ReliabilityPolicy
from rclpy.signals import SignalHandlerOptions
from rclpy.utilities import try_shutdown

from robot_policies.strict import ContractError, Violation

T = TypeVar("T")

NEWEST = QoSProfile(
    depth=1,
    history=HistoryPolicy.KEEP_LAST,
    reliability=ReliabilityPolicy.BEST_EFFORT,
    durability=DurabilityPolicy.VOLATILE,
)
"""For sensors and commands: only the newest message counts, and none is ever latched."""

OK, WARN, ERROR = DiagnosticStatus.OK, DiagnosticStatus.WARN, DiagnosticStatus.ERROR
SIGNAL_S = 0.2
"""Longest time until a node that is idle notices a signal."""
_BUILT_IN = ("use_sim_time", "start_type_description_service", "qos_overrides.")


STEADY = Clock(clock_type=ClockType.STEADY_TIME)
"""For timers: goes on when the ROS clock is set, or stands still."""


def read_parameters(node: Node, kind: type[T], read_only: bool = True) -> T:
    """Fill a dataclass from the node's parameters; every field is a parameter without default.

    With `read_only` a later change is refused by ROS: it would have no effect.

    Raises:
        ContractError: listing every missing, unknown and wrongly typed parameter, and what the
            dataclass itself refuses.
    """
    hints = typing.get_type_hints(kind)
    violations: list[Violation] = []
    values = {}
    for name, hint in hints.items():
        try:
            values[name] = read_parameter(node, name, hint, read_only)
        except ContractError as error:
            violations.extend(error.violations)
    known = {field.name for field in fields(kind)}  # type: ignore[arg-type]
    for name in getattr(node, "_parameter_overrides", {}):
        if name not in known and not name.startswith(_BUILT_IN):
            expected = "one of " + ", ".join(sorted(known))
            mend = "correct or remove it"
            violations.append(Violation(f"parameter {name}", expected, "an unknown name", mend))
    if violations:
        raise ContractError(violations)
    try:
        return kind(**values)
    except ValueError as error:
        mend = "correct the parameter file"
        raise ContractError(
            [Violation(node.get_name(), "consistent parameters", str(error), mend)]
        ) from None


def read_parameter(node: Node, name: str, hint: Any, read_only: bool = True) -> Any:
    """One parameter of type `hint`; ContractError where it is missing or of another type."""
    if not node.has_parameter(name):
        # Typed by ourselves below, so that 1 passes for 1.0 and errors name the file.
        descriptor = ParameterDescriptor(dynamic_typing=True, read_only=read_only)
        node.declare_parameter(name, None, descriptor)
    value = node.get_parameter(name).value
    try:
        return _convert(value, hint)
    except TypeError as error:
        mend = f"set it under {node.get_name()}/ros__parameters in the parameter file"
        found = "nothing" if value is None else repr(value)
        violation = Violation(f"parameter {name}", str(error), found, mend)
        raise ContractError([violation]) from None


def _convert(value: Any, hint: Any) -> Any:
    if typing.get_origin(hint) is tuple:
        inner = typing.get_args(hint)[0]
        if value is None or isinstance(value, str) or not hasattr(value, "__iter__"):
            raise TypeError(f"a list of {inner.__name__}")
        # An empty YAML list has no type and arrives as nothing; [""] is the usual way around.
        return tuple(_convert(item, inner) for item in value if item != "")
    if hint is float and isinstance(value, int | float) and not isinstance(value, bool):
        if not np.isfinite(value):
            raise TypeError("a finite number")
        return float(value)
    if type(value) is not hint:
        raise TypeError({float: "a number", str: "a text", bool: "true or false"}.get(hint, "int"))
    return value


class Diagnostics:
    """Publishes one status of a node on /diagnostics."""

    def __init__(self, node: Node) -> None:
        """Create the publisher; the status is named after the node."""
        self._node = node
        self._publisher = node.create_publisher(DiagnosticArray, "/diagnostics", 10)

    def publish(self, level: bytes, message: str, values: dict[str, object]) -> None:
        """Publish a status: OK, WARN or ERROR, a message, and values as text."""
        pairs = [KeyValue(key=key, value=str(value)) for key, value in values.items()]
        status = DiagnosticStatus(
            level=level, name=self._node.get_name(), message=message, values=pairs
        )
        array = DiagnosticArray(status=[status])
        array.header.stamp = self._node.get_clock().now().to_msg()
        self._publisher.publish(array)


class Durations:
    """The newest durations of something that happens often, and their quantiles."""

    def __init__(self, prefix: str, size: int = 6000) -> None:
        """Keep the newest `size` (a minute at 100 Hz); `prefix` names the figures."""
        self._prefix, self._seconds = prefix, deque[float](maxlen=size)

    def add(self, seconds: float) -> None:
        """Add a duration (s)."""
        self._seconds.append(seconds)

    def figures(self) -> dict[str, object]:
        """Median, 99th percentile and maximum (ms) by name; empty before the first duration."""
        if not self._seconds:
            return {}
        # Not np.quantile: its first call takes 45 ms, which a control loop does not have.
        ordered = np.sort(np.fromiter(self._seconds, np.float64)) * 1e3
        ranks = {"p50": 0.5, "p99": 0.99, "max": 1.0}
        values = {key: ordered[round(rank * (len(ordered) - 1))] for key, rank in ranks.items()}
        return {f"{self._prefix}_{key}_ms": f"{value:.3f}" for key, value in values.items()}


def run(make_node: Callable[[], Node]) -> int:
    """Run a node until SIGINT or SIGTERM; returns the exit code (2: it refused to start).

    A node with a method `stop` can still publish in it, when the signal has come.
    """
    ended: list[int] = []
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda number, frame: ended.append(number))
    # Not rclpy's own handlers: they close the context under the feet of a running callback.
    rclpy.init(signal_handler_options=SignalHandlerOptions.NO)
    node = None
    try:
        node = make_node()
        executor = SingleThreadedExecutor()
        executor.add_node(node)
        while not ended:
            executor.spin_once(timeout_sec=SIGNAL_S)
        getattr(node, "stop", lambda: None)()
    except ContractError as error:
        for violation in error.violations:
            get_logger("robot_policies").fatal(str(violation))
        return 2
    finally:
        if node is not None:
            node.destroy_node()
        try_shutdown()
    return 0
