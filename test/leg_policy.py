"""A tiny recurrent policy in ONNX, made by hand, and what the tests do to its bundle."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from robot_policies.bundle import GRAPH, Golden, PolicyBundle
from robot_policies.contract import (
    SCHEMA_VERSION,
    Action,
    Chunk,
    Contract,
    Conventions,
    Gains,
    Observation,
    Provenance,
    Robot,
    State,
    Timing,
)
from robot_policies.graph import random_inputs, stamp
from robot_policies.runtime import OnnxPolicy

JOINTS = ("hip", "thigh", "calf")
HISTORY = 2
MEAN = np.linspace(-0.5, 0.5, 9).astype(np.float32)
STD = np.linspace(0.5, 1.5, 9).astype(np.float32)


def leg_contract(**changes: Any) -> Contract:
    """A recurrent policy of a three-joint leg with a history of two steps."""
    signals = (
        Observation("angular_velocity", "robot", (3,), "rad/s", "body", ("x", "y", "z"), 2, None),
        Observation("joint_position", "robot", (3,), "rad", "joint", JOINTS, 2, (-3.2, 3.2)),
        Observation("previous_action", "previous_action", (3,), "1", "actuator", JOINTS, 2, None),
    )
    target = Action(
        "joint_target", (3,), "rad", "joint", JOINTS,
        scale=(0.25,) * 3, offset=(0.0, 0.8, -1.5), lower=(-0.8, -1.0, -2.7),
        upper=(0.8, 4.1, -0.9), mode="absolute",
    )  # fmt: skip
    content = dict(
        schema_version=SCHEMA_VERSION,
        name="leg",
        family="external",
        robot=Robot("leg", JOINTS, JOINTS),
        observation=signals,
        action=(target,),
        chunk=Chunk(1, 0.02),
        conventions=Conventions(),
        timing=Timing(50.0, 0.04, 0.005),
        state=(State("state", "next_state", (4,), (0.1, 0.2, 0.3, 0.4)),),
        noise=(),
        feature="next_state",
        gains=Gains((20.0,) * 3, (0.5,) * 3),
        tolerance=1e-5,
        provenance=Provenance("this test", "MIT", "unknown", False, (0,), "", {}),
        calibration=None,
    )
    return Contract(**(content | changes))


def leg_graph(
    seed: int = 0, mean: np.ndarray = MEAN, std: np.ndarray = STD, batch: str | int = "batch"
) -> onnx.ModelProto:
    """x = (obs - mean) / std;  state' = tanh(x W + state U);  action = state' V, in float32."""
    generator = np.random.default_rng(seed)

    def weights(name: str, *shape: int) -> onnx.TensorProto:
        values = 0.3 * generator.standard_normal(shape)
        return numpy_helper.from_array(values.astype(np.float32), name)

    size = HISTORY * len(mean)
    constants = [
        numpy_helper.from_array(mean, "mean"),
        numpy_helper.from_array(std, "std"),
        weights("W", size, 4),
        weights("U", 4, 4),
        weights("V", 4, 3),
        numpy_helper.from_array(np.asarray([-1, size], np.int64), "flat"),
        numpy_helper.from_array(np.asarray([-1, 1, 3], np.int64), "chunk"),
    ]
    nodes = [
        helper.make_node("Sub", ["observation", "mean"], ["centred"]),
        helper.make_node("Div", ["centred", "std"], ["normal"]),
        helper.make_node("Reshape", ["normal", "flat"], ["x"]),
        helper.make_node("MatMul", ["x", "W"], ["driven"]),
        helper.make_node("MatMul", ["state", "U"], ["kept"]),
        helper.make_node("Add", ["driven", "kept"], ["sum"]),
        helper.make_node("Tanh", ["sum"], ["next_state"]),
        helper.make_node("MatMul", ["next_state", "V"], ["flat_action"]),
        helper.make_node("Reshape", ["flat_action", "chunk"], ["action"]),
    ]
    shapes = {"observation": (HISTORY, len(mean)), "state": (4,)}
    results = {"action": (1, 3), "next_state": (4,)}
    return model_of(nodes, shapes, results, constants, batch)


def model_of(
    nodes: list[onnx.NodeProto],
    inputs: dict[str, tuple[int, ...]],
    outputs: dict[str, tuple[int, ...]],
    constants: list[onnx.TensorProto],
    batch: str | int = "batch",
) -> onnx.ModelProto:
    """Assemble a model whose inputs and outputs are [batch, *shape]."""

    def ports(shapes: dict[str, tuple[int, ...]]) -> list[onnx.ValueInfoProto]:
        return [
            helper.make_tensor_value_info(name, TensorProto.FLOAT, [batch, *shape])
            for name, shape in shapes.items()
        ]

    graph = helper.make_graph(nodes, "leg", ports(inputs), ports(outputs), constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


def recorded(graph: bytes, contract: Contract, seed: int = 0) -> Golden:
    """The golden run of a graph that is known to be right."""
    policy = OnnxPolicy(PolicyBundle(Path(), contract, {}, {GRAPH: graph}))
    observation, reset, noise = random_inputs(contract, batch=policy.static_batch or 2, seed=seed)
    lead = observation.shape[:2]
    states = {s.output: np.zeros((*lead, *s.shape), np.float32) for s in contract.state}
    action = np.zeros((*lead, contract.chunk.steps, contract.action_size), np.float32)
    return policy.replay(Golden(reset, observation, action, states, noise))[0]


def bundle_files(
    contract: Contract, graph: onnx.ModelProto | None = None, golden: Golden | None = None
) -> dict[str, bytes]:
    """All files of a bundle except policy.json."""
    stamped = stamp(graph or leg_graph(), contract)
    return {
        GRAPH: stamped,
        "golden.npz": (golden or recorded(stamped, contract)).to_bytes(),
        "training.yaml": b"made_by: a test\n",
        "README.md": b"# leg\n",
    }


def rehash(path: Path, edit: Callable[[dict[str, Any]], object] | None = None) -> None:
    """Do what a careful attacker would: edit policy.json and make its hashes fit again."""
    document = json.loads((path / "policy.json").read_text())
    if edit is not None:
        edit(document)
    for name in document["files"]:
        if (path / name).is_file():
            document["files"][name] = hashlib.sha256((path / name).read_bytes()).hexdigest()
    text = json.dumps(document, indent=1, sort_keys=True) + "\n"
    (path / "policy.json").write_text(text)
