"""The demonstration flight, several times: hover error and figure-eight error with intervals.

Every flight is made of real ROS 2 processes (see sim/demo.py). What differs between flights is the
timing of the processes; the simulated robot itself has no noise.

    python benchmarks/ros_flight.py --flights 5
"""

from __future__ import annotations

import os
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tyro
from rich.console import Console
from rich.table import Table

from robot_policies.report import FlightReport
from sim.demo import DemoConfig, fly

HOVER_GOAL_M = 0.06


@dataclass(frozen=True)
class FlightsConfig:
    """What to fly."""

    bundle: str = "zoo:raptor"
    flights: int = 5
    params_file: Path = Path("config/quadrotor.yaml")


FIELDS = (
    "hover_error_m", "figure_eight_rmse_m", "push_peak_m", "push_recovery_s",
    "missed_deadlines", "commands", "inference_p99_ms", "guard_trips",
)  # fmt: skip


def figures(flight: FlightReport) -> dict[str, float]:
    """The numbers of one flight; what it did not show is left out."""
    seen = flight.latencies[0]
    values = {name: getattr(flight, name) for name in FIELDS}
    values |= {"latency_p50_ms": seen.p50_ms, "latency_p99_ms": seen.p99_ms}
    return {name: float(value) for name, value in values.items() if value is not None}


def main() -> int:
    """Fly and print; exit code 1 where the median hover error misses its goal."""
    config = tyro.cli(FlightsConfig, description=__doc__)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for number in range(config.flights):
            demo = DemoConfig(config.bundle, config.params_file, Path(folder) / str(number))
            rows.append(figures(fly(demo)))
    load = ", ".join(f"{value:.2f}" for value in os.getloadavg())
    table = Table(title=f"{config.bundle}, {config.flights} flights (load {load})")
    for column in ("figure", "median", "lowest", "highest"):
        table.add_column(column, justify="left" if column == "figure" else "right")
    for name in rows[0]:
        values = [row[name] for row in rows if name in row]
        cells = (np.median(values), min(values), max(values))
        table.add_row(name, *(f"{value:.4g}" for value in cells))
    Console().print(table)
    return int(np.median([row["hover_error_m"] for row in rows]) > HOVER_GOAL_M)


if __name__ == "__main__":
    sys.exit(main())
