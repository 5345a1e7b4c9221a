"""Flight logs: MCAP or npz <-> named signals with time. Needs no ROS.

    log = read("flights/first")        # a bag's directory, its .mcap file, or an .npz
    log["/odometry"].time              # [T] s since log.start_ns
    log["/odometry"]["position"]       # [T, 3] m
    log["/motors"].labels              # ("front_right", "back_right", ...)
    log.save("first.npz")              # reads back equal

Topics are decoded when first asked for. Fields by message type (float64, or lists of T objects):

    nav_msgs/Odometry          stamp frame_id child_frame_id position quaternion_xyzw
                               linear_velocity angular_velocity (both in child_frame_id)
    sensor_msgs/Imu            stamp frame_id quaternion_xyzw angular_velocity linear_acceleration
    sensor_msgs/JointState     stamp position velocity effort [T, D or 0]; labels: joint names
    MultiDOFJointTrajectory    stamp frame_id, and of its first point position quaternion_xyzw
                               linear_velocity angular_velocity (NaN where it has none)
    Float64MultiArray          data [T, D]; labels: the names that its dimension's label joins
    Wrench                     force torque
    DiagnosticArray            stamp, status: for each message a list of dictionaries
    String, Bool, Float32 ...  data

Every topic of an MCAP file also has `published`, when its publisher sent each message, and
`sequence`, the publisher's count. `stamp` is that of the header, NaN where it was not set.
"""

from __future__ import annotations

import io
import json
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from robot_policies.log_messages import ROWS


class LogError(ValueError):
    """A log cannot be read or saved; the text says what was expected and found, and the mend."""


@dataclass(frozen=True, eq=False)
class Topic:
    """The T messages of one topic."""

    name: str
    kind: str
    """The message type, such as nav_msgs/msg/Odometry; empty where it is not known."""
    time: np.ndarray
    """[T] s since the log's start, never decreasing: when each message was received."""
    fields: Mapping[str, Any]
    """Arrays [T] or [T, D], and lists of T texts or JSON documents, by name."""
    labels: tuple[str, ...] = ()
    """Names of the D elements (motors, joints), where the messages carry them."""

    def __post_init__(self) -> None:
        """Refuse times and fields that do not belong together (LogError)."""
        if self.time.ndim != 1 or self.time.dtype != np.float64:
            found = f"{self.time.dtype}{list(self.time.shape)}"
            raise LogError(f"{self.name}: expected times float64[T], found {found}; convert them")
        if len(bad := np.flatnonzero(~np.isfinite(self.time))):
            found = f"{self.time[bad[0]]} at index {bad[0]}"
            raise LogError(f"{self.name}: expected finite times, found {found}; remove the sample")
        if len(bad := np.flatnonzero(np.diff(self.time) < 0)):
            before, after = self.time[bad[0]], self.time[bad[0] + 1]
            found = f"{after:.6f} s after {before:.6f} s at index {bad[0] + 1}"
            mend = "sort the log, or find out whether two logs were joined or a clock was set"
            raise LogError(f"{self.name}: expected times in order, found {found}; {mend}")
        for name, values in self.fields.items():
            if len(values) != len(self.time):
                found = f"found {len(values)}; give every field one for each time"
                raise LogError(f"{self.name}.{name}: expected {len(self.time)} values, {found}")

    def __getitem__(self, name: str) -> Any:
        """A field by name; raises KeyError that lists the names."""
        if name not in self.fields:
            names = ", ".join(self.fields) or "none"
            what = f"{self.name} ({self.kind or 'of no known type'})"
            raise KeyError(f"{what} has no field {name!r}; its fields are {names}")
        return self.fields[name]


@dataclass(frozen=True, eq=False)
class Log(Mapping[str, Topic]):
    """Topics by name; `log["/odometry"]` raises KeyError that lists the names."""

    start_ns: int
    """Receipt of the first message, in ns since 1970."""
    topics: Mapping[str, Topic | Callable[[], Topic]]
    """Topics, or what decodes them."""
    damage: str = ""
    """What could not be read, where the file is truncated or corrupt; empty for a whole one."""
    _decoded: dict[str, Topic] = field(default_factory=dict, repr=False)

    def __getitem__(self, name: str) -> Topic:
        """A topic, decoded when first asked for (LogError where its messages are not sound)."""
        if name not in self.topics:
            known = ", ".join(sorted(self.topics)) or "none"
            raise KeyError(f"no topic {name!r} in the log; its topics are {known}")
        if name not in self._decoded:
            topic = self.topics[name]
            self._decoded[name] = topic if isinstance(topic, Topic) else topic()
        return self._decoded[name]

    def __iter__(self) -> Iterator[str]:
        """Topic names, sorted."""
        return iter(sorted(self.topics))

    def __len__(self) -> int:
        """Number of topics."""
        return len(self.topics)

    def save(self, path: str | Path) -> None:
        """Write a new npz file; `read` gives back an equal log.

        Its entries are start_ns, damage, and for each topic TOPIC.time, TOPIC.type, TOPIC.labels,
        TOPIC.FIELD, and TOPIC.FIELD.json for lists. Only start_ns and TOPIC.time must be there, so
        that any program can write such a log. Raises LogError where the file exists.
        """
        entries: dict[str, Any] = {"start_ns": np.int64(self.start_ns), "damage": self.damage}
        for topic in self.values():
            entries |= _entries(topic)
        path = Path(path)
        try:
            stream = path.open("xb")
        except FileExistsError:
            raise LogError(f"{path} exists already; name a new file") from None
        with stream:
            np.savez_compressed(stream, **entries)


def read(path: str | Path) -> Log:
    """Read a bag's directory, an .mcap file or an .npz file (as `Log.save` writes).

    Of a truncated or corrupt MCAP file, what is whole is recovered, and `Log.damage` says what is
    not. Raises LogError where the file is missing or is no log.
    """
    path = _only_file(Path(path))
    try:
        with path.open("rb") as stream:
            return _read_npz(stream, path) if path.suffix == ".npz" else _read_mcap(stream, path)
    except OSError as error:
        raise LogError(f"cannot read {path}: {error.strerror or error}; check the path") from None


def _only_file(path: Path) -> Path:
    if not path.is_dir():
        return path
    found = sorted(path.glob("*.mcap"))
    if len(found) != 1:
        names = ", ".join(file.name for file in found) or "none"
        raise LogError(f"{path}: expected one .mcap file, found {names}; name the file to read")
    return found[0]


# npz


def _entries(topic: Topic) -> dict[str, Any]:
    entries = {f"{topic.name}.time": topic.time, f"{topic.name}.type": topic.kind}
    entries[f"{topic.name}.labels"] = np.array(topic.labels, dtype=np.str_)
    for name, values in topic.fields.items():
        if isinstance(values, np.ndarray):
            entries[f"{topic.name}.{name}"] = values
        else:
            text = json.dumps(values).encode()
            entries[f"{topic.name}.{name}.json"] = np.frombuffer(text, np.uint8)
    return entries


def _read_npz(stream: BinaryIO, path: Path) -> Log:
    try:
        with np.load(stream, allow_pickle=False) as archive:
            entries = dict(archive)
    except (ValueError, zipfile.BadZipFile, zlib.error, EOFError, TypeError) as error:
        raise LogError(
            f"{path}: expected a whole npz file, found {error}; save it again"
        ) from None
    if "start_ns" not in entries:
        mend = "add the log's start in ns since 1970"
        raise LogError(f"{path}: expected the entry start_ns, found none; {mend}")
    try:
        return _log_from_npz(entries)
    except LogError:
        raise
    except (ValueError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        mend = "save it as Log.save says"
        raise LogError(f"{path}: expected a log's entries, found {error}; {mend}") from None


def _log_from_npz(entries: Mapping[str, Any]) -> Log:
    topics: dict[str, dict[str, Any]] = {}
    for key, value in entries.items():
        topic, dot, name = key.partition(".")
        if dot:
            is_json = name.endswith(".json")
            value = json.loads(value.tobytes()) if is_json else value
            topics.setdefault(topic, {})[name.removesuffix(".json")] = value
    return Log(
        int(entries["start_ns"]),
        {name: _topic_from_npz(name, values) for name, values in topics.items()},
        str(entries.get("damage", "")),
    )


def _topic_from_npz(name: str, values: dict[str, Any]) -> Topic:
    if "time" not in values:
        found = ", ".join(f"{name}.{field}" for field in values)
        raise LogError(f"expected the entry {name}.time, found only {found}; add the times")
    labels = tuple(str(label) for label in values.pop("labels", ()))
    return Topic(name, str(values.pop("type", "")), values.pop("time"), values, labels)


# MCAP: https://mcap.dev/spec

MAGIC = b"\x89MCAP0\r\n"
RECORD = struct.Struct("<BQ")
"""What each record begins with: its code and the length of what follows."""
FOOTER = 2


@dataclass
class _Raw:
    """One topic's messages as they are in the file."""

    schema: Any
    messages: list[Any] = field(default_factory=list)


class _Content:
    """What was found in a file so far; needs the package mcap (LogError)."""

    def __init__(self) -> None:
        try:
            from mcap import data_stream, opcode, records, stream_reader
        except ImportError:
            mend = "install them with: pip install '.[logs]' in the checkout"
            raise LogError(f"MCAP needs the packages mcap and mcap-ros2-support; {mend}") from None
        self._new_stream, self._breakup = data_stream.ReadDataStream, stream_reader.breakup_chunk
        self._opcode, self._records = opcode.Opcode, records
        self.schemas: dict[int, Any] = {}
        self.channels: dict[int, Any] = {}
        self.messages: list[Any] = []
        self.corrupt = 0

    def add(self, code: int, payload: bytes) -> None:
        """Take a record of the file apart, or count it as corrupt."""
        try:
            for record in self._open(code, payload):
                self._sort_in(record)
        except Exception:  # Parsers and decompressors raise what they like on corrupt bytes.
            self.corrupt += 1

    def _open(self, code: int, payload: bytes) -> list[Any]:
        opcode, records = self._opcode, self._records
        data = self._new_stream(io.BytesIO(payload))
        match code:
            case opcode.CHUNK:
                return self._breakup(records.Chunk.read(data), validate_crc=True)
            case opcode.SCHEMA:
                return [records.Schema.read(data)]
            case opcode.CHANNEL:
                return [records.Channel.read(data)]
            case opcode.MESSAGE:
                return [records.Message.read(data, len(payload))]
        return []

    def _sort_in(self, record: Any) -> None:
        match type(record).__name__:
            case "Schema":
                self.schemas[record.id] = record
            case "Channel":
                self.channels[record.id] = record
            case "Message":
                self.messages.append(record)


def _read_mcap(stream: BinaryIO, path: Path) -> Log:
    content = _Content()
    damage = [_scan(stream, path, content)]
    if content.corrupt:
        damage.append(f"{content.corrupt} corrupt records are left out")
    raw: dict[str, _Raw] = {}
    unknown = 0
    for message in content.messages:
        # A channel may be declared after its messages: at the end, where its first chunk is lost.
        if channel := content.channels.get(message.channel_id):
            schema = content.schemas.get(channel.schema_id)
            raw.setdefault(channel.topic, _Raw(schema)).messages.append(message)
        else:
            unknown += 1
    if unknown:
        damage.append(f"{unknown} messages have no declared topic")
    start = min((message.log_time for message in content.messages), default=0)

    def decoder(name: str) -> Callable[[], Topic]:
        def decode() -> Topic:
            topic = _decode(name, raw[name], start)
            del raw[name]  # only now: a topic that is not sound says so each time
            return topic

        return decode

    return Log(start, {name: decoder(name) for name in raw}, "; ".join(filter(None, damage)))


def _scan(stream: BinaryIO, path: Path, content: _Content) -> str:
    """Find every whole record; returns what is wrong with the file's end."""
    if (found := stream.read(len(MAGIC))) != MAGIC:
        mend = "give the .mcap file of a recording"
        raise LogError(f"{path}: expected an MCAP file, found one that begins {found!r}; {mend}")
    size = path.stat().st_size
    while stream.tell() + RECORD.size <= size:
        start = stream.tell()
        code, length = RECORD.unpack(stream.read(RECORD.size))
        if length > size - stream.tell():
            return f"the file is cut off: its last {size - start} of {size} bytes are lost"
        content.add(code, stream.read(length))
        if code == FOOTER:
            return ""
    lost = size - stream.tell()
    return f"the file was not closed: its last {lost} of {size} bytes are lost"


def _decode(name: str, raw: _Raw, start: int) -> Topic:
    kind = raw.schema.name if raw.schema else ""
    fields: dict[str, Any] = {
        "published": _seconds([message.publish_time for message in raw.messages], start),
        "sequence": np.array([message.sequence for message in raw.messages], np.int64),
    }
    labels: tuple[str, ...] = ()
    row = ROWS.get(kind.replace("/msg/", "/"))
    if row is not None:
        rows = [row(message) for message in _messages(name, raw)]
        labels = _same(name, [r.pop("labels", ()) for r in rows])
        fields |= {key: _column(f"{name}.{key}", [r[key] for r in rows], start) for key in rows[0]}
    _check_labels(name, labels, fields)
    time = _seconds([message.log_time for message in raw.messages], start)
    return Topic(name, kind, time, fields, labels)


def _messages(name: str, raw: _Raw) -> Iterator[Any]:
    from mcap_ros2.decoder import DecoderFactory

    try:
        decode = DecoderFactory().decoder_for("cdr", raw.schema)
    except Exception as error:  # As corrupt as they may be.
        found = f"one that cannot be read ({error})"
        raise LogError(f"{name}: expected a ros2msg definition, found {found}") from None
    if decode is None:
        found = f"{raw.schema.encoding} schema"
        raise LogError(f"{name}: expected CDR messages with ros2msg schema, found {found}")
    for index, message in enumerate(raw.messages):
        try:
            yield decode(message.data)
        except Exception as error:  # The decoder raises whatever its bytes lead it to.
            found = f"{len(message.data)} bytes that are not ({error})"
            raise LogError(
                f"{name}: expected {raw.schema.name}, found {found} at {index}"
            ) from None


def _seconds(nanoseconds: list[int], start: int) -> np.ndarray:
    # Subtracted as whole numbers: a float64 of ns since 1970 is good to 0.2 us only.
    return np.array([value - start for value in nanoseconds], np.float64) * 1e-9


def _column(where: str, values: list[Any], start: int) -> Any:
    if where.endswith(".stamp"):
        return np.where(np.array(values) == 0, np.nan, _seconds(values, start))
    if isinstance(values[0], str | list):
        return values
    sizes = sorted({np.size(value) for value in values})
    if len(sizes) > 1:
        raise LogError(f"{where}: expected one size in every message, found {sizes}")
    return np.array(values, np.float64)


def _same(name: str, labels: list[tuple[str, ...]]) -> tuple[str, ...]:
    if others := [other for other in labels if other != labels[0]]:
        expected = ", ".join(labels[0]) or "none"
        found = ", ".join(others[0]) or "none"
        mend = "record each robot on a topic of its own"
        raise LogError(f"{name}: expected the labels {expected} throughout, found {found}; {mend}")
    return labels[0]


def _check_labels(name: str, labels: tuple[str, ...], fields: dict[str, Any]) -> None:
    for key in ("data", "position", "velocity", "effort"):
        size = np.shape(fields[key])[-1] if labels and key in fields else 0
        if size not in (0, len(labels)):
            found = f"{size} numbers in {key}"
            raise LogError(f"{name}: expected one for each of {', '.join(labels)}, found {found}")
