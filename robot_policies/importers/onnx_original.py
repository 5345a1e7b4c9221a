"""An ONNX model as it came, fed by plain numpy: the truth that its bundle must reproduce."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto
from onnx.external_data_helper import ExternalDataInfo, uses_external_data

from robot_policies.bundle import Golden
from robot_policies.contract import Contract, State
from robot_policies.importers.onnx_signals import GraphInput, GraphMap, GraphState
from robot_policies.strict import ContractError, InputError, Violation

FLOATS = {
    "tensor(float)": TensorProto.FLOAT,
    "tensor(double)": TensorProto.DOUBLE,
    "tensor(float16)": TensorProto.FLOAT16,
}


def load_model(path: Path) -> tuple[onnx.ModelProto, str]:
    """Read a model with its external weights inside; returns it and the SHA-256 of its files.

    Raises:
        ContractError: not an ONNX model, or a file of weights is missing.
    """
    try:
        proto = onnx.load(path, load_external_data=False)
        if not proto.graph.node:
            raise _no_model(path, f"{path.stat().st_size} bytes without a graph")
        files = sorted({ExternalDataInfo(t).location for t in _external_tensors(proto)})
        missing = [name for name in files if not (path.parent / name).is_file()]
        if missing:
            raise InputError([_missing_weights(path, name) for name in missing])
        digest = hashlib.sha256(path.read_bytes())
        for name in files:
            digest.update((path.parent / name).read_bytes())
        return onnx.load(path), digest.hexdigest()
    except (ContractError, OSError):
        raise
    except Exception as error:  # onnx and protobuf raise many kinds for bytes that are no model
        raise _no_model(path, " ".join(str(error).split())[:160]) from None


def _no_model(path: Path, found: str) -> InputError:
    mend = "give the file that the exporter wrote"
    return InputError([Violation(path.name, "an ONNX model", found, mend)])


def _external_tensors(proto: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    return (tensor for tensor in proto.graph.initializer if uses_external_data(tensor))


def _missing_weights(path: Path, name: str) -> Violation:
    mend = f"copy {name} to the folder of {path.name}: the exporter wrote both"
    return Violation(f"{path.name} external weights", f"the file {name}", "no such file", mend)


class OriginalModel:
    """The model as it came, in ONNX Runtime, with the contract's signals mapped in numpy."""

    def __init__(self, proto: onnx.ModelProto, contract: Contract, mapping: GraphMap) -> None:
        self.proto, self.contract, self.mapping = proto, contract, mapping
        options = ort.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = 4
        try:
            self.session = ort.InferenceSession(
                proto.SerializeToString(),
                options,
                providers=["CPUExecutionProvider"],
                enable_fallback=0,
            )
        except Exception as error:  # ONNX Runtime's exceptions share no base class
            raise ContractError([_does_not_run(error)]) from None
        self.inputs = {port.name: port for port in self.session.get_inputs()}
        self.outputs = {port.name: port for port in self.session.get_outputs()}
        violations = list(_port_violations(self))
        if violations:
            raise ContractError(violations)
        self.batch = _fixed_batch(self)
        """The only batch that the model declares to take, or None."""

    def record(
        self, observation: np.ndarray, reset: np.ndarray, noise: Mapping[str, np.ndarray]
    ) -> Golden:
        """Run the model on [T, B, To, Do] and record what comes out.

        A model that declares its batch is run for so many environments after the others.
        """
        batch = observation.shape[1]
        if self.batch is not None and batch % self.batch:
            expected = f"a multiple of {self.batch} environments, the model's fixed batch"
            mend = "record so many environments, or export with another batch"
            raise ContractError([Violation("golden run", expected, str(batch), mend)])
        if self.batch not in (None, batch):
            size = self.batch or 1
            columns = [slice(index, index + size) for index in range(0, batch, size)]
            return _side_by_side(
                [
                    self.record(
                        observation[:, some], reset, {k: v[:, some] for k, v in noise.items()}
                    )
                    for some in columns
                ]
            )
        actions: list[np.ndarray] = []
        states: dict[str, list[np.ndarray]] = {spec.output: [] for spec in self.contract.state}
        current: dict[str, np.ndarray] = {}
        for step, vector in enumerate(observation):
            if reset[step]:
                current = self._initial(batch)
            feed = self._feed(vector) | current
            feed |= {item.input: noise[item.noise][step] for item in self.mapping.noise}
            action, current = self._run(feed)
            actions.append(self._chunk(action, batch))
            for item, spec in self._states():
                states[spec.output].append(np.moveaxis(current[item.input], item.batch_axis, 0))
        stacked = {name: np.stack(values).astype(np.float32) for name, values in states.items()}
        action = np.stack(actions).astype(np.float32)
        return Golden(reset, observation, action, stacked, dict(noise))

    def _chunk(self, action: np.ndarray, batch: int) -> np.ndarray:
        """The model's action as [B, Ta, Da]."""
        shape = (batch, self.contract.chunk.steps, self.contract.action_size)
        beside_batch = action.shape[1:] if action.ndim > 1 else action.shape
        if action.size != math.prod(shape) or _fitting(beside_batch, *_action(self)) is None:
            raise ContractError([_action_violation(self, action.shape)])
        return action.reshape(shape)

    def _run(self, feed: Mapping[str, np.ndarray]) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        kinds = {"tensor(double)": np.float64, "tensor(float16)": np.float16}
        typed = {
            name: np.ascontiguousarray(v, kinds.get(self.inputs[name].type, np.float32))
            for name, v in feed.items()
        }
        names = [self.mapping.action, *(item.output for item in self.mapping.states)]
        try:
            action, *values = self.session.run(names, typed)
        except Exception as error:  # ONNX Runtime's exceptions share no base class
            raise ContractError([_does_not_run(error)]) from None
        targets = [item.input for item in self.mapping.states]
        return np.asarray(action), dict(zip(targets, map(np.asarray, values), strict=True))

    def _feed(self, vector: np.ndarray) -> dict[str, np.ndarray]:
        """Split the observation [B, To, Do] by signals and join it as each input wants it."""
        ends = np.cumsum([len(signal.elements) for signal in self.contract.observation])
        names = [signal.name for signal in self.contract.observation]
        parts = dict(zip(names, np.split(vector, ends[:-1], axis=-1), strict=True))
        feed = {}
        for item in self.mapping.inputs:
            step = 1 if item.history_order == "oldest_first" else -1
            values = [parts[name][:, ::step] for name in item.signals]
            if item.history_layout == "signal":
                flat = np.concatenate([v.reshape(len(vector), -1) for v in values], axis=1)
            else:
                flat = np.concatenate(values, axis=-1).reshape(len(vector), -1)
            feed[item.input] = flat.reshape(target_shape(self, item, len(vector)))
        return feed

    def _initial(self, batch: int) -> dict[str, np.ndarray]:
        """The states after a reset, with the batch where the model has it."""
        values = {}
        for item, spec in self._states():
            value = np.reshape(spec.initial, (1, *spec.shape)).repeat(batch, axis=0)
            values[item.input] = np.moveaxis(value, 0, item.batch_axis)
        return values

    def _states(self) -> list[tuple[GraphState, State]]:
        specs = {spec.name: spec for spec in self.contract.state}
        return [(item, specs[item.state]) for item in self.mapping.states]


def _side_by_side(runs: Sequence[Golden]) -> Golden:
    """Join runs of one environment each along the batch."""

    def joined(arrays: Sequence[Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
        return {key: np.concatenate([a[key] for a in arrays], axis=1) for key in arrays[0]}

    return Golden(
        runs[0].reset,
        np.concatenate([run.observation for run in runs], axis=1),
        np.concatenate([run.action for run in runs], axis=1),
        joined([run.state for run in runs]),
        joined([run.noise for run in runs]),
    )


def _does_not_run(error: Exception) -> Violation:
    found = " ".join(str(error).split())[:200]
    return Violation("model", "a model that ONNX Runtime runs", found, "export it again")


def _fixed_batch(original: OriginalModel) -> int | None:
    axes = {item.input: item.batch_axis for item in original.mapping.states}
    sizes = {
        port.shape[axes.get(name, 0)] if len(port.shape) > 1 or name in axes else 1
        for name, port in original.inputs.items()
    }
    return next((size for size in sizes if isinstance(size, int)), None)


def target_shape(original: OriginalModel, item: GraphInput, batch: int) -> list[int]:
    """The shape in which the model takes this input; the batch is -1 to leave it open."""
    port = original.inputs[item.input]
    layout = _fitting(_without_batch(port), *_observed(original, item)) or ()
    # A port with a single axis belongs to a model without a batch.
    return [*layout] if len(port.shape) == 1 else [batch, *layout]


def _observed(original: OriginalModel, item: GraphInput) -> tuple[int, list[tuple[int, ...]]]:
    """To, and the shape of each signal that this input takes."""
    shapes = {signal.name: signal.shape for signal in original.contract.observation}
    return original.contract.observation_steps, [shapes[name] for name in item.signals]


def _action(original: OriginalModel) -> tuple[int, list[tuple[int, ...]]]:
    """Ta, and the shape of each signal of the action."""
    return original.contract.chunk.steps, [signal.shape for signal in original.contract.action]


def _fitting(
    found: Sequence[Any], steps: int, shapes: Sequence[tuple[int, ...]]
) -> tuple[int, ...] | None:
    """The layout that an axis by axis comparison (without the batch) allows, or None.

    Equal sizes are not enough: [D, To] in place of [To, D] would be read in the wrong order.
    """
    width = sum(map(math.prod, shapes))
    layouts: list[tuple[int, ...]] = [(steps * width,), (steps, width)]
    if len(shapes) == 1:  # one signal may keep axes of its own, as an image does
        layouts += [(steps, *shapes[0]), *([shapes[0]] if steps == 1 else [])]
    for layout in layouts:
        if len(layout) == len(found) and all(
            size == own for size, own in zip(found, layout, strict=True) if isinstance(size, int)
        ):
            return layout
    return None


def _port_violations(original: OriginalModel) -> Iterator[Violation]:
    contract, mapping = original.contract, original.mapping
    inputs = [i.input for i in (*mapping.inputs, *mapping.states, *mapping.noise)]
    outputs = [mapping.action, *(item.output for item in mapping.states)]
    outputs += [mapping.feature] if mapping.feature is not None else []
    yield from _name_violations("input", inputs, original.inputs)
    yield from _name_violations("output", outputs, original.outputs)
    for name in sorted(original.inputs.keys() - set(inputs)):
        mend = "map it in `graph`, or export the model without it"
        yield Violation(f"model input {name}", "a place in `graph`", "none", mend)
    for item in mapping.inputs:
        if item.input in original.inputs:
            yield from _input_violations(original, item)
    shapes = {spec.name: spec.shape for spec in contract.noise}
    for item in mapping.noise:
        if item.input in original.inputs:
            yield from _noise_violations(original.inputs[item.input], shapes[item.noise])
    specs = {spec.name: spec for spec in contract.state}
    for item in mapping.states:
        for name, ports in ((item.input, original.inputs), (item.output, original.outputs)):
            if name in ports:
                yield from _state_violations(item, specs[item.state].shape, name, ports[name])
    yield from _unread_violations(original)
    action = original.outputs.get(mapping.action)
    if action is not None and _fitting(_without_batch(action), *_action(original)) is None:
        yield _action_violation(original, action.shape)
    feature = original.outputs.get(mapping.feature or "")
    if feature is not None and (len(feature.shape) < 2 or _known_size(feature.shape[1:]) is None):
        where, mend = f"model output {feature.name}", "export it with a fixed number of features"
        yield Violation(where, "[B, F] with a known F", f"a shape of {feature.shape}", mend)


def _action_violation(original: OriginalModel, found: Sequence[Any]) -> Violation:
    steps, size = original.contract.chunk.steps, original.contract.action_size
    expected = f"[B, {steps * size}] or [B, Ta = {steps}, Da = {size}]"
    where, mend = f"model output {original.mapping.action}", "correct `action` or `chunk`"
    if len(found) == 3:
        mend = "export it with its axes in this order, or correct `action` or `chunk`"
    return Violation(where, expected, f"a shape of {list(found)}", mend)


def _noise_violations(port: Any, shape: tuple[int, ...]) -> Iterator[Violation]:
    found = port.shape[1:]
    known = all(size == own for size, own in zip(found, shape, strict=False) if type(size) is int)
    if len(found) != len(shape) or not known:
        expected = f"[B, {', '.join(map(str, shape))}]"
        where, mend = f"model noise {port.name}", "correct the noise's shape"
        yield Violation(where, expected, f"a shape of {port.shape}", mend)


def _unread_violations(original: OriginalModel) -> Iterator[Violation]:
    """Torch merges two inputs that were exported from one and the same example tensor."""
    read = set(_read_names(original.proto.graph))
    for item in original.mapping.states:
        if item.input in original.inputs and item.input not in read:
            mend = "export the model again, with an example tensor of its own for each input"
            where = f"model state {item.input}"
            yield Violation(where, "a state that the model reads", "one that no node uses", mend)


def _read_names(graph: onnx.GraphProto) -> Iterator[str]:
    """Every value that the graph, or a graph inside it, reads."""
    yield from (port.name for port in graph.output)
    for node in graph.node:
        yield from node.input
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs):
                yield from _read_names(inner)


def _name_violations(
    kind: str, names: Sequence[str], ports: Mapping[str, Any]
) -> Iterator[Violation]:
    for name in names:
        where = f"model {kind} {name}"
        if name not in ports:
            expected = "one of " + ", ".join(ports)
            yield Violation(where, expected, "no such name", "correct the name in `graph`")
        elif ports[name].type not in FLOATS:
            yield Violation(where, "floats", ports[name].type, "export it with float inputs")
        if names.count(name) > 1:
            yield Violation(where, "one place in `graph`", "several", "name each only once")


def _input_violations(original: OriginalModel, item: GraphInput) -> Iterator[Violation]:
    shape = original.inputs[item.input].shape
    steps, shapes = _observed(original, item)
    where = f"model input {item.input}"
    if _fitting(_without_batch(original.inputs[item.input]), steps, shapes) is None:
        width = sum(map(math.prod, shapes))
        expected = (
            f"{width} numbers of {', '.join(item.signals)}, {steps} steps: "
            f"[B, {steps * width}] or [B, To = {steps}, D = {width}]"
        )
        mend = "correct the signals, their shapes or their history"
        if len(shape) == 3:
            mend = "export it with its axes in this order, or " + mend
        yield Violation(where, expected, f"a shape of {shape}", mend)
    elif len(shape) == 3 and steps > 1 and item.history_layout == "signal":
        mend = 'use history_layout "step" for an input [B, To, D]'
        yield Violation(where, "[B, To * D] for history_layout signal", f"{shape}", mend)


def _state_violations(
    item: GraphState, shape: tuple[int, ...], name: str, port: Any
) -> Iterator[Violation]:
    found = list(port.shape)
    where = f"model state {name}"
    if not 0 <= item.batch_axis < len(found) or len(found) != len(shape) + 1:
        expected = f"{len(shape) + 1} axes, of which batch_axis is one"
        mend = "give the state's shape without the batch, and where the model has the batch"
        yield Violation(where, expected, f"{found}, batch_axis {item.batch_axis}", mend)
        return
    del found[item.batch_axis]
    if any(isinstance(size, int) and size != own for size, own in zip(found, shape, strict=True)):
        expected = f"{list(shape)} beside the batch"
        yield Violation(where, expected, f"{found}", "correct the state's shape")


def _without_batch(port: Any) -> Sequence[Any]:
    """The port's shape; one with a single axis has no batch."""
    return port.shape[1:] if len(port.shape) > 1 else port.shape


def _known_size(shape: Sequence[Any]) -> int | None:
    return math.prod(shape) if all(isinstance(size, int) for size in shape) else None
