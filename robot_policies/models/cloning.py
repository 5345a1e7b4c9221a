"""Behaviour cloning: the chunk that is nearest to the demonstrated ones on the mean, at once."""

from __future__ import annotations

import torch
from torch import Tensor

from robot_policies.contract import Sampler
from robot_policies.models.chunk import ChunkPolicy, mean_square
from robot_policies.models.trunk import Sizes, Trunk


class CloningPolicy(ChunkPolicy):
    """The trunk, on a sample of zeros. The baseline: where demonstrations differ, their mean."""

    columns = ()

    def __init__(self, sizes: Sizes, execution_steps: int) -> None:
        """See ChunkPolicy."""
        super().__init__(sizes, execution_steps)
        self.trunk = Trunk(sizes)

    def look(self, seen: Tensor) -> tuple[Tensor, Tensor]:
        """See ChunkPolicy."""
        return self.trunk.encode(seen)

    def predict(self, observation: Tensor) -> tuple[Tensor, Tensor]:
        """The sample [B, Tp, Da] and the feature [B, F]."""
        context, feature = self.look(self.seen(observation))
        sizes = self.sizes
        empty = torch.zeros(1, sizes.prediction_steps, sizes.action_size)
        return self.trunk(empty.expand(observation.shape[0], -1, -1), context), feature

    def forward(self, observation: Tensor) -> tuple[Tensor, Tensor]:
        """The direct form: observation [B, To, Do] -> action [B, Ta, Da], feature [B, F]."""
        sample, feature = self.predict(observation)
        return self.action(sample, self.base(observation)), feature

    def refine(
        self, context: Tensor, sample: Tensor, schedule: Tensor, fresh: Tensor | None
    ) -> tuple[Tensor, ...]:
        """There is nothing to refine."""
        raise NotImplementedError("behaviour cloning: call forward")

    def loss(self, observation: Tensor, actions: Tensor, valid: Tensor) -> Tensor:
        """Mean square error of the normalised chunk."""
        target = self.normalised(actions, observation)
        return mean_square(self.predict(observation)[0] - target, valid)

    def samplers(self) -> tuple[Sampler, ...]:
        """None: the direct form."""
        return ()
