"""Compare trained foundation policies with the RAPTOR authors' pretrained one, in one run.

Every bundle flies the same quadrotors, starts, forces and disturbances. Give the bundles of
several training seeds: the goals must be met by each. The sets of quadrotors (--seeds) were never
looked at while the recipe was chosen; that was done on sets 900 to 903. Intervals: 95 %, bootstrap
over quadrotors, 2000 resamples.

    python benchmarks/quadrotor_foundation.py zoo:quadrotor runs/1/bundle runs/2/bundle
        --distilled runs/d0/bundle        made with config/quadrotor_distillation.yaml
        --l2f-python /path/to/python      the first two tables in the authors' simulator, too

Exit code 0 when all goals hold, 1 when one is missed, 4 when L2F was not asked.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import numpy as np
import tyro
import yaml

from robot_policies import ContractError
from robot_policies.bundle import resolve
from robot_policies.tables import text_table
from sim.estimate import Estimate
from sim.evaluate import Evaluation, Options, run, table

RETURN, SURVIVAL = "return", "survival"
DISTANCE, NEAR, TRACKING = "median final distance", "share below 0.1 m", "median tracking error"
SMALLER_IS_BETTER = {DISTANCE, TRACKING}
GOALS: dict[str, dict[str, float]] = {
    "nominal": {SURVIVAL: 0.985, DISTANCE: 0.022, NEAR: 0.88},
    "calm": {DISTANCE: 0.006, NEAR: 0.96},
    "delay10": {SURVIVAL: 0.88},
    "delay20": {SURVIVAL: 0.60},
    "noise": {SURVIVAL: 0.97},
    "payload20": {SURVIVAL: 0.97},
    "any-attitude": {SURVIVAL: 0.80},
}
"""Case -> figure -> what every bundle must reach on every set."""
DISTILLED: dict[str, float] = {RETURN: 619, SURVIVAL: 0.958}
"""Of students that were distilled only: what RAPTOR's authors' training log ends with."""
TRAINING_MINUTES = 30.0
COLUMNS = (RETURN, SURVIVAL, DISTANCE, NEAR)
"""What must also be better than the peer's, set by set."""


@dataclass(frozen=True)
class Arguments:
    """What flies where."""

    bundles: Annotated[tuple[str, ...], tyro.conf.Positional]
    """Of this project, one for each training seed; paths or zoo:NAME."""
    peer: str = "zoo:raptor"
    distilled: tuple[str, ...] = ()
    """Bundles of distillation alone, which have goals of their own."""
    quadrotors: int = 128
    episodes: int = 8
    """Flights of each quadrotor."""
    seeds: tuple[int, ...] = (7001, 7002)
    """One set of quadrotors for each."""
    l2f_python: Path | None = None
    """A Python with l2f, numpy, onnxruntime and pyyaml."""


def main(arguments: Arguments) -> int:
    both = Options(
        bundles=(arguments.peer, *arguments.bundles),
        quadrotors=arguments.quadrotors,
        episodes=arguments.episodes,
        seeds=arguments.seeds,
    )
    print(
        f"{both.quadrotors} quadrotors x {both.episodes} episodes for each of the sets "
        f"{list(both.seeds)}; 500 steps of 10 ms, starts within +-0.5 m"
    )
    if len(both.seeds) < 2:
        raise ValueError(f"seeds: expected two sets of quadrotors or more, found {both.seeds}")
    held = [_trained_in_time(bundle) for bundle in arguments.bundles]
    held += _sampled(replace(both, cases=tuple(GOALS)))
    if arguments.distilled:
        held += _distilled(replace(both, bundles=(arguments.peer, *arguments.distilled)))
    if arguments.l2f_python is not None:
        l2f = replace(
            both, cases=("nominal", "calm"), simulator="l2f", l2f_python=arguments.l2f_python
        )
        print("\n# In L2F, the authors' simulator")
        held += _sampled(l2f)
    held += _standard(replace(both, airframes="standard", quadrotors=None, episodes=16))
    for trajectory in ("figure-eight", "langevin"):
        held += _tracked(replace(both, trajectory=trajectory))
    print(f"\n{sum(held)} of {len(held)} goals held")
    if all(held):
        return 0 if arguments.l2f_python is not None else 4
    return 1


def _trained_in_time(bundle: str) -> bool:
    """All stages together, compilation included, as the bundle itself says."""
    training = yaml.safe_load((resolve(bundle) / "training.yaml").read_text(encoding="utf-8"))
    minutes = sum(stage["wall"] for stage in training["seconds"].values()) / 60
    print(f"{bundle}: trained in {minutes:.1f} min, `{training['command']}`")
    if minutes > TRAINING_MINUTES:
        print(f"MISSED {bundle}: {minutes:.1f} min of training, goal <= {TRAINING_MINUTES:g}")
    return minutes <= TRAINING_MINUTES


def _distilled(options: Options) -> Iterator[bool]:
    """Students without tuning, on all sets together, as RAPTOR's training log counts."""
    print("\n# Distillation alone")
    evaluation = run(options)
    _print(evaluation, "nominal")
    for bundle, name, figures in evaluation.lines["nominal"]:
        if bundle != options.bundles[0] and name == "all":
            for figure, goal in DISTILLED.items():
                yield _judge(f"{bundle}: {figure}", figures[figure], goal, figure)


def _sampled(options: Options) -> Iterator[bool]:
    """Sampled quadrotors: the goals of every case, and better than the peer where both count."""
    evaluation = run(options)
    for case in options.cases:
        _print(evaluation, case)
        for bundle, name, figures in _ours(evaluation, case):
            peer = _peer(evaluation, case, name)
            for figure, goal in GOALS[case].items():
                yield _judge(
                    f"{case}, {bundle}, set {name}: {figure}", figures[figure], goal, figure
                )
            if case in ("nominal", "calm"):
                for figure in COLUMNS:
                    text = f"{case}, {bundle}, set {name}: {figure} against the peer's"
                    yield _judge(text, figures[figure], peer[figure].value, figure)


def _standard(options: Options) -> Iterator[bool]:
    """The six standard airframes: nearer than the peer, and a higher return, on each."""
    print("\n# Standard airframes, no limits on position and velocity, no force")
    evaluation = run(options)
    _print(evaluation, "nominal")
    for bundle, name, figures in _ours(evaluation, "nominal"):
        peer = _peer(evaluation, "nominal", name)
        for figure in (RETURN, DISTANCE):
            text = f"{bundle}, {name}: {figure} against the peer's"
            yield _judge(text, figures[figure], peer[figure].value, figure)


def _tracked(options: Options) -> Iterator[bool]:
    """A moving target: closer than the peer."""
    print(f"\n# {options.trajectory}")
    evaluation = run(options)
    _print(evaluation, "nominal")
    for bundle, name, figures in _ours(evaluation, "nominal"):
        peer = _peer(evaluation, "nominal", name)
        text = f"{options.trajectory}, {bundle}, set {name}: {TRACKING} against the peer's"
        yield _judge(text, figures[TRACKING], peer[TRACKING].value, TRACKING)


def _ours(evaluation: Evaluation, case: str) -> Iterator[tuple[str, str, dict[str, Estimate]]]:
    """Bundle, set and figures, without the peer's, the pooled ones and the differences."""
    peer = evaluation.options.bundles[0]
    for bundle, name, figures in evaluation.lines[case]:
        if bundle != peer and not name.startswith("all"):
            yield bundle, name, figures


def _peer(evaluation: Evaluation, case: str, name: str) -> dict[str, Estimate]:
    peer = evaluation.options.bundles[0]
    return next(f for b, n, f in evaluation.lines[case] if (b, n) == (peer, name))


def _print(evaluation: Evaluation, case: str) -> None:
    print(f"\n## {case}\n{text_table(*table(evaluation, case))}")


def _judge(text: str, found: Estimate, goal: float, figure: str) -> bool:
    smaller = figure in SMALLER_IS_BETTER
    held = bool(np.isfinite(found.value))
    held &= found.value <= goal if smaller else found.value >= goal
    if not held:
        print(f"MISSED {text} {found}, goal {'<=' if smaller else '>='} {goal:.4g}")
    return held


if __name__ == "__main__":
    try:
        sys.exit(main(tyro.cli(Arguments, description=__doc__)))
    except (ContractError, ImportError, ValueError) as error:
        print(f"quadrotor_foundation: {error}", file=sys.stderr)
        sys.exit(2)
