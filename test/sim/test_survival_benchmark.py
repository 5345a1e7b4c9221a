"""The survival benchmark, run as a user would, on a tiny set."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def run(*arguments):
    command = [sys.executable, "benchmarks/raptor_survival.py", *arguments]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)


@pytest.mark.skipif(
    not (ROOT / "robot_policies/zoo/raptor/policy.json").exists(),
    reason="zoo:raptor is not imported",
)
def test_a_tiny_run_prints_its_setting_and_its_rows():
    done = run("--quadrotors", "4", "--episodes", "2", "--seeds", "3")
    assert done.returncode in (1, 4, 0), done.stderr
    assert "4 quadrotors x 2 episodes per seed, seeds [3]" in done.stdout
    rows = [line for line in done.stdout.splitlines() if line.startswith("| zoo:raptor, here |")]
    assert len(rows) == 4  # one seed and the pool, with and without force


def test_a_bundle_that_is_not_there_ends_in_one_line():
    done = run("--bundle", "nowhere")
    assert done.returncode == 2
    assert "nowhere" in done.stderr and "Traceback" not in done.stderr
