"""What runs onboard loads neither torch nor a simulator, not even through another module."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
HEAVY = {"torch", "mujoco", "genesis", "jax", "onnx", "sim", "h5py"}
ONBOARD = [
    "robot_policies",
    *(
        f"robot_policies.{name}"
        for name in (
            "bundle", "cli", "contract", "doctor", "runtime", "signals", "strict", "verify",
            "weights",
        )
    ),
]  # fmt: skip
SCRIPT = """
import importlib, json, sys
for name in sys.argv[1:]:
    importlib.import_module(name)
print(json.dumps(sorted(sys.modules)))
"""


def loaded_by(*modules: str) -> set[str]:
    command = [sys.executable, "-c", SCRIPT, *modules]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    return set(json.loads(done.stdout.splitlines()[-1]))


def test_the_onboard_half_of_robot_policies_is_light() -> None:
    assert not loaded_by(*ONBOARD) & HEAVY


def test_reading_a_contract_needs_the_standard_library_only() -> None:
    assert not loaded_by("robot_policies.contract") & {*HEAVY, "numpy", "onnxruntime", "yaml"}


def test_the_verifying_commands_are_light(leg: Path) -> None:
    script = (
        "import sys; from robot_policies.cli import main\n"
        "code = main(sys.argv[1:]); print(sorted(sys.modules), file=sys.stderr); sys.exit(code)"
    )
    for arguments in (["verify", str(leg), "--no-latency"], ["doctor", "--json"]):
        command = [sys.executable, "-c", script, *arguments]
        done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
        modules = done.stderr.splitlines()[-1]
        assert not any(f"'{name}'" in modules for name in HEAVY), arguments


def deploy_modules() -> list[str]:
    names = [path.stem for path in sorted((ROOT / "deploy").glob("*.py"))]
    return [f"deploy.{name}" for name in names if name != "__init__"]


@pytest.mark.parametrize("module", deploy_modules())
def test_deploy_is_light(module: str) -> None:
    text = (ROOT / f"{module.replace('.', '/')}.py").read_text()
    if find_spec("rclpy") is None and ("rclpy" in text or "robot_policies.ros" in text):
        pytest.skip("a node: rclpy is not installed here")
    if find_spec("mcap") is None and "mcap" in text:
        pytest.skip("mcap is not installed here")
    assert not loaded_by(module) & HEAVY
