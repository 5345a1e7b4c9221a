"""Measure the quadrotor simulator: env-steps per second, eager and compiled, by batch size.

One env-step is one RK4 step of 10 ms of one quadrotor, without reward, termination or policy.
Wall-clock figures fall when others use the machine; figures per CPU-second hardly do. L2F is
timed in the same run where it is there.

    python benchmarks/quadrotor_simulator.py --l2f-python /path/to/python

Exit code 1 when a goal is missed (batch 4096: compiled 15 M/s, eager 2.5 M/s on one thread), 4
when none was missed but not all were judged, because their batch or thread count was not run.
"""

from __future__ import annotations

import os
import platform
import statistics
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import torch
import tyro

from sim.quadrotor import dynamics, l2f_peer, scenario
from sim.quadrotor.dynamics import PROTOCOL_DT, Step
from sim.quadrotor.scenario import Scenario

GOALS = {("eager", 4096): 2.5e6, ("compiled", 4096): 15e6}
L2F_BATCHES = (1, 64, 1024)


@dataclass(frozen=True)
class Options:
    """What to measure, and for how long."""

    batches: tuple[int, ...] = (1, 64, 1024, 4096, 16384)
    threads: int = 1
    repeats: int = 7
    seconds: float = 0.3
    """Length of one repeat."""
    seed: int = 0
    l2f_python: Path | None = None
    """A Python with l2f; its column is left out where omitted."""


@dataclass(frozen=True)
class Rates:
    """Env-steps per second of every repeat."""

    wall: list[float]
    per_cpu_second: list[float]
    first_call_s: float


@torch.no_grad()
def main(options: Options) -> int:
    torch.set_num_threads(options.threads)
    _print_setting(options)
    held, judged = True, 0
    print(
        "| engine | batch | M env-steps/s [range] | M per CPU-s [range] | first call, s | goal |"
    )
    print("|---|---|---|---|---|---|")
    for name, advance in (("eager", dynamics.step), ("compiled", dynamics.compile_step())):
        for batch in options.batches:
            rates = _measure(advance, _scenario(batch, options.seed), options)
            goal = GOALS.get((name, batch)) if options.threads == 1 else None
            met = goal is None or statistics.median(rates.wall) >= goal
            held &= met
            judged += goal is not None
            note = "" if goal is None else f"{goal / 1e6:g} {'held' if met else 'MISSED'}"
            print(
                f"| {name} | {batch} | {_cell(rates.wall)} | {_cell(rates.per_cpu_second)} | "
                f"{rates.first_call_s:.2f} | {note} |"
            )
    _print_l2f(options)
    if held and judged < len(GOALS):
        print("not judged: the goals are for --batches 4096 --threads 1")
        return 4
    return 0 if held else 1


def _measure(advance: Step, flights: Scenario, options: Options) -> Rates:
    state, action = flights.state, flights.airframes.hover_action
    arguments = (action, flights.airframes, flights.force, PROTOCOL_DT)
    started = time.perf_counter()
    advance(state, *arguments)
    first = time.perf_counter() - started
    wall, cpu = [], []
    for _ in range(options.repeats):
        steps, begun, worked = 0, time.perf_counter(), time.process_time()
        current = state
        while time.perf_counter() - begun < options.seconds:
            current = advance(current, *arguments)
            steps += state.count
        wall.append(steps / (time.perf_counter() - begun))
        cpu.append(steps / (time.process_time() - worked))
    return Rates(wall, cpu, first)


def _print_l2f(options: Options) -> None:
    if options.l2f_python is None:
        print("L2F: not measured; pass --l2f-python")
        return
    for batch in L2F_BATCHES:
        arrays = _scenario(batch, options.seed).arrays()
        found = l2f_peer.run("measure", arrays, options.l2f_python)
        print(f"| {found['version']}, one thread | {batch} | {_cell(list(found['rate']))} | | | |")


def _scenario(batch: int, seed: int) -> Scenario:
    return scenario.sample(batch, 1, seed, with_force=True, position_range=0.5)


def _cell(rates: list[float]) -> str:
    middle, low, high = (f(rates) / 1e6 for f in (statistics.median, min, max))
    return f"{middle:.4g} [{low:.4g}, {high:.4g}]"


def _print_setting(options: Options) -> None:
    load = ", ".join(f"{value:.1f}" for value in os.getloadavg())
    print(
        f"{_processor()}, {os.cpu_count()} cores, load {load}; Python "
        f"{platform.python_version()}, torch {torch.__version__}; {options.threads} thread(s), "
        f"float32, seed {options.seed}; median and range of {options.repeats} repeats of "
        f"{options.seconds} s"
    )


def _processor() -> str:
    information = Path("/proc/cpuinfo")
    lines = information.read_text().splitlines() if information.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or "unknown processor"


if __name__ == "__main__":
    try:
        sys.exit(main(tyro.cli(Options, description=__doc__)))
    except (ImportError, ValueError) as error:
        print(f"quadrotor_simulator: {error}", file=sys.stderr)
        sys.exit(2)
