"""How many teachers? And soft actor-critic against gradients through the dynamics.

`number` distils students from 1, 4, ... 1000 independent teachers (RAPTOR's method), all with the
same budget of simulated steps for the teachers together and for the student (to what divides by
the number of teachers), and from one teacher that is told what it flies; the students fly
quadrotors that nobody trained for, in one plot. Teachers below a return of 300 are dropped.

`algorithms` trains teachers of the same few quadrotors twice: by soft actor-critic, the paper's
algorithm with the paper's values, and through the dynamics; both fly the same starts and forces.

    python benchmarks/quadrotor_teachers.py number --output runs/teachers
    python benchmarks/quadrotor_teachers.py algorithms --output runs/algorithms

Either goes on after a kill where it is called again. Intervals: 95 %, bootstrap over quadrotors.
"""

from __future__ import annotations

import json
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro

from robot_policies.tables import text_table
from sim.estimate import Estimate
from sim.evaluate import COLUMNS, Evaluation, cells, run
from sim.evaluate import Options as Flown
from sim.executors import run_jobs
from sim.quadrotor import airframes as frames
from sim.quadrotor.airframes import Ranges
from sim.quadrotor.environment import Flights, Mixture
from sim.quadrotor.foundation import Fleet, FoundationConfig, train_bundle
from sim.quadrotor.networks import Weights
from sim.quadrotor.rollout import Rating, rate, teacher_act
from sim.quadrotor.teachers import NoTeacherError, TeacherJob, train_job

COUNTS = (1, 4, 16, 64, 256, 1000)
TOLD = "one, told"
REPORTED = (7001, 7002)
"""Sets of quadrotors on which no choice was made."""


@dataclass(frozen=True)
class Number:
    """Students of few and of many teachers, on one budget of simulated steps."""

    output: Path
    """A folder with a run for each count, and the plot."""
    counts: tuple[int, ...] = COUNTS
    iterations: int = 400
    """Of the teachers; twice as many for the student."""
    seed: int = 0
    workers: int = 2


@dataclass(frozen=True)
class Algorithms:
    """Teachers of the same quadrotors by two algorithms."""

    output: Path
    """A folder for what soft actor-critic made; it is found again."""
    quadrotors: int = 2
    steps: int = 100_000
    """Of soft actor-critic, for each; the paper's are 1,000,000."""
    iterations: int = 600
    """Through the dynamics, of all quadrotors together."""
    flights: int = 64
    """Simulated at once for each quadrotor, through the dynamics."""
    rated: int = 256
    """Flights of each teacher that are rated."""
    seed: int = 8001
    workers: int = 2


def main(options: Number | Algorithms) -> None:
    torch.set_num_threads(1)
    if isinstance(options, Number):
        _number(options)
    else:
        _algorithms(options)


# How many teachers.


def _number(options: Number) -> None:
    counts = tuple(count for count in options.counts if _student_of(count, options))
    _student_of(0, options)
    bundles = tuple(str(_folder(count, options) / "bundle") for count in (0, *counts))
    evaluation = run(Flown(bundles, seeds=REPORTED))
    names = dict(zip(bundles, (TOLD, *map(str, counts)), strict=True))
    rows = [
        [names[bundle], _kept(Path(bundle).parent), *cells(figures)]
        for bundle, name, figures in evaluation.lines["nominal"]
        if name == "all"
    ]
    print(f"nominal, 128 quadrotors x 8 episodes of sets {REPORTED}, training seed {options.seed}")
    print(f"simulated steps for teachers + student: {_steps(options)}")
    headings = ["teachers", "kept", *(heading for heading, _, _ in COLUMNS.values())]
    print(text_table(headings, rows))
    _plot(evaluation, counts, options)
    print(f"plot: {options.output / 'teachers.png'}")


def _folder(count: int, options: Number) -> Path:
    return options.output / f"{count or 'told'}"


def _config(count: int, options: Number) -> FoundationConfig:
    """RAPTOR's quadrotors and no disturbance but its force: the method alone differs."""
    whole = FoundationConfig(seed=options.seed, independent_teachers=count)
    teach, learn = whole.teacher, whole.distillation
    schedule = replace(teach.schedule, iterations=options.iterations)
    imitate = replace(learn.schedule, iterations=2 * options.iterations)
    return replace(
        whole,
        fleets=(Fleet(1.0, Ranges()),),
        teacher=replace(teach, schedule=schedule, mixture=Mixture()),
        distillation=replace(learn, schedule=imitate, mixture=Mixture()),
        tuning=(),
    )


def _student_of(count: int, options: Number) -> bool:
    """Train it, or find it; False where no teacher is good enough to learn from."""
    path = _folder(count, options)
    try:
        train_bundle(
            _config(count, options), path, resume=path.exists(), executor="local",
            workers=options.workers, threads=1, command="benchmarks/quadrotor_teachers.py number",
        )  # fmt: skip
    except NoTeacherError as error:
        print(f"{count} teachers: no student: {error}")
        return False
    return True


def _kept(path: Path) -> str:
    """How many teachers a run had."""
    lines = map(json.loads, (path / "metrics.jsonl").read_text(encoding="utf-8").splitlines())
    counts = [line["metrics"]["kept"] for line in lines if line["stage"] == "teachers"]
    return f"{counts[-1]:.0f}" if counts else "1"


def _steps(options: Number) -> str:
    """Simulated for the teachers and for the student."""
    config = _config(1, options)
    schedules = (config.teacher.schedule, config.distillation.schedule)
    return " + ".join(
        f"{s.iterations * s.horizon * config.flights / 1e6:.0f} M" for s in schedules
    )


def _plot(evaluation: Evaluation, counts: tuple[int, ...], options: Number) -> None:
    from matplotlib import pyplot

    figures = [f for _, name, f in evaluation.lines["nominal"] if name == "all"]
    figure, axes = pyplot.subplots(1, 3, figsize=(12, 3.6), layout="constrained")
    for axis, name in zip(axes, ("return", "survival", "median final distance"), strict=True):
        told, *many = (f[name] for f in figures)
        _draw(axis, counts, many, told)
        axis.set(xscale="log", xlabel="independent teachers", title=name)
    axes[2].set(yscale="log", ylabel="m")
    axes[0].legend()
    figure.savefig(options.output / "teachers.png", dpi=150)


def _draw(axis: Any, counts: tuple[int, ...], many: list[Estimate], told: Estimate) -> None:
    low, high = ([abs(getattr(e, end) - e.value) for e in many] for end in ("low", "high"))
    axis.errorbar(counts, [e.value for e in many], [low, high], marker="o", capsize=3,
                  label="one quadrotor each")  # fmt: skip
    axis.axhline(told.value, color="tab:orange", label="one teacher of all, told the airframe")
    axis.axhspan(told.low, told.high, color="tab:orange", alpha=0.2)


# By which algorithm.


def _algorithms(options: Algorithms) -> None:
    learned = {
        "soft actor-critic": _soft_actor_critic(options),
        "through the dynamics": _through_dynamics(options),
    }
    fleet = frames.sample(options.quadrotors, options.seed)
    rows = []
    for name, (weights, steps, seconds) in learned.items():
        flights = Flights(fleet, fleet.count * options.rated, Mixture(), options.seed, fixed=True)
        rated = rate(teacher_act, weights, flights)
        for index in range(fleet.count):
            rows.append(
                [
                    name,
                    str(index),
                    f"{steps:,}",
                    f"{seconds:.0f}",
                    *_cells(rated, fleet.count, index),
                ]
            )
    print(
        f"{options.rated} episodes of 500 steps of each quadrotor (seed {options.seed}), with "
        "force, starts within 0.5 m; mean +- 1.96 standard errors"
    )
    headings = ["teachers by", "quadrotor", "steps", "CPU-s", "return", "survive %"]
    print(text_table(headings, rows))


def _soft_actor_critic(options: Algorithms) -> tuple[Weights, int, float]:
    """Stacked weights; steps and mean CPU-seconds of each."""
    from sim.quadrotor import soft_actor_critic as sac  # needs stable-baselines3

    config = sac.SoftActorCriticConfig(seed=options.seed, steps=options.steps)
    jobs = [sac.job_of(options.seed, index, config) for index in range(options.quadrotors)]
    seconds = []
    with run_jobs(
        sac.train_soft_actor_critic, jobs, options.output, executor="local",
        workers=options.workers, version="1",
    ) as results:  # fmt: skip
        for outcome in results:
            seconds.append(outcome.cpu_seconds)
            print(f"soft actor-critic, quadrotor {outcome.index}: {outcome.cpu_seconds:.0f} CPU-s")
    if results.failed:
        raise SystemExit("\n".join(outcome.details for outcome in results.failed.values()))
    each = [results.done[index]["weights"] for index in range(options.quadrotors)]
    names = ("w0", "b0", "w1", "b1", "w2", "b2")
    stacked = (torch.stack([weights[name] for weights in each]) for name in names)
    columns = tuple(w if w.ndim == 3 else w[:, :, None] for w in stacked)
    return columns, options.steps, float(np.mean(seconds))


def _through_dynamics(options: Algorithms) -> tuple[Weights, int, float]:
    """The same; all at once, with what this process compiles."""
    stage = FoundationConfig(seed=0).teacher
    schedule = replace(stage.schedule, iterations=options.iterations)
    job = TeacherJob(
        Ranges(), options.seed, 0, options.quadrotors, options.flights,
        replace(stage, schedule=schedule, mixture=Mixture()), options.seed,
    )  # fmt: skip
    began = time.process_time()
    weights = tuple(train_job(asdict(job))["weights"])
    seconds = (time.process_time() - began) / options.quadrotors
    return weights, schedule.iterations * schedule.horizon * options.flights, seconds


def _cells(rated: Rating, quadrotors: int, index: int) -> list[str]:
    """Return and survival of the flights of one quadrotor."""
    return [
        f"{scale * values.mean():.1f} +- {scale * 1.96 * values.std() / values.numel() ** 0.5:.1f}"
        for values, scale in (
            (rated.total_reward.reshape(quadrotors, -1)[index], 1),
            (rated.survived.float().reshape(quadrotors, -1)[index], 100),
        )
    ]


if __name__ == "__main__":
    subcommands = {"number": Number, "algorithms": Algorithms}
    main(tyro.extras.subcommand_cli_from_dict(subcommands, description=__doc__))
