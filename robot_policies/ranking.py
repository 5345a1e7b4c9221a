"""Which policy goes on the robot first, and how sure that is. Pure: numbers in, a ranking out.

    evidence = [Evidence("a", returns [E], p_values [M], ...), Evidence("b", ...)]
    ranking = rank(evidence, real_episodes [M], combiner="calibrated-product", seed=0)
    ranking.rows[0].name, ranking.rows[0].score, ranking.rows[0].best       # P(best)

All policies were simulated in the same episodes, and judged the same real samples. The score
joins both, after VSDR (arXiv 2111.00765), whose formula is not published: the calibrated product
is the share of the way from the worst to the best simulated return, times min(2 mean p, 1), where
p is the conformal p-value of a real sample: one half on average where nothing differs.

Brackets are 95 % intervals by bootstrap over simulated and real episodes, never over samples,
which depend on one another. A specification is a gate and no part of the score: what is wanted of
a robot is not to be outweighed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from robot_policies.strict import require

FloatArray = NDArray[np.float64]
Combiner = Callable[[FloatArray, FloatArray], FloatArray]
"""Simulated returns [P, B] and mean p-values [P, B] -> scores [P, B], of P policies B times."""

BOOTSTRAPS = 1000
DISAGREEMENT = 0.7
"""Rank correlation of the score and the simulated return, below which they disagree."""
GATE_SHARE = 0.5
"""Of gate-then-sort: what looks stranger than this, of all mean p-values, comes last."""


# Combiners.


def calibrated_product(returns: FloatArray, p: FloatArray) -> FloatArray:
    """The share of the best return, as far as the policy is at home in the real data."""
    low, high = returns.min(0), returns.max(0)
    share = (returns - low) / np.where(high > low, high - low, 1.0)
    return share * np.minimum(2 * p, 1.0)


def rank_sum(returns: FloatArray, p: FloatArray) -> FloatArray:
    """The mean of both ranks, from 0 to 1."""
    return (ranks(returns) + ranks(p)) / (2 * max(len(returns) - 1, 1))


def gate_then_sort(returns: FloatArray, p: FloatArray) -> FloatArray:
    """By return, but all that look stranger than the median come after those that do not."""
    gated = p < np.quantile(p, GATE_SHARE, axis=0)
    order = ranks(returns) / len(returns)
    return np.where(gated, order - 1.0, order)


def simulation_only(returns: FloatArray, p: FloatArray) -> FloatArray:
    """What is always shown beside."""
    return returns


def evidence_only(returns: FloatArray, p: FloatArray) -> FloatArray:
    """By the real data alone: a baseline, and no good one."""
    return p


COMBINERS: dict[str, Combiner] = {
    "calibrated-product": calibrated_product,
    "rank-sum": rank_sum,
    "gate-then-sort": gate_then_sort,
}


def ranks(values: FloatArray) -> FloatArray:
    """Of P values down the first axis: 0 for the lowest; the mean rank for equal ones."""
    from scipy.stats import rankdata

    return rankdata(values, axis=0) - 1.0


# The ranking.


@dataclass(frozen=True)
class Interval:
    """A figure and its 95 % interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, eq=False)
class Evidence:
    """What is known of one policy."""

    name: str
    returns: FloatArray
    """[E] of the simulated episodes, the same for all policies."""
    p_values: FloatArray
    """[M] of the real samples, the same for all policies."""
    success: NDArray[np.bool_] | None = None
    """[E] of the simulated episodes."""
    robustness: FloatArray | None = None
    """[E] of the specification; None without one. Minus infinity where a simulation diverged."""
    worst_dimensions: tuple[str, ...] = ()
    """Observations that differ most from simulation, the worst first."""
    flags: tuple[str, ...] = ()
    """What is to be known beside the figures: saturated, low rank, ..."""
    notes: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Gate:
    """A specification's verdict on one policy."""

    satisfied: int
    episodes: int
    low: float
    """95 % lower bound of the share (Clopper and Pearson, one-sided)."""
    fifth_percentile: float
    """Of the robustness."""
    passed: bool


@dataclass(frozen=True)
class Row:
    """One policy in a ranking, the first is the best."""

    name: str
    score: Interval
    simulation: Interval
    """The simulated return."""
    p: Interval
    """The mean p-value of the real samples."""
    best: float
    """P(best): share of the bootstraps in which it came first."""
    top: float
    """P(in top k)."""
    simulation_rank: int
    """By the simulated return alone; 1 is the best."""
    gate: Gate | None
    worst_dimensions: tuple[str, ...]
    flags: tuple[str, ...]


@dataclass(frozen=True)
class Ranking:
    """All policies, those that pass the gate first."""

    rows: tuple[Row, ...]
    combiner: str
    top: int
    """k."""
    agreement: float
    """Spearman's correlation of score and simulated return; NaN for one policy."""

    @property
    def warning(self) -> str:
        """Where simulation alone says something else; empty where it does not."""
        first = self.rows[0]
        if first.simulation_rank == 1 and not self.agreement < DISAGREEMENT:
            return ""
        return (
            f"simulation alone disagrees: {first.name} comes first here and "
            f"{first.simulation_rank}. by its return (rank correlation {self.agreement:.2f}); the "
            "real data look strange to the policies that simulate best"
        )

    @property
    def conclusive(self) -> bool:
        """Whether the lowest of the first k scores is above all others' intervals."""
        inside, outside = self.rows[: self.top], self.rows[self.top :]
        highest = max((row.score.high for row in outside), default=-np.inf)
        return min(row.score.low for row in inside) > highest


def rank(
    evidence: Sequence[Evidence], real_episodes: NDArray[np.int64], *,
    combiner: str = "calibrated-product", top: int = 1, gate: float = 0.95, seed: int,
    bootstraps: int = BOOTSTRAPS,
) -> Ranking:  # fmt: skip
    """Rank P policies.

    Args:
        evidence: of each.
        real_episodes: [M] of which real episode each sample is.
        combiner: one of COMBINERS.
        top: k, of P(in top k).
        gate: the lowest bound of the share of episodes that are as specified.
        seed: of the bootstrap.
        bootstraps: how often episodes are drawn again.

    Raises:
        InputError: with every violation, where the evidence does not belong together.
    """
    _require_comparable(evidence, real_episodes, combiner, top)
    returns = np.stack([one.returns for one in evidence])
    p_values = np.stack([one.p_values for one in evidence])
    generator = np.random.default_rng(seed)
    v, p = _resampled(returns, p_values, real_episodes, generator, bootstraps)
    join = COMBINERS[combiner]
    scores = join(v, p)  # the first column is of everything as it is
    standing = (-scores[:, 1:]).argsort(0, kind="stable").argsort(0, kind="stable")
    by_simulation = (-v[:, 0]).argsort(kind="stable").argsort(kind="stable")
    gates = [_gate(one.robustness, gate) for one in evidence]
    rows = [
        Row(
            one.name, _interval(scores[i]), _interval(v[i]), _interval(p[i]),
            float((standing[i] == 0).mean()), float((standing[i] < top).mean()),
            int(by_simulation[i]) + 1, gates[i], one.worst_dimensions, one.flags,
        )
        for i, one in enumerate(evidence)
    ]  # fmt: skip
    rows.sort(key=lambda row: (row.gate is not None and not row.gate.passed, -row.score.value))
    return Ranking(tuple(rows), combiner, top, spearman(scores[:, 0], v[:, 0]))


def _require_comparable(
    evidence: Sequence[Evidence], real_episodes: NDArray[np.int64], combiner: str, top: int
) -> None:
    names = [one.name for one in evidence]
    episodes = sorted({len(one.returns) for one in evidence})
    samples = sorted({len(one.p_values) for one in evidence} | {len(real_episodes)})
    finite = all(np.isfinite(one.returns).all() for one in evidence)
    require(
        "ranking",
        (len(set(names)) == len(names) > 0, "policies", "one or more, none twice", names),
        (
            len(episodes) == 1 and episodes[0] > 1,
            "returns",
            "the same E > 1 of all",
            episodes,
        ),
        (len(samples) == 1 and samples[0] > 0, "p_values", "the same M of all", samples),
        (finite, "returns", "finite numbers", "others"),
        (combiner in COMBINERS, "combiner", " or ".join(COMBINERS), combiner),
        (1 <= top <= max(len(names), 1), "top", f"from 1 to {len(names)}", top),
    )


def _resampled(
    returns: FloatArray, p_values: FloatArray, real_episodes: NDArray[np.int64],
    generator: np.random.Generator, bootstraps: int,
) -> tuple[FloatArray, FloatArray]:  # fmt: skip
    """Mean return and mean p-value [P, 1 + B]: as they are, and of episodes drawn again."""
    _, of = np.unique(real_episodes, return_inverse=True)
    real = of.max() + 1
    sums = np.array([np.bincount(of, p, real) for p in p_values], float)
    counts = np.bincount(of, minlength=real)
    weights, real_weights = (_weights(n, bootstraps, generator) for n in (returns.shape[1], real))
    means = (sums @ real_weights) / (counts @ real_weights)
    return returns @ weights / len(weights), means.astype(float)


def _weights(count: int, bootstraps: int, generator: np.random.Generator) -> FloatArray:
    """[count, 1 + B] how often each is drawn; in the first column once."""
    drawn = generator.multinomial(count, np.full(count, 1 / count), size=bootstraps)
    return np.concatenate([np.ones((1, count)), drawn.astype(float)]).T


def _interval(values: FloatArray) -> Interval:
    low, high = np.quantile(values[1:], [0.025, 0.975]) if len(values) > 1 else (np.nan, np.nan)
    return Interval(float(values[0]), float(low), float(high))


def _gate(robustness: FloatArray | None, demanded: float) -> Gate | None:
    if robustness is None:
        return None
    from scipy.stats import beta

    satisfied, episodes = int((robustness > 0).sum()), len(robustness)
    low = float(beta.ppf(0.05, satisfied, episodes - satisfied + 1)) if satisfied else 0.0
    fifth = float(np.quantile(robustness, 0.05, method="lower"))
    return Gate(satisfied, episodes, low, fifth, low >= demanded)


# How good a ranking was, where the truth is known.


def spearman(scores: FloatArray, truth: FloatArray) -> float:
    """Rank correlation [-1, 1]; NaN where there are fewer than two, or all are equal."""
    left, right = ranks(scores), ranks(truth)
    spread = left.std() * right.std() if len(left) > 1 else 0.0
    return (
        float(((left - left.mean()) * (right - right.mean())).mean() / spread)
        if spread
        else np.nan
    )


def kendall(scores: FloatArray, truth: FloatArray) -> float:
    """Kendall's tau-b."""
    from scipy.stats import kendalltau

    return float(kendalltau(scores, truth)[0])  # type: ignore[arg-type]


def regret(scores: FloatArray, truth: FloatArray, k: int) -> float:
    """What the best of the first k lacks, as a share of the best (DOPE's regret@k)."""
    first = np.argsort(-scores, kind="stable")[:k]
    return float((truth.max() - truth[first].max()) / abs(truth.max()))


def mean_maximum_rank_violation(scores: FloatArray, truth: FloatArray) -> float:
    """Mean over policies of the largest difference in truth that is ranked the wrong way.

    0 where all are in the right order; in the truth's unit. SIMPLER, arXiv 2405.05941.
    """
    difference = truth[:, None] - truth
    wrong = (scores[:, None] < scores) != (difference < 0)
    return float((np.abs(difference) * wrong).max(1).mean())
