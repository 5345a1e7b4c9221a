"""Energy-based policies: a chunk is refined by the gradient of a scalar that the network computes.

    E(o, x) = 1/2 |x|^2 - <x, f(o, x)>,    dE/dx = x - f - J^T x

with f the trunk and J its Jacobian with respect to x, by the trunk's vector-Jacobian product.

Two objectives train the same network:

matching  the gradient at x = (1 - s) y + s z is to point from the demonstrated y to x, for every
          noise z and level s: energy (equilibrium) matching, arXiv 2510.02300. Keeps several
          modes, and needs no unrolling.
ebt       noise is refined for a few steps, and the last is to end at y: the objective of
          EBT-Policy's published code (arXiv 2510.27545), with truncated unrolling, Langevin noise
          and random step sizes, but without its momentum and its factor exp(E). The noise tells
          nothing of y, so that the best answer to it is the mean of all y: it cannot keep modes.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from robot_policies.contract import ENERGY, GRADIENT_NORM, Sampler
from robot_policies.models.chunk import ChunkPolicy, mean_square
from robot_policies.models.trunk import Sizes, Trunk

Objective = Literal["matching", "ebt"]
EBT_STEPS = (2, 4)
"""Fewest and most steps of an unrolled refinement; published: 6 to 10, at three times the cost."""
EBT_STEP_SPREAD = 1.5
"""Step sizes are drawn between 1 / this and this."""
EBT_LANGEVIN = (0.2, 0.002)
"""Standard deviation of the noise before the first and the last step of the refinement."""
MOST_STEPS = 20
STOP_BELOW = 0.02
"""Root mean square of the gradient: less moves an action by a fiftieth of its deviation."""


class EnergyPolicy(ChunkPolicy):
    """See the module. The gradient norm that it tells is a root mean square over Tp and Da."""

    columns = ("step_size",)
    told = (ENERGY, GRADIENT_NORM)

    def __init__(
        self, sizes: Sizes, execution_steps: int, objective: Objective = "matching"
    ) -> None:
        """The objective decides the loss and the samplers, not the network."""
        super().__init__(sizes, execution_steps)
        self.objective = objective
        self.trunk = Trunk(sizes)

    def look(self, seen: Tensor) -> tuple[Tensor, Tensor]:
        """See ChunkPolicy."""
        return self.trunk.encode(seen)

    def energy(self, context: Tensor, sample: Tensor) -> tuple[Tensor, Tensor]:
        """The energy [B] and its gradient [B, Tp, Da]."""
        output, pull = self.trunk.with_pull(sample, context)
        energy = (sample * (0.5 * sample - output)).flatten(1).sum(1)
        return energy, sample - output - pull(sample)

    def refine(
        self, context: Tensor, sample: Tensor, schedule: Tensor, fresh: Tensor | None = None
    ) -> tuple[Tensor, ...]:
        """A step of gradient descent; energy and gradient norm are those before it."""
        energy, gradient = self.energy(context, sample)
        norm = gradient.square().flatten(1).mean(1).sqrt()
        return sample - schedule.unsqueeze(-1) * gradient, energy, norm

    def loss(self, observation: Tensor, actions: Tensor, valid: Tensor) -> Tensor:
        """See the module."""
        context, _ = self.look(self.seen(observation))
        target = self.normalised(actions, observation)
        if self.objective == "ebt":
            return self._unrolled_loss(context, target, valid)
        level = torch.rand(len(target), 1, 1)
        sample = target + level * (torch.randn_like(target) - target)
        _, gradient = self.energy(context, sample)
        return mean_square(sample - gradient - target, valid)

    def _unrolled_loss(self, context: Tensor, target: Tensor, valid: Tensor) -> Tensor:
        fewest, most = EBT_STEPS
        steps = int(torch.randint(fewest, most + 1, ()))
        size = EBT_STEP_SPREAD ** (2 * torch.rand(len(target), 1, 1) - 1)
        first, last = EBT_LANGEVIN
        sample = torch.randn_like(target)
        for number in range(steps):
            share = 0.5 * (1 + torch.cos(torch.tensor(torch.pi * number / max(steps - 1, 1))))
            sample = sample + (last + (first - last) * share) * torch.randn_like(sample)
            # Truncated: only the last step is differentiated through.
            sample = sample.detach()
            with torch.set_grad_enabled(number == steps - 1):
                sample = sample - size * self.energy(context, sample)[1]
        return mean_square(sample - target, valid)

    def samplers(self) -> tuple[Sampler, ...]:
        """Two and four steps, two with the score of what came out, and as many as it takes.

        All of size 1, with which a step ends where the network takes the demonstrated chunk to be.
        """
        plans = {"two-steps": (1.0,) * 2, "four-steps": (1.0,) * 4, "scored": (1.0, 1.0, 0.0)}
        fixed = (Sampler(n, tuple((s,) for s in p), False, None) for n, p in plans.items())
        return (*fixed, Sampler("adaptive", ((1.0,),) * MOST_STEPS, False, STOP_BELOW))
