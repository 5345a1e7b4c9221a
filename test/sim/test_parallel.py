"""Processes that train together: the same weights everywhere, and no process left behind."""

from __future__ import annotations

import os
import signal
from dataclasses import replace

import pytest
import torch

from sim import parallel
from sim.parallel import average, rank, share, together
from sim.quadrotor import foundation
from sim.quadrotor.airframes import Ranges
from sim.quadrotor.descent import Schedule, Silent
from sim.quadrotor.environment import Mixture
from sim.quadrotor.foundation import Fleet, FoundationConfig, Imitation
from sim.quadrotor.objective import CostWeights
from sim.quadrotor.rollout import Descent

SHORT = Schedule(2, 4, 1e-3, 1e-4, 0.9)
STAGE = Descent(SHORT, 1e3, Mixture(), CostWeights(), CostWeights(), 1.0)
CONFIG = FoundationConfig(
    0, 0, 16, 2, 8, (Fleet(1.0, Ranges()),), STAGE, Imitation(SHORT, Mixture(), 0.4), ()
)


def meet(value):
    """Average 1 + rank, then share `value`."""
    tensors = [torch.full((2, 3), 1.0 + rank()), torch.tensor(10.0 * rank())]
    average(tensors)
    return [float(tensor.sum()) for tensor in tensors], share(value if rank() == 0 else None)


def follow(file):
    """Write down what the second process found."""
    file.write_text(repr((rank(), *meet(None))))


def test_processes_average_and_share(tmp_path):
    with together(2, follow, tmp_path / "found"):
        found = rank(), *meet("one")
    assert found == (0, [9.0, 5.0], "one")
    assert (tmp_path / "found").read_text() == repr((1, *found[1:]))
    assert meet("alone") == ([6.0, 0.0], "alone")


def fall():
    """Be killed before the others' second meeting."""
    meet(None)
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_process_that_dies_ends_the_others():
    with pytest.raises(ConnectionError, match="--resume"), together(2, fall):
        meet("one")
        meet("two")
    with pytest.raises(KeyError), together(2, wait):
        raise KeyError


def wait():
    """Wait for a first process that never comes."""
    parallel.share(None)


def be_interrupted():
    """Get the terminal's Ctrl-C, as all processes do."""
    os.kill(os.getpid(), signal.SIGINT)
    meet(None)


def test_an_interrupt_is_left_to_the_first_process():
    with together(2, be_interrupted):
        assert meet("one") == ([9.0, 5.0], "one")


def diverge():
    """End as training does that diverges, in all processes at once."""
    raise FloatingPointError("not finite")


def test_only_the_first_process_reports_what_both_meet(capfd):
    with pytest.raises(ConnectionError, match="found one ended"), together(2, diverge):
        meet("one")
    assert "Traceback" not in capfd.readouterr().err


def train_uncompiled(config, file=None):
    """Train without compilation, which takes a minute and changes nothing but speed."""
    with pytest.MonkeyPatch.context() as patch, torch.compiler.set_stance("force_eager"):
        patch.setattr("sim.quadrotor.adjoint.lower", lambda function, examples: function)
        weights = foundation.train(config, None, Silent()).state_dict()
    if file is not None:
        torch.save(weights, file)
    return weights


def test_training_in_two_processes_gives_one_policy(tmp_path):
    config = replace(CONFIG, tuning=(STAGE,))
    with together(2, train_uncompiled, config, tmp_path / "weights"):
        first = train_uncompiled(config)
    torch.testing.assert_close(torch.load(tmp_path / "weights"), first, rtol=0, atol=0)
