"""Fixtures for all tests."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from leg_policy import bundle_files, leg_contract

from robot_policies.bundle import write


@pytest.fixture(scope="session")
def leg(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A valid bundle; do not change it (see `leg_copy`)."""
    path = tmp_path_factory.mktemp("bundles") / "leg"
    contract = leg_contract()
    write(path, contract, bundle_files(contract))
    return path


@pytest.fixture
def leg_copy(leg: Path, tmp_path: Path) -> Path:
    """A valid bundle to spoil."""
    return Path(shutil.copytree(leg, tmp_path / "leg"))
