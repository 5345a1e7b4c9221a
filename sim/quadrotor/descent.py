"""Gradient descent that survives a kill: SOAP, warm-up, cosine, moving average, checkpoints."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from robot_policies.strict import require
from sim.parallel import average, rank, share
from sim.quadrotor.environment import Flights
from sim.quadrotor.networks import Weights, trainable
from sim.quadrotor.soap import Soap

GRADIENT_NORM = 1.0
WARM_UP = 20
CHECKPOINT_S = 60.0
LOG_EVERY = 10
MOST_REFUSED = 20


@dataclass(frozen=True)
class Horizon:
    """What one horizon of flights says, beyond its loss."""

    reward: float
    """Mean per step of the flights that go on, times the steps of an episode."""
    survival: float
    """Share of flights that an episode would keep, from how many ended in this horizon."""
    error: float
    """m, median distance from the target over flights older than 2.5 s; nan without any."""


@dataclass(frozen=True)
class Schedule:
    """How long and how fast a stage learns."""

    iterations: int
    horizon: int
    """Steps of 10 ms that gradients flow back through."""
    learning_rate: float
    final_learning_rate: float
    average: float
    """Decay of the moving average of the weights, whose last value is the result."""

    def __post_init__(self) -> None:
        """Refuse what no stage can have."""
        final, first = self.final_learning_rate, self.learning_rate
        require(
            "schedule",
            (self.iterations >= 1, "iterations", "at least 1", self.iterations),
            (self.horizon >= 1, "horizon", "at least 1", self.horizon),
            (0 <= final <= first, "final_learning_rate", f"from 0 to {first}", final),
            (0 <= self.average < 1, "average", "from 0 to below 1", self.average),
        )

    def rate(self, iteration: int) -> float:
        """Linear warm-up, then half a cosine."""
        warm = min(1.0, (iteration + 1) / WARM_UP)
        wave = 0.5 * (1 + math.cos(math.pi * iteration / self.iterations))
        low, high = self.final_learning_rate, self.learning_rate
        return warm * (low + (high - low) * wave)


Objective = Callable[[Weights, int], tuple[Tensor, Horizon]]
"""(weights, iteration) -> loss and what the horizon showed."""


class Journal(Protocol):
    """Where a stage is written down; sim.runs.Run is one."""

    def finished(self, stage: str) -> Mapping[str, Any] | None:
        """What `finish` stored; None while the stage is not finished."""
        ...

    def finish(self, stage: str, payload: Mapping[str, Any]) -> None:
        """Store what a stage made."""
        ...

    def load(self, stage: str) -> tuple[int, Mapping[str, Any]] | None:
        """(step, payload) of the last checkpoint, or None."""
        ...

    def save(self, stage: str, step: int, payload: Mapping[str, Any]) -> None:
        """Store a checkpoint."""
        ...

    def log(self, stage: str, step: int, metrics: Mapping[str, float]) -> None:
        """Write figures down."""
        ...

    def progress(self, stage: str, total: int, start: int = 0) -> AbstractContextManager[Any]:
        """Show how far it is: .update(step, metrics)."""
        ...


class Silent:
    """A journal that keeps nothing, for stages that are over soon or are stored elsewhere."""

    def finished(self, stage: str) -> None:
        """Never."""

    def finish(self, stage: str, payload: Mapping[str, Any]) -> None:
        """Nothing."""

    def load(self, stage: str) -> None:
        """Nothing."""

    def save(self, stage: str, step: int, payload: Mapping[str, Any]) -> None:
        """Nothing."""

    def log(self, stage: str, step: int, metrics: Mapping[str, float]) -> None:
        """Nothing."""

    def progress(self, stage: str, total: int, start: int = 0) -> AbstractContextManager[Any]:
        """Nothing is shown."""
        return nullcontext(self)

    def update(self, step: int, metrics: Mapping[str, float] | None = None) -> None:
        """Nothing is shown."""


def descend(
    stage: str, weights: Weights, objective: Objective, flights: Flights, schedule: Schedule,
    journal: Journal, *, stacked: bool = False,
) -> Weights:  # fmt: skip
    """Minimise `objective` from `weights`; returns the moving average of the weights.

    Goes on where the journal's last checkpoint of `stage` was. An iteration whose gradient is not
    finite changes nothing and is counted. Raises FloatingPointError after 20 of them in a row.

    stacked: the first axis of all weights counts independent networks. Each has its own gradient
    norm; one whose gradient is not finite is counted, and stands still alone.

    Of several processes (sim.parallel) each flies its own flights; the first one's journal counts.
    """
    if (result := share(journal.finished(stage))) is not None:
        return tuple(result["weights"])
    state = _State(weights, stacked)
    first = state.load(share(journal.load(stage)), flights)
    with journal.progress(stage, schedule.iterations, first) as bar:
        saved = time.monotonic()
        for iteration in range(first, schedule.iterations):
            loss, seen = objective(state.weights, iteration)
            state.update(loss, schedule, iteration)
            figures = {"return": seen.reward, "survival": seen.survival, "error": seen.error}
            bar.update(iteration + 1, figures)
            if iteration % LOG_EVERY == 0:
                figures |= {"loss": float(loss.detach()), "gradient": state.gradient}
                journal.log(stage, iteration + 1, figures | {"refused": state.refused})
            if time.monotonic() - saved > CHECKPOINT_S:
                journal.save(stage, iteration + 1, state.payload(flights))
                saved = time.monotonic()
    journal.finish(stage, {"weights": list(state.average), "refused": state.refused})
    return state.average


class _State:
    """What a stage changes."""

    def __init__(self, weights: Weights, stacked: bool) -> None:
        self._stacked = stacked
        self.weights = trainable(weights)
        self.average = tuple(w.detach().clone() for w in weights)
        self.refused = 0
        self.gradient = 0.0
        """Norm of the last gradient before it was limited; of several networks the median."""
        self._in_a_row = 0
        self._optimiser = Soap(self.weights)

    def update(self, loss: Tensor, schedule: Schedule, iteration: int) -> None:
        """One step of the optimiser and of the moving average."""
        self._optimiser.zero_grad()
        loss.backward()
        average([w.grad for w in self.weights if w.grad is not None])
        sound = self._clip()
        self.refused += int((~sound).sum())
        if not sound.any():
            self._refuse(iteration)
            return
        self._in_a_row = 0
        for group in self._optimiser.param_groups:
            group["lr"] = schedule.rate(iteration)
        with self._standing_still(~sound):
            self._optimiser.step()
        # Early on the average follows closely, or the first weights would linger.
        share = max(1 - schedule.average, 1 / (iteration + 1))
        with torch.no_grad():
            for mean, weight in zip(self.average, self.weights, strict=True):
                mean.lerp_(weight, share)

    def _clip(self) -> Tensor:
        """Limit the gradient of each network; returns which have a finite one, [networks]."""
        gradients = [w.grad for w in self.weights if w.grad is not None]
        networks = [g.flatten(1) if self._stacked else g.reshape(1, -1) for g in gradients]
        norm = torch.cat(networks, dim=1).norm(dim=1)
        self.gradient = float(norm.median())
        sound = torch.isfinite(norm)
        scale = (GRADIENT_NORM / (norm + 1e-6)).clamp(max=1)
        for gradient in gradients:
            shape = (-1,) + (1,) * (gradient.ndim - 1)
            clipped = gradient * scale.reshape(shape)
            gradient.copy_(torch.where(sound.reshape(shape), clipped, 0))
        return sound

    @contextmanager
    def _standing_still(self, networks: Tensor) -> Iterator[None]:
        """Their momentum would carry them on."""
        before = [w.detach()[networks] for w in self.weights] if networks.any() else []
        yield
        with torch.no_grad():
            for weight, value in zip(self.weights, before, strict=False):
                weight[networks] = value

    def payload(self, flights: Flights) -> dict[str, Any]:
        """A checkpoint."""
        return {
            "weights": [w.detach() for w in self.weights],
            "average": list(self.average),
            "optimiser": self._optimiser.state_dict(),
            "refused": self.refused,
            "flights": flights.state_dict(),
        }

    def load(self, stored: tuple[int, Mapping[str, Any]] | None, flights: Flights) -> int:
        """Take a checkpoint over; returns the next iteration."""
        if stored is None:
            return 0
        iteration, payload = stored
        with torch.no_grad():
            for weight, value in zip(self.weights, payload["weights"], strict=True):
                weight.copy_(value)
        self.average = tuple(payload["average"])
        self._optimiser.load_state_dict(dict(payload["optimiser"]))
        self.refused = payload["refused"]
        if rank() == 0:  # whose flights they are; the others' begin anew
            flights.load_state_dict(payload["flights"])
        return iteration

    def _refuse(self, iteration: int) -> None:
        self._in_a_row += 1
        if self._in_a_row >= MOST_REFUSED:
            raise FloatingPointError(
                f"the gradient was not finite in {MOST_REFUSED} iterations in a row, up to "
                f"iteration {iteration}; the last checkpoint is sound: lower the learning rate "
                "in the configuration and begin a new run"
            )
