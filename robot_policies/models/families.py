"""Every network that a checkpoint can hold, by the family that its contract names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from robot_policies.models.actor import ActorPolicy
from robot_policies.models.chunk import ChunkPolicy
from robot_policies.models.cloning import CloningPolicy
from robot_policies.models.diffusion import DiffusionPolicy
from robot_policies.models.energy import EnergyPolicy
from robot_policies.models.flow import FlowPolicy
from robot_policies.models.foundation import FoundationPolicy
from robot_policies.models.trunk import Sizes

CHUNKS: dict[str, type[ChunkPolicy]] = {
    "diffusion": DiffusionPolicy,
    "energy": EnergyPolicy,
    "flow": FlowPolicy,
    "cloning": CloningPolicy,
}
DIRECT: dict[str, type[nn.Module]] = {"actor": ActorPolicy, "foundation": FoundationPolicy}
NAMES = (*DIRECT, *CHUNKS)


def build(family: str, sizes: Mapping[str, Any]) -> nn.Module:
    """A new network; raises TypeError or ValueError for sizes that are not the family's.

    Of a chunk policy the sizes are {"sizes": {...}, "execution_steps": Ta, ...}.
    """
    if family in DIRECT:
        return DIRECT[family](**sizes)
    others = dict(sizes)
    return CHUNKS[family](Sizes(**others.pop("sizes")), **others)
