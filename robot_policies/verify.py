"""Verify a bundle as a checklist: what was checked, what was measured, all that is wrong.

Onboard code: numpy and ONNX Runtime. The node and this checklist use the same functions, so what
passes here is what loads there.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from robot_policies import bundle as bundles
from robot_policies.bundle import Golden, PolicyBundle, graphs_of
from robot_policies.contract import Contract
from robot_policies.runtime import OnnxPolicy, require_replay
from robot_policies.signatures import verify_signature
from robot_policies.strict import ContractError, Violation

LATENCY = "latency"
LATENCY_STEPS = 1000
LATENCY_ROUNDS = 3
WARM_UP_STEPS = 100


@dataclass(frozen=True)
class Check:
    """One line of the checklist."""

    name: str
    status: Literal["ok", "failed", "not run"]
    figures: dict[str, Any]
    """What was measured, or under "reason" why the check was not run."""
    violations: tuple[Violation, ...]


@dataclass(frozen=True)
class Report:
    """The checklist of one bundle."""

    bundle: str
    """As it was asked for."""
    path: str
    """Where it was found; the same where it was not."""
    checks: tuple[Check, ...]

    @property
    def ok(self) -> bool:
        """Nothing failed (a check that was not asked for does not count)."""
        return not any(check.status == "failed" for check in self.checks)

    @property
    def refused(self) -> bool:
        """The bundle is not what it says it is; being too slow on this machine is not that."""
        return any(check.status == "failed" and check.name != LATENCY for check in self.checks)

    @property
    def violations(self) -> tuple[Violation, ...]:
        """Every violation of every check."""
        return tuple(violation for check in self.checks for violation in check.violations)

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return {"ok": self.ok, "refused": self.refused} | asdict(self)


def verify(
    name: str | Path, trusted_keys: Sequence[str | Path] = (), latency: bool = True
) -> Report:
    """Check a bundle from its files to its speed; a bad one gives a report, never an error.

    Args:
        name: a path or zoo:NAME.
        trusted_keys: ed25519 public keys (PEM files); if any is given, a signature is demanded.
        latency: measure the p99 of a step at batch 1 on one thread against the contract.
    """
    work = _Work(name, trusted_keys)
    steps: dict[str, Callable[[_Work], dict[str, Any]]] = {
        "files": _check_files,
        "contract": _check_contract,
        "signature": _check_signature,
        "graph": _check_graph,
        "golden replay": _check_replay,
        LATENCY: _check_latency if latency else _not_wanted,
    }
    checks = tuple(_run(title, step, work) for title, step in steps.items())
    return Report(str(name), str(work.path or name), checks)


@dataclass
class _Work:
    """What earlier checks leave for later ones."""

    name: str | Path
    trusted_keys: Sequence[str | Path]
    path: Path | None = None
    content: dict[str, bytes] = field(default_factory=dict)
    intact: set[str] = field(default_factory=set)
    contract: Contract | None = None
    policy: OnnxPolicy | None = None
    golden: Golden | None = None


class _NotRunError(Exception):
    """A check cannot run, or was not asked for; the text says why."""


def _run(title: str, step: Callable[[_Work], dict[str, Any]], work: _Work) -> Check:
    try:
        return Check(title, "ok", step(work), ())
    except _NotRunError as reason:
        return Check(title, "not run", {"reason": str(reason)}, ())
    except ContractError as error:
        return Check(title, "failed", {}, error.violations)
    except _GateError as error:
        return Check(title, "failed", error.figures, error.violations)
    except OSError as error:
        mend = "make the files readable"
        return Check(title, "failed", {}, (Violation(title, "readable files", str(error), mend),))


class _GateError(Exception):
    def __init__(self, violations: Sequence[Violation], figures: dict[str, Any]) -> None:
        super().__init__()
        self.violations, self.figures = tuple(violations), figures


def _check_files(work: _Work) -> dict[str, Any]:
    work.path = bundles.resolve(work.name)
    work.content = bundles.read_files(work.path)
    _, files = bundles.split_policy(work.content["policy.json"])
    violations = list(bundles.hash_violations(files, work.content))
    work.intact = work.content.keys() - {violation.where for violation in violations}
    if violations:
        raise ContractError(violations)
    return {"files": len(work.content), "bytes": sum(map(len, work.content.values()))}


def _check_contract(work: _Work) -> dict[str, Any]:
    content = _file(work, "policy.json")
    document, files = bundles.split_policy(content)
    work.contract = contract = Contract.from_dict(document)
    bundles.require_written_form(content, contract, files)
    return {
        "name": contract.name,
        "schema_version": contract.schema_version,
        "signals": len(contract.observation) + len(contract.action),
        "control_hz": contract.timing.control_hz,
    }


def _check_signature(work: _Work) -> dict[str, Any]:
    if not work.trusted_keys:
        raise _NotRunError("no trusted key was given: who made the bundle is not known")
    _file(work, "policy.json")
    return {"signed_by": verify_signature(work.content, work.trusted_keys)}


def _check_graph(work: _Work) -> dict[str, Any]:
    contract = _contract(work)
    content = {name: _file(work, name) for name in graphs_of(contract)}
    work.policy = OnnxPolicy(PolicyBundle(Path(work.name), contract, {}, content))
    batch = work.policy.static_batch
    size = sum(map(len, content.values()))
    return {"bytes": size, "batch": "any" if batch is None else batch}


def _check_replay(work: _Work) -> dict[str, Any]:
    content, contract, policy = _file(work, "golden.npz"), _contract(work), _policy(work)
    golden = Golden.from_bytes(content, contract)
    difference = require_replay(policy, golden)
    work.golden = golden
    return {
        "steps": len(golden.reset),
        "max_difference": difference,
        "tolerance": contract.tolerance,
    }


def _check_latency(work: _Work) -> dict[str, Any]:
    policy = _policy(work)
    if work.golden is None:
        raise _NotRunError("the golden replay did not pass")
    limit = policy.contract.timing.max_inference_s
    # A machine that is starting up is slow for a moment: three rounds in a row are no accident.
    for _ in range(LATENCY_ROUNDS):
        seconds = measure_latency(policy, work.golden)
        p50, p99 = np.quantile(seconds, [0.5, 0.99])
        if p99 <= limit:
            break
    figures = {"steps": len(seconds), "p50_s": float(p50), "p99_s": float(p99), "limit_s": limit}
    if p99 > limit:
        expected, found = f"p99 <= {limit * 1e3:g} ms", f"p99 {p99 * 1e3:.3g} ms"
        mend = "free the machine's cores, take a faster one, or train a smaller policy"
        raise _GateError([Violation("timing.max_inference_s", expected, found, mend)], figures)
    return figures


def _not_wanted(work: _Work) -> dict[str, Any]:
    raise _NotRunError("not asked for")


def measure_latency(
    policy: OnnxPolicy, golden: Golden, steps: int = LATENCY_STEPS, longest_s: float = 20.0
) -> np.ndarray:
    """Time `policy.step` on recorded observations, at batch 1 where the graph takes it.

    Returns:
        Seconds of each step [<= steps], without the warm-up; a slow policy is measured for
        `longest_s` only, but at least once.
    """
    signals = recorded_signals(policy.contract, golden, policy.static_batch or 1)
    policy.reset(policy.static_batch or 1)
    deadline = time.perf_counter() + longest_s
    for index in range(WARM_UP_STEPS):
        policy.step(signals[index % len(signals)])
        if time.perf_counter() > deadline:
            break
    seconds = []
    for index in range(steps):
        started = time.perf_counter()
        policy.step(signals[index % len(signals)])
        seconds.append(time.perf_counter() - started)
        if time.perf_counter() > deadline:
            break
    return np.asarray(seconds)


def recorded_signals(
    contract: Contract, golden: Golden, batch: int
) -> list[dict[str, np.ndarray]]:
    """Take the newest step of each golden observation apart: T dictionaries name -> [B, *shape].

    Where the record has fewer environments than `batch`, they are repeated.
    """
    newest = golden.observation[:, :, -1]
    newest = np.take(newest, range(batch), axis=1, mode="wrap")
    signals: list[dict[str, np.ndarray]] = [{} for _ in newest]
    start = 0
    for spec in contract.observation:
        stop = start + len(spec.elements)
        for found, vector in zip(signals, newest, strict=True):
            if spec.source == "robot":
                value = vector[:, start:stop].reshape(batch, *spec.shape)
                found[spec.name] = np.ascontiguousarray(value)
        start = stop
    return signals


def _file(work: _Work, name: str) -> bytes:
    if name not in work.intact and not (name == "policy.json" and name in work.content):
        raise _NotRunError(f"{name} is not intact")
    return work.content[name]


def _contract(work: _Work) -> Contract:
    if work.contract is None:
        raise _NotRunError("the contract did not pass")
    return work.contract


def _policy(work: _Work) -> OnnxPolicy:
    if work.policy is None:
        raise _NotRunError("the graph did not pass")
    return work.policy
