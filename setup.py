"""Package metadata: ranges that work (constraints.txt pins what was tested)."""

from glob import glob
from pathlib import Path

from setuptools import find_packages, setup

PACKAGE = "robot_policies"

# What a robot needs; torch and the simulators stay at home.
ONBOARD = ["numpy>=1.26", "onnxruntime>=1.20", "pyyaml>=6", "tyro>=0.9", "rich>=13"]

TRAIN = [
    "torch>=2.6",
    "mujoco>=4.0,<4.1",
    "gymnasium>=1.1",
    "numba>=0.60",
    "rsl-rl-lib>=5.5,<6",
    "pyarrow>=15",
    "av>=12",
    "genesis-world>=1.4,<2",
    "onnx>=1.17",
    "onnxscript>=0.3",
    "scipy>=1.11",
    "scikit-learn>=1.4",
    "matplotlib>=3.8",
    "h5py>=3.10",
    "tensorboard>=2.15",
    "foundation-policy>=1.0.2,<2",
    "metaworld==3.0.0",
    "diffusers>=0.30",
]

# The paper's teachers, and training spread over a cluster.
SAC = ["stable-baselines3>=2.6"]
RAY = ["ray>=2.40"]

# The authors' simulator: builds from source, over 13 minutes (see sim/quadrotor/l2f_peer.py).
L2F = ["l2f==2.0.18"]

LOGS = ["mcap>=1.5", "mcap-ros2-support>=0.5", "matplotlib>=3.8"]

# Only for machines without ROS: a Jazzy installation brings these itself.
ROS = [
    "ros-jazzy-rclpy",
    "ros-jazzy-rmw-fastrtps-cpp",
    "ros-jazzy-ament-index-python",
    "ros-jazzy-diagnostic-msgs",
    "ros-jazzy-geometry-msgs",
    "ros-jazzy-lifecycle-msgs",
    "ros-jazzy-nav-msgs",
    "ros-jazzy-sensor-msgs",
    "ros-jazzy-std-msgs",
    "ros-jazzy-std-srvs",
    "ros-jazzy-trajectory-msgs",
]

TEST = [
    "pytest>=8",
    "hypothesis>=6.100",
    'rtamt>=0.4.10; python_version < "3.12"',  # its antlr4 needs typing.io
    "cryptography>=42",
    "onnx>=1.17",
    "colcon-common-extensions",
    "setuptools>=77,<80",
    "ruff",
    "pyright[nodejs]",
    "import-linter",
    *SAC,
]

setup(
    name=PACKAGE,
    version="0.1.0",
    description="Learned robot policies, from simulation to a ROS 2 node that refuses what it "
    "cannot trust.",
    long_description=Path("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    author="The robot_policies authors",
    maintainer="The robot_policies authors",
    maintainer_email="robot-policies@example.com",
    license="MIT",
    python_requires=">=3.11",
    packages=find_packages(include=[f"{PACKAGE}*", "sim*", "deploy*"]),
    package_data={PACKAGE: ["py.typed", "zoo/*/*"], "sim": ["models/*.xml"]},
    data_files=[
        ("share/ament_index/resource_index/packages", [f"resource/{PACKAGE}"]),
        (f"share/{PACKAGE}", ["package.xml"]),
        (f"share/{PACKAGE}/launch", glob("launch/*.launch.py")),
        (f"share/{PACKAGE}/config", [*glob("config/*.yaml"), *glob("config/*.stl")]),
        # `ros2 run` and `ros2 launch` look here; pip ignores setup.cfg's install_scripts.
        (f"lib/{PACKAGE}", glob("scripts/*")),
    ],
    install_requires=ONBOARD,
    extras_require={
        "train": TRAIN,
        "sac": SAC,
        "ray": RAY,
        "l2f": L2F,
        "logs": LOGS,
        "ros": ROS,
        "sign": ["cryptography>=42"],
        "test": TEST,
    },
    entry_points={"console_scripts": ["robot-policies = robot_policies.cli:main"]},
)
