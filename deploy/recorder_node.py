"""ROS 2 node that writes everything on the wire to MCAP, as a bag that rosbag2 and Foxglove read.

    ros2 run robot_policies recorder_node --ros-args -p output:=flights/first

makes flights/first/ with first_0.mcap (profile ros2) and, once closed, metadata.yaml. Parameters:
`output`, the directory to make, and `topics`, the only topics to record where not all are wanted.
Messages are stored as received, as CDR bytes beside the definitions of their types: log time is
the time of receipt, publish time that of the publisher (both by the system clock).

Memory is bounded by the queues and one chunk. Every chunk can be read without the end of the file,
so that a killed recorder loses what came in the last FLUSH_S, and no more.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import signal
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import rclpy
import yaml
from ament_index_python.packages import PackageNotFoundError, get_package_share_directory
from rclpy._rclpy_pybind11 import RCLError
from rclpy.callback_groups import CallbackGroup
from rclpy.event_handler import SubscriptionEventCallbacks
from rclpy.exceptions import InvalidParameterTypeException, ParameterUninitializedException
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.parameter import Parameter
from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSProfile, ReliabilityPolicy
from rclpy.signals import SignalHandlerOptions
from rclpy.topic_endpoint_info import TopicEndpointInfo
from rclpy.utilities import try_shutdown

DRAIN_S = 0.005
"""Fast DDS stamps a message when it is taken: log times are late by up to this."""
SPIN_EVERY = 8
"""Turns of taking messages between two looks at the timers."""
DISCOVERY_S = 0.1
FLUSH_S = 0.5
CHUNK_BYTES = 256 * 1024
QUEUE_DEPTH = 1000
COMMON = ("diagnostic", "geometry", "nav", "sensor", "std", "trajectory")
"""The _msgs packages loaded at the start; loading others, when first seen, takes a moment."""
NICENESS = 5
"""On a busy machine, the nodes that control go first; what waits in the queues is not lost."""


class RecorderError(Exception):
    """Recording cannot start; the text says why and what to do."""


class BagWriter:
    """A rosbag2 directory with one MCAP file; metadata.yaml is written by `close`."""

    def __init__(self, output: Path) -> None:
        """Make the directory; raises RecorderError where it exists or cannot be made."""
        try:
            from mcap.writer import Writer
        except ImportError:
            mend = "install it with: pip install mcap"
            raise RecorderError(f"the Python package mcap is missing; {mend}") from None
        self.path = output / f"{output.name}_0.mcap"
        self.counts: Counter[str] = Counter()
        self._topics: dict[str, dict[str, Any]] = {}
        self._channels: dict[str, int] = {}
        self._first_ns = self._last_ns = 0
        self._file = _create(self.path)
        self._writer = Writer(self._file, chunk_size=CHUNK_BYTES)
        self._writer.start(profile="ros2", library="robot_policies")

    def add_topic(self, topic: str, kind: str, publishers: list[TopicEndpointInfo]) -> None:
        """Declare a topic of type `kind`; raises LookupError where a definition is missing."""
        definition = message_definition(kind).encode()
        offered = [_offered(publisher.qos_profile) for publisher in publishers]
        described = {"type_description_hash": str(publishers[0].topic_type_hash)}
        schema = self._writer.register_schema(kind, "ros2msg", definition)
        text = yaml.safe_dump(offered, sort_keys=False)
        self._channels[topic] = self._writer.register_channel(
            topic, "cdr", schema, {"offered_qos_profiles": text}
        )
        basics = {"name": topic, "type": kind, "serialization_format": "cdr"}
        self._topics[topic] = basics | {"offered_qos_profiles": offered} | described
        self.counts[topic] = 0

    def write(self, topic: str, data: bytes, info: dict[str, Any]) -> None:
        """Store one serialised message with what the middleware says of its times."""
        # Readers need times in order: where the system clock is set back, receipt waits for it.
        self._last_ns = max(self._last_ns, info["received_timestamp"])
        self._first_ns = self._first_ns or self._last_ns
        self.counts[topic] += 1
        self._writer.add_message(
            self._channels[topic],
            log_time=self._last_ns,
            publish_time=info["source_timestamp"] or self._last_ns,
            sequence=(info.get("publication_sequence_number") or 0) % 2**32,
            data=data,
        )

    def flush(self) -> None:
        """End the chunk in progress and hand it to the operating system."""
        self._writer.flush()

    def close(self, lost: int) -> None:
        """Finish the file and describe it; `lost` messages never reached the recorder."""
        self._writer.finish()
        self._file.close()
        text = yaml.safe_dump(self._metadata(lost), sort_keys=False)
        (self.path.parent / "metadata.yaml").write_text(text, encoding="utf-8")

    def abandon(self) -> None:
        """Close the file as it is, after it could not be written."""
        with contextlib.suppress(OSError):
            self._file.close()

    def _metadata(self, lost: int) -> dict[str, Any]:
        """metadata.yaml of rosbag2 in version 9, that of Jazzy."""
        topics = [
            {"topic_metadata": description, "message_count": self.counts[topic]}
            for topic, description in self._topics.items()
        ]
        return {
            "rosbag2_bagfile_information": {
                "version": 9,
                "storage_identifier": "mcap",
                **self._span(),
                "topics_with_message_count": topics,
                "compression_format": "",
                "compression_mode": "",
                "relative_file_paths": [self.path.name],
                "files": [{"path": self.path.name, **self._span()}],
                "custom_data": {"lost_messages": str(lost)},
                "ros_distro": os.environ.get("ROS_DISTRO", ""),
            }
        }

    def _span(self) -> dict[str, Any]:
        return {
            "duration": {"nanoseconds": self._last_ns - self._first_ns},
            "starting_time": {"nanoseconds_since_epoch": self._first_ns},
            "message_count": self.counts.total(),
        }


def _create(path: Path) -> Any:
    try:
        path.parent.mkdir(parents=True)
        return path.open("xb")
    except FileExistsError:
        mend = "name a new directory (nothing is ever overwritten)"
        raise RecorderError(f"output {path.parent} exists already; {mend}") from None
    except OSError as error:
        mend = "name a directory that can be written"
        raise RecorderError(
            f"cannot make output {path.parent}: {error.strerror}; {mend}"
        ) from None


def _offered(qos: QoSProfile) -> dict[str, Any]:
    def duration(nanoseconds: int) -> dict[str, int]:
        return {"sec": nanoseconds // 10**9, "nsec": nanoseconds % 10**9}

    return {
        "history": qos.history.name.lower(),
        "depth": qos.depth,
        "reliability": qos.reliability.name.lower(),
        "durability": qos.durability.name.lower(),
        "deadline": duration(qos.deadline.nanoseconds),
        "lifespan": duration(qos.lifespan.nanoseconds),
        "liveliness": qos.liveliness.name.lower(),
        "liveliness_lease_duration": duration(qos.liveliness_lease_duration.nanoseconds),
        "avoid_ros_namespace_conventions": qos.avoid_ros_namespace_conventions,
    }


# Definitions of message types, from the packages' share/ folders.


def message_definition(kind: str) -> str:
    """The ros2msg text of "package/msg/Type", followed by every type that it refers to.

    Raises LookupError where a package or its .msg file is not installed. Format: MCAP's registry
    of well-known schema encodings.
    """
    name = kind.replace("/msg/", "/")
    texts: dict[str, str] = {}
    pending = [name]
    while pending:
        if (current := pending.pop(0)) not in texts:
            texts[current] = _msg_file(current)
            pending += _field_types(current, texts[current])
    rule = "=" * 80
    rest = [f"{rule}\nMSG: {other}\n{text}" for other, text in texts.items() if other != name]
    return "\n".join([texts[name], *rest])


def _msg_file(name: str) -> str:
    package, _, base = name.partition("/")
    try:
        path = Path(get_package_share_directory(package)) / "msg" / f"{base}.msg"
        return path.read_text(encoding="utf-8")
    except (PackageNotFoundError, OSError) as error:
        raise LookupError(f"no definition of {name} is installed ({error})") from None


def _check_definitions() -> None:
    """Fail at the start rather than refuse every topic."""
    try:
        message_definition("rcl_interfaces/msg/Log")
    except LookupError as error:
        mend = "source the installation's setup.bash, or set AMENT_PREFIX_PATH to its folder"
        raise RecorderError(f"{error}; {mend}") from None


def _field_types(name: str, text: str) -> Iterator[str]:
    package = name.partition("/")[0]
    for line in text.splitlines():
        words = line.partition("#")[0].split()
        base = words[0].partition("[")[0].partition("<=")[0] if words else ""
        if "/" in base:
            yield base
        elif base[:1].isupper():  # As every message type, and no primitive type.
            yield f"{package}/{base}"


# The node: it finds topics, and follows what their publishers offer.


class _Offer(NamedTuple):
    """What the publishers of a topic have in common."""

    kinds: frozenset[str]
    reliable: bool
    kept: bool
    """Late subscribers are given the last message (transient local)."""


class _Polled(CallbackGroup):
    """Subscriptions that the executor does not wait for.

    The middleware queues messages by itself; taking them in turns rather than one for each wake-up
    costs a quarter of the processor time.
    """

    def can_execute(self, entity: Any) -> bool:
        return False

    def beginning_execution(self, entity: Any) -> bool:
        return False

    def ending_execution(self, entity: Any) -> None:
        pass


def _never_called(message: Any) -> None:
    raise AssertionError("messages are taken by drain()")


class RecorderNode(Node):
    """Subscribes to every topic that has a publisher and hands the bytes to a BagWriter."""

    def __init__(self) -> None:
        """Raises RecorderError where a parameter is missing or wrong."""
        super().__init__("recorder_node")
        _check_definitions()
        for package in COMMON:
            with contextlib.suppress(ImportError):
                importlib.import_module(f"{package}_msgs.msg")
        self._wanted = {self.resolve_topic_name(name) for name in self._parameter("topics", [])}
        self.bag = BagWriter(Path(self._parameter("output", None)).absolute())
        self.lost = 0
        self._subscribed: dict[str, tuple[Any, _Offer]] = {}
        self._kinds: dict[str, str] = {}
        self._publisher_counts: dict[str, int] = {}
        self._next: dict[str, int] = {}
        self._refused: set[str] = set()
        self._polled = _Polled()
        self.create_timer(DISCOVERY_S, self.discover)
        self.create_timer(FLUSH_S, self.bag.flush)
        self.get_logger().info(f"recording to {self.bag.path}")

    def _parameter(self, name: str, default: list[str] | None) -> Any:
        kind = Parameter.Type.STRING if default is None else Parameter.Type.STRING_ARRAY
        expected = "a text" if default is None else "a list of texts"
        try:
            self.declare_parameter(name, kind)
            value = self.get_parameter(name).value
        except InvalidParameterTypeException:
            raise RecorderError(f"parameter {name} must be {expected}") from None
        except ParameterUninitializedException:
            value = default
        if value is None or value == "":
            mend = "give it with --ros-args -p output:=DIRECTORY"
            raise RecorderError(f"parameter output is missing; {mend}")
        return value

    def discover(self) -> None:
        """Subscribe to new topics, and anew to those whose publishers offer something else."""
        for topic, _ in self.get_topic_names_and_types():
            wanted = topic in self._wanted if self._wanted else "/_" not in topic
            if wanted and topic not in self._refused:
                publishers = self.get_publishers_info_by_topic(topic)
                if publishers:
                    self._publisher_counts[topic] = len(publishers)
                    self._follow(topic, publishers)

    def _follow(self, topic: str, publishers: list[TopicEndpointInfo]) -> None:
        profiles = [publisher.qos_profile for publisher in publishers]
        offer = _Offer(
            kinds=frozenset(publisher.topic_type for publisher in publishers),
            reliable=all(p.reliability == ReliabilityPolicy.RELIABLE for p in profiles),
            kept=all(p.durability == DurabilityPolicy.TRANSIENT_LOCAL for p in profiles),
        )
        subscription, followed = self._subscribed.get(topic, (None, None))
        if offer == followed:
            return
        try:
            message = self._declare(topic, publishers)
        except (LookupError, ValueError, ImportError, AttributeError) as error:
            self._refused.add(topic)
            self.get_logger().warning(f"{topic} is not recorded: {error}")
            return
        if subscription is not None:
            self.drain()
            self.destroy_subscription(subscription)
        self._subscribed[topic] = self._subscribe(topic, message, offer), offer

    def _declare(self, topic: str, publishers: list[TopicEndpointInfo]) -> Any:
        kind = self._kinds.setdefault(topic, publishers[0].topic_type)
        if others := {publisher.topic_type for publisher in publishers} - {kind}:
            raise ValueError(f"expected only {kind}, found also {', '.join(sorted(others))}")
        package, _, name = kind.partition("/msg/")
        message = getattr(importlib.import_module(f"{package}.msg"), name)
        if topic not in self.bag.counts:
            self.bag.add_topic(topic, kind, publishers)
        return message

    def _subscribe(self, topic: str, message: Any, offer: _Offer) -> Any:
        """Ask for the most that every publisher offers, or else some would not match."""
        reliable, kept = offer.reliable, offer.kept
        qos = QoSProfile(
            history=HistoryPolicy.KEEP_LAST,
            depth=QUEUE_DEPTH,
            reliability=ReliabilityPolicy.RELIABLE if reliable else ReliabilityPolicy.BEST_EFFORT,
            durability=DurabilityPolicy.TRANSIENT_LOCAL if kept else DurabilityPolicy.VOLATILE,
        )
        return self.create_subscription(
            message,
            topic,
            _never_called,
            qos,
            raw=True,
            callback_group=self._polled,
            event_callbacks=SubscriptionEventCallbacks(use_default_callbacks=False),
        )

    def drain(self) -> None:
        """Write what has been received since the last call."""
        for topic, (subscription, _) in self._subscribed.items():
            handle = subscription.handle
            with handle:
                while (taken := handle.take_message(subscription.msg_type, True)) is not None:
                    self._count_lost(topic, taken[1].get("publication_sequence_number"))
                    self.bag.write(topic, *taken)

    def _count_lost(self, topic: str, number: int | None) -> None:
        """Add the gap in a publisher's numbering; several publishers cannot be told apart."""
        if number is not None and self._publisher_counts[topic] == 1:
            self.lost += max(0, number - self._next.get(topic, number))
            self._next[topic] = number + 1
        else:
            self._next.pop(topic, None)

    def finish(self) -> None:
        """Close the bag, and say what is not in it."""
        self.drain()
        self.bag.close(self.lost)
        log = self.get_logger()
        if missing := sorted(name for name in self._wanted if not self.bag.counts[name]):
            log.warning(f"nothing was received on: {', '.join(missing)}")
        if self.lost:
            log.warning(f"{self.lost} messages were lost before they reached the recorder")
        log.info(f"{self.bag.counts.total()} messages in {self.bag.path}")


def record() -> int:
    """Record until SIGINT or SIGTERM; returns the exit code (1: the file could not be written).

    Raises RecorderError where recording cannot start.
    """
    stopped: list[int] = []
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda received, _: stopped.append(received))
    os.nice(NICENESS)
    node = RecorderNode()
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    try:
        while not stopped:
            for _ in range(SPIN_EVERY):
                node.drain()
                time.sleep(DRAIN_S)
            executor.spin_once(timeout_sec=0.0)
        node.finish()
    except OSError as error:
        node.bag.abandon()
        mend = "what was written before can be read; free some space"
        node.get_logger().fatal(f"cannot write {node.bag.path}: {error.strerror}; {mend}")
        return 1
    finally:
        executor.shutdown()
        node.destroy_node()
    return 0


def main() -> None:
    """Run the node; exit code 0 after a signal, 1 where writing failed, 2 at a bad start."""
    try:
        rclpy.init(signal_handler_options=SignalHandlerOptions.NO)
        code = record()
    except (RecorderError, RCLError) as error:
        print(f"recorder_node: {error}", file=sys.stderr)
        code = 2
    finally:
        try_shutdown()
    sys.exit(code)


if __name__ == "__main__":
    main()
