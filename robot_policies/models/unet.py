"""Diffusion Policy's one-dimensional U-Net over the steps of a chunk (arXiv 2303.04137).

Convolutions with group normalisation and Mish, each block shifted and scaled by the observation
and the time (FiLM). Larger and slower than the transformer at the same quality on small tasks;
here for those who compare with published results.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from robot_policies.models.trunk import Sizes

GROUPS, KERNEL = 8, 5


class Convolution(nn.Module):
    """Convolution, group normalisation, Mish."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv1d(inputs, outputs, KERNEL, padding=KERNEL // 2),
            nn.GroupNorm(GROUPS, outputs),
            nn.Mish(),
        )

    def forward(self, x: Tensor) -> Tensor:
        """[B, inputs, T] -> [B, outputs, T]."""
        return self.layers(x)


class Residual(nn.Module):
    """Two convolutions, the first scaled and shifted by the condition [B, c]."""

    def __init__(self, inputs: int, outputs: int, condition: int) -> None:
        super().__init__()
        self.first, self.second = Convolution(inputs, outputs), Convolution(outputs, outputs)
        self.film = nn.Sequential(nn.Mish(), nn.Linear(condition, 2 * outputs))
        self.skip = nn.Conv1d(inputs, outputs, 1) if inputs != outputs else nn.Identity()

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        """[B, inputs, T] -> [B, outputs, T]."""
        scale, shift = self.film(condition).unsqueeze(-1).chunk(2, dim=1)
        return self.second(self.first(x) * scale + shift) + self.skip(x)


class UNet(nn.Module):
    """`layers` levels, of widths d, 2 d, 4 d, ...; each but the last halves the steps.

    Same interface as Trunk. The context is the normalised observation itself.
    """

    def __init__(self, sizes: Sizes) -> None:
        """Raises ValueError where Tp cannot be halved as often, or d not shared by the groups."""
        super().__init__()
        halvings = 2 ** (sizes.layers - 1)
        if sizes.prediction_steps % halvings or sizes.width % GROUPS:
            expected = f"Tp a multiple of {halvings}, d of {GROUPS}"
            found = f"{sizes.prediction_steps} and {sizes.width}"
            raise ValueError(f"unet: expected {expected}; found {found}")
        widths = [sizes.width * 2**level for level in range(sizes.layers)]
        condition = sizes.observation_steps * sizes.observation_size + sizes.width
        pairs = list(zip([sizes.action_size, *widths[:-1]], widths, strict=True))
        self.down = nn.ModuleList(_pair(a, b, condition) for a, b in pairs)
        self.downsample = nn.ModuleList(nn.Conv1d(w, w, 3, 2, 1) for w in widths[:-1])
        self.middle = _pair(widths[-1], widths[-1], condition)
        self.up = nn.ModuleList(_pair(2 * b, a, condition) for a, b in reversed(pairs[1:]))
        self.upsample = nn.ModuleList(
            nn.ConvTranspose1d(a, a, 4, 2, 1) for a, _ in reversed(pairs[1:])
        )
        self.head = nn.Sequential(
            Convolution(widths[0], widths[0]), nn.Conv1d(widths[0], sizes.action_size, 1)
        )

    def encode(self, observation: Tensor) -> tuple[Tensor, Tensor]:
        """Normalised observation [B, To, Do] -> context [B, To Do], which is the feature, too."""
        flat = observation.flatten(1)
        return flat, flat * 1.0  # a graph's outputs are different tensors

    def forward(self, sample: Tensor, context: Tensor, time: Tensor) -> Tensor:
        """Sample [B, Tp, Da], context, embedded time [B, d] -> [B, Tp, Da]."""
        condition = torch.cat([context, time], dim=1)
        x, passed = sample.transpose(1, 2), []
        for level, blocks in enumerate(self.down):
            x = _run(blocks, x, condition)
            passed.append(x)
            if level < len(self.downsample):
                x = self.downsample[level](x)
        x = _run(self.middle, x, condition)
        for blocks, upsample in zip(self.up, self.upsample, strict=True):
            x = upsample(_run(blocks, torch.cat([x, passed.pop()], dim=1), condition))
        return self.head(x).transpose(1, 2)


def _pair(inputs: int, outputs: int, condition: int) -> nn.ModuleList:
    return nn.ModuleList(
        [Residual(inputs, outputs, condition), Residual(outputs, outputs, condition)]
    )


def _run(blocks: nn.Module, x: Tensor, condition: Tensor) -> Tensor:
    assert isinstance(blocks, nn.ModuleList)
    for block in blocks:
        x = block(x, condition)
    return x
