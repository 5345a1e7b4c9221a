"""The YAML file that names an ONNX model's signals, read strictly (standard library and yaml)."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import yaml

from robot_policies.contract import MAX_NUMBERS, SCHEMA_VERSION, Contract
from robot_policies.graph import provenance
from robot_policies.strict import ContractError, InputError, Violation, decode
from robot_policies.strict_yaml import load_yaml

MAX_NODES = 100_000
_EXAMPLE = "see config/import_example.yaml"


@dataclass(frozen=True)
class GraphInput:
    """One input of the model: the signals that it takes, in its order."""

    input: str
    signals: tuple[str, ...]
    history_layout: Literal["signal", "step"]
    """"signal": all steps of the first signal, then of the second; "step": step after step."""
    history_order: Literal["oldest_first", "newest_first"]


@dataclass(frozen=True)
class GraphState:
    """One recurrent state of the model."""

    state: str
    input: str
    output: str
    batch_axis: int
    """Where the model has the batch: 0 in [B, hidden], 1 in [layers, B, hidden]."""


@dataclass(frozen=True)
class GraphNoise:
    """One noise input of the model, [B, *shape]."""

    noise: str
    input: str


@dataclass(frozen=True)
class GraphMap:
    """How the model's own inputs and outputs map to the contract."""

    inputs: tuple[GraphInput, ...]
    action: str
    """The output [B, Da], [B, Ta, Da] or [B, Ta * Da]."""
    states: tuple[GraphState, ...]
    noise: tuple[GraphNoise, ...]
    feature: str | None
    """The output [B, F] that becomes the contract's feature, unless a state is that."""


def read_signals(path: Path, model: str, digest: str) -> tuple[Contract, GraphMap, dict[str, Any]]:
    """Read the YAML; returns the contract, the mapping and the document.

    Raises:
        InputError: the file holds no sections in YAML.
        ContractError: with every missing, unknown or contradicting key.
    """
    document = _load_yaml(path)
    violations: list[Violation] = []
    mapping = _section(document, "graph", GraphMap, path.name, violations)
    contract = _contract(document, path.name, digest, violations)
    if violations or contract is None or mapping is None:
        raise ContractError(violations)
    violations = list(_mapping_violations(contract, mapping))
    if violations:
        raise ContractError(violations)
    return contract, mapping, document


def _load_yaml(path: Path) -> dict[str, Any]:
    try:
        document = load_yaml(path)
    except RecursionError:
        document, found = None, "lists or mappings nested too deeply"
    except (yaml.YAMLError, ValueError) as error:  # ValueError: no such date, no UTF-8
        document, found = None, " ".join(str(error).split())[:200]
    else:
        found = type(document).__name__
    if document is not None and not _is_bounded(document):
        document, found = None, f"anchors that make more than {MAX_NODES} entries of it"
    if not isinstance(document, dict):
        expected = "the sections of a contract in YAML"
        raise InputError([Violation(path.name, expected, found, _EXAMPLE)])
    return document


def _is_bounded(document: object) -> bool:
    """False where aliases of anchors repeat each other without end, or nearly so."""
    waiting, count = [document], 0
    while waiting and count <= MAX_NODES:
        value, count = waiting.pop(), count + 1
        if isinstance(value, dict | list):
            waiting.extend(value.values() if isinstance(value, dict) else value)
    return not waiting


def _section(
    document: Mapping[str, Any], key: str, kind: Any, where: str, violations: list[Violation]
) -> Any:
    if key not in document:
        mend = "add the key; nothing is assumed in its place"
        violations.append(Violation(f"{where}.{key}", "the key", "nothing", mend))
        return None
    return decode(kind, document[key], f"{where}.{key}", violations)


@dataclass(frozen=True)
class _Origin:
    """What only the user can say about where the model comes from."""

    source: str
    licence: str


def _contract(
    document: Mapping[str, Any], where: str, digest: str, violations: list[Violation]
) -> Contract | None:
    """Decode the contract's sections; what this release itself knows is filled in."""
    origin = _section(document, "provenance", _Origin, where, violations)
    ours = ("schema_version", "calibration")
    for key in (key for key in ours if key in document):
        mend = "remove the key: the import writes it"
        violations.append(Violation(f"{where}.{key}", "no such key", "an extra key", mend))
    # Where the origin is wrong, an empty one lets the other sections be checked all the same.
    made = provenance(*((origin.source, origin.licence) if origin else ("", "")), (), digest)
    given = {
        k: _spread(v, f"{where}.{k}", violations)
        for k, v in document.items()
        if k not in (*ours, "graph")
    }
    given |= {"schema_version": SCHEMA_VERSION, "calibration": None, "provenance": asdict(made)}
    return decode(Contract, given, where, violations)


def _spread(section: Any, where: str, violations: list[Violation]) -> Any:
    """Let one number stand for all elements where the contract lists one per element."""
    if isinstance(section, list):
        return [_spread(v, f"{where}[{i}]", violations) for i, v in enumerate(section)]
    if not isinstance(section, dict):
        return section
    shape = section.get("shape")
    if not (isinstance(shape, list) and all(isinstance(size, int) for size in shape)):
        return section
    count = math.prod(shape)
    if count > MAX_NUMBERS:
        expected = f"at most {MAX_NUMBERS} numbers"
        violations.append(Violation(f"{where}.shape", expected, str(shape), "correct it"))
        count = 1
    keys = ("scale", "offset", "lower", "upper", "initial")
    alone = {k: v for k, v in section.items() if k in keys and type(v) in (int, float)}
    return section | {key: [value] * count for key, value in alone.items()}


def _mapping_violations(contract: Contract, mapping: GraphMap) -> Iterator[Violation]:
    used = [name for item in mapping.inputs for name in item.signals]
    known = {
        "graph.inputs.signals": ([signal.name for signal in contract.observation], used),
        "graph.states": ([s.name for s in contract.state], [s.state for s in mapping.states]),
        "graph.noise": ([n.name for n in contract.noise], [n.noise for n in mapping.noise]),
    }
    for where, (declared, mapped) in known.items():
        for name in sorted(set(declared) - set(mapped)):
            mend = "map it, or remove it from the contract"
            yield Violation(f"{where}.{name}", "a place in the model", "none", mend)
        for name in sorted(set(mapped) - set(declared)):
            expected = "one of " + ", ".join(declared) if declared else "no such entry"
            yield Violation(f"{where}.{name}", expected, "an unknown name", "correct the name")
    by_state = contract.feature in [state.output for state in contract.state]
    if (mapping.feature is not None) != (contract.feature is not None and not by_state):
        expected = "an output exactly where `feature` is named and is no state's output"
        mend = "give both, or null for both"
        yield Violation("graph.feature", expected, str(mapping.feature), mend)
