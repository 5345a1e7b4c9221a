"""Success of energy, diffusion, flow and cloning in Meta-World, nominal and perturbed.

    python benchmarks/imitation_success.py --output runs/imitation --workers 2

Every policy has the same trunk, demonstrations and CPU time of training: the number of steps of a
family is what that time buys on this machine, measured first and kept in OUTPUT/steps.json. The
demonstrations include recoveries from random actions and moved objects
(config/recovery_meta_world.yaml), none of which the evaluation repeats. Episodes are paired: all
policies meet the same starts and the same perturbations.

Brackets are 95 % intervals, of the mean over training seeds, by bootstrap over training seeds and
episodes. OUTPUT keeps data, runs and outcomes: called again, the command goes on. Settings were
chosen on the tasks of CHOOSING with other seeds, never on those that are reported. Exit code 1
when a goal is missed.
"""

from __future__ import annotations

import json
import multiprocessing
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro
import yaml

from robot_policies import load_policy
from robot_policies.tables import text_table
from sim import tasks
from sim.demonstrations import CollectConfig, attempts, collect
from sim.estimate import Estimate
from sim.imitation import ImitationConfig, train_bundle
from sim.randomization_terms import load
from sim.runs import write_atomically
from sim.tasks import experts
from sim.tasks.evaluation import Options as Evaluated
from sim.tasks.evaluation import evaluate

CONFIG = Path(__file__).parents[1] / "config"
RECOVERY = CONFIG / "recovery_meta_world.yaml"
REPORTED = ("pick-place", "push", "disassemble", "bin-picking", "stick-pull")
CHOOSING = ("peg-insert-side",)
FAMILIES = ("energy", "diffusion", "flow", "cloning")
POLICIES = {
    "energy, 2 steps": ("energy", "two-steps"),
    "energy, 4 steps": ("energy", "four-steps"),
    "diffusion, DDPM-100": ("diffusion", "ddpm-100"),
    "diffusion, DDIM-10": ("diffusion", "ddim-10"),
    "flow, 2 steps": ("flow", "flow-2"),
    "cloning": ("cloning", None),
}
CASES: dict[str, Path | None] = {
    "nominal": None,
    "random actions": CONFIG / "perturbations_random_actions.yaml",
    "object moved": CONFIG / "perturbations_object_moved.yaml",
    "delay": CONFIG / "perturbations_delay.yaml",
}
EXPERT = "the scripted expert"
ENERGY, DDPM, DDIM = "energy, 2 steps", "diffusion, DDPM-100", "diffusion, DDIM-10"
NOMINAL_ONLY = (DDPM,)
"""Not perturbed: it takes as long to evaluate as all others together."""
NOMINAL_GOAL, TASKS_GOAL = 0.95, 4
EVALUATION_SEED, DATA_SEED = 1234, 7
MEASURED_STEPS = 300
BOOTSTRAPS = 2000
Outcomes = dict[tuple[str, str, str], np.ndarray]
"""(task, policy, case) -> success [seeds, episodes]."""


@dataclass(frozen=True)
class Options:
    """What to run."""

    output: Path
    tasks: tuple[str, ...] = REPORTED
    """Of meta-world/."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Of training."""
    cpu_s: float = 90.0
    """CPU time of training, for each policy."""
    demonstrations: int = 300
    """Episodes of each task."""
    episodes: int = 100
    """Of each policy in each case; none is one that was demonstrated."""
    workers: int = 1
    """Processes, of one thread each."""


@dataclass(frozen=True)
class Job:
    """A policy to train and evaluate, unless that was done."""

    options: Options
    task: str
    family: str
    seed: int
    steps: int

    @property
    def folder(self) -> Path:
        """The run's."""
        return self.options.output / "runs" / f"{self.task}-{self.family}-{self.seed}"

    def outcomes(self, policy: str, case: str) -> Path:
        """Where the successes are kept."""
        name = f"{self.task}-{policy}-{case}-{self.seed}".replace(" ", "-").replace(",", "")
        return self.options.output / "outcomes" / f"{name}.npy"


def main(options: Options) -> int:
    """Do what is left, and print the tables."""
    for task in options.tasks:
        demonstrate(options, task)
        watch_expert(options, task)
    steps = affordable_steps(options)
    jobs = [
        Job(options, task, family, seed, steps[family])
        for seed in options.seeds for task in options.tasks for family in FAMILIES
    ]  # fmt: skip
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(options.workers, spawn, max_tasks_per_child=1) as pool:
        for number, job in enumerate(pool.map(work, jobs), 1):
            print(f"{number}/{len(jobs)} {job.folder.name}", file=sys.stderr, flush=True)
    return report(options, jobs)


def data_folder(options: Options, task: str) -> Path:
    """The demonstrations of a task."""
    return options.output / "data" / task


def demonstrate(options: Options, task: str) -> None:
    """Collect the demonstrations, or go on with them."""
    folder = data_folder(options, task)
    config = CollectConfig(
        f"meta-world/{task}", options.demonstrations, DATA_SEED, randomization=RECOVERY
    )
    collect(config, folder, resume=folder.exists(), command=" ".join(sys.argv))


def watch_expert(options: Options, task: str) -> None:
    """How the scripted expert does in the episodes that the policies meet."""
    for case, spec in CASES.items():
        file = expert_file(options, task, case)
        if file.exists():
            continue
        made = tasks.make(
            f"meta-world/{task}", engine="mujoco", count=options.episodes, seed=EVALUATION_SEED,
            threads=1, randomization=None if spec is None else load(spec),
        )  # fmt: skip
        expert = experts.make(f"meta-world/{task}", made.scene, EVALUATION_SEED)
        found = islice(attempts(made, expert, EVALUATION_SEED, 0), options.episodes)
        file.parent.mkdir(exist_ok=True)
        np.save(file, [attempt.success for attempt in found])


def expert_file(options: Options, task: str, case: str) -> Path:
    """Where the expert's successes are kept."""
    return options.output / "outcomes" / f"{task}-expert-{case}.npy".replace(" ", "-")


def configuration(
    options: Options, task: str, family: str, seed: int, steps: int
) -> ImitationConfig:
    """All but the steps are the defaults."""
    return ImitationConfig(
        seed, data_folder(options, task).resolve(), family,  # type: ignore[arg-type]
        steps=steps,
    )  # fmt: skip


def affordable_steps(options: Options) -> dict[str, int]:
    """Family -> steps of the optimiser that `cpu_s` pay for."""
    file = options.output / "steps.json"
    if file.exists():
        return json.loads(file.read_text())
    found = {}
    for family in FAMILIES:
        config = configuration(options, options.tasks[0], family, 0, MEASURED_STEPS)
        cost = step_cost(config, options.workers)
        found[family] = round(options.cpu_s / cost)
        print(f"{family}: {1e3 * cost:.1f} ms a step, {found[family]} steps", file=sys.stderr)
    write_atomically(file, json.dumps(found))
    return found


def step_cost(config: ImitationConfig, workers: int) -> float:
    """CPU seconds of a step of training, by a short one in each of the workers.

    All at once: what one does on a core makes the other's work slower, and not all work alike.
    """
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, spawn) as pool:
        return float(np.mean(list(pool.map(_short_training, [config] * workers))))


def _short_training(config: ImitationConfig) -> float:
    with tempfile.TemporaryDirectory() as folder:
        train_bundle(config, Path(folder, "run"), resume=False, threads=1, command="measured")
        return training_seconds(Path(folder, "run")) / config.steps


def work(job: Job) -> Job:
    """Train, then evaluate; each only where it was not done."""
    torch.set_num_threads(1)
    if not (job.folder / "bundle").is_dir():
        config = configuration(job.options, job.task, job.family, job.seed, job.steps)
        resume = (job.folder / "config.yaml").exists()
        train_bundle(config, job.folder, resume=resume, threads=1, command=" ".join(sys.argv))
    for policy, (family, sampler) in POLICIES.items():
        for case in CASES:
            if family == job.family and wanted(policy, case, job):
                _evaluate(job, policy, sampler, case)
    return job


def asked(policy: str, case: str) -> bool:
    """Whether a policy is evaluated in a case."""
    return case == "nominal" or policy not in NOMINAL_ONLY


def wanted(policy: str, case: str, job: Job) -> bool:
    """Whether an evaluation is still to be done."""
    return asked(policy, case) and not job.outcomes(policy, case).exists()


def _evaluate(job: Job, policy: str, sampler: str | None, case: str) -> None:
    options = Evaluated(
        (policy,), f"meta-world/{job.task}", "mujoco", randomization=CASES[case],
        episodes=job.options.episodes, environments=job.options.episodes, seed=EVALUATION_SEED,
    )  # fmt: skip
    loaded = {policy: load_policy(job.folder / "bundle", sampler=sampler)}
    success = evaluate(loaded, options).records[policy]["success"]
    file = job.outcomes(policy, case)
    file.parent.mkdir(exist_ok=True)
    np.save(file.with_suffix(".new.npy"), success)
    file.with_suffix(".new.npy").replace(file)


# The tables.


def report(options: Options, jobs: Sequence[Job]) -> int:
    """Print them; 1 where a goal is missed."""
    found = outcomes(options, jobs)
    print(f"training seeds {options.seeds}, {options.episodes} episodes a seed and case\n")
    print(text_table(*costs_table(jobs)), "\n")
    for case in CASES:
        print(f"{case}: success %\n{text_table(*case_table(found, options.tasks, case))}\n")
    stand = [name for name in POLICIES if name not in NOMINAL_ONLY]
    perturbed = {name: pooled(found, options.tasks, name) for name in stand}
    rows = [[name, percent(estimate(*values))] for name, values in perturbed.items()]
    print(text_table(["perturbed, mean over tasks and kinds", "success %"], rows), "\n")
    checks = [
        *nominal_checks(found, options.tasks),
        (f"perturbed, {ENERGY} minus {DDIM}, on the mean over tasks",
         minus(perturbed[ENERGY], perturbed[DDIM])),
    ]  # fmt: skip
    passed = []
    for name, difference in checks:
        passed.append(difference.high >= 0 if "nominal" in name else difference.value >= 0)
        print(f"{'met   ' if passed[-1] else 'missed'} {name}: {percent(difference)} points")
    high = sum(found[task, ENERGY, "nominal"].mean() >= NOMINAL_GOAL for task in options.tasks)
    enough = high >= min(TASKS_GOAL, len(options.tasks))
    verdict = "met   " if enough else "missed"
    print(f"{verdict} {ENERGY}: nominal >= {NOMINAL_GOAL} on {high} of {len(options.tasks)} tasks")
    return 0 if all(passed) and enough else 1


def outcomes(options: Options, jobs: Sequence[Job]) -> Outcomes:
    """All that was recorded, the expert's as if by one training seed."""
    found = {
        (task, EXPERT, case): np.load(expert_file(options, task, case))[None].astype(float)
        for task in options.tasks for case in CASES
    }  # fmt: skip
    return found | {
        (task, policy, case): np.stack([
            np.load(job.outcomes(policy, case)) for job in jobs
            if (job.task, job.family) == (task, family)
        ]).astype(float)
        for task in options.tasks for policy, (family, _) in POLICIES.items() for case in CASES
        if asked(policy, case)
    }  # fmt: skip


def costs_table(jobs: Sequence[Job]) -> tuple[list[str], list[list[str]]]:
    """What training cost, by family."""
    rows = []
    for family in FAMILIES:
        mine = [job for job in jobs if job.family == family]
        spent = [training_seconds(job.folder) for job in mine]
        low, middle, high = np.quantile(spent, [0, 0.5, 1])
        rows.append([
            family, str(mine[0].steps), f"{middle:.0f} [{low:.0f} to {high:.0f}]",
            f"{1e3 * middle / mine[0].steps:.1f}",
        ])  # fmt: skip
    return ["family", "steps", "CPU s, median and range", "ms a step"], rows


def training_seconds(folder: Path) -> float:
    """CPU seconds, of the bundle's own record."""
    return yaml.safe_load((folder / "bundle" / "training.yaml").read_text())["seconds"]["cpu"]


def case_table(
    found: Outcomes, tasks: Sequence[str], case: str
) -> tuple[list[str], list[list[str]]]:
    """A row for each policy, a column for each task, and the mean over tasks."""
    rows = []
    for name in (name for name in (*POLICIES, EXPERT) if asked(name, case)):
        values = [found[task, name, case] for task in tasks]
        rows.append([name, *(percent(estimate(v)) for v in values), percent(estimate(*values))])
    return ["policy", *tasks, "mean"], rows


def pooled(found: Outcomes, tasks: Sequence[str], name: str) -> list[np.ndarray]:
    """The perturbed outcomes of a policy, by task and case."""
    return [found[task, name, case] for task in tasks for case in CASES if case != "nominal"]


def nominal_checks(found: Outcomes, tasks: Sequence[str]) -> Iterator[tuple[str, Estimate]]:
    """Differences between energy and diffusion on each task."""
    for task in tasks:
        pair = (found[task, name, "nominal"] for name in (ENERGY, DDPM))
        yield f"nominal, {task}: {ENERGY} minus {DDPM}", minus(*([values] for values in pair))


def estimate(*parts: np.ndarray) -> Estimate:
    """The mean over parts [S, E] each, by bootstrap over seeds and episodes."""
    return _bootstrap(parts, _mean)


def minus(left: Sequence[np.ndarray], right: Sequence[np.ndarray]) -> Estimate:
    """The mean paired difference; of the two the training seeds are drawn apart."""
    return _bootstrap(list(zip(left, right, strict=True)), _difference)


def _mean(part: Any, rows: np.ndarray, columns: np.ndarray) -> float:
    return part[rows[0]][:, columns].mean()


def _difference(pair: Any, rows: np.ndarray, columns: np.ndarray) -> float:
    return _mean(pair[0], rows, columns) - _mean(pair[1], rows[::-1], columns)


def _bootstrap(parts: Sequence[Any], statistic: Callable[..., float]) -> Estimate:
    generator = np.random.default_rng(0)
    seeds, episodes = np.shape(parts[0])[-2:]
    every = np.tile(np.arange(seeds), (2, 1)), np.arange(episodes)
    drawn = []
    for _ in range(BOOTSTRAPS):
        # The same draws for all parts: one training seed is one seed on every task.
        rows = generator.integers(seeds, size=(2, seeds))
        columns = generator.integers(episodes, size=episodes)
        drawn.append(np.mean([statistic(part, rows, columns) for part in parts]))
    low, high = np.quantile(drawn, [0.025, 0.975])
    value = float(np.mean([statistic(part, *every) for part in parts]))
    return Estimate(value, float(low), float(high))


def percent(estimate: Estimate) -> str:
    """In per cent, with its interval."""
    low, value, high = (100 * x for x in (estimate.low, estimate.value, estimate.high))
    return f"{value:.1f} [{low:.1f}, {high:.1f}]"


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Options, description=__doc__)))
