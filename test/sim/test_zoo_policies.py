"""The zoo's chunk policies do in simulation what their model cards say."""

from __future__ import annotations

import pytest

from robot_policies import load_policy
from robot_policies.bundle import resolve
from sim.tasks.evaluation import Options, evaluate, run

NAMES = ("zoo:energy-pick-place", "zoo:diffusion-pick-place", "zoo:flow-pick-place")


def test_together_they_are_small():
    files = (file for name in NAMES for file in resolve(name).iterdir())
    assert sum(file.stat().st_size for file in files) < 15e6


@pytest.mark.parametrize("name", NAMES)
def test_they_pick_and_place(name):
    options = Options((name,), "meta-world/pick-place", "mujoco", episodes=20, seed=11)
    found = evaluate({name: load_policy(name)}, options)
    assert found.figures[name]["success"].value >= 0.75


def test_two_ways_to_a_chunk_stand_side_by_side():
    names = ("zoo:flow-pick-place", "zoo:flow-pick-place@flow-1")
    found = run(Options(names, "meta-world/pick-place", "mujoco", episodes=5, seed=11))
    default, other = (found.records[name]["final_distance"] for name in names)
    assert len(default) == len(other) == 5 and not (default == other).any()
