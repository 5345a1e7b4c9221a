"""From an ONNX graph to a bundle that has replayed its golden run (needs onnx, not torch)."""

from __future__ import annotations

import platform
import subprocess
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import yaml

from robot_policies import bundle as bundles
from robot_policies.bundle import Golden, PolicyBundle
from robot_policies.contract import Contract, Provenance
from robot_policies.runtime import OnnxPolicy, require_replay
from robot_policies.sessions import METADATA_KEY


@dataclass(frozen=True)
class Source:
    """What goes into a bundle beside the network and its contract."""

    training: Mapping[str, Any]
    """The resolved configuration that made the policy (training.yaml)."""
    model_card: str
    """Markdown (README.md)."""


def write_graphs(
    graphs: Mapping[str, onnx.ModelProto],
    contract: Contract,
    golden: Golden,
    source: Source,
    path: str | Path,
    *,
    replace: bool = False,
    more: Mapping[str, bytes] | None = None,
) -> PolicyBundle:
    """Write a bundle around graphs (file -> model), after they have replayed the golden run.

    more  other files of the bundle
    """
    files = {
        **(more or {}),
        **{name: stamp(graph, contract) for name, graph in graphs.items()},
        "golden.npz": golden.to_bytes(),
        "training.yaml": yaml.safe_dump(dict(source.training), sort_keys=True).encode(),
        "README.md": source.model_card.encode(),
    }
    return bundles.write(path, contract, files, replace=replace, check=_require_replay)


def random_inputs(
    contract: Contract, *, steps: int = 64, batch: int = 2, seed: int = 0
) -> tuple[np.ndarray, np.ndarray, dict[str, np.ndarray]]:
    """Draw standard normal observations and noise, with a reset half-way, for a golden run.

    Returns:
        observation [T, B, To, Do], reset [T], noise by name [T, B, *shape].
    """
    generator = np.random.default_rng(seed)

    def normal(*shape: int) -> np.ndarray:
        return generator.standard_normal((steps, batch, *shape)).astype(np.float32)

    observation = normal(contract.observation_steps, contract.observation_size)
    reset = np.zeros(steps, bool)
    reset[[0, steps // 2]] = True
    return observation, reset, {spec.name: normal(*spec.shape) for spec in contract.noise}


def stamp(graph: onnx.ModelProto, contract: Contract) -> bytes:
    """Put the contract into the graph's metadata, so that no other policy.json pairs with it."""
    del graph.metadata_props[:]
    graph.metadata_props.add(key=METADATA_KEY, value=contract.to_json())
    return graph.SerializeToString()


def provenance(source: str, licence: str, seeds: tuple[int, ...], data_sha256: str) -> Provenance:
    """Describe this machine's versions and, inside a checkout, its git revision."""
    file = Path(__file__)

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(file.parent), *arguments]
        try:
            return subprocess.run(command, capture_output=True, text=True, check=True).stdout
        except (OSError, subprocess.CalledProcessError):
            return ""

    # Installed into an environment inside somebody else's checkout, we are not of its revision.
    ours = bool(git("ls-files", "--error-unmatch", file.name))
    return Provenance(
        source=source,
        licence=licence,
        git_revision=(git("rev-parse", "HEAD").strip() if ours else "") or "unknown",
        git_dirty=ours and bool(git("status", "--porcelain", "--untracked-files=no").strip()),
        seeds=seeds,
        data_sha256=data_sha256,
        versions={"python": platform.python_version(), **_versions()},
    )


def _versions() -> dict[str, str]:
    versions = {}
    for name in ("torch", "onnx", "onnxruntime", "numpy"):
        with suppress(metadata.PackageNotFoundError):
            versions[name] = metadata.version(name)
    return versions


def model_card(contract: Contract, command: str, about: str = "") -> str:
    """A model card: what the policy is, its signals, and the command that made it."""
    signals = [
        f"| {'in' if hasattr(s, 'history') else 'out'} | {s.name} | {list(s.shape)} | {s.unit} "
        f"| {s.frame} | {', '.join(s.elements)} |"
        for s in (*contract.observation, *contract.action)
    ]
    lines = [
        f"# {contract.name}",
        about or f"A policy of the family {contract.family} for {contract.robot.model}.",
        f"Licence: {contract.provenance.licence}. Source: {contract.provenance.source}.",
        f"Stepped at {contract.timing.control_hz:g} Hz. Made by `{command}`.",
        "| | signal | shape | unit | frame | elements |\n|---|---|---|---|---|---|\n"
        + "\n".join(signals),
    ]
    return "\n\n".join(lines) + "\n"


def _require_replay(path: Path) -> None:
    bundle = bundles.read(path)
    require_replay(OnnxPolicy(bundle), bundle.golden)
