"""Measure training through the dynamics: env-steps per second, forward and backward.

One env-step is one 10 ms step of one quadrotor with its network, cost and gradient; a horizon has
100. `autograd` is the same student differentiated by autograd through a compiled step, the peer of
sim/quadrotor/adjoint.py. Subjects take turns, because a shared machine's speed drifts; figures are
per CPU-second, though what else the machine does still shows in them. L2F, forward only and
without a policy, is timed in the same run where it is there. Compiling takes one to two minutes a
subject.

What limits the student: at its best, 1.4 M/s, a step of 2048 flights takes 1.5 ms, forward and
backward. Half of it, .73 ms, are MKL's products with its small weights (48 x 16 twice, 16 x 22,
4 x 16; each forwards, again in the reverse pass, and twice for gradients), timed alone at 16 to 50
GFLOP/s. Keeping the products in place of computing them again showed no clear gain. The rest is
mostly elementwise.

    python benchmarks/quadrotor_training.py --l2f-python /path/to/python

Exit code 1 when the goal is missed (student, batch 2048, one thread: 2 M/s), 4 when not measured.
"""

from __future__ import annotations

import os
import platform
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import torch
import tyro
from torch import Tensor

from robot_policies.models.foundation import FoundationPolicy
from sim.quadrotor import airframes as frames
from sim.quadrotor import l2f_peer, networks, scenario
from sim.quadrotor.adjoint import Reversible
from sim.quadrotor.environment import Flight, Flights, Mixture
from sim.quadrotor.networks import Weights
from sim.quadrotor.objective import CostWeights
from sim.quadrotor.rollout import compile_imitation, descent_step, student_act, teacher_act

GOAL, GOAL_SUBJECT, GOAL_BATCH = 2e6, "student", 2048
BOUND = 5e3
POOL = 1024
STACK = 64
L2F_BATCH = 1024
TERMS = CostWeights(1, 0.1, 1, 0, 0, 0, 3)
MIXTURE = Mixture(
    any_attitude=0.1, far=0.03, delay=0.2, noise=0.2, payload=0.2, gusts=0.1, langevin=0.2
)
Subject = Literal["student", "autograd", "conditioned", "stacked", "distillation"]
Iteration = Callable[[], tuple[Tensor, ...]]
"""Flies a horizon and returns the gradients."""


@dataclass(frozen=True)
class Options:
    """What to measure, and for how long."""

    subjects: tuple[Subject, ...] = (
        "student", "autograd", "conditioned", "stacked", "distillation",
    )  # fmt: skip
    batches: tuple[int, ...] = (2048,)
    horizon: int = 100
    threads: int = 1
    repeats: int = 9
    seed: int = 0
    l2f_python: Path | None = None
    """A Python with l2f; its line is left out where omitted."""


@dataclass
class Measured:
    """A subject's env-steps per CPU-second of every repeat."""

    iterate: Iteration
    first_call_s: float
    rates: list[float] = field(default_factory=list)


def main(options: Options) -> int:
    torch.set_num_threads(options.threads)
    _print_setting(options)
    print("| subject | batch | M env-steps per CPU-s, median [range] | first call, s | goal |")
    print("|---|---|---|---|---|")
    reached = None
    for batch in options.batches:
        measured = _measure(batch, options)
        for name, subject in measured.items():
            judged = (name, batch, options.threads) == (GOAL_SUBJECT, GOAL_BATCH, 1)
            if judged:
                reached = statistics.median(subject.rates) >= GOAL
            note = f"{GOAL / 1e6:g} {'held' if reached else 'MISSED'}" if judged else ""
            print(
                f"| {name} | {batch} | {_cell(subject.rates)} | {subject.first_call_s:.0f} | "
                f"{note} |",
                flush=True,
            )
        _print_gain(batch, measured)
    _print_l2f(options)
    return 4 if reached is None else int(not reached)


def _measure(batch: int, options: Options) -> dict[str, Measured]:
    measured: dict[str, Measured] = {}
    for name in options.subjects:
        iterate = _SUBJECTS[name](batch, options)
        started = time.perf_counter()
        iterate()
        measured[name] = Measured(iterate, time.perf_counter() - started)
    for _ in range(options.repeats):
        for subject in measured.values():
            started = time.process_time()
            subject.iterate()
            seconds = time.process_time() - started
            subject.rates.append(batch * options.horizon / seconds)
    return measured


def _flights(batch: int, options: Options, *, fixed: bool = False) -> Flights:
    pool = frames.sample(STACK if fixed else POOL, 1_000_000 + options.seed)
    return Flights(pool, batch, MIXTURE, options.seed, fixed=fixed)


def _student(seed: int) -> Weights:
    torch.manual_seed(seed)
    return networks.student_weights(FoundationPolicy(**networks.STUDENT_SIZES))


def _by_hand(act: Callable, weights: Weights, flights: Flights, options: Options) -> Iteration:
    """Horizons of `act` as training flies them."""
    weights = networks.trainable(weights)
    course = Reversible(descent_step(act), flights.flight, flights.world)

    def iterate() -> tuple[Tensor, ...]:
        noises = [flights.noise() for _ in range(options.horizon)]
        start = flights.begin(weights[-1]) if act is student_act else flights.flight
        terms = TERMS.tensor()
        _, paid, _, _ = course.fly(weights, start, flights.world, noises, terms, BOUND)
        return torch.autograd.grad(paid.mean() / options.horizon, weights)

    return iterate


def _by_autograd(batch: int, options: Options) -> Iteration:
    weights, flights = networks.trainable(_student(options.seed)), _flights(batch, options)
    plain, terms = descent_step(student_act), TERMS.tensor()

    def step(flight: Flight, noise: Tensor) -> tuple[Flight, Tensor, Tensor, Tensor]:
        return plain(weights, flight, flights.world, noise, terms)

    return _horizon_of(torch.compile(step, fullgraph=True, dynamic=False), weights, flights,
                       options)  # fmt: skip


def _distillation(batch: int, options: Options) -> Iteration:
    weights, flights = networks.trainable(_student(options.seed)), _flights(batch, options)
    teacher = networks.make_teachers(1, networks.CONDITIONED_SIZE, options.seed)
    step, led, offset = compile_imitation(teacher_act), torch.zeros(batch), torch.zeros(3, batch)

    def imitate(flight: Flight, noise: Tensor) -> tuple[Flight, Tensor, Tensor, Tensor]:
        return step(weights, teacher, flight, flights.world, noise, led, offset)

    return _horizon_of(imitate, weights, flights, options)


def _horizon_of(
    step: Callable[[Flight, Tensor], tuple[Flight, Tensor, Tensor, Tensor]], weights: Weights,
    flights: Flights, options: Options,
) -> Iteration:  # fmt: skip
    """Horizons of a step that autograd differentiates."""

    def iterate() -> tuple[Tensor, ...]:
        flight, paid = flights.begin(weights[-1]), torch.zeros(flights.count)
        earned, alive = torch.zeros(flights.count), torch.ones(flights.count, dtype=torch.bool)
        for _ in range(options.horizon):
            flight, price, income, over = step(flight, flights.noise())
            paid = paid + price
            earned += torch.where(alive, income.detach(), 0)
            alive = alive & ~over
        return torch.autograd.grad(paid.mean() / options.horizon, weights)

    return iterate


def _conditioned(batch: int, options: Options) -> Iteration:
    weights = networks.make_teachers(1, networks.CONDITIONED_SIZE, options.seed)
    return _by_hand(teacher_act, weights, _flights(batch, options), options)


def _stacked(batch: int, options: Options) -> Iteration:
    weights = networks.make_teachers(STACK, networks.TEACHER_OBSERVATION_SIZE, options.seed)
    return _by_hand(teacher_act, weights, _flights(batch, options, fixed=True), options)


_SUBJECTS: dict[str, Callable[[int, Options], Iteration]] = {
    "student": lambda batch, options: _by_hand(
        student_act, _student(options.seed), _flights(batch, options), options
    ),
    "autograd": _by_autograd,
    "conditioned": _conditioned,
    "stacked": _stacked,
    "distillation": _distillation,
}


def _print_gain(batch: int, measured: dict[str, Measured]) -> None:
    if not {"student", "autograd"} <= measured.keys():
        return
    pairs = zip(measured["student"].rates, measured["autograd"].rates, strict=True)
    ratios = sorted(own / peer for own, peer in pairs)
    middle = statistics.median(ratios)
    print(
        f"student over autograd at {batch}, turn by turn: {middle:.2f} "
        f"[{ratios[0]:.2f}, {ratios[-1]:.2f}]"
    )


def _print_l2f(options: Options) -> None:
    if options.l2f_python is None:
        print("L2F: not measured; pass --l2f-python")
        return
    drawn = scenario.sample(L2F_BATCH, 1, options.seed, with_force=True, position_range=0.5)
    found = l2f_peer.run("measure", drawn.arrays(), options.l2f_python)
    rates = _cell(list(found["rate"]))
    print(f"| {found['version']}, forward only, by the clock | {L2F_BATCH} | {rates} | | |")


def _cell(rates: list[float]) -> str:
    middle, low, high = (f(rates) / 1e6 for f in (statistics.median, min, max))
    return f"{middle:.3g} [{low:.3g}, {high:.3g}]"


def _print_setting(options: Options) -> None:
    load = ", ".join(f"{value:.1f}" for value in os.getloadavg())
    print(
        f"{os.cpu_count()} cores, load {load}; Python {platform.python_version()}, torch "
        f"{torch.__version__}; {options.threads} thread(s), float32, seed {options.seed}; horizon "
        f"{options.horizon}; median and range of {options.repeats} repeats"
    )


if __name__ == "__main__":
    try:
        sys.exit(main(tyro.cli(Options, description=__doc__)))
    except (ImportError, ValueError) as error:
        print(f"quadrotor_training: {error}", file=sys.stderr)
        sys.exit(2)
