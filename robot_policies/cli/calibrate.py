"""calibrate: an online detector and its thresholds, into a bundle."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from tyro.conf import Positional, arg

from robot_policies.cli.command import (
    PASS,
    Json,
    Outcome,
    UsageError,
    require_bundle,
    require_files,
)

if TYPE_CHECKING:
    from robot_policies.bundle import PolicyBundle
    from robot_policies.recordings import Recording


@dataclass(frozen=True)
class Calibrate:
    """Teach a bundle what its own episodes look like, so that it can tell when one does not.

    Example: robot-policies calibrate bundles/reach --task arm-reach --engine mujoco \\
        --output bundles/reach-calibrated --seed 0

    Example: robot-policies calibrate bundles/reach --data good_runs.npz --output ... --seed 0

    The episodes are recorded ones of this policy (--data, an npz file as robot_policies.recordings
    describes), or simulated ones. Of new episodes of the same kind, no more than alpha alarm at
    any time. The less varies in them, the less goes unnoticed: what a robot is randomised with
    here, is what it may become without an alarm.
    """

    bundle: Positional[str]
    """A path or zoo:NAME."""
    output: Annotated[str, arg(metavar="PATH")]
    """The calibrated bundle's directory, or zoo:NAME."""
    seed: int
    """Of the episodes, and of which half of them teaches."""
    data: Path | None = None
    """Recorded episodes, instead of simulated ones."""
    task: str | None = None
    """Where to simulate, as of `evaluate --task`."""
    engine: Literal["mujoco", "genesis", "torch"] | None = None
    randomization: Path | None = None
    """YAML with what is randomised in simulated episodes."""
    episodes: int = 400
    """Simulated ones."""
    alpha: float = 0.05
    """Highest share of episodes with a false alarm."""
    replace: bool = False
    """Exchange an existing bundle."""
    json: Json = False

    def run(self) -> Outcome:
        """Record, calibrate and write."""
        from robot_policies import bundle as bundles
        from robot_policies.calibration import calibrate

        require_bundle(self.bundle)
        found = bundles.read(self.bundle)
        recording = self._recorded(found) if self.data is not None else self._simulated()
        made = calibrate(
            found, recording, self.output, alpha=self.alpha, seed=self.seed, replace=self.replace
        )
        return _outcome(made, len(recording.starts) - 1)

    def _recorded(self, found: PolicyBundle) -> Recording:
        from robot_policies import recordings

        assert self.data is not None
        require_files("an npz file", [self.data])
        return recordings.read(self.data, found.contract)

    def _simulated(self) -> Recording:
        if self.task is None or self.engine is None:
            raise UsageError("--data, or --task and --engine: expected episodes, found none")
        from sim.randomization_terms import Spec, load
        from sim.ranking import Options, record

        options = Options(
            self.task, self.engine, self.seed, behaviour=self.bundle,
            reference_episodes=self.episodes,
        )  # fmt: skip
        return record(
            options, Spec(()) if self.randomization is None else load(self.randomization)
        )


def _outcome(made: PolicyBundle, episodes: int) -> Outcome:
    calibration = made.contract.calibration
    assert calibration is not None
    document: dict[str, Any] = {
        "ok": True, "bundle": str(made.path), "sha256": made.contract.sha256(),
        "episodes": episodes, "calibration": vars(calibration),
    }  # fmt: skip
    levels = ", ".join(
        f"{name} above {level:.3g}" for name, level in calibration.thresholds.items()
    )
    text = f"wrote {made.path}: of {episodes} episodes; alarms at {levels}"
    return Outcome(PASS, document, [text])
