"""Robustness sample by sample, in constant time each, of what is known by then."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from robot_policies.strict import InputError, Violation
from robot_policies.temporal_logic.formulas import (
    INF,
    Comparison,
    Extreme,
    Formula,
    Junction,
    Not,
    Specification,
    Until,
    Window,
)

Sample = Mapping[str, float]
Update = Callable[[Sample], float | None]
"""Takes the newest sample; gives the value of `horizon` samples ago, or None before there is one.
"""
EXTREMES = {True: "always", False: "eventually"}
Slide = Callable[[Any], Any]
Pair = tuple[float, float]


class Monitor:
    """What a specification says of a run while it goes on.

    `update` gives the robustness at the time `horizon_s` ago, the newest at which it is known: the
    same as `Specification.robustness` of the whole trace gives there. An `always` without an end
    tells the worst so far, an `eventually` without an end the best so far; both only outside of
    other temporal operators, where nothing else could be known before the end.
    """

    def __init__(self, specification: Specification) -> None:
        """Raises InputError for a formula of which nothing is known before the end."""
        self.specification = specification
        violations = list(_never_known(specification.formula, inside=False))
        if violations:
            raise InputError(violations)
        self.reset()

    def reset(self) -> None:
        """Forget all samples."""
        self._update = _compile(self.specification.formula)
        self._names = tuple(self.specification.signals)

    def update(self, sample: Sample) -> float | None:
        """The robustness `horizon_s` ago; None before there is such a time.

        Args:
            sample: signal -> its value now, in the specification's units.

        Raises:
            InputError: a signal is missing or not finite; the sample is not taken.
        """
        for name in self._names:
            if not math.isfinite(sample.get(name, math.nan)):
                unit = self.specification.signals[name]
                found = str(sample.get(name, "none"))
                mend = "give every signal in every sample"
                raise InputError(
                    [Violation(f"signal {name}", f"a finite number, {unit}", found, mend)]
                )
        return self._update(sample)


def _never_known(formula: Formula, inside: bool) -> Iterator[Violation]:
    temporal = isinstance(formula, Extreme | Until)
    if temporal and not formula.window.past and formula.window.end is None:
        at_the_root = isinstance(formula, Extreme) and not inside
        if not at_the_root:
            what = "until" if isinstance(formula, Until) else EXTREMES[formula.all]
            mend = "give it a window, such as [0, 5 s]; or look at whole traces instead"
            yield Violation(what, "an end, to be monitored", "none", mend)
    for child in formula.children:
        yield from _never_known(child, inside or temporal)


def _compile(formula: Formula) -> Update:
    """The tree as closures: nothing is looked up by name in an update but the signals."""
    if isinstance(formula, Comparison):
        return _comparison(formula)
    children = [_compile(child) for child in formula.children]
    if isinstance(formula, Not):
        return _negation(children[0])
    late = max(child.horizon for child in formula.children)
    aligned = [
        _delayed(update, late - child.horizon)
        for update, child in zip(children, formula.children, strict=True)
    ]
    if isinstance(formula, Junction):
        return _junction(min if formula.all else max, aligned)
    if isinstance(formula, Extreme):
        return _extreme(min if formula.all else max, aligned[0], formula.window)
    return _until(aligned[0], aligned[1], formula.window)


def _comparison(formula: Comparison) -> Update:
    name, threshold, factor = formula.signal, formula.threshold, formula.sign / formula.scale
    if formula.absolute:
        return lambda sample: (abs(sample[name]) - threshold) * factor
    return lambda sample: (sample[name] - threshold) * factor


def _negation(child: Update) -> Update:
    def update(sample: Sample) -> float | None:
        value = child(sample)
        return None if value is None else -value

    return update


def _delayed(child: Update, by: int) -> Update:
    if by == 0:
        return child
    waiting: deque[float | None] = deque([None] * by)

    def update(sample: Sample) -> float | None:
        waiting.append(child(sample))
        return waiting.popleft()

    return update


def _junction(choose: Callable[..., float], children: list[Update]) -> Update:
    def update(sample: Sample) -> float | None:
        values = [child(sample) for child in children]
        return None if None in values else choose(values)

    return update


def _extreme(choose: Callable[..., float], child: Update, window: Window) -> Update:
    neutral = INF if choose is min else -INF
    slide = _slider(choose, neutral, window)
    ready = _after(window.horizon)

    def update(sample: Sample) -> float | None:
        value = child(sample)
        if value is None:
            return None
        value = slide(value)
        return value if ready() else None

    return update


def _until(held: Update, reached: Update, window: Window) -> Update:
    slide = _slider(_reach_back if window.past else _reach, (-INF, INF), window)
    # Until the window begins p must hold, whatever else.
    keep = _slider(min, INF, Window(window.past, 0, window.begin - 1))
    if not window.past:
        keep = _late(keep, INF, window.horizon - window.begin + 1)
    ready = _after(window.horizon)

    def update(sample: Sample) -> float | None:
        p, q = held(sample), reached(sample)
        if p is None or q is None:
            return None
        found, _ = slide((q, p))
        if window.begin:
            found = min(found, keep(p))
        return found if ready() else None

    return update


def _reach(earlier: Pair, later: Pair) -> Pair:
    """(q, p) of both: see robot_policies.temporal_logic.formulas.reach."""
    return max(earlier[0], min(earlier[1], later[0])), min(earlier[1], later[1])


def _reach_back(earlier: Pair, later: Pair) -> Pair:
    return _reach(later, earlier)


def _after(count: int) -> Callable[[], bool]:
    """False as often as `count`, then True."""
    seen = 0

    def ready() -> bool:
        nonlocal seen
        seen += 1
        return seen > count

    return ready if count else lambda: True


# Windows. A slide takes the newest value, and gives what its window aggregates.


def _slider(combine: Callable[[Any, Any], Any], neutral: Any, window: Window) -> Slide:
    """A window in the future ends with the newest value; one in the past `begin` values ago."""
    if window.end is None:
        slide = _running(combine, neutral)
    else:
        slide = _queue(combine, neutral, window.end - window.begin + 1)
    return _late(slide, neutral, window.begin) if window.past else slide


def _late(slide: Slide, neutral: Any, by: int) -> Slide:
    if by == 0:
        return slide
    waiting = deque([neutral] * by)

    def late(value: Any) -> Any:
        waiting.append(value)
        return slide(waiting.popleft())

    return late


def _running(combine: Callable[[Any, Any], Any], value: Any) -> Slide:
    def slide(newest: Any) -> Any:
        nonlocal value
        value = combine(value, newest)
        return value

    return slide


def _queue(combine: Callable[[Any, Any], Any], neutral: Any, width: int) -> Slide:
    """A queue of two stacks, each with what it aggregates: constant time on average."""
    newer: list[Any] = []
    older: list[Any] = []  # of every value and all that came after it, the oldest on top
    of_newer = neutral

    def slide(value: Any) -> Any:
        nonlocal of_newer
        newer.append(value)
        of_newer = combine(of_newer, value)
        if len(newer) + len(older) > width:
            if not older:
                aggregate = neutral
                while newer:
                    aggregate = combine(newer.pop(), aggregate)
                    older.append(aggregate)
                of_newer = neutral
            older.pop()
        return combine(older[-1], of_newer) if older else of_newer

    return slide
