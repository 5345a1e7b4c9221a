"""What a randomisation declares: named terms in YAML, each a parameter and how it is drawn.

    - {name: link_mass, parameter: mass_and_inertia, names: [link5, link6], operation: scale,
       distribution: {uniform: [0.7, 1.3]}, shared: false, interval_s: null}

Each term has all keys, always the same ones, so that a missing or mistyped key is found. What
takes several forms, the distribution, is a mapping whose key names the form and whose value holds
its numbers: short to read, and nothing but that form's numbers fits. There is no key that means
nothing for most terms: inertia that goes with a mass is a parameter, mass_and_inertia, not a flag.
Only at_s, which few need, may be left out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from difflib import get_close_matches
from itertools import product
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from robot_policies.strict import OMITTED, InputError, Violation, require
from robot_policies.strict_yaml import decode_yaml
from sim.draws import Distribution, FloatArray, extremes, fault

Operation = Literal["scale", "add", "set"]

OPERATIONS: dict[str, Callable[[FloatArray, FloatArray], FloatArray]] = {
    "scale": lambda nominal, drawn: nominal * drawn,
    "add": lambda nominal, drawn: nominal + drawn,
    "set": lambda nominal, drawn: drawn,
}
"""(nominal [K, ...], drawn [M, K, ...]) -> value [M, K, ...]."""

PUSH, DISPLACEMENT, RANDOM_ACTION = "push", "displacement", "random_action"
EVENTS = frozenset({PUSH, DISPLACEMENT, RANDOM_ACTION})
"""The parameters that are events: they happen at a time, and are not drawn at resets."""

# What may be randomised.

_WHOLE = "whole, zero or more"


@dataclass(frozen=True)
class Parameter:
    """A quantity that terms may name."""

    of: Literal["bodies", "free_bodies", "joints", "geoms", "actuators", "signals"]
    """What the term's names are names of."""
    unit: str
    domain: Literal["any value", "zero or more", "above zero", "whole, zero or more"]
    """The values that are physically possible."""
    operations: tuple[Operation, ...] = ("scale", "add", "set")
    """Those that make sense."""

    def accepts(self, values: ArrayLike) -> bool:
        """Whether all values lie in the domain."""
        values = np.asarray(values)
        return bool(
            np.isfinite(values).all()
            and (self.domain == "any value" or (values >= 0).all())
            and (self.domain != "above zero" or (values > 0).all())
            and (not self.whole or (values == np.round(values)).all())
        )

    @property
    def whole(self) -> bool:
        """Whether only whole numbers count."""
        return self.domain == _WHOLE


PARAMETERS = {
    "mass": Parameter("bodies", "kg", "above zero"),
    # The moments of inertia are scaled by the new mass over the nominal one.
    "mass_and_inertia": Parameter("bodies", "kg", "above zero"),
    # [3] principal moments; scaled by one factor a body, or they might be no rigid body's.
    "inertia": Parameter("bodies", "kg m^2", "above zero", ("scale",)),
    "centre_of_mass": Parameter("bodies", "m", "any value"),  # [3], frame of the body
    # [3] world ENU: an impulse at the centre of mass, spread over the next control step.
    PUSH: Parameter("bodies", "N s", "any value", ("set",)),
    # [2] x and y, world: an object is elsewhere at once, whatever holds it.
    DISPLACEMENT: Parameter("free_bodies", "m", "any value", ("set",)),
    "friction": Parameter("geoms", "1", "zero or more"),  # sliding
    "damping": Parameter("joints", "N m s/rad or N s/m", "zero or more"),
    "armature": Parameter("joints", "kg m^2 or kg", "zero or more"),
    "stiffness": Parameter("joints", "N m/rad or N/m", "zero or more"),  # a spring's, not a gain
    "kp": Parameter("actuators", "N m/rad or N/m", "zero or more"),
    "kd": Parameter("actuators", "N m s/rad or N s/m", "zero or more"),
    "actuator_delay": Parameter("actuators", "control steps", _WHOLE, ("add", "set")),
    # For so many steps random commands act, not the policy's (sim.channels.RandomActions).
    RANDOM_ACTION: Parameter("actuators", "control steps", _WHOLE, ("set",)),
    # The standard deviation of white noise; the noise itself is drawn anew at every step.
    "observation_noise": Parameter("signals", "the signal's", "zero or more"),
    "observation_bias": Parameter("signals", "the signal's", "any value"),  # [W]
    "observation_latency": Parameter("signals", "control steps", _WHOLE, ("add", "set")),
}

_RIGID_BODY = frozenset({"mass", "inertia", "centre_of_mass", PUSH, "friction"})
_JOINT = frozenset({"damping", "armature", "stiffness", "kp", "kd"})

ENGINES: dict[str, frozenset[str]] = {
    "mujoco": _RIGID_BODY | _JOINT | {DISPLACEMENT},
    "genesis": _RIGID_BODY | _JOINT,
}
"""The parameters of each engine of sim/engines; known without loading it."""


def engines_with(parameters: Iterable[str]) -> tuple[str, ...]:
    """The engines that have all of these parameters."""
    wanted = frozenset(parameters)
    return tuple(name for name, known in ENGINES.items() if known >= wanted)


# The declaration.

_Check = tuple[bool, str, str, object]
"""(held, key, what was expected, what was found)."""

SHORTEST_INTERVAL_S = 0.001
"""s; no control loop tells faster draws apart."""


@dataclass(frozen=True)
class Term:
    """One randomised parameter. Raises InputError, with every violation, for a senseless one."""

    name: str
    """Of its stream of random numbers and its columns in the log."""
    parameter: str
    """A key of PARAMETERS."""
    names: tuple[str, ...]
    """The K bodies, joints, geoms, actuators or signals that it concerns."""
    operation: Operation
    """What a draw does to the nominal value. scale: one factor for each name; add and set: one
    number for each component of each name."""
    distribution: Distribution
    """Of the draws, as sim.draws has them: {uniform: [low, high]}."""
    shared: bool
    """All names get the same draw."""
    interval_s: tuple[float, float] | None
    """None: drawn at each reset. [low, high]: drawn again whenever so much time, itself drawn
    uniformly, has passed. EVENTS happen then only, other parameters are drawn at resets too."""
    at_s: tuple[float, float] | None = field(default=None, metadata=OMITTED)
    """In the place of interval_s: once an episode, at a time that is drawn uniformly."""

    def __post_init__(self) -> None:
        """Refuse what does not exist or could not be drawn."""
        checks = [*self._checks()]
        if self.parameter in PARAMETERS:
            checks += self._checks_of_parameter(PARAMETERS[self.parameter])
        if fault(self.distribution) is None and self.parameter in PARAMETERS:
            checks += self._checks_of_values(PARAMETERS[self.parameter])
        require(f"term {self.name}", *checks)

    def _checks(self) -> Iterator[_Check]:
        yield self.name != "" and "/" not in self.name, "name", "a text without /", self.name
        once = len(set(self.names)) == len(self.names) > 0
        yield once, "names", "one name or more, each once", list(self.names)
        known = self.parameter in PARAMETERS
        yield known, "parameter", closest("parameters", self.parameter, PARAMETERS), self.parameter
        wrong = fault(self.distribution)
        yield wrong is None, "distribution", wrong or "", self.distribution
        for key, times in (("interval_s", self.interval_s), ("at_s", self.at_s)):
            low, high = times or (1.0, 1.0)
            expected = f"null, or [low, high] with low from {SHORTEST_INTERVAL_S} to high"
            yield SHORTEST_INTERVAL_S <= low <= high, key, expected, times
        one = self.interval_s is None or self.at_s is None
        yield one, "at_s", "null, or no interval_s: once, or again and again", self.at_s

    def _checks_of_parameter(self, parameter: Parameter) -> Iterator[_Check]:
        known = self.operation in parameter.operations
        expected = f"{' or '.join(parameter.operations)} for {self.parameter}"
        yield known, "operation", expected, self.operation
        held = self.parameter not in EVENTS or self.times_s is not None
        expected = f"[low, high] here or in at_s, since {self.parameter} is an event"
        yield held, "interval_s", expected, "null"

    def _checks_of_values(self, parameter: Parameter) -> Iterator[_Check]:
        values = extremes(self.distribution)
        found = f"{min(values):.6g} of {self.distribution}"
        if parameter.whole:
            fits = "choice" in self.distribution and all(value % 1 == 0 for value in values)
            expected = "a choice of whole numbers of steps"
            yield fits, "distribution", expected, self.distribution
        if self.operation == "set":
            expected = f"{self.parameter} {parameter.domain}"
            yield parameter.accepts(values), "distribution", expected, found
        if self.operation == "scale":
            above = parameter.domain == "above zero"
            fits = min(values) > 0 if above else min(values) >= 0
            expected = f"factors {'above zero' if above else 'of zero or more'}"
            yield fits, "distribution", expected, found

    @property
    def times_s(self) -> tuple[float, float] | None:
        """Between which the first draw within an episode falls; None: there is none."""
        return self.interval_s or self.at_s

    @property
    def targets(self) -> tuple[str, ...]:
        """The parameters that a model is told."""
        return ("mass", "inertia") if self.parameter == "mass_and_inertia" else (self.parameter,)


def closest(kind: str, name: str, known: Iterable[str]) -> str:
    """What to expect in the place of an unknown name: the known ones that it is most like."""
    known = list(known)
    if near := get_close_matches(name, known, n=3):
        return f"one of the {kind}, such as {' or '.join(near)}"
    shown = [*known[:12], "..."] if len(known) > 12 else known
    return f"one of the {kind} {', '.join(shown)}" if known else f"no {kind}: there are none"


@dataclass(frozen=True)
class Spec:
    """All terms. Raises InputError where two have one name or set the same value."""

    terms: tuple[Term, ...]

    def __post_init__(self) -> None:
        """Refuse terms that get into each other's way."""
        if violations := [*self._same_names(), *self._same_values()]:
            raise InputError(violations)

    def longest(self, parameter: str) -> int:
        """The most steps that a delay or latency of nominally none can be drawn to have."""
        drawn = (extremes(t.distribution) for t in self.terms if t.parameter == parameter)
        return int(max((max(values) for values in drawn), default=0))

    def _same_names(self) -> Iterator[Violation]:
        names = [term.name for term in self.terms]
        for name in {name: None for name in names if names.count(name) > 1}:
            found = f"{names.count(name)} terms of this name"
            yield Violation(f"term {name}.name", "a name of its own", found, "rename the others")

    def _same_values(self) -> Iterator[Violation]:
        owners: dict[tuple[str, str], str] = {}
        for term in self.terms:
            for target, name in product(term.targets, term.names):
                owner = owners.setdefault((target, name), term.name)
                if owner != term.name:
                    expected = f"one term for the {target} of {name}"
                    found = f"the terms {owner} and {term.name}"
                    yield Violation(f"term {term.name}.names", expected, found, "remove one")


def load(path: str | Path) -> Spec:
    """Read a YAML file; config/randomization_example.yaml explains every key.

    Raises InputError with every violation, FileNotFoundError without the file.
    """
    return decode_yaml(Spec, Path(path), "randomization")
