"""OnnxPolicy: named signals in, named commands out, against the same network in plain numpy."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from leg_policy import (
    JOINTS,
    MEAN,
    STD,
    bundle_files,
    leg_contract,
    leg_graph,
    model_of,
)
from onnx import helper, numpy_helper

from robot_policies import OnnxPolicy, load_policy
from robot_policies import bundle as bundles
from robot_policies.contract import Noise
from robot_policies.runtime import require_replay
from robot_policies.strict import ContractError


def random_signals(generator: np.random.Generator, batch: int) -> dict[str, np.ndarray]:
    shape = (batch, 3)
    return {
        "angular_velocity": generator.standard_normal(shape).astype(np.float32),
        "joint_position": 3.0 * generator.standard_normal(shape).astype(np.float32),
    }


class NumpyLeg:
    """What the bundle should do, written down once more and independently."""

    def __init__(self, batch: int) -> None:
        weights = {t.name: numpy_helper.to_array(t) for t in leg_graph().graph.initializer}
        self.w, self.u, self.v = weights["W"], weights["U"], weights["V"]
        self.state = np.tile([0.1, 0.2, 0.3, 0.4], (batch, 1))
        self.action = np.zeros((batch, 3))
        self.history: list[np.ndarray] = []

    def step(self, angular_velocity: np.ndarray, joint_position: np.ndarray) -> np.ndarray:
        limited = np.clip(joint_position, -3.2, 3.2)
        newest = np.concatenate([angular_velocity, limited, self.action], axis=1)
        self.history = [*(self.history or [newest]), newest][-2:]
        x = np.concatenate([(old - MEAN) / STD for old in self.history], axis=1)
        self.state = np.tanh(x @ self.w + self.state @ self.u)
        self.action = self.state @ self.v
        command = 0.25 * self.action + [0.0, 0.8, -1.5]
        return np.clip(command, [-0.8, -1.0, -2.7], [0.8, 4.1, -0.9])


@pytest.mark.parametrize("batch", [1, 3])
def test_a_run_equals_the_same_network_in_numpy(leg: Path, batch: int) -> None:
    policy = load_policy(leg)
    policy.reset(batch=batch)
    truth, generator = NumpyLeg(batch), np.random.default_rng(0)
    for _ in range(50):
        signals = random_signals(generator, batch)
        command = policy.step(signals)["joint_target"]
        assert command.shape == (batch, 1, 3)
        assert np.abs(command[:, 0] - truth.step(**signals)).max() < 1e-5
        assert np.abs(policy.last.raw_action[:, 0] - truth.action).max() < 1e-5
        assert np.abs(policy.last.feature - truth.state).max() < 1e-5
        assert policy.last.inference_s > 0.0


def test_a_reset_starts_the_same_episode_again(leg: Path) -> None:
    policy = load_policy(leg)

    def episode() -> np.ndarray:
        policy.reset(batch=2)
        generator = np.random.default_rng(3)
        steps = [policy.step(random_signals(generator, 2))["joint_target"] for _ in range(10)]
        return np.stack(steps)

    assert np.array_equal(episode(), episode())


def test_a_run_can_start_from_a_given_state(leg: Path) -> None:
    policy = load_policy(leg)
    generator = np.random.default_rng(0)
    signals = [random_signals(generator, 1) for _ in range(4)]
    policy.reset()
    for step in signals[:2]:
        policy.step(step)
    middle = {"state": policy.last.feature, "previous_action": policy.last.raw_action[:, 0]}
    policy.reset(initial=middle)
    truth = NumpyLeg(1)
    truth.state, truth.action = middle["state"], middle["previous_action"]
    command = policy.step(signals[2])["joint_target"]
    assert np.abs(command[:, 0] - truth.step(**signals[2])).max() < 1e-5
    for name, value in (
        ("memory", 1.0),
        ("state", np.zeros(3)),
        ("state", np.full((1, 4), np.nan)),
    ):
        with pytest.raises(ContractError, match=f"initial {name}"):
            policy.reset(initial={name: value})


def test_results_belong_to_the_caller(leg: Path) -> None:
    policy = load_policy(leg)
    generator = np.random.default_rng(0)
    first = policy.step(random_signals(generator, 1))["joint_target"]
    kept = first.copy()
    policy.step(random_signals(generator, 1))
    assert np.array_equal(first, kept)


@pytest.mark.parametrize("batch", [0, -1])
def test_a_batch_of_nobody_is_refused(leg: Path, batch: int) -> None:
    with pytest.raises(ContractError, match="batch"):
        load_policy(leg).reset(batch=batch)


def test_a_graph_with_a_fixed_batch_takes_no_other(tmp_path: Path) -> None:
    contract = leg_contract()
    bundles.write(tmp_path / "leg", contract, bundle_files(contract, leg_graph(batch=4)))
    policy = load_policy(tmp_path / "leg")
    assert policy.static_batch == 4
    policy.step(random_signals(np.random.default_rng(0), 4))
    with pytest.raises(ContractError, match="batch: expected 4, found 2"):
        policy.reset(batch=2)


def test_an_output_that_is_not_finite_is_refused(tmp_path: Path) -> None:
    """log(x) is fine on the recorded run, and nowhere else: the step must notice."""
    nodes = [
        helper.make_node("Log", ["observation"], ["action"]),
        helper.make_node("Identity", ["state"], ["next_state"]),
    ]
    observation = leg_contract().observation[0]
    signal = [type(observation)("speed", "robot", (3,), "m/s", "body", ("x", "y", "z"), 1, None)]
    contract = leg_contract(observation=tuple(signal))
    shapes = {"observation": (1, 3), "state": (4,)}
    graph = model_of(nodes, shapes, {"action": (1, 3), "next_state": (4,)}, [])
    policy = policy_of(contract, graph)
    policy.step({"speed": np.ones((1, 3), np.float32)})
    with pytest.raises(ContractError, match="action: expected finite numbers"):
        policy.step({"speed": -np.ones((1, 3), np.float32)})


def test_noise_is_drawn_from_the_seed_of_the_reset() -> None:
    contract = leg_contract(noise=(Noise("noise", (1, 3)),))
    graph = leg_graph()
    graph.graph.input.append(helper.make_tensor_value_info("noise", 1, ["batch", 1, 3]))
    graph.graph.node[-1].output[0] = "quiet"
    graph.graph.node.append(helper.make_node("Add", ["quiet", "noise"], ["action"]))
    policy = policy_of(contract, graph)

    def first(seed: int) -> np.ndarray:
        policy.reset(seed=seed)
        return policy.step(random_signals(np.random.default_rng(0), 1))["joint_target"]

    assert np.array_equal(first(1), first(1))
    assert not np.array_equal(first(1), first(2))


def policy_of(contract, graph) -> OnnxPolicy:
    from robot_policies.graph import stamp

    content = {bundles.GRAPH: stamp(graph, contract)}
    return OnnxPolicy(bundles.PolicyBundle(Path(), contract, {}, content))


def test_the_contract_tells_which_signals_to_give(leg: Path) -> None:
    contract = load_policy(leg).contract
    given = [signal.name for signal in contract.observation if signal.source == "robot"]
    assert given == ["angular_velocity", "joint_position"]
    assert contract.action[0].elements == JOINTS


def test_after_a_refused_output_every_step_is_refused_until_a_reset() -> None:
    """exp(x) overflows; the next step would read the infinite action as its previous one."""
    nodes = [
        helper.make_node("Exp", ["observation"], ["all"]),
        helper.make_node("Slice", ["all", "start", "stop", "axis"], ["action"]),
        helper.make_node("Identity", ["state"], ["next_state"]),
    ]
    values = {"start": [0], "stop": [3], "axis": [2]}
    constants = [numpy_helper.from_array(np.array(v), name) for name, v in values.items()]
    shapes = {"observation": (1, 6), "state": (4,)}
    graph = model_of(nodes, shapes, {"action": (1, 3), "next_state": (4,)}, constants)
    _, q, previous = (replace(signal, history=1) for signal in leg_contract().observation)
    policy = policy_of(leg_contract(observation=(replace(q, clip=None), previous)), graph)
    good, bad = np.ones((1, 3), np.float32), np.full((1, 3), 100.0, np.float32)
    policy.step({"joint_position": good})
    with pytest.raises(ContractError, match="action: expected finite numbers"):
        policy.step({"joint_position": bad})
    for _ in range(2):
        with pytest.raises(ContractError, match=r"call reset\(\)"):
            policy.step({"joint_position": good})
    policy.reset()
    policy.step({"joint_position": good})


def broken_memory() -> onnx.ModelProto:
    """Sound actions, and a recurrent state of log(-1)."""
    graph = leg_graph()
    node = next(n for n in graph.graph.node if n.output[0] == "next_state")
    node.output[0] = "memory"
    last = next(n for n in graph.graph.node if "next_state" in n.input)
    last.input[list(last.input).index("next_state")] = "memory"
    graph.graph.initializer.append(numpy_helper.from_array(np.float32([-2.0]), "below"))
    graph.graph.node.append(helper.make_node("Add", ["memory", "below"], ["negative"]))
    graph.graph.node.append(helper.make_node("Log", ["negative"], ["next_state"]))
    return graph


def test_a_recurrent_state_that_is_not_finite_is_refused_and_does_not_replay(leg: Path) -> None:
    policy = policy_of(leg_contract(), broken_memory())
    with pytest.raises(ContractError, match="next_state: expected finite numbers"):
        policy.step(random_signals(np.random.default_rng(0), 1))
    assert policy.replay(bundles.read(leg).golden)[1] == np.inf


def test_a_replay_says_what_differs_first(leg: Path) -> None:
    golden = bundles.read(leg).golden
    spoiled = golden.state["next_state"].copy()
    spoiled[7:] += 1.0
    changed = replace(golden, state={"next_state": spoiled})
    expected = "a largest difference of 1, first in state next_state at step 7"
    with pytest.raises(ContractError, match=expected):
        require_replay(load_policy(leg), changed)


def test_a_reset_leaves_nothing_of_the_last_episode(leg: Path) -> None:
    policy = load_policy(leg)
    policy.step(random_signals(np.random.default_rng(0), 1))
    policy.reset()
    assert not policy.last.raw_action.any()
    assert policy.last.feature is not None and not policy.last.feature.any()


@pytest.mark.parametrize("value", [[["a"] * 4], [[1e300] * 4], [[1j] * 4], [[1.0], [2.0, 3.0]]])
def test_a_start_that_is_no_finite_number_is_refused(leg: Path, value) -> None:
    with pytest.raises(ContractError, match="initial state"):
        load_policy(leg).reset(initial={"state": value})
