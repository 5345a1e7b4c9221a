"""What a ranking needs of simulation: returns, a specification's verdicts, and references.

    options = Options("arm-reach", "mujoco", randomization=Path("wide.yaml"), seed=0)
    simulated = simulate("runs/a/bundle", options, cache)     # returns [E], robustness [E], worst
    reference = refer("runs/a/bundle", options, cache)        # what the behaviour looks like there

All bundles meet the same episodes. A reference is what one behaviour, the same that made the real
data, shows in the simulation that a bundle was trained in: with that bundle's own randomisation,
which its training.yaml tells. Both are kept in the cache by all that decides them: the bundle's
content, the task, what is drawn, the specification.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray

from robot_policies import OnnxPolicy, load_policy, temporal_logic
from robot_policies import bundle as bundles
from robot_policies.recordings import Recording
from robot_policies.strict import InputError, Violation, require
from robot_policies.temporal_logic import Specification
from sim import tasks
from sim.demonstrations import ACTION, STATE, Demonstration, attempts
from sim.draws import FloatArray
from sim.imitation import element_names
from sim.randomization import IdArray
from sim.randomization_terms import Spec, load
from sim.tasks import evaluation, experts, watched
from sim.tasks.driver import Driver, require_fit
from sim.tasks.task import Task

VERSION = 1
"""Of what is kept in a cache: another one is not read."""
EXPERT = "expert"
"""The behaviour of the task's scripted expert."""


@dataclass(frozen=True)
class Options:
    """What is simulated, the same for every bundle."""

    task: str
    engine: str
    seed: int
    randomization: Path | None = None
    """Of the evaluation."""
    robot: Path | None = None
    episodes: int = 200
    """E."""
    environments: int = 100
    specification: str | None = None
    """Text as robot_policies.temporal_logic describes."""
    behaviour: str = EXPERT
    """What made the real data: expert, or a bundle."""
    reference_episodes: int = 40
    reference: Path | None = None
    """What was randomised in the training of bundles that do not say it themselves."""
    threads: int = 1

    def __post_init__(self) -> None:
        """Refuse what cannot be (InputError)."""
        require(
            "options",
            (self.episodes >= 3, "episodes", "3 or more, for intervals", self.episodes),
            (self.environments >= 1, "environments", "1 or more", self.environments),
            (self.reference_episodes >= 2, "reference_episodes", "2 or more",
             self.reference_episodes),
            (self.seed >= 0, "seed", "0 or more", self.seed),
        )  # fmt: skip

    @property
    def spec(self) -> Spec:
        """The randomisation of the evaluation."""
        return Spec(()) if self.randomization is None else load(self.randomization)

    def evaluation(self, bundle: str) -> evaluation.Options:
        """Of one bundle."""
        return evaluation.Options(
            (bundle,), self.task, self.engine, randomization=self.randomization, robot=self.robot,
            episodes=self.episodes, environments=self.environments, seed=self.seed,
            threads=self.threads,
        )  # fmt: skip


@dataclass(frozen=True, eq=False)
class Simulated:
    """How a bundle did in E episodes."""

    returns: FloatArray
    """[E]"""
    success: NDArray[np.bool_]
    """[E]"""
    robustness: FloatArray | None
    """[E] of the specification, minus infinity where a simulation diverged; None without one."""
    clause: NDArray[np.int64] | None
    """[E] the number of the least robust clause."""
    parameters: dict[str, FloatArray]
    """What was drawn, "term/name" -> [E]."""


def simulate(bundle: str, options: Options, cache: Path) -> Simulated:
    """Evaluate a bundle, or look up how it did.

    Raises what sim.tasks.evaluation.evaluate raises, and InputError for a specification that
    looks at what the task does not have.
    """
    file, _ = planned(bundle, options, cache)
    if file.exists():
        return _loaded(file)
    found = _simulate(bundle, options)
    _keep(file, {
        "returns": found.returns, "success": found.success,
        "robustness": found.robustness, "clause": found.clause,
    } | {f"parameter {name}": values for name, values in found.parameters.items()})  # fmt: skip
    return found


def require_simulable(policies: Mapping[str, OnnxPolicy], options: Options) -> None:
    """Raise ContractError, with every violation, for policies that are none for the task."""
    require_fit(policies, make(options, Spec(()), 1))


def planned(bundle: str, options: Options, cache: Path) -> tuple[Path, Path]:
    """Where `simulate` and `refer` keep what they find."""
    return (
        _file(cache, "simulated", _decided(bundle, options, ("specification",))),
        _file(cache, "reference", _decided_reference(bundle, options)),
    )


def clauses(options: Options) -> list[str]:
    """The specification's parts, as Simulated.clause numbers them."""
    found = specification(options, make(options, Spec(()), 1))
    return [] if found is None else [part.text for part in found.clauses or (found,)]


def specification(options: Options, task: Task) -> Specification | None:
    """Read against what the task has."""
    if options.specification is None:
        return None
    dt = 1 / task.timing.control_hz
    return temporal_logic.parse(options.specification, watched.units(task), dt)


def make(options: Options, spec: Spec, count: int) -> Task:
    """The task with this randomisation."""
    return tasks.make(
        options.task, engine=options.engine, count=count, seed=options.seed,
        threads=options.threads, randomization=spec, robot=options.robot,
    )  # fmt: skip


def _simulate(bundle: str, options: Options) -> Simulated:
    wanted = specification(options, make(options, Spec(()), 1))
    traces = watched.Traces(() if wanted is None else wanted.signals)
    watch = None if wanted is None else traces
    found = evaluation.evaluate(
        {bundle: load_policy(bundle)}, options.evaluation(bundle), watch=watch
    )
    records = found.records[bundle]
    robustness = clause = None
    if wanted is not None:
        lost = records["diverged"]
        seen = traces.of(bundle, records["length"])
        sound = {n: np.where(lost[:, None], 0.0, values) for n, values in seen.items()}
        robustness, clause = wanted.worst_clause(sound)
        robustness = np.where(lost, -np.inf, robustness)
    return Simulated(
        records["return"], records["success"], robustness, clause, found.parameters(bundle)
    )


# References.


def refer(bundle: str, options: Options, cache: Path) -> Recording:
    """What the behaviour shows in the simulation that a bundle was trained in.

    Raises InputError where the bundle does not tell how it was randomised.
    """
    _, file = planned(bundle, options, cache)
    if not file.exists():
        found = record(options, own_randomization(bundle, options.reference))
        _keep(file, {
            "time": found.time, "episode": found.episodes,
            **{f"signal {name}": value for name, value in found.signals.items()},
            **{f"command {name}": value for name, value in found.commands.items()},
        })  # fmt: skip
    with np.load(file) as archive:
        parts = {
            kind: {n[len(kind) :]: archive[n] for n in archive.files if n.startswith(kind)}
            for kind in ("signal ", "command ")
        }
        return Recording(parts["signal "], parts["command "], archive["time"], archive["episode"])


def own_randomization(bundle: str, otherwise: Path | None = None) -> Spec:
    """What a bundle's training.yaml says of it, or a file, where that says nothing."""
    found = bundles.read(bundle)
    document = yaml.safe_load(found.content["training.yaml"])
    configuration = document.get("configuration", {}) if isinstance(document, Mapping) else {}
    if "randomization" not in configuration and otherwise is not None:
        return load(otherwise)
    if "randomization" not in configuration:
        mend = "give it with --reference; `terms: []` in the file randomises nothing"
        raise InputError([
            Violation(f"{bundle}, training.yaml", "configuration.randomization", "none", mend)
        ])  # fmt: skip
    from robot_policies.strict import decode

    violations: list[Violation] = []
    given = configuration["randomization"]
    spec = Spec(()) if given is None else decode(Spec, given, "randomization", violations)
    if violations:
        raise InputError(violations)
    return spec


def record(options: Options, spec: Spec) -> Recording:
    """The behaviour in episodes of the task, as a policy is told of them."""
    task = make(options, spec, options.reference_episodes)
    return of_demonstrations(demonstrate(task, options), task)


def demonstrate(task: Task, options: Options) -> list[Demonstration]:
    """The behaviour in `reference_episodes` of a task."""
    if options.behaviour == EXPERT:
        player: experts.Expert = experts.make(options.task, task.scene, options.seed)
    else:
        policy = load_policy(options.behaviour)
        require_fit({options.behaviour: policy}, task)
        player = _Player(Driver(policy, task), task, options.seed)
    return list(islice(attempts(task, player, options.seed, 0), options.reference_episodes))


def of_demonstrations(episodes: list[Demonstration], task: Task) -> Recording:
    """Their rows as a recording."""
    told = [signal for signal in task.observation if signal.source == "robot"]
    joined = {
        name: np.concatenate([episode.rows[name] for episode in episodes]).astype(float)
        for name in (STATE, ACTION)
    }
    lengths = [len(episode.rows[STATE]) for episode in episodes]
    time = np.concatenate([np.arange(length) for length in lengths]) / task.timing.control_hz
    return Recording(
        _columns(joined[STATE], told), _columns(joined[ACTION], task.action), time,
        np.repeat(np.arange(len(episodes)), lengths),
    )  # fmt: skip


def _columns(values: FloatArray, signals: Any) -> dict[str, FloatArray]:
    assert values.shape[1] == len(element_names(signals))
    ends = np.cumsum([len(signal.elements) for signal in signals])
    parts = np.split(values, ends[:-1], axis=1)
    return {
        signal.name: part.reshape(len(part), *signal.shape)
        for signal, part in zip(signals, parts, strict=True)
    }


class _Player:
    """A bundle in the expert's place."""

    def __init__(self, driver: Driver, task: Task, seed: int) -> None:
        self._driver, self._task, self._seed = driver, task, seed

    def begin(self, ids: IdArray, episodes: IdArray) -> None:
        del ids, episodes  # all environments begin at once
        self._driver.begin(self._seed)

    def act(self) -> FloatArray:
        return self._task.commands(self._driver.act()).astype(float)


# The cache.


def _decided(bundle: str, options: Options, keys: tuple[str, ...]) -> dict[str, Any]:
    """All that decides a result."""
    return {
        "version": VERSION, "bundle": evaluation.digest(bundle), "task": options.task,
        "engine": options.engine, "seed": options.seed, "episodes": options.episodes,
        "environments": options.environments,
        "randomization": [asdict(term) for term in options.spec.terms],
        "robot": None if options.robot is None else _digest(options.robot.read_bytes()),
    } | {key: getattr(options, key) for key in keys}  # fmt: skip


def _decided_reference(bundle: str, options: Options) -> dict[str, Any]:
    found = _decided(bundle, options, ("behaviour", "reference_episodes"))
    if options.behaviour != EXPERT:
        found["behaviour"] = evaluation.digest(options.behaviour)
    if options.reference is not None:
        found["reference"] = _digest(options.reference.read_bytes())
    return found


def _file(cache: Path, kind: str, decided: dict[str, Any]) -> Path:
    return cache / kind / f"{_digest(json.dumps(decided, sort_keys=True).encode())}.npz"


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _keep(file: Path, arrays: Mapping[str, Any]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    staging = file.with_suffix(".new.npz")
    np.savez(staging, **{name: value for name, value in arrays.items() if value is not None})
    staging.replace(file)


def _loaded(file: Path) -> Simulated:
    with np.load(file) as archive:
        prefix = "parameter "
        return Simulated(
            archive["returns"], archive["success"], archive.get("robustness"),
            archive.get("clause"),
            {n[len(prefix) :]: archive[n] for n in archive.files if n.startswith(prefix)},
        )  # fmt: skip
