"""What a step of a policy costs: OnnxPolicy.step against the bare ONNX Runtime call.

Batch 1, one thread, the same graph and the same recorded inputs. The contenders take turns in
random order, block by block, so that a busy machine hits all of them alike:

    step             named signals in, named commands out: checks, limits, state and all
    session.run      the bare call with a dictionary that was made before (the yardstick)
    run_with_iobinding   the bare call with bound buffers
    authors' numpy   foundation_policy.Raptor.evaluate_step, where it is installed

    OMP_NUM_THREADS=1 python benchmarks/step_latency.py

Exit code 1 where a goal is missed, 2 where there is no bundle to measure.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import onnxruntime as ort
import tyro

from robot_policies import load_policy
from robot_policies.bundle import GRAPH, PolicyBundle, read
from robot_policies.sessions import open_graph
from robot_policies.strict import ContractError
from robot_policies.verify import recorded_signals

MEDIAN_GOAL_S = 20e-6
RATIO_GOAL = 1.5
YARDSTICK = "session.run"


@dataclass(frozen=True)
class Options:
    """Which bundle, and how often."""

    bundle: str = "zoo:raptor"
    """A path or zoo:NAME."""
    blocks: int = 100
    """Turns of every contender."""
    steps: int = 500
    """Steps in a block."""
    seed: int = 0


def main(options: Options) -> int:
    bundle = read(options.bundle)
    contenders = {
        "step": policy_step(options.bundle, bundle),
        YARDSTICK: bare_run(bundle),
        "run_with_iobinding": bare_binding(bundle),
    }
    if bundle.contract.name == "raptor":
        contenders |= authors_step(bundle)
    times = measure(contenders, options)
    load = os.getloadavg()[0]
    print(f"{options.bundle}: batch 1, one thread, {options.blocks} blocks of {options.steps}")
    print(f"seed {options.seed}, onnxruntime {ort.__version__}, load average {load:.2f}")
    print(f"{'':20}{'median':>10}{'p99':>10}   median / {YARDSTICK} [95 % interval]")
    ratios = {
        name: ratio(seconds, times[YARDSTICK], options.seed) for name, seconds in times.items()
    }
    for name, seconds in times.items():
        median, p99 = np.quantile(seconds, [0.5, 0.99]) * 1e6
        value, low, high = ratios[name]
        print(f"{name:20}{median:7.1f} us{p99:7.1f} us   {value:.2f} [{low:.2f}, {high:.2f}]")
    passed = np.median(times["step"]) <= MEDIAN_GOAL_S and ratios["step"][0] <= RATIO_GOAL
    print(
        f"goals: step <= {MEDIAN_GOAL_S * 1e6:g} us and <= {RATIO_GOAL:g}x {YARDSTICK}: ", end=""
    )
    print("pass" if passed else "FAIL")
    return 0 if passed else 1


def policy_step(name: str, bundle: PolicyBundle) -> Callable[[int], object]:
    policy = load_policy(name)
    signals = recorded_signals(bundle.contract, bundle.golden, batch=1)
    return lambda index: policy.step(signals[index % len(signals)])


def bare_run(bundle: PolicyBundle) -> Callable[[int], object]:
    session, feeds = open_graph(bundle.content[GRAPH], bundle.contract), prepared(bundle)
    outputs = [port.name for port in session.get_outputs()]
    return lambda index: session.run(outputs, feeds[index % len(feeds)])


def bare_binding(bundle: PolicyBundle) -> Callable[[int], object]:
    session, (feed, *_) = open_graph(bundle.content[GRAPH], bundle.contract), prepared(bundle)
    binding = session.io_binding()
    results = session.run(None, feed)
    for name, array in feed.items():
        binding.bind_input(name, "cpu", 0, np.float32, array.shape, array.ctypes.data)
    for port, array in zip(session.get_outputs(), results, strict=True):
        binding.bind_output(port.name, "cpu", 0, np.float32, array.shape, array.ctypes.data)
    kept = (feed, results)  # the session reads and writes them

    def call(index: int) -> object:
        session.run_with_iobinding(binding)
        return kept

    return call


def authors_step(bundle: PolicyBundle) -> dict[str, Callable[[int], object]]:
    try:
        from foundation_policy import Raptor
    except ImportError:
        return {}
    policy = Raptor()
    policy.reset()
    vectors = [feed["observation"][:, 0] for feed in prepared(bundle)]
    return {"authors' numpy": lambda index: policy.evaluate_step(vectors[index % len(vectors)])}


def prepared(bundle: PolicyBundle) -> list[dict[str, np.ndarray]]:
    """The recorded inputs of one robot, as the graph takes them."""
    golden = bundle.golden
    states = {
        state.name: np.asarray(state.initial, np.float32).reshape(1, *state.shape)
        for state in bundle.contract.state
    }
    return [
        {"observation": vector[:1], **states}
        | {name: np.ascontiguousarray(noise[index, :1]) for name, noise in golden.noise.items()}
        for index, vector in enumerate(np.ascontiguousarray(golden.observation))
    ]


def measure(
    contenders: dict[str, Callable[[int], object]], options: Options
) -> dict[str, np.ndarray]:
    """Seconds of every call, [blocks, steps], by contender."""
    clock, generator = time.perf_counter, np.random.default_rng(options.seed)
    times = {name: np.empty((options.blocks, options.steps)) for name in contenders}
    for call in contenders.values():
        for index in range(1000):
            call(index)
    for block in range(options.blocks):
        for name in generator.permutation(list(contenders)):
            call, seconds = contenders[name], times[name][block]
            for index in range(options.steps):
                started = clock()
                call(index)
                seconds[index] = clock() - started
    return times


def ratio(seconds: np.ndarray, yardstick: np.ndarray, seed: int) -> tuple[float, float, float]:
    """Ratio of medians, with a 95 % bootstrap interval over blocks, paired by block."""
    above, below = np.median(seconds, axis=1), np.median(yardstick, axis=1)
    generator = np.random.default_rng(seed)
    drawn = generator.integers(0, len(above), (2000, len(above)))
    resampled = np.median(above[drawn], axis=1) / np.median(below[drawn], axis=1)
    low, high = np.quantile(resampled, [0.025, 0.975])
    return float(np.median(seconds) / np.median(yardstick)), float(low), float(high)


if __name__ == "__main__":
    try:
        sys.exit(main(tyro.cli(Options, description=__doc__)))
    except (ContractError, OSError) as error:
        print(f"step_latency: {error}", file=sys.stderr)
        sys.exit(2)
