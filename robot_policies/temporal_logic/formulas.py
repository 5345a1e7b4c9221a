"""Formulas and their robustness on whole traces, in numpy or torch.

Every temporal operator is a sliding window of an operation that is associative and idempotent:
minimum, maximum, and for `until` the composition of u -> max(p, min(f, u)). So windows double in
a few passes over the trace, and the monitor slides them in constant time.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from types import ModuleType
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from robot_policies.strict import InputError, Violation

if TYPE_CHECKING:
    from robot_policies.temporal_logic.monitor import Monitor

Array = Any
"""numpy.ndarray or torch.Tensor."""
Trace = Mapping[str, Array]
"""Signal -> [..., T], one sample each dt."""
Piece = tuple[Array, ...]
"""What a window aggregates: one array, or of `until` two, (q, p)."""
Combine = Callable[[Any, Piece, Piece], Piece]
"""Two neighbouring windows, the earlier one (the later in the past) first, as one."""
INF = math.inf


@dataclass(frozen=True)
class Window:
    """From `begin` to `end` samples ahead of now, or back in the past; None: without an end."""

    past: bool
    begin: int = 0
    end: int | None = None

    @property
    def horizon(self) -> int:
        """Samples that must have come before its value is known, where it has an end."""
        return 0 if self.past else self.end or 0

    def seen(self, trace: Trace, times: int) -> int:
        """How many of the T samples the first `times` of its values depend on."""
        length = next(iter(trace.values())).shape[-1]
        if self.past:
            return times
        return length if self.end is None else min(times + self.end, length)


@dataclass(frozen=True)
class Comparison:
    """sign * (signal - threshold) / scale, all in the signal's unit."""

    signal: str
    sign: Literal[1, -1]
    threshold: float
    scale: float
    absolute: bool = False

    @property
    def children(self) -> tuple[Formula, ...]:
        """None."""
        return ()

    @property
    def horizon(self) -> int:
        """Samples ahead of now that its value depends on."""
        return 0

    def robustness(self, trace: Trace, times: int) -> Array:
        """[..., times] at the first ones of T."""
        value = trace[self.signal][..., :times]
        value = abs(value) if self.absolute else value
        return (value - self.threshold) * (self.sign / self.scale)


@dataclass(frozen=True)
class Not:
    """Of one formula."""

    children: tuple[Formula]

    @property
    def horizon(self) -> int:
        """Samples ahead of now that its value depends on."""
        return self.children[0].horizon

    def robustness(self, trace: Trace, times: int) -> Array:
        """[..., times] at the first ones of T."""
        return -self.children[0].robustness(trace, times)


@dataclass(frozen=True)
class Junction:
    """All of some formulas (minimum), or any of them (maximum)."""

    all: bool
    children: tuple[Formula, ...]

    @property
    def horizon(self) -> int:
        """Samples ahead of now that its value depends on."""
        return max(child.horizon for child in self.children)

    def robustness(self, trace: Trace, times: int) -> Array:
        """[..., times] at the first ones of T."""
        first, *others = (child.robustness(trace, times) for child in self.children)
        combine = least if self.all else most
        for other in others:
            (first,) = combine(_library(first), (first,), (other,))
        return first


@dataclass(frozen=True)
class Extreme:
    """always and historically (all), eventually and once (not all)."""

    all: bool
    children: tuple[Formula]
    window: Window

    @property
    def horizon(self) -> int:
        """Samples ahead of now that its value depends on."""
        return self.children[0].horizon + self.window.horizon

    def robustness(self, trace: Trace, times: int) -> Array:
        """[..., times] at the first ones of T."""
        seen = self.window.seen(trace, times)
        values = self.children[0].robustness(trace, seen)
        if times == 1 and not self.window.past and self.window.begin < seen:
            library = _library(values)
            extreme = library.amin if self.all else library.amax
            return extreme(values[..., self.window.begin :], -1)[..., None]
        combine, neutral = (least, (INF,)) if self.all else (most, (-INF,))
        return windowed(combine, neutral, (values,), self.window)[0][..., :times]


@dataclass(frozen=True)
class Until:
    """until and since: the second child within the window, the first one all the way there."""

    children: tuple[Formula, Formula]
    window: Window

    @property
    def horizon(self) -> int:
        """Samples ahead of now that its value depends on."""
        return max(child.horizon for child in self.children) + self.window.horizon

    def robustness(self, trace: Trace, times: int) -> Array:
        """[..., times] at the first ones of T."""
        seen = self.window.seen(trace, times)
        held, reached = (child.robustness(trace, seen) for child in self.children)
        value, _ = windowed(reach, (-INF, INF), (reached, held), self.window)
        if self.window.begin:
            before = Window(self.window.past, 0, self.window.begin - 1)
            (kept,) = windowed(least, (INF,), (held,), before)
            value = _library(value).minimum(value, kept)
        return value[..., :times]


Formula = Comparison | Not | Junction | Extreme | Until


# Windows.


def least(library: Any, left: Piece, right: Piece) -> Piece:
    """All of both."""
    return (library.minimum(left[0], right[0]),)


def most(library: Any, left: Piece, right: Piece) -> Piece:
    """Any of both."""
    return (library.maximum(left[0], right[0]),)


def reach(library: Any, left: Piece, right: Piece) -> Piece:
    """(q, p) of both: q in the left, or p all over it and q in the right."""
    (q, p), (later_q, later_p) = left, right
    return library.maximum(q, library.minimum(p, later_q)), library.minimum(p, later_p)


def windowed(
    combine: Combine, neutral: tuple[float, ...], values: Piece, window: Window
) -> Piece:  # fmt: skip
    """Values [..., T] aggregated over the window of every time; `neutral` beyond the ends."""
    library = _library(values[0])
    length = values[0].shape[-1]
    begin = min(window.begin, length)
    width = length if window.end is None else min(window.end - window.begin + 1, length)
    if window.past:
        values = tuple(library.flip(value, (-1,)) for value in values)
    values = tuple(
        _padded(library, value, begin + width - 1, beyond)[..., begin:]
        for value, beyond in zip(values, neutral, strict=True)
    )
    reached = 1
    while reached < width:
        step = min(reached, width - reached)
        earlier, later = (
            tuple(value[..., part] for value in values)
            for part in (slice(None, -step), slice(step, None))
        )
        values, reached = combine(library, earlier, later), reached + step
    if window.past:
        values = tuple(library.flip(value, (-1,)) for value in values)
    return values


def _padded(library: Any, value: Array, by: int, beyond: float) -> Array:
    """[..., T + by], the new ones `beyond`."""
    if by == 0:
        return value
    wide = library.broadcast_to(value[..., :1], (*value.shape[:-1], by))
    return library.concatenate((value, library.full_like(wide, beyond)), -1)


def _library(array: Array) -> ModuleType:
    """Whose array it is: torch is never loaded for it."""
    return np if isinstance(array, np.ndarray) else sys.modules["torch"]


# What is read from text.


@dataclass(frozen=True)
class Specification:
    """A formula over named signals, sampled every dt."""

    text: str
    formula: Formula = field(repr=False)
    signals: dict[str, str]
    """Those that it looks at, with their units."""
    dt: float
    """s between samples."""
    clauses: tuple[Specification, ...] = field(repr=False)
    """The parts that `and` joins, where there are several; else nothing."""

    def robustness(self, trace: Trace, times: int | None = None) -> Array:
        """[..., T] at every time of the traces; [..., 0] is whether they are as specified.

        Args:
            trace: signal -> [..., T] floats, numpy or torch, in the units of `signals`; others
                are not looked at.
            times: of the first ones only, which is quicker: 1 where the verdict is all.

        Raises:
            InputError: a signal is missing, of another shape than the first, or not finite.
        """
        wanted = {name: trace[name] for name in self.signals if name in trace}
        if violations := list(self._violations(wanted)):
            raise InputError(violations)
        length = next(iter(wanted.values())).shape[-1]
        return self.formula.robustness(wanted, length if times is None else min(times, length))

    def monitor(self) -> Monitor:
        """For samples one by one. Raises InputError for what would never be known."""
        from robot_policies.temporal_logic.monitor import Monitor

        return Monitor(self)

    @property
    def horizon_s(self) -> float:
        """S after which the monitor knows whether it held."""
        return self.formula.horizon * self.dt

    def worst_clause(self, trace: Trace) -> tuple[Array, Array]:
        """Robustness [...] of the least robust clause at time 0, and its number [...]."""
        clauses = self.clauses or (self,)
        found = np.stack([np.asarray(clause.robustness(trace, 1))[..., 0] for clause in clauses])
        return found.min(0), found.argmin(0)

    def _violations(self, trace: Trace) -> Iterator[Violation]:
        shape = next((tuple(value.shape) for value in trace.values()), ())
        for name, unit in self.signals.items():
            where = f"signal {name}"
            if name not in trace:
                yield Violation(where, f"[..., T] {unit}", "no such signal", "record it")
            elif tuple(trace[name].shape) != shape or not shape or not shape[-1]:
                found = str(list(trace[name].shape))
                yield Violation(where, f"{list(shape)}, as the others", found, "align the signals")
            elif not _library(trace[name]).isfinite(trace[name]).all():
                mend = "cut the trace before that, or repair the sensor"
                yield Violation(where, "finite numbers", "others", mend)
