"""robot-policies export CHECKPOINT."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from test_export import SIZES, contract, network

from robot_policies import cli
from robot_policies.export import save_checkpoint


def test_export(tmp_path: Path, capsys) -> None:
    save_checkpoint(tmp_path / "checkpoint.pt", network(), SIZES, contract(), {})
    arguments = ["export", str(tmp_path / "checkpoint.pt"), "--output", str(tmp_path / "leg")]
    assert cli.main([*arguments, "--seed", "4", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["max_difference"] <= 1e-6
    assert cli.main(arguments) == 2
    assert "--replace" in capsys.readouterr().err
    assert cli.main(["verify", str(tmp_path / "leg"), "--no-latency"]) == 0


def test_what_is_no_checkpoint_is_refused(tmp_path: Path, capsys) -> None:
    torch.save([1, 2, 3], tmp_path / "checkpoint.pt")
    arguments = ["export", str(tmp_path / "checkpoint.pt"), "--output", str(tmp_path / "leg")]
    assert cli.main(arguments) == 2
    assert "checkpoint.pt" in capsys.readouterr().err
