"""How signals follow from signals and commands: a model small enough to run onboard.

    model = fit(before [N, Di], after [N, Do], seed=0)
    model.residual(before, after)          # [N] how much more than usual it does not explain

`before` is signals and commands of one control step, `after` the signals of the next one. The
model is linear in them and in random features tanh(x A + b) (Rahimi and Recht, 2007), by ridge
regression: nothing is trained that could come out otherwise next time. Running it takes numpy.
"""

from __future__ import annotations

import io
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from robot_policies.strict import ContractError, Violation

FloatArray = NDArray[np.float64]
FEATURES = 400
FEATURE_SCALE = 0.5
"""Of A, for standardised inputs: how nonlinear the features are."""
RIDGES = (1e-3, 1e-1, 1e1, 1e3)
HELD_OUT = 0.3
"""Share of the samples, the last ones, that tell how much is usually not explained."""


@dataclass(frozen=True, eq=False)
class Dynamics:
    """after - before's signals = center_after + [x, tanh(x A + b)] @ weights, x standardised."""

    center: FloatArray
    """[Di] of the inputs."""
    scale: FloatArray
    """[Di]"""
    mixing: FloatArray
    """[Di, K], A."""
    offset: FloatArray
    """[K], b."""
    weights: FloatArray
    """[Di + K, Do]"""
    center_after: FloatArray
    """[Do]"""
    whitening: FloatArray
    """[Do, Do]: what is not explained, times this, has the covariance 1."""
    usual: FloatArray
    """[] mean norm of that."""
    spread: FloatArray
    """[] its standard deviation."""

    def unexplained(self, before: FloatArray, after: FloatArray) -> FloatArray:
        """[N, Do] of inputs [N, Di] and what followed [N, Do]."""
        x = (before - self.center) / self.scale
        seen = np.concatenate([x, np.tanh(x @ self.mixing + self.offset)], axis=-1)
        return after - before[..., : after.shape[-1]] - self.center_after - seen @ self.weights

    def residual(self, before: FloatArray, after: FloatArray) -> FloatArray:
        """[N] how much more than usual is not explained, in standard deviations."""
        white = self.unexplained(before, after) @ self.whitening
        return (np.sqrt(np.square(white).sum(-1)) - self.usual) / self.spread

    def to_bytes(self) -> bytes:
        """As an npz file."""
        stream = io.BytesIO()
        np.savez(stream, **vars(self))
        return stream.getvalue()

    @staticmethod
    def from_bytes(content: bytes, inputs: int, outputs: int, where: str) -> Dynamics:
        """Raises ContractError for arrays that are missing, of other shapes or not finite."""
        again = "calibrate again: robot-policies calibrate"
        names = [entry.name for entry in fields(Dynamics)]
        try:
            with np.load(io.BytesIO(content), allow_pickle=False) as archive:
                found = {name: np.asarray(archive[name], np.float64) for name in names}
        except (OSError, ValueError, KeyError) as error:
            raise ContractError([Violation(where, ", ".join(names), str(error), again)]) from None
        hidden = found["offset"].size
        shapes = {
            "center": (inputs,), "scale": (inputs,), "mixing": (inputs, hidden),
            "offset": (hidden,), "weights": (inputs + hidden, outputs), "center_after": (outputs,),
            "whitening": (outputs, outputs), "usual": (), "spread": (),
        }  # fmt: skip
        wrong = [
            Violation(f"{where} {name}", f"finite numbers {list(shape)}",
                      f"{list(found[name].shape)}", again)
            for name, shape in shapes.items()
            if found[name].shape != shape or not np.isfinite(found[name]).all()
        ]  # fmt: skip
        if wrong:
            raise ContractError(wrong)
        return Dynamics(**found)


def fit(before: FloatArray, after: FloatArray, seed: int) -> Dynamics:
    """Learn from samples in their order, so that the last ones are of other episodes."""
    from sklearn.covariance import LedoitWolf
    from sklearn.linear_model import RidgeCV

    generator = np.random.default_rng(seed)
    inputs, outputs = before.shape[1], after.shape[1]
    center, scale = before.mean(0), np.maximum(before.std(0), 1e-6)
    mixing = FEATURE_SCALE * generator.normal(size=(inputs, FEATURES)) / np.sqrt(inputs)
    offset = generator.uniform(-1, 1, FEATURES)
    x = (before - center) / scale
    seen = np.concatenate([x, np.tanh(x @ mixing + offset)], axis=1)
    change = after - before[:, :outputs]
    learned = slice(round((1 - HELD_OUT) * len(before)))
    center_after = change[learned].mean(0)
    model = RidgeCV(RIDGES, fit_intercept=False)
    model.fit(seen[learned], change[learned] - center_after)
    weights = np.asarray(model.coef_).reshape(outputs, -1).T
    left = (change - center_after - seen @ weights)[learned.stop :]
    size = np.maximum(left.std(0), 1e-9)
    precision = np.asarray(LedoitWolf(assume_centered=True).fit(left / size).precision_)
    whitening = np.linalg.cholesky(precision) / size[:, None]
    norm = np.linalg.norm(left @ whitening, axis=1)
    return Dynamics(
        center, scale, mixing, offset, weights, center_after, whitening,
        np.array(norm.mean()), np.array(max(norm.std(), 1e-9)),
    )  # fmt: skip
