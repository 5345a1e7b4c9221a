"""Record short flights in L2F, the oracle of our dynamics, and print how far ours are from them.

Twelve quadrotors, six standard and six sampled, fly 50 random actions around hover, one of them
with actions beyond the limits; once with a force of its own on each axis, and once with L2F's own
disturbance force and torque. The tests compare the dynamics with the recorded files at all times.

    python benchmarks/l2f_oracle.py --l2f-python /path/to/python   # an interpreter with l2f

L2F is needed: see sim/quadrotor/l2f_peer.py for what its build takes.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import tyro

from sim.quadrotor import airframes, l2f_peer, scenario
from sim.quadrotor.replay import replay, scaled_difference
from sim.quadrotor.scenario import Scenario

STEPS = 50
SEED = 0


@dataclass(frozen=True)
class Options:
    """Where L2F is, and where the records go."""

    l2f_python: Path | None = None
    """A Python with l2f; this one where omitted."""
    output: Path = Path("test/data")
    """The folder of the l2f_*.npz files."""


def main(options: Options) -> int:
    torch.set_num_threads(1)
    for name, arrays in _cases().items():
        recorded = l2f_peer.run("replay", arrays, options.l2f_python)
        made_by = np.array(["python benchmarks/l2f_oracle.py", str(recorded.pop("version"))])
        path = options.output / f"l2f_{name}.npz"
        recorded = {f"l2f_{key}": value for key, value in recorded.items()}
        np.savez_compressed(path, made_by=made_by, **arrays, **recorded)
        size = path.stat().st_size / 1000
        print(
            f"{path}: {made_by[1]}, {arrays['mass'].size} quadrotors, seed {SEED}, {size:.0f} kB"
        )
        _print_differences(arrays, recorded["l2f_state"])
    return 0


def _cases() -> dict[str, dict[str, np.ndarray]]:
    fleet = airframes.join(
        [*map(airframes.standard, airframes.STANDARD_NAMES), airframes.sample(6, SEED)]
    )
    flights = scenario.on_airframes(fleet, 1, SEED, with_force=True, position_range=0.5)
    actions = {"action": _actions(fleet.hover_action.numpy())}
    calm = Scenario(fleet, flights.state, torch.zeros_like(flights.force), 1)
    push = (0.1 * fleet.weight).numpy()
    own = {"uniform_force": push, "uniform_torque": 0.01 * push * fleet.arm_length.numpy()}
    return {
        "axis_force": flights.arrays() | actions,
        "own_disturbance": calm.arrays() | actions | own,
    }


def _actions(hover: np.ndarray) -> np.ndarray:
    """Raw actions [T, N, 4]."""
    noise = np.random.default_rng(SEED).standard_normal((STEPS, *hover.T.shape))
    actions = (2 * hover.T - 1 + 0.1 * noise).astype(np.float32)
    actions[:, 0] = np.where(np.arange(STEPS) % 20 < 10, 1.5, -1.5)[:, None]
    return actions


def _print_differences(arrays: Mapping[str, np.ndarray], peer: np.ndarray) -> None:
    single, double = (replay(arrays, t)["state"] for t in (torch.float32, torch.float64))
    pairs = {
        "ours (float32) - L2F": (single, peer),
        "ours (float32) - ours (float64)": (single, double),
        "L2F - ours (float64)": (peer, double),
    }
    for name, (left, right) in pairs.items():
        worst = scaled_difference(left, right).max(axis=(1, 2))
        figures = ", ".join(f"{worst[step]:.1e} after {step}" for step in (1, 10, STEPS))
        print(f"  largest difference, {name}: {figures} steps")


if __name__ == "__main__":
    try:
        sys.exit(main(tyro.cli(Options, description=__doc__)))
    except (ImportError, OSError, ValueError) as error:
        print(f"l2f_oracle: {error}", file=sys.stderr)
        sys.exit(2)
