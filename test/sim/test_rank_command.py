"""The whole way: real data of a changed robot, simulation, references, and a ranking."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from robot_policies import cli
from robot_policies.bundle import resolve
from sim import ranking
from sim.randomization_terms import Spec, Term
from sim.ranking import Options, record, simulate
from sim.reinforcement import Optimisation, ReinforcementConfig, train_bundle
from sim.tasks import watched

JOINTS = tuple(f"joint{n}" for n in range(1, 8))
LATE = Spec((
    Term("delay", "actuator_delay", JOINTS, "set", {"choice": (3,), "probabilities": (1.0,)},
         True, None),
))  # fmt: skip
SPECIFICATION = (Path(__file__).parents[2] / "config/specification_example.stl").read_text()


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """An untrained policy, data of a robot whose commands are late, and a specification."""
    folder = tmp_path_factory.mktemp("rank")
    config = ReinforcementConfig(
        0, "arm-reach", "mujoco", environments=8, ppo=Optimisation(iterations=1, steps=8)
    )
    train_bundle(config, folder / "run", resume=False, threads=1, command="a test")
    options = Options("arm-reach", "mujoco", seed=9, reference_episodes=12)
    record(options, LATE).save(folder / "late.npz")
    (folder / "arrive.stl").write_text(SPECIFICATION)
    return folder


def rank(files, *more, bundles=("zoo:arm-reach", "RUN"), real="late.npz"):
    named = [str(files / "run/bundle") if name == "RUN" else name for name in bundles]
    return cli.main([
        "rank", *named, "--real", str(files / real), "--task", "arm-reach", "--engine", "mujoco",
        "--behaviour", "expert", "--seed", "0", "--episodes", "60", "--reference-episodes", "24",
        "--cache", str(files / "cache"), *more,
    ])  # fmt: skip


def test_the_trained_policy_comes_first_and_the_other_fails_the_gate(files, tmp_path, capsys):
    output = tmp_path / "ranking"
    given = ("--spec", str(files / "arrive.stl"), "--output", str(output), "--json")
    assert rank(files, *given) == 0
    document = json.loads(capsys.readouterr().out)
    first, last = document["rows"]
    assert first["name"] == "zoo:arm-reach" and first["best"] == 1.0
    assert first["gate"]["passed"] and not last["gate"]["passed"]
    assert first["simulation"]["low"] > last["simulation"]["high"]
    (_, worst) = document["worst_episodes"]
    assert worst["robustness"] < 0 and worst["clause"].startswith("eventually[0, 2 s]")
    assert {path.name for path in output.iterdir()} == {
        f"ranking.{suffix}" for suffix in ("json", "csv", "md", "html")
    }
    assert "zoo:arm-reach" in (output / "ranking.csv").read_text().splitlines()[1]


def test_a_policy_that_was_never_late_finds_late_commands_stranger(files, capsys):
    """zoo:arm-reach was trained with delays of up to two steps, the other one without."""
    assert rank(files, "--json") == 0
    rows = {row["name"]: row for row in json.loads(capsys.readouterr().out)["rows"]}
    untrained = rows[str(files / "run/bundle")]
    assert untrained["p"]["high"] < rows["zoo:arm-reach"]["p"]["low"]


def test_what_was_simulated_is_kept_and_planned(files, capsys):
    assert rank(files, "--dry-run", "--json", "--episodes", "61") == 0
    planned = json.loads(capsys.readouterr().out)["planned"]
    assert {row["simulated"] for row in planned} == {"to do"}
    rank(files)
    capsys.readouterr()
    assert rank(files, "--dry-run", "--json") == 0
    planned = json.loads(capsys.readouterr().out)["planned"]
    assert {(row["simulated"], row["reference"]) for row in planned} == {("cached", "cached")}


def test_equal_policies_are_inconclusive_with_strict(files, tmp_path):
    copy = shutil.copytree(resolve("zoo:arm-reach"), tmp_path / "copy")
    bundles = ("zoo:arm-reach", str(copy))
    assert rank(files, bundles=bundles) == 0
    assert rank(files, "--strict", bundles=bundles) == 4


def test_data_in_degrees_are_not_comparable(files, capsys):
    with np.load(files / "late.npz") as archive:
        arrays = dict(archive)
    arrays["joint_position"] = np.degrees(arrays["joint_position"])
    np.savez(files / "degrees.npz", **arrays)
    assert rank(files, real="degrees.npz") == 3
    told = capsys.readouterr().out
    assert "FAIL joint_position unit" in told and "degrees, not radians" in told


def test_when_no_policy_keeps_the_specification_none_should_go(files, tmp_path, capsys):
    (tmp_path / "still.stl").write_text("always (joint_velocity < 0.01 rad/s)")
    assert rank(files, "--spec", str(tmp_path / "still.stl")) == 1
    assert "none should go on the robot" in capsys.readouterr().out


def test_policies_from_demonstrations_are_ranked_by_what_energy_they_give_real_data(
    tmp_path, capsys
):
    """They do not say what was randomised: --reference does."""
    (tmp_path / "nothing.yaml").write_text("terms: []")
    options = Options("meta-world/push", "mujoco", seed=9, reference_episodes=4)
    record(options, Spec(())).save(tmp_path / "real.npz")

    def call(*more):
        return cli.main([
            "rank", "zoo:energy-pick-place", "--real", str(tmp_path / "real.npz"), "--task",
            "meta-world/push", "--engine", "mujoco", "--behaviour", "expert", "--seed", "0",
            "--episodes", "3", "--reference-episodes", "4", "--cache", str(tmp_path / "cache"),
            "--detector", "energy", *more,
        ])  # fmt: skip

    assert call() == 2
    assert "give it with --reference" in capsys.readouterr().err
    assert call("--reference", str(tmp_path / "nothing.yaml"), "--json") == 0
    (row,) = json.loads(capsys.readouterr().out)["rows"]
    assert 0.3 < row["p"]["value"] < 0.7


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (("--spec", "SPEC"), "expected one of the signals"),
        (("--task", "arm-push"), "target_position"),
        (("--behaviour", "zoo:nothing"), "no such bundle"),
    ],
)
def test_what_does_not_fit_is_refused(files, tmp_path, capsys, change, told):
    (tmp_path / "other.stl").write_text("always (tilt < 0.1 rad)")
    change = tuple(str(tmp_path / "other.stl") if word == "SPEC" else word for word in change)
    assert rank(files, *change) in (2, 3)
    captured = capsys.readouterr()
    assert told in captured.err + captured.out


# What simulation gives.


def test_a_specification_sees_whole_episodes(files):
    options = Options(
        "arm-reach", "mujoco", seed=0, episodes=30, environments=20, specification=SPECIFICATION
    )
    found = simulate("zoo:arm-reach", options, Path(files / "other"))
    again = simulate("zoo:arm-reach", options, Path(files / "other"))
    assert found.robustness.shape == (30,) and (found.robustness > 0).mean() > 0.9
    np.testing.assert_array_equal(found.robustness, again.robustness)
    assert ranking.clauses(options)[1] == "always (joint_velocity < 20 rad/s)"


def test_every_task_says_what_may_be_looked_at():
    task = ranking.make(Options("quadrotor", "torch", seed=0), Spec(()), 2)
    units = watched.units(task)
    assert (units["tilt"], units["position_error"], units["distance"]) == ("rad", "m", "m")
    task.reset(seed=0)
    assert watched.look(task)["tilt"].shape == (2,)


# The page, as a browser sees it.

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")


@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium: apt install chromium")
def test_the_page_shows_the_table_without_an_error_or_a_network(files, tmp_path):
    given = ("--spec", str(files / "arrive.stl"), "--output", str(tmp_path / "ranking"))
    assert rank(files, *given) == 0
    page = tmp_path / "ranking/ranking.html"
    quiet = ("background-networking", "component-update", "sync", "extensions", "gpu")
    shown = subprocess.run(
        [CHROMIUM, "--headless", "--no-sandbox", "--no-first-run", "--enable-logging=stderr",
         "--host-resolver-rules=MAP * ~NOTFOUND",
         *(f"--disable-{what}" for what in quiet), f"--user-data-dir={tmp_path / 'profile'}",
         f"--log-net-log={tmp_path / 'net.json'}", f"--screenshot={tmp_path / 'page.png'}",
         "--dump-dom", page.as_uri()],
        capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    assert "CONSOLE" not in shown.stderr
    assert "<td>zoo:arm-reach</td>" in shown.stdout and "<svg" in shown.stdout
    requests = re.findall(r'"url":"(https?://[^"]+)"', (tmp_path / "net.json").read_text())
    assert [url for url in requests if "google" not in url] == []  # Chromium's own
