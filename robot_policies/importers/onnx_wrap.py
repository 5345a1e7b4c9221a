"""Nodes around an ONNX model, so that the whole has the standard form of a bundle's graph."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from onnx.compose import add_prefix

from robot_policies.contract import Contract, Observation, State
from robot_policies.importers.onnx_original import FLOATS, OriginalModel, target_shape
from robot_policies.importers.onnx_signals import GraphInput, GraphState

PREFIX = "model/"


def wrap(original: OriginalModel, batch: int | None) -> onnx.ModelProto:
    """Put nodes around the model, so that it has the standard form of a bundle's graph."""
    model = add_prefix(original.proto, PREFIX)
    wrapper = _Wrapper(original.contract, batch)
    for item in original.mapping.inputs:
        wrapper.take_observation(original, item)
    for state in original.mapping.states:
        wrapper.take_state(original, state)
    for noise in original.mapping.noise:
        shape = next(n.shape for n in original.contract.noise if n.name == noise.noise)
        value = wrapper.cast(noise.noise, original.inputs[noise.input].type)
        wrapper.add("Identity", [value], PREFIX + noise.input)
        wrapper.declare_input(noise.noise, shape)
    wrapper.nodes.extend(model.graph.node)
    wrapper.give_outputs(original)
    return wrapper.model(model)


class _Wrapper:
    """Collects the nodes and constants around a model."""

    def __init__(self, contract: Contract, batch: int | None) -> None:
        self.contract = contract
        self.batch: str | int = "batch" if batch is None else batch
        self.open_batch = -1 if batch is None else batch
        self.nodes: list[onnx.NodeProto] = []
        self.states: list[tuple[GraphState, State, list[int]]] = []
        self.constants: list[onnx.TensorProto] = []
        self.inputs: list[onnx.ValueInfoProto] = []
        self.outputs: list[onnx.ValueInfoProto] = []
        size = contract.observation_steps * contract.observation_size
        self.declare_input("observation", (contract.observation_steps, contract.observation_size))
        self.reshape("observation", [self.open_batch, size], "flat_observation")

    def take_observation(self, original: OriginalModel, item: GraphInput) -> None:
        """Pick this input's numbers out of the flat observation, in the model's order."""
        indices = self.constant("order", _order(original.contract, item))
        self.add("Gather", ["flat_observation", indices], f"picked/{item.input}", axis=1)
        value = self.cast(f"picked/{item.input}", original.inputs[item.input].type)
        self.reshape(value, target_shape(original, item, self.open_batch), PREFIX + item.input)

    def take_state(self, original: OriginalModel, item: GraphState) -> None:
        """Move the batch from the first axis to where the model has it, and back."""
        spec = next(spec for spec in original.contract.state if spec.name == item.state)
        axes = list(range(len(spec.shape) + 1))
        there = [*axes[1 : item.batch_axis + 1], 0, *axes[item.batch_axis + 1 :]]
        back = [item.batch_axis, *(axis for axis in axes if axis != item.batch_axis)]
        self.declare_input(item.state, spec.shape)
        value = self.cast(item.state, original.inputs[item.input].type)
        self.add("Transpose", [value], PREFIX + item.input, perm=there)
        self.states.append((item, spec, back))

    def give_outputs(self, original: OriginalModel) -> None:
        """Give the model's outputs the contract's names and shapes."""
        contract, mapping = self.contract, original.mapping
        value = self.uncast(PREFIX + mapping.action, original.outputs[mapping.action].type)
        shape = (contract.chunk.steps, contract.action_size)
        self.reshape(value, [self.open_batch, *shape], "action")
        self.declare_output("action", shape)
        for item, spec, back in self.states:
            value = self.uncast(PREFIX + item.output, original.outputs[item.output].type)
            self.add("Transpose", [value], spec.output, perm=back)
            self.declare_output(spec.output, spec.shape)
        if mapping.feature is not None and contract.feature is not None:
            port = original.outputs[mapping.feature]
            value = self.uncast(PREFIX + mapping.feature, port.type)
            size = math.prod(port.shape[1:])
            self.reshape(value, [self.open_batch, size], contract.feature)
            self.declare_output(contract.feature, (size,))

    def model(self, inner: onnx.ModelProto) -> onnx.ModelProto:
        """Assemble; the model's own shape annotations go, since its batch may have changed."""
        graph = helper.make_graph(
            self.nodes, "policy", self.inputs, self.outputs,
            [*inner.graph.initializer, *self.constants],
            sparse_initializer=list(inner.graph.sparse_initializer),
        )  # fmt: skip
        made = helper.make_model(
            graph, opset_imports=list(inner.opset_import), functions=list(inner.functions)
        )
        made.ir_version = max(inner.ir_version, 8)
        return made

    def add(self, kind: str, inputs: Sequence[str], output: str, **attributes: Any) -> str:
        """Append a node; returns its output."""
        self.nodes.append(helper.make_node(kind, list(inputs), [output], **attributes))
        return output

    def constant(self, purpose: str, values: Sequence[int]) -> str:
        """Add an integer constant; returns its name."""
        name = f"{purpose}/{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.asarray(values, np.int64), name))
        return name

    def reshape(self, value: str, shape: Sequence[int], output: str) -> None:
        """Reshape; one size may be -1."""
        self.add("Reshape", [value, self.constant("shape", shape)], output)

    def cast(self, value: str, kind: str) -> str:
        """float32 -> the model's type."""
        if kind == "tensor(float)":
            return value
        return self.add("Cast", [value], f"{value}/cast", to=FLOATS[kind])

    def uncast(self, value: str, kind: str) -> str:
        """The model's type -> float32."""
        if kind == "tensor(float)":
            return value
        return self.add("Cast", [value], f"{value}/float", to=TensorProto.FLOAT)

    def declare_input(self, name: str, shape: Sequence[int]) -> None:
        """Add a graph input [B, *shape]."""
        self.inputs.append(self._port(name, shape))

    def declare_output(self, name: str, shape: Sequence[int]) -> None:
        """Add a graph output [B, *shape]."""
        self.outputs.append(self._port(name, shape))

    def _port(self, name: str, shape: Sequence[int]) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, [self.batch, *shape])


def _order(contract: Contract, item: GraphInput) -> list[int]:
    """Where each number of the model's input stands in the flattened observation [To, Do]."""
    starts: dict[str, int] = {}
    position = 0
    for signal in contract.observation:
        starts[signal.name] = position
        position += len(signal.elements)
    steps = list(range(contract.observation_steps))
    if item.history_order == "newest_first":
        steps.reverse()
    signals = {s.name: s for s in contract.observation}

    def block(signal: Observation, step: int) -> range:
        start = step * position + starts[signal.name]
        return range(start, start + len(signal.elements))

    chosen = [signals[name] for name in item.signals]
    if item.history_layout == "signal":
        pairs = [(signal, step) for signal in chosen for step in steps]
    else:
        pairs = [(signal, step) for step in steps for signal in chosen]
    return [index for signal, step in pairs for index in block(signal, step)]
