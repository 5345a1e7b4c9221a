"""Real ROS 2 processes on loopback, each test in a domain of its own."""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
PARAMETERS = REPOSITORY / "config" / "quadrotor.yaml"
# Above 101 the ports of a domain lie where the system picks its own.
_domains = itertools.cycle(range(20, 100))
for _ in range(os.getpid() % 80):
    next(_domains)

# Before rclpy is imported anywhere: traffic stays on this machine.
os.environ["ROS_AUTOMATIC_DISCOVERY_RANGE"] = "LOCALHOST"
# Processes that these tests kill leave shared memory behind, over which later ones would stumble.
os.environ["FASTDDS_BUILTIN_TRANSPORTS"] = "UDPv4"


@pytest.fixture
def domain(monkeypatch):
    """A ROS domain that no other test uses."""
    number = str(next(_domains))
    monkeypatch.setenv("ROS_DOMAIN_ID", number)
    return number


class Processes:
    """Starts nodes, and ends them all when the test ends."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.running: dict[str, subprocess.Popen] = {}

    def start(self, name: str, command: list[str], environment: dict[str, str] | None = None):
        # The bootstrap variable belongs to this interpreter, not to the one we start.
        inherited = {k: v for k, v in os.environ.items() if not k.startswith("_ROS_WHEELS")}
        with open(self.folder / f"{name}.txt", "w") as log:
            self.running[name] = subprocess.Popen(
                command,
                env={**inherited, **(environment or {})},
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        return self.running[name]

    def start_node(self, module: str, *arguments: str, parameters: Path = PARAMETERS):
        """Start a node; the policy configures and activates itself, unless told otherwise."""
        name = module.rsplit(".", 1)[1]
        if name == "policy_node" and parameters is PARAMETERS and not arguments:
            arguments = ("-p", "autostart:=true")
        ros = ["--ros-args", "--params-file", str(parameters), *arguments]
        return self.start(name, [sys.executable, "-m", module, *ros])

    def log(self, name: str) -> str:
        return (self.folder / f"{name}.txt").read_text()

    def wait_for_log(self, name: str, text: str, timeout: float = 60) -> None:
        """Wait until a process has written `text`; it must not end before."""

        def written() -> bool:
            ended = self.running[name].poll() is not None
            return text in self.log(name) or (ended and pytest.fail(self.log(name)))

        wait_until(written, timeout, f"{text!r} in the output of {name}")

    def terminate(self, name: str, with_signal: int = signal.SIGTERM) -> int:
        """End a process politely; returns its exit code."""
        self.running[name].send_signal(with_signal)
        return self.running[name].wait(timeout=20)


@pytest.fixture
def processes(tmp_path, domain) -> Iterator[Processes]:
    started = Processes(tmp_path)
    try:
        yield started
    finally:
        for process in started.running.values():
            process.terminate()
        for process in started.running.values():
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(timeout=10)
            # The group: a launch that failed must not leave its nodes behind.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
        for name in started.running:
            print(f"--- {name}\n{started.log(name)}")


@pytest.fixture(scope="session")
def installed(tmp_path_factory) -> Path:
    """This package built by colcon: the prefix that ROS would find it in."""
    folder = tmp_path_factory.mktemp("workspace")
    command = ["colcon", "--log-base", str(folder / "log"), "build", "--merge-install"]
    command += ["--base-paths", str(REPOSITORY), "--build-base", str(folder / "build")]
    command += ["--install-base", str(folder / "install")]
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=folder)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder / "install"


def wait_until(condition, timeout: float, what: str):
    """Poll `condition` until it is true; its value is returned."""
    deadline = time.monotonic() + timeout
    while not (value := condition()):
        assert time.monotonic() < deadline, f"waited {timeout} s for {what}"
        time.sleep(0.05)
    return value


@pytest.fixture
def pilot(domain):
    from pilot import Pilot

    pilot = Pilot(int(domain))
    yield pilot
    pilot.close()
