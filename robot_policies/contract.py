"""The contract of a policy: what goes in, what comes out, in which order, unit, frame and rate.

`Contract` is what policy.json holds, as typed, immutable dataclasses. Reading is strict (see
robot_policies.strict), and a contract that contradicts itself cannot be made. Standard library
only, so that any tool can read a contract.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from dataclasses import field as dataclass_field
from typing import Any, Literal

from robot_policies.strict import OMITTED, ContractError, Violation, decode, parse_json

SCHEMA_VERSION = "1.0"
MAX_NUMBERS = 10_000_000
"""Of one input or output, per robot: more is a mistake, and would not fit into memory."""

UNITS = (
    "1", "m", "m/s", "m/s^2", "rad", "rad/s", "rad/s^2",
    "s", "kg", "N", "N.m", "Pa", "V", "A", "K",
)  # fmt: skip
SAMPLE, FRESH = "sample", "fresh_noise"
"""Inputs of the graph that refines: what it makes better, and noise that is new in every step."""
ENERGY, GRADIENT_NORM = "energy", "gradient_norm"
"""What a policy with an energy tells of the sample that a step began with, [B] each."""
OOD_SCORE = "ood_score"
"""[B] how far the feature is from those of the calibration: an output of calibrated graphs."""
FRAMES = ("world", "body", "world_from_body", "joint", "actuator", "tool", "none")


@dataclass(frozen=True)
class Robot:
    """The robot that the policy was made for."""

    model: str
    joints: tuple[str, ...]
    """Joint names in the order of every signal with frame "joint" (empty where there are none)."""
    actuators: tuple[str, ...]
    """Actuator names in the order of the action's elements."""


@dataclass(frozen=True)
class Observation:
    """One named input [B, *shape]; the observation vector joins them in the listed order."""

    name: str
    source: Literal["robot", "previous_action"]
    """"robot": given at every step. "previous_action": the raw network output, kept
    inside; of a chunk, its first step."""
    shape: tuple[int, ...]
    unit: str
    frame: str
    elements: tuple[str, ...]
    """A name for each number of the flattened (C order) signal."""
    history: int
    """To, how many of the newest steps the graph sees; on a reset the first step is repeated."""
    clip: tuple[float, float] | None
    """The range seen in training: values are limited to it before they reach the graph."""


@dataclass(frozen=True)
class Action:
    """One named command; command = clip(scale * raw + offset, lower, upper), by element."""

    name: str
    shape: tuple[int, ...]
    unit: str
    frame: str
    elements: tuple[str, ...]
    scale: tuple[float, ...]
    offset: tuple[float, ...]
    lower: tuple[float, ...]
    upper: tuple[float, ...]
    mode: Literal["absolute", "delta"]
    """"delta": relative to the measured value at the time of the observation."""


@dataclass(frozen=True)
class Chunk:
    """What the Ta steps of an action chunk mean."""

    steps: int
    """Ta, the number of steps that the graph returns."""
    interval_s: float
    """Time between two steps of a chunk, one control period; the first one applies at once."""


@dataclass(frozen=True)
class State:
    """A recurrent state [B, *shape]: graph input `name`, graph output `output`."""

    name: str
    output: str
    shape: tuple[int, ...]
    initial: tuple[float, ...]
    """The flattened state after a reset."""


@dataclass(frozen=True)
class Noise:
    """A graph input [B, *shape] of standard normal noise; an input, so that a replay is exact."""

    name: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Sampler:
    """A way from noise to a chunk: what the graph is told at each of its K steps."""

    name: str
    schedule: tuple[tuple[float, ...], ...]
    """[K, R], a row for each step, as `Refinement.columns` heads them."""
    fresh_noise: bool
    """Every step is given new noise, beside that which the sample starts as."""
    stop_below: float | None
    """A robot's sample is left as it is once the norm of its energy's gradient is below this."""


@dataclass(frozen=True)
class Refinement:
    """The iterative form: the graph `encode` is run once for a chunk, `refine` K times."""

    sample: tuple[int, int]
    """(Tp, Da) of the sample, normalised; it starts as standard normal noise."""
    columns: tuple[str, ...]
    """R names of what a row of a schedule tells."""
    told: tuple[str, ...]
    """What `refine` gives beside the sample and the action: energy, gradient_norm."""
    samplers: tuple[Sampler, ...]
    """The first is used unless another is asked for, and made the golden run."""

    def sampler(self, name: str | None) -> Sampler:
        """The sampler of this name, the first for None; ContractError where there is none."""
        for sampler in self.samplers:
            if name in (None, sampler.name):
                return sampler
        known = ", ".join(sampler.name for sampler in self.samplers)
        raise ContractError([Violation("sampler", f"one of {known}", str(name), "choose one")])


@dataclass(frozen=True)
class Conventions:
    """Fixed across the project; written down so that a reader need not guess."""

    quaternion: Literal["xyzw"] = "xyzw"
    body: Literal["FLU"] = "FLU"
    world: Literal["ENU"] = "ENU"


@dataclass(frozen=True)
class Timing:
    """The rate at which the policy was trained to be stepped, and its deadlines."""

    control_hz: float
    max_observation_age_s: float
    max_inference_s: float


@dataclass(frozen=True)
class Gains:
    """Gains of the joint controller that the policy was trained with, by actuator."""

    stiffness: tuple[float, ...]
    damping: tuple[float, ...]


@dataclass(frozen=True)
class Provenance:
    """Where the bundle came from."""

    source: str
    licence: str
    git_revision: str
    git_dirty: bool
    seeds: tuple[int, ...]
    data_sha256: str
    versions: dict[str, str]


@dataclass(frozen=True)
class Calibration:
    """An out-of-distribution detector's thresholds, at false-alarm rate `alpha` per episode.

    The first graph of a calibrated bundle has the output OOD_SCORE [B].
    """

    detector: str
    alpha: float
    thresholds: dict[str, float]
    """Channel of robot_policies.monitor -> the level that is an alarm."""


@dataclass(frozen=True)
class Contract:
    """Everything that must agree between training and the robot (policy.json without `files`)."""

    schema_version: str
    name: str
    family: str
    robot: Robot
    observation: tuple[Observation, ...]
    action: tuple[Action, ...]
    chunk: Chunk
    conventions: Conventions
    timing: Timing
    state: tuple[State, ...]
    noise: tuple[Noise, ...]
    feature: str | None
    """The graph output [B, F] that out-of-distribution scores look at, where there is one; a
    recurrent state's output may be it."""
    gains: Gains | None
    tolerance: float
    """Largest absolute difference allowed between a golden replay and its record."""
    provenance: Provenance
    calibration: Calibration | None
    refinement: Refinement | None = dataclass_field(default=None, metadata=OMITTED)
    """The iterative form; None: one graph gives the action at once."""

    def __post_init__(self) -> None:
        """Refuse a contract that contradicts itself (ContractError with every violation)."""
        violations = list(_contradictions(self))
        if violations:
            raise ContractError(violations)

    @property
    def observation_steps(self) -> int:
        """To."""
        return self.observation[0].history if self.observation else 0

    @property
    def observation_size(self) -> int:
        """Do."""
        return sum(len(signal.elements) for signal in self.observation)

    @property
    def action_size(self) -> int:
        """Da."""
        return sum(len(signal.elements) for signal in self.action)

    @property
    def action_elements(self) -> tuple[str, ...]:
        """The names of the Da action elements, in the order of the graph's output."""
        return tuple(element for signal in self.action for element in signal.elements)

    def to_json(self) -> str:
        """Canonical JSON: sorted keys, no spaces, every float in full precision."""
        return json.dumps(self.document(), sort_keys=True, separators=(",", ":"), allow_nan=False)

    def document(self) -> dict[str, Any]:
        """Plain data for JSON."""
        found = asdict(self)
        if self.refinement is None:
            del found["refinement"]
        return found

    def sha256(self) -> str:
        """Digest of the canonical JSON, which each graph of a bundle carries."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()

    @staticmethod
    def from_json(text: str | bytes, where: str = "policy.json") -> Contract:
        """Read strictly; raises ContractError with every violation."""
        return Contract.from_dict(parse_json(text, where), where)

    @staticmethod
    def from_dict(document: object, where: str = "policy.json") -> Contract:
        """Read a parsed document strictly; raises ContractError with every violation."""
        if (found := _schema_of(document)) is not None and not _same_major(found):
            # Another major version may mean anything by its keys: name that alone.
            mend = "export the policy again with this release, or install the release that made it"
            expected = f"{SCHEMA_VERSION.split('.')[0]}.x"
            raise ContractError([Violation(f"{where}.schema_version", expected, found, mend)])
        violations: list[Violation] = []
        contract = decode(Contract, document, where, violations)
        if violations:
            raise ContractError(violations)
        return contract


# Meaning: what types alone cannot say.


def _schema_of(document: object) -> str | None:
    version = document.get("schema_version") if isinstance(document, dict) else None
    return version if isinstance(version, str) else None


def _same_major(version: str) -> bool:
    return version.split(".")[0] == SCHEMA_VERSION.split(".")[0]


_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_.:/-]*")
_RESERVED = ("observation", "action", "previous_action")
"""What the graph and the runtime themselves call by these names."""
_RESERVED_BY_REFINEMENT = ("context", "schedule", "next_sample", ENERGY, GRADIENT_NORM)
INTERVAL_TOLERANCE = 1e-6


def _contradictions(contract: Contract) -> Iterator[Violation]:
    if not _same_major(contract.schema_version):
        yield Violation("schema_version", SCHEMA_VERSION, contract.schema_version, "export again")
    yield from _check_names(contract)
    yield from _check_feature(contract)
    for signal in contract.observation:
        yield from _check_signal("observation", signal)
        yield from _check_observation(contract, signal)
    for signal in contract.action:
        yield from _check_signal("action", signal)
        yield from _check_action(signal)
    yield from _check_order(contract)
    yield from _check_state(contract)
    yield from _check_numbers(contract)
    if contract.refinement is not None:
        yield from _check_refinement(contract, contract.refinement)


def _check_names(contract: Contract) -> Iterator[Violation]:
    groups = {
        "observation": [signal.name for signal in contract.observation],
        "action": [signal.name for signal in contract.action],
        "robot.joints": list(contract.robot.joints),
        "robot.actuators": list(contract.robot.actuators),
        "state and noise": [*_RESERVED, *(state.name for state in contract.state)]
        + [state.output for state in contract.state]
        + [noise.name for noise in contract.noise],
    }
    for where, names in groups.items():
        yield from _unique(where, names)
    for where in ("observation", "action"):
        if not groups[where]:
            yield Violation(where, "at least one signal", "none", "list the signals")
    for where, name in (("name", contract.name), ("family", contract.family)):
        if not _NAME.fullmatch(name):
            yield Violation(where, "letters, digits and _.:/-", repr(name), "rename it")


def _unique(where: str, names: list[str]) -> Iterator[Violation]:
    for name in sorted({name for name in names if names.count(name) > 1}):
        yield Violation(where, "different names", f"{name!r} twice", "rename or remove one")
    for name in names:
        if not _NAME.fullmatch(name):
            yield Violation(where, "letters, digits and _.:/-", repr(name), "rename it")


def _check_feature(contract: Contract) -> Iterator[Violation]:
    inputs = (*contract.state, *contract.noise)
    if contract.feature in (*_RESERVED, *(port.name for port in inputs)):
        mend = "name an output of its own, or the output of a recurrent state"
        yield Violation("feature", "an output that has no other use", contract.feature, mend)


def _check_signal(group: str, signal: Observation | Action) -> Iterator[Violation]:
    where = f"{group}.{signal.name}"
    if signal.unit not in UNITS:
        yield Violation(f"{where}.unit", "one of " + " ".join(UNITS), signal.unit, "use SI units")
    if signal.frame not in FRAMES:
        yield Violation(
            f"{where}.frame", "one of " + ", ".join(FRAMES), signal.frame, "correct it"
        )
    if not signal.shape or any(size < 1 for size in signal.shape):
        yield Violation(f"{where}.shape", "positive sizes", str(signal.shape), "correct it")
    elif len(signal.elements) != math.prod(signal.shape):
        expected = f"{math.prod(signal.shape)} names for shape {list(signal.shape)}"
        mend = "name every element, in the order of the flattened signal"
        yield Violation(f"{where}.elements", expected, str(len(signal.elements)), mend)
    yield from _unique(f"{where}.elements", list(signal.elements))
    if "quaternion" in signal.name and (
        not signal.name.endswith("quaternion_xyzw") or signal.elements != ("x", "y", "z", "w")
    ):
        mend = "name it quaternion_xyzw, with elements x, y, z, w in this order"
        yield Violation(where, "a quaternion in xyzw order", str(signal.elements), mend)


def _check_observation(contract: Contract, signal: Observation) -> Iterator[Violation]:
    where = f"observation.{signal.name}"
    if signal.history < 1 or signal.history != contract.observation_steps:
        expected = f"{max(contract.observation_steps, 1)}, as the first signal has"
        mend = "give every signal the same history: the graph sees [B, To, Do]"
        yield Violation(f"{where}.history", expected, str(signal.history), mend)
    if signal.clip is not None and not _ascending([signal.clip[0]], [signal.clip[1]]):
        yield Violation(f"{where}.clip", "low < high", str(signal.clip), "correct the range")
    if signal.source == "previous_action" and signal.elements != contract.action_elements:
        found = ", ".join(signal.elements)
        mend = "give it the action's elements, in the action's order"
        yield Violation(f"{where}.elements", ", ".join(contract.action_elements), found, mend)
    if signal.frame == "joint" and signal.elements != contract.robot.joints:
        found = ", ".join(signal.elements)
        mend = "list the joints in the order of robot.joints"
        yield Violation(f"{where}.elements", ", ".join(contract.robot.joints), found, mend)


def _check_action(signal: Action) -> Iterator[Violation]:
    where = f"action.{signal.name}"
    for field in ("scale", "offset", "lower", "upper"):
        values = getattr(signal, field)
        if len(values) != len(signal.elements):
            expected = f"{len(signal.elements)} numbers, one per element"
            yield Violation(f"{where}.{field}", expected, str(len(values)), "give one per element")
        elif not all(map(math.isfinite, values)):
            yield Violation(f"{where}.{field}", "finite numbers", str(values), "correct them")
    if not _ascending(signal.lower, signal.upper):
        found = f"{signal.lower} and {signal.upper}"
        yield Violation(f"{where}.lower", "lower < upper, by element", found, "correct the limits")
    if any(scale == 0.0 for scale in signal.scale):
        yield Violation(f"{where}.scale", "no zero", str(signal.scale), "give the action's scale")


def _ascending(lower: Iterable[float], upper: Iterable[float]) -> bool:
    return all(low < high for low, high in zip(lower, upper, strict=False))


def _check_order(contract: Contract) -> Iterator[Violation]:
    if contract.action_elements != contract.robot.actuators:
        found = ", ".join(contract.action_elements)
        expected = "the order of robot.actuators: " + ", ".join(contract.robot.actuators)
        yield Violation("action", expected, found, "use one name and one order for each actuator")
    if contract.gains is not None:
        for field in ("stiffness", "damping"):
            values = getattr(contract.gains, field)
            if len(values) != len(contract.robot.actuators) or not all(v >= 0 for v in values):
                expected = "a number >= 0 for each actuator"
                yield Violation(f"gains.{field}", expected, str(values), "give every gain")


def _check_state(contract: Contract) -> Iterator[Violation]:
    for state in contract.state:
        where = f"state.{state.name}"
        if any(size < 1 for size in state.shape) or math.prod(state.shape) != len(state.initial):
            expected = f"{math.prod(state.shape)} numbers for shape {list(state.shape)}"
            found = f"{len(state.initial)} numbers"
            yield Violation(f"{where}.initial", expected, found, "give the state after a reset")
        if not all(map(math.isfinite, state.initial)):
            yield Violation(f"{where}.initial", "finite numbers", "others", "export again")
    for noise in contract.noise:
        valid = noise.shape and all(size >= 1 for size in noise.shape)
        if not valid or math.prod(noise.shape) > MAX_NUMBERS:
            expected = f"positive sizes, at most {MAX_NUMBERS} numbers"
            yield Violation(f"noise.{noise.name}", expected, str(noise.shape), "correct it")


def _check_refinement(contract: Contract, refinement: Refinement) -> Iterator[Violation]:
    where, mend = "refinement", "export again"
    shortest = (contract.chunk.steps, contract.action_size)
    if refinement.sample[0] < shortest[0] or refinement.sample[1] != shortest[1]:
        expected = f"(Tp, Da) with Tp >= {shortest[0]} and Da = {shortest[1]}"
        yield Violation(f"{where}.sample", expected, str(refinement.sample), mend)
    if not set(refinement.told) <= {ENERGY, GRADIENT_NORM}:
        expected = f"{ENERGY} and {GRADIENT_NORM}, or fewer"
        yield Violation(f"{where}.told", expected, ", ".join(refinement.told), mend)
    if contract.state:
        yield Violation(where, "no recurrent state", contract.state[0].name, mend)
    if contract.feature in (*_RESERVED_BY_REFINEMENT, SAMPLE, FRESH):
        yield Violation("feature", "an output that has no other use", contract.feature, mend)
    if not refinement.samplers:
        yield Violation(f"{where}.samplers", "at least one", "none", mend)
        return
    yield from _unique(f"{where}.samplers", [sampler.name for sampler in refinement.samplers])
    for sampler in refinement.samplers:
        yield from _check_sampler(refinement, sampler)
    shapes: dict[str, tuple[int, ...]] = {SAMPLE: refinement.sample}
    if (first := refinement.samplers[0]).fresh_noise:
        shapes[FRESH] = (len(first.schedule), *refinement.sample)
    found = {noise.name: noise.shape for noise in contract.noise}
    if found != shapes:
        yield Violation("noise", f"{shapes}, as the first sampler needs", str(found), mend)


def _check_sampler(refinement: Refinement, sampler: Sampler) -> Iterator[Violation]:
    where, mend = f"refinement.samplers.{sampler.name}", "export again"
    widths = {len(row) for row in sampler.schedule}
    if widths != {len(refinement.columns)}:
        expected = f"rows of {len(refinement.columns)}: {', '.join(refinement.columns)}"
        yield Violation(f"{where}.schedule", expected, f"rows of {sorted(widths)}", mend)
    if not all(math.isfinite(value) for row in sampler.schedule for value in row):
        yield Violation(f"{where}.schedule", "finite numbers", "others", mend)
    if sampler.stop_below is not None and GRADIENT_NORM not in refinement.told:
        expected = f"None, where {GRADIENT_NORM} is not told"
        yield Violation(f"{where}.stop_below", expected, str(sampler.stop_below), mend)


def _check_numbers(contract: Contract) -> Iterator[Violation]:
    sizes = {
        "chunk.steps": contract.chunk.steps * contract.action_size,
        "observation.history": contract.observation_steps * contract.observation_size,
    }
    for where, size in sizes.items():
        if size > MAX_NUMBERS:
            yield Violation(where, f"at most {MAX_NUMBERS} numbers", str(size), "correct it")
    positive = {
        "timing.control_hz": contract.timing.control_hz,
        "timing.max_observation_age_s": contract.timing.max_observation_age_s,
        "timing.max_inference_s": contract.timing.max_inference_s,
        "chunk.interval_s": contract.chunk.interval_s,
        "chunk.steps": contract.chunk.steps,
        "tolerance": contract.tolerance,
    }
    for where, value in positive.items():
        if not (value > 0 and math.isfinite(value)):
            yield Violation(where, "a finite number > 0", str(value), "correct it")
    yield from _check_interval(contract)
    if contract.calibration is not None:
        thresholds = contract.calibration.thresholds.values()
        if not (0 < contract.calibration.alpha < 1 and all(map(math.isfinite, thresholds))):
            found = str(contract.calibration)
            mend = "calibrate again"
            yield Violation("calibration", "0 < alpha < 1, finite thresholds", found, mend)


def _check_interval(contract: Contract) -> Iterator[Violation]:
    """The runtime steps once per control period, and so does a chunk."""
    rate, interval = contract.timing.control_hz, contract.chunk.interval_s
    if rate > 0 and interval > 0 and not abs(interval * rate - 1.0) <= INTERVAL_TOLERANCE:
        expected = f"{1 / rate:g} s, which is 1 / timing.control_hz"
        mend = "correct the one that is wrong; resample a chunk that was trained at another rate"
        yield Violation("chunk.interval_s", expected, f"{interval:g} s", mend)
