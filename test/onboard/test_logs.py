"""Reading flight logs: MCAP and npz in, named signals with time out, and what damage does."""

import sys

import numpy as np
import pytest

from robot_policies.logs import Log, LogError, Topic, read

HEADER = "std_msgs/Header header\n"
RULE = "=" * 80 + "\n"
DEFINITIONS = {
    "std_msgs/Header": "builtin_interfaces/Time stamp\nstring frame_id",
    "geometry_msgs/Vector3": "float64 x\nfloat64 y\nfloat64 z",
    "geometry_msgs/Quaternion": "float64 x\nfloat64 y\nfloat64 z\nfloat64 w",
    "geometry_msgs/Wrench": "geometry_msgs/Vector3 force\ngeometry_msgs/Vector3 torque",
    "std_msgs/String": "string data",
    "std_msgs/MultiArrayDimension": "string label\nuint32 size\nuint32 stride",
    "std_msgs/MultiArrayLayout": "std_msgs/MultiArrayDimension[] dim\nuint32 data_offset",
    "std_msgs/Float64MultiArray": "std_msgs/MultiArrayLayout layout\nfloat64[] data",
    "sensor_msgs/Imu": HEADER
    + "geometry_msgs/Quaternion orientation\nfloat64[9] orientation_covariance\n"
    + "geometry_msgs/Vector3 angular_velocity\nfloat64[9] angular_velocity_covariance\n"
    + "geometry_msgs/Vector3 linear_acceleration\nfloat64[9] linear_acceleration_covariance",
    "sensor_msgs/JointState": HEADER
    + "string[] name\nfloat64[] position\nfloat64[] velocity\nfloat64[] effort",
    "diagnostic_msgs/KeyValue": "string key\nstring value",
    "diagnostic_msgs/DiagnosticStatus": "byte level\nstring name\nstring message\n"
    "string hardware_id\ndiagnostic_msgs/KeyValue[] values",
    "diagnostic_msgs/DiagnosticArray": HEADER + "diagnostic_msgs/DiagnosticStatus[] status",
    "example_msgs/Unknown": "int32 number",
}
START_NS = 1_795_000_000_000_000_000
MOTORS = "front_right,back_right,back_left,front_left"


@pytest.fixture
def record(tmp_path):
    """Write (topic, type, message, seconds) to an MCAP file, in chunks of `chunk_size`."""
    ros2_writer = pytest.importorskip("mcap_ros2.writer")

    def write(messages, chunk_size=1024, name="flight.mcap"):
        path = tmp_path / name
        with path.open("wb") as stream:
            writer = ros2_writer.Writer(stream, chunk_size=chunk_size)
            schemas = {}
            for topic, kind, message, seconds in messages:
                if kind not in schemas:
                    rest = "".join(f"\n{RULE}MSG: {k}\n{v}" for k, v in DEFINITIONS.items())
                    full = kind.replace("/", "/msg/")
                    schemas[kind] = writer.register_msgdef(full, DEFINITIONS[kind] + rest)
                time = START_NS + round(seconds * 1e9)
                writer.write_message(topic, schemas[kind], message, time, time - 1000, 7)
            writer.finish()
        return path

    return write


def header(seconds):
    time = START_NS + round(seconds * 1e9)
    return {"stamp": {"sec": time // 10**9, "nanosec": time % 10**9}, "frame_id": "base_link"}


def xyz(x, y, z):
    return {"x": x, "y": y, "z": z}


def motors(*data, labels=MOTORS):
    dimension = {"label": labels, "size": len(data), "stride": len(data)}
    return {"layout": {"dim": [dimension], "data_offset": 0}, "data": list(data)}


def motor_log(count=200):
    return [
        ("/motors", "std_msgs/Float64MultiArray", motors(0.1, 0.2, 0.3, i / count), i * 0.01)
        for i in range(count)
    ]


def test_signals_come_by_topic_and_field_with_their_times(record):
    imu = {
        "header": header(0.5),
        "orientation": xyz(0.1, 0.2, 0.3) | {"w": 0.9},
        "angular_velocity": xyz(1.0, 2.0, 3.0),
        "linear_acceleration": xyz(0.0, 0.0, 9.81),
        "orientation_covariance": [0.0] * 9,
        "angular_velocity_covariance": [0.0] * 9,
        "linear_acceleration_covariance": [0.0] * 9,
    }
    phase = ("/phase", "std_msgs/String", {"data": "hover"}, 0.25)
    log = read(record([phase, *(("/imu", "sensor_msgs/Imu", imu, t) for t in (0.5, 0.75))]))
    assert log.start_ns == START_NS + 250_000_000
    assert log["/imu"].time.tolist() == [0.25, 0.5]
    assert log["/imu"]["stamp"].tolist() == [0.25, 0.25]
    assert log["/imu"]["published"] == pytest.approx([0.25 - 1e-6, 0.5 - 1e-6])
    assert log["/imu"]["quaternion_xyzw"].tolist() == [[0.1, 0.2, 0.3, 0.9]] * 2
    assert log["/imu"]["linear_acceleration"].shape == (2, 3)
    assert log["/phase"]["data"] == ["hover"]
    assert log.damage == ""


def test_motor_and_joint_names_are_kept(record):
    joints = {"name": ["hip", "knee"], "position": [0.1, 0.2], "velocity": [], "effort": []}
    state = ("/joint_states", "sensor_msgs/JointState", {"header": header(0), **joints}, 0.0)
    log = read(record([*motor_log(3), state]))
    assert log["/motors"].labels == tuple(MOTORS.split(","))
    assert log["/motors"]["data"].shape == (3, 4)
    assert log["/joint_states"].labels == ("hip", "knee")
    assert log["/joint_states"]["velocity"].shape == (1, 0)


def test_diagnostics_are_plain_documents(record):
    status = {
        "level": 1, "name": "policy_node", "message": "late", "hardware_id": "",
        "values": [{"key": "state", "value": "WARN"}],
    }  # fmt: skip
    message = {"header": header(0), "status": [status]}
    log = read(record([("/diagnostics", "diagnostic_msgs/DiagnosticArray", message, 0.0)]))
    assert log["/diagnostics"]["status"] == [[{**status, "values": {"state": "WARN"}}]]


def test_a_type_that_is_not_known_keeps_its_times(record):
    log = read(record([("/x", "example_msgs/Unknown", {"number": 3}, 0.0)]))
    assert len(log["/x"].time) == 1
    with pytest.raises(KeyError, match=r"\(example_msgs/msg/Unknown\) has no field 'number'"):
        log["/x"]["number"]


def test_npz_gives_back_an_equal_log(record, tmp_path):
    wrench = {"force": xyz(0.0, 0.1 + 0.2, -1e-300), "torque": xyz(0.0, 0.0, 0.0)}
    push = ("/push", "geometry_msgs/Wrench", wrench, 0.1)
    phase = ("/phase", "std_msgs/String", {"data": "süß\0"}, 0.123456789)
    log = read(record([*motor_log(5), push, phase]))
    log.save(tmp_path / "flight.npz")
    again = read(tmp_path / "flight.npz")
    assert again.start_ns == log.start_ns and list(again) == list(log)
    for name, topic in log.items():
        assert (again[name].kind, again[name].labels) == (topic.kind, topic.labels)
        assert np.array_equal(again[name].time, topic.time)
        for field, values in topic.fields.items():
            assert np.array_equal(again[name][field], values), f"{name}.{field}"


def test_saving_overwrites_nothing(tmp_path):
    (tmp_path / "flight.npz").write_text("precious")
    with pytest.raises(LogError, match=r"flight\.npz exists already"):
        Log(0, {}).save(tmp_path / "flight.npz")
    assert (tmp_path / "flight.npz").read_text() == "precious"


def test_an_npz_of_any_program_can_be_read(tmp_path):
    time = np.arange(3.0)
    np.savez(
        tmp_path / "x.npz", start_ns=0, **{"/odometry.time": time, "/odometry.position": time}
    )
    assert read(tmp_path / "x.npz")["/odometry"]["position"].tolist() == [0, 1, 2]


@pytest.mark.parametrize("cut", [0.1, 0.5, 0.9, 0.999])
def test_what_is_whole_of_a_truncated_file_is_recovered(record, cut):
    path = record(motor_log())
    data = path.read_bytes()
    path.write_bytes(data[: int(cut * len(data))])
    log = read(path)
    count = len(log["/motors"].time)
    assert (cut - 0.2) * 200 < count <= 200
    assert log["/motors"]["data"][:, 3] == pytest.approx(np.arange(count) / 200)
    assert "bytes are lost" in log.damage


@pytest.mark.parametrize("number", [0, 1])
def test_a_corrupt_chunk_is_left_out_and_counted(record, number):
    path = record(motor_log())
    make_reader = pytest.importorskip("mcap.reader").make_reader
    with path.open("rb") as stream:
        chunk = make_reader(stream).get_summary().chunk_indexes[number]
    data = bytearray(path.read_bytes())
    data[chunk.chunk_start_offset + chunk.chunk_length // 2] ^= 0xFF
    path.write_bytes(data)
    log = read(path)
    assert log.damage == "1 corrupt records are left out"
    # The first chunk declares the topic; the file's summary does it again.
    assert 150 < len(log["/motors"].time) < 200


def test_no_byte_of_a_file_can_be_flipped_into_a_traceback(record):
    path = record(motor_log(20), chunk_size=256)
    whole = path.read_bytes()
    for position in range(0, len(whole), 7):
        data = bytearray(whole)
        data[position] ^= 0x5A
        path.write_bytes(data)
        try:
            dict(read(path))
        except LogError:
            continue


@pytest.mark.parametrize("content", [b"", b"\x89MCAP", b"not a log, but long enough to be read"])
def test_another_file_is_refused(tmp_path, content):
    pytest.importorskip("mcap")
    (tmp_path / "x.mcap").write_bytes(content)
    with pytest.raises(LogError, match="expected an MCAP file"):
        read(tmp_path / "x.mcap")


def test_without_mcap_it_says_how_to_install_it(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "mcap", None)
    (tmp_path / "x.mcap").write_bytes(b"")
    with pytest.raises(LogError, match=r"pip install '.\[logs\]'"):
        read(tmp_path / "x.mcap")


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 and no more"])
def test_a_broken_npz_is_refused(tmp_path, content):
    (tmp_path / "x.npz").write_bytes(content)
    with pytest.raises(LogError, match="expected a whole npz file"):
        read(tmp_path / "x.npz")


def test_a_missing_file_and_an_empty_directory_are_named(tmp_path):
    with pytest.raises(LogError, match="No such file"):
        read(tmp_path / "none.mcap")
    with pytest.raises(LogError, match=r"expected one \.mcap file, found none"):
        read(tmp_path)


@pytest.mark.parametrize(
    ("time", "message"),
    [
        ([0.0, np.nan, 2.0], "finite times, found nan at index 1"),
        ([0.0, 2.0, 1.0], r"times in order, found 1\.0+ s after 2\.0+ s at index 2"),
        ([0.0, 1.0], "expected 2 values, found 3"),
    ],
)
def test_times_that_cannot_be_are_refused(tmp_path, time, message):
    entries = {"/imu.time": np.array(time), "/imu.angular_velocity": np.zeros((3, 3))}
    np.savez(tmp_path / "x.npz", start_ns=0, **entries)
    with pytest.raises(LogError, match=message):
        read(tmp_path / "x.npz")


def test_an_mcap_with_time_going_backwards_is_refused(record):
    log = read(record(motor_log(3)[::-1]))
    with pytest.raises(LogError, match="/motors: expected times in order"):
        log["/motors"]


@pytest.mark.parametrize(
    ("second", "message"),
    [
        (motors(1.0, 2.0), "one size in every message"),
        (motors(1.0, 2.0, 3.0, 4.0, labels="a,b,c,d"), "expected the labels front_right"),
    ],
)
def test_motors_that_change_in_flight_are_refused(record, second, message):
    log = read(record([*motor_log(1), ("/motors", "std_msgs/Float64MultiArray", second, 1.0)]))
    with pytest.raises(LogError, match=message):
        log["/motors"]


def test_a_name_that_is_not_there_is_answered_with_those_that_are():
    log = Log(0, {"/imu": Topic("/imu", "", np.zeros(1), {"angular_velocity": np.zeros((1, 3))})})
    with pytest.raises(KeyError, match="its topics are /imu"):
        log["/odometry"]
    with pytest.raises(KeyError, match="its fields are angular_velocity"):
        log["/imu"]["position"]


def test_a_topic_that_cannot_be_decoded_says_so_each_time(record):
    second = motors(1.0, 2.0)
    log = read(record([*motor_log(1), ("/motors", "std_msgs/Float64MultiArray", second, 1.0)]))
    for _ in range(2):
        with pytest.raises(LogError, match="one size"):
            log["/motors"]


@pytest.mark.parametrize(
    "entries",
    [
        {"/a.s.json": np.frombuffer(b"{x", np.uint8)},
        {"/a.v": np.float64(3)},
        {"start_ns": np.zeros(3)},
        {"start_ns": "soon"},
        {"/a.time": "now"},
    ],
)
def test_an_npz_with_other_contents_is_refused(tmp_path, entries):
    np.savez(tmp_path / "x.npz", **({"start_ns": 0, "/a.time": np.zeros(2)} | entries))
    with pytest.raises(LogError):
        read(tmp_path / "x.npz")
