"""Fixtures for tests of training."""

import pytest
import torch


@pytest.fixture
def uncompiled(monkeypatch):
    """Compilation takes a minute and changes nothing but speed."""
    monkeypatch.setattr("sim.quadrotor.adjoint.lower", lambda function, examples: function)
    monkeypatch.setattr("robot_policies.cli.train._require_compiler", lambda: None)
    with torch.compiler.set_stance("force_eager"):
        yield
