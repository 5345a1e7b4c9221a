"""The networks that training flies with, as functions of columns: tensors are (feature, N).

Weights come as tuples of tensors, so that a compiled step takes them like any other input. Every
raw action is in -1..1 where it means something: (a + 1) / 2 is a normalised rotor speed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor

from robot_policies.models.foundation import FoundationPolicy

Weights = tuple[Tensor, ...]

STUDENT_SIZES = {"observation_size": 22, "hidden_size": 16, "action_size": 4}
"""RAPTOR's student: 2,084 parameters (arXiv 2509.11481)."""
TEACHER_HIDDEN = 64
TEACHER_OBSERVATION_SIZE = 26
"""p, R, v, omega, previous raw action, rotor speed."""
CONDITIONED_SIZE = TEACHER_OBSERVATION_SIZE + 8 + 11
"""Also the two actions on their way, and what environment.describe tells."""


def student_weights(policy: FoundationPolicy) -> Weights:
    """The policy's parameters in the order that `student` takes, as views.

    Biases are columns, and so is the learned initial memory, the last one.
    """
    encoder, memory, head = policy.encoder, policy.memory, policy.head
    return (
        encoder.weight, encoder.bias[:, None],
        memory.weight_ih, memory.bias_ih[:, None], memory.weight_hh, memory.bias_hh[:, None],
        head.weight, head.bias[:, None], policy.initial_state[:, None],
    )  # fmt: skip


def student(weights: Weights, observation: Tensor, memory: Tensor) -> tuple[Tensor, Tensor]:
    """One step of the recurrent student, the same as FoundationPolicy.forward.

    observation [22, N], memory [16, N]; returns the raw action [4, N] and the new memory.
    """
    encoder, encoder_bias, inner, inner_bias, recurrent, recurrent_bias, head, bias, _ = weights
    size = memory.shape[0]
    encoded = torch.relu(torch.addmm(encoder_bias, encoder, observation))
    seen = torch.addmm(inner_bias, inner, encoded)
    kept = torch.addmm(recurrent_bias, recurrent, memory)
    seen_reset, seen_update, seen_new = seen.split(size)
    kept_reset, kept_update, kept_new = kept.split(size)
    reset = torch.sigmoid(seen_reset + kept_reset)
    update = torch.sigmoid(seen_update + kept_update)
    # tanh(x): that function itself takes the compiled loop three times as long as a sigmoid
    candidate = 2 * torch.sigmoid(2 * (seen_new + reset * kept_new)) - 1
    memory = candidate + update * (memory - candidate)
    return torch.addmm(bias, head, memory), memory


def make_teachers(count: int, inputs: int, seed: int) -> Weights:
    """Fresh weights of `count` independent teachers inputs-64-64-4, stacked along the first axis.

    Shapes [count, out, in] and [count, out, 1], in the order of `teachers`; uniform in
    +-1/sqrt(in), the last layer ten times smaller so that a new teacher begins near hover.
    """
    generator = torch.Generator().manual_seed(seed)
    sizes = (inputs, TEACHER_HIDDEN, TEACHER_HIDDEN, 4)
    weights: list[Tensor] = []
    for fan_in, fan_out in pairwise(sizes):
        bound = (0.1 if fan_out == 4 else 1) / math.sqrt(fan_in)
        for columns in (fan_in, 1):
            draw = torch.rand(count, fan_out, columns, generator=generator)
            weights.append((2 * draw - 1) * bound)
    return tuple(weights)


def teachers(weights: Weights, observation: Tensor) -> Tensor:
    """Raw actions [4, N] of M stacked teachers, each flying N / M neighbouring columns."""
    w0, b0, w1, b1, w2, b2 = weights
    count, rows = w0.shape[0], observation.shape[0]
    if count == 1:
        hidden = torch.relu(torch.addmm(b0[0], w0[0], observation))
        hidden = torch.relu(torch.addmm(b1[0], w1[0], hidden))
        return torch.tanh(torch.addmm(b2[0], w2[0], hidden))
    columns = observation.reshape(rows, count, -1).transpose(0, 1)
    hidden = torch.relu(torch.baddbmm(b0, w0, columns))
    hidden = torch.relu(torch.baddbmm(b1, w1, hidden))
    action = torch.tanh(torch.baddbmm(b2, w2, hidden))
    return action.transpose(0, 1).reshape(4, -1)


def trainable(weights: Sequence[Tensor]) -> Weights:
    """Copies that collect gradients."""
    return tuple(w.detach().clone().requires_grad_() for w in weights)
