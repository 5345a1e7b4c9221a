"""Statistics of a column: computed when it is written, checked when it is read.

A policy's normaliser is made of them: those that disagree with the data are as harmful as wrong
data. Spread is that of the population, as in lerobot; quantiles are exact, lerobot's estimated.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from robot_policies.datasets.layout import STATS, Column
from robot_policies.strict import InputError, Violation

NAMES = ("min", "max", "mean", "std", "count")
_QUANTILES = {"q01": 0.01, "q10": 0.1, "q50": 0.5, "q90": 0.9, "q99": 0.99}

# lerobot sums float32: its mean and mean square are this exact, relative to the largest number.
_ROUNDING = 2e-5
_RELATIVE = 1e-3

_AGAIN = "compute the statistics again from this data"


def compute(values: NDArray[Any]) -> dict[str, list[Any]]:
    """What stats.json says of values [T, n]: lists of n numbers, and the count [1]."""
    exact = values.astype(np.float64)
    quantiles = np.quantile(exact, list(_QUANTILES.values()), axis=0)
    return {
        "min": values.min(0).tolist(),
        "max": values.max(0).tolist(),
        "mean": exact.mean(0).tolist(),
        "std": exact.std(0).tolist(),
        "count": [len(values)],
        **{name: row.tolist() for name, row in zip(_QUANTILES, quantiles, strict=True)},
    }


def parse(column: Column, document: Mapping[str, Any]) -> dict[str, NDArray[Any]]:
    """A column's statistics from stats.json: float64 [n] each, and the count, int64 [1].

    Raises InputError where one is missing, has another shape or is not finite.
    """
    where, recorded = f"column {column.name} statistics", document.get(column.name)
    if not isinstance(recorded, Mapping):
        raise InputError([Violation(where, f"an entry in {STATS}", "nothing", _AGAIN)])
    found, violations = {}, []
    for name in NAMES:
        width = 1 if name == "count" else column.width
        try:
            value = np.asarray(recorded[name], np.float64).reshape(width)
        except (KeyError, TypeError, ValueError):
            value = np.full(width, np.nan)
        if not np.isfinite(value).all():
            said = str(recorded.get(name, "nothing"))[:80]
            violations.append(Violation(f"{where}.{name}", f"{width} finite", said, _AGAIN))
        found[name] = value
    if violations:
        raise InputError(violations)
    return found | {"count": found["count"].astype(np.int64)}


def disagreements(
    column: Column, found: Mapping[str, NDArray[Any]], values: NDArray[Any]
) -> Iterator[Violation]:
    """Yield what statistics say that is not so of the values [N, n]; the worst number of each."""
    expected = {name: np.asarray(value, float) for name, value in compute(values).items()}
    largest = np.maximum(np.abs(expected["min"]), np.abs(expected["max"]))
    rounding, variance = _ROUNDING * largest, expected["std"] ** 2
    excess = {name: np.abs(found[name] - expected[name]) - rounding for name in ("min", "max")}
    excess["mean"] = np.abs(found["mean"] - expected["mean"]) - rounding
    excess["mean"] -= _RELATIVE * expected["std"]
    excess["std"] = np.abs(found["std"] * np.abs(found["std"]) - variance)
    excess["std"] -= _RELATIVE * variance + rounding * largest
    excess["count"] = np.abs(found["count"] - expected["count"])
    for name, beyond in excess.items():
        worst = int(beyond.argmax())
        if beyond[worst] > 0:
            where = f"column {column.name} statistics.{name}[{worst}]"
            said = f"{expected[name][worst]:.6g}, as in the data"
            yield Violation(where, said, f"{found[name][worst]:.6g}", _AGAIN)
