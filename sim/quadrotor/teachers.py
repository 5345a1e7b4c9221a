"""RAPTOR's teachers: independent networks, each an expert for one quadrotor, trained together.

Their parameters are stacked, so that a thousand small networks cost what a large one does. Jobs of
some dozens of them spread over processes or a cluster; what is done stays done. Source: arXiv
2509.11481, whose teachers learn by soft actor-critic (soft_actor_critic.py, for a few); here they
learn by gradients through the dynamics. Both see the same 26 numbers and have the same shape.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from robot_policies.strict import InputError, Violation, decode
from sim.executors import run_jobs
from sim.quadrotor import airframes as frames
from sim.quadrotor import networks
from sim.quadrotor.airframes import Airframes, Ranges
from sim.quadrotor.descent import Silent
from sim.quadrotor.environment import Flights, Mixture
from sim.quadrotor.networks import Weights
from sim.quadrotor.rollout import Descent, descend_through_dynamics, rate, teacher_act

VERSION = "1"
"""Of what a job computes: change it, and stored teachers are trained anew."""
TEACHERS_PER_JOB = 64
RETURN_REQUIRED = 300.0
"""What every teacher must reach, as in RAPTOR; those that do not are dropped and counted."""
FLIGHTS_RATED = 16


class NoTeacherError(ValueError):
    """No teacher is good enough to learn from."""


@dataclass(frozen=True)
class Teachers:
    """M teachers that passed."""

    weights: Weights
    """Stacked, see networks.make_teachers."""
    airframes: Airframes
    """[M] the quadrotor that each flies."""
    offset: Tensor
    """[3, M] m, the steady error that each leaves."""
    dropped: dict[int, str]
    """Index among all that were to be trained -> why it is not here."""


@dataclass(frozen=True)
class TeacherJob:
    """Some neighbouring teachers of a set: everything that decides how they come out."""

    ranges: Ranges
    quadrotor_seed: int
    first: int
    count: int
    flights_each: int
    """Simulated at once for each teacher."""
    descent: Descent
    seed: int


def train_job(job: dict[str, Any]) -> dict[str, Any]:
    """Train the teachers of one TeacherJob (as plain values).

    Returns "weights", "offset" [3, M] and "return" [M], as tensors.
    """
    violations: list[Violation] = []
    plan = decode(TeacherJob, job, "job", violations)
    if violations:
        raise InputError(violations)
    last = plan.first + plan.count
    fleet = frames.sample(last, plan.quadrotor_seed, plan.ranges)
    fleet = fleet.select(torch.arange(plan.first, last))
    seed = 1000 * plan.seed + plan.first
    weights = networks.make_teachers(plan.count, networks.TEACHER_OBSERVATION_SIZE, seed)
    flights = Flights(
        fleet, plan.count * plan.flights_each, plan.descent.mixture, seed, fixed=True
    )
    weights = descend_through_dynamics(
        "teachers", plan.descent, teacher_act, weights, flights, Silent(), stacked=True
    )
    rated = rate(
        teacher_act,
        weights,
        Flights(fleet, plan.count * FLIGHTS_RATED, Mixture(), seed, fixed=True),
    )
    by_teacher = rated.total_reward.reshape(plan.count, -1).mean(dim=1)
    return {"weights": list(weights), "offset": rated.offset(plan.count), "return": by_teacher}


def train_teachers(
    count: int, template: TeacherJob, folder: Path, *,
    executor: Literal["local", "ray"], workers: int, watch: Callable[[int, int], None],
) -> Teachers:  # fmt: skip
    """Train `count` teachers in jobs like `template`, or take those that an earlier call left.

    watch(done, failed) is told after each job. Raises NoTeacherError where none passes.
    """
    jobs = [
        asdict(template) | {"first": first, "count": min(TEACHERS_PER_JOB, count - first)}
        for first in range(0, count, TEACHERS_PER_JOB)
    ]
    with run_jobs(
        train_job, jobs, folder, executor=executor, workers=workers, version=VERSION
    ) as results:
        for _ in results:
            watch(len(results.done), len(results.failed))
    fleet = frames.sample(count, template.quadrotor_seed, template.ranges)
    dropped = {
        jobs[index]["first"] + n: outcome.error
        for index, outcome in results.failed.items()
        for n in range(jobs[index]["count"])
    }
    done = [(jobs[index]["first"], value) for index, value in sorted(results.done.items())]
    return _gather(fleet, done, dropped)


def _gather(
    fleet: Airframes, done: list[tuple[int, dict[str, Any]]], dropped: dict[int, str]
) -> Teachers:
    """Join the jobs' teachers, without those that failed."""
    kept: list[int] = []
    rows: list[tuple[Tensor, ...]] = []
    for first, value in done:
        for n, reached in enumerate(value["return"].tolist()):
            if reached >= RETURN_REQUIRED:  # not a number is not
                kept.append(first + n)
                rows.append((*(w[n] for w in value["weights"]), value["offset"][:, n]))
            else:
                dropped[first + n] = f"return {reached:.0f}, below {RETURN_REQUIRED:.0f}"
    if not kept:
        raise NoTeacherError(
            f"teachers: expected some with a return of {RETURN_REQUIRED:.0f}, found none of "
            f"{fleet.count}: {next(iter(dropped.values()), 'no jobs')}; train longer"
        )
    *weights, offset = (torch.stack(parts) for parts in zip(*rows, strict=True))
    chosen = fleet.select(torch.tensor(kept))
    return Teachers(tuple(weights), chosen, offset.T.contiguous(), dropped)
