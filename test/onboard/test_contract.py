"""The contract: strict reading, full precision, and no contradiction gets through."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from leg_policy import JOINTS, leg_contract

from robot_policies.contract import (
    FRAMES,
    SCHEMA_VERSION,
    UNITS,
    Action,
    Calibration,
    Chunk,
    Contract,
    Conventions,
    Gains,
    Noise,
    Observation,
    Provenance,
    Robot,
    State,
    Timing,
)
from robot_policies.strict import ContractError

alphabet = "abcdefghijklmnopqrstuvwxyzABCXYZ0123456789_.:/-"
names = st.text(alphabet, max_size=12).map("n".__add__)
finite = st.floats(allow_nan=False, allow_infinity=False)
positive = st.floats(min_value=5e-324, allow_nan=False, allow_infinity=False)
texts = st.text(max_size=30)

provenances = st.builds(
    Provenance,
    source=texts,
    licence=texts,
    git_revision=texts,
    git_dirty=st.booleans(),
    seeds=st.lists(st.integers(0, 2**63), max_size=3).map(tuple),
    data_sha256=texts,
    versions=st.dictionaries(texts, texts, max_size=3),
)


def several(strategy, count):
    return st.lists(strategy, min_size=count, max_size=count).map(tuple)


@st.composite
def contracts(draw) -> Contract:
    """Any valid contract, with numbers from the whole range of a float."""
    actuators = tuple(draw(st.lists(names, min_size=1, max_size=5, unique=True)))
    count, steps = len(actuators), draw(st.integers(1, 4))
    signal_names = draw(st.lists(names, min_size=1, max_size=4, unique=True))
    graph_names = draw(st.lists(names, min_size=4, max_size=4, unique=True))
    ranges = st.tuples(finite, finite).filter(lambda pair: pair[0] < pair[1])
    limits = draw(several(ranges, count))
    nonzero = finite.filter(lambda value: value != 0.0)

    def signal(name: str) -> Observation:
        elements = tuple(draw(st.lists(names, min_size=1, max_size=4, unique=True)))
        frame = draw(st.sampled_from([frame for frame in FRAMES if frame != "joint"]))
        clip = draw(st.none() | ranges)
        unit = draw(st.sampled_from(UNITS))
        return Observation(name, "robot", (len(elements),), unit, frame, elements, steps, clip)

    action = Action(
        draw(names), (count,), draw(st.sampled_from(UNITS)), draw(st.sampled_from(FRAMES)),
        actuators, draw(several(nonzero, count)), draw(several(finite, count)),
        tuple(low for low, _ in limits), tuple(high for _, high in limits),
        draw(st.sampled_from(["absolute", "delta"])),
    )  # fmt: skip
    initial = draw(st.lists(finite, min_size=1, max_size=4).map(tuple))
    period = draw(st.floats(1e-300, 1e300))
    gains = st.builds(Gains, several(positive, count), several(positive, count))
    calibration = st.builds(
        Calibration, texts, st.floats(0.01, 0.99), st.dictionaries(texts, finite, max_size=3)
    )
    return Contract(
        schema_version=SCHEMA_VERSION,
        name=draw(names),
        family=draw(names),
        robot=Robot(draw(texts), draw(st.sampled_from([(), JOINTS])), actuators),
        observation=tuple(signal(name) for name in signal_names),
        action=(action,),
        chunk=Chunk(draw(st.integers(1, 50)), period),
        conventions=Conventions(),
        timing=Timing(1.0 / period, draw(positive), draw(positive)),
        state=(State(graph_names[0], graph_names[1], (len(initial),), initial),),
        noise=draw(st.sampled_from([(), (Noise(graph_names[2], (2, 3)),)])),
        feature=draw(st.sampled_from([None, graph_names[1], graph_names[3]])),
        gains=draw(st.none() | gains),
        tolerance=draw(positive),
        provenance=draw(provenances),
        calibration=draw(st.none() | calibration),
    )


def mentions(error: pytest.ExceptionInfo[ContractError], *texts: str) -> None:
    for text in texts:
        assert text in str(error.value)


@settings(max_examples=100, deadline=None)
@given(contracts())
def test_any_contract_round_trips_in_full_precision(contract: Contract) -> None:
    again = Contract.from_json(contract.to_json())
    assert again == contract
    assert again.to_json() == contract.to_json()
    assert again.sha256() == contract.sha256()


def test_sizes_follow_from_the_signals() -> None:
    contract = leg_contract()
    assert (contract.observation_steps, contract.observation_size, contract.action_size) == (
        2,
        9,
        3,
    )
    assert contract.action_elements == JOINTS


def test_every_violation_is_reported_at_once() -> None:
    document = json.loads(leg_contract().to_json())
    del document["timing"]["control_hz"]
    document["robot"]["colour"] = "red"
    document["action"][0]["scale"] = [1.0, "two", 3.0]
    with pytest.raises(ContractError) as error:
        Contract.from_dict(document)
    where = {violation.where for violation in error.value.violations}
    assert where == {
        "policy.json.timing.control_hz",
        "policy.json.robot.colour",
        "policy.json.action[0].scale[1]",
    }


def paths(value: object, path: tuple = ()):
    """Every key path of a JSON document."""
    items = value.items() if isinstance(value, dict) else enumerate(value)
    for key, inner in items:
        yield (*path, key)
        if isinstance(inner, dict | list):
            yield from paths(inner, (*path, key))


def parent(document, path: tuple):
    for key in path[:-1]:
        document = document[key]
    return document


def test_no_key_may_be_missing_and_none_may_be_added() -> None:
    text = leg_contract().to_json()
    keys = [path for path in paths(json.loads(text)) if isinstance(path[-1], str)]
    assert len(keys) > 60
    for path in keys:
        document = json.loads(text)
        del parent(document, path)[path[-1]]
        with pytest.raises(ContractError) as error:
            Contract.from_dict(document)
        mentions(error, path[-1])
    for path in keys:
        document = json.loads(text)
        parent(document, path)["extra_key"] = 1
        if path[:-1] == ("provenance", "versions"):
            continue
        with pytest.raises(ContractError) as error:
            Contract.from_dict(document)
        mentions(error, "extra_key")


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_a_value_of_another_type_is_refused_by_its_path(data: st.DataObject) -> None:
    document = json.loads(leg_contract().to_json())
    path = data.draw(st.sampled_from(list(paths(document))))
    old = parent(document, path)[path[-1]]
    others = [None, True, 3, 2.5, "text", [], {}, [[1]], {"a": 1}, math.inf, 10**400]
    new = data.draw(st.sampled_from(others).filter(lambda value: type(value) is not type(old)))
    parent(document, path)[path[-1]] = new
    try:
        contract = Contract.from_dict(document)
    except ContractError as error:
        assert all(violation.mend for violation in error.violations)
        return
    # What may still be read: a whole number for a float, or null where null is allowed.
    assert (isinstance(old, float) and new == 3) or new is None or path[-1] in ("clip", "gains")
    assert Contract.from_json(contract.to_json()) == contract


@pytest.mark.parametrize(
    "text", ['{"a": NaN}', '{"a": 1, "a": 2}', "{", "[" * 100_000, "1" * 5000]
)
def test_strict_json(text: str) -> None:
    with pytest.raises(ContractError):
        Contract.from_json(text)


def test_another_major_version_is_named_alone() -> None:
    document = json.loads(leg_contract().to_json()) | {"schema_version": "2.0", "new_idea": 1}
    with pytest.raises(ContractError) as error:
        Contract.from_dict(document)
    (violation,) = error.value.violations
    assert (violation.expected, violation.found) == ("1.x", "2.0")


def changed_signal(**changes):
    first, *rest = leg_contract().observation
    return {"observation": (replace(first, **changes), *rest)}


def changed_action(**changes):
    return {"action": (replace(leg_contract().action[0], **changes),)}


CONTRADICTIONS = {
    "unit": changed_signal(unit="deg/s"),
    "frame": changed_signal(frame="NED"),
    "elements": changed_signal(elements=("x", "y")),
    "'x' twice": changed_signal(elements=("x", "x", "z")),
    "'joint_position' twice": changed_signal(name="joint_position"),
    "xyzw": changed_signal(name="quaternion_wxyz", shape=(4,), elements=("w", "x", "y", "z")),
    "history": changed_signal(history=3),
    "clip": changed_signal(clip=(1.0, 1.0)),
    "robot.joints": changed_signal(frame="joint"),
    "robot.actuators": {"robot": Robot("leg", JOINTS, ("thigh", "hip", "calf"))},
    "scale": changed_action(scale=(1.0, 0.0, 1.0)),
    "one per element": changed_action(offset=(1.0,)),
    "lower < upper": changed_action(lower=(1.0, 9.0, 1.0)),
    "gains.stiffness": {"gains": Gains((1.0,), (1.0, 1.0, 1.0))},
    "timing.control_hz": {"timing": Timing(0.0, 1.0, 1.0)},
    "tolerance": {"tolerance": math.nan},
    "state.state.initial": {"state": (State("state", "next_state", (4,), (0.0,)),)},
    "'action' twice": {"state": (State("state", "action", (1,), (0.0,)),)},
    "noise.seed": {"noise": (Noise("seed", (10**9, 10**9)),)},
    "chunk.steps": {"chunk": Chunk(10**9, 0.02)},
    "chunk.interval_s": {"chunk": Chunk(4, 0.02001)},
    "'previous_action' twice": {"state": (State("previous_action", "next_state", (1,), (0.0,)),)},
    "feature": {"feature": "action"},
    "found state;": {"feature": "state"},
    "calibration": {"calibration": Calibration("mahalanobis", 1.5, {})},
}


@pytest.mark.parametrize("named", CONTRADICTIONS)
def test_a_contract_that_contradicts_itself_cannot_be_made(named: str) -> None:
    with pytest.raises(ContractError) as error:
        leg_contract(**CONTRADICTIONS[named])
    mentions(error, named)
