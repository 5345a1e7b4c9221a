"""Diffusion Policy: a chunk is denoised step by step (arXiv 2303.04137).

Training and schedules are diffusers' DDPM: 100 levels, squared cosine, the clean chunk is clipped
to the data's range. The velocity is predicted (arXiv 2202.00512), not the noise as in the paper:
at the first levels, which are almost pure noise, the noise does not tell what is clean. Sampling
by DDPM, or by DDIM (arXiv 2010.02502) with "trailing" levels, which begin at pure noise and ask
for the velocity (arXiv 2305.08891). A row of a schedule has the coefficients of one step, so that
one graph serves all samplers.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import torch
from torch import Tensor, nn

from robot_policies.contract import Sampler
from robot_policies.models.chunk import ChunkPolicy, TimeEmbedding, mean_square
from robot_policies.models.trunk import Sizes, Trunk
from robot_policies.models.unet import UNet

LEVELS = 100
Backbone = Literal["transformer", "unet"]
BACKBONES: dict[str, type[Trunk] | type[UNet]] = {"transformer": Trunk, "unet": UNet}
Row = tuple[float, ...]


class TimedPolicy(ChunkPolicy):
    """A backbone that is told how noisy its sample is."""

    def __init__(
        self, sizes: Sizes, execution_steps: int, backbone: Backbone = "transformer"
    ) -> None:
        """Raises ValueError where the backbone cannot be of these sizes."""
        super().__init__(sizes, execution_steps)
        self.backbone = BACKBONES[backbone](sizes)
        self.time: nn.Module = TimeEmbedding(sizes.width)

    def look(self, seen: Tensor) -> tuple[Tensor, Tensor]:
        """See ChunkPolicy."""
        return self.backbone.encode(seen)

    def predict(self, context: Tensor, sample: Tensor, time: Tensor) -> Tensor:
        """What the backbone says [B, Tp, Da] of a sample at time [B, 1], from 0 to 1."""
        return self.backbone(sample, context, self.time(time))


class DiffusionPolicy(TimedPolicy):
    """See the module."""

    columns = (
        "time", "clean_of_sample", "clean_of_velocity", "next_of_clean", "next_of_sample",
        "next_of_velocity", "next_of_fresh_noise",
    )  # fmt: skip
    takes_fresh_noise = True

    def __init__(
        self, sizes: Sizes, execution_steps: int, backbone: Backbone = "transformer"
    ) -> None:
        """See TimedPolicy."""
        super().__init__(sizes, execution_steps, backbone)
        self.register_buffer("kept", kept_shares(), persistent=False)

    def refine(
        self, context: Tensor, sample: Tensor, schedule: Tensor, fresh: Tensor | None
    ) -> tuple[Tensor, ...]:
        """One step of DDPM or DDIM, as the row says."""
        assert fresh is not None
        velocity = self.predict(context, sample, schedule[:, :1])
        row = schedule[:, 1:].unsqueeze(-1).unsqueeze(-1).unbind(1)
        clean = row[0] * sample + row[1] * velocity
        clean = torch.maximum(torch.minimum(clean, self.sample_high), self.sample_low)
        return (row[2] * clean + row[3] * sample + row[4] * velocity + row[5] * fresh,)

    def loss(self, observation: Tensor, actions: Tensor, valid: Tensor) -> Tensor:
        """Mean square error of the predicted velocity, at a random level."""
        context, _ = self.look(self.seen(observation))
        target = self.normalised(actions, observation)
        level = torch.randint(LEVELS, (len(target),))
        kept = self.get_buffer("kept")[level][:, None, None]
        noise = torch.randn_like(target)
        sample = kept.sqrt() * target + (1 - kept).sqrt() * noise
        velocity = kept.sqrt() * noise - (1 - kept).sqrt() * target
        time = (level / LEVELS).unsqueeze(1)
        return mean_square(self.predict(context, sample, time) - velocity, valid)

    def samplers(self) -> tuple[Sampler, ...]:
        """DDIM with 10 and 5 steps, and DDPM with all 100."""
        return (
            Sampler("ddim-10", tuple(ddim_rows(10)), False, None),
            Sampler("ddim-5", tuple(ddim_rows(5)), False, None),
            Sampler("ddpm-100", tuple(ddpm_rows()), True, None),
        )


def kept_shares() -> Tensor:
    """[LEVELS] the share of the data's variance that each level keeps (alphas_cumprod)."""
    from diffusers.schedulers.scheduling_ddpm import DDPMScheduler

    return DDPMScheduler(LEVELS, beta_schedule="squaredcos_cap_v2").alphas_cumprod.float()


def ddim_rows(steps: int) -> Iterator[Row]:
    """The rows of DDIM without noise, "trailing" levels."""
    from diffusers.schedulers.scheduling_ddim import DDIMScheduler

    scheduler = DDIMScheduler(
        LEVELS, beta_schedule="squaredcos_cap_v2", timestep_spacing="trailing"
    )
    scheduler.set_timesteps(steps)
    kept = kept_shares().double().tolist()
    for level in scheduler.timesteps.tolist():
        before = level - LEVELS // steps
        following = kept[before] if before >= 0 else 1.0
        of_noise = (1 - following) ** 0.5
        of_sample, of_velocity = of_noise * (1 - kept[level]) ** 0.5, of_noise * kept[level] ** 0.5
        yield (*_clean(level, kept), following**0.5, of_sample, of_velocity, 0.0)


def ddpm_rows() -> Iterator[Row]:
    """The rows of ancestral sampling, with the smaller of the two usual variances."""
    kept = kept_shares().double().tolist()
    for level in reversed(range(LEVELS)):
        following = kept[level - 1] if level else 1.0
        alpha = kept[level] / following
        of_clean = following**0.5 * (1 - alpha) / (1 - kept[level])
        of_sample = alpha**0.5 * (1 - following) / (1 - kept[level])
        variance = max((1 - following) / (1 - kept[level]) * (1 - alpha), 1e-20)
        spread = variance**0.5 if level else 0.0
        yield (*_clean(level, kept), of_clean, of_sample, 0.0, spread)


def _clean(level: int, kept: list[float]) -> Row:
    """Time, and the coefficients by which sample and velocity give the clean chunk."""
    return level / LEVELS, kept[level] ** 0.5, -((1 - kept[level]) ** 0.5)
