"""rank: which policy goes on the robot first, how sure that is, and which must not go at all."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from tyro.conf import Positional

from robot_policies.cli.command import (
    GATE_FAILED,
    INCONCLUSIVE,
    NOT_COMPARABLE,
    PASS,
    Json,
    Outcome,
    UsageError,
    require_bundle,
    require_files,
    rich_table,
)

if TYPE_CHECKING:
    from robot_policies import evidence, ranking
    from robot_policies.recordings import Check, Recording
    from sim.ranking import Options, Simulated


@dataclass(frozen=True)
class Rank:
    """Rank policies before hardware: simulation, and how strange real data look to each of them.

    Example: robot-policies rank runs/*/bundle --real obs.npz --task arm-reach --engine mujoco \\
        --behaviour expert --spec config/specification_example.stl --seed 0 --output ranking

    Every policy is evaluated in the same simulated episodes, and judges the same real data by a
    reference: what the behaviour that made those data looks like in the simulation that the policy
    was trained in. The real data need not come from any of the policies.

    Exit codes: 0 a ranking; 1 no policy passes the gate; 3 the data cannot be compared with
    simulation; 4 with --strict, where the first --top are not clearly better than the others.
    """

    bundles: Positional[tuple[str, ...]]
    """Paths or zoo:NAME, before the options."""
    real: Path
    """Real data: an npz file of signals by name, or a log (MCAP) with --sources."""
    task: str
    """Where the policies are simulated, as of `evaluate --task`."""
    engine: Literal["mujoco", "genesis", "torch"]
    behaviour: str
    """What made the real data: expert, the task's scripted one, or a bundle."""
    seed: int
    """Of episodes, references and the bootstrap."""
    sources: Path | None = None
    """YAML that says where the signals are in a log, as config/log_sources_example.yaml."""
    randomization: Path | None = None
    """YAML with what is randomised in the evaluation."""
    reference: Path | None = None
    """YAML with what was randomised where policies were trained, for those that do not say it
    themselves, such as ones from demonstrations."""
    robot: Path | None = None
    """YAML with a robot of your own."""
    spec: Path | None = None
    """A specification, as robot_policies.temporal_logic: a policy that does not keep it in
    --gate of the episodes (95 % lower bound) comes after all that do, whatever its score."""
    gate: float = 0.95
    episodes: int = 200
    """Simulated, of each policy."""
    reference_episodes: int = 40
    top: int = 1
    """k, of P(in top k), and of what --strict demands to be clear."""
    combiner: Literal["calibrated-product", "rank-sum", "gate-then-sort"] = "calibrated-product"
    detector: Literal[
        "mahalanobis", "neighbours", "distillation", "disagreement", "reconstruction", "energy"
    ] = "mahalanobis"  # fmt: skip
    """energy: that of an energy-based policy's own chunks."""
    shown: Literal["observations", "features"] = "observations"
    """What the other detectors look at."""
    bootstraps: int = 1000
    strict: bool = False
    """Exit 4 where the ranking is inconclusive."""
    dry_run: bool = False
    """List what would be computed and what is cached."""
    cache: Path = Path(os.environ.get("XDG_CACHE_HOME", "~/.cache"), "robot_policies/rank")
    """Simulations are kept here, by all that decides them."""
    output: Path | None = None
    """A new folder for ranking.json, .csv, .md and .html."""
    json: Json = False

    def run(self) -> Outcome:
        """Check the data, simulate what is not cached, and rank."""
        self._require_files()
        options = self._options()
        if self.dry_run:
            return _plan(self, options)
        return _rank(self, options)

    def _require_files(self) -> None:
        for bundle in self.bundles:
            require_bundle(bundle)
        if not self.bundles:
            raise UsageError("bundles: expected one or more, found none")
        if self.behaviour != "expert":
            require_bundle(self.behaviour)
        given = [self.randomization, self.reference, self.robot, self.sources]
        require_files("a YAML file", [path for path in given if path])
        require_files("a specification", [] if self.spec is None else [self.spec])
        if self.output is not None and self.output.exists():
            raise UsageError(f"{self.output}: expected no such folder yet; give a new name")
        if not self.real.exists():
            raise UsageError(f"{self.real}: expected real data, found nothing; correct the path")

    def _options(self) -> Options:
        from sim.ranking import Options

        text = None if self.spec is None else self.spec.read_text(encoding="utf-8")
        return Options(
            self.task, self.engine, self.seed, self.randomization, self.robot, self.episodes,
            specification=text, behaviour=self.behaviour,
            reference_episodes=self.reference_episodes, reference=self.reference,
        )  # fmt: skip


def _plan(command: Rank, options: Options) -> Outcome:
    from sim.ranking import planned

    cache = command.cache.expanduser()
    rows = []
    for bundle in command.bundles:
        files = planned(bundle, options, cache)
        rows.append([bundle, *("cached" if file.exists() else "to do" for file in files)])
    headings = ["policy", "simulated", "reference"]
    document = {"ok": True, "planned": [dict(zip(headings, row, strict=True)) for row in rows]}
    return Outcome(PASS, document, [rich_table(headings, rows)])


def _rank(command: Rank, options: Options) -> Outcome:
    from robot_policies import load_policy, ranking, recordings
    from sim.ranking import refer, require_simulable, simulate

    cache = command.cache.expanduser()
    policies = {name: load_policy(name) for name in command.bundles}
    require_simulable(policies, options)
    first = next(iter(policies.values())).contract
    real = recordings.read(command.real, first, command.sources)
    references = {name: refer(name, options, cache) for name in policies}
    checked = recordings.checks(real, first, references[command.bundles[0]])
    if not all(check.passed for check in checked):
        return _not_comparable(command, checked)
    simulated = {name: simulate(name, options, cache) for name in policies}
    judged = {
        name: _judged(command, policy, real, references[name]) for name, policy in policies.items()
    }
    found = ranking.rank(
        [_evidence(name, simulated[name], judged[name]) for name in policies],
        real.episodes[judged[command.bundles[0]].judged], combiner=command.combiner,
        top=command.top, gate=command.gate, seed=command.seed, bootstraps=command.bootstraps,
    )  # fmt: skip
    return _outcome(command, found, checked, _worst_episodes(simulated, options))


def _judged(
    command: Rank, policy: Any, real: Recording, reference: Recording
) -> evidence.Evidence:
    from robot_policies import evidence

    how = evidence.Options(command.detector, command.shown)
    return evidence.judge(policy, real, reference, how, command.seed)


def _evidence(name: str, simulated: Simulated, judged: evidence.Evidence) -> ranking.Evidence:
    from robot_policies import ranking

    return ranking.Evidence(
        name, simulated.returns, judged.p_values, simulated.success, simulated.robustness,
        judged.worst, judged.flags,
    )  # fmt: skip


def _worst_episodes(simulated: dict[str, Simulated], options: Options) -> list[dict[str, Any]]:
    """Of each policy the episode that kept the specification least."""
    from sim.ranking import clauses

    found = []
    for name, result in simulated.items():
        if result.robustness is None or result.clause is None:
            continue
        episode = int(result.robustness.argmin())
        found.append({
            "policy": name, "episode": episode, "seed": options.seed,
            "robustness": float(result.robustness[episode]),
            "clause": clauses(options)[int(result.clause[episode])],
            "parameters": {n: float(v[episode]) for n, v in result.parameters.items()},
        })  # fmt: skip
    return found


def _not_comparable(command: Rank, checked: list[Check]) -> Outcome:
    failed = [str(check) for check in checked if not check.passed]
    text = f"{command.real} cannot be compared with simulation:"
    document = {"ok": False, "error": text, "checks": [asdict(check) for check in checked]}
    return Outcome(NOT_COMPARABLE, document, [text, *failed])


def _outcome(
    command: Rank, found: ranking.Ranking, checked: list[Check], worst: list[dict[str, Any]]
) -> Outcome:
    from robot_policies import ranking_page

    about = list(_about(command, found))
    passed = any(row.gate is None or row.gate.passed for row in found.rows)
    document = {
        "ok": passed, "about": about, "combiner": found.combiner, "agreement": found.agreement,
        "warning": found.warning, "conclusive": found.conclusive,
        "rows": [asdict(row) for row in found.rows],
        "checks": [asdict(check) for check in checked], "worst_episodes": worst,
    }  # fmt: skip
    first = ranking_page.strangest(found)[: command.top]
    shown: list[Any] = [rich_table(*ranking_page.short_table(found)), *first, *about]
    if command.output is not None:
        _write(command.output, found, about, checked, document)
        shown.append(f"wrote {command.output / 'ranking.html'}")
    code = PASS if passed else GATE_FAILED
    if passed and command.strict and not found.conclusive:
        code = INCONCLUSIVE
    return Outcome(code, document, shown)


def _about(command: Rank, found: ranking.Ranking) -> Iterator[str]:
    yield (
        f"{command.real}; {command.task} in {command.engine}, {command.episodes} episodes of each "
        f"policy, seed {command.seed}; {found.combiner}, {command.detector} on {command.shown}; "
        f"brackets: 95 % by bootstrap over episodes"
    )
    yield f"rank correlation with simulation alone: {found.agreement:.2f}"
    if found.warning:
        yield f"warning: {found.warning}"
    if not found.conclusive:
        yield f"inconclusive: the first {found.top} are not clearly better than the others"
    if not any(row.gate is None or row.gate.passed for row in found.rows):
        yield "no policy keeps the specification often enough: none should go on the robot"


def _write(
    folder: Path, found: ranking.Ranking, about: list[str], checked: list[Check],
    document: dict[str, Any],
) -> None:  # fmt: skip
    import json

    from robot_policies import ranking_page

    folder.mkdir(parents=True)
    texts = {
        "json": json.dumps(document, indent=1), "csv": ranking_page.as_csv(found),
        "md": ranking_page.as_markdown(found, about),
        "html": ranking_page.page(found, about, checked),
    }  # fmt: skip
    for suffix, text in texts.items():
        (folder / f"ranking.{suffix}").write_text(text, encoding="utf-8")
