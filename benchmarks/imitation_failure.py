"""Does a policy know when it is about to fail? Scores of its chunks against the outcome.

    python benchmarks/imitation_failure.py --output runs/imitation --workers 2

takes the policies that benchmarks/imitation_success.py trained into OUTPUT, and lets them act in
its perturbed cases. Scores, each told at every new chunk, without knowledge of what comes:

gradient norm, energy   of the energy policy's chunk, after its two steps (sampler "scored")
spread                  standard deviation of 8 chunks that are drawn for one observation
Mahalanobis             distance of the feature from those of the demonstrations

An episode's score is the mean over its chunks: of all of them, or of those before the first tenth
of the successful episodes has ended, which is a warning in time. AUROC: the chance that a failed
episode scores higher than a successful one; .5 is ignorance. Brackets are 95 % intervals by
bootstrap over episodes, of the mean over tasks and training seeds. Nothing was chosen by these
episodes. Exit code 1 when the goal is missed.
"""

from __future__ import annotations

import multiprocessing
import sys
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tyro
from imitation_success import CASES, REPORTED, data_folder
from imitation_success import Options as Trained
from scipy.stats import rankdata

from robot_policies import bundle as bundles
from robot_policies.bundle import ENCODE, REFINE
from robot_policies.runtime import OnnxPolicy
from robot_policies.sessions import open_pair
from robot_policies.tables import text_table
from sim import tasks
from sim.estimate import Estimate
from sim.imitation import ImitationConfig, Samples, read
from sim.randomization_terms import load
from sim.tasks.driver import Driver
from sim.tasks.evaluation import begin

POLICIES = {"energy": "scored", "diffusion": "ddim-10", "flow": "flow-2"}
PERTURBED = tuple(case for case in CASES if case != "nominal")
DRAWS = 8
SEED = 4321
GOAL = 0.85
BOOTSTRAPS = 1000
ROWS = (
    ("energy", "gradient norm"), ("energy", "energy"), ("energy", "spread"),
    ("energy", "Mahalanobis"), ("diffusion", "spread"), ("diffusion", "Mahalanobis"),
    ("flow", "spread"), ("flow", "Mahalanobis"),
)  # fmt: skip
Scores = dict[str, np.ndarray]
"""success and length [E], and every score [E, chunks], NaN after an episode's end."""


Distance = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Options:
    """What to run."""

    output: Path
    """The folder of imitation_success.py."""
    tasks: tuple[str, ...] = REPORTED
    seeds: tuple[int, ...] = (0, 1, 2)
    """Of training."""
    episodes: int = 100
    """Of each policy in each perturbed case."""
    workers: int = 1


@dataclass(frozen=True)
class Job:
    """Episodes of one policy in one case."""

    options: Options
    task: str
    family: str
    seed: int
    case: str

    @property
    def file(self) -> Path:
        """Where its scores are kept."""
        name = f"{self.task}-{self.family}-{self.case}-{self.seed}".replace(" ", "-")
        return self.options.output / "failures" / f"{name}.npz"


def main(options: Options) -> int:
    """Do what is left, and print the table."""
    jobs = [
        Job(options, task, family, seed, case)
        for task in options.tasks for seed in options.seeds
        for family in POLICIES for case in PERTURBED
    ]  # fmt: skip
    (options.output / "failures").mkdir(exist_ok=True)
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(options.workers, spawn) as pool:
        for number, job in enumerate(pool.map(work, jobs), 1):
            print(f"{number}/{len(jobs)} {job.file.stem}", file=sys.stderr, flush=True)
    return report(options, {job: dict(np.load(job.file)) for job in jobs})


def work(job: Job) -> Job:
    """Let the policy act, and keep its scores."""
    if not job.file.exists():
        staging = job.file.with_suffix(".new.npz")
        np.savez(staging, **rollouts(job))
        staging.replace(job.file)
    return job


def rollouts(job: Job) -> Scores:
    """One episode for each environment."""
    count = job.options.episodes
    found = bundles.read(
        job.options.output / "runs" / f"{job.task}-{job.family}-{job.seed}/bundle"
    )
    policy, draws = (OnnxPolicy(found, POLICIES[job.family]) for _ in range(2))
    spec = CASES[job.case]
    assert spec is not None
    task = tasks.make(
        f"meta-world/{job.task}", engine="mujoco", count=count, seed=SEED, threads=1,
        randomization=load(spec),
    )  # fmt: skip
    distance = mahalanobis(job, found)
    driver = Driver(policy, task)
    begin(task, driver, SEED, 0)
    draws.reset(count * DRAWS, SEED)
    running, success, length = np.ones(count, bool), np.zeros(count, bool), np.zeros(count, int)
    chunks: list[dict[str, np.ndarray]] = []
    steps = 0
    while running.any():
        signals = task.signals()
        many = {name: np.repeat(value, DRAWS, axis=0) for name, value in signals.items()}
        raw = driver.act()
        draws.act(many)
        if steps % policy.contract.chunk.steps == 0:
            scores = judged(policy, draws, distance)
            chunks.append({n: np.where(running, v, np.nan) for n, v in scores.items()})
        _, _, terminated, truncated, infos = task.step(raw)
        steps += 1
        ended = running & (terminated | truncated)
        if ended.any():
            success[ended] = infos["final_info"]["success"][ended]
            length[ended] = steps
        task.scene.rest(np.flatnonzero(terminated | truncated))
        running &= ~ended
    joined = {name: np.stack([chunk[name] for chunk in chunks], axis=1) for name in chunks[0]}
    return {"success": success, "length": length, **joined}


def judged(policy: OnnxPolicy, draws: OnnxPolicy, distance: Distance) -> dict[str, np.ndarray]:
    """The scores [N] of the newest chunks."""
    last = policy.last
    assert last.feature is not None
    ranges = np.array([a.upper for a in policy.contract.action[:1]]).max()
    raw = draws.last.raw_action
    raw = raw.reshape(len(last.raw_action), DRAWS, *raw.shape[1:]) / ranges
    scores = {"spread": raw.std(1).mean((1, 2)), "Mahalanobis": distance(last.feature)}
    named = {"energy": "energy", "gradient_norm": "gradient norm"}
    return scores | {named[name]: value for name, value in last.told.items()}


def mahalanobis(job: Job, found: bundles.PolicyBundle) -> Distance:
    """The distance of features [N, F] from those of the demonstrations, [N]."""
    folder = data_folder(Trained(job.options.output), job.task)
    config = ImitationConfig(job.seed, folder, job.family)  # type: ignore[arg-type]
    dataset, _ = read(config)
    samples = Samples.of(dataset, np.arange(len(dataset.starts) - 1), config)
    seen = samples.observation[samples.seen[:: max(len(samples) // 4000, 1)]].numpy()
    encode, _ = open_pair(found.content[ENCODE], found.content[REFINE], found.contract)
    (feature,) = encode.run(["feature"], {"observation": seen})
    mean, covariance = feature.mean(0), np.cov(feature.T)
    # A ridge: some directions hardly vary, and a distance along them would be noise.
    inverse = np.linalg.inv(
        covariance + 1e-3 * np.trace(covariance) / len(mean) * np.eye(len(mean))
    )
    return lambda found: np.sqrt(((found - mean) @ inverse * (found - mean)).sum(1))


# The table.


def report(options: Options, found: Mapping[Job, Scores]) -> int:
    """Print it; 1 where the goal is missed."""
    print(f"training seeds {options.seeds}, {options.episodes} episodes a seed and case\n")
    best = 0.0
    for early in (False, True):
        rows = []
        for family, score in ROWS:
            groups = [
                pooled([v for job, v in found.items()
                        if (job.task, job.family, job.seed) == (task, family, seed)], score, early)
                for task in options.tasks for seed in options.seeds
            ]  # fmt: skip
            by_task = np.array_split(np.arange(len(groups)), len(options.tasks))
            cells = [estimate([groups[i] for i in which]) for which in by_task]
            mean = estimate(groups)
            rows.append([f"{family}: {score}", *map(_cell, cells), _cell(mean)])
            if family == "energy" and score in ("gradient norm", "energy") and not early:
                best = max(best, mean.value)
        title = "before a tenth of the successes" if early else "of the whole episode"
        print(f"AUROC of scores {title}\n{text_table(['score', *options.tasks, 'mean'], rows)}\n")
    met = best >= GOAL
    print(f"{'met   ' if met else 'missed'} gradient norm or energy, mean over tasks: {best:.3f}")
    return 0 if met else 1


def pooled(parts: Sequence[Scores], score: str, early: bool) -> tuple[np.ndarray, np.ndarray]:
    """Failed [E] and scores [E] over the cases of one policy."""
    failed = np.concatenate([~part["success"] for part in parts])
    length = np.concatenate([part["length"] for part in parts])
    chunks = max(part[score].shape[1] for part in parts)
    values = np.concatenate([
        np.pad(part[score], ((0, 0), (0, chunks - part[score].shape[1])), constant_values=np.nan)
        for part in parts
    ])  # fmt: skip
    if early and (~failed).any():
        share = np.quantile(length[~failed], 0.1) / length.max()
        values = values[:, : max(int(share * chunks), 1)]
    return failed, np.nanmean(values, axis=1)


def auroc(failed: np.ndarray, score: np.ndarray) -> float:
    """By ranks; NaN where all ended alike."""
    bad, good = failed.sum(), (~failed).sum()
    if not bad or not good:
        return float("nan")
    return float((rankdata(score)[failed].sum() - bad * (bad + 1) / 2) / (bad * good))


def estimate(groups: Sequence[tuple[np.ndarray, np.ndarray]]) -> Estimate:
    """The mean over groups, by bootstrap over the episodes of each."""
    generator = np.random.default_rng(0)
    drawn = []
    for _ in range(BOOTSTRAPS):
        picked = (generator.integers(len(f), size=len(f)) for f, _ in groups)
        again = (auroc(f[i], s[i]) for (f, s), i in zip(groups, picked, strict=True))
        drawn.append(np.nanmean(list(again)))
    low, high = np.quantile(drawn, [0.025, 0.975])
    return Estimate(float(np.nanmean([auroc(*group) for group in groups])), low, high)


def _cell(found: Estimate) -> str:
    return f"{found.value:.2f} [{found.low:.2f}, {found.high:.2f}]"


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Options, description=__doc__)))
