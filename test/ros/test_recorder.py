"""The recorder as a real process: what was on the wire is in the file, also after a bad end."""

import signal
import sys
import time

import pytest
import rclpy
import yaml
from conftest import wait_until
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from geometry_msgs.msg import Wrench
from nav_msgs.msg import Odometry
from rclpy.context import Context
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import Imu, JointState
from std_msgs.msg import Float64MultiArray, MultiArrayDimension, String
from trajectory_msgs.msg import MultiDOFJointTrajectory

from robot_policies import logs

RELIABLE = QoSProfile(depth=50)
BEST_EFFORT = QoSProfile(depth=50, reliability=ReliabilityPolicy.BEST_EFFORT)
LATCHED = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
COUNT = 20


class Robot:
    """Publishes in a context of its own, so that tests share nothing."""

    def __init__(self, domain):
        self.context = Context()
        rclpy.init(context=self.context, domain_id=domain)
        self.node = rclpy.create_node("robot", context=self.context)

    def publisher(self, kind, topic, qos=RELIABLE):
        return self.node.create_publisher(kind, topic, qos)

    def close(self):
        self.node.destroy_node()
        self.context.try_shutdown()


@pytest.fixture
def robot(domain):
    robot = Robot(int(domain))
    yield robot
    robot.close()


def command(*arguments):
    return [sys.executable, "-m", "deploy.recorder_node", "--ros-args", *arguments]


@pytest.fixture
def recorder(processes, tmp_path):
    """Start a recorder of tmp_path/bag and wait until it records."""

    def start(*arguments, limit=""):
        full = command("-p", f"output:={tmp_path / 'bag'}", *arguments)
        shell = ["bash", "-c", f'{limit} exec "$@"', "bash", *full] if limit else full
        process = processes.start("recorder_node", shell)
        processes.wait_for_log("recorder_node", "recording to")
        return process

    return start


def heard(*publishers):
    for publisher in publishers:
        wait_until(publisher.get_subscription_count, 20, f"a listener of {publisher.topic_name}")


def send(publisher, messages, period=0.005):
    for message in messages:
        publisher.publish(message)
        time.sleep(period)


def odometries(count=COUNT):
    for number in range(count):
        message = Odometry(child_frame_id="base_link")
        message.header.frame_id = "world"
        message.pose.pose.position.x = float(number)
        yield message


def stop(processes, with_signal=signal.SIGINT):
    time.sleep(0.3)
    assert processes.terminate("recorder_node", with_signal) == 0, processes.log("recorder_node")


def test_every_message_reads_back_as_it_was_sent(processes, recorder, robot, tmp_path):
    from mcap.reader import make_reader
    from mcap_ros2.decoder import DecoderFactory

    motors = Float64MultiArray(data=[0.1, 0.2, 0.3, 0.4])
    motors.layout.dim = [MultiArrayDimension(label="a,b,c,d", size=4, stride=4)]
    status = DiagnosticStatus(name="guard_node", level=DiagnosticStatus.ERROR)
    status.values = [KeyValue(key="trips", value="1")]
    sent = {
        "/odometry": next(odometries()),
        "/imu": Imu(),
        "/setpoint": MultiDOFJointTrajectory(joint_names=["base_link"]),
        "/motors": motors,
        "/push": Wrench(),
        "/phase": String(data="hover"),
        "/diagnostics": DiagnosticArray(status=[status]),
        "/joint_states": JointState(name=["hip"], position=[0.5]),
    }
    publishers = {topic: robot.publisher(type(m), topic) for topic, m in sent.items()}
    recorder()
    heard(*publishers.values())
    before = time.time_ns()
    for topic, message in sent.items():
        publishers[topic].publish(message)
    stop(processes)
    found = {}
    with (tmp_path / "bag" / "bag_0.mcap").open("rb") as stream:
        reader = make_reader(stream, decoder_factories=[DecoderFactory()])
        assert reader.get_header().profile == "ros2"
        for schema, channel, message, decoded in reader.iter_decoded_messages():
            if channel.topic in sent:
                found[channel.topic] = decoded
                assert schema.name == type_name(sent[channel.topic])
                assert schema.encoding == "ros2msg" and channel.message_encoding == "cdr"
                assert before <= message.publish_time <= message.log_time <= time.time_ns()
    assert found.keys() == sent.keys()
    for topic, message in sent.items():
        assert same(message, found[topic]), topic


def type_name(message):
    package = type(message).__module__.partition(".")[0]
    return f"{package}/msg/{type(message).__name__}"


def same(sent, decoded):
    """Whether a message and what was decoded have equal fields, all the way down."""
    if hasattr(sent, "get_fields_and_field_types"):
        names = sent.get_fields_and_field_types()
        return all(same(getattr(sent, name), getattr(decoded, name)) for name in names)
    if isinstance(sent, bytes):
        return sent[0] == decoded
    if hasattr(sent, "__len__") and not isinstance(sent, str):
        return len(sent) == len(decoded) and all(map(same, sent, decoded))
    return sent == decoded


def test_the_directory_is_a_bag_of_rosbag2(processes, recorder, robot, tmp_path):
    publisher = robot.publisher(Odometry, "/odometry", BEST_EFFORT)
    recorder()
    heard(publisher)
    send(publisher, odometries())
    stop(processes, signal.SIGTERM)
    document = yaml.safe_load((tmp_path / "bag" / "metadata.yaml").read_text())
    bag = document["rosbag2_bagfile_information"]
    assert (bag["version"], bag["storage_identifier"]) == (9, "mcap")
    assert bag["relative_file_paths"] == ["bag_0.mcap"]
    assert bag["custom_data"] == {"lost_messages": "0"}
    topics = {entry["topic_metadata"]["name"]: entry for entry in bag["topics_with_message_count"]}
    odometry = topics["/odometry"]
    assert odometry["message_count"] == COUNT
    assert odometry["topic_metadata"]["type"] == "nav_msgs/msg/Odometry"
    assert odometry["topic_metadata"]["type_description_hash"].startswith("RIHS01_")
    assert odometry["topic_metadata"]["offered_qos_profiles"][0]["reliability"] == "best_effort"
    assert bag["message_count"] == sum(entry["message_count"] for entry in topics.values())


def test_every_quality_of_service_is_recorded(processes, recorder, robot, tmp_path):
    phase = robot.publisher(String, "/phase", LATCHED)
    phase.publish(String(data="before the recorder started"))
    recorder()
    reliable = robot.publisher(Odometry, "/odometry", RELIABLE)
    heard(phase, reliable)
    send(reliable, odometries())
    # A best-effort publisher on a topic that was subscribed to as reliable: followed as well.
    other = robot.publisher(Odometry, "/odometry", BEST_EFFORT)
    heard(other)
    send(other, odometries())
    stop(processes)
    log = logs.read(tmp_path / "bag")
    assert log["/phase"]["data"] == ["before the recorder started"]
    assert log["/odometry"]["position"][:, 0].tolist() == [*range(COUNT), *range(COUNT)]


def test_only_the_wanted_topics_are_recorded(processes, recorder, robot, tmp_path):
    wanted, other = (robot.publisher(String, topic) for topic in ("/wanted", "/other"))
    recorder("-p", "topics:=[/wanted, /never_published]")
    heard(wanted)
    wanted.publish(String(data="yes"))
    other.publish(String(data="no"))
    stop(processes)
    assert list(logs.read(tmp_path / "bag")) == ["/wanted"]
    assert "nothing was received on: /never_published" in processes.log("recorder_node")


def test_a_killed_recorder_leaves_all_but_the_last_second(processes, recorder, robot, tmp_path):
    publisher = robot.publisher(Odometry, "/odometry")
    recorder()
    heard(publisher)
    send(publisher, odometries())
    time.sleep(1.0)
    send(publisher, odometries(200), period=0.001)
    processes.terminate("recorder_node", signal.SIGKILL)
    log = logs.read(tmp_path / "bag")
    assert "not closed" in log.damage or "cut off" in log.damage
    positions = log["/odometry"]["position"][:, 0].tolist()
    assert positions[:COUNT] == list(range(COUNT))
    assert positions[COUNT:] == list(range(len(positions) - COUNT))


def test_a_full_disk_ends_the_recording_with_a_reason(processes, recorder, robot, tmp_path):
    publisher = robot.publisher(Odometry, "/odometry")
    process = recorder(limit="ulimit -f 64;")
    heard(publisher)
    for number in range(4000):
        message = Odometry()
        # Numbers that do not compress, so that the limit comes soon.
        message.pose.covariance = [hash((number, i)) / 7.0 for i in range(36)]
        publisher.publish(message)
        time.sleep(0.002)
        if process.poll() is not None:
            break
    assert process.wait(timeout=10) == 1
    text = processes.log("recorder_node")
    assert "cannot write" in text and "bag_0.mcap" in text and "Traceback" not in text
    assert len(logs.read(tmp_path / "bag")["/odometry"].time) > 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "parameter output is missing"),
        (["-p", "output:=5"], "parameter output must be a text"),
        (["-p", "output:={existing}"], "exists already"),
        (["-p", "output:={existing}/file/below"], "Not a directory"),
        (["-p", "output:={existing}/new", "-p", "topics:=/imu"], "must be a list of texts"),
        (["-p", "output"], "parameter override"),
    ],
)
def test_what_cannot_be_recorded_is_refused_at_once(processes, tmp_path, arguments, message):
    existing = tmp_path / "existing"
    existing.mkdir()
    (existing / "file").write_text("precious")
    filled = [argument.format(existing=existing) for argument in arguments]
    process = processes.start("recorder_node", command(*filled))
    assert process.wait(timeout=30) == 2
    text = processes.log("recorder_node")
    assert message in text and "Traceback" not in text
    assert [path.name for path in existing.iterdir()] == ["file"]


def test_without_mcap_it_says_how_to_install_it(processes, tmp_path):
    code = "import sys; sys.modules['mcap.writer'] = None; from deploy.recorder_node import main"
    arguments = ["--ros-args", "-p", f"output:={tmp_path / 'bag'}"]
    process = processes.start(
        "recorder_node", [sys.executable, "-c", f"{code}; main()", *arguments]
    )
    assert process.wait(timeout=30) == 2
    assert "pip install mcap" in processes.log("recorder_node")


def test_a_definition_comes_with_all_that_it_refers_to():
    from deploy.recorder_node import message_definition

    text = message_definition("nav_msgs/msg/Odometry")
    headings = [line for line in text.splitlines() if line.startswith("MSG: ")]
    assert len(headings) == len(set(headings)) == 9
    assert "MSG: builtin_interfaces/Time" in headings
    with pytest.raises(LookupError, match="no definition of nothing_msgs/Here"):
        message_definition("nothing_msgs/msg/Here")
