"""Counter-based draws: each is a pure function of what it is for, and of nothing else.

    streams = Streams(seed=0, widths={"link_mass": 3})
    u = streams.uniform(environments, episodes, moments)["link_mass"]  # [M, 3], each in (0, 1)
    factors = quantile({"log_uniform": (0.5, 2.0)}, u)

Neither the number of environments, nor their order, nor other streams change a draw, so every
engine gets the same. Each value is the distribution's quantile function of ONE uniform number:
truncation is exact, and a draw grows with its uniform number. The uniform numbers are the same
bits on every machine; log-uniform and normal values may differ in their last ones, where exp and
log do.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from hashlib import blake2b

import numba
import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special

FloatArray = NDArray[np.float64]
WordArray = NDArray[np.uint32]

Words = tuple[np.uint32, np.uint32, np.uint32, np.uint32]


@numba.njit(cache=True)
def philox(counter: Words, key: tuple[np.uint32, np.uint32]) -> Words:
    """Philox4x32-10: four random words for a counter and a key.

    Source: Salmon, Moraes, Dror and Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC 2011.
    """
    a, b, c, d = counter
    low, high = key
    half = np.uint64(32)
    for _ in range(10):
        first, second = np.uint64(a) * np.uint64(0xD2511F53), np.uint64(c) * np.uint64(0xCD9E8D57)
        a, c = np.uint32(second >> half) ^ b ^ low, np.uint32(first >> half) ^ d ^ high
        b, d = np.uint32(second), np.uint32(first)
        low = np.uint32(low + np.uint32(0x9E3779B9))
        high = np.uint32(high + np.uint32(0xBB67AE85))
    return np.uint32(a), b, np.uint32(c), d


@numba.njit(cache=True)
def _fill(numbers: FloatArray, ids: WordArray, blocks: WordArray, keys: WordArray) -> None:
    """Of ids [3, M], blocks [K] and keys [2, K]: numbers [4 K, M], word n as (n + 1/2) / 2^32."""
    for k in range(len(blocks)):
        key = keys[0, k], keys[1, k]
        for m in range(ids.shape[1]):
            words = philox((ids[0, m], ids[1, m], ids[2, m], blocks[k]), key)
            for n in range(4):
                numbers[4 * k + n, m] = (words[n] + 0.5) * 2.0**-32  # exactly


class Streams:
    """Named streams of uniform numbers, `widths[name]` of them per environment and moment."""

    def __init__(self, seed: int, widths: Mapping[str, int]) -> None:
        """Key each stream by the first 64 bits of BLAKE2b of the seed and its name."""
        sizes = [-(-width // 4) for width in widths.values()]  # blocks of four words
        starts = 4 * np.cumsum([0, *sizes])
        self._rows = {
            name: slice(start, start + width)
            for (name, width), start in zip(widths.items(), starts[:-1].tolist(), strict=True)
        }
        keys = np.array([_key(seed, name) for name in widths], np.uint32).reshape(-1, 2)
        self._keys = np.repeat(keys, sizes, axis=0).T.copy()
        self._blocks = np.concatenate([np.arange(n, dtype=np.uint32) for n in (*sizes, 0)])

    def uniform(
        self, environments: ArrayLike, episodes: ArrayLike, moments: ArrayLike
    ) -> dict[str, FloatArray]:
        """The numbers of M environments: name -> [M, width], each above 0 and below 1.

        All three are whole numbers [M], or one for all, from 0 to 2^32 - 1; a moment tells draws
        of one episode apart. Raises ValueError for others.
        """
        given = {"environment": environments, "episode": episodes, "moment": moments}
        ids = np.broadcast_arrays(*(_words(name, value) for name, value in given.items()))
        # Environments are the last axis in memory, where a stream's numbers then lie side by side.
        numbers = np.empty((4 * len(self._blocks), ids[0].size))
        _fill(numbers, np.stack(ids), self._blocks, self._keys)
        return {name: numbers[rows].T for name, rows in self._rows.items()}


def _key(seed: int, name: str) -> WordArray:
    digest = blake2b(f"{seed}/{name}".encode(), digest_size=8).digest()
    return np.frombuffer(digest, "<u4")


def _words(name: str, value: ArrayLike) -> WordArray:
    numbers = np.atleast_1d(np.asarray(value))
    whole = numbers.ndim == 1 and np.issubdtype(numbers.dtype, np.integer)
    if not whole or (numbers.size and not (numbers.min() >= 0 and numbers.max() < 2**32)):
        found = f"{numbers.dtype} {list(numbers.shape)} {numbers.ravel()[:4].tolist()}"
        raise ValueError(f"{name}: expected whole numbers [M] from 0 to 2^32 - 1; found {found}")
    return numbers.astype(np.uint32)


# Distributions, as they are written in YAML: a mapping whose key says which one it is.

Distribution = dict[str, tuple[float, ...]]

TRUNCATION = 3.0
"""Standard deviations from its mean at which a normal distribution is cut off."""

_BELOW = math.erfc(TRUNCATION / math.sqrt(2)) / 2  # the share of a normal below the truncation


def fault(distribution: Distribution) -> str | None:
    """What was expected in the place of a distribution that is none; else None."""
    match distribution:
        case {"uniform": (low, high), **rest} if not rest:
            return None if low <= high else "uniform: [low, high] with low at most high"
        case {"log_uniform": (low, high), **rest} if not rest:
            fits = 0 < low <= high
            return None if fits else "log_uniform: [low, high] with 0 below low, low at most high"
        case {"normal": (_, std), **rest} if not rest:
            return None if std >= 0 else "normal: [mean, std] with a std of zero or more"
        case {"choice": (_, *_) as values, "probabilities": shares, **rest} if not rest:
            fits = len(shares) == len(values) and min(shares) > 0 and abs(sum(shares) - 1) < 1e-9
            return None if fits else "a probability above 0 for each choice, 1 in all"
    return (
        "one of {uniform: [low, high]}, {log_uniform: [low, high]}, {normal: [mean, std]}, "
        "{choice: [value, ...], probabilities: [share, ...]}"
    )


def extremes(distribution: Distribution) -> tuple[float, ...]:
    """The lowest and the highest value that can be drawn; of a choice all values."""
    match distribution:
        case {"normal": (mean, std)}:
            return mean - TRUNCATION * std, mean + TRUNCATION * std
        case {"choice": values}:
            return values
    ((low, high),) = distribution.values()
    return low, high


def quantile(distribution: Distribution, u: FloatArray) -> FloatArray:
    """The values at shares `u` [...] (0 to 1) of a distribution without `fault`."""
    match distribution:
        case {"uniform": (low, high)}:
            values = low * (1 - u) + high * u
        case {"log_uniform": (low, high)}:
            values = np.exp(math.log(low) * (1 - u) + math.log(high) * u)
        case {"normal": (mean, std)}:
            values = mean + std * special.ndtri(_BELOW + (1 - 2 * _BELOW) * u)
        case {"choice": options, "probabilities": shares}:
            index = np.searchsorted(np.cumsum(shares)[:-1], u, side="right")
            return np.array(options)[index]
        case _:
            raise ValueError(f"distribution: expected {fault(distribution)}; found {distribution}")
    low, high = extremes(distribution)
    return np.minimum(np.maximum(values, low), high)  # what rounding may have passed
