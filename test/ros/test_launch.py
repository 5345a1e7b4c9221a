"""The launch file and the installed package, with real processes."""

import importlib.util
import os
import signal
import subprocess
import sys
from pathlib import Path

import launch_double
import pytest

PACKAGE = "robot_policies"
LAUNCH = "quadrotor.launch.py"
NODES = ["guard_node", "policy_node", "recorder_node", "robot_node"]


def launch_file(prefix: Path) -> Path:
    return prefix / "share" / PACKAGE / "launch" / LAUNCH


def environment(prefix: Path) -> dict[str, str]:
    """What sourcing install/setup.bash sets."""
    site = next((prefix / "lib").glob("python*/site-packages"))
    paths = [str(prefix), os.environ.get("AMENT_PREFIX_PATH", "")]
    return {
        "AMENT_PREFIX_PATH": ":".join(filter(None, paths)),
        "PYTHONPATH": ":".join(filter(None, [str(site), os.environ.get("PYTHONPATH", "")])),
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    }


def test_colcon_installs_what_ros_looks_for(installed):
    assert (installed / "share/ament_index/resource_index/packages" / PACKAGE).is_file()
    assert launch_file(installed).is_file()
    assert (installed / "share" / PACKAGE / "config/quadrotor.yaml").is_file()
    for node in NODES:
        assert os.access(installed / "lib" / PACKAGE / node, os.X_OK)


def test_the_ament_index_finds_the_package(installed):
    code = (
        "from ament_index_python.packages import get_package_share_directory as share;"
        f"print(share('{PACKAGE}'))"
    )
    bare = {k: v for k, v in os.environ.items() if not k.startswith("_ROS_WHEELS")}
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**bare, **environment(installed)},
        capture_output=True,
        text=True,
    )
    assert done.stdout.strip() == str(installed / "share" / PACKAGE), done.stderr


def test_arguments_and_their_defaults(installed):
    nodes = launch_double.resolve(launch_file(installed), installed, {})
    assert sorted(nodes) == ["guard_node", "policy_node"], "the real robot is there already"
    assert "bundle:=zoo:quadrotor" in nodes["policy_node"]
    assert "autostart:=false" in nodes["policy_node"]
    everything = {"sim": "true", "record": "log", "bundle": "zoo:other", "autostart": "true"}
    nodes = launch_double.resolve(launch_file(installed), installed, everything)
    assert sorted(nodes) == NODES
    assert "bundle:=zoo:other" in nodes["policy_node"]
    assert "autostart:=true" in nodes["policy_node"]
    assert "output:=log" in nodes["recorder_node"]


@pytest.mark.parametrize("wrong", [{"bundel": "zoo:raptor"}, {"sim": "maybe"}])
def test_a_wrong_argument_is_refused(installed, wrong):
    with pytest.raises(ValueError, match=r"bundel|maybe"):
        launch_double.resolve(launch_file(installed), installed, wrong)


def test_the_declared_nodes_run_from_the_installed_package(installed, processes, tmp_path):
    """Through the double: it resolves the launch file, the processes are the real ones."""
    given = {"sim": "true", "autostart": "true", "record": str(tmp_path / "log")}
    for name, command in launch_double.resolve(launch_file(installed), installed, given).items():
        processes.start(name, command, environment(installed))
    processes.wait_for_log("policy_node", "quadrotor verified")
    processes.wait_for_log("recorder_node", "recording to")
    processes.wait_for_log("policy_node", "HOLD no set-point")
    assert {name: processes.terminate(name) for name in NODES} == dict.fromkeys(NODES, 0)


@pytest.mark.skipif(
    importlib.util.find_spec("launch_ros") is None, reason="needs launch_ros (a ROS installation)"
)
def test_the_launch_file_through_the_real_launch(installed, processes, tmp_path):
    # What `ros2 launch FILE name:=value ...` does.
    code = """
import sys
from launch import LaunchDescription, LaunchService
from launch.actions import IncludeLaunchDescription
from launch.launch_description_sources import AnyLaunchDescriptionSource
given = [tuple(argument.split(":=", 1)) for argument in sys.argv[2:]]
file = IncludeLaunchDescription(AnyLaunchDescriptionSource(sys.argv[1]), launch_arguments=given)
service = LaunchService()
service.include_launch_description(LaunchDescription([file]))
sys.exit(service.run())
"""
    arguments = ["sim:=true", "autostart:=true", f"record:={tmp_path / 'log'}"]
    command = [sys.executable, "-c", code, str(launch_file(installed)), *arguments]
    processes.start("launch", command, environment(installed))
    processes.wait_for_log("launch", "HOLD no set-point")
    # Ctrl-C, the way to end `ros2 launch`.
    assert processes.terminate("launch", signal.SIGINT) == 0
    assert processes.log("launch").count("process has finished cleanly") == len(NODES)
