"""SOAP against Adam, and a bound on each flight's gradient against none, at several rates.

A teacher is trained and distilled once for each seed; from there the same student learns through
the dynamics in each way, in the recipe's first tuning stage, for the same number of iterations.
The table shows the last fifth of them: figures of the training flights themselves, which are new
in every iteration. The gradient is what the optimiser would see before its norm is limited.

    python benchmarks/quadrotor_optimiser.py
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
import tyro
from torch import Tensor

from robot_policies.tables import text_table
from sim.quadrotor import descent
from sim.quadrotor.descent import LOG_EVERY, Silent
from sim.quadrotor.foundation import FoundationConfig, distil, make_pool, teach_one, tune
from sim.quadrotor.networks import Weights
from sim.quadrotor.soap import BETAS, Soap

NO_BOUND = 1e18
"""Where squares still fit."""


@dataclass(frozen=True)
class Options:
    """How long, and from how many beginnings."""

    seeds: tuple[int, ...] = (0, 1)
    iterations: int = 300
    flights: int = 2048


class Watched(Silent):
    """Keeps what is logged."""

    def __init__(self) -> None:
        self.rows: list[Mapping[str, float]] = []

    def log(self, stage: str, step: int, metrics: Mapping[str, float]) -> None:
        """Keep it."""
        self.rows.append(metrics)


def adam(parameters: Iterable[Tensor]) -> torch.optim.Adam:
    """Adam with SOAP's decays."""
    return torch.optim.Adam(list(parameters), lr=0.0, betas=BETAS)


@dataclass(frozen=True)
class Way:
    """A way to learn."""

    optimiser: Callable[..., torch.optim.Optimizer]
    rates: tuple[float, ...]
    bounded: bool


WAYS = {
    "Adam": Way(adam, (6e-3, 1.2e-2, 2.4e-2, 4.8e-2), True),
    "SOAP": Way(Soap, (6e-3, 1.2e-2, 2.4e-2), True),
    "SOAP, no bound": Way(Soap, (3e-3, 6e-3, 1.2e-2), False),
}


def main(options: Options) -> None:
    torch.set_num_threads(1)
    found: dict[tuple[str, float], list[np.ndarray]] = {}
    for seed in options.seeds:
        config = _config(seed, options)
        student = distil(config, teach_one(config, make_pool(config), Silent()), Silent())
        _learn(config, student, WAYS["SOAP"], 0.0, replace(options, iterations=1))  # compiles
        for name, way in WAYS.items():
            for rate in way.rates:
                figures = _learn(config, student, way, rate, options)
                found.setdefault((name, rate), []).append(figures)
                shown = ", ".join(f"{value:.4g}" for value in figures)
                print(f"seed {seed}: {name} {rate:g}: {shown}", flush=True)
    print(
        f"{options.iterations} iterations of {options.flights} flights x 1 s, mean of the last "
        f"fifth; seeds {options.seeds}: mean [lowest, highest]"
    )
    rows = [[name, f"{rate:g}", *_cells(np.array(f))] for (name, rate), f in found.items()]
    headings = ["way", "learning rate", "return", "survive %", "error, m", "gradient", "seconds"]
    print(text_table(headings, rows))


def _config(seed: int, options: Options) -> FoundationConfig:
    whole = FoundationConfig(seed=seed, flights=options.flights, processes=1)
    teach, imitate = whole.teacher, whole.distillation
    return replace(
        whole,
        teacher=replace(teach, schedule=replace(teach.schedule, iterations=200)),
        distillation=replace(imitate, schedule=replace(imitate.schedule, iterations=200)),
    )


def _learn(
    config: FoundationConfig, student: Weights, way: Way, rate: float, options: Options
) -> np.ndarray:
    """Return, survival, error (m), 90th percentile of the gradient's norm, and seconds."""
    stage = config.tuning[0]
    schedule = replace(
        stage.schedule,
        iterations=options.iterations, learning_rate=rate, final_learning_rate=rate / 20,
    )  # fmt: skip
    stage = replace(stage, schedule=schedule, bound=stage.bound if way.bounded else NO_BOUND)
    journal, kept = Watched(), descent.Soap
    descent.Soap = way.optimiser  # what descend makes its optimiser with
    began = time.monotonic()
    try:
        tune(1, config, stage, make_pool(config), student, journal)
    except FloatingPointError:  # the gradient was not finite for long
        return np.full(5, np.nan)
    finally:
        descent.Soap = kept
    seconds = time.monotonic() - began
    last = journal.rows[-max(1, options.iterations // (5 * LOG_EVERY)) :]
    shown = [np.mean([row[key] for row in last]) for key in ("return", "survival", "error")]
    gradient = np.quantile([row["gradient"] for row in journal.rows], 0.9)
    return np.array([*shown, gradient, seconds])


def _cells(figures: np.ndarray) -> list[str]:
    """Text of figures [seeds, 5]."""
    scaled = figures * np.array([1, 100, 1, 1, 1])
    forms = (".1f", ".1f", ".4f", ".3g", ".0f")
    return [
        f"{values.mean():{form}} [{values.min():{form}}, {values.max():{form}}]"
        for values, form in zip(scaled.T, forms, strict=True)
    ]


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
