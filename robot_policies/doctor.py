"""Look at this machine: what will keep a policy from running well, and how to mend it.

Nothing is changed, and nothing heavy is loaded: packages are looked up, not imported.
"""

from __future__ import annotations

import os
import platform
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

Status = Literal["ok", "warn", "fail"]

REQUIRED = ("numpy", "onnxruntime", "PyYAML", "tyro", "rich")
OPTIONAL = {
    "torch": "a robot needs none",
    "onnx": "a robot needs none",
    "mujoco": "a robot needs none",
    "genesis-world": "a robot needs none",
    "mcap": "needed to record flights and to report on them",
    "cryptography": "needed to make signatures, and on a robot that demands one",
}
COMPILER_MEND = "apt install g++, or name another compiler in CXX"
PACKAGES = ("robot_policies", "sim", "deploy")
BOOTSTRAP = "_ROS_WHEELS_BOOTSTRAP_COMPLETE"
RANGE = "ROS_AUTOMATIC_DISCOVERY_RANGE"


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at."""

    name: str
    status: Status
    found: str
    mend: str = ""
    """How to mend it, where it is not ok."""


def examine(environment: Mapping[str, str] = os.environ) -> list[Finding]:
    """All findings, in the order in which a person would look."""
    return [
        *_versions(),
        _compiler(environment),
        *_threads(environment),
        *_clock(),
        *_real_time(),
        *_name_clashes(),
        *_ros(environment),
    ]


def _versions() -> Iterator[Finding]:
    yield Finding("python", "ok", platform.python_version())
    for name in REQUIRED:
        version = _version(name)
        status: Status = "ok" if version else "fail"
        mend = "" if version else f"pip install {name}"
        yield Finding(name, status, version or "not installed", mend)
    for name, purpose in OPTIONAL.items():
        yield Finding(name, "ok", _version(name) or f"not installed ({purpose})")


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def find_compiler(environment: Mapping[str, str] = os.environ) -> str | None:
    """The C++ compiler that torch takes to compile training: CXX, or g++; None without it."""
    return shutil.which(environment.get("CXX", "g++"))


def _compiler(environment: Mapping[str, str]) -> Finding:
    path = find_compiler(environment)
    found = path or "not found (only `robot-policies train` needs one)"
    return Finding("C++ compiler", "ok" if path else "warn", found, "" if path else COMPILER_MEND)


def _threads(environment: Mapping[str, str]) -> Iterator[Finding]:
    cores = len(os.sched_getaffinity(0))
    status: Status = "ok" if cores > 1 else "warn"
    mend = "" if cores > 1 else "the guard needs a core of its own to be on time"
    yield Finding("cores", status, f"{cores} of {os.cpu_count()}", mend)
    yield Finding("ONNX Runtime threads", "ok", "1 for each policy, without spinning")
    found = environment.get("OMP_NUM_THREADS", "not set")
    busy = found == "not set" and cores > 1
    mend = "onboard: export OMP_NUM_THREADS=1, so that numpy takes no core from the control loop"
    yield Finding("OMP_NUM_THREADS", "warn" if busy else "ok", found, mend if busy else "")


def _clock() -> Iterator[Finding]:
    resolution = time.get_clock_info("monotonic").resolution
    fine = resolution <= 1e-6
    mend = "" if fine else "intervals this coarse cannot time a control loop: use another kernel"
    yield Finding("monotonic clock", "ok" if fine else "warn", f"{resolution:g} s", mend)
    synchronised = _synchronised()
    names = {True: "synchronised", False: "not synchronised", None: "unknown"}
    mend = "run chrony or systemd-timesyncd: stamps of two machines are compared"
    ok = synchronised is True
    yield Finding("wall clock", "ok" if ok else "warn", names[synchronised], "" if ok else mend)


def _synchronised() -> bool | None:
    if shutil.which("timedatectl") is None:
        return None
    command = ["timedatectl", "show", "--property=NTPSynchronized", "--value"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=5)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return {"yes": True, "no": False}.get(done.stdout.strip())


def _real_time() -> Iterator[Finding]:
    priority = resource.getrlimit(resource.RLIMIT_RTPRIO)[1]
    allowed = _may_schedule_fifo()
    mend = "for real-time priority: a line `@realtime - rtprio 98` in /etc/security/limits.d"
    found = f"{'allowed' if allowed else 'not allowed'} (rtprio limit {_limit(priority)})"
    yield Finding("SCHED_FIFO", "ok" if allowed else "warn", found, "" if allowed else mend)
    memory = resource.getrlimit(resource.RLIMIT_MEMLOCK)[0]
    enough = memory == resource.RLIM_INFINITY or memory >= 1 << 30
    mend = "a line `@realtime - memlock unlimited` in /etc/security/limits.d keeps pages in memory"
    found = f"{_limit(memory)} bytes"
    yield Finding("memlock", "ok" if enough else "warn", found, "" if enough else mend)


def _may_schedule_fifo() -> bool:
    """Ask in a child process, so that this one keeps its scheduling."""
    script = "import os; os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))"
    return _python_succeeds(script)


def _limit(value: int) -> str:
    return "unlimited" if value == resource.RLIM_INFINITY else str(value)


def _name_clashes() -> Iterator[Finding]:
    """Our top-level packages have common names: say whose module would be imported."""
    owners = metadata.packages_distributions()
    root = Path(__file__).resolve().parent.parent
    for name in PACKAGES:
        spec = find_spec(name)
        where = [str(path) for path in spec.submodule_search_locations or ()] if spec else []
        ours = where == [str(root / name)] or any(Path(p).resolve() == root / name for p in where)
        rivals = {d for d in owners.get(name, ()) if d.replace("-", "_") != "robot_policies"}
        mend = f"uninstall what else brings the package {name}, or change PYTHONPATH"
        found = f"{where[0] if where else 'not found'}" + _from(rivals)
        good = ours and not rivals
        yield Finding(f"package {name}", "ok" if good else "fail", found, "" if good else mend)
    yield _launch_clash(owners)


def _from(distributions: set[str]) -> str:
    return f", also from {', '.join(sorted(distributions))}" if distributions else ""


def _launch_clash(owners: Mapping[str, list[str]]) -> Finding:
    """PyPI's `launch` 0.1.3 is unrelated to ROS and hides its package of that name."""
    spec = find_spec("launch")
    version = _version("launch")
    is_ros = spec is not None and _has_module(
        spec.submodule_search_locations, "launch_description"
    )
    if spec is None or (spec.origin is None and not is_ros):
        return Finding("package launch", "ok", "not installed (only `ros2 launch` needs it)")
    if is_ros:
        return Finding("package launch", "ok", f"ROS {version or ''}".strip())
    who = ", ".join(owners.get("launch", [])) or spec.origin or "unknown"
    found = f"{who} {version or ''}: unrelated to ROS".replace("  ", " ")
    mend = "pip uninstall launch: PyPI's `launch` (0.1.3) hides the package that ROS launches with"
    return Finding("package launch", "fail", found, mend)


def _has_module(folders: object, name: str) -> bool:
    return any((Path(folder) / f"{name}.py").is_file() for folder in folders or ())  # type: ignore[attr-defined]


def _ros(environment: Mapping[str, str]) -> Iterator[Finding]:
    importable = _python_succeeds("import rclpy")
    mend = "source /opt/ros/jazzy/setup.bash, or pip install '.[ros]' in the checkout"
    found = "importable" if importable else "not importable (only the nodes need it)"
    yield Finding("rclpy", "ok" if importable else "warn", found, "" if importable else mend)
    distro = environment.get("ROS_DISTRO", "not set")
    strange = distro not in ("not set", "jazzy")
    mend = "the nodes are tested with jazzy" if strange else ""
    yield Finding("ROS_DISTRO", "warn" if strange else "ok", distro, mend)
    default = "not set (the default of the distribution)"
    yield Finding("rmw", "ok", environment.get("RMW_IMPLEMENTATION", default))
    yield from _ros_environment(environment)


def _ros_environment(environment: Mapping[str, str]) -> Iterator[Finding]:
    yield _bootstrap(environment)
    prefixes = [path for path in environment.get("AMENT_PREFIX_PATH", "").split(":") if path]
    gone = [path for path in prefixes if not Path(path).is_dir()]
    mend = "remove from AMENT_PREFIX_PATH: " + ", ".join(gone) if gone else ""
    found = f"{len(prefixes)} folders" if prefixes else "not set"
    yield Finding("AMENT_PREFIX_PATH", "warn" if gone else "ok", found, mend)
    yield _domain(environment.get("ROS_DOMAIN_ID"))
    reach = environment.get(RANGE, "not set")
    alone = reach in ("LOCALHOST", "OFF")
    mend = f"export {RANGE}=LOCALHOST, unless other machines are meant to command this robot"
    found = reach if alone else f"{reach}: every machine of the subnet is heard"
    yield Finding(RANGE, "ok" if alone else "warn", found, "" if alone else mend)


def _bootstrap(environment: Mapping[str, str]) -> Finding:
    """The ROS wheels set it once they have added the libraries of their own environment."""
    libraries = environment.get("LD_LIBRARY_PATH", "").split(":")
    if BOOTSTRAP not in environment:
        return Finding(BOOTSTRAP, "ok", "not set")
    if any(path.startswith(sys.prefix) for path in libraries):
        return Finding(BOOTSTRAP, "ok", "set by this environment")
    mend = f"unset {BOOTSTRAP}: with it, the ROS wheels of this Python do not load their libraries"
    return Finding(BOOTSTRAP, "fail", "inherited from another environment", mend)


def _domain(domain: str | None) -> Finding:
    if domain is None or (domain.isdecimal() and int(domain) <= 101):
        return Finding("ROS_DOMAIN_ID", "ok", domain or "not set (0)")
    mend = "use 0 to 101: higher domains meet the ports that Linux hands out"
    return Finding("ROS_DOMAIN_ID", "fail", repr(domain), mend)


def _python_succeeds(script: str) -> bool:
    command = [sys.executable, "-c", script]
    try:
        return subprocess.run(command, capture_output=True, timeout=20).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False
