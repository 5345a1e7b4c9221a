"""train: a policy for one task, or for every configuration of a sweep."""

from __future__ import annotations

import shlex
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar, Literal

import tyro
from tyro.conf import arg

from robot_policies.cli.command import (
    GATE_FAILED,
    PASS,
    Json,
    Outcome,
    UsageError,
    require_default,
    require_files,
    written,
)

Executor = Literal["local", "ray", "shard"]
Sweep = Annotated[
    Path | None,
    arg(
        help="YAML with a grid of configurations, as config/sweep_example.yaml explains: a run "
        "for each, in the folder of --output, done once; call again to go on."
    ),
]
ShardText = Annotated[
    str | None, arg(help="I/N, with --executor shard: every N-th run from the I-th, for Slurm.")
]

OF_SWEEPS = ("output", "sweep", "executor", "shard", "workers", "json")
"""Options that --sweep goes with; all others its file replaces."""
SHARED = "without --sweep, whose runs it shares out"


@dataclass(frozen=True)
class TrainQuadrotor:
    """Train one policy for every quadrotor: teacher, distillation, tuning through the dynamics.

    Example: robot-policies train quadrotor/foundation --output runs/first --seed 0

    It needs a C++ compiler. Killed, it goes on with --resume. The folder holds the configuration,
    metrics.jsonl, TensorBoard's events, checkpoints, and at the end the bundle.
    """

    output: Path
    """The run's folder; a new one, but for --resume."""
    seed: int | None = None
    """Of quadrotors, flights and weights; to be given, but for --sweep."""
    resume: bool = False
    """Go on with the run in this folder, which must have the same configuration."""
    config: Path | None = None
    """YAML with all of the configuration, such as another run's config.yaml (but the seed is
    --seed's); the recipe of zoo:quadrotor where omitted."""
    ranges: Path | None = None
    """YAML with the quadrotors to train for, as config/quadrotor_ranges.yaml explains."""
    independent_teachers: int | None = None
    """RAPTOR's method: this many teachers of one quadrotor each."""
    sweep: Sweep = None
    executor: Executor = "local"
    """Where the runs of a sweep, or independent teachers, are trained."""
    shard: ShardText = None
    workers: int = 2
    """How many runs of a sweep, or jobs of independent teachers, at a time."""
    threads: int = 1
    """Of torch, in each of the processes that the configuration asks for."""
    json: Json = False

    def run(self) -> Outcome:
        """Train; the bundle is written last."""
        _require_compiler()
        if self.sweep is not None:
            return _sweep("quadrotor/foundation", self)
        require_default(self, ("shard",), SHARED)
        if self.executor == "shard":
            raise UsageError(f"--executor shard: expected none {SHARED}")
        from sim.quadrotor.foundation import configure, train_bundle

        given = [path for path in (self.config, self.ranges) if path is not None]
        require_files("a YAML file", given)
        config = configure(
            _given_seed(self), self.config, self.ranges,
            independent_teachers=self.independent_teachers,
        )  # fmt: skip
        if self.executor == "ray" and config.independent_teachers == 0:
            raise UsageError(
                "--executor ray: expected --independent-teachers N, found none; the one teacher "
                "of all is trained by this process"
            )
        executor = "ray" if self.executor == "ray" else "local"
        return written(
            train_bundle(
                config, self.output, resume=self.resume, executor=executor,
                workers=self.workers, threads=self.threads, command=_command_line(),
            )
        )  # fmt: skip


@dataclass(frozen=True)
class TrainReinforcement:
    """Train a policy for a task of sim/tasks by reinforcement learning (PPO), in one run folder.

    Killed, it goes on with --resume. The folder holds the configuration, metrics.jsonl,
    TensorBoard's events, checkpoints, and at the end the bundle.
    """

    output: Path
    """The run's folder; a new one, but for --resume."""
    seed: int | None = None
    """Of targets, randomisation and weights; to be given, but for --sweep."""
    resume: bool = False
    """Go on with the run in this folder, which must have the same configuration."""
    config: Path | None = None
    """YAML with all of the configuration, such as another run's config.yaml (but the seed is
    --seed's); the task's own where omitted."""
    engine: Literal["mujoco", "genesis", "torch"] | None = None
    """What simulates: mujoco or genesis the arms (mujoco where omitted), torch the quadrotor."""
    device: Literal["cpu", "gpu"] | None = None
    """Where it runs: gpu with genesis only; cpu where omitted, as the networks always."""
    randomization: Path | None = None
    """YAML with what is randomised, as config/randomization_example.yaml explains."""
    robot: Path | None = None
    """YAML with a robot of your own, as config/arm_example.yaml explains."""
    environments: int | None = None
    """How many are simulated at once."""
    iterations: int | None = None
    """Of PPO; the more, the nearer to the goal."""
    sweep: Sweep = None
    executor: Executor = "local"
    """Where the runs of a sweep are done."""
    shard: ShardText = None
    workers: int = 2
    """How many runs of a sweep at a time."""
    threads: int = 2
    """Of torch and of the engine; 1 in a sweep."""
    json: Json = False

    task: ClassVar[str]

    def run(self) -> Outcome:
        """Train; the bundle is written last."""
        if self.sweep is not None:
            return _sweep(f"{self.task}/ppo", self)
        require_default(self, ("executor", "shard", "workers"), SHARED)
        from sim.reinforcement import configure, train_bundle

        given = (self.config, self.randomization, self.robot)
        require_files("a YAML file", [path for path in given if path is not None])
        config = configure(
            self.task, _given_seed(self), engine=self.engine, device=self.device, file=self.config,
            randomization=self.randomization, robot=self.robot, environments=self.environments,
            iterations=self.iterations,
        )  # fmt: skip
        return written(
            train_bundle(
                config, self.output, resume=self.resume, threads=self.threads,
                command=_command_line(),
            )
        )  # fmt: skip


class TrainReach(TrainReinforcement):
    """Train an arm to bring its hand to a target, by reinforcement learning (PPO).

    Example: robot-policies train arm-reach/ppo --output runs/reach --seed 0

    Killed, it goes on with --resume. sim/tasks/README.md explains the tasks, and how to bring
    your own robot.
    """

    task = "arm-reach"


class TrainPush(TrainReinforcement):
    """Train an arm to push a box to a goal, by reinforcement learning (PPO).

    Example: robot-policies train arm-push/ppo --output runs/push --seed 0

    Killed, it goes on with --resume. sim/tasks/README.md explains the tasks, and how to bring
    your own robot.
    """

    task = "arm-push"


class TrainHover(TrainReinforcement):
    """Train a quadrotor to hold a position, by reinforcement learning (PPO).

    Example: robot-policies train quadrotor/ppo --output runs/hover --seed 0

    Killed, it goes on with --resume. sim/tasks/README.md explains the tasks, and how to bring
    your own robot.
    """

    task = "quadrotor"


@dataclass(frozen=True)
class TrainImitation:
    """Train a policy that predicts chunks of actions, on demonstrations, in one run folder.

    Example: robot-policies train imitation --dataset data/pick-place --family energy \\
        --output runs/energy --seed 0

    The data set is one of `robot-policies collect`, or any in LeRobotDataset's v3 layout. Killed,
    it goes on with --resume. The folder holds the configuration, metrics.jsonl, TensorBoard's
    events, checkpoints, and at the end the bundle. robot_policies/models/README.md explains the
    families.
    """

    output: Path
    """The run's folder; a new one, but for --resume."""
    dataset: Path
    """The folder of the demonstrations."""
    family: Literal["energy", "diffusion", "flow", "cloning"]
    """How a chunk is made: by descent of an energy, by denoising, along a flow, or at once."""
    seed: int
    """Of weights, noise and of which episodes are held out."""
    resume: bool = False
    """Go on with the run in this folder, which must have the same configuration."""
    config: Path | None = None
    """YAML with all of the configuration, such as another run's config.yaml (but what is given
    here counts); the usual one where omitted."""
    interface: Path | None = None
    """YAML that says what the numbers of a data set from elsewhere mean, as
    config/interface_example.yaml explains."""
    objective: Literal["matching", "ebt"] | None = None
    """Of the energy: matching (where omitted) keeps several modes, ebt is the published one."""
    backbone: Literal["transformer", "unet"] | None = None
    """Of diffusion and flow: transformer where omitted."""
    steps: int | None = None
    """Of the optimiser."""
    execution_steps: int | None = None
    """How many steps of a chunk are executed before the next one is made."""
    evaluate_every: int | None = None
    """Steps between short evaluations in the task that the data set was collected in."""
    threads: int = 1
    """Of torch."""
    json: Json = False

    def run(self) -> Outcome:
        """Train; the bundle is written last."""
        from sim.imitation import configure, train_bundle

        given = (self.config, self.interface)
        require_files("a YAML file", [path for path in given if path is not None])
        names = ("interface", "objective", "backbone", "steps", "execution_steps")
        chosen = {name: getattr(self, name) for name in (*names, "evaluate_every")}
        config = configure(self.dataset, self.family, self.seed, self.config, **chosen)
        return written(
            train_bundle(
                config, self.output, resume=self.resume, threads=self.threads,
                command=_command_line(),
            )
        )  # fmt: skip


@dataclass(frozen=True)
class Train:
    """Train a policy in simulation: everything from nothing to a bundle, in one run folder.

    Example: robot-policies train arm-reach/ppo --output runs/reach --seed 0
    """

    task: (
        Annotated[TrainQuadrotor, tyro.conf.subcommand("quadrotor/foundation")]
        | Annotated[TrainReach, tyro.conf.subcommand("arm-reach/ppo")]
        | Annotated[TrainPush, tyro.conf.subcommand("arm-push/ppo")]
        | Annotated[TrainHover, tyro.conf.subcommand("quadrotor/ppo")]
        | Annotated[TrainImitation, tyro.conf.subcommand("imitation")]
    )

    @property
    def json(self) -> bool:
        """As the chosen task says."""
        return self.task.json

    def run(self) -> Outcome:
        """Run the chosen training."""
        return self.task.run()


def _given_seed(command: TrainQuadrotor | TrainReinforcement) -> int:
    if command.seed is None:
        raise UsageError("--seed: expected a number, found none; runs differ by it")
    return command.seed


def _sweep(task: str, command: TrainQuadrotor | TrainReinforcement) -> Outcome:
    """Train what a grid asks for; exit 1 where a run fails."""
    from robot_policies.tables import text_table
    from sim.sweeps import Options, sweep

    assert command.sweep is not None
    require_files("a YAML file", [command.sweep])
    theirs = [name for name in vars(command) if name not in OF_SWEEPS]
    require_default(command, theirs, "with --sweep, whose file says it (base:)")
    options = Options(
        task, command.sweep, command.output, executor=command.executor, shard=command.shard,
        workers=command.workers, command=_command_line(),
    )  # fmt: skip
    summary = sweep(options)
    code = PASS if summary.ok else GATE_FAILED
    return Outcome(code, summary.document(), [text_table(*summary.table()), *summary.failures()])


def _command_line() -> str:
    return shlex.join(["robot-policies", *sys.argv[1:]])


def _require_compiler() -> None:
    from robot_policies.doctor import COMPILER_MEND, find_compiler

    if find_compiler() is None:
        raise UsageError(f"train: expected a C++ compiler, found none; {COMPILER_MEND}")
