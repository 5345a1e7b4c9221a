"""Policies that others exported become bundles, whatever the form of their inputs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import yaml
from leg_policy import JOINTS, leg_graph
from onnx import TensorProto, helper, numpy_helper

from robot_policies import load_policy
from robot_policies.importers.onnx_model import import_onnx
from robot_policies.strict import ContractError, InputError

EXAMPLE = Path(__file__).parents[2] / "config" / "import_example.yaml"


def example(**changes: Any) -> dict[str, Any]:
    """The example's YAML with top-level sections replaced."""
    return yaml.safe_load(EXAMPLE.read_text()) | changes


def plain(history: int = 1, **graph: Any) -> dict[str, Any]:
    """YAML for a network without state: obs [B, 9 * To] -> actions [B, 3]."""
    document = example(state=[], feature=None)
    for signal in document["observation"]:
        signal["history"] = history
    document["graph"]["states"] = []
    document["graph"]["inputs"][0] |= graph
    return document


def write_yaml(folder: Path, document: dict[str, Any]) -> Path:
    path = folder / "signals.yaml"
    path.write_text(yaml.safe_dump(document, sort_keys=False))
    return path


def model_with(
    nodes: list[onnx.NodeProto],
    inputs: dict[str, list[Any]],
    outputs: dict[str, list[Any]],
    weights: dict[str, np.ndarray],
    kind: int = TensorProto.FLOAT,
) -> onnx.ModelProto:
    ports = [
        [helper.make_tensor_value_info(name, kind, shape) for name, shape in group.items()]
        for group in (inputs, outputs)
    ]
    constants = [numpy_helper.from_array(value, name) for name, value in weights.items()]
    graph = helper.make_graph(nodes, "theirs", *ports, constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def weights(*shape: int, seed: int = 0) -> np.ndarray:
    return (0.3 * np.random.default_rng(seed).standard_normal(shape)).astype(np.float32)


def lstm(batch: int | str = 1) -> onnx.ModelProto:
    """As rsl_rl exports a recurrent policy: states [layers, B, hidden], usually batch 1."""
    read = ["sequence", "W", "R", "", "", "h_in", "c_in"]
    nodes = [
        helper.make_node("Unsqueeze", ["obs", "zero"], ["sequence"]),
        helper.make_node("LSTM", read, ["all", "h_out", "c_out"], hidden_size=8),
        helper.make_node("Squeeze", ["h_out", "zero"], ["last"]),
        helper.make_node("MatMul", ["last", "V"], ["actions"]),
    ]
    state = [1, batch, 8]
    return model_with(
        nodes,
        {"obs": [batch, 18], "h_in": state, "c_in": state},
        {"actions": [batch, 3], "h_out": state, "c_out": state},
        {
            "W": weights(1, 32, 18),
            "R": weights(1, 32, 8, seed=1),
            "V": weights(8, 3, seed=2),
            "zero": np.zeros(1, np.int64),
        },
    )


def mlp(size: int = 9, batch: int | str = "batch", dtype: Any = np.float32) -> onnx.ModelProto:
    nodes = [helper.make_node("MatMul", ["obs", "W"], ["actions"])]
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    shapes = {"obs": [batch, size]}, {"actions": [batch, 3]}
    return model_with(nodes, *shapes, {"W": weights(size, 3).astype(dtype)}, kind)


def imported(folder: Path, model: onnx.ModelProto, document: dict[str, Any], **options: Any):
    onnx.save(model, folder / "theirs.onnx")
    yaml_path = write_yaml(folder, document)
    _, notes = import_onnx(folder / "theirs.onnx", yaml_path, folder / "bundle", **options)
    return load_policy(folder / "bundle"), notes


def step(policy, angular_velocity, joint_position) -> np.ndarray:
    """One step of one robot; the raw action [3]."""
    values = {"angular_velocity": angular_velocity, "joint_position": joint_position}
    policy.step({name: np.float32([value]) for name, value in values.items()})
    return policy.last.raw_action[0, 0]


def session(model: onnx.ModelProto) -> ort.InferenceSession:
    return ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])


@pytest.mark.parametrize("batch", [1, "batch"])
def test_the_example_runs_like_the_original(tmp_path: Path, batch) -> None:
    """Two steps of an LSTM, fed by hand in the layout that IsaacLab flattens to."""
    onnx.save(lstm(batch), tmp_path / "leg.onnx")
    bundle, notes = import_onnx(tmp_path / "leg.onnx", EXAMPLE, tmp_path / "leg")
    assert bundle.contract.tolerance == 1e-5 and not notes
    policy, theirs = load_policy(tmp_path / "leg"), session(lstm(batch))
    w0, q0, w1, q1 = [0.1, 0.2, 0.3], [1.0, 2.0, 3.0], [0.4, 0.5, 0.6], [1.1, 2.1, 3.1]
    zeros = np.zeros((1, 1, 8), np.float32)
    first = np.float32([[*w0, *w0, *q0, *q0, *[0.0] * 6]])
    a0, h, c = theirs.run(None, {"obs": first, "h_in": zeros, "c_in": zeros})
    second = np.float32([[*w0, *w1, *q0, *q1, 0.0, 0.0, 0.0, *a0[0]]])
    a1, h, _ = theirs.run(None, {"obs": second, "h_in": h, "c_in": c})
    assert np.abs(step(policy, w0, q0) - a0[0]).max() < 1e-6
    assert np.abs(step(policy, w1, q1) - a1[0]).max() < 1e-6
    assert np.abs(policy.last.feature - h[:, 0]).max() < 1e-6


def test_a_batch_fixed_at_one_is_opened_where_that_is_right(tmp_path: Path) -> None:
    policy, notes = imported(tmp_path, mlp(batch=1), plain())
    assert policy.static_batch is None and not notes
    policy.reset(batch=5)


def test_a_batch_that_the_nodes_rely_on_stays_fixed_and_is_told(tmp_path: Path) -> None:
    """Normalising over the batch, or a Reshape to [1, ...], is right for one robot only."""
    model = mlp(batch=1)
    model.graph.node[0].output[0] = "raw"
    model.graph.node.append(helper.make_node("Softmax", ["raw"], ["actions"], axis=0))
    policy, notes = imported(tmp_path, model, plain())
    assert policy.static_batch == 1
    assert any("fixed at 1" in note for note in notes)


LAYOUTS = {
    ("signal", "oldest_first"): "w0 w1 q0 q1 a0 a1",
    ("signal", "newest_first"): "w1 w0 q1 q0 a1 a0",
    ("step", "oldest_first"): "w0 q0 a0 w1 q1 a1",
    ("step", "newest_first"): "w1 q1 a1 w0 q0 a0",
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("axes", [2, 3])
def test_histories_are_flattened_as_the_model_wants(tmp_path: Path, layout, axes: int) -> None:
    if axes == 3 and layout[0] == "signal":
        pytest.skip("[B, To, D] has one layout")
    model = mlp(size=18)
    if axes == 3:
        model.graph.node[0].input[0] = "flat"
        model.graph.node.insert(0, helper.make_node("Flatten", ["obs"], ["flat"]))
        shape = model.graph.input[0].type.tensor_type.shape
        shape.dim[1].dim_value = 2
        shape.dim.add().dim_value = 9
    document = plain(history=2, history_layout=layout[0], history_order=layout[1])
    policy, _ = imported(tmp_path, model, document)
    w0, q0, w1, q1 = [0.1, 0.2, 0.3], [1.0, 2.0, 3.0], [0.4, 0.5, 0.6], [1.1, 2.1, 3.1]
    a1 = step(policy, w0, q0)
    parts = {"w0": w0, "q0": q0, "w1": w1, "q1": q1, "a0": [0.0] * 3, "a1": a1}
    by_hand = np.concatenate([parts[name] for name in LAYOUTS[layout].split()])
    assert np.abs(step(policy, w1, q1) - by_hand @ weights(18, 3)).max() < 1e-6


def test_several_inputs_take_their_signals_in_their_own_order(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("MatMul", ["joints", "W"], ["a"]),
        helper.make_node("MatMul", ["base", "V"], ["b"]),
        helper.make_node("Add", ["a", "b"], ["actions"]),
    ]
    inputs = {"base": ["n", 3], "joints": ["n", 6]}
    model = model_with(
        nodes, inputs, {"actions": ["n", 3]}, {"W": weights(6, 3), "V": weights(3, 3, seed=1)}
    )
    document = plain()
    common = {"history_layout": "step", "history_order": "oldest_first"}
    document["graph"]["inputs"] = [
        {"input": "base", "signals": ["angular_velocity"], **common},
        {"input": "joints", "signals": ["previous_action", "joint_position"], **common},
    ]
    policy, _ = imported(tmp_path, model, document)
    w, q = np.float32([0.1, 0.2, 0.3]), np.float32([1, 2, 3])
    expected = np.float32([0, 0, 0, *q]) @ weights(6, 3) + w @ weights(3, 3, seed=1)
    assert np.abs(step(policy, w, q) - expected).max() < 1e-6


@pytest.mark.parametrize("dtype", [np.float64, np.float16])
def test_other_float_types_are_cast(tmp_path: Path, dtype) -> None:
    document = plain() | {"tolerance": 1e-2 if dtype is np.float16 else 1e-5}
    policy, _ = imported(tmp_path, mlp(dtype=dtype), document)
    assert step(policy, [1, 1, 1], [1, 1, 1]).dtype == np.float32


def test_a_model_without_a_batch_axis_is_taken_for_one_robot(tmp_path: Path) -> None:
    nodes = [helper.make_node("MatMul", ["obs", "W"], ["actions"])]
    model = model_with(nodes, {"obs": [9]}, {"actions": [3]}, {"W": weights(9, 3)})
    policy, notes = imported(tmp_path, model, plain())
    assert policy.static_batch == 1 and notes
    assert np.abs(step(policy, [1, 1, 1], [1, 1, 1]) - weights(9, 3)[:6].sum(0)).max() < 1e-6


def test_names_of_the_model_may_be_those_of_the_standard_form(tmp_path: Path) -> None:
    """leg_graph calls its ports observation, state, action and next_state already."""
    document = example(
        state=[{"name": "state", "output": "next_state", "shape": [4], "initial": 0.1}]
    )
    document["feature"] = "next_state"
    document["graph"] |= {
        "action": "action",
        "states": [{"state": "state", "input": "state", "output": "next_state", "batch_axis": 0}],
    }
    document["graph"]["inputs"][0] |= {"input": "observation", "history_layout": "step"}
    policy, _ = imported(tmp_path, leg_graph(), document)
    assert policy.contract.state[0].initial == (0.1,) * 4


# Weights beside the file.


def save_split(model: onnx.ModelProto, path: Path) -> None:
    options = {"location": "theirs.data", "size_threshold": 0, "save_as_external_data": True}
    onnx.save(model, path, **options)


def test_weights_beside_the_file_are_taken_in(tmp_path: Path) -> None:
    save_split(mlp(), tmp_path / "theirs.onnx")
    import_onnx(tmp_path / "theirs.onnx", write_yaml(tmp_path, plain()), tmp_path / "bundle")
    (tmp_path / "theirs.data").unlink()
    policy = load_policy(tmp_path / "bundle")
    assert np.abs(step(policy, [1, 1, 1], [1, 1, 1]) - weights(9, 3)[:6].sum(0)).max() < 1e-6


def test_missing_weights_are_named(tmp_path: Path) -> None:
    save_split(mlp(), tmp_path / "theirs.onnx")
    (tmp_path / "theirs.data").unlink()
    with pytest.raises(ContractError, match=r"the file theirs\.data"):
        import_onnx(tmp_path / "theirs.onnx", EXAMPLE, tmp_path / "bundle")


# A record by the framework that trained the policy.


def golden_file(folder: Path, **changes: Any) -> Path:
    observation = np.random.default_rng(5).standard_normal((40, 2, 1, 9)).astype(np.float32)
    arrays = {"observation": observation, "action": observation @ weights(9, 3)} | changes
    np.savez(folder / "golden.npz", **{k: v for k, v in arrays.items() if v is not None})
    return folder / "golden.npz"


def test_the_users_own_record_is_what_must_replay(tmp_path: Path) -> None:
    policy, _ = imported(tmp_path, mlp(), plain(), golden=golden_file(tmp_path))
    assert policy.contract.tolerance == 1e-5
    with np.load(tmp_path / "bundle" / "golden.npz") as record:
        assert record["observation"].shape == (40, 2, 1, 9)


def test_a_record_of_several_robots_suits_a_model_that_was_exported_for_one(tmp_path) -> None:
    """With the states that the original reaches for each robot on its own."""
    theirs = session(lstm(batch=1))
    observation = np.random.default_rng(5).standard_normal((32, 3, 2, 9)).astype(np.float32)
    flat = np.concatenate(  # signal by signal, as the example says
        [part.reshape(32, 3, -1) for part in np.split(observation, 3, axis=-1)], axis=-1
    )
    action = np.zeros((32, 3, 1, 3), np.float32)
    for robot in range(3):
        h = c = np.zeros((1, 1, 8), np.float32)
        for index in range(32):
            feed = {"obs": flat[index, robot : robot + 1], "h_in": h, "c_in": c}
            action[index, robot], h, c = theirs.run(None, feed)
    np.savez(tmp_path / "golden.npz", observation=observation, action=action)
    policy, notes = imported(tmp_path, lstm(1), example(), golden=tmp_path / "golden.npz")
    assert policy.static_batch is None and not notes


def test_an_action_of_another_size_is_named_even_where_the_model_does_not_say_it(tmp_path) -> None:
    model = mlp()
    model.graph.output[0].type.tensor_type.shape.dim[1].dim_param = "actions"
    document = plain()
    document["chunk"]["steps"] = 2
    with pytest.raises(ContractError, match="model output actions"):
        imported(tmp_path, model, document)


BAD_RECORDS = {
    "golden replay": {"action": np.zeros((40, 2, 1, 3), np.float32)},
    "golden.npz action: expected an array": {"action": None},
    "golden.npz notes": {"notes": np.zeros(3)},
    "float64": {"action": np.zeros((40, 2, 1, 3))},
    "golden.npz reset": {"reset": np.zeros(40, bool)},
    ">= 32 steps": {
        "observation": np.zeros((3, 2, 1, 9), np.float32),
        "action": np.zeros((3, 2, 1, 3), np.float32),
    },
}


@pytest.mark.parametrize("named", BAD_RECORDS)
def test_a_record_that_does_not_fit_is_refused(tmp_path: Path, named: str) -> None:
    """E.g. the training normalised the observation outside of the model that it exported."""
    with pytest.raises(ContractError, match=named):
        imported(tmp_path, mlp(), plain(), golden=golden_file(tmp_path, **BAD_RECORDS[named]))
    assert not (tmp_path / "bundle").exists()


# What the YAML must say.


def key_paths(value: Any, path: str = "") -> list[tuple[str, dict[str, Any], str]]:
    """Every key of every mapping: (path, the mapping that holds it, key)."""
    found = []
    for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
        here = f"{path}.{key}" if isinstance(value, dict) else f"{path}[{key}]"
        found += [(here, value, key)] if isinstance(value, dict) else []
        found += key_paths(inner, here) if isinstance(inner, dict | list) else []
    return found


def test_every_missing_key_is_named(tmp_path: Path) -> None:
    onnx.save(lstm(), tmp_path / "theirs.onnx")
    names = [name for name, _, _ in key_paths(example())]
    assert len(names) > 80
    for index, name in enumerate(names):
        document = example()
        _, holder, key = key_paths(document)[index]
        del holder[key]
        with pytest.raises(ContractError) as error:
            import_onnx(
                tmp_path / "theirs.onnx", write_yaml(tmp_path, document), tmp_path / "bundle"
            )
        assert f"{name}: expected the key" in str(error.value)


def test_all_missing_keys_are_named_at_once(tmp_path: Path) -> None:
    onnx.save(lstm(), tmp_path / "theirs.onnx")
    document = example()
    for signal in document["observation"]:
        del signal["unit"], signal["frame"], signal["elements"]
    del document["conventions"], document["graph"], document["provenance"]
    with pytest.raises(ContractError) as error:
        import_onnx(tmp_path / "theirs.onnx", write_yaml(tmp_path, document), tmp_path / "bundle")
    assert len(error.value.violations) == 3 * 3 + 3


def change(section: str, key: str, value: Any) -> Callable[[dict[str, Any]], None]:
    def apply(document: dict[str, Any]) -> None:
        target = document["graph"]
        for part in section.split(".") if section else ():
            target = target[int(part) if part.isdigit() else part]
        target[key] = value

    return apply


MISFITS = {
    "model input observations: expected one of obs": change("inputs.0", "input", "observations"),
    "model output torque": change("", "action", "torque"),
    "graph.inputs.signals.gravity": change("inputs.0", "signals", ["gravity"]),
    "graph.inputs.signals.joint_position: expected a place": change(
        "inputs.0", "signals", ["angular_velocity", "previous_action"]
    ),
    "graph.states.memory": change("states.0", "state", "memory"),
    "batch_axis 3": change("states.0", "batch_axis", 3),
    "model state h_in: expected .1, 8.": change("states.0", "batch_axis", 2),
    "graph.feature": change("", "feature", "h_out"),
    "history_layout: expected one of signal, step": change("inputs.0", "history_layout", "flat"),
    "model input c_in: expected a place": lambda document: (
        document["graph"]["states"].pop(),
        document["state"].pop(),
    ),
    "model input obs: expected 9 numbers": lambda document: [
        signal.update(history=1) for signal in document["observation"]
    ],
    "schema_version: expected no such key": lambda document: document.update(schema_version="1.0"),
}


@pytest.mark.parametrize("named", MISFITS)
def test_a_yaml_that_does_not_fit_the_model_is_refused(tmp_path: Path, named: str) -> None:
    document = example()
    MISFITS[named](document)
    with pytest.raises(ContractError, match=named):
        imported(tmp_path, lstm(), document)


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("name: a\nname: b", "duplicate key 'name'"),
        ("- 1", "sections"),
        ("a: [", "YAML"),
        ("", "NoneType"),
        ("name: &a [*a]", "anchors"),
        ("name: " + "[" * 5000 + "]" * 5000, "nested too deeply"),
        ("name: 2001-99-99", "month"),
    ],
)
def test_yaml_that_is_no_mapping_is_refused(tmp_path: Path, text: str, named: str) -> None:
    onnx.save(mlp(), tmp_path / "theirs.onnx")
    (tmp_path / "signals.yaml").write_text(text)
    with pytest.raises(InputError, match=named):
        import_onnx(tmp_path / "theirs.onnx", tmp_path / "signals.yaml", tmp_path / "bundle")


def test_a_size_that_cannot_be_meant_takes_no_memory(tmp_path: Path) -> None:
    document = plain()
    document["action"][0] |= {"shape": [10**11], "scale": 1.0}
    with pytest.raises(ContractError, match=r"action\[0\]\.shape: expected at most"):
        imported(tmp_path, mlp(), document)


def test_sections_may_be_merged(tmp_path: Path) -> None:
    """A key of one's own wins over the merged one, and is no duplicate."""
    onnx.save(lstm(), tmp_path / "theirs.onnx")
    old = "{name: cell, output: next_cell, shape: [1, 8], initial: 0.0}"
    text = EXAMPLE.read_text().replace("{name: hidden,", "&one {name: hidden,")
    assert old in text
    path = tmp_path / "signals.yaml"
    path.write_text(text.replace(old, "{<<: *one, name: cell, output: next_cell}"))
    bundle, _ = import_onnx(tmp_path / "theirs.onnx", path, tmp_path / "bundle")
    assert [state.shape for state in bundle.contract.state] == [(1, 8), (1, 8)]


def test_numbers_may_be_written_as_people_write_them(tmp_path: Path) -> None:
    """YAML 1.1 reads 1e-5 as a text."""
    onnx.save(lstm(), tmp_path / "theirs.onnx")
    path = tmp_path / "signals.yaml"
    path.write_text(EXAMPLE.read_text().replace("1.0e-5", "1e-4"))
    bundle, _ = import_onnx(tmp_path / "theirs.onnx", path, tmp_path / "bundle")
    assert bundle.contract.tolerance == 1e-4


def test_what_is_no_model_is_refused(tmp_path: Path) -> None:
    for content in (b"<html>404</html>", b""):
        (tmp_path / "theirs.onnx").write_bytes(content)
        with pytest.raises(InputError, match=r"theirs\.onnx: expected an ONNX model"):
            import_onnx(tmp_path / "theirs.onnx", EXAMPLE, tmp_path / "bundle")


def test_the_contract_is_the_yamls(tmp_path: Path) -> None:
    onnx.save(lstm(), tmp_path / "theirs.onnx")
    bundle, _ = import_onnx(tmp_path / "theirs.onnx", EXAMPLE, tmp_path / "bundle")
    contract = bundle.contract
    assert contract.robot.joints == JOINTS
    assert contract.action[0].scale == (0.25, 0.25, 0.25)
    assert contract.observation[1].clip == (-3.2, 3.2)
    assert contract.gains is not None and contract.gains.damping == (0.5, 0.5, 0.5)
    assert contract.provenance.licence == "MIT" and len(contract.provenance.data_sha256) == 64


# Sizes may fit where axes do not.


@pytest.mark.parametrize("last", [2, "steps"])
def test_an_input_with_its_axes_in_another_order_is_refused(tmp_path: Path, last) -> None:
    """[B, Do, To] holds as many numbers as [B, To, Do], in another order."""
    nodes = [
        helper.make_node("Flatten", ["obs"], ["flat"]),
        helper.make_node("MatMul", ["flat", "W"], ["actions"]),
    ]
    model = model_with(
        nodes, {"obs": ["b", 9, last]}, {"actions": ["b", 3]}, {"W": weights(18, 3)}
    )
    document = plain(history=2, history_layout="step")
    with pytest.raises(ContractError, match=r"model input obs: .*\[B, To = 2, D = 9\]"):
        imported(tmp_path, model, document)


@pytest.mark.parametrize("declared", [["b", 3, 2], ["b", "x", "y"]])
def test_an_action_with_its_axes_in_another_order_is_refused(tmp_path: Path, declared) -> None:
    nodes = [
        helper.make_node("MatMul", ["obs", "W"], ["flat"]),
        helper.make_node("Reshape", ["flat", "shape"], ["actions"]),
    ]
    shape = np.array([-1, 3, 2])
    constants = {"W": weights(9, 6), "shape": shape}
    model = model_with(nodes, {"obs": ["b", 9]}, {"actions": declared}, constants)
    document = plain()
    document["chunk"]["steps"] = 2
    with pytest.raises(ContractError, match=r"output actions: .*\[B, Ta = 2, Da = 3\]"):
        imported(tmp_path, model, document)


def batch_mean() -> onnx.ModelProto:
    """A batch that is declared open, by a model that mixes the robots of a batch."""
    model = mlp()
    model.graph.node[0].output[0] = "raw"
    mean = helper.make_node("ReduceMean", ["raw"], ["mean"], axes=[0], keepdims=1)
    model.graph.node.extend([mean, helper.make_node("Add", ["raw", "mean"], ["actions"])])
    return model


def test_a_declared_batch_that_mixes_robots_is_fixed_and_recorded_again(tmp_path: Path) -> None:
    policy, notes = imported(tmp_path, batch_mean(), plain())
    assert policy.static_batch == 1 and any("fixed at 1" in note for note in notes)


def test_a_record_of_more_robots_than_the_model_takes_is_refused_in_words(tmp_path) -> None:
    with pytest.raises(ContractError, match="record 1 at a time"):
        imported(tmp_path, batch_mean(), plain(), golden=golden_file(tmp_path))


def test_a_record_is_cut_into_the_batches_that_the_model_declares(tmp_path: Path) -> None:
    policy, _ = imported(tmp_path, mlp(batch=2), plain(), golden=golden_file(tmp_path))
    assert policy.static_batch is None
    odd = golden_file(tmp_path, observation=np.zeros((40, 3, 1, 9), np.float32),
                      action=np.zeros((40, 3, 1, 3), np.float32))  # fmt: skip
    with pytest.raises(ContractError, match="a multiple of 2 environments"):
        imported(tmp_path, mlp(batch=2), plain(), golden=odd, replace=True)


def noisy(shape: list[int]) -> dict[str, Any]:
    document = plain()
    document["noise"] = [{"name": "noise", "shape": shape}]
    document["graph"]["noise"] = [{"noise": "noise", "input": "eps"}]
    return document


def test_noise_of_another_shape_is_named(tmp_path: Path) -> None:
    model = mlp()
    model.graph.input.append(helper.make_tensor_value_info("eps", TensorProto.FLOAT, ["b", 3]))
    model.graph.node[0].output[0] = "quiet"
    model.graph.node.append(helper.make_node("Add", ["quiet", "eps"], ["actions"]))
    with pytest.raises(ContractError, match=r"model noise eps: expected \[B, 4\]"):
        imported(tmp_path, model, noisy([4]))
    imported(tmp_path, model, noisy([3]))


@pytest.mark.parametrize(("shape", "right"), [([], False), ([2, 3], True)])
def test_features_have_an_axis(tmp_path: Path, shape: list[int], right: bool) -> None:
    size, width = [-1, *shape], int(np.prod(shape))
    model = mlp()
    model.graph.node.extend([
        helper.make_node("MatMul", ["obs", "F"], ["wide"]),
        helper.make_node("Reshape", ["wide", "size"], ["latent"]),
    ])  # fmt: skip
    constants = {"F": weights(9, width), "size": np.array(size)}
    model.graph.initializer.extend(numpy_helper.from_array(v, k) for k, v in constants.items())
    port = helper.make_tensor_value_info("latent", TensorProto.FLOAT, ["b", *shape])
    model.graph.output.append(port)
    document = plain() | {"feature": "latent"}
    document["graph"]["feature"] = "latent"
    if right:
        policy, _ = imported(tmp_path, model, document)
        step(policy, [1, 1, 1], [1, 1, 1])
        assert policy.last.feature.shape == (1, 6)
    else:
        with pytest.raises(ContractError, match=r"model output latent: expected \[B, F\]"):
            imported(tmp_path, model, document)
