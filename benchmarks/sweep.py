"""Measure a sweep: each run is done once though a worker is killed, and Ray does the same runs.

(a) 16 tiny runs (arm-reach by PPO) on 2 local workers; half-way, when 8 are done, a worker at work
    is killed (SIGKILL). What begins and ends is counted in the runs' logs, OUTPUT/logs/KEY.txt.
(b) The same call again: nothing begins.
(c) The same runs on Ray (the cluster at RAY_ADDRESS, or this machine): figures, all weights with
    the optimiser's state, and graphs, compared bit by bit. The killed run is among them: it had
    no checkpoint yet. One that goes on from a checkpoint has other episodes from there on.

    python benchmarks/sweep.py

Exit code 1 when a goal is missed, 4 where Ray is not installed.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import signal
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
import tyro

from sim import sweeps
from sim.runs import load_strictly
from sim.sweeps import Summary

RATES = (3e-4, 1e-3)
MARK = re.compile(r"process ([0-9]+): (begins|finished|failed)$", re.MULTILINE)


@dataclass(frozen=True)
class Options:
    """What to measure."""

    runs: int = 16
    """An even number."""
    workers: int = 2
    environments: int = 16
    iterations: int = 3
    output: Path | None = None
    """A new folder to keep everything in; a temporary one where omitted."""


def main(options: Options) -> int:
    with tempfile.TemporaryDirectory() as temporary:
        output = options.output or Path(temporary)
        output.mkdir(parents=True, exist_ok=True)
        call = sweeps.Options(
            "arm-reach/ppo", declare(output / "sweep.yaml", options), output / "local",
            workers=options.workers, command="benchmarks/sweep.py",
        )  # fmt: skip
        print("| figure | found | goal |\n|---|---|---|", flush=True)
        held = [*killed_half_way(call, options), called_again(call, options)]
        if importlib.util.find_spec("ray") is None:
            print("| ray | not installed, not measured | identical |")
            return 4 if all(held) else 1
        held.append(same_on_ray(call, options))
    return int(not all(held))


def declare(file: Path, options: Options) -> Path:
    """The sweep's YAML file (JSON is YAML)."""
    base = {
        "engine": "mujoco",
        "environments": options.environments,
        "ppo": {"iterations": options.iterations},
    }
    grid = {"seed": list(range(options.runs // len(RATES))), "ppo.learning_rate": RATES}
    file.write_text(json.dumps({"base": base, "grid": grid}))
    return file


@dataclass
class Killer:
    """Kills the worker of a run that has just begun, once half of the runs are done."""

    logs: Path
    half: int
    killed: str | None = None
    """The run, if one was caught."""
    over: threading.Event = field(default_factory=threading.Event)

    def watch(self) -> None:
        """Look at the logs until a worker is killed, or all is over."""
        before: set[str] = set()
        while self.killed is None and not self.over.wait(0.01):
            events = {key: run for key, run in marks(self.logs).items() if run}
            if sum(run[-1][1] == "finished" for run in events.values()) < self.half:
                before = set(events)
            elif fresh := [key for key in events if key not in before]:
                self.killed = fresh[0]
                os.kill(events[self.killed][0][0], signal.SIGKILL)


def marks(logs: Path) -> dict[str, list[tuple[int, str]]]:
    """Of each run: process and event, in order."""
    return {
        file.stem: [(int(pid), event) for pid, event in MARK.findall(file.read_text())]
        for file in sorted(logs.glob("*.txt"))
    }


def killed_half_way(call: sweeps.Options, options: Options) -> Iterator[bool]:
    """(a)."""
    killer = Killer(call.output / "logs", options.runs // 2)
    watching = threading.Thread(target=killer.watch)
    watching.start()
    try:
        summary, seconds = timed(call)
    finally:
        killer.over.set()
        watching.join()
    events = {key: Counter(event for _, event in run) for key, run in marks(killer.logs).items()}
    done = sum(row.status == "done" for row in summary.rows)
    goal = f"{options.runs}, a worker killed"
    yield show(
        f"{options.workers} local workers, {options.runs} runs, run {killer.killed} killed: done "
        f"in {seconds:.0f} s", done, goal, done == options.runs and killer.killed is not None,
    )  # fmt: skip
    finished = Counter(counted["finished"] for counted in events.values())
    yield show(
        "runs by how often they finished", dict(finished), f"{{1: {options.runs}}}",
        finished == {1: options.runs},
    )  # fmt: skip
    begun = Counter(counted["begins"] for counted in events.values())
    again = killer.killed is not None and events[killer.killed]["begins"] == 2
    yield show(
        "runs by how often they began", dict(begun),
        f"{{1: {options.runs - 1}, 2: 1}}, the killed one twice",
        begun == {1: options.runs - 1, 2: 1} and again,
    )  # fmt: skip


def called_again(call: sweeps.Options, options: Options) -> bool:
    """(b)."""
    before = marks(call.output / "logs")
    summary, seconds = timed(call)
    begun = sum(map(len, marks(call.output / "logs").values())) - sum(map(len, before.values()))
    done = sum(row.status == "done" for row in summary.rows)
    return show(
        f"called again, {seconds:.2f} s: done, and what began or ended", (done, begun),
        (options.runs, 0), (done, begun) == (options.runs, 0),
    )  # fmt: skip


def same_on_ray(call: sweeps.Options, options: Options) -> bool:
    """(c)."""
    there = replace(call, output=call.output.with_name("ray"), executor="ray")
    here = sweeps.sweep(call)
    summary, seconds = timed(there)
    same = sum(
        left.spec.key == right.spec.key
        and left.figures == right.figures
        and same_files(call.output, there.output, left.spec.key)
        for left, right in zip(here.rows, summary.rows, strict=True)
    )
    return show(
        f"ray, {seconds:.0f} s: runs with the same figures, weights and graph", same,
        options.runs, same == options.runs,
    )  # fmt: skip


def same_files(left: Path, right: Path, key: str) -> bool:
    """Whether a run came out the same in two outputs."""
    one, other = (output / "runs" / key for output in (left, right))
    graphs = [(run / "bundle" / "policy.onnx").read_bytes() for run in (one, other)]
    payloads = [load_strictly(run / "results" / "ppo.pt")["payload"] for run in (one, other)]
    return graphs[0] == graphs[1] and same(*payloads)


def same(left: Any, right: Any) -> bool:
    """Whether nested values are equal, tensors bit by bit."""
    if isinstance(left, torch.Tensor):
        return left.dtype == right.dtype and torch.equal(left, right)
    if isinstance(left, dict):
        return left.keys() == right.keys() and all(same(left[key], right[key]) for key in left)
    if isinstance(left, list | tuple):
        return len(left) == len(right) and all(map(same, left, right))
    return left == right


def timed(call: sweeps.Options) -> tuple[Summary, float]:
    """Of a call."""
    began = time.perf_counter()
    summary = sweeps.sweep(call)
    for line in summary.failures():
        print(line, file=sys.stderr)
    return summary, time.perf_counter() - began


def show(figure: str, found: object, goal: object, held: bool) -> bool:
    """A line of the table."""
    print(f"| {figure} | {found} | {goal}: {'held' if held else 'MISSED'} |", flush=True)
    return held


if __name__ == "__main__":
    try:
        sys.exit(main(tyro.cli(Options, description=__doc__)))
    except (ImportError, ValueError, OSError) as error:
        print(f"sweep: {error}", file=sys.stderr)
        sys.exit(2)
