"""Out of distribution: how strange real observations look to a policy, as conformal p-values.

    reference = Reference(features [N, F], episodes [N])     # of the same behaviour, in simulation
    judge = calibrate("mahalanobis", reference, seed=0)
    judge.p_values(real [M, F])                              # [M]; uniform where nothing differs
    judge.strangest(real)                                    # dimensions, the strangest first

A detector gives scores, more for what is stranger; they mean nothing by themselves, and nothing
across policies. p-values do: the share of the reference that is at least as strange. Half of the
reference's episodes teach the detector, and scores are compared with those of the other half
(split conformal prediction; Vovk, Gammerman and Shafer, 2005). Reference and real data must come
from the same behaviour, or what is found is the difference between behaviours.

| detector | what is strange | after |
|---|---|---|
| mahalanobis | far from the mean, in shares of the covariance | Lee et al., 2018 |
| neighbours | far from the tenth nearest reference | Sun et al., 2022 |
| distillation | what a network did not learn to copy from a random one | RND, Burda et al., 2019 |
| disagreement | where networks that learned from resampled references differ | deep ensembles |
| reconstruction | far from the principal components of 95 % of the variance | PCA |

The energy of an energy-based policy is a score of its own: `Judge.of_scores` makes it p-values.
States alone do not show changed dynamics: for these see robot_policies.dynamics.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from robot_policies.strict import require

FloatArray = NDArray[np.float64]
Score = Callable[[FloatArray], FloatArray]
"""Values [M, F] -> how strange they are [M]."""

DEAD = 1e-4
"""Of the median standard deviation: a feature that varies less tells nothing, and would be
blown up."""
NEIGHBOUR = 10
KEPT_VARIANCE = 0.95
NETWORKS = 4
"""In an ensemble."""
HIDDEN, PASSES = (32,), 100
FEWEST = 20
"""Samples of the reference: fewer give no covariance worth the name."""


@dataclass(frozen=True, eq=False)
class Reference:
    """What a policy saw in simulation: values [N, F], each of an episode [N]."""

    values: FloatArray
    episodes: NDArray[np.int64]

    def __post_init__(self) -> None:
        """Refuse what cannot be learned from (InputError)."""
        shape, found = self.values.shape, len(set(self.episodes.tolist()))
        require(
            "reference",
            (len(shape) == 2 and len(self.episodes) == len(self.values), "values",
             "[N, F], and N episodes", f"{list(shape)} and {len(self.episodes)}"),
            (bool(np.isfinite(self.values).all()), "values", "finite numbers", "others"),
            (len(self.values) >= FEWEST, "values", f"{FEWEST} samples or more", len(self.values)),
            (found >= 2, "episodes", "2 or more: one half learns, one judges", found),
        )  # fmt: skip

    def first_half(self, seed: int) -> NDArray[np.bool_]:
        """[N] of which one half of the episodes teaches, by chance; the other half judges."""
        names = np.random.default_rng(seed).permutation(np.unique(self.episodes))
        return np.isin(self.episodes, names[: len(names) // 2])

    @cached_property
    def effective_rank(self) -> float:
        """Exp of the entropy of the covariance's eigenvalues (Roy and Vetterli, 2007), of
        standardised features: 1 where all say the same. To a policy whose features are constant,
        everything looks as it should.
        """
        living = self.values[:, living_features(self.values)]
        if not living.shape[1]:
            return 0.0
        values = np.linalg.svd((living - living.mean(0)) / living.std(0), compute_uv=False) ** 2
        share = values[values > 0] / values.sum()
        return float(np.exp(-(share * np.log(share)).sum()))


def living_features(values: FloatArray) -> NDArray[np.bool_]:
    """[F] which vary at all."""
    spread = values.std(0)
    varied = spread[spread > 1e-9]
    return spread > (DEAD * np.median(varied) if len(varied) else math.inf)


@dataclass(frozen=True, eq=False)
class Judge:
    """A detector and the scores that it is compared with."""

    score: Score
    """Values [M, F] -> [M]."""
    calibration: FloatArray
    """Scores [C] of the half that it did not learn from, sorted."""
    center: FloatArray
    """[F] median of the reference."""
    spread: FloatArray
    """[F] standard deviation of the reference; NaN where a feature is dead."""

    @staticmethod
    def of_scores(scores: FloatArray) -> Judge:
        """Where the values are the scores [N, 1] themselves, such as an energy."""
        flat = np.sort(scores.reshape(-1))
        center, spread = np.array([np.median(flat)]), np.array([flat.std()])
        return Judge(lambda values: values.reshape(-1), flat, center, spread)

    def p_values(self, values: FloatArray) -> FloatArray:
        """[M]: (1 + how many of the C are at least as strange) / (C + 1)."""
        return self.p_of_scores(self.score(values))

    def p_of_scores(self, scores: FloatArray) -> FloatArray:
        """The same of scores [M]."""
        below = np.searchsorted(self.calibration, scores, side="left")
        return (1 + len(self.calibration) - below) / (len(self.calibration) + 1)

    def saturated(self, scores: FloatArray) -> bool:
        """Whether most are stranger than all of the reference: p-values rank them no more."""
        return bool((scores > self.calibration[-1]).mean() > 0.5)

    def deviations(self, values: FloatArray) -> FloatArray:
        """[F] median distance from the reference's center, in its standard deviations; of a dead
        feature 0 where it still is what it was, else infinite.
        """
        away = np.median(np.abs(values - self.center), axis=0)
        dead = np.where(away > 1e-6 * (1 + np.abs(self.center)), np.inf, 0.0)
        return np.where(np.isnan(self.spread), dead, away / self.spread)


def calibrate(detector: str, reference: Reference, seed: int) -> Judge:
    """Teach one half of the reference to a detector, and judge by the other.

    Raises InputError for an unknown detector, and for a reference of which nothing varies.
    """
    require("detector", (detector in DETECTORS, "name", " or ".join(DETECTORS), detector))
    first = reference.first_half(seed)
    learned, judging = reference.values[first], reference.values[~first]
    living = living_features(learned)
    require("reference", (bool(living.any()), "values", "features that vary", "only constants"))
    center, spread = learned.mean(0), np.where(living, learned.std(0), np.nan)
    fitted = DETECTORS[detector](((learned - center) / spread)[:, living], seed)

    def score(values: FloatArray) -> FloatArray:
        return fitted(((values - center) / spread)[:, living])

    return Judge(score, np.sort(score(judging)), np.median(learned, axis=0), spread)


# Detectors, of standardised values.


def _mahalanobis(learned: FloatArray, _: int) -> Score:
    """Weighs every direction by how much the reference varies along it."""
    from sklearn.covariance import LedoitWolf

    found = LedoitWolf().fit(learned)
    return lambda values: np.sqrt(found.mahalanobis(values))


def _neighbours(learned: FloatArray, _: int) -> Score:
    from scipy.spatial import KDTree

    tree, nearest = KDTree(learned), min(NEIGHBOUR, len(learned))
    return lambda values: tree.query(values, k=[nearest])[0][:, 0]  # type: ignore[arg-type]


def _distillation(learned: FloatArray, seed: int) -> Score:
    target = _random_network(learned.shape[1], seed)
    (student,) = _students(learned, target(learned), (seed,), resample=False)
    return lambda values: np.linalg.norm(student.predict(values) - target(values), axis=1)


def _disagreement(learned: FloatArray, seed: int) -> Score:
    target = _random_network(learned.shape[1], seed)
    seeds = range(seed, seed + NETWORKS)
    students = _students(learned, target(learned), seeds, resample=True)

    def score(values: FloatArray) -> FloatArray:
        said = np.stack([student.predict(values) for student in students])
        return said.std(0).mean(1)

    return score


def _reconstruction(learned: FloatArray, _: int) -> Score:
    from sklearn.decomposition import PCA

    kept = PCA(KEPT_VARIANCE).fit(learned)
    return lambda values: np.linalg.norm(
        values - kept.inverse_transform(kept.transform(values)), axis=1
    )


def _random_network(size: int, seed: int) -> Callable[[FloatArray], FloatArray]:
    """A network of one hidden layer that is never trained."""
    generator = np.random.default_rng((seed, 1))
    first = generator.normal(size=(size, 64)) / math.sqrt(size)
    second = generator.normal(size=(64, 8)) / 8
    return lambda values: np.tanh(2 * values @ first) @ second


def _students(
    learned: FloatArray, target: FloatArray, seeds: Sequence[int], resample: bool
) -> list[Any]:  # fmt: skip
    """Networks that learned the target, each from a sample of its own where they are resampled."""
    import warnings

    from sklearn.exceptions import ConvergenceWarning
    from sklearn.neural_network import MLPRegressor

    found = []
    for seed in seeds:
        generator = np.random.default_rng((seed, 2))
        rows = generator.integers(len(learned), size=len(learned)) if resample else slice(None)
        student = MLPRegressor(
            hidden_layer_sizes=HIDDEN, max_iter=PASSES, n_iter_no_change=PASSES, random_state=seed
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # so many passes are all it gets
            found.append(student.fit(learned[rows], target[rows]))
    return found


DETECTORS: dict[str, Callable[[FloatArray, int], Score]] = {
    "mahalanobis": _mahalanobis,
    "neighbours": _neighbours,
    "distillation": _distillation,
    "disagreement": _disagreement,
    "reconstruction": _reconstruction,
}
