"""One ONNX graph of a policy that refines: encode, and a Loop around refine (needs onnx).

For programs that run ONNX without this project, in C++ say. Standard operators only; the sampler's
schedule is inside, so that one run gives a chunk:

    observation  [B, To, Do]     assembled as the contract says: clipped, with its history
    sample       [B, Tp, Da]     standard normal noise
    fresh_noise  [B, K, Tp, Da]  more of it, where the sampler takes noise in each of its K steps

    action       [B, Ta, Da]     raw: command = clip(scale * raw + offset, lower, upper)
    feature      [B, F]          under the contract's name for it, where it has one
    iterations   [B] int64       steps that changed the robots' samples
    energy, gradient_norm [B]    where they are told: of the sample that the last step began with

The metadata has the contract, as every graph of a bundle, and the sampler's name. What else the
runtime does is left to the program: normal noise, limits, and a look for NaN in what comes out.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto, compose, helper
from onnx.numpy_helper import from_array

from robot_policies.bundle import ENCODE, REFINE, Golden, PolicyBundle
from robot_policies.contract import FRESH, GRADIENT_NORM, SAMPLE, Contract, Refinement, Sampler
from robot_policies.runtime import OnnxPolicy
from robot_policies.sessions import METADATA_KEY, noise_shapes
from robot_policies.strict import ContractError, InputError, Violation

SAMPLER_KEY = "robot_policies.sampler"
"""Metadata: the name of the sampler that is inside."""
ITERATIONS = "iterations"
CHECKED_STEPS = 8
"""Of the golden run, for a file that is to be written: DDPM's hundred steps take their time."""


def join(bundle: PolicyBundle, sampler: str | None = None) -> ModelProto:
    """Put both graphs of a bundle, and the loop of robot_policies.refinement, into one.

    Args:
        bundle: of the iterative form.
        sampler: of the contract's samplers; its first for None.

    Raises:
        InputError: the bundle is of the direct form, or has no such sampler.
    """
    contract = bundle.contract
    way = require_sampler(contract, sampler)
    refinement = contract.refinement
    assert refinement is not None
    encode, refine = (onnx.load_from_string(bundle.content[name]) for name in (ENCODE, REFINE))
    inside, encoder = _Loop(refine.graph, contract, refinement, way), encode.graph
    features = [port for port in encoder.output if port.name != "context"]
    encoder = compose.add_prefix_graph(encoder, "encode/")
    graph = helper.make_graph(
        [*_encoding(encoder, [port.name for port in features]), *inside.start(), inside.node()],
        "single",
        [*encode.graph.input, *inside.noise()],
        [*inside.outputs(), *features],
        encoder.initializer,
    )
    opsets = {item.domain: item for model in (encode, refine) for item in model.opset_import}
    model = helper.make_model(graph, opset_imports=list(opsets.values()))
    model.ir_version = max(encode.ir_version, refine.ir_version)
    helper.set_model_props(model, {METADATA_KEY: contract.to_json(), SAMPLER_KEY: way.name})
    onnx.checker.check_model(model, full_check=True)
    return model


def require_sampler(contract: Contract, name: str | None) -> Sampler:
    """The sampler that `join` would take; raises InputError where it could not join."""
    if contract.refinement is None:
        mend = "use the bundle's policy.onnx, which is a single graph already"
        found = "one whose only graph gives the action at once"
        raise InputError([Violation("single graph", "a policy that refines", found, mend)])
    if contract.feature == ITERATIONS:
        mend = "export it with another name for its feature"
        raise InputError([Violation("feature", "another name", ITERATIONS, mend)])
    try:
        return contract.refinement.sampler(name)
    except ContractError as error:  # the bundle is right, what was asked for is not
        raise InputError(error.violations) from None


def largest_difference(
    model: ModelProto, bundle: PolicyBundle, sampler: str | None = None
) -> float:
    """Of the joined graph's actions from those of the runtime, infinite where one is not finite.

    Both see the first golden observations, and the same drawn noise: the recorded one is that of
    one sampler.
    """
    golden, way = bundle.golden, require_sampler(bundle.contract, sampler)
    observation = golden.observation[:CHECKED_STEPS]
    steps, batch = observation.shape[:2]
    generator = np.random.default_rng(0)
    noise = {
        name: generator.standard_normal((steps, batch, *shape)).astype(np.float32)
        for name, shape in noise_shapes(bundle.contract, way).items()
    }
    asked = Golden(golden.reset[:steps], observation, golden.action[:steps], {}, noise)
    expected = OnnxPolicy(bundle, way.name).replay(asked)[0].action
    session = open_joined(model)
    given = {"observation": observation} | noise
    found = np.empty_like(expected)
    for step in range(steps):
        now = {name: value[step] for name, value in given.items()}
        found[step] = session.run(["action"], now)[0]
    error = np.abs(found - expected).max()
    return float(error) if np.isfinite(error) else np.inf


def open_joined(model: ModelProto) -> ort.InferenceSession:
    """A session of one thread, as the runtime's."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    content = model.SerializeToString()
    return ort.InferenceSession(content, options, providers=["CPUExecutionProvider"])


def write_single(
    bundle: PolicyBundle, path: Path, sampler: str | None = None, *, replace: bool = False
) -> float:
    """Join, compare with the runtime, and write the file in one step.

    Returns:
        As `largest_difference`.

    Raises:
        InputError: as `join`; or the path is inside a bundle.
        ContractError: the graph does something else than the runtime.
        FileExistsError: the path exists and `replace` is False, or is no file.
    """
    refuse_file(path, replace)
    model = join(bundle, sampler)
    difference, tolerance = largest_difference(model, bundle, sampler), bundle.contract.tolerance
    if not difference <= tolerance:
        expected = f"the actions of the bundle within {tolerance:g}"
        found = f"a largest difference of {difference:.3g}"
        mend = "choose another sampler: this one makes more of what rounding leaves"
        raise ContractError([Violation("single graph", expected, found, mend)])
    path.parent.mkdir(parents=True, exist_ok=True)
    staging = path.with_name(f".{path.name}.new")
    try:
        staging.write_bytes(model.SerializeToString())
        os.replace(staging, path)
    finally:
        staging.unlink(missing_ok=True)
    return difference


def refuse_file(path: Path, replace: bool, bundle: Path | None = None) -> None:
    """Raise unless `write_single` may use this path, beside a bundle that is to be written.

    Raises as `write_single` for its path; cheap, so ask before long work.
    """
    folder = path.resolve().parent
    if (folder / "policy.json").is_file() or (bundle and folder == bundle.resolve()):
        mend = "give a path beside it: a bundle with a file that it does not list is refused"
        raise InputError([Violation(str(path), "a path outside of bundles", "one inside", mend)])
    if path.is_dir() or path.is_symlink():
        raise FileExistsError(f"{path} exists and is no plain file; give another path")
    if path.exists() and not replace:
        raise FileExistsError(f"{path} exists; give another path, or --replace to replace it")


# The graph: names inside begin with encode/ or refine/ (theirs), or with start/, now/ or then/.


def _encoding(encoder: GraphProto, features: Sequence[str]) -> Iterator[NodeProto]:
    """The encoder; the body of the loop sees its context from outside."""
    yield _node("Identity", ["observation"], "encode/observation")
    yield from encoder.node
    yield _node("Identity", ["encode/context"], "refine/context")
    for name in features:
        yield _node("Identity", [f"encode/{name}"], name)


class _Loop:
    """The loop of robot_policies.refinement.Refiner, as a node and what it needs around it.

    Carried from step to step: sample, action, running and iterations, and what is told.
    """

    def __init__(
        self, refine: GraphProto, contract: Contract, refinement: Refinement, sampler: Sampler
    ) -> None:
        self._inputs = {port.name: port for port in refine.input}
        self._outputs = {port.name: port for port in refine.output}
        self._refine = compose.add_prefix_graph(refine, "refine/")
        self._sampler, self._told = sampler, refinement.told
        self._chunk = (contract.chunk.steps, contract.action_size)
        self._sample = refinement.sample
        dimension = self._inputs[SAMPLE].type.tensor_type.shape.dim[0]
        self._batch = dimension.dim_param or dimension.dim_value
        kinds = {
            SAMPLE: (TensorProto.FLOAT, self._sample), "action": (TensorProto.FLOAT, self._chunk),
            "running": (TensorProto.BOOL, ()), ITERATIONS: (TensorProto.INT64, ()),
        }  # fmt: skip
        self._carried = kinds | dict.fromkeys(self._told, (TensorProto.FLOAT, ()))

    def noise(self) -> list[ValueInfoProto]:
        """Inputs of the whole graph beside the observation."""
        fresh = (self._batch, len(self._sampler.schedule), *self._sample)
        more = [helper.make_tensor_value_info(FRESH, TensorProto.FLOAT, fresh)]
        return [self._inputs[SAMPLE], *(more if self._sampler.fresh_noise else [])]

    def outputs(self) -> list[ValueInfoProto]:
        """Outputs of the whole graph beside the feature."""
        iterations = helper.make_tensor_value_info(ITERATIONS, TensorProto.INT64, [self._batch])
        return [self._outputs["action"], iterations, *(self._outputs[n] for n in self._told)]

    def start(self) -> Iterator[NodeProto]:
        """What the loop begins with: all are running, and nothing is known."""
        rows = np.asarray(self._sampler.schedule, np.float32)
        yield _constant("start/rows", rows)
        yield _constant("start/steps", np.int64(len(rows)))
        yield _node("Shape", [SAMPLE], "start/batch", start=0, end=1)
        yield from _shape("start/row_shape", rows.shape[1:])
        yield from _shape("start/action_shape", self._chunk)
        yield _node("Identity", [SAMPLE], f"start/{SAMPLE}")
        yield _filled("start/action_shape", "start/action", np.float32(0))
        yield _filled("start/batch", "start/running", np.True_)
        yield _filled("start/batch", f"start/{ITERATIONS}", np.int64(0))
        for name in self._told:
            yield _filled("start/batch", f"start/{name}", np.float32(0))
        if FRESH in self._inputs and not self._sampler.fresh_noise:
            yield from _shape("start/sample_shape", self._sample)
            yield _filled("start/sample_shape", f"refine/{FRESH}", np.float32(0))

    def node(self) -> NodeProto:
        """The Loop itself."""
        given = ["start/steps", "", *(f"start/{name}" for name in self._carried)]
        last = {SAMPLE: "last/sample", "running": "last/running"}  # nobody asks for these
        body = helper.make_graph(
            [*self._step(), *self._take(), *self._go_on()],
            "step",
            [
                helper.make_tensor_value_info("number", TensorProto.INT64, []),
                helper.make_tensor_value_info("go", TensorProto.BOOL, []),
                *self._ports("now/"),
            ],
            [
                helper.make_tensor_value_info("go_on", TensorProto.BOOL, []),
                *self._ports("then/"),
            ],
            self._refine.initializer,
        )
        outputs = [last.get(name, name) for name in self._carried]
        return helper.make_node("Loop", given, outputs, "refining", body=body)

    def _ports(self, prefix: str) -> Iterator[ValueInfoProto]:
        for name, (kind, shape) in self._carried.items():
            yield helper.make_tensor_value_info(prefix + name, kind, [self._batch, *shape])

    def _step(self) -> Iterator[NodeProto]:
        """Tell `refine` of this step, and run it."""
        yield _node("Identity", [f"now/{SAMPLE}"], f"refine/{SAMPLE}")
        yield _node("Gather", ["start/rows", "number"], "row")
        yield _node("Expand", ["row", "start/row_shape"], "refine/schedule")
        if self._sampler.fresh_noise:
            yield _node("Gather", [FRESH, "number"], f"refine/{FRESH}", axis=1)
        yield from self._refine.node

    def _take(self) -> Iterator[NodeProto]:
        """Accept the step for those who go on; who stops had a sample that was good already."""
        for name in self._told:
            yield _choice("now/running", f"refine/{name}", name)
        if self._sampler.stop_below is None:
            yield _node("Identity", ["now/running"], "then/running")
        else:
            yield _constant("limit", np.float32(self._sampler.stop_below))
            yield _node("GreaterOrEqual", [f"refine/{GRADIENT_NORM}", "limit"], "far")
            yield _constant("first", np.int64(0))
            yield _node("Equal", ["number", "first"], "is_first")
            yield _node("Or", ["far", "is_first"], "stays")
            yield _node("And", ["now/running", "stays"], "then/running")
        yield _constant("trailing", np.asarray([1, 2]))
        yield _node("Unsqueeze", ["then/running", "trailing"], "accepted")
        yield _choice("accepted", "refine/next_sample", SAMPLE)
        yield _choice("accepted", "refine/action", "action")

    def _go_on(self) -> Iterator[NodeProto]:
        """Count the step for those who took it; another one while anybody runs."""
        yield _node("Cast", ["then/running"], "ran", to=TensorProto.INT64)
        yield _node("Add", [f"now/{ITERATIONS}", "ran"], f"then/{ITERATIONS}")
        yield _node("ReduceMax", ["ran"], "anybody", keepdims=0)
        yield _node("Cast", ["anybody"], "go_on", to=TensorProto.BOOL)


def _node(kind: str, inputs: Sequence[str], output: str, **attributes: Any) -> NodeProto:
    return helper.make_node(kind, inputs, [output], **attributes)


def _constant(output: str, value: np.ndarray | np.generic) -> NodeProto:
    return _node("Constant", [], output, value=from_array(np.asarray(value)))


def _shape(output: str, sizes: Sequence[int]) -> Iterator[NodeProto]:
    """[B, *sizes]."""
    yield _constant(f"{output}/sizes", np.asarray(sizes))
    yield _node("Concat", ["start/batch", f"{output}/sizes"], output, axis=0)


def _filled(shape: str, output: str, value: np.generic) -> NodeProto:
    return _node("ConstantOfShape", [shape], output, value=from_array(np.asarray([value])))


def _choice(where: str, found: str, carried: str) -> NodeProto:
    return _node("Where", [where, found, f"now/{carried}"], f"then/{carried}")
