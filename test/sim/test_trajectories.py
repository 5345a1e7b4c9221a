"""References: their statistics, their smoothness, and what is refused."""

import numpy as np
import pytest
import torch

from sim.quadrotor import trajectories
from sim.quadrotor.dynamics import PROTOCOL_DT
from sim.quadrotor.trajectories import TRAJECTORIES, Reference, langevin_step


def test_a_langevin_step_is_that_of_l2f():
    """Written out as in L2F's post-integration, for one axis."""
    x, v, raw_x, raw_v, noise = 0.1, -0.2, 0.3, 0.4, 0.5
    next_v = raw_v + (-1.0 * raw_v - 2.0**2 * raw_x) * 0.01 + 0.5 * 0.1 * noise
    next_x = raw_x + next_v * 0.01
    smooth_v = 0.01 * next_v + 0.99 * v
    smooth_x = x + smooth_v * 0.01
    reference = torch.tensor([x, v, raw_x, raw_v]).repeat_interleave(3)[:, None]
    found = langevin_step(reference, torch.full((3, 1), noise))
    expected = torch.tensor([smooth_x, smooth_v, next_x, next_v]).repeat_interleave(3)[:, None]
    torch.testing.assert_close(found, expected)


def test_the_raw_langevin_process_has_its_stationary_spread():
    generator = torch.Generator().manual_seed(0)
    reference = torch.zeros(12, 4000)
    for _ in range(1500):
        reference = langevin_step(reference, torch.randn(3, 4000, generator=generator))
    raw_position, raw_velocity = reference[6:9].std(), reference[9:12].std()
    assert float(raw_velocity) == pytest.approx((0.5**2 / 2) ** 0.5, rel=0.02)  # sigma^2 / 2 gamma
    assert float(raw_position) == pytest.approx((0.5**2 / 8) ** 0.5, rel=0.02)  # ... / omega^2


@pytest.mark.parametrize("name", TRAJECTORIES)
def test_every_reference_starts_at_the_origin_and_its_velocity_is_its_derivative(name):
    reference = trajectories.sample(name, count=20, steps=500, seed=1)
    assert reference.position.shape == reference.velocity.shape == (501, 3, 20)
    assert not reference.position[0].any()
    difference = reference.position.diff(dim=0) / PROTOCOL_DT
    # Either end of a step may be the one whose velocity it has.
    error = torch.minimum(
        (difference - reference.velocity[1:]).abs(), (difference - reference.velocity[:-1]).abs()
    )
    assert float(error.max()) < 0.05
    assert float(reference.velocity.abs().max()) < 2


@pytest.mark.parametrize("name", TRAJECTORIES)
def test_the_first_references_of_a_seed_do_not_depend_on_the_count(name):
    few, many = (trajectories.sample(name, count, 200, seed=3) for count in (2, 30))
    torch.testing.assert_close(few.position, many.position[..., :2], rtol=0, atol=1e-6)
    other = trajectories.sample(name, 2, 200, seed=4)
    drawn = name in ("langevin", "waypoints")
    assert torch.equal(few.position, other.position) != drawn


def test_a_figure_eight_ends_where_it_began_after_one_round():
    reference = trajectories.sample("figure-eight", 1, 500, seed=0).position[:, :, 0].numpy()
    np.testing.assert_allclose(reference[500], 0, atol=1e-5)
    np.testing.assert_allclose(np.abs(reference).max(axis=0), [0.8, 0.4, 0], atol=1e-3)


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match=r"expected one of hold, langevin, .*; found 'loop'"):
        trajectories.sample("loop", 1, 500, seed=0)
    with pytest.raises(ValueError, match="count >= 1"):
        trajectories.sample("hold", 0, 500, seed=0)
    with pytest.raises(ValueError, match=r"one shape \[T, 3, N\]"):
        Reference(torch.zeros(5, 3, 2), torch.zeros(5, 3, 1))
    with pytest.raises(ValueError, match="at least 501 instants for 2 quadrotors; found 500"):
        Reference(torch.zeros(500, 3, 2), torch.zeros(500, 3, 2)).require(500, 2)
