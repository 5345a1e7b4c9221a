"""Calibrate a bundle: an online detector into its graph, thresholds into its contract.

    recording = ...                                # episodes of this policy, as it should go
    calibrated = calibrate(bundle, recording, "bundles/mine-calibrated", alpha=0.05, seed=0)

Half of the episodes teach: the whitening of the policy's feature, which becomes part of the graph
(one Gemm and a norm), and a model of how signals follow from signals and commands. The other half
give the thresholds (robot_policies.monitor), by split conformal prediction on each
episode's highest level: of new episodes of the same kind, no more than alpha alarm at all.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace as replaced
from pathlib import Path

import numpy as np
import onnx
import yaml
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from robot_policies.bundle import CALIBRATION, ENCODE, GRAPH, PolicyBundle, refuse_overwrite
from robot_policies.contract import OOD_SCORE, Calibration, Contract
from robot_policies.dynamics import Dynamics, fit
from robot_policies.graph import Source, write_graphs
from robot_policies.monitor import DYNAMICS, STATES, levels
from robot_policies.ood import living_features
from robot_policies.recordings import Recording
from robot_policies.runtime import OnnxPolicy
from robot_policies.strict import InputError, Violation, require

FloatArray = NDArray[np.float64]
DETECTOR = "mahalanobis"
CHANNELS = 2
"""Each gets an equal share of alpha."""


def fewest_episodes(alpha: float) -> int:
    """Below which no threshold keeps alpha: as many teach as are judged by."""
    return 2 * math.ceil(CHANNELS / alpha - 1)


def calibrate(
    bundle: PolicyBundle, recording: Recording, path: str | Path, *, alpha: float, seed: int,
    replace: bool = False,
) -> PolicyBundle:  # fmt: skip
    """Write a bundle with the same policy, and a detector that knows these episodes.

    Args:
        bundle: not calibrated yet; it stays as it is.
        recording: episodes of this policy, with its commands.
        path: the new bundle's directory, or zoo:NAME.
        alpha: highest share of episodes of this kind with a false alarm.
        seed: of which half of the episodes teaches.
        replace: exchange an existing bundle for the new one.

    Raises:
        InputError: the policy gives no feature or is calibrated, or there are too few episodes.
        FileExistsError: the path exists and `replace` is False.
    """
    refuse_overwrite(path, replace)
    _require_calibratable(bundle, recording, alpha)
    recording = recording.of(bundle.contract)
    features = list(_features(OnnxPolicy(bundle), recording))
    order = np.random.default_rng(seed).permutation(len(features))
    learned, judging = np.sort(order[: len(order) // 2]), np.sort(order[len(order) // 2 :])
    center, whitening = _whitening(np.concatenate([features[i] for i in learned]))
    pairs = [_pair(recording, i) for i in learned]
    before, after = (np.concatenate(part) for part in zip(*pairs, strict=True))
    dynamics = fit(before, after, seed)
    highest = {STATES: [], DYNAMICS: []}
    for i in judging:
        scores = np.linalg.norm((features[i] - center) @ whitening, axis=1)
        found = levels(scores, _residuals(dynamics, recording, i))
        for channel, level in zip(highest, found, strict=True):
            highest[channel].append(level.max())
    thresholds = {
        channel: _conformal(np.array(found), alpha / CHANNELS)
        for channel, found in highest.items()
    }
    contract = replaced(bundle.contract, calibration=Calibration(DETECTOR, alpha, thresholds))
    return _written(bundle, contract, (center, whitening), dynamics, path, replace)


def _require_calibratable(bundle: PolicyBundle, recording: Recording, alpha: float) -> None:
    contract = bundle.contract
    require(
        "calibration",
        (0 < alpha < 1, "alpha", "above 0 and below 1", alpha),
        (contract.feature is not None, "policy", "one that gives a feature", contract.name),
        (contract.calibration is None, "policy", "one that is not calibrated", "a calibrated one"),
        (bool(recording.commands), "recording", "commands, too", "signals only"),
    )
    fewest, found = fewest_episodes(alpha), len(recording.starts) - 1
    if found < fewest:
        mend = "record more, or ask for a larger alpha"
        expected = f"{fewest} or more for alpha {alpha:g}"
        raise InputError([Violation("episodes", expected, str(found), mend)])


def _features(policy: OnnxPolicy, recording: Recording) -> Iterator[FloatArray]:
    """[T, F] of each episode, as the policy acts through it: of a chunk's steps all the same."""
    starts = recording.starts
    lengths = np.diff(starts)
    policy.reset(len(lengths))
    steps = []
    for step in range(int(lengths.max())):
        rows = starts[:-1] + np.minimum(step, lengths - 1)
        policy.act({n: v[rows].astype(np.float32) for n, v in recording.signals.items()})
        feature = policy.last.feature
        assert feature is not None
        steps.append(feature.astype(float))
    found = np.stack(steps, axis=1)
    for i, length in enumerate(lengths):
        yield found[i, :length]


def _whitening(features: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Center [F] and matrix [F, F'] that give features the covariance 1, without dead ones."""
    from sklearn.covariance import LedoitWolf

    living = living_features(features)
    require("feature", (bool(living.any()), "values", "some that vary", "only constants"))
    center, spread = features.mean(0), features.std(0)
    standard = ((features - center) / np.where(living, spread, 1.0))[:, living]
    precision = np.asarray(LedoitWolf(assume_centered=True).fit(standard).precision_)
    root = np.linalg.cholesky(precision)
    matrix = np.zeros((len(center), int(living.sum())))
    matrix[living] = root / spread[living, None]
    return center, matrix


def _pair(recording: Recording, episode: int) -> tuple[FloatArray, FloatArray]:
    """Signals and commands before [T - 1, Di], signals after [T - 1, Do]."""
    rows = slice(*recording.starts[episode : episode + 2])
    seen = recording.observations[rows]
    sent = [v[rows].reshape(len(seen), -1) for v in recording.commands.values()]
    return np.concatenate([seen, *sent], axis=1)[:-1], seen[1:]


def _residuals(dynamics: Dynamics, recording: Recording, episode: int) -> FloatArray:
    return dynamics.residual(*_pair(recording, episode))


def _conformal(highest: FloatArray, alpha: float) -> float:
    """The ceil((n + 1) (1 - alpha))-th of n, which a new one exceeds with at most alpha."""
    rank = math.ceil((len(highest) + 1) * (1 - alpha))
    return float(np.sort(highest)[rank - 1])


# The bundle.


def _written(
    bundle: PolicyBundle, contract: Contract, whitening: tuple[FloatArray, FloatArray],
    dynamics: Dynamics, path: str | Path, replace: bool,
) -> PolicyBundle:  # fmt: skip
    graphs = {
        name: onnx.load_model_from_string(content)
        for name, content in bundle.content.items() if name.endswith(".onnx")
    }  # fmt: skip
    first = GRAPH if contract.refinement is None else ENCODE
    assert contract.feature is not None
    _add_score(graphs[first], contract.feature, *whitening)
    thresholds = ", ".join(f"{n} {v:.3g}" for n, v in contract.calibration.thresholds.items())  # type: ignore[union-attr]
    card = bundle.content["README.md"].decode()
    card += f"\nCalibrated: {DETECTOR}, alpha {contract.calibration.alpha:g}; {thresholds}.\n"  # type: ignore[union-attr]
    source = Source(yaml.safe_load(bundle.content["training.yaml"]), card)
    more = {CALIBRATION: dynamics.to_bytes()}
    return write_graphs(graphs, contract, bundle.golden, source, path, replace=replace, more=more)


def _add_score(
    model: onnx.ModelProto, feature: str, center: FloatArray, whitening: FloatArray
) -> None:
    """ood_score [B] = |feature W - center W|, of the feature [B, ...] flattened."""
    graph = model.graph
    bias = -(center @ whitening)
    for name, value in (("matrix", whitening), ("bias", bias)):
        graph.initializer.append(numpy_helper.from_array(value.astype(np.float32), f"ood_{name}"))
    (opset,) = [entry.version for entry in model.opset_import if not entry.domain]
    norm = helper.make_node("ReduceL2", ["ood_white"], [OOD_SCORE], axes=[1], keepdims=0)
    if opset >= 18:  # since then the axes are an input
        axes = numpy_helper.from_array(np.array([1], np.int64), "ood_axes")
        graph.initializer.append(axes)
        norm = helper.make_node("ReduceL2", ["ood_white", "ood_axes"], [OOD_SCORE], keepdims=0)
    graph.node.extend([
        helper.make_node("Flatten", [feature], ["ood_flat"], axis=1),
        helper.make_node("Gemm", ["ood_flat", "ood_matrix", "ood_bias"], ["ood_white"]),
        norm,
    ])  # fmt: skip
    batch = graph.input[0].type.tensor_type.shape.dim[0]
    shape = [batch.dim_param or batch.dim_value]
    graph.output.append(helper.make_tensor_value_info(OOD_SCORE, TensorProto.FLOAT, shape))
    onnx.checker.check_model(model)
