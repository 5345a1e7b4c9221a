"""import, export, verify, sign and doctor: what makes and checks bundles, and the machine."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated, Any

import tyro
from tyro.conf import Positional, arg

from robot_policies.cli.command import (
    GATE_FAILED,
    PASS,
    REFUSED,
    Json,
    Outcome,
    bullets,
    require_bundle,
    require_default,
    require_files,
    rich_table,
    written,
)

if TYPE_CHECKING:
    from rich.console import RenderableType

    from robot_policies.bundle import PolicyBundle
    from robot_policies.verify import Report

Replace = Annotated[bool, arg(help="Exchange an existing bundle for the new one.")]


@dataclass(frozen=True)
class ImportRaptor:
    """Make a bundle of the RAPTOR quadrotor policy in the installed package foundation-policy.

    Example: robot-policies import raptor
    """

    output: Path = Path("zoo:raptor")
    """The bundle's directory, or zoo:NAME in your own zoo."""
    replace: Replace = False
    json: Json = False

    def run(self) -> Outcome:
        """Import, and check against the authors' own numbers."""
        from robot_policies.importers.raptor import import_raptor

        return written(import_raptor(self.output, replace=self.replace))


@dataclass(frozen=True)
class ImportOnnx:
    """Make a bundle of any ONNX policy and a YAML file that names its signals.

    Example: robot-policies import onnx walk.onnx --signals walk.yaml --output bundles/walk

    The file config/import_example.yaml explains every key; nothing is assumed in its place.
    """

    model: Positional[Path]
    """The ONNX file; weights beside it are taken in."""
    signals: Path
    """YAML: the contract's sections, and `graph`, which maps the model's inputs and outputs."""
    output: Path
    """The bundle's directory, or zoo:NAME in your own zoo."""
    golden: Path | None = None
    """A run recorded by the framework that trained the policy (npz: observation, action). Without
    it the model itself is recorded, which cannot tell a mistake of its own exporter."""
    replace: Replace = False
    seed: int = 0
    """Of the random observations of the golden run, where --golden gives none."""
    json: Json = False

    def run(self) -> Outcome:
        """Wrap, compare with the original, and write."""
        from robot_policies.importers.onnx_model import import_onnx

        require_files("an ONNX model", [self.model])
        require_files("a YAML file", [self.signals])
        require_files("an npz file", [self.golden] if self.golden else [])
        bundle, notes = import_onnx(
            self.model, self.signals, self.output,
            golden=self.golden, replace=self.replace, seed=self.seed,
        )  # fmt: skip
        return written(bundle, notes)


@dataclass(frozen=True)
class Import:
    """Make a bundle of a policy that others trained: raptor or onnx."""

    source: (
        Annotated[ImportRaptor, tyro.conf.subcommand("raptor")]
        | Annotated[ImportOnnx, tyro.conf.subcommand("onnx")]
    )

    @property
    def json(self) -> bool:
        """As the chosen source says."""
        return self.source.json

    def run(self) -> Outcome:
        """Run the chosen import."""
        return self.source.run()


@dataclass(frozen=True)
class Export:
    """Make a bundle of a checkpoint that this project trained.

    Example: robot-policies export runs/hover/checkpoint.pt --output bundles/hover

    For a program without this project's runtime, a policy that refines as one ONNX file, too:
    robot-policies export runs/push/checkpoint.pt --output bundles/push --single-graph push.onnx
    """

    checkpoint: Positional[Path]
    """What training wrote."""
    output: Path
    """The bundle's directory, or zoo:NAME in your own zoo."""
    replace: Annotated[
        bool, arg(help="Exchange an existing bundle, and single graph, for the new one.")
    ] = False
    seed: int = 0
    """Of the random observations of the golden run."""
    single_graph: Path | None = None
    """Also write encode, and refine in a Loop, as one standard ONNX graph to this file, which
    must not be inside the bundle: push.onnx, say."""
    sampler: str | None = None
    """The sampler inside the single graph; the policy's first where none is given."""
    int8: bool = False
    """Weights of matrix products in eight bits: a smaller file, hardly ever a faster one. What it
    costs is measured and told; quantise on the kind of machine that will run it."""
    json: Json = False

    def run(self) -> Outcome:
        """Export, and compare the graph with the network."""
        from robot_policies.export import export_checkpoint

        require_files("a checkpoint", [self.checkpoint])
        self._refuse_early()
        if self.int8:
            bundle, figures, notes = self._quantised()
        else:
            figures, notes = {}, []
            bundle = export_checkpoint(
                self.checkpoint, self.output, replace=self.replace, seed=self.seed
            )
        if self.single_graph is not None:
            figures |= self._write_single(bundle, self.single_graph)
            notes.append(f"wrote {self.single_graph} (the same policy as one graph)")
        outcome = written(bundle, notes)
        return replace(outcome, document={**outcome.document, **figures})

    def _refuse_early(self) -> None:
        """Raise for what cannot be written, before the export takes its time."""
        from robot_policies.bundle import destination, refuse_overwrite

        refuse_overwrite(self.output, self.replace)
        if self.single_graph is None:
            require_default(self, ["sampler"], "without --single-graph")
            return
        from robot_policies.export import checkpoint_contract
        from robot_policies.single_graph import refuse_file, require_sampler

        refuse_file(self.single_graph, self.replace, destination(self.output))
        require_sampler(checkpoint_contract(self.checkpoint), self.sampler)

    def _quantised(self) -> tuple[PolicyBundle, dict[str, Any], list[str]]:
        """The bundle, its figures for JSON, and for a person."""
        from robot_policies.export import export_checkpoint
        from robot_policies.quantization import compare, quantize

        with TemporaryDirectory() as folder:
            whole = export_checkpoint(self.checkpoint, Path(folder) / "whole", seed=self.seed)
            bundle = quantize(whole, self.output, replace=self.replace)
        comparison = compare(whole, bundle)
        return bundle, {"int8": asdict(comparison)}, [f"int8: {comparison}"]

    def _write_single(self, bundle: PolicyBundle, path: Path) -> dict[str, Any]:
        from robot_policies.single_graph import write_single

        difference = write_single(bundle, path, self.sampler, replace=self.replace)
        return {"single_graph": {"path": str(path), "max_difference": difference}}


@dataclass(frozen=True)
class Verify:
    """Check a bundle: files, contract, signature, graph, golden replay and latency.

    Example: robot-policies verify zoo:raptor --trusted-key keys/team.pem
    """

    bundle: Positional[str]
    """A path or zoo:NAME."""
    trusted_key: tuple[Path, ...] = ()
    """ed25519 public keys (PEM); with any, a signature by one of them is demanded."""
    no_latency: bool = False
    """Leave the measurement of latency out."""
    json: Json = False

    def run(self) -> Outcome:
        """Verify; exit 3 where the bundle is refused, 1 where it is only too slow."""
        from robot_policies.signatures import load_public_keys
        from robot_policies.verify import verify

        require_bundle(self.bundle)
        require_files("a public key in PEM", self.trusted_key)
        load_public_keys(self.trusted_key)
        report = verify(self.bundle, self.trusted_key, latency=not self.no_latency)
        code = REFUSED if report.refused else PASS if report.ok else GATE_FAILED
        shown = [_checklist(report), *bullets(report.violations)]
        if report.path != report.bundle:
            shown.insert(0, f"{report.bundle} is {report.path}")
        return Outcome(code, report.to_dict(), shown)


@dataclass(frozen=True)
class Sign:
    """Sign a bundle with an ed25519 key (make one: openssl genpkey -algorithm ed25519).

    Example: robot-policies sign bundles/hover --key team-private.pem
    """

    bundle: Positional[str]
    """A path or zoo:NAME."""
    key: Path
    """The private key in PEM."""
    json: Json = False

    def run(self) -> Outcome:
        """Verify that the bundle loads, then sign it."""
        from robot_policies.bundle import sign
        from robot_policies.runtime import load_policy

        require_bundle(self.bundle)
        require_files("a private key in PEM", [self.key])
        load_policy(self.bundle)
        path = sign(self.bundle, self.key)
        return Outcome(PASS, {"signature": str(path)}, [f"signed: {path}"])


@dataclass(frozen=True)
class Doctor:
    """Look at this machine: versions, compiler, threads, clock, real-time rights, clashes, ROS.

    Example: robot-policies doctor --json
    """

    json: Json = False

    def run(self) -> Outcome:
        """Examine; exit 1 where something will not work."""
        from robot_policies.doctor import examine

        findings = examine()
        failed = any(finding.status == "fail" for finding in findings)
        document = {"ok": not failed, "findings": [vars(finding) for finding in findings]}
        rows = [(f.name, f.status, f.found, f.mend) for f in findings]
        table = rich_table(("finding", "", "found", "how to mend"), rows)
        return Outcome(GATE_FAILED if failed else PASS, document, [table])


def _checklist(report: Report) -> RenderableType:
    rows = [
        (check.name, check.status, "  ".join(map(_figure, check.figures.items())))
        for check in report.checks
    ]
    return rich_table((report.bundle, "", "measured"), rows)


def _figure(item: tuple[str, object]) -> str:
    name, value = item
    if name == "reason":
        return str(value)
    if not isinstance(value, float):
        return f"{name} {value}"
    return f"{name[:-2]} {value * 1e3:.3g} ms" if name.endswith("_s") else f"{name} {value:.3g}"
