"""Signals travel by name: in as an observation vector with history, out as limited commands."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from leg_policy import leg_contract

from robot_policies.contract import Robot
from robot_policies.signals import ActionMap, ObservationBuffer
from robot_policies.strict import ContractError

BATCH = 2


@pytest.fixture
def buffer() -> ObservationBuffer:
    return ObservationBuffer(leg_contract(), BATCH, np.zeros((BATCH, 3), np.float32))


def signals(value: float = 1.0) -> dict[str, np.ndarray]:
    """All signals of the leg, [B, 3], filled with one number."""
    full = np.full((BATCH, 3), value, np.float32)
    return {"angular_velocity": full, "joint_position": 2 * full}


def test_history_starts_with_the_first_step_repeated(buffer: ObservationBuffer) -> None:
    first = buffer.push(signals(1.0)).copy()
    assert first.shape == (BATCH, 2, 9)
    assert np.array_equal(first[0, 0], [1, 1, 1, 2, 2, 2, 0, 0, 0])
    assert np.array_equal(first[:, 0], first[:, 1])
    second = buffer.push(signals(1.5))
    assert np.array_equal(second[:, 0], first[:, 1])  # the older step moved to the front
    assert np.array_equal(second[0, 1], [1.5, 1.5, 1.5, 3, 3, 3, 0, 0, 0])


def test_a_reset_forgets(buffer: ObservationBuffer) -> None:
    buffer.push(signals(1.0))
    buffer.reset(previous_action=np.full((BATCH, 3), 7.0, np.float32))
    vector = buffer.push(signals(1.5))
    assert np.array_equal(vector[1, 0], [1.5, 1.5, 1.5, 3, 3, 3, 7, 7, 7])
    assert np.array_equal(vector[:, 0], vector[:, 1])


def test_values_are_limited_to_the_range_of_the_training(buffer: ObservationBuffer) -> None:
    vector = buffer.push(signals(100.0))
    assert vector[0, 0, 0] == 100.0  # angular_velocity has no range
    assert vector[0, 0, 3] == np.float32(3.2)  # joint_position has


def test_previous_action_is_read_where_it_stands() -> None:
    action = np.zeros((BATCH, 3), np.float32)
    buffer = ObservationBuffer(leg_contract(), BATCH, action)
    buffer.push(signals())
    action[...] = 5.0
    assert np.array_equal(buffer.push(signals())[0, :, 6:], [[0, 0, 0], [5, 5, 5]])


WRONG = {
    "missing": lambda s: s.pop("joint_position"),
    "extra": lambda s: s.update(temperature=s["joint_position"]),
    "renamed": lambda s: s.update(joint_velocity=s.pop("joint_position")),
    "shape": lambda s: s.update(joint_position=np.zeros((BATCH, 4), np.float32)),
    "batch": lambda s: s.update(joint_position=np.zeros((1, 3), np.float32)),
    "flat": lambda s: s.update(joint_position=np.zeros(3, np.float32)),
    "list": lambda s: s.update(joint_position=[[0.0] * 3] * BATCH),
    "nan": lambda s: s.update(joint_position=np.full((BATCH, 3), np.nan, np.float32)),
    "infinite": lambda s: s.update(joint_position=np.full((BATCH, 3), -np.inf, np.float32)),
    "complex": lambda s: s.update(joint_position=np.ones((BATCH, 3), complex)),
    "text": lambda s: s.update(joint_position=np.full((BATCH, 3), "1.0")),
    "objects": lambda s: s.update(joint_position=np.ones((BATCH, 3), object)),
    "too large": lambda s: s.update(joint_position=np.full((BATCH, 3), 1e300)),
}


@pytest.mark.parametrize("case", WRONG)
@pytest.mark.filterwarnings("ignore:overflow")
def test_a_wrong_signal_is_named_and_changes_nothing(buffer: ObservationBuffer, case: str) -> None:
    before = buffer.push(signals(1.0)).copy()
    spoiled = signals(9.0)
    WRONG[case](spoiled)
    with pytest.raises(ContractError, match=r"signal (joint_position|temperature)"):
        buffer.push(spoiled)
    after = buffer.push(signals(1.0))
    assert np.array_equal(after, before)  # not even the history saw the refused step


def test_every_wrong_name_is_reported(buffer: ObservationBuffer) -> None:
    with pytest.raises(ContractError) as error:
        buffer.push({"a": np.zeros((BATCH, 3))})
    assert [v.where for v in error.value.violations] == [
        "signal a",
        "signal angular_velocity",
        "signal joint_position",
    ]


def test_commands_are_scaled_offset_and_limited() -> None:
    contract = leg_contract()
    commands = ActionMap(contract, batch=1)(np.array([[[1.0, 0.0, 100.0]]], np.float32))
    assert list(commands) == ["joint_target"]
    assert np.allclose(commands["joint_target"], [[[0.25, 0.8, -0.9]]])


def test_several_commands_are_split_by_name() -> None:
    whole = leg_contract().action[0]
    names = ("hip", "thigh", "calf", "toe")
    first = replace(whole, name="joint_target", offset=(0.0, 0.0, 0.0), lower=(-9.0,) * 3,
                    upper=(9.0,) * 3, scale=(1.0,) * 3)  # fmt: skip
    toe = replace(first, name="toe_target", shape=(1, 1), elements=("toe",), scale=(2.0,),
                  offset=(1.0,), lower=(-9.0,), upper=(9.0,))  # fmt: skip
    last = replace(leg_contract().observation[2], shape=(4,), elements=names)
    contract = leg_contract(
        action=(first, toe),
        robot=Robot("leg", names[:3], names),
        observation=(*leg_contract().observation[:2], last),
        gains=None,
    )
    commands = ActionMap(contract, batch=2)(np.ones((2, 1, 4), np.float32))
    assert {name: value.shape for name, value in commands.items()} == {
        "joint_target": (2, 1, 3),
        "toe_target": (2, 1, 1, 1),
    }
    assert np.all(commands["toe_target"] == 3.0)


@pytest.mark.parametrize("value", [[("joint_position", 1.0)], None, 3.0])
def test_what_is_no_dictionary_is_refused(buffer: ObservationBuffer, value) -> None:
    with pytest.raises(ContractError, match="signals: expected values by name"):
        buffer.push(value)
