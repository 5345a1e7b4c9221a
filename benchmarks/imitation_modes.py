"""Two ways around a box: who keeps both, and who takes the mean of them, which is no way.

    python benchmarks/imitation_modes.py --output runs/modes --workers 2

The expert of arm-push swings out to the left or to the right by chance, whatever the state. Energy
matching, EBT-Policy's published unrolled objective, diffusion, flow and cloning learn from the
same demonstrations, with the same trunk and CPU time. Of each is measured, on episodes that none
was demonstrated:

success     the box is within 3 cm of its goal at the end
first side  to which side the first chunk goes, all of its Tp steps, drawn several times from one
            start: the side whose chunk of the expert is nearer than a quarter of the distance
            between the expert's two; 0, committed to neither, where none is
taken side  to which side the executed episode went (sim.tasks.push_expert.side)

Brackets are 95 % intervals by bootstrap over training seeds and episodes. OUTPUT keeps data, runs
and outcomes, and modes.png: called again, the command goes on. Settings were chosen with other
seeds, of data, training and evaluation. Exit code 1 when a goal is missed.
"""

from __future__ import annotations

import json
import multiprocessing
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
import tyro
from imitation_success import MEASURED_STEPS, percent, step_cost, training_seconds
from numpy.typing import NDArray
from torch import Tensor

from robot_policies import load_policy
from robot_policies.models.chunk import ChunkPolicy
from robot_policies.models.cloning import CloningPolicy
from robot_policies.models.families import build
from robot_policies.tables import text_table
from sim import tasks
from sim.demonstrations import ACTION, STATE, CollectConfig, Demonstration, attempts, collect
from sim.draws import FloatArray
from sim.estimate import Estimate
from sim.imitation import ImitationConfig, element_names, train_bundle
from sim.randomization import IdArray
from sim.runs import write_atomically
from sim.tasks import experts
from sim.tasks.arm import ArmScene
from sim.tasks.driver import Driver
from sim.tasks.push_expert import hand_path, side
from sim.tasks.task import Task

TASK = "arm-push"
TRAINED = {
    "energy": ("energy", "matching"),
    "ebt": ("energy", "ebt"),
    "diffusion": ("diffusion", "matching"),
    "flow": ("flow", "matching"),
    "cloning": ("cloning", "matching"),
}
"""Network -> family and objective."""
POLICIES = {
    "energy, 2 steps": ("energy", "two-steps"),
    "energy, 4 steps": ("energy", "four-steps"),
    "diffusion, DDIM-10": ("diffusion", "ddim-10"),
    "diffusion, DDPM-100": ("diffusion", "ddpm-100"),
    "flow, 2 steps": ("flow", "flow-2"),
    "flow, 4 steps": ("flow", "flow-4"),
    "published EBT, 4 steps": ("ebt", "four-steps"),
    "cloning": ("cloning", None),
}
"""Row -> network and sampler."""
FAILING = ("published EBT, 4 steps", "cloning")
EXPERT = "expert"
PREDICTED = 16
"""Tp at 50 Hz, by which the expert shows its side."""
NEAR = 0.25
"""Of the distance between the expert's two chunks: what is nearer to one of them is committed."""
RECOVERY = Path(__file__).parents[1] / "config" / "recovery_arm_push.yaml"
SETTINGS: dict[str, Any] = {
    "prediction_steps": PREDICTED, "execution_steps": 8, "batch": 64, "width": 128,
    "learning_rate": 2e-3,
}  # fmt: skip
"""Of all networks; the others are the defaults."""
EVALUATION_SEED = 1234
BOOTSTRAPS = 2000
GOAL = 0.95
FAILED = 0.5
SidesArray = NDArray[np.int8]


@dataclass(frozen=True)
class Options:
    """What to run."""

    output: Path
    seeds: tuple[int, ...] = (0, 1, 2)
    """Of training."""
    data_seed: int = 7
    cpu_s: float = 360.0
    """CPU time of training, for each network."""
    demonstrations: int = 3000
    """Fewer starts are learned by heart, each with the one side that was shown there."""
    episodes: int = 100
    """Of each policy and training seed."""
    draws: int = 10
    """First chunks from each episode's start."""
    workers: int = 1
    """Processes, of one thread each."""


@dataclass(frozen=True)
class Outcomes:
    """Of a policy with S training seeds in E episodes. Sides are +1 left, -1 right, 0 neither."""

    success: NDArray[np.bool_]
    """[S, E]"""
    taken: SidesArray
    """[S, E]"""
    first: SidesArray
    """[S, E, D] of D first chunks."""
    fan: FloatArray
    """[S, D, Tp + 1, 3] m, world: where the hand is, and a first chunk, in the first episode."""

    def resampled(self, generator: np.random.Generator) -> Outcomes:
        """Training seeds and episodes drawn again; the chunks from a start go together."""
        seeds, episodes = (generator.integers(n, size=n) for n in self.success.shape)
        names = ("success", "taken", "first")
        drawn = {name: getattr(self, name)[seeds][:, episodes] for name in names}
        return replace(self, **drawn)

    def save(self, file: Path) -> None:
        """All or nothing."""
        file.parent.mkdir(exist_ok=True)
        np.savez(file.with_suffix(".new.npz"), **vars(self))
        file.with_suffix(".new.npz").replace(file)

    @staticmethod
    def load(files: Sequence[Path]) -> Outcomes:
        """Of several training seeds, one after the other."""
        found = [dict(np.load(file)) for file in files]
        return Outcomes(**{name: np.concatenate([f[name] for f in found]) for name in found[0]})


@dataclass(frozen=True)
class Job:
    """A network to train, and its policies to measure, unless that was done."""

    options: Options
    network: str
    seed: int
    steps: int

    @property
    def folder(self) -> Path:
        """The run's."""
        return self.options.output / "runs" / f"{self.network}-{self.seed}"


def outcomes_file(options: Options, policy: str, seed: int) -> Path:
    """Where those of a policy, or of the expert, are kept."""
    name = f"{policy}-{seed}".replace(",", "").replace(" ", "-")
    return options.output / "outcomes" / f"{name}.npz"


def main(options: Options) -> int:
    """Do what is left, print the table and make the picture."""
    config = CollectConfig(TASK, options.demonstrations, options.data_seed, randomization=RECOVERY)
    folder = data_folder(options)
    collect(config, folder, resume=folder.exists(), command=" ".join(sys.argv))
    if not (file := outcomes_file(options, EXPERT, 0)).exists():
        measure_expert(options).save(file)
    steps = affordable_steps(options)
    jobs = [Job(options, name, seed, steps[name]) for seed in options.seeds for name in TRAINED]
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(options.workers, spawn, max_tasks_per_child=1) as pool:
        for number, job in enumerate(pool.map(work, jobs), 1):
            print(f"{number}/{len(jobs)} {job.folder.name}", file=sys.stderr, flush=True)
    return report(options, jobs)


# Training.


def data_folder(options: Options) -> Path:
    """The demonstrations."""
    return options.output / "data"


def configuration(options: Options, network: str, seed: int, steps: int) -> ImitationConfig:
    """All but SETTINGS and the steps are the defaults."""
    family, objective = TRAINED[network]
    return ImitationConfig(
        seed, data_folder(options).resolve(), family, objective=objective,  # type: ignore[arg-type]
        steps=steps, **SETTINGS,
    )  # fmt: skip


def affordable_steps(options: Options) -> dict[str, int]:
    """Network -> steps of the optimiser that `cpu_s` pay for, measured once."""
    file = options.output / "steps.json"
    if file.exists():
        return json.loads(file.read_text())
    found = {}
    for network in TRAINED:
        config = configuration(options, network, 0, MEASURED_STEPS)
        found[network] = round(options.cpu_s / step_cost(config, options.workers))
    write_atomically(file, json.dumps(found))
    return found


def work(job: Job) -> Job:
    """Train, then measure; each only where it was not done."""
    torch.set_num_threads(1)
    if not (job.folder / "bundle").is_dir():
        config = configuration(job.options, job.network, job.seed, job.steps)
        resume = (job.folder / "config.yaml").exists()
        train_bundle(config, job.folder, resume=resume, threads=1, command=" ".join(sys.argv))
    for policy, (network, sampler) in POLICIES.items():
        file = outcomes_file(job.options, policy, job.seed)
        if network == job.network and not file.exists():
            measure(job, sampler).save(file)
    return job


# Measuring.


class Player:
    """A bundle in the expert's place (sim.tasks.experts.Expert)."""

    def __init__(self, driver: Driver, task: Task) -> None:
        self._driver, self._task = driver, task

    def begin(self, ids: IdArray, episodes: IdArray) -> None:
        """See Expert; all environments begin at once."""
        self._driver.begin(EVALUATION_SEED)

    def act(self) -> FloatArray:
        """See Expert."""
        return self._task.commands(self._driver.act()).astype(float)


def make_task(options: Options) -> Task:
    """All episodes side by side, so that everyone meets the same starts."""
    return tasks.make(
        TASK, engine="mujoco", count=options.episodes, seed=0, threads=1, randomization=None
    )


def measure(job: Job, sampler: str | None) -> Outcomes:
    """Play the episodes, and draw first chunks from their starts."""
    task = make_task(job.options)
    player = Player(Driver(load_policy(job.folder / "bundle", sampler=sampler), task), task)
    played = play(task, player)
    starts = torch.from_numpy(np.stack([episode.rows[STATE][0] for episode in played]))
    network = load_network(job.folder / "checkpoint.pt")
    chunks = first_chunks(network, sampler, starts, job.options.draws)
    (action,) = task.action
    ways = np.load(ways_file(job.options))
    return judge(task, played, chunks.clip(action.lower, action.upper), ways)


def measure_expert(options: Options) -> Outcomes:
    """The same of the expert, which draws its sides anew for each draw."""
    task = make_task(options)
    rounds = [play(task, experts.make(TASK, task.scene, draw)) for draw in range(options.draws)]
    commands = np.array(
        [[episode.rows[ACTION][:PREDICTED] for episode in played] for played in rounds], float
    )
    sides = np.array([[taken_side(task, episode) for episode in played] for played in rounds])
    ways = np.stack([_of_side(commands, sides == to) for to in (1, -1)])
    ways_file(options).parent.mkdir(exist_ok=True)
    np.save(ways_file(options), ways)
    return judge(task, rounds[0], commands.swapaxes(0, 1), ways)


def ways_file(options: Options) -> Path:
    """The expert's first chunks to the left and to the right, [2, E, Tp, J] rad."""
    return options.output / "outcomes" / "ways.npy"


def _of_side(commands: FloatArray, chosen: NDArray[np.bool_]) -> FloatArray:
    """Of [D, E, Tp, J] the mean over the chosen draws [D, E]; NaN where there is none."""
    weight = (
        chosen[..., None, None] / np.where(chosen.any(0), chosen.sum(0), np.nan)[:, None, None]
    )
    return (commands * weight).sum(0)


def play(task: Task, player: experts.Expert) -> list[Demonstration]:
    """One episode from each of the E starts."""
    return list(islice(attempts(task, player, EVALUATION_SEED, 0), task.num_envs))


def load_network(checkpoint: Path) -> ChunkPolicy:
    """What was exported, in torch, of which the whole sample can be seen."""
    document = torch.load(checkpoint, weights_only=True)
    network = build(document["family"], document["network"])
    assert isinstance(network, ChunkPolicy)
    network.load_state_dict(document["weights"])
    return network.eval()


@torch.no_grad()
def first_chunks(
    network: ChunkPolicy, sampler: str | None, starts: Tensor, draws: int
) -> FloatArray:
    """Commands [E, D, Tp, J] rad for starts [E, Do]; without a sampler all draws are alike."""
    observation = starts[:, None].expand(-1, network.sizes.observation_steps, -1)
    if isinstance(network, CloningPolicy):
        samples = [network.predict(observation)[0]] * draws
    else:
        generator = torch.Generator().manual_seed(EVALUATION_SEED)
        (plan,) = (plan for plan in network.samplers() if plan.name == sampler)
        noise = [network.noise_for(plan, len(starts), generator) for _ in range(draws)]
        samples = [network.generate(observation, plan, drawn).sample for drawn in noise]
    commands = torch.stack(samples, dim=1) * network.action_scale + network.action_mean
    return (commands + network.base(observation)[:, None, None]).double().numpy()


def judge(
    task: Task, played: Sequence[Demonstration], chunks: FloatArray, ways: FloatArray
) -> Outcomes:
    """Of one training seed: an episode from each start, and first chunks [E, D, Tp, J] rad."""
    success = np.array([[episode.success for episode in played]])
    taken = np.array([[taken_side(task, episode) for episode in played]], np.int8)
    hand = point(task, played[0], "hand_position")[:1]
    scene = cast(ArmScene, task.scene)
    fan = np.array([[np.vstack([hand, hand_path(scene, chunk)]) for chunk in chunks[0]]])
    return Outcomes(success, taken, first_sides(chunks, ways)[None], fan)


def first_sides(chunks: FloatArray, ways: FloatArray) -> SidesArray:
    """Of chunks [E, D, Tp, J], by the expert's [2, E, Tp, J]: [E, D]."""
    apart = np.sqrt(np.square(ways[0] - ways[1]).sum((-2, -1)))
    left, right = (np.sqrt(np.square(chunks - way[:, None]).sum((-2, -1))) for way in ways)
    near = NEAR * apart[:, None]
    return ((left < near).astype(np.int8) - (right < near).astype(np.int8)).astype(np.int8)


def taken_side(task: Task, episode: Demonstration) -> int:
    """Which way the hand went."""
    hand, box, goal = (point(task, episode, name) for name in POINTS)
    return side(hand, box[0], goal[0])


POINTS = ("hand_position", "box_position", "goal_position")


def point(task: Task, episode: Demonstration, name: str) -> FloatArray:
    """Where it was, [T, 3] m, world."""
    told = element_names([signal for signal in task.observation if signal.source == "robot"])
    columns = [i for i, element in enumerate(told) if element.startswith(f"{name}/")]
    return episode.rows[STATE][:, columns].astype(float)


# The table.

Statistic = Callable[[Outcomes], float]


def committed(sides: SidesArray) -> float:
    """Share that goes to a side."""
    return float((sides != 0).mean())


def rarer(sides: SidesArray) -> float:
    """Share of the rarer side, of all that goes to one; 0 where none does."""
    left, right = (sides > 0).sum(), (sides < 0).sum()
    return float(min(left, right) / max(left + right, 1))


def both(sides: SidesArray) -> float:
    """Share of starts from which both sides were drawn, of [S, E, D]."""
    return float(((sides > 0).any(2) & (sides < 0).any(2)).mean())


COMMITTED = "first chunks committed"
FIGURES: dict[str, Statistic] = {
    "success": lambda found: float(found.success.mean()),
    COMMITTED: lambda found: committed(found.first),
    "starts with both sides": lambda found: both(found.first),
    "rarer side": lambda found: rarer(found.first),
    "episodes that took a side": lambda found: committed(found.taken),
    "rarer side taken": lambda found: rarer(found.taken),
}
WANTED = ("success", COMMITTED, "starts with both sides")
"""What has a goal."""


def report(options: Options, jobs: Sequence[Job]) -> int:
    """Print the tables, make the picture; 1 where a goal is missed."""
    found = {EXPERT: Outcomes.load([outcomes_file(options, EXPERT, 0)])} | {
        name: Outcomes.load([outcomes_file(options, name, seed) for seed in options.seeds])
        for name in POLICIES
    }
    draw(found, options.output / "modes.png")
    print(
        f"{TASK}: training seeds {options.seeds}, {options.episodes} episodes a seed, "
        f"{options.draws} first chunks of {PREDICTED} steps from each start\n"
    )
    print(text_table(*costs_table(jobs)), "\n")
    estimates = {
        name: {figure: bootstrap(outcomes, statistic) for figure, statistic in FIGURES.items()}
        for name, outcomes in found.items()
    }
    rows = [[name, *map(percent, row.values())] for name, row in estimates.items()]
    print(text_table(["%", *FIGURES], rows), "\n")
    checks = list(goals(estimates))
    for met, text in checks:
        print(f"{'met   ' if met else 'missed'} {text}")
    return 0 if all(met for met, _ in checks) else 1


def costs_table(jobs: Sequence[Job]) -> tuple[list[str], list[list[str]]]:
    """What training cost, by network."""
    rows = []
    for network in TRAINED:
        mine = [job for job in jobs if job.network == network]
        low, middle, high = np.quantile(
            [training_seconds(job.folder) for job in mine], [0, 0.5, 1]
        )
        rows.append([network, str(mine[0].steps), f"{middle:.0f} [{low:.0f} to {high:.0f}]"])
    return ["network", "steps", "CPU s, median and range"], rows


def bootstrap(found: Outcomes, statistic: Statistic) -> Estimate:
    """The statistic and its interval."""
    generator = np.random.default_rng(0)
    drawn = [statistic(found.resampled(generator)) for _ in range(BOOTSTRAPS)]
    low, high = np.quantile(drawn, [0.025, 0.975])
    return Estimate(statistic(found), float(low), float(high))


def goals(estimates: dict[str, dict[str, Estimate]]) -> Iterator[tuple[bool, str]]:
    """Whether each was met, in a sentence. Of the ways to a chunk, the best counts."""
    for network in ("energy", "diffusion"):
        ways = [name for name, (of, _) in POLICIES.items() if of == network]
        best = max(ways, key=lambda name: lowest(estimates[name]))
        told = ", ".join(f"{figure} {percent(estimates[best][figure])}" for figure in WANTED)
        yield lowest(estimates[best]) >= GOAL, f"{best}: {told}; each >= {100 * GOAL:.0f}"
    for name in FAILING:
        found = estimates[name][COMMITTED]
        text = f"{name} fails: {COMMITTED} {percent(found)} < {100 * FAILED:.0f}"
        yield found.value < FAILED, text


def lowest(row: dict[str, Estimate]) -> float:
    """Of the figures that have a goal."""
    return min(row[figure].value for figure in WANTED)


# The picture.


def draw(found: dict[str, Outcomes], file: Path) -> None:
    """First chunks of everyone from the start of the first episode, seen from above."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 7), layout="constrained")
    axes = figure.subplots(3, 3, sharex=True, sharey=True).flat
    for axis, (name, outcomes) in zip(axes, found.items(), strict=True):
        paths = outcomes.fan.reshape(-1, *outcomes.fan.shape[2:])
        sides = outcomes.first[:, 0].reshape(-1)
        for path, to in zip(paths, sides, strict=True):
            axis.plot(path[:, 1], path[:, 0], color=COLOURS[int(to)], linewidth=0.8, alpha=0.7)
        axis.plot(*paths[0, 0, 1::-1], "ko", markersize=4)
        axis.set(title=name, aspect="equal")
        axis.grid(alpha=0.3)
    axes[0].invert_xaxis()  # so that left is left, seen from the base
    figure.supxlabel("y, m")
    figure.supylabel("x, m")
    staging = file.with_suffix(".new.png")
    figure.savefig(staging, dpi=130)
    staging.replace(file)


COLOURS = {1: "tab:blue", -1: "tab:orange", 0: "tab:gray"}
"""Left, right and neither."""


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Options, description=__doc__)))
