"""evaluate: bundles side by side, in flights of RAPTOR's protocol or in episodes of a task."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from tyro.conf import Positional

from robot_policies.cli.command import (
    PASS,
    Json,
    Outcome,
    UsageError,
    require_bundle,
    require_default,
    rich_table,
)

if TYPE_CHECKING:
    from rich.console import RenderableType


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
    """mujoco or genesis for the arms, mujoco for meta-world/*, torch for the quadrotor."""
    device: Literal["cpu", "gpu"] = "cpu"
    """Where the engine runs: gpu with genesis only."""
    randomization: Path | None = None
    """YAML with what is randomised, as config/randomization_example.yaml explains; for
    meta-world/* there are config/perturbations_*.yaml."""
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

    Example: robot-policies evaluate runs/energy/bundle runs/diffusion/bundle@ddpm-100 \\
        --task meta-world/pick-place --engine mujoco --episodes 100

    `robot-policies evaluate --cases` lists the cases of the first kind. Every figure comes with
    its 95 % interval, and with its paired difference from the first bundle's.
    """

    bundles: Positional[tuple[str, ...]] = ()
    """Paths or zoo:NAME; in a task also BUNDLE@SAMPLER. Give them before the options."""
    task: Literal[
        "quadrotor", "arm-reach", "arm-push", "meta-world/pick-place", "meta-world/push",
        "meta-world/assembly", "meta-world/peg-insert-side", "meta-world/disassemble",
        "meta-world/stick-pull", "meta-world/bin-picking", "meta-world/basketball",
    ] = "quadrotor"  # fmt: skip
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
        from robot_policies.runtime import split_sampler

        in_task = self.in_task.engine is not None
        for bundle in self.bundles:
            require_bundle(split_sampler(bundle)[0] if in_task else bundle)
        if self.output is not None and self.output.exists():
            raise UsageError(f"{self.output}: expected no such folder yet; give a new name")
        if self.in_task.engine is not None:
            require_default(self.flights, vars(self.flights), "with --engine")
            return _evaluate_in_task(self)
        if self.task != "quadrotor":
            raise UsageError(f"--engine: expected what simulates {self.task}, found none")
        why = "with the protocol of RAPTOR; add --engine"
        require_default(self.in_task, vars(self.in_task), why)
        return _evaluate_flights(self)


def _list_cases() -> Outcome:
    from sim.evaluate import CASES

    listed = [(name, case.description) for name, case in CASES.items()]
    return Outcome(PASS, dict(listed), [rich_table(("case", ""), listed)])


def _evaluate_flights(command: Evaluate) -> Outcome:
    from robot_policies.tables import text_table
    from sim.evaluate import CASES, Options, run, table

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
    from robot_policies.tables import text_table
    from sim.tasks.evaluation import (
        Options,
        correlation_table,
        remarks,
        run,
        table,
        worst_table,
    )

    given = dict(vars(command.in_task))
    if command.episodes is not None:
        given["episodes"] = command.episodes
    options = Options(
        command.bundles, command.task, output=command.output, seed=command.seed, **given
    )
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
