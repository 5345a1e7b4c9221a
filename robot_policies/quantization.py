"""Bundles with weights of eight bits: a smaller file, and other numbers (needs onnx, not torch).

The weights of matrix products become integers, a scale for each column; what they are multiplied
with is rounded to integers at each step, by its own range (ONNX Runtime's dynamic quantisation).

Rounding makes jumps: a difference in the last digit of an observation can move an action by a
step of the rounding. Another processor has such differences, and may not replay the golden run
within the contract's tolerance. So quantise on the kind of machine that is to run the policy, and
read `Comparison.jump` before.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from dataclasses import replace as replaced
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import onnx
import onnxruntime as ort
import yaml
from onnx import GraphProto, ModelProto
from onnx.numpy_helper import from_array, to_array

from robot_policies.bundle import Golden, PolicyBundle, graphs_of, refuse_overwrite
from robot_policies.contract import Contract
from robot_policies.graph import Source, stamp, write_graphs
from robot_policies.runtime import OnnxPolicy
from robot_policies.strict import InputError, Violation
from robot_policies.verify import measure_latency

QUANTISED = ("MatMul", "Gemm")
ROUNDING = 1e-6
"""Relative difference of observations by which `Comparison.jump` is measured."""
LATENCY_ROUNDS = 3


@dataclass(frozen=True)
class Comparison:
    """A quantised bundle beside that which it was made of; actions in units of their ranges."""

    bytes_before: int
    bytes_after: int
    """Of the graphs."""
    latency_before_s: float
    latency_after_s: float
    """Median of a step at batch 1 on one thread, on this machine."""
    largest: float
    rms: float
    """Difference of the actions on the golden observations."""
    jump: float
    """Largest change of a quantised action by rounding the observations otherwise."""

    def __str__(self) -> str:
        return (
            f"graphs of {self.bytes_after / 1e3:.0f} kB (were {self.bytes_before / 1e3:.0f}), "
            f"{self.latency_after_s * 1e3:.3g} ms a step here (was "
            f"{self.latency_before_s * 1e3:.3g}); actions differ by {_shares(self)} of their range"
        )


def quantize(bundle: PolicyBundle, path: str | Path, *, replace: bool = False) -> PolicyBundle:
    """Write a bundle with the same policy in eight bits; the golden run is recorded anew.

    Args:
        bundle: of either form, with weights of 32 bits; it stays as it is.
        path: the new bundle's directory, or zoo:NAME.
        replace: exchange an existing bundle for the new one.

    Raises:
        InputError: there is nothing to quantise, or the bundle is calibrated.
        ContractError: the quantised graphs do not give finite numbers.
        FileExistsError: the path exists and `replace` is False.
    """
    refuse_overwrite(path, replace)
    _require_quantisable(bundle)
    contract, graphs = _described(bundle.contract), _quantised_graphs(bundle)
    content = {name: stamp(graph, contract) for name, graph in graphs.items()}
    policy = OnnxPolicy(PolicyBundle(Path(path), contract, {}, content))
    golden, _ = policy.replay(bundle.golden)
    shares = _difference(contract, golden, bundle.golden)
    card = bundle.content["README.md"].decode() + "\n" + _line(shares, _jump(policy, golden))
    source = Source(yaml.safe_load(bundle.content["training.yaml"]), card)
    return write_graphs(graphs, contract, golden, source, path, replace=replace)


def compare(before: PolicyBundle, after: PolicyBundle, steps: int = 300) -> Comparison:
    """Measure both bundles, in turns.

    Args:
        before: what `quantize` was given.
        after: what it returned.
        steps: of each of the rounds in which latency is measured.
    """
    policies = [OnnxPolicy(bundle) for bundle in (before, after)]
    golden = before.golden
    rounds = [
        [float(np.median(measure_latency(policy, golden, steps))) for policy in policies]
        for _ in range(LATENCY_ROUNDS)
    ]
    latency = np.min(rounds, axis=0)  # what else the machine does only adds to it
    shares = _difference(after.contract, after.golden, golden)
    return Comparison(
        _bytes(before), _bytes(after), float(latency[0]), float(latency[1]),
        float(shares.max()), _rms(shares), _jump(policies[1], after.golden),
    )  # fmt: skip


# What goes into the bundle.


def _require_quantisable(bundle: PolicyBundle) -> None:
    if bundle.contract.calibration is not None or "calibration.npz" in bundle.content:
        mend = "quantise first, then calibrate: the features that were calibrated are others"
        raise InputError([Violation("calibration", "none", "a calibrated bundle", mend)])


def _described(contract: Contract) -> Contract:
    said = f"{contract.provenance.source}; weights in int8 by ONNX Runtime {ort.__version__}"
    return replaced(contract, provenance=replaced(contract.provenance, source=said))


def _line(shares: np.ndarray, jump: float) -> str:
    return (
        f"Weights in eight bits: on the golden observations the actions differ from those of the "
        f"policy in 32 bits by at most {shares.max():.2g} of their range (root mean square "
        f"{_rms(shares):.2g}). Observations that are rounded otherwise move an action by up to "
        f"{jump:.2g} of its range, so that another kind of processor may not replay the golden "
        f"run.\n"
    )


def _difference(contract: Contract, found: Golden, expected: Golden) -> np.ndarray:
    """Of the actions [T, B, Ta, Da], without their limits, as shares of each action's range."""
    scale, lower, upper = (
        np.concatenate([getattr(signal, name) for signal in contract.action])
        for name in ("scale", "lower", "upper")
    )
    return np.abs((found.action - expected.action) * scale) / (upper - lower)


def _jump(policy: OnnxPolicy, golden: Golden) -> float:
    signs = np.random.default_rng(0).choice([-1.0, 1.0], golden.observation.shape)
    moved = (golden.observation * (1 + ROUNDING * signs)).astype(np.float32)
    found, _ = policy.replay(replaced(golden, observation=moved))
    return float(_difference(policy.contract, found, golden).max())


def _rms(shares: np.ndarray) -> float:
    return float(np.sqrt(np.square(shares).mean()))


def _shares(comparison: Comparison) -> str:
    return f"{comparison.largest:.2g} at most, {comparison.rms:.2g} root mean square"


def _bytes(bundle: PolicyBundle) -> int:
    return sum(len(bundle.content[name]) for name in graphs_of(bundle.contract))


# Graphs.


def _quantised_graphs(bundle: PolicyBundle) -> dict[str, ModelProto]:
    graphs = {name: _quantised(bundle.content[name]) for name in graphs_of(bundle.contract)}
    before = {name: onnx.load_from_string(bundle.content[name]) for name in graphs}
    if _integer_products(graphs) == _integer_products(before):
        mend = "run it as it is: it has no such weights, or they have eight bits already"
        raise InputError([Violation("graph", "weights of matrix products", "none", mend)])
    return graphs


def _integer_products(graphs: Mapping[str, ModelProto]) -> int:
    nodes = (node for model in graphs.values() for node in model.graph.node)
    return sum(node.op_type == "MatMulInteger" for node in nodes)


def _quantised(content: bytes) -> ModelProto:
    from onnxruntime.quantization import QuantType, quantize_dynamic
    from onnxruntime.quantization.quant_utils import add_pre_process_metadata

    model = onnx.load_from_string(content)
    _fold_transposes(model.graph)
    add_pre_process_metadata(model)  # or it prints the advice to do what the exporter has done
    with TemporaryDirectory() as folder:
        target = Path(folder) / "quantised.onnx"
        # Unsigned: sums of signed weights overflow sixteen bits on processors without VNNI, which
        # nobody reports.
        quantize_dynamic(
            model, target, op_types_to_quantize=list(QUANTISED), per_channel=True,
            weight_type=QuantType.QUInt8,
        )  # fmt: skip
        return onnx.load(target)


def _fold_transposes(graph: GraphProto) -> None:
    """Give each use of a weight its own: the quantiser sees no weight behind a transpose.

    It also drops the weights that nobody uses any more.
    """
    weights = {tensor.name: tensor for tensor in graph.initializer}
    for node in list(graph.node):
        if node.op_type == "Transpose" and node.input[0] in weights:
            turned = to_array(weights[node.input[0]]).transpose(_order(node))
            graph.initializer.append(from_array(np.ascontiguousarray(turned), node.output[0]))
            graph.node.remove(node)


def _order(node: onnx.NodeProto) -> list[int] | None:
    """The axes of a transpose; None turns them all round, in ONNX as in numpy."""
    found: Iterator[list[int]] = (list(a.ints) for a in node.attribute if a.name == "perm")
    return next(found, None)
