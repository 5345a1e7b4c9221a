"""The checklist: every check says ok, failed or not run, and a bad bundle never raises."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from leg_policy import bundle_files, leg_contract, leg_graph, rehash
from test_bundle import make_keys

from robot_policies import bundle as bundles
from robot_policies.contract import Contract, Timing
from robot_policies.strict import ContractError
from robot_policies.verify import Report, recorded_signals, verify


def patient_contract() -> Contract:
    """With a limit that a busy machine keeps as well, for tests that measure the latency."""
    return leg_contract(timing=Timing(50.0, 0.04, max_inference_s=1.0))


def statuses(report: Report) -> dict[str, str]:
    return {check.name: check.status for check in report.checks}


def test_a_good_bundle_passes(tmp_path: Path) -> None:
    contract = patient_contract()
    bundles.write(tmp_path / "leg", contract, bundle_files(contract))
    report = verify(tmp_path / "leg")
    assert statuses(report) == {
        "files": "ok",
        "contract": "ok",
        "signature": "not run",
        "graph": "ok",
        "golden replay": "ok",
        "latency": "ok",
    }
    assert report.ok and not report.refused and not report.violations
    latency = report.checks[-1].figures
    assert 0.0 < latency["p50_s"] <= latency["p99_s"] <= latency["limit_s"] == 1.0
    json.dumps(report.to_dict(), allow_nan=False)


def test_what_cannot_be_checked_says_why(tmp_path: Path) -> None:
    report = verify(tmp_path / "nothing")
    assert statuses(report) == {"files": "failed"} | dict.fromkeys(
        ["contract", "signature", "graph", "golden replay", "latency"], "not run"
    )
    assert all(check.figures["reason"] for check in report.checks[1:])


def test_independent_faults_are_all_reported(leg_copy: Path) -> None:
    (leg_copy / "README.md").write_text("another policy")
    (leg_copy / "policy.onnx").write_bytes(b"")
    (leg_copy / "surplus.bin").write_bytes(b"")

    def rename_joint(document) -> None:
        document["robot"]["joints"][0] = "knee"

    policy = leg_copy / "policy.json"
    document = json.loads(policy.read_text())
    rename_joint(document)
    policy.write_text(json.dumps(document))
    text = "\n".join(map(str, verify(leg_copy).violations))
    for name in ("README.md", "policy.onnx", "surplus.bin", "knee"):
        assert name in text


def test_a_graph_of_another_contract_names_the_key(leg_copy: Path) -> None:
    def more_patient(document) -> None:
        document["timing"]["max_inference_s"] = 1.0

    rehash(leg_copy, more_patient)
    report = verify(leg_copy)
    (violation,) = report.violations
    assert violation.where == "policy.json.timing.max_inference_s"
    assert (violation.expected, violation.found) == ("0.005 (as policy.onnx says)", "1.0")
    assert statuses(report)["graph"] == "failed"
    assert statuses(report)["golden replay"] == statuses(report)["latency"] == "not run"


def test_a_slow_policy_fails_the_gate_and_is_not_refused(tmp_path: Path) -> None:
    contract = leg_contract(timing=Timing(50.0, 0.04, max_inference_s=1e-9))
    bundles.write(tmp_path / "leg", contract, bundle_files(contract))
    report = verify(tmp_path / "leg")
    assert not report.ok and not report.refused
    assert report.violations[0].where == "timing.max_inference_s"
    assert verify(tmp_path / "leg", latency=False).ok


def test_a_demanded_signature_that_is_missing_is_the_only_failure(leg: Path, tmp_path) -> None:
    _, public = make_keys(tmp_path, "team")
    report = verify(leg, [public], latency=False)
    (violation,) = report.violations
    assert (violation.where, violation.found) == ("policy.sig", "no signature")
    assert statuses(report)["signature"] == "failed"
    assert statuses(report)["golden replay"] == "ok"


def test_without_cryptography_the_signature_says_what_to_install(leg, tmp_path, monkeypatch):
    _, public = make_keys(tmp_path, "team")
    monkeypatch.setitem(sys.modules, "cryptography.hazmat.primitives", None)
    report = verify(leg, [public], latency=False)
    (violation,) = report.violations
    assert violation.mend == "pip install cryptography"
    with pytest.raises(ContractError, match="pip install cryptography"):
        bundles.read(leg, [public])


def test_a_fixed_batch_is_measured_as_it_is(tmp_path: Path) -> None:
    contract = patient_contract()
    bundles.write(tmp_path / "leg", contract, bundle_files(contract, leg_graph(batch=3)))
    report = verify(tmp_path / "leg")
    assert report.ok
    assert next(c for c in report.checks if c.name == "graph").figures["batch"] == 3


def test_recorded_signals_are_the_newest_steps(leg: Path) -> None:
    bundle = bundles.read(leg)
    signals = recorded_signals(bundle.contract, bundle.golden, batch=3)
    assert len(signals) == 64
    assert set(signals[0]) == {"angular_velocity", "joint_position"}
    joined = np.concatenate(list(signals[5].values()), axis=1)
    assert np.array_equal(joined[:2], bundle.golden.observation[5, :, -1, :6])
    assert np.array_equal(joined[2], joined[0])
