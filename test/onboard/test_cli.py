"""The command: exit codes, one JSON document on standard output, no traceback."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import onnx
import pytest
from leg_policy import bundle_files, leg_contract, rehash
from test_bundle import make_keys
from test_import_onnx import EXAMPLE, lstm, mlp, plain, write_yaml

from robot_policies import bundle as bundles
from robot_policies import cli
from robot_policies.contract import Timing

ROOT = Path(__file__).parents[2]


def run(*arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the command in a process of its own."""
    command = [sys.executable, "-m", "robot_policies.cli", *map(str, arguments)]
    variables = {**os.environ, **environment}
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=variables)


def main(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    """Run the command in this process: code, standard output, standard error."""
    try:
        code = cli.main([str(argument) for argument in arguments])
    except SystemExit as end:
        code = int(end.code or 0)
    return code, *capsys.readouterr()


def test_verify_shows_a_checklist(leg: Path) -> None:
    done = run("verify", leg)
    assert done.returncode == 0 and done.stderr == ""
    for name in ("files", "contract", "signature", "graph", "golden replay", "latency", "p99"):
        assert name in done.stdout


def test_json_is_one_document(leg: Path, capsys) -> None:
    code, out, err = main(capsys, "verify", leg, "--json", "--no-latency")
    document = json.loads(out)
    assert code == 0 and err == "" and document["ok"]
    assert [c["status"] for c in document["checks"]][-1] == "not run"


def test_a_refused_bundle_ends_with_3_and_every_violation(leg_copy: Path, capsys) -> None:
    rehash(leg_copy, lambda d: d["timing"].update(control_hz=60.0) or d["robot"].update(model="x"))
    code, out, err = main(capsys, "verify", leg_copy)
    assert code == 3 and err == ""  # the checklist is the result
    assert "timing.control_hz" in out and "robot.model" in out
    code, out, _ = main(capsys, "verify", leg_copy, "--json")
    assert code == 3 and json.loads(out)["refused"]


def test_a_policy_that_is_only_too_slow_ends_with_1(tmp_path: Path, capsys) -> None:
    contract = leg_contract(timing=Timing(50.0, 0.04, max_inference_s=1e-9))
    bundles.write(tmp_path / "leg", contract, bundle_files(contract))
    assert main(capsys, "verify", tmp_path / "leg")[0] == 1


@pytest.mark.parametrize(
    "arguments",
    [
        ["verify"],
        ["verify", "no/such/bundle"],
        ["verify", "zoo:no_such_bundle"],
        ["verify", "BUNDLE", "--trusted-key", "no/such.pem"],
        ["verify", "BUNDLE", "--colour", "red"],
        ["fly"],
        [],
        ["sign", "BUNDLE", "--key", "no/such.pem"],
        ["import", "onnx", "no/such.onnx", "--signals", "no/such.yaml", "--output", "x"],
    ],
)
def test_bad_usage_ends_with_2_and_names_it(leg: Path, capsys, arguments: list[str]) -> None:
    given = [str(leg) if argument == "BUNDLE" else argument for argument in arguments]
    code, out, err = main(capsys, *given)
    assert code == 2 and out == "" and err
    assert "Traceback" not in err
    named = [a for a in arguments if "no" in a or a in ("red", "fly")]
    assert not named or any(name in err for name in named)


def test_bad_usage_with_json_is_a_document_too(capsys) -> None:
    code, out, err = main(capsys, "verify", "no/such/bundle", "--json")
    assert code == 2 and err == ""
    assert "no/such/bundle" in json.loads(out)["error"]


def test_an_internal_error_is_one_line(leg: Path, capsys, monkeypatch) -> None:
    def fail(*arguments: object, **options: object) -> None:
        raise RuntimeError("line one\nline two")

    monkeypatch.setattr("robot_policies.verify.verify", fail)
    code, out, err = main(capsys, "verify", leg)
    assert code == 70 and out == ""
    assert err.count("\n") == 1 and "RuntimeError: line one line two" in err
    monkeypatch.setenv(cli.DEBUG, "1")
    assert "Traceback" in main(capsys, "verify", leg)[2]


def test_sign_and_verify_with_a_key(leg_copy: Path, tmp_path: Path, capsys) -> None:
    private, public = make_keys(tmp_path, "team")
    assert main(capsys, "verify", leg_copy, "--trusted-key", public)[0] == 3
    assert main(capsys, "sign", leg_copy, "--key", private)[0] == 0
    code, out, _ = main(capsys, "verify", leg_copy, "--trusted-key", public, "--json")
    signature = next(c for c in json.loads(out)["checks"] if c["name"] == "signature")
    assert code == 0 and len(signature["figures"]["signed_by"]) == 64


def test_a_bundle_that_does_not_load_is_not_signed(leg_copy: Path, tmp_path: Path, capsys) -> None:
    private, _ = make_keys(tmp_path, "team")
    rehash(leg_copy, lambda document: document["timing"].update(control_hz=60.0))
    code, _, err = main(capsys, "sign", leg_copy, "--key", private)
    assert code == 3 and "control_hz" in err
    assert not (leg_copy / "policy.sig").exists()


def test_the_example_is_imported(tmp_path: Path, capsys) -> None:
    onnx.save(lstm(), tmp_path / "leg.onnx")
    arguments = ["import", "onnx", tmp_path / "leg.onnx", "--signals", EXAMPLE]
    code, out, err = main(capsys, *arguments, "--output", tmp_path / "leg", "--json")
    document = json.loads(out)
    assert code == 0 and err == ""
    assert document["max_difference"] <= 1e-6 and document["notes"] == []
    assert main(capsys, "verify", tmp_path / "leg")[0] == 0
    code, _, err = main(capsys, *arguments, "--output", tmp_path / "leg")
    assert code == 2 and "--replace" in err
    assert main(capsys, *arguments, "--output", tmp_path / "leg", "--replace")[0] == 0


def test_an_import_that_is_refused_names_the_keys(tmp_path: Path, capsys) -> None:
    onnx.save(mlp(), tmp_path / "leg.onnx")
    document = plain()
    del document["observation"][0]["unit"], document["timing"]
    signals = write_yaml(tmp_path, document)
    code, _, err = main(
        capsys, "import", "onnx", tmp_path / "leg.onnx", "--signals", signals,
        "--output", tmp_path / "leg",
    )  # fmt: skip
    assert code == 3
    assert "observation[0].unit" in err and "timing" in err
    assert not (tmp_path / "leg").exists()


@pytest.mark.parametrize(
    "command", [[], ["import"], ["import", "raptor"], ["import", "onnx"], ["export"], ["verify"],
                ["sign"], ["doctor"]],
)  # fmt: skip
def test_every_help_has_an_example(capsys, command: list[str]) -> None:
    code, out, _ = main(capsys, *command, "--help")
    assert code == 0
    assert "Example: robot-policies" in out


def test_doctor_reports_as_json() -> None:
    done = run("doctor", "--json", OMP_NUM_THREADS="1")
    findings = {f["name"]: f for f in json.loads(done.stdout)["findings"]}
    assert findings["OMP_NUM_THREADS"]["status"] == "ok"
    assert findings["package robot_policies"]["found"] == str(ROOT / "robot_policies")
    assert all(f["mend"] for f in findings.values() if f["status"] != "ok")
    assert done.returncode == int(any(f["status"] == "fail" for f in findings.values()))


def test_verify_works_from_any_folder(leg: Path, tmp_path: Path) -> None:
    shutil.copytree(leg, tmp_path / "leg")
    command = [sys.executable, "-m", "robot_policies.cli", "verify", "leg"]
    variables = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, capture_output=True, cwd=tmp_path, env=variables)
    assert done.returncode == 0
