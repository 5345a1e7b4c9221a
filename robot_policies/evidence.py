"""What real data say of a policy: does it know what it is shown, and what follows.

    evidence = judge(policy, real, reference, Options(), seed=0)
    evidence.p_values          # [L] of real samples: one half on average where nothing differs
    evidence.worst, evidence.flags

Two channels, each with conformal p-values (robot_policies.ood): `states`, what the policy is
shown, and `dynamics`, what a step of time changed, without which late commands or a heavy load
are not seen. A sample's p-value is the mean of both.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from robot_policies import dynamics, ood
from robot_policies.contract import ENERGY
from robot_policies.recordings import Recording, asked
from robot_policies.runtime import OnnxPolicy
from robot_policies.strict import InputError, Violation

FloatArray = NDArray[np.float64]
Float32Array = NDArray[np.float32]
LOW_RANK = 2.0
"""Effective rank of the features below which everything looks as it should."""
WORST = 3
"""Observations that are named."""


@dataclass(frozen=True)
class Options:
    """How samples are judged."""

    detector: str = "mahalanobis"
    """Of robot_policies.ood; or energy, that of an energy-based policy's chunks."""
    shown: Literal["observations", "features"] = "observations"
    """What the channel of states looks at: what the policy is shown, or what it makes of that."""
    dynamics: bool = True
    """Judge what follows from a command, too; needs recorded commands."""


@dataclass(frozen=True, eq=False)
class Evidence:
    """Of one policy."""

    p_values: FloatArray
    """[L] of the samples `judged`."""
    channels: dict[str, FloatArray]
    """Channel -> its p-values [L]."""
    judged: NDArray[np.int64]
    """[L] which of the real samples: with dynamics all but the last of each episode."""
    effective_rank: float
    """Of the reference."""
    worst: tuple[str, ...]
    """Elements that differ most from the reference, the worst first."""
    flags: tuple[str, ...]
    """saturated, low rank, no commands."""


def judge(
    policy: OnnxPolicy, real: Recording, reference: Recording, options: Options, seed: int
) -> Evidence:
    """Judge real samples by a reference of the same behaviour in the policy's own simulation.

    Raises InputError where the reference cannot be learned from.
    """
    real, reference = real.of(policy.contract), reference.of(policy.contract)
    shown = _features if options.shown == "features" else _observations
    known = ood.Reference(shown(policy, reference), reference.episodes)
    if options.detector == ENERGY:
        states = ood.Judge.of_scores(_energies(policy, reference))
        scores = _energies(policy, real)
    else:
        states = ood.calibrate(options.detector, known, seed)
        scores = states.score(shown(policy, real))
    channels, judged = {"states": states.p_of_scores(scores)}, np.arange(len(real))
    flags = ["saturated"] if states.saturated(scores) else []
    if known.effective_rank < LOW_RANK:
        flags.append("low rank")
    if options.dynamics and not (real.commands and reference.commands):
        flags.append("no commands")
    elif options.dynamics:
        channels["dynamics"], judged = _dynamics(real, reference, seed)
        channels["states"] = channels["states"][judged]
    mean = np.mean(list(channels.values()), axis=0)
    worst = _worst(policy, real, reference)
    return Evidence(mean, channels, judged, known.effective_rank, worst, tuple(flags))


def _dynamics(
    real: Recording, reference: Recording, seed: int
) -> tuple[FloatArray, NDArray[np.int64]]:  # fmt: skip
    """p-values [L] of what the reference's dynamics do not explain, and of what samples."""
    before, after, rows = reference.transitions()
    known = ood.Reference(before, reference.episodes[rows])
    learned = known.first_half(seed)
    model = dynamics.fit(before[learned], after[learned], seed)
    judging = np.sort(model.residual(before[~learned], after[~learned]))
    real_before, real_after, judged = real.transitions()
    judge = ood.Judge.of_scores(judging)
    return judge.p_of_scores(model.residual(real_before, real_after)), judged


def _observations(policy: OnnxPolicy, recording: Recording) -> FloatArray:
    del policy
    return recording.observations


def _features(policy: OnnxPolicy, recording: Recording) -> FloatArray:
    """[M, F] as the policy goes through the recording."""
    if policy.contract.feature is None:
        mend = "look at observations, or export it with a feature"
        name = policy.contract.name
        raise InputError([Violation(name, "a policy that gives features", "none", mend)])
    return _played(policy, recording, lambda: policy.last.feature)


def _energies(policy: OnnxPolicy, recording: Recording) -> FloatArray:
    """[M] of the chunk that the policy makes of every sample."""
    refinement = policy.contract.refinement
    if refinement is None or ENERGY not in refinement.told:
        mend = "choose another detector"
        name = policy.contract.name
        raise InputError([Violation(name, "an energy-based policy", "another one", mend)])
    return _played(policy, recording, lambda: policy.last.told[ENERGY][:, None])[:, 0]


def _played(
    policy: OnnxPolicy, recording: Recording, look: Callable[[], Float32Array | None]
) -> FloatArray:  # fmt: skip
    """[M, F] what is seen of the policy, as it goes through every episode from its beginning."""
    starts = recording.starts
    lengths = np.diff(starts)
    policy.reset(len(lengths))
    found: list[FloatArray] = []
    for step in range(int(lengths.max())):
        rows = starts[:-1] + np.minimum(step, lengths - 1)
        policy.step({n: v[rows].astype(np.float32) for n, v in recording.signals.items()})
        seen = look()
        assert seen is not None
        found.append(seen.astype(float))
    steps = np.stack(found, axis=1)
    return np.concatenate([steps[i, :length] for i, length in enumerate(lengths)])


def _worst(policy: OnnxPolicy, real: Recording, reference: Recording) -> tuple[str, ...]:
    """Elements whose median or spread is farthest from the reference's."""
    names = [f"{s.name}/{element}" for s in asked(policy.contract) for element in s.elements]
    known, found = reference.observations, real.observations
    spread = np.maximum(known.std(0), 1e-9)
    away = np.abs(np.median(found, axis=0) - np.median(known, axis=0)) / spread
    away = np.maximum(away, np.abs(np.log(np.maximum(found.std(0), 1e-9) / spread)))
    return tuple(f"{names[i]} {away[i]:.1f}" for i in np.argsort(-away)[:WORST])
