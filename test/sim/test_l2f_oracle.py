"""Our dynamics against L2F, the authors' simulator: stored flights always, L2F where it is."""

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from sim.quadrotor import dynamics, l2f_peer, scenario
from sim.quadrotor.dynamics import State
from sim.quadrotor.replay import replay, scaled_difference

TOLERANCE = 5e-5  # of L2F's single precision after 50 steps; relative where values exceed one
DATA = Path(__file__).parents[1] / "data"
HAS_L2F = importlib.util.find_spec("l2f") is not None


@pytest.fixture(params=["axis_force", "own_disturbance"])
def record(request):
    with np.load(DATA / f"l2f_{request.param}.npz") as stored:
        return {name: stored[name] for name in stored.files}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_stored_flights_agree(record, dtype):
    difference = scaled_difference(replay(record, dtype)["state"], record["l2f_state"])
    assert difference.shape == (51, 17, 12)
    assert difference.max() < TOLERANCE
    assert difference[1].max() < 1e-6


def test_stored_rewards_and_terminations_agree(record):
    ours = replay(record, torch.float32)
    np.testing.assert_allclose(ours["reward"], record["l2f_reward"], atol=1e-5)
    np.testing.assert_array_equal(ours["terminated"], record["l2f_terminated"])
    assert ours["terminated"].any() and not ours["terminated"].all()


def test_a_wrong_equation_would_be_noticed(record):
    record["inertia"] = record["inertia"] * np.float32(1.001)
    states = replay(record, torch.float64)["state"]
    assert scaled_difference(states, record["l2f_state"]).max() > 10 * TOLERANCE


def test_the_record_says_how_it_was_made(record):
    command, version = record["made_by"].tolist()
    assert command == "python benchmarks/l2f_oracle.py" and version.startswith("l2f 2.")


@pytest.mark.skipif(not HAS_L2F, reason="L2F is not installed")
def test_l2f_itself_still_gives_the_stored_flights(record):
    replayed = l2f_peer.replay(record)
    np.testing.assert_allclose(replayed["state"], record["l2f_state"], rtol=1e-4, atol=1e-4)


@pytest.mark.skipif(not HAS_L2F, reason="L2F is not installed")
def test_l2f_agrees_on_new_quadrotors():
    flights = scenario.sample(64, 1, seed=11, with_force=True, position_range=0.5)
    hover = 2 * flights.airframes.hover_action.T.numpy() - 1
    record = flights.arrays() | {"action": np.repeat(hover[None], 50, axis=0)}
    states, peer = (r["state"] for r in (replay(record, torch.float64), l2f_peer.replay(record)))
    assert scaled_difference(states, peer).max() < TOLERANCE


@pytest.mark.skipif(HAS_L2F, reason="L2F is installed")
def test_without_l2f_the_message_says_how_to_get_it(tmp_path, capsys):
    scenario.sample(1, 1, seed=0, with_force=False, position_range=0.5).save(tmp_path / "in.npz")
    code = l2f_peer.main(["fly", str(tmp_path / "in.npz"), str(tmp_path / "out.npz")])
    assert code == 2
    assert "pip install l2f==2.0.18" in capsys.readouterr().err


def test_an_interpreter_that_cannot_help_is_named(record):
    with pytest.raises(ValueError, match="expected an executable Python, found none at /nowhere"):
        l2f_peer.run("replay", record, Path("/nowhere/python"))
    if not HAS_L2F:
        with pytest.raises(ValueError, match=r"could not run replay in L2F: .*not installed"):
            l2f_peer.run("replay", record, Path(sys.executable))


def test_the_rows_of_a_state_are_those_of_the_record(record):
    state = State(torch.from_numpy(record["l2f_state"][0]))
    assert record["l2f_state"].shape[1] == dynamics.STATE_SIZE
    torch.testing.assert_close(state.quaternion_xyzw.norm(dim=0), torch.ones(12))
