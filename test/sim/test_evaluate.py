"""`robot-policies evaluate`: the command as a user runs it, on a few quadrotors."""

import importlib.util
import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from robot_policies import cli
from robot_policies.strict import ContractError
from sim import evaluate
from sim.evaluate import Options

ROOT = Path(__file__).parents[2]
RAPTOR = ROOT / "robot_policies/zoo/raptor"
needs_raptor = pytest.mark.skipif(
    not (RAPTOR / "policy.json").exists(), reason="zoo:raptor is not imported"
)
HAS_L2F = importlib.util.find_spec("l2f") is not None
FEW = ("--quadrotors", "6", "--episodes", "2", "--seeds", "3", "4")


def main(capsys, *arguments):
    try:
        code = cli.main(["evaluate", *map(str, arguments)])
    except SystemExit as end:
        code = int(end.code or 0)
    return code, *capsys.readouterr()


@needs_raptor
def test_bundles_fly_the_same_flights_and_are_compared(tmp_path, capsys):
    copy = shutil.copytree(RAPTOR, tmp_path / "copy")
    cases = ("--cases", "noise", "gusts")
    code, out, _ = main(capsys, RAPTOR, copy, *FEW, *cases, "--json")
    assert code == 0
    document = json.loads(out)
    assert [case["case"] for case in document["cases"]] == ["noise", "gusts"]
    for case in document["cases"]:
        rows = {(row["bundle"], row["set"]): row for row in case["figures"]}
        for label in ("seed 3", "seed 4", "all"):
            mine, theirs = (dict(rows[str(bundle), label]) for bundle in (RAPTOR, copy))
            assert mine.pop("bundle") != theirs.pop("bundle") and mine == theirs
        difference = rows[str(copy), f"all, minus {RAPTOR}"]["return"]
        assert difference == {"value": 0, "low": 0, "high": 0}
    returns = [case["figures"][0]["return"]["value"] for case in document["cases"]]
    assert len(set(returns)) == 2


@needs_raptor
def test_the_output_is_one_page_with_its_plots_and_numbers(tmp_path, capsys):
    output = tmp_path / "deep" / "out"
    arguments = ("zoo:raptor", *FEW, "--trajectory", "figure-eight", "--output", output)
    code, out, err = main(capsys, *arguments)
    assert code == 0 and "median tracking, m" in out, err
    assert {path.name for path in output.iterdir()} == {
        "index.html", "recovery.png", "result.json", "tracking.png",
    }  # fmt: skip
    page = (output / "index.html").read_text()
    assert page.count("data:image/png;base64,") == 2 and "http" not in page
    assert json.loads((output / "result.json").read_text())["options"]["quadrotors"] == 6
    code, _, err = main(capsys, *arguments)
    assert code == 2 and "expected no such folder yet" in err


@needs_raptor
def test_standard_airframes_have_a_row_each(capsys):
    arguments = ("--airframes", "standard", "--episodes", "3", "--seeds", "0", "1")
    code, out, _ = main(capsys, "zoo:raptor", *arguments, "--json")
    rows = {row["set"]: row for row in json.loads(out)["cases"][0]["figures"]}
    assert code == 0 and len(rows) == 7
    assert rows["crazyflie"]["median final distance"]["value"] == pytest.approx(0.053, abs=2e-3)
    assert rows["all"]["survival"]["value"] == 1


@needs_raptor
def test_an_airframe_of_your_own_flies(capsys):
    own = ROOT / "config" / "airframe_example.yaml"
    arguments = ("--airframes", str(own), "--episodes", "3", "--seeds", "0", "1", "--json")
    code, out, _ = main(capsys, "zoo:raptor", "zoo:quadrotor", *arguments)
    row, _, difference = json.loads(out)["cases"][0]["figures"]
    assert code == 0 and row["set"] == "airframe_example"
    assert row["median final distance"]["value"] == pytest.approx(0.053, abs=2e-3)
    assert difference["set"] == "all, minus zoo:raptor"
    interval = difference["return"]  # over its six flights
    assert interval["low"] < interval["value"] < interval["high"]


def test_a_payload_that_your_airframe_cannot_carry_is_refused_at_once(tmp_path):
    text = (ROOT / "config" / "airframe_example.yaml").read_text()
    heavy = tmp_path / "heavy.yaml"
    heavy.write_text(text.replace("mass: 0.0306", "mass: 0.0390"))
    Options(("a",), airframes=str(heavy))
    message = r"heavy can carry, found payload20, 1\.2 times the mass, .* over weight of 0\.9"
    with pytest.raises(ValueError, match=message):
        Options(("a",), airframes=str(heavy), cases=("nominal", "payload20"))


def test_no_constant_force_pushes_known_airframes():
    bundles, cases = ("zoo:quadrotor",), ("nominal", "calm")
    options = Options(bundles, airframes="standard", episodes=2, cases=cases)
    nominal, calm = (row.total for row in evaluate.run(options).rows)
    np.testing.assert_array_equal(nominal.total_reward, calm.total_reward)


@needs_raptor
def test_the_policy_of_the_zoo_outlives_and_outflies_its_peer():
    options = Options(
        ("zoo:raptor", "zoo:quadrotor"), quadrotors=64, episodes=2, seeds=(0,),
        cases=("nominal", "delay10"),
    )  # fmt: skip
    evaluation = evaluate.run(options)
    for case in options.cases:
        peer, ours = (row.total for row in evaluation.of(case))
        assert ours.total_reward.mean() > peer.total_reward.mean()
        assert ours.survived.mean() > peer.survived.mean()
        assert np.median(ours.final_distance) < np.median(peer.final_distance)


@needs_raptor
def test_a_lost_majority_is_null_in_json_not_a_number_that_it_is_not():
    options = Options(("zoo:raptor",), quadrotors=6, episodes=2, cases=("delay20",), seeds=(0,))
    evaluation = evaluate.run(options)
    total = evaluation.rows[0].total
    assert total.survived.mean() < 0.5
    row = evaluation.document()["cases"][0]["figures"][0]
    assert row["median final distance"]["value"] is None
    distance = evaluation.rows[0].trace.distance
    assert distance.shape == (501, 12)
    np.testing.assert_array_equal(np.isfinite(distance[-1]), total.survived.flatten())


def test_the_cases_can_be_listed(capsys):
    code, out, _ = main(capsys, "--cases")
    assert code == 0
    assert all(name in out for name in ("nominal", "delay10", "payload20", "any-attitude"))


def test_a_bundle_with_other_signals_is_refused(leg, capsys):
    code, _, err = main(capsys, leg)
    assert code == 3
    assert "position_error, rotation_matrix" in err and "the quadrotor task cannot fly" in err


def at_another_rate(contract):
    timing = replace(contract.timing, control_hz=50.0)
    return replace(contract, timing=timing, chunk=replace(contract.chunk, interval_s=0.02))


def with_other_motors(contract):
    names = contract.robot.actuators[::-1]
    signals = [
        replace(s, elements=names) if s.source == "previous_action" else s
        for s in contract.observation
    ]
    action = replace(contract.action[0], elements=names)
    robot = replace(contract.robot, actuators=names)
    return replace(contract, robot=robot, observation=tuple(signals), action=(action,))


@needs_raptor
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (at_another_rate, "timing: expected 100 Hz, one action a step, found 50 Hz"),
        (with_other_motors, "action: expected motors front_right, .* found motors front_left,"),
    ],
)
def test_a_quadrotor_bundle_for_another_rate_or_motor_order_is_refused(
    change, message, monkeypatch
):
    policy = evaluate.load_policy("zoo:raptor")
    policy.contract = change(policy.contract)
    monkeypatch.setattr(evaluate, "load_policy", lambda name: policy)
    with pytest.raises(ContractError, match=message):
        evaluate.load("zoo:raptor")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "bundles: expected at least one"),
        (("a", "a"), "bundles: .*none of them twice; found a, a"),
        (("a", "--cases", "storm"), "cases: expected some of nominal, .*; found 'storm'"),
        (("a", "--airframes", "standard", "--quadrotors", "3"), "quadrotors: expected none"),
        (("a", "--quadrotors", "1"), "quadrotors: expected at least 2, .*; found 1"),
        (
            ("a", "--airframes", "standard", "--episodes", "1", "--seeds", "0"),
            "episodes x seeds: expected at least 2, .*; found 1",
        ),
        (("a", "--airframes", "mine"), "expected sampled, standard or a YAML file, found 'mine'"),
        (("a", "--airframes", "none.yaml"), "none.yaml"),
        (("a", "--simulator", "l2f", "--trajectory", "langevin"), "expected torch for the traj"),
        (("a", "--simulator", "l2f", "--cases", "delay10"), "flies nominal, calm, any-attitude"),
        (("a", "--simulator", "l2f", "--quadrotors", "129"), "at most 1024 flights at once"),
    ],
)
def test_contradictions_are_named_before_anything_flies(arguments, message, capsys, monkeypatch):
    monkeypatch.setattr("robot_policies.cli.evaluate.require_bundle", lambda name: None)
    code, _, err = main(capsys, *arguments)
    assert code == 2 and "Traceback" not in err
    assert re.search(message, " ".join(err.split())), err


@pytest.mark.skipif(HAS_L2F, reason="L2F is installed")
def test_without_l2f_the_message_says_how_long_its_build_takes(capsys, monkeypatch):
    monkeypatch.setattr("robot_policies.cli.evaluate.require_bundle", lambda name: None)
    code, _, err = main(capsys, "a", "--simulator", "l2f")
    assert code == 2 and "over 13 minutes" in err and "trimmed" in err and "--l2f-python" in err


@needs_raptor
@pytest.mark.skipif(not HAS_L2F, reason="L2F is not installed")
def test_l2f_flies_a_bundle_as_this_simulator_does():
    arguments = {"quadrotors": 16, "episodes": 2, "cases": ("nominal", "any-attitude")}
    runs = [
        evaluate.run(Options(("zoo:raptor",), simulator=name, **arguments))
        for name in ("torch", "l2f")
    ]
    for ours, theirs in zip(*(run.rows for run in runs), strict=True):
        np.testing.assert_array_equal(ours.total.survived, theirs.total.survived)
        np.testing.assert_allclose(ours.total.total_reward, theirs.total.total_reward, atol=0.05)
