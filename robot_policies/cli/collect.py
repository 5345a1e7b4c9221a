"""collect: demonstrations of a task by a scripted expert, as a data set."""

from __future__ import annotations

import shlex
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from tyro.conf import Positional

from robot_policies.cli.command import PASS, Json, Outcome, require_files

if TYPE_CHECKING:
    from robot_policies.datasets import Dataset
    from sim.demonstrations import Tally

OF_THE_CALL = ("--resume", "--json")
"""Options that say nothing of the data set: its record is the same with and without them."""


@dataclass(frozen=True)
class Collect:
    """Let a scripted expert do a task, and keep its successes as a data set (LeRobotDataset v3.0).

    Example: robot-policies collect arm-push --episodes 200 --output data/push --seed 0

    Killed, it goes on with --resume, to the same data set. The expert of arm-push goes about the
    left or the right, by chance; sim/tasks/README.md explains the tasks.
    """

    task: Positional[str]
    """arm-push, arm-reach or meta-world/NAME."""
    episodes: int
    """How many to keep."""
    output: Path
    """The data set's folder; a new one, but for --resume."""
    seed: int
    """Of starts, randomisation and the expert."""
    resume: bool = False
    """Go on with the collection in this folder, which must have the same configuration."""
    engine: Literal["mujoco", "genesis"] = "mujoco"
    environments: int = 25
    """Simulated at once. With the seed it decides what is drawn for an episode."""
    randomization: Path | None = None
    """YAML with what is randomised, as config/randomization_example.yaml explains."""
    robot: Path | None = None
    """YAML with a robot of your own, as config/arm_example.yaml explains."""
    keep: Literal["successes", "all"] = "successes"
    """all: what the expert failed in, too."""
    json: Json = False

    def run(self) -> Outcome:
        """Collect; the folder is a data set once all episodes are there."""
        given = [path for path in (self.randomization, self.robot) if path is not None]
        require_files("a YAML file", given)
        from sim.demonstrations import CollectConfig, collect, tally

        config = CollectConfig(
            self.task, self.episodes, self.seed, self.engine, self.environments,
            self.randomization, self.robot, self.keep,
        )  # fmt: skip
        began = time.monotonic()
        dataset = collect(config, self.output, resume=self.resume, command=_command_line())
        return _outcome(dataset, tally(self.output), time.monotonic() - began)


def _outcome(dataset: Dataset, counted: Tally, seconds: float) -> Outcome:
    episodes, rows = len(dataset.starts) - 1, int(dataset.starts[-1])
    document = {
        "ok": True,
        "dataset": str(dataset.path),
        "sha256": dataset.sha256,
        "episodes": episodes,
        "attempts": counted.attempts,
        "failures": counted.failures,
        "mean_steps": rows / episodes,
        "disturbed_share": float(dataset.values["disturbed"].mean()),
        "seconds": round(seconds, 1),
    }
    text = (
        f"wrote {dataset.path}: {episodes} episodes, on average of {rows / episodes:.1f} steps "
        f"({rows / episodes / dataset.fps:.2f} s), {document['disturbed_share']:.1%} of them "
        f"disturbed; the expert failed in {counted.failures} of {counted.attempts} attempts; "
        f"{seconds:.1f} s"
    )
    return Outcome(PASS, document, [text, f"sha256 {dataset.sha256}"])


def _command_line() -> str:
    arguments = [argument for argument in sys.argv[1:] if argument not in OF_THE_CALL]
    return shlex.join(["robot-policies", *arguments])
