"""One graph with a Loop for programs without our runtime, and weights in eight bits."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx.helper import set_model_props
from test_chunk_policies import contract_for, make

from robot_policies import cli
from robot_policies.bundle import PolicyBundle, read
from robot_policies.contract import Calibration, Contract, Sampler
from robot_policies.export import record_random, save_checkpoint, to_graphs
from robot_policies.graph import stamp
from robot_policies.models.trunk import Sizes
from robot_policies.quantization import compare, quantize
from robot_policies.runtime import OnnxPolicy, load_policy
from robot_policies.sessions import METADATA_KEY, noise_shapes
from robot_policies.single_graph import (
    SAMPLER_KEY,
    join,
    largest_difference,
    open_joined,
    write_single,
)
from robot_policies.strict import InputError
from robot_policies.verify import verify

SIZES = Sizes(
    2, 5, 8, 3, patch=4, width=32, layers=1, heads=4
)  # one layer exports in half the time
REFINING = {
    "energy": ("two-steps", "four-steps", "scored", "adaptive"),
    "diffusion": ("ddim-10", "ddpm-100"),
    "flow": ("flow-2", "flow-4"),
}


@pytest.fixture(scope="module")
def bundles() -> dict[str, PolicyBundle]:
    """Each kind's bundle, in memory."""
    found = {}
    for kind in REFINING:
        policy = make(kind, SIZES)
        contract = contract_for(policy, kind)
        graphs = to_graphs(policy, contract)
        content = {name: stamp(graph, contract) for name, graph in graphs.items()}
        content["golden.npz"] = record_random(policy, contract, 0).to_bytes()
        content |= {"training.yaml": b"{}\n", "README.md": b"# A card\n"}
        found[kind] = PolicyBundle(Path(kind), contract, {}, content)
    return found


def inputs(bundle: PolicyBundle, sampler: Sampler, batch: int) -> dict[str, np.ndarray]:
    """An observation, and the noise that the sampler takes."""
    contract, generator = bundle.contract, np.random.default_rng(batch)
    shapes = {"observation": (contract.observation_steps, contract.observation_size)}
    shapes |= noise_shapes(contract, sampler)
    return {
        name: generator.standard_normal((batch, *shape)).astype(np.float32)
        for name, shape in shapes.items()
    }


def run_onboard(
    bundle: PolicyBundle, sampler: Sampler, given: dict[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """What the runtime makes of the same inputs, under the single graph's names."""
    policy = OnnxPolicy(bundle, sampler.name)
    policy.reset(len(given["observation"]))
    policy._observation.vector[...] = given["observation"]
    for name, noise in policy._noise.items():
        noise[...] = given[name]
    policy._run()
    last = policy.last
    assert last.feature is not None and last.iterations is not None
    outputs = {"action": last.raw_action, "feature": last.feature, **last.told}
    return outputs | {"iterations": last.iterations}


def require_same(bundle: PolicyBundle, sampler: Sampler, batch: int) -> np.ndarray:
    """Compare every output of the single graph with the runtime's; returns the iterations."""
    session = open_joined(join(bundle, sampler.name))
    given = inputs(bundle, sampler, batch)
    expected = run_onboard(bundle, sampler, given)
    assert {port.name for port in session.get_inputs()} == given.keys()
    names = [port.name for port in session.get_outputs()]
    assert set(names) == expected.keys()
    for name, value in zip(names, map(np.asarray, session.run(names, given)), strict=True):
        np.testing.assert_allclose(value, expected[name], rtol=1e-6, atol=1e-6, err_msg=name)
        assert value.dtype == expected[name].dtype
    return expected["iterations"]


# One graph.


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize(
    ("kind", "sampler"), [(kind, name) for kind, names in REFINING.items() for name in names]
)
def test_the_single_graph_does_what_the_runtime_does(bundles, kind, sampler, batch):
    bundle = bundles[kind]
    require_same(bundle, bundle.contract.refinement.sampler(sampler), batch)


@pytest.mark.parametrize("quantile", [0.2, 0.8])
def test_each_robot_stops_for_itself(bundles, quantile):
    """With short steps, and a limit between the robots' norms after six of them."""
    short = Sampler("short", ((0.1,),) * 6, False, None)
    bundle = with_samplers(bundles["energy"], short)
    norms = run_onboard(bundle, short, inputs(bundle, short, 8))["gradient_norm"]
    stops = Sampler("stops", ((0.1,),) * 30, False, float(np.quantile(norms, quantile)))
    iterations = require_same(with_samplers(bundle, stops), stops, 8)
    assert 1 <= iterations.min() < iterations.max()


def test_the_loop_ends_when_all_have_stopped(bundles):
    """A step that nobody takes would tell of another sample: at once is after the second look."""
    at_once = Sampler("at-once", ((0.1,),) * 30, False, 1e9)
    bundle = with_samplers(bundles["energy"], at_once)
    assert require_same(bundle, at_once, 3).tolist() == [1, 1, 1]
    (loop,) = (node for node in join(bundle).graph.node if node.op_type == "Loop")
    body = next(attribute.g for attribute in loop.attribute if attribute.name == "body")
    made_by = {name: node.op_type for node in body.node for name in node.output}
    assert made_by[body.output[0].name] == "Cast"  # of whether anybody ran, not what came in


def with_samplers(bundle: PolicyBundle, *samplers: Sampler) -> PolicyBundle:
    """The same graphs with other samplers."""
    assert bundle.contract.refinement is not None
    refinement = replace(bundle.contract.refinement, samplers=samplers)
    contract = replace(bundle.contract, refinement=refinement)
    return with_contract(bundle, contract)


def with_contract(bundle: PolicyBundle, contract: Contract) -> PolicyBundle:
    content = dict(bundle.content)
    for name in ("encode.onnx", "refine.onnx"):
        model = onnx.load_from_string(content[name])
        set_model_props(model, {METADATA_KEY: contract.to_json()})
        content[name] = model.SerializeToString()
    return PolicyBundle(bundle.path, contract, {}, content)


def test_it_is_standard_and_says_what_it_is(bundles, tmp_path):
    bundle = bundles["diffusion"]
    assert write_single(bundle, tmp_path / "one.onnx", "ddim-5") <= 1e-6
    model = onnx.load(tmp_path / "one.onnx")
    assert {(item.domain, item.version) for item in model.opset_import} == {("", 20)}
    said = {item.key: item.value for item in model.metadata_props}
    assert said == {METADATA_KEY: bundle.contract.to_json(), SAMPLER_KEY: "ddim-5"}
    assert [path.name for path in tmp_path.iterdir()] == ["one.onnx"]


def test_a_graph_with_another_sampler_is_found_out(bundles):
    assert largest_difference(join(bundles["flow"], "flow-4"), bundles["flow"], "flow-1") > 1e-3


def test_what_cannot_be_joined_is_refused(bundles, leg):
    with pytest.raises(InputError, match=r"a policy that refines.* use the bundle's policy\.onnx"):
        join(read(leg))
    with pytest.raises(InputError, match="one of flow-2, flow-1, flow-4, found ddim-10"):
        join(bundles["flow"], "ddim-10")
    contract = replace(bundles["flow"].contract, feature="iterations")
    with pytest.raises(InputError, match="feature: expected another name"):
        join(replace(bundles["flow"], contract=contract))


def test_nothing_is_overwritten_and_a_bundle_stays_as_it_is(bundles, tmp_path):
    path = tmp_path / "one.onnx"
    path.write_text("mine")
    with pytest.raises(FileExistsError, match="--replace"):
        write_single(bundles["flow"], path)
    assert path.read_text() == "mine"
    write_single(bundles["flow"], path, replace=True)
    onnx.checker.check_model(onnx.load(path))
    (tmp_path / "policy.json").touch()
    with pytest.raises(InputError, match="a path outside of bundles"):
        write_single(bundles["flow"], tmp_path / "two.onnx")
    with pytest.raises(FileExistsError, match="no plain file"):
        write_single(bundles["flow"], tmp_path, replace=True)


# Eight bits.


@pytest.mark.parametrize("kind", ["energy", "leg"])
def test_a_quantised_bundle_is_verified_and_says_what_it_costs(bundles, leg, tmp_path, kind):
    before = read(leg) if kind == "leg" else bundles[kind]  # two graphs, or one with a memory
    after = quantize(before, tmp_path / "int8")
    assert verify(after.path, latency=False).ok
    assert load_policy(after.path).static_batch is None
    assert np.array_equal(after.golden.observation, before.golden.observation)
    assert not np.array_equal(after.golden.action, before.golden.action)
    assert "int8 by ONNX Runtime" in after.contract.provenance.source
    comparison = compare(before, after, steps=5)
    assert 0 < comparison.rms < comparison.largest < 0.01
    assert comparison.latency_before_s > 0 < comparison.latency_after_s
    card = after.content["README.md"].decode()
    assert card.startswith(before.content["README.md"].decode())
    assert f"at most {comparison.largest:.2g} of their range" in card
    assert f"root mean square {comparison.rms:.2g}" in card


def test_weights_behind_a_transpose_are_quantised_too(bundles, tmp_path):
    """The gradient of an energy takes each weight turned round: no product keeps a float one."""
    after = quantize(bundles["energy"], tmp_path / "int8")
    assert len(after.content["refine.onnx"]) < 0.7 * len(bundles["energy"].content["refine.onnx"])
    graph = onnx.load_from_string(after.content["refine.onnx"]).graph
    matrices = {tensor.name for tensor in graph.initializer if tensor.data_type == 1}
    kinds = [node.op_type for node in graph.node if matrices & set(node.input)]
    assert not {"MatMul", "Gemm", "Transpose"} & set(kinds)


def test_a_quantised_bundle_is_joined_too(bundles, tmp_path):
    after = quantize(bundles["flow"], tmp_path / "int8")
    assert largest_difference(join(after), after) <= 1e-6


def test_what_cannot_be_quantised_is_refused(bundles, tmp_path):
    once = quantize(bundles["flow"], tmp_path / "once")
    with pytest.raises(FileExistsError, match="--replace"):
        quantize(bundles["flow"], tmp_path / "once")
    with pytest.raises(InputError, match="eight bits already"):
        quantize(once, tmp_path / "twice")
    calibration = Calibration("knn", 0.1, {"feature": 1.0})
    contract = replace(bundles["flow"].contract, calibration=calibration)
    with pytest.raises(InputError, match="quantise first, then calibrate"):
        quantize(with_contract(bundles["flow"], contract), tmp_path / "twice")
    assert [path.name for path in tmp_path.iterdir()] == ["once"]


# The command.


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoints")
    sizes = {"sizes": vars(SIZES), "execution_steps": 4}
    for kind in ("flow", "cloning"):
        policy = make(kind, SIZES)
        save_checkpoint(folder / f"{kind}.pt", policy, sizes, contract_for(policy, kind), {})
    return folder


def test_the_command_writes_both(checkpoints, tmp_path, capsys):
    paths = [f"--output={tmp_path / 'push'}", f"--single-graph={tmp_path / 'push.onnx'}"]
    arguments = ["export", str(checkpoints / "flow.pt"), *paths, "--sampler", "flow-4", "--int8"]
    assert cli.main([*arguments, "--json"]) == 0
    printed = capsys.readouterr()
    assert "pre-processing" not in printed.err
    document = json.loads(printed.out)
    assert document["single_graph"]["max_difference"] <= 1e-6
    assert document["int8"]["bytes_after"] < document["int8"]["bytes_before"]
    assert verify(tmp_path / "push", latency=False).ok
    assert sorted(path.name for path in tmp_path.iterdir()) == ["push", "push.onnx"]


@pytest.mark.parametrize(
    ("kind", "options", "said"),
    [
        ("flow", ["--single-graph", "one.onnx", "--sampler", "ddim-5"], "one of flow-2"),
        ("flow", ["--sampler", "flow-4"], "without --single-graph"),
        ("flow", ["--single-graph", "push/one.onnx"], "a path outside of bundles"),
        ("flow", ["--single-graph", "mine.onnx"], "--replace"),
        ("cloning", ["--single-graph", "one.onnx"], "a policy that refines"),
    ],
)
def test_what_cannot_be_meant_is_refused_before_anything_is_written(
    checkpoints, tmp_path, monkeypatch, capsys, kind, options, said
):
    monkeypatch.chdir(tmp_path)
    Path("mine.onnx").touch()
    checkpoint = str(checkpoints / f"{kind}.pt")
    assert cli.main(["export", checkpoint, "--output", "push", *options]) == 2
    assert said in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["mine.onnx"]
