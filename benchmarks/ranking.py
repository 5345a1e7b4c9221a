"""Rank 60 policies for robots that nobody has simulated, and compare with what then happens.

    python benchmarks/ranking.py arm --output runs/ranking --workers 2

Policies of 20 settings of randomisation, three training seeds each (benchmarks/ranking_robots.py).
Of every hidden robot there are 2,000 samples of some other behaviour, and nothing else; the truth
is how all policies then do on it. One way to rank was fixed on robots of other kinds or sizes
(--choose shows how), before any hidden one was looked at.

rho      Spearman's rank correlation of score and true return, of all policies and of the better
         half by simulation (competitive)
regret@k share of the best true return that the best of the first k lacks
MMRV     mean maximum rank violation, in shares of the range of the robot's true returns

Brackets are 95 % intervals by bootstrap over settings, with all of their seeds, and robots.
OUTPUT keeps all: called again, the command goes on. Exit code 1 when a goal is missed.
"""

from __future__ import annotations

import json
import multiprocessing
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import tyro
import yaml
from numpy.typing import NDArray
from ranking_baselines import fitted_q_evaluation, identified
from ranking_robots import EXPERIMENTS, MIXTURES, WIDE, Experiment, Robot

from robot_policies import evidence, load_policy
from robot_policies.ranking import (
    COMBINERS,
    kendall,
    mean_maximum_rank_violation,
    regret,
    spearman,
)
from robot_policies.recordings import Recording
from robot_policies.tables import text_table
from sim import ranking as references
from sim import sweeps
from sim.demonstrations import REWARD
from sim.estimate import Estimate
from sim.randomization_terms import Spec
from sim.runs import plain, write_atomically
from sim.tasks.evaluation import Options as Evaluated
from sim.tasks.evaluation import evaluate

FloatArray = NDArray[np.float64]
SIMULATION_SEED, TRUTH_SEED, REAL_SEED, REFERENCE_SEED = 71001, 72001, 73001, 74001
REAL_SAMPLES, MOST_SAMPLES = 2000, 5000
SAMPLES = (10, 20, 50, 100, 200, 500, 1000, 2000, 5000)
DRAWS = 20
"""Of so many samples, for the curve."""
ENVIRONMENTS = 100
"""Simulated at once."""
BOOTSTRAPS = 1000
FAILING = 0.7
"""Simulation alone fails where its rho is below."""
VARIANTS = {
    "Mahalanobis": evidence.Options(),
    "Mahalanobis of features": evidence.Options(shown="features"),
    "RND": evidence.Options(detector="distillation"),
    "k-NN": evidence.Options(detector="neighbours"),
}
"""Of the channel of states."""
CHANNELS = {"states": (1.0, 0.0), "dynamics": (0.0, 1.0), "both": (0.5, 0.5)}
"""Weights of the channels."""
FIXED = ("Mahalanobis", "both", "calibrated-product", "nominal")
"""The way to rank: detector, channels, combiner and the simulation that it starts from. What
`robot-policies rank` does where nothing else is asked for."""


@dataclass(frozen=True)
class Options:
    """What to run."""

    experiment: Annotated[Literal["arm", "quadrotor"], tyro.conf.Positional]
    output: Path
    seeds: tuple[int, ...] = (0, 1, 2)
    """Of training."""
    episodes: int = 200
    """Of each policy in simulation."""
    truth_episodes: int = 100
    """Of each policy on each robot."""
    reference_episodes: int = 40
    """Of the behaviour in each setting."""
    workers: int = 1
    """Processes, of one thread each."""
    choose: bool = False
    """Compare ways to rank, on the robots to choose by; nothing hidden is looked at."""

    @property
    def folder(self) -> Path:
        """Of this experiment."""
        return self.output / self.experiment

    @property
    def about(self) -> Experiment:
        """What is done."""
        return EXPERIMENTS[self.experiment]

    @property
    def robots(self) -> Mapping[str, Robot]:
        """To choose by, or to report."""
        return self.about.choosing if self.choose else self.about.hidden


def main(options: Options) -> int:
    """Train, simulate, run and judge what is missing; then the tables."""
    bundles = train(options)
    for stage in (gathering(options, bundles), judging(options, bundles)):
        work(list(stage), options)
    found = Found.load(options, bundles)
    print(
        f"{options.about.task}: {len(bundles)} policies of {len(MIXTURES)} settings, training "
        f"seeds {options.seeds}; {options.episodes} simulated episodes, "
        f"{options.truth_episodes} on each of {len(options.robots)} robots, of which there are "
        f"{REAL_SAMPLES} samples\n"
    )
    return choose(found) if options.choose else report(found)


# What is kept.


@dataclass(frozen=True)
class Job:
    """Something to make, a file, unless it is there."""

    make: Callable[..., Mapping[str, FloatArray]]
    file: Path
    options: Options
    bundles: tuple[Path, ...]
    name: str


def work(jobs: Sequence[Job], options: Options) -> None:
    """Do what is missing."""
    missing = [job for job in jobs if not job.file.exists()]
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(options.workers, spawn, max_tasks_per_child=1) as pool:
        for number, job in enumerate(pool.map(done, missing), 1):
            print(f"{number}/{len(missing)} {job.file.name}", file=sys.stderr, flush=True)


def done(job: Job) -> Job:
    """All or nothing."""
    job.file.parent.mkdir(parents=True, exist_ok=True)
    staging = job.file.with_suffix(".new.npz")
    np.savez_compressed(staging, **job.make(job.options, job.bundles, job.name))
    staging.replace(job.file)
    return job


def file_of(options: Options, kind: str, name: str) -> Path:
    """Where a job leaves what it made."""
    return (
        options.folder / kind / f"{name.replace(' ', '-').replace(',', '').replace('/', '-')}.npz"
    )


def gathering(options: Options, bundles: Sequence[Path]) -> Iterator[Job]:
    """Everything that is simulated."""
    kinds: list[tuple[str, Callable[..., Mapping[str, FloatArray]], Sequence[str]]] = [
        ("truth", run, list(options.robots)),
        ("simulated", simulate, ["nominal", "wide"]),
        ("real", record, list(options.robots)),
        ("references", refer, list(MIXTURES)),
        ("identification", identify, ["wide"]),
    ]  # fmt: skip
    for kind, make, names in kinds:
        for name in names:
            yield Job(make, file_of(options, kind, name), options, tuple(bundles), name)


def judging(options: Options, bundles: Sequence[Path]) -> Iterator[Job]:
    """What is made of it, for each robot."""
    for kind, make in (("evidence", judge), ("q", value)):
        for name in options.robots:
            yield Job(make, file_of(options, kind, name), options, tuple(bundles), name)


def train(options: Options) -> list[Path]:
    """A bundle for each setting and seed, in this order."""
    about, folder = options.about, options.folder
    settings = folder / "settings"
    for name in MIXTURES:
        write_spec(setting_file(options, name), about.setting(name))
    base = {
        "engine": about.engine, "environments": about.environments,
        "ppo": {"iterations": about.iterations},
        "robot": str(about.model({}, settings.resolve())),
    }  # fmt: skip
    grid = {
        "randomization": [setting_file(options, name).name for name in MIXTURES],
        "seed": list(options.seeds),
    }
    write_atomically(settings / "sweep.yaml", json.dumps({"base": base, "grid": grid}))
    summary = sweeps.sweep(sweeps.Options(
        f"{about.task}/ppo", settings / "sweep.yaml", folder / "sweep", workers=options.workers,
        command=" ".join(sys.argv),
    ))  # fmt: skip
    if not summary.ok:
        raise RuntimeError("\n".join(summary.failures()))
    return [folder / "sweep" / str(row.bundle) for row in summary.rows]


def setting_file(options: Options, name: str) -> Path:
    """What is randomised in a setting."""
    return file_of(options, "settings", name).with_suffix(".yaml")


def write_spec(file: Path, spec: Spec) -> None:
    """As config/randomization_example.yaml."""
    file.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(file, yaml.safe_dump(plain(spec)))


# Simulation, and what stands for reality.


def returns(
    options: Options, bundles: Sequence[Path], robot: Robot, drawn: Path, episodes: int, seed: int
) -> dict[str, FloatArray]:
    """Of all policies [P, E], and what was drawn [E], the same for all."""
    names = tuple(map(str, bundles))
    asked = Evaluated(
        names, options.about.task, robot.engine or options.about.engine, randomization=drawn,
        robot=model_of(options, robot), episodes=episodes, environments=ENVIRONMENTS, seed=seed,
    )  # fmt: skip
    found = evaluate({name: load_policy(name) for name in names}, asked)
    return {"returns": np.stack([found.records[name]["return"] for name in names])} | {
        f"drawn {name}": values for name, values in found.parameters(names[0]).items()
    }


def model_of(options: Options, robot: Robot) -> Path:
    """The YAML of the robot itself."""
    name = "-".join(f"{key}-{value}" for key, value in sorted(robot.change.items())) or "own"
    folder = options.folder / "models" / name.replace(" ", "")
    return options.about.model(robot.change, folder)


def run(options: Options, bundles: Sequence[Path], name: str) -> dict[str, FloatArray]:
    """The truth."""
    robot = options.robots[name]
    drawn = file_of(options, "robots", name).with_suffix(".yaml")
    write_spec(drawn, Spec(robot.terms))
    return returns(options, bundles, robot, drawn, options.truth_episodes, TRUTH_SEED)


def simulate(options: Options, bundles: Sequence[Path], name: str) -> dict[str, FloatArray]:
    """What is known of the policies without any robot."""
    drawn = setting_file(options, WIDE if name == "wide" else "nothing")
    return returns(options, bundles, Robot(), drawn, options.episodes, SIMULATION_SEED)


def behave(
    options: Options, robot: Robot, spec: Spec, episodes: int, seed: int, environments: int
) -> dict[str, FloatArray]:  # fmt: skip
    """The behaviour's samples, with the rewards that nobody but a baseline is told."""
    about = options.about
    asked = references.Options(
        about.task, robot.engine or about.engine, seed, robot=model_of(options, robot),
        behaviour=about.behaviour, reference_episodes=episodes,
    )  # fmt: skip
    task = references.make(asked, spec, environments)
    played = references.demonstrate(task, asked)
    found = references.of_demonstrations(played, task)
    rewards = np.concatenate([episode.rows[REWARD][:, 0] for episode in played])
    return packed(found) | {"rewards": rewards}


def packed(recording: Recording) -> dict[str, FloatArray]:
    return {
        "time": recording.time, "episodes": recording.episodes,
        **{f"signal {name}": values for name, values in recording.signals.items()},
        **{f"command {name}": values for name, values in recording.commands.items()},
    }  # fmt: skip


def unpacked(file: Path, most: int | None = None) -> tuple[Recording, FloatArray]:
    """The first samples of a recording, and their rewards."""
    with np.load(file) as archive:
        arrays = {name: archive[name][:most] for name in archive.files}
    signals, commands = (
        {name[len(kind) :]: values for name, values in arrays.items() if name.startswith(kind)}
        for kind in ("signal ", "command ")
    )
    return Recording(signals, commands, arrays["time"], arrays["episodes"]), arrays["rewards"]


def record(options: Options, bundles: Sequence[Path], name: str) -> dict[str, FloatArray]:
    """Of a robot, more samples than are used but for the curve."""
    robot = options.robots[name]
    many = options.reference_episodes
    return behave(options, robot, Spec(robot.terms), many, REAL_SEED, many)


def refer(options: Options, bundles: Sequence[Path], name: str) -> dict[str, FloatArray]:
    """Of the behaviour in the simulation of a setting."""
    many = options.reference_episodes
    return behave(options, Robot(), options.about.setting(name), many, REFERENCE_SEED, many)


def identify(options: Options, bundles: Sequence[Path], name: str) -> dict[str, FloatArray]:
    """Of the behaviour in the episodes that `simulate` has under this name: the same draws."""
    spec = options.about.setting(WIDE)
    return behave(options, Robot(), spec, options.episodes, SIMULATION_SEED, ENVIRONMENTS)


# What is made of it.


def judge(options: Options, bundles: Sequence[Path], name: str) -> dict[str, FloatArray]:
    """Of each variant p-values [P, 2, L]: of states and of dynamics."""
    real, _ = unpacked(file_of(options, "real", name), MOST_SAMPLES)
    known = [unpacked(file_of(options, "references", n))[0] for n in MIXTURES]
    found: dict[str, list[FloatArray]] = {variant: [] for variant in VARIANTS}
    for number, bundle in enumerate(bundles):
        policy = load_policy(bundle)
        for variant, asked in VARIANTS.items():
            again = number % len(options.seeds) and asked.shown == "observations"
            if not again:  # what depends on the setting alone is judged once
                reference = known[number // len(options.seeds)]
                channels = evidence.judge(policy, real, reference, asked, seed=0).channels
                latest = np.stack([channels["states"], channels["dynamics"]])
            else:
                latest = found[variant][-1]
            found[variant].append(latest)
    return {variant: np.stack(each) for variant, each in found.items()}


def value(options: Options, bundles: Sequence[Path], name: str) -> dict[str, FloatArray]:
    """Of the policies [P] by the baseline that learns from the real samples alone."""
    real, rewards = unpacked(file_of(options, "real", name), REAL_SAMPLES)
    each = [
        fitted_q_evaluation(policy, real.of(policy.contract), rewards, seed=0)
        for policy in map(load_policy, bundles)
    ]
    return {"q": np.array(each)}


# The scores of all ways to rank.


@dataclass(frozen=True, eq=False)
class Found:
    """Of P policies and R robots."""

    options: Options
    truth: FloatArray
    """[R, P] mean return."""
    simulated: dict[str, FloatArray]
    """nominal, wide -> [P] mean return."""
    episodes: FloatArray
    """[P, E] returns in the wide simulation."""
    p_values: dict[str, list[FloatArray]]
    """Variant -> of each robot [P, 2, L]."""
    q: FloatArray
    """[R, P]"""
    weights: FloatArray
    """[R, E] of the wide simulation's episodes, by system identification."""

    @staticmethod
    def load(options: Options, bundles: Sequence[Path]) -> Found:
        """From the files of the jobs."""

        def read(kind: str, name: str) -> dict[str, FloatArray]:
            with np.load(file_of(options, kind, name)) as archive:
                return {key: archive[key] for key in archive.files}

        simulated = {name: read("simulated", name) for name in ("nominal", "wide")}
        judged = {name: read("evidence", name) for name in options.robots}
        return Found(
            options, np.stack([read("truth", name)["returns"].mean(1) for name in options.robots]),
            {name: each["returns"].mean(1) for name, each in simulated.items()},
            simulated["wide"]["returns"],
            {variant: [each[variant] for each in judged.values()] for variant in VARIANTS},
            np.stack([read("q", name)["q"] for name in options.robots]),
            weights(options, simulated["wide"]),
        )  # fmt: skip

    def p(self, variant: str, channels: str, samples: int = REAL_SAMPLES) -> FloatArray:
        """[R, P] mean p-value of the first samples."""
        weight = np.array(CHANNELS[channels])
        return np.stack([
            (each[..., :samples].mean(-1) @ weight) for each in self.p_values[variant]
        ])  # fmt: skip

    def score(self, way: tuple[str, str, str, str], p: FloatArray | None = None) -> FloatArray:
        """[R, P] by one way to rank."""
        variant, channels, combiner, simulation = way
        p = self.p(variant, channels) if p is None else p
        join = COMBINERS[combiner]
        value = self.simulated[simulation][:, None]
        return np.stack([join(value, row[:, None])[:, 0] for row in p])

    @cached_property
    def methods(self) -> dict[str, FloatArray]:
        """Method -> scores [R, P]."""
        robots, policies = self.truth.shape
        generator = np.random.default_rng(0)
        nominal, wide = (np.tile(self.simulated[n], (robots, 1)) for n in ("nominal", "wide"))
        return {
            OURS: self.score(FIXED),
            SIMULATION: nominal,
            "simulation, wide": wide,
            "simulation, identified": self.weights @ self.episodes.T,
            "real data only": self.p(FIXED[0], FIXED[1]),
            "fitted Q evaluation": self.q,
            "random": generator.random((robots, policies)),
        }


OURS, SIMULATION = "rank", "simulation, nominal"


def weights(options: Options, wide: Mapping[str, FloatArray]) -> FloatArray:
    """[R, E]."""
    simulated, _ = unpacked(file_of(options, "identification", "wide"))
    drawn = np.stack(
        [values for name, values in wide.items() if name.startswith("drawn ")], axis=1
    )
    return np.stack([
        identified(unpacked(file_of(options, "real", name), REAL_SAMPLES)[0], simulated, drawn, 0)
        for name in options.robots
    ])  # fmt: skip


# How good they are.

Metric = Callable[[FloatArray, FloatArray], float]


def violation(scores: FloatArray, truth: FloatArray) -> float:
    """In shares of the range of the truth."""
    return mean_maximum_rank_violation(scores, truth) / float(np.ptp(truth))


METRICS: dict[str, Metric] = {
    "rho": spearman,
    "Kendall": kendall,
    "regret@1": lambda scores, truth: regret(scores, truth, 1),
    "regret@3": lambda scores, truth: regret(scores, truth, 3),
    "MMRV": violation,
}


def mean(metric: Metric, scores: FloatArray, truth: FloatArray) -> float:
    """Over robots."""
    return float(np.mean([metric(s, t) for s, t in zip(scores, truth, strict=True)]))


def resampled(found: Found) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Robots and policies drawn again, these by their settings."""
    seeds = len(found.options.seeds)
    robots, policies = found.truth.shape
    generator = np.random.default_rng(0)
    for _ in range(BOOTSTRAPS):
        settings = generator.integers(policies // seeds, size=policies // seeds)
        each = (settings[:, None] * seeds + np.arange(seeds)).ravel()
        yield generator.integers(robots, size=robots), each


def estimate(
    found: Found, statistic: Callable[[FloatArray, dict[str, FloatArray]], float]
) -> Estimate:
    """Of a statistic of the truth [R, P] and the methods' scores."""
    drawn = []
    for robots, policies in resampled(found):
        part = {n: scores[robots][:, policies] for n, scores in found.methods.items()}
        drawn.append(statistic(found.truth[robots][:, policies], part))
    low, high = np.quantile(drawn, [0.025, 0.975])
    return Estimate(statistic(found.truth, found.methods), float(low), float(high))


def better_half(found: Found) -> NDArray[np.int64]:
    """The policies that simulate best."""
    value = found.simulated["nominal"]
    return np.flatnonzero(value >= np.median(value))


# What is printed.


def report(found: Found) -> int:
    """All tables and the picture; 1 where a goal is missed."""
    robots_table(found)
    rows = []
    for name in found.methods:
        cells = [
            estimate(found, lambda truth, scores, n=name, m=metric: mean(m, scores[n], truth))
            for metric in METRICS.values()
        ]
        rows.append([name, *(f"{e.value:.3f} [{e.low:.3f}, {e.high:.3f}]" for e in cells)])
    print(text_table(["method, mean over robots", *METRICS], rows), "\n")
    competitive(found)
    curve = samples_curve(found)
    draw(found, curve, found.options.folder / "ranking.png")
    checks = list(goals(found, curve))
    for met, text in checks:
        print(f"{'met   ' if met else 'missed'} {text}")
    return 0 if all(met for met, _ in checks) else 1


def robots_table(found: Found) -> None:
    """How each method does on each robot."""
    rows = []
    for number, name in enumerate(found.options.robots):
        truth = found.truth[number]
        cells = [f"{spearman(s[number], truth):.2f}" for s in found.methods.values()]
        first = [f"{regret(found.methods[m][number], truth, 1):.3f}" for m in (OURS, SIMULATION)]
        spread = f"{truth.min():.1f} to {truth.max():.1f}"
        rows.append([name, spread, *cells, *first])
    heads = ["robot", "true return", *(f"rho, {m}" for m in found.methods)]
    print(text_table([*heads, f"regret@1, {OURS}", f"regret@1, {SIMULATION}"], rows), "\n")


def competitive(found: Found) -> None:
    """The same of the better half."""
    half = better_half(found)
    rows = [
        [name, *(f"{mean(m, s[:, half], found.truth[:, half]):.3f}" for m in METRICS.values())]
        for name, s in found.methods.items()
    ]
    print(text_table([f"method, the {len(half)} that simulate best", *METRICS], rows), "\n")


def samples_curve(found: Found) -> dict[int, tuple[float, float]]:
    """Samples -> mean rho with as many drawn at random, and in a row from a random place."""
    generator = np.random.default_rng(1)
    weight = np.array(CHANNELS[FIXED[1]])
    each = [np.einsum("pcl,c->pl", p, weight) for p in found.p_values[FIXED[0]]]
    curve = {}
    for count in SAMPLES:
        scores: list[list[float]] = [[], []]
        for _ in range(DRAWS):
            picked = []
            for p in each:
                most = min(count, p.shape[1])
                start = generator.integers(p.shape[1] - most + 1)
                picked.append(
                    (generator.choice(p.shape[1], most, replace=False), slice(start, start + most))
                )
            for kind in range(2):
                p = np.stack(
                    [of[:, pick[kind]].mean(1) for of, pick in zip(each, picked, strict=True)]
                )
                scores[kind].append(mean(spearman, found.score(FIXED, p), found.truth))
        curve[count] = (float(np.mean(scores[0])), float(np.mean(scores[1])))
    rows = [[str(n), f"{a:.3f}", f"{b:.3f}"] for n, (a, b) in curve.items()]
    print(text_table(["real samples", "mean rho, at random", "in a row"], rows), "\n")
    return curve


def goals(found: Found, curve: Mapping[int, tuple[float, float]]) -> Iterator[tuple[bool, str]]:
    """Whether each was met, in a sentence."""
    rho = mean(spearman, found.methods[OURS], found.truth)
    gain = estimate(
        found, lambda truth, scores: mean(spearman, scores[OURS], truth)
        - mean(spearman, scores[SIMULATION], truth),
    )  # fmt: skip
    yield rho >= 0.93, f"mean rho {rho:.3f} >= 0.93"
    yield gain.low > 0, f"above simulation alone by {gain}"
    alone = np.array([
        spearman(s, t) for s, t in zip(found.methods[SIMULATION], found.truth, strict=True)
    ])  # fmt: skip
    failed = np.flatnonzero(alone < FAILING)
    there = (
        mean(spearman, found.methods[OURS][failed], found.truth[failed]) if len(failed) else np.nan
    )
    yield (
        there >= 0.85,
        (
            f"where simulation alone fails (rho < {FAILING}, {len(failed)} of {len(alone)} "
            f"robots): mean rho {there:.3f} >= 0.85"
        ),
    )
    for k, most in ((1, 0.02), (3, 0.0)):
        lost = mean(METRICS[f"regret@{k}"], found.methods[OURS], found.truth)
        yield lost <= most + 5e-4, f"regret@{k} {lost:.4f} <= {most}"
    less = rho - curve[50][0]
    yield less <= 0.02, f"with 50 samples mean rho is lower by {less:.3f} <= 0.02"


def choose(found: Found) -> int:
    """All ways to rank, on the robots to choose by: the best first."""
    rows = []
    for variant in VARIANTS:
        for channels in CHANNELS:
            for combiner in COMBINERS:
                for simulation in found.simulated:
                    way = (variant, channels, combiner, simulation)
                    scores = found.score(way)
                    rows.append((mean(spearman, scores, found.truth), way, scores))
    for name, scores in found.methods.items():
        rows.append((mean(spearman, scores, found.truth), (name,), scores))
    rows.sort(key=lambda row: -row[0])
    table = [
        [", ".join(way), f"{rho:.3f}", f"{mean(METRICS['regret@1'], s, found.truth):.3f}",
         *(f"{spearman(s[r], t):.2f}" for r, t in enumerate(found.truth))]
        for rho, way, s in rows
    ]  # fmt: skip
    print(text_table(["way to rank", "mean rho", "regret@1", *found.options.robots], table))
    return 0


def draw(found: Found, curve: Mapping[int, tuple[float, float]], file: Path) -> None:
    """Rank correlation by robot, with and without the real data; and by samples."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4.5), layout="constrained")
    left, right = figure.subplots(1, 2)
    places = np.arange(len(found.truth))
    for shift, name in ((-0.2, SIMULATION), (0.2, OURS)):
        rho = [spearman(s, t) for s, t in zip(found.methods[name], found.truth, strict=True)]
        left.barh(places + shift, rho, height=0.4, label=name)
    left.set(yticks=places, yticklabels=list(found.options.robots), xlabel="Spearman's rho")
    left.invert_yaxis()
    left.legend()
    for kind, label in enumerate(("at random", "in a row")):
        right.plot(list(curve), [both[kind] for both in curve.values()], "o-", label=label)
    right.set(xscale="log", xlabel="real samples", ylabel="mean rho")
    right.legend()
    right.grid(alpha=0.3)
    staging = file.with_suffix(".new.png")
    figure.savefig(staging, dpi=130)
    staging.replace(file)


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Options, description=__doc__)))
