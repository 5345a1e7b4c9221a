"""Compare a bundle in this simulator with the authors' policy in the authors' simulator, L2F.

Flies the bundle in this project's simulator, and, where the packages are there, the authors' own
numpy policy in this simulator and in L2F, all on the same sampled quadrotors, initial states and
forces (the RAPTOR protocol: +-0.5 m, 500 steps of 10 ms). Every row comes with 95 % intervals
from a bootstrap over quadrotors; differences are paired by quadrotor. (To compare bundles with
each other, see `robot-policies evaluate`.)

    python benchmarks/raptor_survival.py --l2f-python /path/to/python   # an interpreter with l2f

Exit code 0 when the goals hold (survival within one point of L2F, median final distance at most
0.04 m with force), 1 when one fails, 4 when L2F is not there to compare with.
"""

from __future__ import annotations

import importlib.util
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
import tyro

from robot_policies import ContractError, load_policy
from robot_policies.tables import text_table
from sim.evaluate import COLUMNS, cells, fly_in_l2f
from sim.quadrotor import scenario
from sim.quadrotor.evaluation import PROTOCOL_LIMITS, Policy, Result, evaluate, pool

SURVIVAL_GOAL = 0.01
DISTANCE_GOAL = 0.04


@dataclass(frozen=True)
class Options:
    """Which bundle flies, on how many quadrotors, and where L2F is."""

    bundle: str = "zoo:raptor"
    """A path or zoo:NAME."""
    quadrotors: int = 128
    episodes: int = 8
    """Flights of each quadrotor."""
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4, 5, 6, 7)
    """One set of quadrotors for each."""
    l2f_python: Path | None = None
    """A Python with l2f and foundation-policy; this one where omitted."""
    threads: int = 1


class AuthorsPolicy:
    """The authors' numpy policy behind our interface: no limits on its inputs."""

    def __init__(self) -> None:
        """Load the checkpoint that foundation-policy ships."""
        from foundation_policy import Raptor

        self._network: Any = Raptor()

    def reset(self, batch: int, seed: int, initial: Mapping[str, np.ndarray]) -> None:
        """Begin episodes; the policy has no noise, so the seed changes nothing."""
        self._network.reset()
        self._previous = initial["previous_action"]

    def step(self, signals: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Signals in the order that the network was trained on."""
        raw = self._network.evaluate_step(np.concatenate([*signals.values(), self._previous], 1))
        self._previous = raw
        self.last = SimpleNamespace(raw_action=raw[:, None])
        return {"motors": np.clip((raw[:, None] + 1) / 2, 0, 1)}


def main(options: Options) -> int:
    if not options.seeds:
        raise ValueError("seeds: expected at least one, found none")
    torch.set_num_threads(options.threads)
    policies = _policies(options)
    print(
        f"{options.quadrotors} quadrotors x {options.episodes} episodes per seed, seeds "
        f"{list(options.seeds)}, 500 steps of 10 ms, start within +-0.5 m; {options.threads} "
        "thread(s)\n95 % intervals: bootstrap over quadrotors, 2000 resamples"
    )
    passed, compared = True, False
    for with_force in (True, False):
        rows = _fly_all(policies, options, with_force)
        _print_rows(rows, options, with_force)
        passed &= _report(rows, options, with_force)
        compared |= "authors, L2F" in rows
    if not compared:
        print(f"not compared with L2F: {_l2f_absence(options)}")
    return 1 if not passed else 0 if compared else 4


def _policies(options: Options) -> dict[str, Policy]:
    policies: dict[str, Policy] = {f"{options.bundle}, here": load_policy(options.bundle)}
    if importlib.util.find_spec("foundation_policy"):
        policies["authors, here"] = AuthorsPolicy()
    return policies


def _fly_all(
    policies: Mapping[str, Policy], options: Options, with_force: bool
) -> dict[str, list[Result]]:
    """One result per seed for every policy, and for L2F where it is there."""
    rows: dict[str, list[Result]] = {}
    for seed in options.seeds:
        flights = scenario.sample(
            options.quadrotors, options.episodes, seed, with_force=with_force, position_range=0.5
        )
        for name, policy in policies.items():
            started = time.perf_counter()
            rows.setdefault(name, []).append(evaluate(policy, flights, seed=seed))
            seconds = time.perf_counter() - started
            print(f"  flew {name}, seed {seed}: {seconds:.1f} s", file=sys.stderr)
        if not _l2f_absence(options):
            peer = fly_in_l2f(flights, options.l2f_python, PROTOCOL_LIMITS, {})
            rows.setdefault("authors, L2F", []).append(peer)
    return rows


def _l2f_absence(options: Options) -> str:
    """Why L2F cannot be flown; empty where it can."""
    if options.l2f_python is not None or importlib.util.find_spec("l2f"):
        return ""
    return "pass --l2f-python, or build it as sim/quadrotor/l2f_peer.py describes"


def _print_rows(rows: Mapping[str, list[Result]], options: Options, with_force: bool) -> None:
    print(f"\n{'with force disturbance' if with_force else 'without force'}")
    lines = []
    for name, results in rows.items():
        labelled = [*zip(map(str, options.seeds), results, strict=True), ("all", _all(results))]
        lines += [[name, label, *cells(result.summary())] for label, result in labelled]
    print(text_table(["flight", "seed", *(heading for heading, _, _ in COLUMNS.values())], lines))


def _report(rows: Mapping[str, list[Result]], options: Options, with_force: bool) -> bool:
    """Print what explains a difference and whether the goals hold; False where one is missed."""
    bundle = f"{options.bundle}, here"
    for left, right, cause in (
        ("authors, here", "authors, L2F", "the simulator"),
        (bundle, "authors, here", "the bundle and its limits on inputs"),
    ):
        if left in rows and right in rows:
            print(f"{cause}: {_difference(_all(rows[left]), _all(rows[right]))[1]}")
    held = True
    if with_force:
        distance = float(np.median(_all(rows[bundle]).final_distance))
        held &= _goal(f"median final distance {distance:.4f} m", distance, DISTANCE_GOAL)
    if "authors, L2F" in rows:
        pairs = [*zip(rows[bundle], rows["authors, L2F"], strict=True)]
        labels = [f"seed {seed}" for seed in options.seeds]
        for label, (ours, theirs) in zip(labels, pairs, strict=True):
            value, text = _difference(ours, theirs)
            held &= _goal(f"bundle here minus L2F, {label}: {text}", abs(value), SURVIVAL_GOAL)
        value, text = _difference(_all(rows[bundle]), _all(rows["authors, L2F"]))
        held &= _goal(f"bundle here minus L2F, all: {text}", abs(value), SURVIVAL_GOAL)
    return held


def _goal(text: str, value: float, limit: float) -> bool:
    print(f"{text}; goal <= {limit}: {'held' if value <= limit else 'MISSED'}")
    return value <= limit


def _difference(left: Result, right: Result) -> tuple[float, str]:
    """Difference of the survival, left minus right, with a paired interval in words."""
    survival = left.minus(right)["survival"]
    value, low, high = (100 * v for v in (survival.value, survival.low, survival.high))
    changed = int((left.survived != right.survived).sum())
    return survival.value, (
        f"survival {value:+.2f} [{low:+.2f}, {high:+.2f}] points, {changed} of "
        f"{left.survived.size} episodes end differently"
    )


def _all(results: list[Result]) -> Result:
    return pool(results, same_quadrotors=False)


if __name__ == "__main__":
    try:
        sys.exit(main(tyro.cli(Options, description=__doc__)))
    except (ContractError, ImportError, ValueError) as error:
        print(f"raptor_survival: {error}", file=sys.stderr)
        sys.exit(2)
