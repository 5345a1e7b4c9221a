"""Rankings, of evidence that is made up so that the answer is known."""

import numpy as np
import pytest

from robot_policies import ranking
from robot_policies.ranking import Evidence, rank
from robot_policies.strict import InputError

EPISODES = np.repeat(np.arange(8), 25)
"""Of which real episode each of 200 samples is."""


def evidence(name, mean_return, p, seed=0, **more):
    generator = np.random.default_rng(seed)
    returns = mean_return + generator.normal(size=100)
    return Evidence(name, returns, np.full(len(EPISODES), p), **more)


def test_a_policy_that_simulates_best_but_finds_reality_strange_comes_last():
    found = rank(
        [evidence("overfit", 10.0, 0.01), evidence("robust", 9.0, 0.5), evidence("weak", 2, 0.5)],
        EPISODES, seed=0,
    )  # fmt: skip
    assert [row.name for row in found.rows] == ["robust", "overfit", "weak"]
    assert found.rows[0].simulation_rank == 2
    assert "robust comes first here and 2. by its return" in found.warning
    assert found.rows[0].best == 1.0 and found.conclusive


def test_where_nothing_looks_strange_the_simulation_decides_and_nothing_is_warned_of():
    found = rank([evidence(f"p{n}", 3.0 * n, 0.5) for n in range(4)], EPISODES, top=2, seed=0)
    assert [row.name for row in found.rows] == ["p3", "p2", "p1", "p0"]
    assert found.warning == ""
    assert [row.top for row in found.rows] == [1.0, 1.0, 0.0, 0.0]


def test_equal_policies_are_inconclusive_and_share_the_chance_to_be_best():
    found = rank([evidence(f"p{n}", 5.0, 0.5, seed=n) for n in range(2)], EPISODES, seed=0)
    assert not found.conclusive
    assert sum(row.best for row in found.rows) == pytest.approx(1.0)
    assert 0.02 < found.rows[1].best < 0.98


def test_intervals_are_over_episodes_not_over_samples():
    p = np.where(EPISODES < 4, 0.9, 0.1)  # half of the episodes look strange
    generator = np.random.default_rng(1)
    one = Evidence("one", generator.normal(size=100), p)
    (row,) = rank([one], EPISODES, seed=0).rows
    assert row.p.value == pytest.approx(0.5)
    assert row.p.high - row.p.low > 0.4  # of 200 independent samples it would be 0.11
    assert row.simulation.high - row.simulation.low == pytest.approx(3.92 / 10, rel=0.2)


def test_a_specification_is_a_gate():
    held, broken = np.full(100, 0.2), np.where(np.arange(100) < 10, -0.1, 0.2)
    found = rank(
        [evidence("unsafe", 9, 0.5, robustness=broken), evidence("safe", 3, 0.5, robustness=held)],
        EPISODES, seed=0,
    )  # fmt: skip
    assert [row.name for row in found.rows] == ["safe", "unsafe"]
    gate = found.rows[1].gate
    assert (gate.satisfied, gate.episodes, gate.passed) == (90, 100, False)
    assert gate.low == pytest.approx(0.8363, abs=1e-3)  # Clopper and Pearson, one-sided
    assert gate.fifth_percentile == pytest.approx(-0.1)
    assert found.rows[0].gate.low == pytest.approx(0.05 ** (1 / 100))


def test_evidence_that_does_not_belong_together_is_refused():
    other = Evidence("other", np.zeros(50), np.zeros(3))
    with pytest.raises(InputError) as refused:
        rank([evidence("a", 1, 0.5), other], EPISODES, combiner="best", top=3, seed=0)
    told = str(refused.value)
    for part in ("ranking.returns", "ranking.p_values", "ranking.combiner", "ranking.top"):
        assert part in told


def test_every_combiner_prefers_what_is_better_in_both():
    returns, p = np.array([[3.0], [2.0], [1.0]]), np.array([[0.5], [0.3], [0.1]])
    for name, combine in ranking.COMBINERS.items():
        assert combine(returns, p)[:, 0].argmax() == 0, name


def test_metrics():
    scores, truth = np.array([4.0, 3, 2, 1]), np.array([0.8, 1.0, 0.5, 0.1])
    assert ranking.spearman(scores, truth) == pytest.approx(0.8)
    assert ranking.kendall(scores, truth) == pytest.approx(2 / 3)
    assert ranking.regret(scores, truth, 1) == pytest.approx(0.2)
    assert ranking.regret(scores, truth, 3) == 0.0
    assert ranking.mean_maximum_rank_violation(scores, truth) == pytest.approx(0.1)
    assert np.isnan(ranking.spearman(np.ones(3), np.arange(3.0)))
