"""The command robot-policies: every subcommand is a frozen dataclass, and imports late.

Exit codes: 0 pass, 1 a gate fails, 2 usage or bad input, 3 contract refused, 70 internal error,
130 interrupted, 141 nobody reads the output any more.
Standard output carries the result (with --json ONE document), standard error all the rest.
"""

from __future__ import annotations

import json
import os
import shlex
import sys
import traceback
import warnings
from collections.abc import Iterable, Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Protocol

import tyro
from tyro.conf import FlagCreatePairsOff, OmitArgPrefixes, OmitSubcommandPrefixes, Positional, arg

from robot_policies.strict import ContractError, InputError, Violation

if TYPE_CHECKING:
    from rich.console import RenderableType

    from robot_policies.bundle import PolicyBundle
    from robot_policies.verify import Report

PASS, GATE_FAILED, BAD_INPUT, REFUSED, INTERNAL = 0, 1, 2, 3, 70
INTERRUPTED, NOBODY_READS = 130, 141
EXTRAS = {
    "cryptography": "sign", "mcap": "logs", "mcap_ros2": "logs", "matplotlib": "logs",
    "ray": "ray", "gymnasium": "sac", "stable_baselines3": "sac", "l2f": "l2f",
}  # fmt: skip
"""Which extra brings a package, where it is not the one that trains and exports."""
DEBUG = "ROBOT_POLICIES_DEBUG"


@dataclass(frozen=True)
class Outcome:
    """What a subcommand ends with."""

    code: int
    document: Mapping[str, Any]
    """What --json prints."""
    shown: Sequence[RenderableType]
    """What a person reads."""


class Command(Protocol):
    """A subcommand: its fields are its arguments."""

    @property
    def json(self) -> bool:
        """Print one JSON document instead of text."""
        ...

    def run(self) -> Outcome:
        """Do it."""
        ...


Json = Annotated[bool, arg(help="Print one JSON document on standard output.")]
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
Replace = Annotated[bool, arg(help="Exchange an existing bundle for the new one.")]


@dataclass(frozen=True)
class ImportRaptor:
    """Make a bundle of the RAPTOR quadrotor policy in the installed package foundation-policy.

    Example: robot-policies import raptor
    """

    output: Path = Path("zoo:raptor")
    """The bundle's directory, or zoo:NAME in your own zoo."""
    replace: Replace = False
    json: Json = False

    def run(self) -> Outcome:
        """Import, and check against the authors' own numbers."""
        from robot_policies.importers.raptor import import_raptor

        return _written(import_raptor(self.output, replace=self.replace))


@dataclass(frozen=True)
class ImportOnnx:
    """Make a bundle of any ONNX policy and a YAML file that names its signals.

    Example: robot-policies import onnx walk.onnx --signals walk.yaml --output bundles/walk

    The file config/import_example.yaml explains every key; nothing is assumed in its place.
    """

    model: Positional[Path]
    """The ONNX file; weights beside it are taken in."""
    signals: Path
    """YAML: the contract's sections, and `graph`, which maps the model's inputs and outputs."""
    output: Path
    """The bundle's directory, or zoo:NAME in your own zoo."""
    golden: Path | None = None
    """A run recorded by the framework that trained the policy (npz: observation, action). Without
    it the model itself is recorded, which cannot tell a mistake of its own exporter."""
    replace: Replace = False
    seed: int = 0
    """Of the random observations of the golden run, where --golden gives none."""
    json: Json = False

    def run(self) -> Outcome:
        """Wrap, compare with the original, and write."""
        from robot_policies.importers.onnx_model import import_onnx

        _require_files("an ONNX model", [self.model])
        _require_files("a YAML file", [self.signals])
        _require_files("an npz file", [self.golden] if self.golden else [])
        bundle, notes = import_onnx(
            self.model, self.signals, self.output,
            golden=self.golden, replace=self.replace, seed=self.seed,
        )  # fmt: skip
        return _written(bundle, notes)


@dataclass(frozen=True)
class Import:
    """Make a bundle of a policy that others trained: raptor or onnx."""

    source: (
        Annotated[ImportRaptor, tyro.conf.subcommand("raptor")]
        | Annotated[ImportOnnx, tyro.conf.subcommand("onnx")]
    )

    @property
    def json(self) -> bool:
        """As the chosen source says."""
        return self.source.json

    def run(self) -> Outcome:
        """Run the chosen import."""
        return self.source.run()


@dataclass(frozen=True)
class Export:
    """Make a bundle of a checkpoint that this project trained.

    Example: robot-policies export runs/hover/checkpoint.pt --output bundles/hover
    """

    checkpoint: Positional[Path]
    """What training wrote."""
    output: Path
    """The bundle's directory, or zoo:NAME in your own zoo."""
    replace: Replace = False
    seed: int = 0
    """Of the random observations of the golden run."""
    json: Json = False

    def run(self) -> Outcome:
        """Export, and compare the graph with the network."""
        from robot_policies.export import export_checkpoint

        _require_files("a checkpoint", [self.checkpoint])
        bundle = export_checkpoint(
            self.checkpoint, self.output, replace=self.replace, seed=self.seed
        )
        return _written(bundle)


@dataclass(frozen=True)
class Verify:
    """Check a bundle: files, contract, signature, graph, golden replay and latency.

    Example: robot-policies verify zoo:raptor --trusted-key keys/team.pem
    """

    bundle: Positional[str]
    """A path or zoo:NAME."""
    trusted_key: tuple[Path, ...] = ()
    """ed25519 public keys (PEM); with any, a signature by one of them is demanded."""
    no_latency: bool = False
    """Leave the measurement of latency out."""
    json: Json = False

    def run(self) -> Outcome:
        """Verify; exit 3 where the bundle is refused, 1 where it is only too slow."""
        from robot_policies.signatures import load_public_keys
        from robot_policies.verify import verify

        _require_bundle(self.bundle)
        _require_files("a public key in PEM", self.trusted_key)
        load_public_keys(self.trusted_key)
        report = verify(self.bundle, self.trusted_key, latency=not self.no_latency)
        code = REFUSED if report.refused else PASS if report.ok else GATE_FAILED
        shown = [_checklist(report), *_listed(report.violations)]
        if report.path != report.bundle:
            shown.insert(0, f"{report.bundle} is {report.path}")
        return Outcome(code, report.to_dict(), shown)


@dataclass(frozen=True)
class Sign:
    """Sign a bundle with an ed25519 key (make one: openssl genpkey -algorithm ed25519).

    Example: robot-policies sign bundles/hover --key team-private.pem
    """

    bundle: Positional[str]
    """A path or zoo:NAME."""
    key: Path
    """The private key in PEM."""
    json: Json = False

    def run(self) -> Outcome:
        """Verify that the bundle loads, then sign it."""
        from robot_policies.bundle import sign
        from robot_policies.runtime import load_policy

        _require_bundle(self.bundle)
        _require_files("a private key in PEM", [self.key])
        load_policy(self.bundle)
        path = sign(self.bundle, self.key)
        return Outcome(PASS, {"signature": str(path)}, [f"signed: {path}"])


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
        _require_no_shard(self)
        from sim.quadrotor.foundation import configure, train_bundle

        given = [path for path in (self.config, self.ranges) if path is not None]
        _require_files("a YAML file", given)
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
        return _written(
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
    randomization: Path | None = None
    """YAML with what is randomised, as config/randomization_example.yaml explains."""
    robot: Path | None = None
    """YAML with a robot of your own, as config/arm_example.yaml explains."""
    environments: int | None = None
    """How many are simulated at once."""
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
        _require_no_shard(self)
        from sim.reinforcement import configure, train_bundle

        given = (self.config, self.randomization, self.robot)
        _require_files("a YAML file", [path for path in given if path is not None])
        config = configure(
            self.task, _given_seed(self), engine=self.engine, file=self.config,
            randomization=self.randomization, robot=self.robot, environments=self.environments,
        )  # fmt: skip
        return _written(
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
class Train:
    """Train a policy in simulation: everything from nothing to a bundle, in one run folder.

    Example: robot-policies train arm-reach/ppo --output runs/reach --seed 0
    """

    task: (
        Annotated[TrainQuadrotor, tyro.conf.subcommand("quadrotor/foundation")]
        | Annotated[TrainReach, tyro.conf.subcommand("arm-reach/ppo")]
        | Annotated[TrainPush, tyro.conf.subcommand("arm-push/ppo")]
        | Annotated[TrainHover, tyro.conf.subcommand("quadrotor/ppo")]
    )

    @property
    def json(self) -> bool:
        """As the chosen task says."""
        return self.task.json

    def run(self) -> Outcome:
        """Run the chosen training."""
        return self.task.run()


@dataclass(frozen=True)
class RaptorProtocol:
    """Without --engine: quadrotors in RAPTOR's protocol."""

    protocol: Literal["raptor"] = "raptor"
    """raptor: 500 steps of 10 ms from a start within 0.5 m, as in arXiv 2509.11481."""
    quadrotors: int | None = None
    """How many are sampled for each seed (128 where omitted)."""
    seeds: tuple[int, ...] = (0, 1)
    """One set of quadrotors for each."""
    cases: tuple[str, ...] = ("nominal",)
    """What disturbs the flights; alone, list them."""
    airframes: str = "sampled"
    """sampled; standard: six known models; or a YAML file with your own, as
    config/airframe_example.yaml explains. Known ones fly without limits on position and
    velocity, and without a constant force: for them nominal is calm."""
    trajectory: Literal["hold", "langevin", "figure-eight", "waypoints"] = "hold"
    """Where to be; errors, rewards and limits count from there."""
    simulator: Literal["torch", "l2f"] = "torch"
    """l2f: the RAPTOR authors' own."""
    l2f_python: Path | None = None
    """A Python with l2f, numpy, onnxruntime and pyyaml; this one where omitted."""


@dataclass(frozen=True)
class TaskEpisodes:
    """With --engine: episodes of a task, whose parameters may be randomised."""

    engine: Literal["mujoco", "genesis", "torch"] | None = None
    """mujoco or genesis for the arms, torch for the quadrotor."""
    randomization: Path | None = None
    """YAML with what is randomised, as config/randomization_example.yaml explains."""
    robot: Path | None = None
    """YAML with a robot of your own, as config/arm_example.yaml explains."""
    environments: int = 250
    """Simulated at once. With the seed it decides what is drawn for an episode."""
    interval: Literal["wilson", "exact"] = "wilson"
    """Of the success rate; exact is Clopper and Pearson's."""
    worst_by: Literal["final_distance", "return"] = "final_distance"
    """What makes an episode a bad one."""
    worst: int = 10
    """How many of the worst episodes are listed, with what goes with them."""
    pictures: tuple[int, ...] = ()
    """Episodes to plot, for every bundle."""
    videos: tuple[int, ...] = ()
    """Episodes to film, for every bundle; of an arm, with MUJOCO_GL=egl where no screen is."""
    threads: int = 1
    """Of the engine."""


@dataclass(frozen=True)
class Evaluate:
    """Run bundles side by side in simulation, with the same robots, starts and disturbances.

    Example: robot-policies evaluate zoo:raptor bundles/mine --cases nominal delay10 --output out

    Example: robot-policies evaluate bundles/reach --task arm-reach --engine mujoco

    `robot-policies evaluate --cases` lists the cases of the first kind. Every figure comes with
    its 95 % interval, and with its paired difference from the first bundle's.
    """

    bundles: Positional[tuple[str, ...]] = ()
    """Paths or zoo:NAME; give them before the options."""
    task: Literal["quadrotor", "arm-reach", "arm-push"] = "quadrotor"
    episodes: int | None = None
    """Flights of each quadrotor (8 where omitted), or episodes of a task (1000)."""
    output: Path | None = None
    """A new folder for result.json, plots and one HTML page; of a task also episodes.parquet."""
    seed: int = 0
    """Of the bootstrap, of policies that draw noise, and of all that a task draws."""
    flights: RaptorProtocol = RaptorProtocol()
    in_task: TaskEpisodes = TaskEpisodes()
    json: Json = False

    def run(self) -> Outcome:
        """Simulate; exit 3 where a bundle is refused or does not fit the task."""
        if not self.flights.cases:
            return _list_cases()
        for bundle in self.bundles:
            _require_bundle(bundle)
        if self.output is not None and self.output.exists():
            raise UsageError(f"{self.output}: expected no such folder yet; give a new name")
        if self.in_task.engine is not None:
            _require_default("--engine", self.flights, RaptorProtocol())
            return _evaluate_in_task(self)
        if self.task != "quadrotor":
            raise UsageError(f"--engine: expected what simulates {self.task}, found none")
        _require_default("the protocol of RAPTOR; add --engine", self.in_task, TaskEpisodes())
        return _evaluate_flights(self)


def _list_cases() -> Outcome:
    from sim.evaluate import CASES

    listed = [(name, case.description) for name, case in CASES.items()]
    return Outcome(PASS, dict(listed), [_table(("case", ""), listed)])


def _require_default(chosen: str, found: Any, default: Any) -> None:
    """Refuse options of the other kind of evaluation."""
    for entry in fields(found):
        if (value := getattr(found, entry.name)) != getattr(default, entry.name):
            option = f"--{entry.name.replace('_', '-')}"
            raise UsageError(f"{option}: expected none with {chosen}; found {value}")


def _evaluate_flights(command: Evaluate) -> Outcome:
    from sim.evaluate import CASES, Options, run, table, text_table

    flights = {k: v for k, v in vars(command.flights).items() if k != "protocol"}
    if command.episodes is not None:
        flights["episodes"] = command.episodes
    options = Options(command.bundles, seed=command.seed, **flights)
    evaluation = run(options)
    shown: list[RenderableType] = []
    for case in options.cases:
        shown += [
            f"{case}: {CASES[case].description}",
            text_table(*table(evaluation, case)),
            "",
        ]
    if command.output is not None:
        from sim.evaluate_page import write

        write(evaluation, command.output)
        shown.append(f"wrote {command.output / 'index.html'}")
    return Outcome(PASS, evaluation.document(), shown)


def _evaluate_in_task(command: Evaluate) -> Outcome:
    from sim.evaluate import text_table
    from sim.tasks.evaluation import (
        Options,
        correlation_table,
        remarks,
        run,
        table,
        worst_table,
    )

    given = {} if command.episodes is None else {"episodes": command.episodes}
    options = Options(
        command.bundles, command.task, output=command.output, seed=command.seed,
        **vars(command.in_task), **given,
    )  # fmt: skip
    evaluation = run(options)
    shown: list[RenderableType] = [text_table(*table(evaluation)), *remarks(evaluation)]
    for bundle in options.bundles:
        headings, rows = correlation_table(evaluation, bundle)
        if rows:
            shown += ["", f"{bundle}: what goes with bad episodes", text_table(headings, rows)]
        shown += ["", f"{bundle}: the worst", text_table(*worst_table(evaluation, bundle))]
    if command.output is not None:
        shown.append(f"wrote {command.output / 'index.html'}")
    return Outcome(PASS, evaluation.document(), shown)


@dataclass(frozen=True)
class Doctor:
    """Look at this machine: versions, compiler, threads, clock, real-time rights, clashes, ROS.

    Example: robot-policies doctor --json
    """

    json: Json = False

    def run(self) -> Outcome:
        """Examine; exit 1 where something will not work."""
        from robot_policies.doctor import examine

        findings = examine()
        failed = any(finding.status == "fail" for finding in findings)
        document = {"ok": not failed, "findings": [vars(finding) for finding in findings]}
        rows = [(f.name, f.status, f.found, f.mend) for f in findings]
        table = _table(("finding", "", "found", "how to mend"), rows)
        return Outcome(GATE_FAILED if failed else PASS, document, [table])


Subcommand = (
    Annotated[Import, tyro.conf.subcommand("import")]
    | Annotated[Export, tyro.conf.subcommand("export")]
    | Annotated[Verify, tyro.conf.subcommand("verify")]
    | Annotated[Sign, tyro.conf.subcommand("sign")]
    | Annotated[Train, tyro.conf.subcommand("train")]
    | Annotated[Evaluate, tyro.conf.subcommand("evaluate")]
    | Annotated[Doctor, tyro.conf.subcommand("doctor")]
)


class UsageError(ValueError):
    """An argument that cannot be meant."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    command: Command = tyro.cli(
        Subcommand,  # type: ignore[arg-type]
        prog="robot-policies",
        description="Make, check and sign bundles of robot policies.",
        args=arguments,
        config=(OmitSubcommandPrefixes, OmitArgPrefixes, FlagCreatePairsOff),
    )
    failed = False
    try:
        with redirect_stdout(sys.stderr), warnings.catch_warnings():
            # Warnings of libraries tell users nothing that they could mend.
            warnings.simplefilter("default" if DEBUG in os.environ else "ignore")
            outcome = command.run()
    except (Exception, KeyboardInterrupt) as error:
        outcome, failed = _failure(error), True
    try:
        if command.json:
            print(json.dumps(outcome.document, indent=1, default=str), flush=True)
        else:
            _show(outcome.shown, to_stderr=failed)
    except BrokenPipeError:
        # What is still in the buffer would fail once more when Python ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return NOBODY_READS
    return outcome.code


def _failure(error: BaseException) -> Outcome:
    """Say what went wrong in words; the traceback is for those who ask for it."""
    if DEBUG in os.environ:
        traceback.print_exception(error)
    if isinstance(error, ContractError):
        listed = {"violations": [vars(violation) for violation in error.violations]}
        code = BAD_INPUT if isinstance(error, InputError) else REFUSED
        return Outcome(code, {"ok": False} | listed, _listed(error.violations))
    if isinstance(error, KeyboardInterrupt):
        return _error(INTERRUPTED, "interrupted")
    if isinstance(error, ModuleNotFoundError):
        if error.name is None:
            return _error(BAD_INPUT, str(error))
        extra = EXTRAS.get(error.name.split(".")[0], "train")
        mend = f"pip install '.[{extra}]' in the checkout"
        return _error(BAD_INPUT, f"the package {error.name} is not installed; {mend}")
    # FloatingPointError: a training run that diverged.
    if isinstance(error, OSError | ValueError | FloatingPointError):
        return _error(BAD_INPUT, str(error))
    text = " ".join(f"{type(error).__name__}: {error}".split())[:300]
    ask = f"report it with `robot-policies doctor --json` and what {DEBUG}=1 prints"
    return _error(INTERNAL, f"internal error: {text}; {ask}, to the maintainers (setup.py)")


def _error(code: int, text: str) -> Outcome:
    return Outcome(code, {"ok": False, "error": text}, [f"error: {text}"])


def _show(items: Sequence[RenderableType], to_stderr: bool) -> None:
    from rich.console import Console

    class PlainConsole(Console):
        def on_broken_pipe(self) -> None:  # rich itself would end with the code of a failed gate
            raise BrokenPipeError

    # Without emoji: ":x:" in a name is what it is.
    console = PlainConsole(stderr=to_stderr, highlight=False, soft_wrap=True, emoji=False)
    for item in items:
        console.print(item, markup=False)


def _written(bundle: PolicyBundle, notes: Sequence[str] = ()) -> Outcome:
    """Say where the bundle is and how well its graph replays the record."""
    from robot_policies.runtime import OnnxPolicy

    difference = OnnxPolicy(bundle).replay(bundle.golden)[1]
    steps = len(bundle.golden.reset)
    document = {
        "ok": True,
        "bundle": str(bundle.path),
        "sha256": bundle.contract.sha256(),
        "golden_steps": steps,
        "max_difference": difference,
        "tolerance": bundle.contract.tolerance,
        "notes": list(notes),
    }
    text = f"wrote {bundle.path} ({steps} golden steps replay within {difference:.2g})"
    return Outcome(PASS, document, [text, *(f"note: {note}" for note in notes)])


def _require_files(kind: str, paths: Iterable[Path]) -> None:
    for path in paths:
        if not path.is_file():
            found = "a directory" if path.is_dir() else "nothing"
            raise UsageError(f"{path}: expected {kind}, found {found}; correct the path")


def _given_seed(command: TrainQuadrotor | TrainReinforcement) -> int:
    if command.seed is None:
        raise UsageError("--seed: expected a number, found none; runs differ by it")
    return command.seed


def _require_no_shard(command: TrainQuadrotor | TrainReinforcement) -> None:
    if command.executor == "shard" or command.shard is not None:
        raise UsageError("--executor shard and --shard: expected a --sweep to share; found none")


def _sweep(task: str, command: TrainQuadrotor | TrainReinforcement) -> Outcome:
    """Train what a grid asks for; exit 1 where a run fails."""
    from sim.evaluate import text_table
    from sim.sweeps import Options, sweep

    assert command.sweep is not None
    _require_files("a YAML file", [command.sweep])
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


def _require_bundle(name: str) -> None:
    from robot_policies.bundle import zoo_names

    if name.startswith("zoo:"):
        if name not in zoo_names():
            known = ", ".join(zoo_names()) or "an empty zoo"
            mend = "`robot-policies import raptor` makes zoo:raptor"
            raise UsageError(f"{name}: no such bundle, found {known}; {mend}")
    elif not Path(name).is_dir():
        raise UsageError(f"{name}: expected a bundle's directory or zoo:NAME; correct the path")


_STYLES = {"ok": "green", "warn": "yellow", "not run": "yellow", "fail": "red", "failed": "red"}


def _checklist(report: Report) -> RenderableType:
    rows = [
        (check.name, check.status, "  ".join(map(_figure, check.figures.items())))
        for check in report.checks
    ]
    return _table((report.bundle, "", "measured"), rows)


def _figure(item: tuple[str, object]) -> str:
    name, value = item
    if name == "reason":
        return str(value)
    if not isinstance(value, float):
        return f"{name} {value}"
    return f"{name[:-2]} {value * 1e3:.3g} ms" if name.endswith("_s") else f"{name} {value:.3g}"


def _table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> RenderableType:
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False)
    for column in columns:
        table.add_column(Text(column), overflow="fold")
    for row in rows:
        table.add_row(*(Text(cell, style=_STYLES.get(cell, "")) for cell in row))
    return table


def _listed(violations: Iterable[Violation]) -> list[RenderableType]:
    return [f"- {violation}" for violation in violations]


if __name__ == "__main__":
    sys.exit(main())
