"""The model of what follows from commands."""

import numpy as np
import pytest

from robot_policies.dynamics import fit


def run(count, seed, gain=0.1):
    generator = np.random.default_rng(seed)
    state, command = generator.normal(size=(2, count, 3))
    after = state + gain * command - 0.2 * np.sin(state) + 0.01 * generator.normal(size=(count, 3))
    return np.concatenate([state, command], axis=1), after


def test_what_it_learned_is_explained_and_other_dynamics_are_not():
    model = fit(*run(6000, 0), seed=0)
    assert model.residual(*run(1000, 1)).mean() == pytest.approx(0.0, abs=0.3)
    assert model.residual(*run(1000, 1, gain=0.2)).mean() > 3
    left = model.unexplained(*run(1000, 1)).std(0)
    assert left == pytest.approx([0.01] * 3, rel=0.5)  # the noise, though the dynamics are bent


def test_the_same_seed_gives_the_same_model():
    samples = run(500, 0)
    assert fit(*samples, seed=3).to_bytes() == fit(*samples, seed=3).to_bytes()
