"""RAPTOR from the installed package: their numbers, our bundle."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest

from robot_policies import load_policy
from robot_policies.bundle import GRAPH, read
from robot_policies.importers.raptor import checkpoint_path, import_raptor, load_checkpoint
from robot_policies.sessions import open_graph
from robot_policies.strict import ContractError
from robot_policies.verify import verify

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def raptor(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("zoo") / "raptor"
    import_raptor(path)
    return path


def test_the_authors_whole_example_is_reproduced(raptor: Path) -> None:
    """500 steps of two quadrotors; theirs is the truth."""
    _, observation, action = load_checkpoint(checkpoint_path())
    bundle = read(raptor)
    session, worst = open_graph(bundle.content[GRAPH], bundle.contract), 0.0
    state = np.tile(np.float32(bundle.contract.state[0].initial), (2, 1))
    for vector, expected in zip(observation, action, strict=True):
        feed = {"observation": vector[:, None], "state": state}
        found, state = session.run(["action", "next_state"], feed)
        worst = max(worst, float(np.abs(found[:, 0] - expected).max()))
    assert worst <= 1e-6


def test_named_signals_give_what_the_authors_code_gives(raptor: Path) -> None:
    """Within the clip ranges, step by step, the previous action fed back by each side itself."""
    from foundation_policy import Raptor

    theirs, policy = Raptor(), load_policy(raptor)
    theirs.reset()
    policy.reset(batch=1)
    generator, previous = np.random.default_rng(0), np.zeros((1, 4), np.float32)
    sizes = {"position_error": 3, "rotation_matrix": 9, "linear_velocity_error": 3,
             "angular_velocity": 3}  # fmt: skip
    for _ in range(200):
        signals = {
            name: generator.uniform(-0.5, 0.5, (1, size)).astype(np.float32)
            for name, size in sizes.items()
        }
        vector = np.concatenate([*signals.values(), previous], axis=1)
        previous = np.asarray(theirs.evaluate_step(vector), np.float32)
        motors = policy.step(signals)["motors"]
        assert np.abs(policy.last.raw_action[:, 0] - previous).max() <= 1e-5
        assert np.abs(motors[:, 0] - np.clip((previous + 1) / 2, 0, 1)).max() <= 1e-5


def test_it_passes_its_checklist_and_names_its_licence(raptor: Path) -> None:
    report = verify(raptor, latency=False)
    assert report.ok, report.violations
    card = (raptor / "README.md").read_text()
    assert "MIT" in card and "foundation-policy" in card and "2509.11481" in card


def test_a_checkpoint_with_a_part_missing_is_refused(tmp_path: Path) -> None:
    spoiled = tmp_path / "checkpoint.h5"
    spoiled.write_bytes(checkpoint_path().read_bytes())
    with h5py.File(spoiled, "a") as file:
        del file["actor/layers/1/biases_input/parameters"]
    with pytest.raises(ContractError, match="biases_input"):
        load_checkpoint(spoiled)


def test_the_command_writes_it_and_nothing_else_on_the_terminal(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "robot_policies.cli", "import", "raptor", "--json"]
    environment = {**os.environ, "XDG_DATA_HOME": str(tmp_path)}
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment)
    assert (done.returncode, done.stderr) == (0, "")
    document = json.loads(done.stdout)
    assert document["bundle"] == str(tmp_path / "robot_policies" / "zoo" / "raptor")
    assert document["max_difference"] <= 1e-6
