"""Domain randomisation, declared once and drawn alike for every engine.

    spec = load("config/randomization_example.yaml")
    randomization = Randomization(spec, seed=0, count=1024, models=[engine, observation, action])
    draws = randomization.reset(ids, episodes)       # {term: [M, K, ...]}; the models are told
    randomization.advance(ids, time_s)               # what falls due while episodes run
    columns = randomization.records(draws)           # {"term/name": [M]}, for the log

An engine, or a part of the task (sim/channels.py), offers parameters by the protocol `Parameters`.
Draws are pure functions of seed, environment, episode, term and number of the draw (sim/draws.py);
values always start from the nominal ones: nothing adds up over intervals or episodes.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from robot_policies.strict import InputError, Violation
from sim.draws import FloatArray, Streams, extremes, quantile
from sim.randomization_terms import (
    EVENTS,
    OPERATIONS,
    PARAMETERS,
    Spec,
    Term,
    closest,
    engines_with,
)

IdArray = NDArray[np.integer]


class Parameters(Protocol):
    """What an engine, or a part of a task, offers to randomisation."""

    @property
    def capabilities(self) -> frozenset[str]:
        """The parameters it has: keys of PARAMETERS, without mass_and_inertia."""
        ...

    def names(self, kind: str) -> tuple[str, ...]:
        """All bodies, joints, geoms, actuators or signals (`kind`); () where it has none."""
        ...

    def nominal(self, parameter: str, names: Sequence[str]) -> FloatArray:
        """The values before any randomisation: [K, ...], K names, SI units."""
        ...

    def set(self, parameter: str, names: Sequence[str], ids: IdArray, values: FloatArray) -> None:
        """Give environments `ids` [M] the values [M, K, ...] of K names.

        They act from the next step on, with all that the engine derives from them; pushes during
        the next control step only, displacements at its begin. Do not write to `values`.
        """
        ...


class Randomization:
    """Draws the terms of N environments, tells their models, and knows what falls due when."""

    def __init__(self, spec: Spec, seed: int, count: int, models: Sequence[Parameters]) -> None:
        """Bind every term to the first of the models that has its parameter.

        Raises InputError with every violation: a parameter that no model has, an unknown name, or
        a value outside its parameter's domain that could be drawn.
        """
        if count < 1 or seed < 0:
            expected = "count >= 1 and seed >= 0"
            raise ValueError(f"Randomization: expected {expected}; found {count} and {seed}")
        self._count = count
        self._bound = _bind_all(spec, models)
        self._lasting = [n for n, b in self._bound.items() if b.term.parameter not in EVENTS]
        self._clocks = {
            name: _Clock(bound, seed, count)
            for name, bound in self._bound.items()
            if bound.term.times_s is not None
        }
        widths = {name: self._bound[name].width for name in self._lasting}
        self._streams = Streams(seed, widths | {c.stream: 1 for c in self._clocks.values()})

    def draw(self, ids: IdArray, episodes: ArrayLike) -> dict[str, FloatArray]:
        """What a reset gives environments `ids` [M] in episodes [M]: term -> [M, K, ...].

        Factors, additions or values, by the term's operation; of all terms but events. The last
        axes are the parameter's components, of length 1 for `scale`. Changes nothing.
        """
        return self._draws(self._streams.uniform(self._checked(ids), episodes, 0))

    @property
    def events(self) -> dict[str, FloatArray]:
        """What `advance` draws for a term that is an event, before any: term -> zeros [1, K, ...].

        Of all those terms.
        """
        return {
            name: np.zeros((1, *bound.nominal[bound.term.parameter].shape))
            for name, bound in self._bound.items()
            if name not in self._lasting
        }

    def values(self, draws: Mapping[str, FloatArray]) -> dict[str, dict[str, FloatArray]]:
        """What models are told for the draws: term -> parameter -> [M, K, ...], SI units."""
        return {name: self._bound[name].values(drawn) for name, drawn in draws.items()}

    def reset(self, ids: IdArray, episodes: ArrayLike) -> dict[str, FloatArray]:
        """Begin the episodes: draw, tell the models, start the intervals. Returns the draws."""
        uniform = self._streams.uniform(self._checked(ids), episodes, 0)
        for clock in self._clocks.values():
            clock.start(ids, episodes, uniform[clock.stream])
        draws = self._draws(uniform)
        self._tell(ids, draws)
        return draws

    def advance(self, ids: IdArray, time_s: FloatArray) -> dict[str, tuple[IdArray, FloatArray]]:
        """Draw what fell due since the last call, and tell the models.

        `time_s` [M] is the time since the reset of each of `ids` [M]. Returns, for each term that
        is due somewhere, where, and the draws there: term -> (ids [L], draws [L, K, ...]). How
        often this is called changes no draw; of several that fell due at once, the last counts.
        """
        ids = self._checked(ids)
        drawn = {
            name: clock.advance(ids, time_s)
            for name, clock in self._clocks.items()
            if clock.due(ids, time_s).any()
        }
        for name, (at, draws) in drawn.items():
            self._tell(at, {name: draws})
        return drawn

    def records(self, draws: Mapping[str, FloatArray]) -> dict[str, FloatArray]:
        """The draws as flat columns {"term/name": [M]}; with components, "term/name[0]" and on.

        Of what `reset` returns, row i belongs to the episode that ids[i] then began. Later draws
        of the same episode, which `advance` returns, may be logged likewise.
        """
        columns = {}
        for term, drawn in draws.items():
            names = self._bound[term].term.names
            flat = drawn.reshape(*drawn.shape[:2], -1)
            for (k, name), part in product(enumerate(names), range(flat.shape[2])):
                suffix = f"[{part}]" if flat.shape[2] > 1 else ""
                columns[f"{term}/{name}{suffix}"] = flat[:, k, part]
        return columns

    def _draws(self, uniform: Mapping[str, FloatArray]) -> dict[str, FloatArray]:
        return {name: self._bound[name].draws(uniform[name]) for name in self._lasting}

    def _tell(self, ids: IdArray, draws: Mapping[str, FloatArray]) -> None:
        for name, settings in self.values(draws).items():
            bound = self._bound[name]
            for parameter, values in settings.items():
                bound.model.set(parameter, bound.term.names, ids, values)

    def _checked(self, ids: IdArray) -> IdArray:
        if ids.size and not (ids.min() >= 0 and ids.max() < self._count):
            expected = f"environments 0 to {self._count - 1}"
            raise ValueError(f"Randomization: expected {expected}; found {ids.tolist()[:8]}")
        return ids


@dataclass(frozen=True)
class _Bound:
    """A term and the model that it acts on."""

    term: Term
    model: Parameters
    nominal: dict[str, FloatArray]
    """Of each target of the term: [K, ...]."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the numbers drawn for one environment: [K, ...], or [1, ...] where names share."""
        names, *components = self.nominal[self.term.targets[0]].shape
        if self.term.operation == "scale":
            components = [1 for _ in components]
        return (1 if self.term.shared else names, *components)

    @property
    def width(self) -> int:
        """How many numbers these are."""
        return math.prod(self.shape)

    def draws(self, u: FloatArray) -> FloatArray:
        """Uniform numbers [M, width] -> draws [M, K, ...]."""
        # As they lie in memory, which is [width, M]: several times as fast.
        drawn = quantile(self.term.distribution, u.T).T.reshape(len(u), *self.shape)
        return drawn.repeat(len(self.term.names), axis=1) if self.term.shared else drawn

    def values(self, draws: FloatArray) -> dict[str, FloatArray]:
        """Draws [M, K, ...] -> the values of each target [M, K, ...]."""
        first, *others = self.term.targets
        values = {first: OPERATIONS[self.term.operation](self.nominal[first], draws)}
        for other in others:  # the inertia that goes with a mass
            ratio = values[first] / self.nominal[first]
            values[other] = self.nominal[other] * ratio[..., None]
        return values


class _Clock:
    """When a term is due in each of N environments, and what it then draws."""

    def __init__(self, bound: _Bound, seed: int, count: int) -> None:
        self.stream = f"{bound.term.name}/interval"
        self._bound, self._again = bound, bound.term.at_s is None
        self._streams = Streams(seed, {bound.term.name: bound.width, self.stream: 1})
        self._next_s = np.full(count, np.inf)
        self._episode, self._moment = np.zeros((2, count), np.int64)

    def start(self, ids: IdArray, episodes: ArrayLike, u: FloatArray) -> None:
        """Begin the episodes of `ids` [M], with the uniform numbers [M, 1] of their first gap."""
        self._episode[ids], self._moment[ids] = episodes, 0
        self._next_s[ids] = self._gap(u)

    def due(self, ids: IdArray, time_s: FloatArray) -> NDArray[np.bool_]:
        """For which of `ids` [M] it is time: [M]."""
        return time_s >= self._next_s[ids]

    def advance(self, ids: IdArray, time_s: FloatArray) -> tuple[IdArray, FloatArray]:
        """Those of `ids` [M] that are due at `time_s` [M], and their draws."""
        due = self.due(ids, time_s)
        ids, time_s = ids[due], time_s[due]
        latest = np.empty((ids.size, self._bound.width))
        late = np.full(ids.size, True)
        while late.any():
            at = ids[late]
            self._moment[at] += 1
            u = self._streams.uniform(at, self._episode[at], self._moment[at])
            self._next_s[at] += self._gap(u[self.stream]) if self._again else np.inf
            latest[late] = u[self._bound.term.name]
            late &= self.due(ids, time_s)
        return ids, self._bound.draws(latest)

    def _gap(self, u: FloatArray) -> FloatArray:
        return quantile({"uniform": self._bound.term.times_s or ()}, u[:, 0])


# Terms meet models.


def _bind_all(spec: Spec, models: Sequence[Parameters]) -> dict[str, _Bound]:
    violations, bound = [], {}
    for term in spec.terms:
        try:
            bound[term.name] = _bind(term, models)
        except InputError as error:
            violations += error.violations
    if violations:
        raise InputError(violations)
    return bound


def _bind(term: Term, models: Sequence[Parameters]) -> _Bound:
    model = next((m for m in models if m.capabilities.issuperset(term.targets)), None)
    if model is None:
        offered = sorted({parameter for m in models for parameter in m.capabilities})
        expected = f"a parameter that can be set here ({', '.join(offered)})"
        engines = ", ".join(engines_with(term.targets)) or "none"
        mend = f"remove the term; engines that have it: {engines}"
        raise InputError(
            [Violation(f"term {term.name}.parameter", expected, term.parameter, mend)]
        )
    kind = PARAMETERS[term.parameter].of
    _require_names(term, kind, model.names(kind))
    bound = _Bound(term, model, {target: _nominal(term, model, target) for target in term.targets})
    if violations := list(_outside(bound)):
        raise InputError(violations)
    return bound


def _require_names(term: Term, kind: str, known: Sequence[str]) -> None:
    where = f"term {term.name}.names"
    unknown = [name for name in term.names if name not in known]
    if unknown:
        raise InputError(
            Violation(where, closest(kind, name, known), name, "correct the name")
            for name in unknown
        )


def _nominal(term: Term, model: Parameters, target: str) -> FloatArray:
    values = [np.asarray(model.nominal(target, (name,)), np.float64)[0] for name in term.names]
    if len({value.shape for value in values}) > 1:
        found = ", ".join(
            f"{name} {list(v.shape)}" for name, v in zip(term.names, values, strict=True)
        )
        mend = "write a term for each size"
        where = f"term {term.name}.names"
        raise InputError([Violation(where, "values of one size", found, mend)])
    return np.stack(values)


def _outside(bound: _Bound) -> Iterator[Violation]:
    """What the term could draw that is physically impossible, or would change nothing."""
    term, parameter = bound.term, PARAMETERS[bound.term.parameter]
    drawn = min(extremes(term.distribution))
    for name, nominal in zip(term.names, bound.nominal[term.targets[0]], strict=True):
        outcome = OPERATIONS[term.operation](nominal, np.array(drawn))
        if len(term.targets) > 1 and not nominal.any():  # the others are scaled by the ratio
            expected = f"a nominal {term.targets[0]} above zero"
            found = f"{nominal.tolist()} of {name}"
            yield Violation(f"term {term.name}.names", expected, found, "take the name out")
        elif term.operation == "scale" and not nominal.any():
            found = f"{nominal.tolist()} of {name}"
            expected = f"a nominal {term.parameter} that a factor changes"
            yield Violation(f"term {term.name}.operation", expected, found, "use add or set")
        elif not parameter.accepts(outcome):
            expected = f"{term.parameter} {parameter.domain}"
            found = (
                f"{np.min(outcome):.6g} {parameter.unit} for {name} (nominal {nominal.tolist()}, "
                f"{term.operation} {drawn:.6g} of {term.distribution})"
            )
            mend = "narrow the distribution"
            yield Violation(f"term {term.name}.distribution", expected, found, mend)
