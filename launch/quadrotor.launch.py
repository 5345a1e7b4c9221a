"""A quadrotor flown by a bundle: policy, guard, and on request the simulated robot and a recorder.

ros2 launch robot_policies quadrotor.launch.py bundle:=zoo:quadrotor sim:=true record:=flights/1
"""

from launch.actions import DeclareLaunchArgument
from launch.conditions import IfCondition
from launch.substitutions import (
    LaunchConfiguration,
    NotEqualsSubstitution,
    PathJoinSubstitution,
)
from launch_ros.actions import Node
from launch_ros.parameter_descriptions import ParameterFile, ParameterValue
from launch_ros.substitutions import FindPackageShare

from launch import LaunchDescription

PACKAGE = "robot_policies"


def generate_launch_description() -> LaunchDescription:
    """Declare the arguments and start the nodes."""
    share = FindPackageShare(PACKAGE)
    default_parameters = PathJoinSubstitution([share, "config", "quadrotor.yaml"])
    arguments = [
        DeclareLaunchArgument(
            "bundle", default_value="zoo:quadrotor", description="bundle's directory, or zoo:NAME"
        ),
        DeclareLaunchArgument(
            "params_file",
            default_value=default_parameters,
            description="YAML with the parameters of all nodes",
        ),
        DeclareLaunchArgument(
            "sim", default_value="false", description="true: start the simulated robot as well"
        ),
        DeclareLaunchArgument(
            "record", default_value="", description="directory to record to (MCAP); empty: none"
        ),
        DeclareLaunchArgument(
            "autostart",
            default_value="false",
            description="true: configure and activate the policy at once",
        ),
    ]
    parameters = ParameterFile(LaunchConfiguration("params_file"))
    record = LaunchConfiguration("record")
    autostart = ParameterValue(LaunchConfiguration("autostart"), value_type=bool)
    nodes = [
        Node(
            package=PACKAGE,
            executable="robot_node",
            parameters=[parameters],
            output="screen",
            condition=IfCondition(LaunchConfiguration("sim")),
        ),
        Node(package=PACKAGE, executable="guard_node", parameters=[parameters], output="screen"),
        Node(
            package=PACKAGE,
            executable="policy_node",
            parameters=[
                parameters,
                {"bundle": LaunchConfiguration("bundle"), "autostart": autostart},
            ],
            output="screen",
        ),
        Node(
            package=PACKAGE,
            executable="recorder_node",
            parameters=[{"output": record}],
            output="screen",
            condition=IfCondition(NotEqualsSubstitution(record, "")),
        ),
    ]
    return LaunchDescription([*arguments, *nodes])
