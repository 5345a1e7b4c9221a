"""Does the robot still do what it did when the policy was calibrated? Two channels, online.

    monitor = Monitor(bundle)                      # of a bundle that `calibrate` made
    command = policy.act(signals)
    alarm = monitor.update(policy.last.ood_score, signals, command)      # every control step
    alarm.channel                                  # "", "states" or "dynamics"

states     the distance of the policy's feature from those it was calibrated with, which its graph
           gives, smoothed over some steps
dynamics   what a model of how signals follow from signals and commands does not explain, summed
           up as long as it is more than usual (robot_policies.dynamics; CUSUM, Page, 1954)

A channel alarms above its threshold, which no more than half of alpha of the calibrated kind of
episodes reach at any time: a limit of false alarms for an episode, not for a step. An alarm stays
until `reset`. Numpy only.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from robot_policies.bundle import CALIBRATION, PolicyBundle
from robot_policies.contract import Contract
from robot_policies.dynamics import Dynamics
from robot_policies.strict import ContractError, Violation

STATES, DYNAMICS = "states", "dynamics"
SMOOTHING = 0.1
"""Share of the newest score in the smoothed one."""
SLACK, MOST = 1.0, 5.0
"""Standard deviations above the usual residual that are not summed up, and the most that is: one
blow is no other robot."""


@dataclass(frozen=True)
class Alarm:
    """What the monitor says of a step."""

    channel: str
    """Which channel alarmed, "" for none; it stays."""
    levels: dict[str, float]
    """Channel -> how high it is, 1 at the threshold."""


class Monitor:
    """Watches one robot."""

    def __init__(self, bundle: PolicyBundle) -> None:
        """Raises ContractError for a bundle that is not calibrated."""
        contract = bundle.contract
        if contract.calibration is None or CALIBRATION not in bundle.content:
            name = contract.name
            mend = "calibrate it: robot-policies calibrate"
            raise ContractError([Violation(name, "a calibrated bundle", "none", mend)])
        self._signals, self._commands = names(contract)
        inputs, outputs = sizes(contract)
        content = bundle.content[CALIBRATION]
        self._dynamics = Dynamics.from_bytes(content, inputs, outputs, CALIBRATION)
        self._thresholds = contract.calibration.thresholds
        self.reset()

    def reset(self) -> None:
        """A new episode: nothing is remembered."""
        self._smooth, self._sum = 0.0, 0.0
        self._before: np.ndarray | None = None
        self._channel = ""

    def update(
        self, score: float, signals: Mapping[str, np.ndarray], command: Mapping[str, np.ndarray]
    ) -> Alarm:
        """Take a control step.

        Args:
            score: of the policy's newest feature.
            signals: what the policy was told, [*shape] or [1, *shape].
            command: what was sent to the robot, likewise.
        """
        after = joined(signals, self._signals)
        self._smooth += SMOOTHING * (score - self._smooth)
        if self._before is not None:
            more = float(self._dynamics.residual(self._before, after))
            self._sum = summed(self._sum, more)
        self._before = np.concatenate([after, joined(command, self._commands)])
        found = {STATES: self._smooth, DYNAMICS: self._sum}
        levels = {name: value / self._thresholds[name] for name, value in found.items()}
        if not self._channel:
            self._channel = next((name for name, level in levels.items() if not level <= 1), "")
        return Alarm(self._channel, levels)


def names(contract: Contract) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The signals that are watched, and the commands, in order."""
    signals = tuple(signal.name for signal in contract.observation if signal.source == "robot")
    return signals, tuple(action.name for action in contract.action)


def sizes(contract: Contract) -> tuple[int, int]:
    """Di of signals and commands, Do of signals."""
    signals = sum(len(s.elements) for s in contract.observation if s.source == "robot")
    return signals + contract.action_size, signals


def joined(values: Mapping[str, np.ndarray], order: tuple[str, ...]) -> np.ndarray:
    """[D] of one robot, in this order."""
    return np.concatenate([np.asarray(values[name], float).reshape(-1) for name in order])


def summed(level: float, residual: float) -> float:
    """The sum after one more residual."""
    return max(0.0, level + min(residual, MOST) - SLACK)


def levels(scores: np.ndarray, residuals: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Both channels over an episode [T], as `Monitor` has them; residuals are [T - 1]."""
    smooth, sums = np.zeros(len(scores)), np.zeros(len(scores))
    level = total = 0.0
    for step, score in enumerate(scores):
        level += SMOOTHING * (score - level)
        if step:
            total = summed(total, residuals[step - 1])
        smooth[step], sums[step] = level, total
    return smooth, sums
