"""A server that times LeRobot's DiffusionPolicy: the peer of benchmarks/imitation_latency.py.

It runs in an environment of its own, which has lerobot and nothing of this project; `serve` starts
it from elsewhere. The policy sees states alone, has random weights and runs on the CPU as LeRobot
runs it: eager torch, in inference mode, one thread. Its processors, which normalise, are left out,
to its advantage.

    PYTHON benchmarks/lerobot_peer.py '{"observation_steps": 2, ...}'    see Policies

It first prints {"parameters": N, "lerobot": version, "torch": version}; then each line of its
input, {"sampler": "ddim-10", "chunks": 3}, is answered by a line with [wall, CPU] seconds of each
chunk.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Policies:
    """One network, and the samplers to run it with."""

    observation_steps: int
    prediction_steps: int
    execution_steps: int
    state: int
    """Numbers of "observation.state"."""
    environment: int
    """Numbers of "observation.environment_state", one of which LeRobot demands without images."""
    action: int
    widths: tuple[int, ...]
    """Of the U-Net's levels; the first is that of the embedded time, too."""
    samplers: dict[str, tuple[str, int]]
    """Name -> DDPM or DDIM, and the steps."""
    seed: int


@contextmanager
def serve(
    python: str | Path, given: Policies
) -> Iterator[tuple[dict[str, Any], Callable[[str, int], list[list[float]]]]]:
    """Start the server; what it says of itself, and what asks for (sampler, chunks).

    Raises ConnectionError where it ends before it answers.
    """
    command = [str(python), __file__, json.dumps(asdict(given))]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) as process:
        requests, answers = process.stdin, process.stdout
        assert requests is not None and answers is not None

        def answer() -> Any:
            if not (line := answers.readline()):
                expected = "expected a Python with lerobot 0.4.4; found one that ended, see above"
                raise ConnectionError(f"{python}: {expected}")
            return json.loads(line)

        def ask(sampler: str, chunks: int) -> list[list[float]]:
            requests.write(json.dumps({"sampler": sampler, "chunks": chunks}) + "\n")
            requests.flush()
            return answer()

        yield answer(), ask


def main(given: Policies) -> None:
    """Serve until the input ends."""
    answers, sys.stdout = sys.stdout, sys.stderr  # packages may print; answers are read by line
    import lerobot
    import torch

    torch.set_num_threads(1)
    policies = {name: build(given, *sampler) for name, sampler in given.samplers.items()}
    first = next(iter(policies.values()))
    parameters = sum(parameter.numel() for parameter in first.parameters())
    about = {
        "parameters": parameters, "lerobot": lerobot.__version__, "torch": torch.__version__
    }  # fmt: skip
    print(json.dumps(about), file=answers, flush=True)
    for line in sys.stdin:
        asked = json.loads(line)
        seconds = [chunk_s(policies[asked["sampler"]], given) for _ in range(asked["chunks"])]
        print(json.dumps(seconds), file=answers, flush=True)


def build(given: Policies, kind: str, steps: int) -> Any:
    """LeRobot's policy, as its configuration makes it."""
    import torch
    from lerobot.configs.types import FeatureType, PolicyFeature
    from lerobot.policies.diffusion.configuration_diffusion import DiffusionConfig
    from lerobot.policies.diffusion.modeling_diffusion import DiffusionPolicy

    torch.manual_seed(given.seed)
    config = DiffusionConfig(
        n_obs_steps=given.observation_steps, horizon=given.prediction_steps,
        n_action_steps=given.execution_steps, device="cpu",
        input_features={
            "observation.state": PolicyFeature(FeatureType.STATE, (given.state,)),
            "observation.environment_state": PolicyFeature(FeatureType.ENV, (given.environment,)),
        },
        output_features={"action": PolicyFeature(FeatureType.ACTION, (given.action,))},
        down_dims=tuple(given.widths), diffusion_step_embed_dim=given.widths[0],
        noise_scheduler_type=kind, num_inference_steps=steps,
    )  # fmt: skip
    return DiffusionPolicy(config).eval()


def chunk_s(policy: Any, given: Policies) -> tuple[float, float]:
    """Wall and CPU seconds of the call that makes a chunk; those that play it are not timed."""
    import torch

    seen = {
        "observation.state": torch.randn(1, given.state),
        "observation.environment_state": torch.randn(1, given.environment),
    }
    with torch.inference_mode():
        started, spent = time.perf_counter(), time.process_time()
        policy.select_action(seen)
        seconds = time.perf_counter() - started, time.process_time() - spent
        for _ in range(given.execution_steps - 1):
            policy.select_action(seen)
    return seconds


if __name__ == "__main__":
    main(Policies(**json.loads(sys.argv[1])))
