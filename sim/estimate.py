"""A figure and how far it can be trusted."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Estimate:
    """A figure with its 95 % interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        """Value and interval with three significant digits."""
        return f"{self.value:.4g} [{self.low:.4g}, {self.high:.4g}]"
