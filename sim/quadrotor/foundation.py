"""`train quadrotor/foundation`: one recurrent policy of 2,084 parameters for every quadrotor.

Four stages, each resumable: a teacher that is told the airframe (or stacked independent teachers,
as in RAPTOR), distillation into the student that is told nothing, and two stages of fine-tuning
the student through the dynamics. Method: README.md beside this file; source: RAPTOR, arXiv
2509.11481, which stops after distillation.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from robot_policies.bundle import PolicyBundle
from robot_policies.export import export, record, save_checkpoint
from robot_policies.graph import Source, model_card, provenance, random_inputs
from robot_policies.models.foundation import FoundationPolicy, quadrotor_contract
from robot_policies.strict import decode, require
from robot_policies.strict_yaml import decode_yaml
from sim.parallel import rank, share, together
from sim.quadrotor import airframes as frames
from sim.quadrotor import networks
from sim.quadrotor.airframes import Airframes, Ranges
from sim.quadrotor.descent import Horizon, Journal, Schedule, Silent, descend
from sim.quadrotor.environment import (
    POSITION_CLIP,
    VELOCITY_CLIP,
    Flight,
    Flights,
    Mixture,
)
from sim.quadrotor.networks import Weights
from sim.quadrotor.objective import CostWeights
from sim.quadrotor.rollout import (
    Descent,
    compile_imitation,
    descend_through_dynamics,
    horizon,
    student_act,
    teacher_act,
)
from sim.quadrotor.teachers import TEACHERS_PER_JOB, TeacherJob, train_teachers
from sim.runs import Run, plain

ABOUT = """\
A recurrent policy of 2,084 parameters for all quadrotors of the ranges in training.yaml: it is
told neither mass nor size nor motors, and identifies them in its hidden state while it flies.
Trained by this project on sampled quadrotors: distilled from a teacher (RAPTOR, arXiv
2509.11481), {}.

It expects to be stepped at 100 Hz, neither faster nor slower. Errors larger than those it saw in
training are limited before the network, as the contract says."""
IMITATION_CAP = 100.0
_POOL_SEED = 1_000_000
"""Training quadrotors come from seeds that no evaluation uses."""

CALM = Mixture(
    any_attitude=0.03, far=0.02, noise=0.1, payload=0.1, gusts=0.1, langevin=0.2, brief=0.5
)
ROBUST = Mixture(
    any_attitude=0.2, delay=0.1, noise=0.1, payload=0.1, gusts=0.05, langevin=0.12, brief=0.4
)
STEADY = Mixture(
    any_attitude=0.17, far=0.02, delay=0.08, noise=0.1, payload=0.1, gusts=0.05, langevin=0.3,
    brief=0.5,
)  # fmt: skip

SHAPED = CostWeights(1, 0.1, 0.5, 0.05, 0.02, 0.1, 20)
TEACHER = CostWeights(1, 0.1, 1, 0.01, 0.005, 0.02, 20)
SOFT = CostWeights(1, 0.3, 0.7, 0.02, 0.01, 0.02, 4)
REWARD = CostWeights(1, 0.3, 1, 0, 0, 0, 4)
CAREFUL = CostWeights(1, 0.4, 1, 0, 0, 0, 20, 0.15)
"""Turning pays later than a horizon sees, hence more for yaw than the protocol's 0.1."""

CURVED = Ranges(thrust_curve_shapes=0.3)
"""RAPTOR's, some with other thrust curves."""
SLUGGISH = Ranges(torque_to_inertia=(40.0, 160.0), thrust_curve_shapes=0.3)
"""Where most flights end early: quadrotors that turn slowly."""
WIDE = Ranges(
    thrust_to_weight=(1.5, 12.0),
    torque_to_inertia=(40.0, 2000.0),
    inertia_y_to_x=(0.8, 1.25),
    inertia_z_to_x=(1.2, 1.8),
    torque_constant=(0.004, 0.12),
    rise_time=(0.015, 0.1),
    fall_time=(0.015, 0.3),
    thrust_curve_shapes=0.7,
)
"""Beyond RAPTOR's ranges: racing quadrotors, large propellers, brushed and brushless motors."""


@dataclass(frozen=True)
class Fleet:
    """A kind of quadrotors in the pool."""

    share: float
    ranges: Ranges


@dataclass(frozen=True)
class Imitation:
    """The stage that distils."""

    schedule: Schedule
    mixture: Mixture
    led: float
    """Share of flights that the teacher flies at first; it falls to zero half-way."""


def _tuning() -> tuple[Descent, ...]:
    return (
        Descent(Schedule(1000, 100, 6e-3, 1e-3, 0.99), 5e3, ROBUST, SOFT, REWARD, 0.3),
        Descent(Schedule(1200, 150, 4e-3, 3e-5, 0.99), 5e3, STEADY, CAREFUL, CAREFUL, 1.0),
    )


@dataclass(frozen=True)
class FoundationConfig:
    """Everything that decides how the policy comes out."""

    seed: int
    independent_teachers: int = 0
    """Teachers of one quadrotor each, RAPTOR's method (it has 1000); 0: one teacher of all, which
    is told what it flies."""
    flights: int = 4096
    """Simulated at once, by all processes together."""
    processes: int = 2
    """Which share the flights; one for each core is fastest."""
    pool: int = 16384
    """Different quadrotors to draw from."""
    fleets: tuple[Fleet, ...] = (Fleet(0.6, CURVED), Fleet(0.3, SLUGGISH), Fleet(0.1, WIDE))
    """What the pool is made of."""
    teacher: Descent = field(default_factory=lambda: Descent(
        Schedule(500, 64, 6e-3, 1e-4, 0.99), 5e3, CALM, SHAPED, TEACHER, 0.5
    ))  # fmt: skip
    distillation: Imitation = field(default_factory=lambda: Imitation(
        Schedule(500, 64, 2e-2, 1e-4, 0.99), CALM, 0.4
    ))  # fmt: skip
    tuning: tuple[Descent, ...] = field(default_factory=_tuning)
    """What follows distillation, in order; none makes RAPTOR's student."""

    def __post_init__(self) -> None:
        """Refuse what cannot be trained."""
        whole = abs(sum(fleet.share for fleet in self.fleets) - 1) < 1e-6
        counts = ("seed", 0), ("independent_teachers", 0), ("flights", 1), ("processes", 1)
        require(
            "configuration",
            *(
                (getattr(self, key) >= least, key, f"at least {least}", getattr(self, key))
                for key, least in (*counts, ("pool", len(self.fleets)))
            ),
            (whole, "fleets", "shares that add up to 1", [f.share for f in self.fleets]),
        )


@dataclass(frozen=True)
class Experts:
    """Who the student learns from."""

    weights: Weights
    quadrotors: Airframes
    """[P] what they can fly; of independent teachers, each flies one."""
    offset: Tensor
    """[3, P] m, the steady error that they leave, to be taken off the labels."""
    independent: bool


def configure(
    seed: int, file: Path | None, ranges: Path | None, *, independent_teachers: int | None
) -> FoundationConfig:
    """The configuration of `file` (of zoo:quadrotor where None), with what else is not None.

    Raises InputError, with every violation, for files that hold something else.
    """
    config = FoundationConfig(seed=seed)
    if file is not None:
        config = replace(decode_yaml(FoundationConfig, file, "configuration"), seed=seed)
    if ranges is not None:
        whole = Fleet(1.0, decode_yaml(Ranges, ranges, "ranges"))
        config = replace(config, fleets=(whole,))
    if independent_teachers is not None:
        config = replace(config, independent_teachers=independent_teachers)
    # As a file would give it: what is written 1 here is the number 1.0 there.
    return decode(FoundationConfig, plain(config), "configuration", [])


def train_bundle(
    config: FoundationConfig, path: Path, *, resume: bool, executor: Literal["local", "ray"],
    workers: int, threads: int, command: str,
) -> PolicyBundle:  # fmt: skip
    """Train in the run folder `path`, and leave the bundle at path/bundle.

    Raises what sim.runs.Run raises, NoTeacherError where no teacher passes, FloatingPointError
    where training diverges, and ConnectionError where a process dies.
    """
    torch.set_num_threads(threads)
    torch.compiler.reset()  # steps of an earlier training in this process count towards a limit
    run = Run.resume(path, config) if resume else Run.create(path, config, command)
    with run:
        each = config.independent_teachers > 0
        taught = teach_each(config, run, executor=executor, workers=workers) if each else None
        with together(config.processes, _follow, config, threads):
            policy = train(config, taught, run)
        # Of the processor's time this process knows its own only.
        seconds = {stage: {"wall": run.seconds(stage).wall} for stage in run.stages}
        document = {"command": run.command, "seconds": seconds, "configuration": plain(config)}
        return write_bundle(policy, document, config, path)


def train(config: FoundationConfig, taught: Experts | None, run: Journal) -> FoundationPolicy:
    """Run all stages, or those that are left; `taught`: the independent teachers, if any."""
    pool = make_pool(config)
    experts = share(taught) or teach_one(config, pool, run)
    student = distil(config, experts, run)
    for number, stage in enumerate(config.tuning, 1):
        student = tune(number, config, stage, pool, student, run)
    return with_weights(student)


def _follow(config: FoundationConfig, threads: int) -> None:
    """What the other processes do."""
    torch.set_num_threads(threads)
    train(config, None, Silent())


def make_pool(config: FoundationConfig) -> Airframes:
    """The quadrotors that training draws from."""
    parts = [
        frames.sample(round(config.pool * fleet.share), _pool_seed(config) + n, fleet.ranges)
        for n, fleet in enumerate(config.fleets)
    ]
    return frames.join(parts)


def teach_one(config: FoundationConfig, pool: Airframes, run: Journal) -> Experts:
    """Stage 1: one teacher for all, that is told what it flies."""
    flights = _flights(config, pool, config.teacher.mixture, 1)
    weights = networks.make_teachers(1, networks.CONDITIONED_SIZE, config.seed)
    weights = descend_through_dynamics(
        "teacher", config.teacher, teacher_act, weights, flights, run, stacked=True
    )
    return Experts(weights, pool, torch.zeros(3, pool.count), independent=False)


def teach_each(
    config: FoundationConfig, run: Run, *, executor: Literal["local", "ray"], workers: int
) -> Experts:
    """Stage 1 as in RAPTOR: one teacher for each quadrotor of a fixed set."""
    stored = run.finished("teachers")
    if stored is None:
        stored = _train_each(config, run, executor, workers)
    quadrotors = _own_quadrotors(config).select(stored["kept"])
    return Experts(tuple(stored["weights"]), quadrotors, stored["offset"], independent=True)


def _train_each(
    config: FoundationConfig, run: Run, executor: Literal["local", "ray"], workers: int
) -> Mapping[str, Any]:
    """Which teachers passed, and what they know; the same after a resume."""
    count = config.independent_teachers
    template = TeacherJob(
        ranges=config.fleets[0].ranges,
        quadrotor_seed=_pool_seed(config),
        first=0,
        count=count,
        flights_each=max(1, config.flights // count),
        descent=config.teacher,
        seed=config.seed,
    )
    jobs = math.ceil(count / TEACHERS_PER_JOB)
    with run.progress("teachers", jobs) as bar:
        found = train_teachers(
            count, template, run.path / "teachers", executor=executor, workers=workers,
            watch=lambda done, failed: bar.update(done + failed, {"failed jobs": failed}),
        )  # fmt: skip
    for index, reason in sorted(found.dropped.items()):
        print(f"teacher {index} dropped: {reason}", file=sys.stderr)
    kept = torch.tensor([n for n in range(count) if n not in found.dropped])
    run.log("teachers", jobs, {"kept": len(kept), "dropped": len(found.dropped)})
    payload = {"kept": kept, "weights": list(found.weights), "offset": found.offset}
    run.finish("teachers", payload)
    return payload


def _own_quadrotors(config: FoundationConfig) -> Airframes:
    """One for each independent teacher."""
    return frames.sample(config.independent_teachers, _pool_seed(config), config.fleets[0].ranges)


def _pool_seed(config: FoundationConfig) -> int:
    """The first of ten, for as many fleets."""
    return _POOL_SEED + 10 * config.seed


def distil(config: FoundationConfig, experts: Experts, run: Journal) -> Weights:
    """Stage 2: the student imitates its teachers on flights of its own."""
    stage, schedule = config.distillation, config.distillation.schedule
    flights = _flights(config, experts.quadrotors, stage.mixture, 2, fixed=experts.independent)
    step = compile_imitation(teacher_act)
    order = torch.randperm(flights.count, generator=torch.Generator().manual_seed(config.seed))

    def objective(weights: Weights, iteration: int) -> tuple[Tensor, Horizon]:
        share = stage.led * max(0.0, 1 - 2 * iteration / schedule.iterations)
        led = (order < share * flights.count).float()
        offset = experts.offset[:, flights.index]

        def advance(flight: Flight, noise: Tensor) -> tuple[Flight, Tensor, Tensor, Tensor]:
            return step(weights, experts.weights, flight, flights.world, noise, led, offset)

        start = flights.begin(weights[-1])
        errors, seen = horizon(advance, flights, start, schedule.horizon)
        return errors.clamp(max=IMITATION_CAP).mean(), seen

    student = networks.student_weights(_fresh_student(config.seed))
    return descend("distillation", student, objective, flights, schedule, run)


def tune(
    number: int, config: FoundationConfig, stage: Descent, pool: Airframes, student: Weights,
    run: Journal,
) -> Weights:  # fmt: skip
    """Stage 3 and on: the student learns through the dynamics, which RAPTOR does not do."""
    flights = _flights(config, pool, stage.mixture, 2 + number)
    return descend_through_dynamics(f"tuning-{number}", stage, student_act, student, flights, run)


def with_weights(weights: Weights) -> FoundationPolicy:
    """The policy as a module, for export."""
    policy = FoundationPolicy(**networks.STUDENT_SIZES)
    with torch.no_grad():
        for own, value in zip(networks.student_weights(policy), weights, strict=True):
            own.copy_(value)
    return policy


def write_bundle(
    policy: FoundationPolicy, training: Mapping[str, Any], config: FoundationConfig, path: Path
) -> PolicyBundle:
    """Export the policy with its contract to path/bundle; exchanges what an earlier resume wrote.

    path/checkpoint.pt holds the same, for `robot-policies export`.
    """
    origin = provenance("trained by this project, in simulation", "MIT", (config.seed,), "")
    clips = {"position_clip": POSITION_CLIP, "velocity_clip": VELOCITY_CLIP}
    contract = quadrotor_contract("quadrotor", policy, origin, **clips)
    checkpoint = path / "checkpoint.pt"
    save_checkpoint(checkpoint, policy, networks.STUDENT_SIZES, contract, training)
    golden = record(policy, contract, *random_inputs(contract, seed=config.seed))
    tuned = "then tuned through the dynamics" if config.tuning else "not tuned further"
    source = Source(training, model_card(contract, training["command"], ABOUT.format(tuned)))
    return export(policy, contract, golden, source, path / "bundle", replace=True)


def _flights(
    config: FoundationConfig, pool: Airframes, mixture: Mixture, stream: int, *,
    fixed: bool = False,
) -> Flights:  # fmt: skip
    """A process's flights of a stage; of fixed quadrotors each has as many as any other."""
    count = max(1, config.flights // config.processes)
    if fixed:
        count = max(1, round(count / pool.count)) * pool.count
    seed = 1000 * config.seed + 100 * rank() + stream
    return Flights(pool, count, mixture, seed, fixed=fixed)


def _fresh_student(seed: int) -> FoundationPolicy:
    torch.manual_seed(seed)
    return FoundationPolicy(**networks.STUDENT_SIZES)
