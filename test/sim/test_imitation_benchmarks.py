"""The benchmark of what chunk policies cost, run as a user would, on a tiny set."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def run(*arguments):
    command = [sys.executable, "benchmarks/imitation_latency.py", *arguments]
    environment = {k: v for k, v in os.environ.items() if k != "LEROBOT_PYTHON"}
    environment |= {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)


def test_a_tiny_run_prints_its_setting_a_row_for_each_policy_and_its_verdict():
    done = run("steps", "--batch", "4", "--blocks", "2", "--calls", "2", "--seed", "3")
    assert done.returncode == 0, done.stderr
    assert "seed 3, one thread" in done.stdout
    rows = [line for line in done.stdout.splitlines() if line.startswith("| energy, by ")]
    assert len(rows) == 2 and all("| 4 |" in row for row in rows)
    assert "met    the same loss" in done.stdout


def test_a_peer_that_is_not_there_ends_in_one_line():
    nowhere = run("peer")
    another = run("peer", "--lerobot-python", sys.executable)
    assert nowhere.returncode == another.returncode == 2
    assert "--lerobot-python: expected a Python with lerobot" in nowhere.stderr
    assert "found one that ended" in another.stderr.splitlines()[-1]
