"""The draws of the running episodes as columns, for a record and for a network."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from sim.draws import Distribution, FloatArray, extremes
from sim.randomization import IdArray, Randomization
from sim.randomization_terms import Spec


class EpisodeParameters:
    """P columns, headed as Randomization.records has them."""

    def __init__(self, randomization: Randomization, spec: Spec, count: int) -> None:
        """Zeros, until `begin`."""
        self._distribution = {term.name: term.distribution for term in spec.terms}
        self._columns: dict[str, slice] = {}
        names: list[str] = []
        for term, draws in randomization.draw(np.arange(1), 0).items():
            found = [*randomization.records({term: draws})]
            self._columns[term] = slice(len(names), len(names) + len(found))
            names += found
        self.names = tuple(names)
        self.drawn = np.zeros((count, len(names)))
        """[N, P] at the episodes' begin."""
        self.scaled = np.zeros((count, len(names)))
        """[N, P] as they are now, from -1 to 1 over the range of their distributions."""

    def begin(self, ids: IdArray, draws: Mapping[str, FloatArray]) -> None:
        """Take what Randomization.reset drew for `ids` [M]."""
        for term, values in draws.items():
            self.drawn[ids, self._columns[term]] = self._change(term, ids, values)

    def change(self, drawn: Mapping[str, tuple[IdArray, FloatArray]]) -> None:
        """Take what Randomization.advance drew; pushes leave nothing behind."""
        for term, (ids, values) in drawn.items():
            if term in self._columns:
                self._change(term, ids, values)

    def _change(self, term: str, ids: IdArray, values: FloatArray) -> FloatArray:
        flat = values.reshape(len(ids), -1)  # in the order of Randomization.records
        self.scaled[ids, self._columns[term]] = scaled(self._distribution[term], flat)
        return flat


def scaled(distribution: Distribution, values: FloatArray) -> FloatArray:
    """Values [...] of a distribution -> -1 at its lowest to 1 at its highest; 0 of a constant.

    Log-uniform ones are spread evenly, by their logarithm.
    """
    support = np.array(extremes(distribution))
    if "log_uniform" in distribution:
        support, values = np.log(support), np.log(values)
    low, high = support.min(), support.max()
    return (2 * values - low - high) / (high - low) if high > low else np.zeros_like(values)
