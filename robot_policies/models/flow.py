"""Flow matching: a chunk is carried from noise along a learned velocity (arXiv 2210.02747)."""

from __future__ import annotations

import torch
from torch import Tensor

from robot_policies.contract import Sampler
from robot_policies.models.chunk import mean_square
from robot_policies.models.diffusion import TimedPolicy


class FlowPolicy(TimedPolicy):
    """Straight paths from noise (time 0) to the demonstrated chunk (time 1), by Euler's steps."""

    columns = ("time", "step_size")

    def refine(
        self, context: Tensor, sample: Tensor, schedule: Tensor, fresh: Tensor | None = None
    ) -> tuple[Tensor, ...]:
        """One step along the velocity."""
        velocity = self.predict(context, sample, schedule[:, :1])
        return (sample + schedule[:, 1:].unsqueeze(-1) * velocity,)

    def loss(self, observation: Tensor, actions: Tensor, valid: Tensor) -> Tensor:
        """Mean square error of the velocity, at a random time."""
        context, _ = self.look(self.seen(observation))
        target = self.normalised(actions, observation)
        noise, time = torch.randn_like(target), torch.rand(len(target), 1)
        sample = noise + time.unsqueeze(-1) * (target - noise)
        return mean_square(self.predict(context, sample, time) - (target - noise), valid)

    def samplers(self) -> tuple[Sampler, ...]:
        """With 2, 1 and 4 steps."""
        return tuple(
            Sampler(
                f"flow-{steps}", tuple((k / steps, 1 / steps) for k in range(steps)), False, None
            )
            for steps in (2, 1, 4)
        )
