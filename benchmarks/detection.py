"""Measure the online detector: whether it sees another robot, and how often it is wrong.

    python benchmarks/detection.py arm
    python benchmarks/detection.py quadrotor

The zoo's bundle is calibrated on its own episodes on the robot that it was made for, half of which
teach and half of which give the thresholds. Then fresh episodes of that robot, and episodes of
each hidden robot of benchmarks/ranking_robots.py, which differ from the first step on. Of each
channel and of both: the share of episodes with an alarm, at any time on the known robot and within
2 s on the others. Brackets are Clopper-Pearson's 95 % intervals. The smoothing and the slack of
the channels were chosen on the robots to choose by (--choose). Exit code 1 when a goal is missed.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import tyro
from numpy.typing import NDArray
from ranking_robots import EXPERIMENTS, Experiment, Robot

from robot_policies import bundle as bundles
from robot_policies.calibration import calibrate
from robot_policies.monitor import DYNAMICS, STATES, Monitor
from robot_policies.recordings import Recording
from robot_policies.runtime import OnnxPolicy
from robot_policies.tables import text_table
from sim import ranking
from sim.randomization_terms import Spec
from sim.tasks import figures

POLICIES = {"arm": "zoo:arm-reach", "quadrotor": "zoo:quadrotor"}
CALIBRATION_SEED, FRESH_SEED, ROBOT_SEED = 81001, 82001, 83001
WITHIN_S = 2.0
FALSE_ALARMS, LATENCY, ALL = 0.08, 0.9, 0.6
"""Goals."""
LATE = "late"
"""In the name of a robot that has latency."""
CHANNELS = (STATES, DYNAMICS)


@dataclass(frozen=True)
class Options:
    """What to measure."""

    experiment: Annotated[Literal["arm", "quadrotor"], tyro.conf.Positional]
    episodes: int = 200
    """Fresh ones, and of each robot."""
    calibration_episodes: int = 400
    alpha: float = 0.05
    """Of false alarms in an episode."""
    seed: int = 0
    """Of the calibration."""
    choose: bool = False
    """The robots to choose by, instead of the hidden ones."""

    @property
    def about(self) -> Experiment:
        """Task and robots."""
        return EXPERIMENTS[self.experiment]

    @property
    def robots(self) -> Mapping[str, Robot]:
        """To choose by, or to report."""
        return self.about.choosing if self.choose else self.about.hidden


def main(options: Options) -> int:
    """Calibrate, watch, print."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        policy = bundles.read(POLICIES[options.experiment])
        known = fly(options, Robot(), folder, options.calibration_episodes, CALIBRATION_SEED)
        bundle = calibrate(
            policy, known, folder / "calibrated", alpha=options.alpha, seed=options.seed
        )
        print(
            f"{POLICIES[options.experiment]}: {options.calibration_episodes} episodes to "
            f"calibrate, alpha {options.alpha:g}, seed {options.seed}; {options.episodes} of "
            "each robot\n"
        )
        found = dict(measure(options, bundle, folder))
    print(text_table(["robot", *CHANNELS, "either"], [row(n, a) for n, a in found.items()]), "\n")
    return report(options, found)


def measure(
    options: Options, bundle: bundles.PolicyBundle, folder: Path
) -> Iterator[tuple[str, NDArray[np.bool_]]]:
    """Robot -> [E, channel] whether it alarmed in time."""
    fresh = fly(options, Robot(), folder, options.episodes, FRESH_SEED)
    yield KNOWN, alarms(bundle, fresh, None)
    steps = round(WITHIN_S * bundle.contract.timing.control_hz)
    for name, robot in options.robots.items():
        flown = fly(options, robot, folder, options.episodes, ROBOT_SEED)
        yield name, alarms(bundle, flown, steps)


KNOWN = "the robot it was made for"


def fly(
    options: Options, robot: Robot, folder: Path, episodes: int, seed: int
) -> Recording:  # fmt: skip
    """The policy on a robot."""
    about = options.about
    asked = ranking.Options(
        about.task, robot.engine or about.engine, seed,
        robot=about.model(robot.change, folder / "model"),
        behaviour=POLICIES[options.experiment], reference_episodes=episodes,
    )  # fmt: skip
    return ranking.record(asked, Spec(robot.terms))


def alarms(
    bundle: bundles.PolicyBundle, flown: Recording, steps: int | None
) -> NDArray[np.bool_]:  # fmt: skip
    """[E, channel] of each episode, as onboard: step by step."""
    policy, monitor = OnnxPolicy(bundle), Monitor(bundle)
    found = []
    for first, last in zip(flown.starts[:-1], flown.starts[1:], strict=True):
        policy.reset(1)
        monitor.reset()
        highest = dict.fromkeys(CHANNELS, 0.0)
        for i in range(first, last if steps is None else min(last, first + steps)):
            signals = {name: values[i] for name, values in flown.signals.items()}
            command = {name: values[i] for name, values in flown.commands.items()}
            policy.act({name: v[None].astype(np.float32) for name, v in signals.items()})
            assert policy.last.ood_score is not None
            levels = monitor.update(float(policy.last.ood_score[0]), signals, command).levels
            highest = {name: max(highest[name], levels[name]) for name in CHANNELS}
        found.append([highest[name] > 1 for name in CHANNELS])
    return np.array(found)


def row(name: str, alarmed: NDArray[np.bool_]) -> list[str]:
    """Shares with intervals."""
    each = [*alarmed.T, alarmed.any(1)]
    shares = [figures.share(one, "exact") for one in each]
    return [name, *(f"{s.value:.3f} [{s.low:.3f}, {s.high:.3f}]" for s in shares)]


def report(options: Options, found: Mapping[str, NDArray[np.bool_]]) -> int:
    """Whether the goals are met."""
    either = {name: float(alarmed.any(1).mean()) for name, alarmed in found.items()}
    false = either.pop(KNOWN)
    late = {name: share for name, share in either.items() if LATE in name}
    checks = [
        (false <= FALSE_ALARMS, f"false alarms {false:.3f} of episodes <= {FALSE_ALARMS}"),
        (min(late.values()) >= LATENCY, f"{LATE}: {min(late.values()):.3f} or more >= {LATENCY}"),
        (np.mean(list(either.values())) >= ALL,
         f"mean over {len(either)} robots {np.mean(list(either.values())):.3f} >= {ALL}"),
    ]  # fmt: skip
    for met, text in checks:
        print(f"{'met   ' if met else 'missed'} {text}")
    return 0 if all(met for met, _ in checks) else 1


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Options, description=__doc__)))
