"""The draws of the running episodes as columns, for a record and for a network."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from sim.draws import Distribution, FloatArray, extremes
from sim.randomization import IdArray, Randomization
from sim.randomization_terms import Spec


class EpisodeParameters:
    """P columns headed as Randomization.records has them, and in a record events, too."""

    def __init__(self, randomization: Randomization, spec: Spec, count: int) -> None:
        """Zeros, until `begin`."""
        self._distribution = {term.name: term.distribution for term in spec.terms}
        self._columns: dict[str, slice] = {}
        lasting = randomization.draw(np.arange(1), 0)
        events = randomization.events
        self.recorded_names: tuple[str, ...] = ()
        """Of the columns of `recorded`."""
        for term, draws in (lasting | events).items():
            found, first = randomization.records({term: draws}), len(self.recorded_names)
            self._columns[term] = slice(first, first + len(found))
            self.recorded_names += tuple(found)
        many = sum(draws.size for draws in lasting.values())
        self.names = self.recorded_names[:many]
        """P names, of the columns of `scaled`."""
        self.recorded = np.zeros((count, len(self.recorded_names)))
        """[N, P and more] as they are now; of events, such as pushes (N s), the sum since the
        episode's begin."""
        self.scaled = np.zeros((count, many))
        """[N, P] as they are now, from -1 to 1 over the range of their distributions."""
        self._events = tuple(events)

    def begin(self, ids: IdArray, draws: Mapping[str, FloatArray]) -> None:
        """Take what Randomization.reset drew for `ids` [M]."""
        self.recorded[ids] = 0
        for term, values in draws.items():
            self._take(term, ids, values)

    def change(self, drawn: Mapping[str, tuple[IdArray, FloatArray]]) -> None:
        """Take what Randomization.advance drew."""
        for term, (ids, values) in drawn.items():
            self._take(term, ids, values)

    def _take(self, term: str, ids: IdArray, values: FloatArray) -> None:
        columns = self._columns[term]
        flat = values.reshape(len(ids), -1)  # in the order of Randomization.records
        if term in self._events:
            self.recorded[ids, columns] += flat
            return
        self.recorded[ids, columns] = flat
        self.scaled[ids, columns] = scaled(self._distribution[term], flat)


def scaled(distribution: Distribution, values: FloatArray) -> FloatArray:
    """Values [...] of a distribution -> -1 at its lowest to 1 at its highest; 0 of a constant.

    Log-uniform ones are spread evenly, by their logarithm.
    """
    support = np.array(extremes(distribution))
    if "log_uniform" in distribution:
        support, values = np.log(support), np.log(values)
    low, high = support.min(), support.max()
    return (2 * values - low - high) / (high - low) if high > low else np.zeros_like(values)
