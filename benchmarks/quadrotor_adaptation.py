"""What a foundation policy knows of the quadrotor that it flies: its hidden state, in a picture.

Nobody tells the policy the airframe. Two experiments show where it keeps what it found out:

    probe     a ridge regression from the 16 hidden numbers to log(thrust / weight), fitted on the
              quadrotors of one set and judged on another one's (R2), for several times after the
              start; a policy that does not identify its quadrotor stays near 0
    payload   one quadrotor whose mass grows by --payload after 2 s: hidden state, height, motors,
              and the probe's thrust / weight

    python benchmarks/quadrotor_adaptation.py zoo:quadrotor --output adaptation.png
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import tyro

from sim.evaluate import load
from sim.quadrotor import airframes as frames
from sim.quadrotor import scenario
from sim.quadrotor.disturbances import Disturbances
from sim.quadrotor.dynamics import PROTOCOL_DT, State, hover_state
from sim.quadrotor.evaluation import EPISODE_STEPS, evaluate
from sim.quadrotor.scenario import Scenario

TIMES = (0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 4.0)
"""s after the start."""
RIDGE = 1e-3
PAYLOAD_STEP = 200


@dataclass(frozen=True)
class Arguments:
    """What flies, and where the picture goes."""

    bundle: Annotated[str, tyro.conf.Positional]
    """A path or zoo:NAME."""
    output: Path
    """A PNG file."""
    airframe: str = "x500_real"
    """Which standard quadrotor gets the payload."""
    payload: float = 0.3
    """Of its mass."""
    quadrotors: int = 512
    """In each of the two sets."""
    seeds: tuple[int, int] = (7003, 7004)
    """To fit and to judge."""


class Watched:
    """A policy whose hidden states are kept."""

    def __init__(self, bundle: str) -> None:
        self._policy = load(bundle)
        self.hidden: list[np.ndarray] = []

    def reset(self, batch: int, seed: int, initial: Mapping[str, np.ndarray]) -> None:
        """Start anew, and forget."""
        self.hidden.clear()
        self._policy.reset(batch=batch, seed=seed, initial=initial)

    def step(self, signals: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """As the policy."""
        command = self._policy.step(signals)
        self.hidden.append(self._policy.last.feature.reshape(len(signals["position_error"]), -1))
        return command

    @property
    def last(self) -> Any:
        """As the policy's."""
        return self._policy.last


@dataclass(frozen=True)
class Probe:
    """A linear reading of the hidden state."""

    mean: np.ndarray
    slope: np.ndarray
    offset: float

    def __call__(self, hidden: np.ndarray) -> np.ndarray:
        """log(thrust / weight) of hidden states [..., 16]."""
        return (hidden - self.mean) @ self.slope + self.offset


def fit(hidden: np.ndarray, target: np.ndarray) -> Probe:
    """Ridge regression, of hidden [N, 16] and target [N]."""
    mean, offset = hidden.mean(axis=0), float(target.mean())
    x = hidden - mean
    gram = x.T @ x / len(x) + RIDGE * np.eye(x.shape[1])
    return Probe(mean, np.linalg.solve(gram, x.T @ (target - offset) / len(x)), offset)


def r_squared(found: np.ndarray, target: np.ndarray) -> float:
    """Share of the variance that is explained."""
    return 1 - float(((found - target) ** 2).mean() / target.var())


def main(arguments: Arguments) -> None:
    torch.set_num_threads(1)
    policy = Watched(arguments.bundle)
    fitted, judged = (_hover(policy, arguments.quadrotors, seed) for seed in arguments.seeds)
    probes = [fit(fitted[0][round(t / PROTOCOL_DT) - 1], fitted[1]) for t in TIMES]
    explained = [
        r_squared(probe(judged[0][round(t / PROTOCOL_DT) - 1]), judged[1])
        for t, probe in zip(TIMES, probes, strict=True)
    ]
    print(
        f"{arguments.bundle}: log(thrust / weight) read from the hidden state, "
        f"{arguments.quadrotors} quadrotors each to fit and to judge (seeds {arguments.seeds}), "
        "no force"
    )
    for t, value in zip(TIMES, explained, strict=True):
        print(f"  {t:5.2f} s after the start: R2 {value:.3f}")
    _plot(arguments, explained, *_payload(policy, arguments), probes[-2])


def _hover(policy: Watched, count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Hidden states [T, M, 16] of the quadrotors that stay up, and log(thrust / weight) [M]."""
    flights = scenario.sample(count, 1, seed, with_force=False, position_range=0.5)
    result = evaluate(policy, flights)
    kept = result.survived[:, 0]
    ratio = flights.airframes.thrust_to_weight.numpy()
    return np.stack(policy.hidden)[:, kept], np.log(ratio[kept])


def _payload(policy: Watched, arguments: Arguments) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Hidden states [T, 16], height [T] (m) and mean rotor speed [T], with the payload."""
    fleet = frames.standard(arguments.airframe)
    heights: list[float] = []
    speeds: list[float] = []

    def watch(state: State, error: State, alive: torch.Tensor) -> None:
        heights.append(float(error.position[2]))
        speeds.append(float(state.rotor_speed.mean()))

    evaluate(
        policy,
        Scenario(fleet, hover_state(fleet), torch.zeros(3, 1), episodes=1),
        disturbances=Disturbances(payload_factor=1 + arguments.payload, payload_step=PAYLOAD_STEP),
        watch=watch,
    )
    return np.stack(policy.hidden)[:, 0], np.array(heights[1:]), np.array(speeds[1:])


def _plot(
    arguments: Arguments, explained: list[float], hidden: np.ndarray, height: np.ndarray,
    speed: np.ndarray, probe: Probe,
) -> None:  # fmt: skip
    from matplotlib import pyplot

    t = PROTOCOL_DT * np.arange(1, EPISODE_STEPS + 1)
    figure, axes = pyplot.subplots(2, 2, figsize=(11, 6.4), layout="constrained")
    axes[0, 0].plot(t, hidden, linewidth=1)
    axes[0, 0].set(title="hidden state", xlabel="s")
    axes[0, 1].plot(t, 100 * height, label="height error, cm")
    axes[0, 1].plot(t, 100 * speed, label="mean rotor speed, %")
    axes[0, 1].set(
        xlabel="s", title=f"{arguments.airframe}, +{100 * arguments.payload:.0f} % mass"
    )
    axes[0, 1].legend()
    ratio = float(frames.standard(arguments.airframe).thrust_to_weight[0])
    truth = np.where(np.arange(len(t)) < PAYLOAD_STEP, ratio, ratio / (1 + arguments.payload))
    axes[1, 0].plot(t, np.exp(probe(hidden)), label="read from the hidden state")
    axes[1, 0].plot(t, truth, "k--", label="true")
    axes[1, 0].set(xlabel="s", title="thrust / weight")
    axes[1, 0].legend()
    axes[1, 1].semilogx(TIMES, explained, marker="o")
    axes[1, 1].set(
        xlabel="s after the start", ylim=(min(0, *explained), 1),
        title="R2 of the reading, unseen quadrotors",
    )  # fmt: skip
    for axis in axes.flat:
        axis.grid(alpha=0.3)
    for axis in (axes[0, 0], axes[0, 1], axes[1, 0]):
        axis.axvline(PAYLOAD_STEP * PROTOCOL_DT, color="k", alpha=0.3)
    figure.savefig(arguments.output, dpi=130)
    print(f"plot: {arguments.output}")


if __name__ == "__main__":
    main(tyro.cli(Arguments, description=__doc__))
