"""Is the imported RAPTOR the authors' policy? The bundle's graph against THEIR numbers and code.

1. The example that their checkpoint carries: 500 steps of two quadrotors, inputs and outputs.
2. Their own numpy code (foundation_policy.Raptor), run beside the bundle on random sequences, and
   both beside the same network in double precision, which tells how much of a difference is
   rounding and whose it is.

    python benchmarks/raptor_import.py

Exit code 1 where a difference is above 1e-6, 2 where a package is missing.
"""

from __future__ import annotations

import sys
import tempfile
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import numpy as np
import onnxruntime as ort
import tyro

try:
    from foundation_policy import Raptor

    from robot_policies.importers.raptor import checkpoint_path, import_raptor, load_checkpoint
except ModuleNotFoundError as error:
    needed = "pip install foundation-policy '.[train]' in the checkout"
    print(f"raptor_import: the package {error.name} is missing; {needed}", file=sys.stderr)
    sys.exit(2)

from robot_policies.bundle import GRAPH, PolicyBundle
from robot_policies.sessions import open_graph
from robot_policies.strict import ContractError

GOAL = 1e-6


@dataclass(frozen=True)
class Options:
    """How many random sequences, and how long."""

    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    sequences: int = 64
    """Quadrotors side by side, for each seed."""
    steps: int = 500


def main(options: Options) -> int:
    with tempfile.TemporaryDirectory() as folder:
        bundle = import_raptor(Path(folder) / "raptor")
    names = ("foundation-policy", "onnxruntime", "numpy")
    print("  ".join(f"{name} {metadata.version(name)}" for name in names))
    example = example_difference(bundle)
    print(f"authors' example, 500 steps x 2: largest difference {example:.2e} (goal {GOAL:g})")
    rows = np.array([differences(bundle, options, seed) for seed in options.seeds])
    print(f"random sequences, {options.steps} steps x {options.sequences}, by seed:")
    print("seed   bundle-authors   bundle-double   authors-double")
    for seed, row in zip(options.seeds, rows, strict=True):
        print(f"{seed:<4d}" + "".join(f"{value:>16.2e}" for value in row))
    worst = float(rows[:, 0].max())
    print(f"all    {worst:.2e} is the largest difference (goal {GOAL:g})")
    passed = max(example, worst) <= GOAL
    print("pass" if passed else "FAIL")
    return 0 if passed else 1


def example_difference(bundle: PolicyBundle) -> float:
    _, observation, action = load_checkpoint(checkpoint_path())
    return float(np.abs(run_bundle(bundle, observation) - action).max())


def run_bundle(bundle: PolicyBundle, observation: np.ndarray) -> np.ndarray:
    """Observation [T, B, 22] -> raw action [T, B, 4], from the initial state."""
    session: ort.InferenceSession = open_graph(bundle.content[GRAPH], bundle.contract)
    initial = np.asarray(bundle.contract.state[0].initial, np.float32)
    state = np.tile(initial, (observation.shape[1], 1))
    actions = []
    for vector in observation:
        feed = {"observation": vector[:, None], "state": state}
        action, state = session.run(["action", "next_state"], feed)
        actions.append(action[:, 0])
    return np.stack(actions)


def differences(bundle: PolicyBundle, options: Options, seed: int) -> tuple[float, float, float]:
    """Largest differences: bundle - authors, bundle - double, authors - double precision."""
    generator = np.random.default_rng(seed)
    shape = (options.steps, options.sequences, 22)
    observation = generator.uniform(-1.0, 1.0, shape).astype(np.float32)
    ours = run_bundle(bundle, observation)
    theirs = run_authors(Raptor(), observation)
    exact = run_authors(in_double_precision(Raptor()), observation.astype(np.float64))
    pairs = ((ours, theirs), (ours, exact), (theirs, exact))
    a, b, c = (float(np.abs(left - right).max()) for left, right in pairs)
    return a, b, c


def run_authors(policy: Raptor, observation: np.ndarray) -> np.ndarray:
    policy.reset()
    return np.stack([np.asarray(policy.evaluate_step(vector)) for vector in observation])


def in_double_precision(policy: Raptor) -> Raptor:
    """The authors' own code with their weights as doubles."""
    for layer in policy.layers:
        for name, value in vars(layer).items():
            if isinstance(value, np.ndarray):
                setattr(layer, name, value.astype(np.float64))
    return policy


if __name__ == "__main__":
    try:
        sys.exit(main(tyro.cli(Options, description=__doc__)))
    except (ContractError, OSError) as error:
        print(f"raptor_import: {error}", file=sys.stderr)
        sys.exit(2)
