"""What policies that predict chunks of actions have in common.

A sample [B, Tp, Da] is a chunk, normalised. Its first step is for the newest observation, so that
the first Ta steps are executed:

    observed      -1   0                     To = 2 control steps, the newest is 0
    predicted          0  1  2  3  4 ... 11  Tp = 12, the sample
    executed           0  1  2  3            Ta = 4, the action; then a new chunk

The normalisers are buffers of the network: what leaves it cannot forget them. Actions may be
learned relative to what is measured, such as commanded to measured joint positions: their range
is smaller by much, and so are the errors. What the network gives is absolute all the same.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from robot_policies.contract import FRESH, GRADIENT_NORM, SAMPLE, Sampler
from robot_policies.models.trunk import Sizes

SAMPLE_STD = 1.0
"""Standard deviation of the demonstrated actions, normalised, where that of the noise is 1. Mapped
to -1 to 1 instead, as is common, actions that are mostly small drown in the noise: rare large
ones set the range."""


class ChunkPolicy(nn.Module, ABC):
    """Encodes an observation, and refines a sample by it; a subclass says how.

    The buffers `observation_mean` and `observation_scale` [Do], `action_mean` and `action_scale`
    [Da] map to and from normalised numbers, `sample_low` and `sample_high` [Da] are the data's
    limits of a sample, and `reference` [Do, Da] chooses what actions are relative to; see
    `normalise_by`.
    """

    columns: ClassVar[tuple[str, ...]]
    """R names of what `refine` is told of a step."""
    told: ClassVar[tuple[str, ...]] = ()
    """What `refine` gives beside the next sample, [B] each, in this order."""
    takes_fresh_noise: ClassVar[bool] = False
    """`refine` has an input for noise."""

    observation_mean: Tensor
    observation_scale: Tensor
    action_mean: Tensor
    action_scale: Tensor
    sample_low: Tensor
    sample_high: Tensor
    reference: Tensor

    def __init__(self, sizes: Sizes, execution_steps: int) -> None:
        """Ta, from 1 to Tp. Raises ValueError for another."""
        super().__init__()
        if not 1 <= execution_steps <= sizes.prediction_steps:
            expected = f"from 1 to Tp = {sizes.prediction_steps} executed steps"
            raise ValueError(f"chunk: expected {expected}; found {execution_steps}")
        self.sizes, self.execution_steps = sizes, execution_steps
        self.register_buffer("observation_mean", torch.zeros(sizes.observation_size))
        self.register_buffer("observation_scale", torch.ones(sizes.observation_size))
        for name, value in (("mean", 0.0), ("scale", 1.0)):
            self.register_buffer(f"action_{name}", torch.full((sizes.action_size,), value))
        for name, value in (("low", -1.0), ("high", 1.0)):
            self.register_buffer(f"sample_{name}", torch.full((sizes.action_size,), value))
        nothing = torch.zeros(sizes.observation_size, sizes.action_size)
        self.register_buffer("reference", nothing)

    @property
    def shape(self) -> tuple[int, int]:
        """(Tp, Da)."""
        return self.sizes.prediction_steps, self.sizes.action_size

    @abstractmethod
    def look(self, seen: Tensor) -> tuple[Tensor, Tensor]:
        """Normalised observation [B, To, Do] -> context [B, C], feature [B, F]."""

    @abstractmethod
    def refine(
        self, context: Tensor, sample: Tensor, schedule: Tensor, fresh: Tensor | None
    ) -> tuple[Tensor, ...]:
        """Next sample [B, Tp, Da] and what is `told` [B], by a row of a schedule [B, R].

        The context is that of `look`.
        """

    @abstractmethod
    def loss(self, observation: Tensor, actions: Tensor, valid: Tensor) -> Tensor:
        """Of observations [B, To, Do] and chunks [B, Tp, Da] of demonstrations, as measured.

        valid  [B, Tp] 1 for the steps of a chunk that count, else 0
        """

    @abstractmethod
    def samplers(self) -> tuple[Sampler, ...]:
        """The ways from noise to a chunk; the first is what a bundle uses unless asked."""

    def encode(self, observation: Tensor) -> tuple[Tensor, Tensor]:
        """Observation [B, To, Do] as measured -> what refining needs [B, C + Da], feature [B, F].

        That is the context, and what the actions are relative to.
        """
        context, feature = self.look(self.seen(observation))
        return torch.cat([context, self.base(observation)], dim=1), feature

    def step(
        self, encoded: Tensor, sample: Tensor, schedule: Tensor, fresh: Tensor | None
    ) -> tuple[Tensor, ...]:
        """Refine once: next sample, its action [B, Ta, Da], and what is told."""
        context, base = encoded[:, : -self.shape[1]], encoded[:, -self.shape[1] :]
        following, *told = self.refine(context, sample, schedule, fresh)
        return (following, self.action(following, base), *told)

    def normalise_by(self, observations: Tensor, actions: Tensor) -> None:
        """Standardise by the data: observations [N, Do], and actions [M, Da] less their reference.

        Observations get the standard deviation 1, actions that of SAMPLE_STD. A number that never
        changes in the data tells nothing, and is ignored; an action that never changes is always
        given.
        """
        mean, std = _mean_and_std(observations)
        self.observation_mean.copy_(mean)
        self.observation_scale.copy_(torch.where(std > 0, 1 / std, 0.0))
        mean, std = _mean_and_std(actions)
        self.action_mean.copy_(mean)
        self.action_scale.copy_(std / SAMPLE_STD)
        divisor = torch.where(std > 0, self.action_scale, 1.0)
        self.sample_low.copy_((actions.amin(0) - mean) / divisor)
        self.sample_high.copy_((actions.amax(0) - mean) / divisor)

    def seen(self, observation: Tensor) -> Tensor:
        """Observation [B, To, Do] as measured -> normalised."""
        return (observation - self.observation_mean) * self.observation_scale

    def measured(self, seen: Tensor) -> Tensor:
        """The inverse of `seen`; of a number that never changed in the data, its value there."""
        told = self.observation_scale != 0
        divisor = torch.where(told, self.observation_scale, 1.0)
        return torch.where(told, seen / divisor, 0.0) + self.observation_mean

    def base(self, observation: Tensor) -> Tensor:
        """What the actions after an observation [B, To, Do] are relative to, [B, Da]; else 0."""
        return observation[:, -1] @ self.reference

    def normalised(self, actions: Tensor, observation: Tensor) -> Tensor:
        """Actions [B, Tp, Da] in their unit, after an observation [B, To, Do] -> a sample."""
        divisor = torch.where(self.action_scale > 0, self.action_scale, 1.0)
        relative = actions - self.base(observation).unsqueeze(1)
        return (relative - self.action_mean) / divisor

    def action(self, sample: Tensor, base: Tensor) -> Tensor:
        """A sample, and what it is relative to [B, Da] -> executed actions [B, Ta, Da]."""
        relative = sample[:, : self.execution_steps] * self.action_scale + self.action_mean
        return relative + base.unsqueeze(1)

    @torch.no_grad()
    def generate(self, observation: Tensor, sampler: Sampler, noise: Sequence[Tensor]) -> Chunk:
        """What the runtime does with the exported graphs, in torch.

        noise  of the sample [B, Tp, Da], and where the sampler asks for it [B, K, Tp, Da]
        """
        encoded, _ = self.encode(observation)
        sample, iterations = noise[0], torch.zeros(len(observation), dtype=torch.long)
        running = torch.ones(len(observation), dtype=torch.bool)
        action = torch.zeros(len(observation), self.execution_steps, self.shape[1])
        told = {name: torch.zeros(len(observation)) for name in self.told}
        for number, row in enumerate(sampler.schedule):
            schedule = torch.tensor(row).expand(len(observation), -1)
            fresh = noise[1][:, number] if sampler.fresh_noise else torch.zeros_like(sample)
            following, reached, *found = self.step(
                encoded, sample, schedule, fresh if self.takes_fresh_noise else None
            )
            for name, value in zip(self.told, found, strict=True):
                told[name] = torch.where(running, value, told[name])
            if number > 0 and sampler.stop_below is not None:
                running = running & (told[GRADIENT_NORM] >= sampler.stop_below)
            sample = torch.where(running[:, None, None], following, sample)
            action = torch.where(running[:, None, None], reached, action)
            iterations += running
        return Chunk(sample, action, told, iterations)

    def noise_for(
        self, sampler: Sampler, batch: int, generator: torch.Generator
    ) -> tuple[Tensor, ...]:
        """The noise that `generate` takes for B chunks."""
        shapes: dict[str, tuple[int, ...]] = {SAMPLE: self.shape}
        if sampler.fresh_noise:
            shapes[FRESH] = (len(sampler.schedule), *self.shape)
        return tuple(torch.randn(batch, *s, generator=generator) for s in shapes.values())


@dataclass(frozen=True)
class Chunk:
    """What `ChunkPolicy.generate` gives."""

    sample: Tensor
    """[B, Tp, Da] normalised."""
    action: Tensor
    """[B, Ta, Da] in the actions' unit."""
    told: dict[str, Tensor]
    """[B] each, of the sample that the last step began with."""
    iterations: Tensor
    """[B] steps that changed the sample."""


def _mean_and_std(values: Tensor) -> tuple[Tensor, Tensor]:
    """[W] of [N, W], in double precision; exactly 0 for what never changes but by rounding."""
    mean, std = values.double().mean(0), values.double().std(0, correction=0)
    constant = std < 1e-6 * mean.abs().clamp(min=1.0)
    return mean.float(), torch.where(constant, 0.0, std).float()


def mean_square(error: Tensor, valid: Tensor) -> Tensor:
    """Of errors [B, Tp, Da] in the valid steps [B, Tp]."""
    return (error.square().mean(-1) * valid).sum() / valid.sum().clamp(min=1)


HIGHEST_FREQUENCY = 100.0
"""rad per unit of time: two levels of 100 are a radian apart at most, and no strangers."""


class TimeEmbedding(nn.Module):
    """A time from 0 to 1 as sines and cosines, through two layers."""

    frequencies: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        half = width // 2
        frequencies = torch.exp(torch.linspace(0, math.log(HIGHEST_FREQUENCY), half))
        self.register_buffer("frequencies", frequencies, persistent=False)
        self.layers = nn.Sequential(nn.Linear(2 * half, width), nn.SiLU(), nn.Linear(width, width))

    def forward(self, time: Tensor) -> Tensor:
        """[B, 1] -> [B, d]."""
        angle = time * self.frequencies
        return self.layers(torch.cat([angle.sin(), angle.cos()], dim=1))
