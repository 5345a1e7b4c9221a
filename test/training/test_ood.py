"""Detectors, conformal p-values, and what they are fooled by."""

import numpy as np
import pytest

from robot_policies import ood
from robot_policies.strict import InputError

MIX = np.random.default_rng(7).normal(size=(5, 16))


def features(count, seed, shift=0.0):
    """[count, 16] of five causes; the fourth feature is dead."""
    generator = np.random.default_rng(seed)
    found = np.tanh(generator.normal(size=(count, 5)) @ MIX)
    found += 0.05 * generator.normal(size=found.shape) + shift
    found[:, 3] = 1.0
    return found


@pytest.fixture
def reference():
    return ood.Reference(features(1200, 0), np.repeat(np.arange(40), 30))


@pytest.mark.parametrize("detector", ood.DETECTORS)
def test_p_values_are_uniform_at_home_and_small_abroad(detector, reference):
    judge = ood.calibrate(detector, reference, seed=0)
    at_home = judge.p_values(features(1000, 1))
    assert at_home.mean() == pytest.approx(0.5, abs=0.04)
    assert (at_home <= 0.1).mean() == pytest.approx(0.1, abs=0.04)
    assert judge.p_values(features(1000, 1, shift=0.2)).mean() < 0.4
    assert judge.p_values(features(1000, 1, shift=1.0)).mean() < 0.05
    assert judge.saturated(judge.score(features(100, 1, shift=3.0)))


def test_the_feature_that_differs_is_named(reference):
    judge = ood.calibrate("mahalanobis", reference, seed=0)
    changed = features(200, 1)
    changed[:, 11] += 2.0
    assert judge.deviations(changed).argmax() == 11
    assert judge.deviations(features(200, 1))[3] == 0.0
    changed[:, 3] = 0.9  # constant in simulation, and something else in reality
    assert np.isinf(judge.deviations(changed)[3])


def test_the_effective_rank_tells_constant_features(reference):
    assert 4 < reference.effective_rank < 8
    one = np.random.default_rng(0).normal(size=(100, 1))
    same = ood.Reference(np.tile(one, 10), np.arange(100) // 10)
    assert same.effective_rank == pytest.approx(1.0)


def test_scores_of_a_policy_are_judged_as_they_are():
    judge = ood.Judge.of_scores(np.arange(99.0))
    np.testing.assert_allclose(judge.p_values(np.array([98.5, 49.0, -1.0])), [0.01, 0.51, 1.0])


def test_what_cannot_be_learned_from_is_refused():
    with pytest.raises(InputError, match="20 samples or more"):
        ood.Reference(np.zeros((5, 2)), np.arange(5))
    with pytest.raises(InputError, match="finite numbers"):
        ood.Reference(np.full((30, 2), np.nan), np.arange(30))
    with pytest.raises(InputError, match="2 or more: one half learns"):
        ood.Reference(np.zeros((30, 2)), np.zeros(30, int))
    with pytest.raises(InputError, match="only constants"):
        ood.calibrate("mahalanobis", ood.Reference(np.ones((30, 2)), np.arange(30)), seed=0)
