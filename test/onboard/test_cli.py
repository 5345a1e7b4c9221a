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
from test_verify import patient_contract

from robot_policies import bundle as bundles
from robot_policies import cli
from robot_policies.cli.command import NOBODY_READS
from robot_policies.cli.entry import DEBUG
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


def test_verify_shows_a_checklist(tmp_path: Path) -> None:
    contract = patient_contract()
    leg = bundles.write(tmp_path / "leg", contract, bundle_files(contract)).path
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
    rehash(
        leg_copy, lambda d: d["timing"].update(max_inference_s=1.0) or d["robot"].update(model="x")
    )
    code, out, err = main(capsys, "verify", leg_copy)
    assert code == 3 and err == ""  # the checklist is the result
    assert "timing.max_inference_s" in out and "robot.model" in out
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
    monkeypatch.setenv(DEBUG, "1")
    assert "Traceback" in main(capsys, "verify", leg)[2]


def test_sign_and_verify_with_a_key(leg_copy: Path, tmp_path: Path, capsys) -> None:
    private, public = make_keys(tmp_path, "team")
    assert main(capsys, "verify", leg_copy, "--trusted-key", public)[0] == 3
    assert main(capsys, "sign", leg_copy, "--key", private)[0] == 0
    code, out, _ = main(
        capsys, "verify", leg_copy, "--trusted-key", public, "--json", "--no-latency"
    )
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
    assert main(capsys, "verify", tmp_path / "leg", "--no-latency")[0] == 0
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
    command = [sys.executable, "-m", "robot_policies.cli", "verify", "leg", "--no-latency"]
    variables = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, capture_output=True, cwd=tmp_path, env=variables)
    assert done.returncode == 0


def test_what_is_no_key_no_model_and_no_yaml_is_bad_input(leg: Path, tmp_path, capsys) -> None:
    (tmp_path / "empty").write_bytes(b"")
    onnx.save(mlp(), tmp_path / "leg.onnx")
    empty, rest = tmp_path / "empty", ["--output", tmp_path / "leg"]
    for arguments, mend in (
        (["verify", leg, "--trusted-key", empty], "openssl pkey -in private.pem -pubout"),
        (["sign", leg, "--key", empty], "openssl genpkey"),
        (["import", "onnx", empty, "--signals", EXAMPLE, *rest], "give the file"),
        (["import", "onnx", tmp_path / "leg.onnx", "--signals", empty, *rest], "example.yaml"),
    ):
        code, out, err = main(capsys, *arguments)
        assert code == 2 and out == "", arguments
        assert "empty" in err and mend in err


@pytest.mark.parametrize(
    ("package", "extra"),
    [
        ("mcap", "logs"), ("cryptography", "sign"), ("torch.onnx", "train"), ("h5py", "train"),
        ("ray", "ray"), ("stable_baselines3", "sac"),
    ],
)  # fmt: skip
def test_a_missing_package_is_named_with_its_extra(
    leg: Path, capsys, monkeypatch, package: str, extra: str
) -> None:
    def fail(*arguments: object, **options: object) -> None:
        raise ModuleNotFoundError("gone", name=package)

    monkeypatch.setattr("robot_policies.verify.verify", fail)
    code, _, err = main(capsys, "verify", leg)
    assert code == 2 and f"pip install '.[{extra}]' in the checkout" in err


@pytest.mark.parametrize(
    "error",
    [
        FloatingPointError("the gradient was not finite; lower the learning rate"),
        ConnectionError("one training process ended; go on by --resume"),
        BlockingIOError("found another process at work; wait"),
        ModuleNotFoundError("found no such package; install it"),
    ],
)
def test_what_users_can_mend_is_bad_input(leg: Path, capsys, monkeypatch, error) -> None:
    def fail(*arguments: object, **options: object) -> None:
        raise error

    monkeypatch.setattr("robot_policies.verify.verify", fail)
    code, _, err = main(capsys, "verify", leg)
    assert code == 2 and err == f"error: {error}\n"


def test_without_a_compiler_no_training_begins(tmp_path: Path, capsys, monkeypatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    arguments = ["train", "quadrotor/foundation", "--output", tmp_path / "run", "--seed", "0"]
    code, _, err = main(capsys, *arguments)
    assert code == 2 and "expected a C++ compiler, found none; apt install g++" in err
    assert not (tmp_path / "run").exists()


def test_names_are_shown_as_they_are(tmp_path: Path, capsys) -> None:
    """rich would make an emoji of it."""
    _, _, err = main(capsys, "verify", tmp_path / ":x:")
    assert "/:x:" in err


@pytest.mark.parametrize("options", [["--json"], []])
def test_a_reader_that_leaves_is_no_error_of_ours(leg: Path, options: list[str]) -> None:
    """As in `robot-policies verify leg | true`."""
    reading, writing = os.pipe()
    os.close(reading)
    command = [sys.executable, "-m", "robot_policies.cli", "verify", leg, "--no-latency", *options]
    done = subprocess.run(command, stdout=writing, stderr=subprocess.PIPE, text=True, cwd=ROOT)
    os.close(writing)
    assert (done.returncode, done.stderr) == (NOBODY_READS, "")


def test_an_import_to_the_zoo_is_found_there_first(tmp_path: Path, capsys, monkeypatch) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    onnx.save(lstm(), tmp_path / "leg.onnx")
    arguments = ["import", "onnx", tmp_path / "leg.onnx", "--signals", EXAMPLE, "--json"]
    code, out, _ = main(capsys, *arguments, "--output", "zoo:raptor")
    path = tmp_path / "data" / "robot_policies" / "zoo" / "raptor"
    assert code == 0 and json.loads(out)["bundle"] == str(path)
    out = main(capsys, "verify", "zoo:raptor", "--no-latency", "--json")[1]
    assert json.loads(out)["path"] == str(path)  # not the one that came with the package
    assert f"is {path}\n" in main(capsys, "verify", "zoo:raptor", "--no-latency")[1]
    assert main(capsys, *arguments, "--output", "zoo:../x")[0] == 2
