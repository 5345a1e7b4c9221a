"""Every float of an ONNX file is found without the onnx package, which here is the oracle."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from leg_policy import leg_graph
from onnx import TensorProto, helper, numpy_helper

from robot_policies.weights import read_weights, weight_violations

TYPES = (TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16, TensorProto.BFLOAT16)


def model(*initializers: onnx.TensorProto, nodes: tuple = ()) -> bytes:
    graph = helper.make_graph(list(nodes), "graph", [], [], list(initializers))
    return helper.make_model(graph).SerializeToString()


def names(content: bytes) -> list[str]:
    return [violation.where for violation in weight_violations("policy.onnx", content)]


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("raw", [False, True])
def test_all_float_types_are_read(kind: int, raw: bool) -> None:
    values = np.array([1.5, -2.0, np.inf, 0.25], np.float32)
    whole = helper.make_tensor("w", kind, [4], values)
    if raw:
        whole = numpy_helper.from_array(numpy_helper.to_array(whole), "w")
    (weight,) = read_weights(model(whole))
    assert weight.name == "w" and not weight.external
    assert np.array_equal(weight.values, numpy_helper.to_array(whole).astype(np.float64))


@settings(max_examples=100, deadline=None)
@given(st.lists(st.floats(width=32), max_size=20), st.booleans())
def test_any_numbers_are_read_as_onnx_reads_them(numbers: list[float], raw: bool) -> None:
    values = np.asarray(numbers, np.float32)
    tensor = helper.make_tensor("w", TensorProto.FLOAT, [len(values)], values.tolist())
    if raw:
        tensor = numpy_helper.from_array(values, "w")
    (weight,) = read_weights(model(tensor))
    assert np.array_equal(weight.values, values, equal_nan=True)
    assert bool(names(model(tensor))) == (not np.isfinite(values).all())


def test_integers_are_no_concern() -> None:
    tensor = numpy_helper.from_array(np.arange(3), "shape")
    assert names(model(tensor)) == []


def branches() -> onnx.NodeProto:
    """An If whose branches hold a constant each, the second with a NaN."""

    def branch(name: str, value: float) -> onnx.GraphProto:
        node = helper.make_node("Constant", [], [name], value_float=value)
        output = helper.make_tensor_value_info(name, TensorProto.FLOAT, [])
        return helper.make_graph([node], name, [], [output])

    options = {"then_branch": branch("yes", 1.0), "else_branch": branch("no", np.nan)}
    return helper.make_node("If", ["condition"], ["out"], **options)


def constant(name: str, **value: object) -> onnx.NodeProto:
    return helper.make_node("Constant", [], [name], **value)


NAN = numpy_helper.from_array(np.array([1.0, np.nan], np.float32))
HIDING_PLACES = {
    "a": constant("a", value=NAN),
    "b": constant("b", value_float=float("nan")),
    "c": constant("c", value_floats=[1.0, float("inf")]),
    "no": branches(),
}


@pytest.mark.parametrize("name", HIDING_PLACES)
def test_nan_is_found_where_it_hides(name: str) -> None:
    assert names(model(nodes=(HIDING_PLACES[name],))) == [f"policy.onnx weight {name}"]


def test_nan_is_found_in_functions() -> None:
    body = [constant("f", value_float=float("nan"))]
    opsets = [helper.make_opsetid("", 18)]
    function = helper.make_function("local", "Secret", [], ["f"], body, opsets)
    graph = helper.make_graph([], "graph", [], [])
    content = helper.make_model(graph, functions=[function]).SerializeToString()
    assert names(content) == ["policy.onnx weight f"]


def test_an_attention_mask_passes_and_a_statistic_does_not() -> None:
    def accepted(*values: object) -> bool:
        return not names(model(numpy_helper.from_array(np.array(values, np.float32), "w")))

    inf = np.inf
    assert accepted([0.0, -inf], [0.0, 0.0])
    assert not accepted([0.0, -inf], [0.5, 0.0])
    assert not accepted([0.0, inf], [0.0, 0.0])
    assert not accepted(0.0, 0.0, 0.0, -inf)  # the mean of a normaliser
    assert not accepted([0.0, 0.0, 0.0, -inf])  # ... of shape [1, 4]


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=60), st.integers(0, 1500))
def test_broken_bytes_are_a_value_error_and_nothing_else(noise: bytes, place: int) -> None:
    whole = leg_graph().SerializeToString()
    for content in (noise, whole[:place] + noise + whole[place + len(noise) :]):
        try:
            list(read_weights(content))
        except ValueError:
            continue
