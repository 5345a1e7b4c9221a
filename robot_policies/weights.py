"""The numbers inside an ONNX file, read without the onnx package, which no robot needs.

Only as much of Protocol Buffers as it takes to reach every float of a graph. Field numbers are
those of onnx.proto (ModelProto, GraphProto, NodeProto, AttributeProto, TensorProto).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from robot_policies.strict import Violation

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_FLOAT32, _FLOAT16, _FLOAT64, _BFLOAT16 = 1, 10, 11, 16


@dataclass(frozen=True)
class Weight:
    """An initializer, a constant, or a float attribute of a node."""

    name: str
    values: np.ndarray
    """The floats, flattened; empty where the type is not a float."""
    external: bool
    """The values are in another file."""
    shape: tuple[int, ...] = ()


def weight_violations(graph: str, content: bytes) -> Iterator[Violation]:
    """Yield what no weight of a policy may be: outside the file, NaN, or infinite.

    Matrices of nothing but 0 and minus infinity are attention masks, and pass; a vector may be a
    statistic, and does not. Raises ValueError where the bytes are not those of an ONNX model.
    """
    for weight in read_weights(content):
        where = f"{graph} weight {weight.name}"
        if weight.external:
            mend = "export the policy again, with all weights inside the one file"
            yield Violation(where, "its values in the same file", "external data", mend)
        elif not _is_usable(weight):
            bad = weight.values[~np.isfinite(weight.values)]
            mend = "export the policy again; if it is a statistic, collect it from more data"
            found = f"{bad.size} not finite ({bad.flat[0]})"
            yield Violation(where, "finite numbers", found, mend)


def read_weights(content: bytes) -> Iterator[Weight]:
    """Every weight of a model, those of its subgraphs and functions included."""
    for number, value in _fields(memoryview(content)):
        if number == 7:  # graph
            yield from _graph_weights(_message(value))
        elif number == 25:  # functions
            for inner, node in _fields(_message(value)):
                if inner == 7:
                    yield from _node_weights(_message(node))


def _is_usable(weight: Weight) -> bool:
    values = weight.values
    finite = np.isfinite(values)
    if finite.all():
        return True
    is_matrix = sum(size > 1 for size in weight.shape) >= 2
    return is_matrix and bool((values[~finite] == -np.inf).all() and not values[finite].any())


def _graph_weights(graph: memoryview) -> Iterator[Weight]:
    for number, value in _fields(graph):
        if number == 1:  # node
            yield from _node_weights(_message(value))
        elif number == 5:  # initializer
            yield _tensor(_message(value), "")
        elif number == 15:  # sparse_initializer
            yield from _sparse(_message(value), "")


def _node_weights(node: memoryview) -> Iterator[Weight]:
    fields = list(_fields(node))
    outputs = [_text(value) for number, value in fields if number == 2]
    for number, value in fields:
        if number == 5:  # attribute
            yield from _attribute_weights(_message(value), outputs[0] if outputs else "")


def _attribute_weights(attribute: memoryview, name: str) -> Iterator[Weight]:
    for number, value in _fields(attribute):
        if number in (2, 7) and isinstance(value, memoryview):  # f, floats
            yield Weight(name, np.frombuffer(value, "<f4"), external=False)
        elif number in (5, 10):  # t, tensors
            yield _tensor(_message(value), name)
        elif number in (6, 11):  # g, graphs
            yield from _graph_weights(_message(value))
        elif number in (22, 23):  # sparse_tensor, sparse_tensors
            yield from _sparse(_message(value), name)


def _sparse(sparse: memoryview, name: str) -> Iterator[Weight]:
    for number, value in _fields(sparse):
        if number == 1:  # values
            yield _tensor(_message(value), name)


def _tensor(tensor: memoryview, name: str) -> Weight:
    kind, external, parts, shape = 0, False, [], []
    for number, value in _fields(tensor):
        if number == 1:  # dims
            shape += [value] if isinstance(value, int) else _varints(value)
        elif number == 2:  # data_type
            kind = value if isinstance(value, int) else 0
        elif number == 8:  # name
            name = _text(value) or name
        elif number == 13 or (number == 14 and value == 1):  # external_data, data_location
            external = True
        elif number in (4, 5, 9, 10):  # float_data, int32_data, raw_data, double_data
            parts.append((number, value))
    values = [_floats(kind, number, value) for number, value in parts]
    flat = np.concatenate(values) if values else np.empty(0)
    return Weight(name, flat, external, tuple(shape))


def _floats(kind: int, number: int, value: int | memoryview) -> np.ndarray:
    """The floats in one field of a tensor; half precision may travel as integers (field 5)."""
    if number == 5 and kind in (_FLOAT16, _BFLOAT16):
        integers = [value] if isinstance(value, int) else list(_varints(value))
        value = memoryview(np.asarray(integers, "<u4").astype("<u2").tobytes())
    if not isinstance(value, memoryview):
        return np.empty(0)
    if kind == _BFLOAT16:  # the upper half of a float32
        return (np.frombuffer(value, "<u2").astype("<u4") << 16).view("<f4")
    types = {_FLOAT32: "<f4", _FLOAT16: "<f2", _FLOAT64: "<f8"}
    return np.frombuffer(value, types[kind]) if kind in types else np.empty(0)


# Protocol Buffers.


def _fields(message: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """Yield (field number, value) in order; fixed-size values stay bytes."""
    position = 0
    while position < len(message):
        key, position = _varint(message, position)
        kind = key & 7
        if kind == _VARINT:
            value, position = _varint(message, position)
            yield key >> 3, value
            continue
        if kind == _BYTES:
            size, position = _varint(message, position)
        elif kind in (_FIXED64, _FIXED32):
            size = 8 if kind == _FIXED64 else 4
        else:
            raise ValueError(f"no ONNX model: wire type {kind}")
        if position + size > len(message):
            raise ValueError("no ONNX model: it ends too early")
        yield key >> 3, message[position : position + size]
        position += size


def _varint(message: memoryview, position: int) -> tuple[int, int]:
    value = shift = 0
    while position < len(message) and shift < 70:
        byte = message[position]
        value |= (byte & 0x7F) << shift
        position, shift = position + 1, shift + 7
        if byte < 0x80:
            return value, position
    raise ValueError("no ONNX model: a broken number")


def _varints(packed: memoryview) -> Iterator[int]:
    position = 0
    while position < len(packed):
        value, position = _varint(packed, position)
        yield value


def _message(value: int | memoryview) -> memoryview:
    if isinstance(value, int):
        raise ValueError("no ONNX model: a number in place of a message")
    return value


def _text(value: int | memoryview) -> str:
    return bytes(_message(value)).decode(errors="replace")
