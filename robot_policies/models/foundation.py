"""The recurrent foundation policy: a GRU that identifies the robot while it flies it.

Source: RAPTOR, "A Foundation Policy for Quadrotor Control", arXiv 2509.11481.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class FoundationPolicy(nn.Module):
    """Dense -> GRU -> Dense; 2,084 parameters at RAPTOR's sizes (22, 16, 4).

    The recurrent state is an explicit input and output, and its initial value is learned.
    """

    def __init__(self, observation_size: int, hidden_size: int, action_size: int) -> None:
        """Create the layers (sizes: Do, H, Da)."""
        super().__init__()
        self.encoder = nn.Linear(observation_size, hidden_size)
        self.memory = nn.GRUCell(hidden_size, hidden_size)
        self.head = nn.Linear(hidden_size, action_size)
        self.initial_state = nn.Parameter(torch.zeros(hidden_size))

    def forward(self, observation: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """Take observation [B, 1, Do] and state [B, H]; return action [B, 1, Da] and state [B, H].

        The feature for out-of-distribution scores is the new state.
        """
        encoded = torch.relu(self.encoder(observation[:, 0]))
        state = self.memory(encoded, state)
        return self.head(state).unsqueeze(1), state
