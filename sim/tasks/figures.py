"""Figures of episodes with their 95 % intervals, and what goes with bad ones.

Pure functions of arrays [E], a number for each of E independent episodes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from sim.estimate import Estimate

Values = NDArray[Any]
Statistic = Callable[..., Values]
"""Of values and their axis, as np.mean."""
Interval = Literal["wilson", "exact"]

RESAMPLES = 2000
_AT_ONCE = 2_000_000
"""Numbers redrawn, to keep memory small."""
_UNUSUAL = 3
"""Parameters shown of an episode."""


def share(held: Values, interval: Interval) -> Estimate:
    """The share of the episodes [E] in which something held.

    wilson: its coverage is 95 % on average; exact: Clopper and Pearson's, at least 95 % always,
    and so wider.
    """
    count = int(held.sum())
    found = stats.binomtest(count, len(held)).proportion_ci(0.95, method=interval)
    return Estimate(count / len(held), float(found.low), float(found.high))


def bootstrapped(statistic: Statistic, values: Values, seed: int) -> Estimate:
    """A statistic of [E] with its interval from a percentile bootstrap over episodes."""
    return _bootstrap(statistic, (values,), seed)


def difference(statistic: Statistic, values: Values, less: Values, seed: int) -> Estimate:
    """That of [E] less that of [E], in the same episodes: pairs are redrawn.

    Where all pairs differ alike, the interval has no width: the bootstrap knows no other ones.
    """

    def minus(left: Values, right: Values, axis: int) -> Values:
        return statistic(left, axis=axis) - statistic(right, axis=axis)

    return _bootstrap(minus, (values, less), seed)


def _bootstrap(statistic: Statistic, samples: tuple[Values, ...], seed: int) -> Estimate:
    samples = tuple(np.asarray(sample, np.float64) for sample in samples)
    found = stats.bootstrap(
        samples, statistic, n_resamples=RESAMPLES, batch=max(1, _AT_ONCE // len(samples[0])),
        vectorized=True, paired=True, axis=0, method="percentile", rng=seed,
    )  # fmt: skip
    low, high = found.confidence_interval
    return Estimate(float(statistic(*samples, axis=0)), float(low), float(high))


# What goes with bad episodes.


@dataclass(frozen=True)
class Correlation:
    """Of a parameter with how bad episodes were."""

    parameter: str
    rank_correlation: float
    """Spearman's, from -1 to 1; above zero: the more of it, the worse."""
    p_value: float
    """Of no correlation."""
    adjusted_p_value: float
    """By Holm: that none of the parameters below 0.05 is there by chance, is 95 % sure."""


def correlations(bad: Values, parameters: Mapping[str, Values]) -> list[Correlation]:
    """How [E] goes with each of the parameters [E], the surest first.

    A rank correlation sees what only rises or only falls: not a parameter whose both ends are
    bad.
    """
    varied = _varied(parameters)
    if not varied or (bad == bad[0]).all():
        return []
    found: list[Any] = [stats.spearmanr(bad, values) for values in varied.values()]
    p_values = np.array([result.pvalue for result in found])
    rows = zip(varied, found, p_values, holm(p_values), strict=True)
    listed = [Correlation(n, float(r.statistic), float(p), float(a)) for n, r, p, a in rows]
    return sorted(listed, key=lambda row: (row.p_value, -abs(row.rank_correlation)))


def holm(p_values: Values) -> Values:
    """[P] p-values adjusted for their number.

    Source: Holm, "A simple sequentially rejective multiple test procedure", Scandinavian Journal
    of Statistics 6 (1979).
    """
    order = np.argsort(p_values)
    adjusted = np.empty_like(p_values)
    factors = np.arange(len(p_values), 0, -1)
    adjusted[order] = np.maximum.accumulate(p_values[order] * factors).clip(max=1)
    return adjusted


@dataclass(frozen=True)
class Unusual:
    """A parameter of an episode."""

    parameter: str
    value: float
    percentile: float
    """Of all episodes' values, from 0 to 100."""


def unusual(parameters: Mapping[str, Values], episode: int) -> list[Unusual]:
    """Those of one episode that are farthest from the middle of all episodes'."""
    ranked = [
        Unusual(name, float(values[episode]), _percentile(values, episode))
        for name, values in _varied(parameters).items()
    ]
    return sorted(ranked, key=lambda row: -abs(row.percentile - 50))[:_UNUSUAL]


def _varied(parameters: Mapping[str, Values]) -> dict[str, Values]:
    """Without what never varied, and with the first alone of those that share their draws."""
    distinct = {values.tobytes(): name for name, values in reversed([*parameters.items()])}
    first = set(distinct.values())
    return {n: values for n, values in parameters.items() if n in first and np.ptp(values) > 0}


def _percentile(values: Values, episode: int) -> float:
    below, same = (values < values[episode]).sum(), (values == values[episode]).sum()
    return float(100 * (below + same / 2) / len(values))


def worst(bad: Values, count: int) -> list[int]:
    """The episodes in which [E] is largest, from the worst on."""
    return np.argsort(-bad, kind="stable")[:count].tolist()
