"""The doctor names what is wrong with a machine, and how to mend it."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from robot_policies import doctor
from robot_policies.doctor import BOOTSTRAP, RANGE, Finding, examine


def findings(**environment: str) -> dict[str, Finding]:
    return {finding.name: finding for finding in examine(environment)}


def test_every_finding_that_is_not_ok_says_how_to_mend_it() -> None:
    for finding in findings().values():
        assert finding.found
        assert bool(finding.mend) == (finding.status != "ok"), finding


def test_versions_threads_clock_and_rights_are_looked_at() -> None:
    names = findings().keys()
    assert {"python", "numpy", "onnxruntime", "torch", "cores", "OMP_NUM_THREADS"} <= names
    assert {"monotonic clock", "wall clock", "SCHED_FIFO", "memlock", "rclpy"} <= names


@pytest.mark.parametrize(
    ("name", "value", "status"),
    [
        ("OMP_NUM_THREADS", "1", "ok"),
        ("ROS_DOMAIN_ID", "7", "ok"),
        ("ROS_DOMAIN_ID", "232", "fail"),
        ("ROS_DOMAIN_ID", "seven", "fail"),
        (RANGE, "LOCALHOST", "ok"),
        (RANGE, "SUBNET", "warn"),
        ("ROS_DISTRO", "jazzy", "ok"),
        ("ROS_DISTRO", "foxy", "warn"),
        (BOOTSTRAP, "1", "fail"),
        ("AMENT_PREFIX_PATH", "/no/such/folder", "warn"),
        ("CXX", sys.executable, "ok"),
    ],
)
def test_the_environment(name: str, value: str, status: str) -> None:
    finding = "C++ compiler" if name == "CXX" else name
    assert findings(**{name: value})[finding].status == status


def test_training_needs_a_compiler() -> None:
    found = findings(CXX="no-such-compiler")["C++ compiler"]
    assert found.status == "warn" and "robot-policies train" in found.found
    assert "apt install g++" in found.mend


def test_a_bootstrap_of_this_python_is_fine() -> None:
    libraries = f"/usr/lib:{sys.prefix}/lib/ros.libs"
    found = findings(**{BOOTSTRAP: "1", "LD_LIBRARY_PATH": libraries})
    assert found[BOOTSTRAP].status == "ok"


def test_another_package_sim_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rival = tmp_path / "sim"
    rival.mkdir()
    (rival / "__init__.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "sim", raising=False)
    found = findings()["package sim"]
    assert found.status == "fail" and str(rival) in found.found


def test_the_launch_of_pypi_is_told_from_that_of_ros(tmp_path: Path, monkeypatch) -> None:
    folder = tmp_path / "launch"
    folder.mkdir()
    (folder / "__init__.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    found = findings()["package launch"]
    assert found.status == "fail" and "unrelated to ROS" in found.found
    (folder / "launch_description.py").write_text("")
    assert findings()["package launch"].status == "ok"


def test_a_missing_package_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "REQUIRED", ("no-such-package",))
    found = findings()["no-such-package"]
    assert (found.status, found.mend) == ("fail", "pip install no-such-package")
