"""The network that all chunk policies share: a transformer over patches of actions.

Tokens are patches of a few actions, which attend to one another and to the observation's tokens.
Those keep keys and values that are computed once for a chunk, however often its sample is refined.
Each block also knows its vector-Jacobian product, written by hand with forward operations only:
autograd inside a graph does not export to ONNX, and this does, with fewer nodes.

Sources: Diffusion Policy's transformer (arXiv 2303.04137) and EBT-Policy (arXiv 2510.27545), with
patches for speed: attention over 3 tokens of 4 actions takes a third of the time of 12 tokens.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

Pull = Callable[[Tensor], Tensor]
"""From a gradient with respect to a block's output to that with respect to its input."""
EPSILON = 1e-6
"""Added to the mean square by which a token is divided."""


@dataclass(frozen=True)
class Sizes:
    """Of a trunk. Raises ValueError for what does not go together."""

    observation_steps: int
    """To."""
    observation_size: int
    """Do."""
    prediction_steps: int
    """Tp, a multiple of `patch`."""
    action_size: int
    """Da."""
    patch: int = 4
    """Actions in a token."""
    width: int = 96
    """d, a multiple of `heads`."""
    layers: int = 2
    heads: int = 2
    expansion: int = 2
    """Width of the feed-forward layers, in d."""

    def __post_init__(self) -> None:
        """Refuse what cannot be built."""
        if self.prediction_steps % self.patch or self.width % self.heads:
            found = f"Tp {self.prediction_steps} and patch {self.patch}, d {self.width} and "
            expected = "Tp a multiple of the patch, d of the heads"
            raise ValueError(f"trunk: expected {expected}; found {found}heads {self.heads}")

    @property
    def tokens(self) -> int:
        """P, patches in a chunk."""
        return self.prediction_steps // self.patch

    @property
    def context(self) -> int:
        """C, numbers that the observation is encoded to: a key and a value a token and layer."""
        return self.layers * 2 * self.observation_steps * self.width


class Norm(nn.Module):
    """Root-mean-square normalisation of each token (arXiv 1910.07467)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        """[..., d] -> [..., d]."""
        return x * self._inverse(x) * self.gain

    def with_pull(self, x: Tensor) -> tuple[Tensor, Pull]:
        """The output, and the way back."""
        inverse = self._inverse(x)
        unit = x * inverse

        def pull(w: Tensor) -> Tensor:
            w = w * self.gain
            return inverse * (w - unit * (w * unit).mean(-1, keepdim=True))

        return unit * self.gain, pull

    def _inverse(self, x: Tensor) -> Tensor:
        return (x.square().mean(-1, keepdim=True) + EPSILON).rsqrt()


class FeedForward(nn.Module):
    """Linear, SiLU, linear."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(width, hidden), nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        """[..., d] -> [..., d]."""
        return self.down(nn.functional.silu(self.up(x)))

    def with_pull(self, x: Tensor) -> tuple[Tensor, Pull]:
        """The output, and the way back."""
        h = self.up(x)
        gate = h.sigmoid()
        active = h * gate

        def pull(w: Tensor) -> Tensor:
            slope = gate + active * (1 - gate)
            return ((w @ self.down.weight) * slope) @ self.up.weight

        return self.down(active), pull


class Attention(nn.Module):
    """Patches attend to one another and to the observation, in one softmax.

    Written out: the fused kernel has no second derivative on the CPU, which training an energy
    needs.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads, self.scale = heads, (width // heads) ** -0.5
        self.inputs = nn.Linear(width, 3 * width)
        self.memory = nn.Linear(width, 2 * width)
        self.output = nn.Linear(width, width)

    def keys_values(self, tokens: Tensor) -> Tensor:
        """Of the observation's tokens [B, To, d]: [B, 2, To, d]."""
        return torch.stack(self.memory(tokens).chunk(2, dim=-1), dim=1)

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        """Patches [B, P, d] and context [B, 2, To, d] -> [B, P, d]."""
        return self._attend(x, context)[0]

    def with_pull(self, x: Tensor, context: Tensor) -> tuple[Tensor, Pull]:
        """The output, and the way back to the patches; the context is given."""
        patches = x.shape[1]
        output, query, key, value, weights = self._attend(x, context)

        def pull(w: Tensor) -> Tensor:
            out = self._split(w @ self.output.weight)
            d_weights = out @ value.transpose(-1, -2)
            mean = (d_weights * weights).sum(-1, keepdim=True)
            d_scores = weights * (d_weights - mean) * self.scale
            own = slice(None, patches)  # what of keys and values comes from the patches
            d_query = d_scores @ key
            d_key = d_scores[..., own].transpose(-1, -2) @ query
            d_value = weights[..., own].transpose(-1, -2) @ out
            joined = torch.cat([self._join(g) for g in (d_query, d_key, d_value)], dim=-1)
            return joined @ self.inputs.weight

        return output, pull

    def _attend(self, x: Tensor, context: Tensor) -> tuple[Tensor, ...]:
        query, key, value = self.inputs(x).chunk(3, dim=-1)
        key = self._split(torch.cat([key, context[:, 0]], dim=1))
        value = self._split(torch.cat([value, context[:, 1]], dim=1))
        query = self._split(query)
        weights = (query @ key.transpose(-1, -2) * self.scale).softmax(-1)
        return self.output(self._join(weights @ value)), query, key, value, weights

    def _split(self, x: Tensor) -> Tensor:
        """[B, T, d] -> [B, heads, T, d / heads]."""
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)

    def _join(self, x: Tensor) -> Tensor:
        """[B, heads, T, d / heads] -> [B, T, d]."""
        return x.transpose(1, 2).flatten(2)


class Block(nn.Module):
    """Attention and a feed-forward layer, each normalised before and added to what came in."""

    def __init__(self, width: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.first_norm, self.second_norm = Norm(width), Norm(width)
        self.attention = Attention(width, heads)
        self.feedforward = FeedForward(width, hidden)

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        """Patches [B, P, d] and this layer's context [B, 2, To, d] -> [B, P, d]."""
        x = x + self.attention(self.first_norm(x), context)
        return x + self.feedforward(self.second_norm(x))

    def with_pull(self, x: Tensor, context: Tensor) -> tuple[Tensor, Pull]:
        """The output, and the way back."""
        first, pull_first = self.first_norm.with_pull(x)
        attended, pull_attention = self.attention.with_pull(first, context)
        x = x + attended
        second, pull_second = self.second_norm.with_pull(x)
        fed, pull_feedforward = self.feedforward.with_pull(second)

        def pull(w: Tensor) -> Tensor:
            w = w + pull_second(pull_feedforward(w))
            return w + pull_first(pull_attention(w))

        return x + fed, pull


class Trunk(nn.Module):
    """From a sample of a chunk and an encoded observation to numbers of the sample's shape."""

    def __init__(self, sizes: Sizes) -> None:
        """See Sizes."""
        super().__init__()
        width, hidden = sizes.width, sizes.expansion * sizes.width
        self.sizes = sizes
        self.look = nn.Sequential(
            nn.Linear(sizes.observation_size, width), nn.SiLU(), nn.Linear(width, width)
        )
        self.look_position = nn.Parameter(0.02 * torch.randn(sizes.observation_steps, width))
        self.look_norm = Norm(width)
        self.embed = nn.Linear(sizes.patch * sizes.action_size, width)
        self.position = nn.Parameter(0.02 * torch.randn(sizes.tokens, width))
        blocks = [Block(width, sizes.heads, hidden) for _ in range(sizes.layers)]
        self.blocks = cast(list[Block], nn.ModuleList(blocks))
        self.norm = Norm(width)
        self.head = nn.Linear(width, sizes.patch * sizes.action_size)

    def encode(self, observation: Tensor) -> tuple[Tensor, Tensor]:
        """Normalised observation [B, To, Do] -> context [B, C] and feature [B, d]."""
        tokens = self.look_norm(self.look(observation) + self.look_position)
        layers = [block.attention.keys_values(tokens) for block in self.blocks]
        return torch.stack(layers, dim=1).flatten(1), tokens.mean(1)

    def forward(self, sample: Tensor, context: Tensor, time: Tensor | None = None) -> Tensor:
        """Sample [B, Tp, Da], context [B, C] and, where there is one, an embedded time [B, d]."""
        x = self.embed(self._patches(sample)) + self.position
        if time is not None:
            x = x + time.unsqueeze(1)
        for block, known in zip(self.blocks, self._layers(context), strict=True):
            x = block(x, known)
        return self._actions(self.head(self.norm(x)))

    def with_pull(self, sample: Tensor, context: Tensor) -> tuple[Tensor, Pull]:
        """The output [B, Tp, Da], and the way back to the sample."""
        x = self.embed(self._patches(sample)) + self.position
        pulls = []
        for block, known in zip(self.blocks, self._layers(context), strict=True):
            x, block_pull = block.with_pull(x, known)
            pulls.append(block_pull)
        x, norm_pull = self.norm.with_pull(x)

        def pull(w: Tensor) -> Tensor:
            w = norm_pull(self._patches(w) @ self.head.weight)
            for block_pull in reversed(pulls):
                w = block_pull(w)
            return self._actions(w @ self.embed.weight)

        return self._actions(self.head(x)), pull

    def _layers(self, context: Tensor) -> tuple[Tensor, ...]:
        sizes = self.sizes
        shape = (sizes.layers, 2, sizes.observation_steps, sizes.width)
        return context.unflatten(1, shape).unbind(1)

    def _patches(self, sample: Tensor) -> Tensor:
        return sample.reshape(-1, self.sizes.tokens, self.sizes.patch * self.sizes.action_size)

    def _actions(self, patches: Tensor) -> Tensor:
        return patches.reshape(-1, self.sizes.prediction_steps, self.sizes.action_size)
