"""An actor from reinforcement learning: feed-forward, recurrent, or told what its memory infers.

The normaliser is part of the network: what leaves it cannot forget it. Source of the third form:
RMA, "Rapid Motor Adaptation for Legged Robots", arXiv 2107.04034, with a recurrent network in
place of its convolutions, as in Sim2Rec, arXiv 2305.04832.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class ActorPolicy(nn.Module):
    """Normaliser -> [GRU] -> layers with ELUs -> action.

    memory 0               feed-forward
    memory H, context 0    the layers see the memory [B, H] alone
    memory H, context C    the layers see the observation, and C numbers inferred from the memory:
                           what of the robot matters for its control
    """

    mean: Tensor
    scale: Tensor

    def __init__(
        self, observation_size: int, action_size: int, hidden: Sequence[int], memory: int,
        context: int,
    ) -> None:  # fmt: skip
        """Create the layers (sizes: Do, Da, widths of the layers, H, C)."""
        super().__init__()
        if not hidden or (context and not memory):
            expected = "one hidden layer or more, and a memory where there is a context"
            raise ValueError(f"actor: expected {expected}; found {hidden}, {memory}, {context}")
        self.register_buffer("mean", torch.zeros(observation_size))
        self.register_buffer("scale", torch.ones(observation_size))
        self.memory = nn.GRUCell(observation_size, memory) if memory else None
        self.context = nn.Linear(memory, context) if context else None
        seen = memory if memory and not context else observation_size + context
        self.body = layers(seen, hidden)
        self.head = nn.Linear(hidden[-1], action_size)

    def forward(self, observation: Tensor, state: Tensor | None = None) -> tuple[Tensor, ...]:
        """Take observation [B, 1, Do] and, with a memory, state [B, H].

        Returns action [B, 1, Da], the new state, and the feature [B, F] for out-of-distribution
        scores: the last hidden layer.
        """
        seen = self.normalise(observation[:, 0])
        if state is None:
            action, feature = self.decide(seen, None)
            return action.unsqueeze(1), feature
        state, inferred = self.infer(seen, state)
        action, feature = self.decide(seen, inferred)
        return action.unsqueeze(1), state, feature

    def normalise(self, observation: Tensor) -> Tensor:
        """As the network sees it, [B, Do]."""
        return (observation - self.mean) * self.scale

    def infer(self, seen: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """Of seen [B, Do] and state [B, H]: the new state, and the context (or the state)."""
        assert self.memory is not None
        state = self.memory(seen, state)
        return state, state if self.context is None else self.context(state)

    def decide(self, seen: Tensor, inferred: Tensor | None) -> tuple[Tensor, Tensor]:
        """Action [B, Da] and feature [B, F]."""
        if self.context is not None and inferred is not None:
            seen = torch.cat([seen, inferred], dim=1)
        elif inferred is not None:
            seen = inferred
        feature = self.body(seen)
        return self.head(feature), feature


def layers(inputs: int, widths: Sequence[int]) -> nn.Sequential:
    """Linear layers, each with an ELU behind it."""
    modules: list[nn.Module] = []
    for width, following in zip((inputs, *widths[:-1]), widths, strict=True):
        modules += [nn.Linear(width, following), nn.ELU()]
    return nn.Sequential(*modules)
