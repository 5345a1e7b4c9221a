"""Measure what ranking and watching cost.

detector   a step of a policy with 64 features, with the detector in its graph and without it, in
           turns; and an update of the monitor with both channels
logic      a specification on 1,024 traces of 500 samples, and sample by sample; rtamt on as much
rank       the command `robot-policies rank` with bundles whose simulation is cached, such as those
           of benchmarks/ranking.py

    python benchmarks/ranking_cost.py rank --bundles runs/ranking/arm/sweep/runs/*/bundle

Exit code 1 when a goal is missed.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import tyro
from numpy.typing import NDArray

from robot_policies import bundle as bundles
from robot_policies.calibration import calibrate
from robot_policies.monitor import Monitor
from robot_policies.runtime import OnnxPolicy
from robot_policies.temporal_logic import parse
from robot_policies.verify import recorded_signals
from sim import ranking
from sim.randomization_terms import Spec
from sim.reinforcement import Network, Optimisation, ReinforcementConfig, train_bundle

SPECIFICATION = (
    "always (tilt < 0.6 rad scale 1 rad) and "
    "eventually[0, 5 s](always[0, 1 s](position_error < 0.1 m scale 1 m))"
)
UNITS = {"tilt": "rad", "position_error": "m"}
DT = 0.01


@dataclass(frozen=True)
class Detector:
    """The detector in the graph."""

    blocks: int = 200
    """Turns of each."""
    steps: int = 200
    """In a turn."""
    seed: int = 0


@dataclass(frozen=True)
class Logic:
    """Signal temporal logic."""

    traces: int = 1024
    samples: int = 500
    repeats: int = 100
    seed: int = 0


@dataclass(frozen=True)
class Rank:
    """The command, on cached simulation."""

    bundles: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    samples: int = 2000
    bootstraps: int = 1000
    seed: int = 0


def main(options: Detector | Logic | Rank) -> int:
    """Print what was measured and whether it is enough."""
    measure = {Detector: detector, Logic: logic, Rank: rank}[type(options)]
    return 0 if measure(options) else 1


def goal(text: str, found: float, most: float) -> bool:
    """A line that says whether it was met."""
    print(f"{'met   ' if found <= most else 'missed'} {text}: {found:.3g} <= {most:g}")
    return found <= most


def quantiles(seconds: NDArray[np.float64], scale: float) -> str:
    """Median, and the 5th and 95th percentile."""
    low, middle, high = np.quantile(seconds, [0.05, 0.5, 0.95]) * scale
    return f"{middle:.2f} [{low:.2f}, {high:.2f}]"


def in_turns(
    contenders: Mapping[str, Callable[[int], object]], blocks: int, steps: int, seed: int
) -> dict[str, NDArray[np.float64]]:
    """Seconds of a call, a mean for each block; who is next in a round is drawn."""
    generator = np.random.default_rng(seed)
    found: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(blocks):
        for name in generator.permutation(list(contenders)):
            call = contenders[name]
            began = time.perf_counter()
            for step in range(steps):
                call(step)
            found[name].append((time.perf_counter() - began) / steps)
    return {name: np.array(seconds) for name, seconds in found.items()}


# The detector.


def detector(options: Detector) -> bool:
    """Against the same graph without it."""
    with tempfile.TemporaryDirectory() as temporary:
        plain, watched = policies(Path(temporary), options.seed)
    contenders: dict[str, Callable[[int], object]] = {}
    for name, bundle in (("without", plain), ("with", watched)):
        contenders |= {f"graph {name}": bare_run(bundle), f"step {name}": policy_step(bundle)}
    contenders["monitor"] = monitor_update(watched)
    found = in_turns(contenders, options.blocks, options.steps, options.seed)
    print(f"batch 1, one thread, {options.blocks} blocks of {options.steps}; median [5 %, 95 %]")
    for name, seconds in found.items():
        print(f"{name:16}{quantiles(seconds, 1e6)} us")
    ratios = {
        kind: float(np.median(found[f"{kind} with"] / found[f"{kind} without"]))
        for kind in ("graph", "step")
    }
    met = [goal(f"{kind} with the detector / without", r, 1.5) for kind, r in ratios.items()]
    return all(met)


def policies(folder: Path, seed: int) -> tuple[bundles.PolicyBundle, bundles.PolicyBundle]:
    """One with 64 features, hardly trained, and the same calibrated."""
    config = ReinforcementConfig(
        seed, "arm-reach", "mujoco", environments=16,
        network=Network(hidden=(128, 64)), ppo=Optimisation(iterations=2),
    )  # fmt: skip
    plain = train_bundle(config, folder / "run", resume=False, threads=1, command="benchmark")
    asked = ranking.Options(
        "arm-reach", "mujoco", seed, behaviour=str(plain.path), reference_episodes=100
    )
    flown = ranking.record(asked, Spec(()))
    watched = calibrate(plain, flown, folder / "calibrated", alpha=0.05, seed=seed)
    return plain, watched


def bare_run(bundle: bundles.PolicyBundle) -> Callable[[int], object]:
    """The graph's session alone."""
    from robot_policies.sessions import open_graph

    session = open_graph(bundle.content[bundles.GRAPH], bundle.contract)
    shapes = {port.name: [d if isinstance(d, int) else 1 for d in port.shape]
              for port in session.get_inputs()}  # fmt: skip
    generator = np.random.default_rng(0)
    feed = {name: generator.normal(size=s).astype(np.float32) for name, s in shapes.items()}
    outputs = [port.name for port in session.get_outputs()]
    return lambda _: session.run(outputs, feed)


def policy_step(bundle: bundles.PolicyBundle) -> Callable[[int], object]:
    """What a robot does."""
    policy = OnnxPolicy(bundle)
    signals = recorded_signals(bundle.contract, bundle.golden, batch=1)
    return lambda step: policy.step(signals[step % len(signals)])


def monitor_update(bundle: bundles.PolicyBundle) -> Callable[[int], object]:
    """Both channels."""
    monitor = Monitor(bundle)
    signals = recorded_signals(bundle.contract, bundle.golden, batch=1)
    command = {a.name: np.zeros(a.shape, np.float32) for a in bundle.contract.action}
    return lambda step: monitor.update(1.0, signals[step % len(signals)], command)


# Signal temporal logic.


def logic(options: Logic) -> bool:
    """Whole traces, and one after the other."""
    import rtamt

    generator = np.random.default_rng(options.seed)
    shape = (options.traces, options.samples)
    trace = {name: generator.random(shape, np.float32) for name in UNITS}
    specification = parse(SPECIFICATION, UNITS, DT)
    monitor = specification.monitor()
    rows = [{name: float(trace[name][0, i]) for name in UNITS} for i in range(options.samples)]
    theirs = rtamt.StlDiscreteTimeSpecification()
    for name in UNITS:
        theirs.declare_var(name, "float")
    theirs.spec = (
        "(always(tilt < 0.6)) and (eventually[0:500](always[0:100](position_error < 0.1)))"
    )
    theirs.parse()

    def of_rtamt(index: int) -> float:
        columns = {name: values[index].tolist() for name, values in trace.items()}
        time_axis = {"time": list(range(options.samples))}
        return theirs.evaluate(time_axis | columns)[0][1]

    batch = in_turns(
        {"verdicts": lambda _: specification.robustness(trace, 1)}, options.repeats, 1, 0
    )["verdicts"]  # fmt: skip
    online = in_turns({"online": lambda i: monitor.update(rows[i])}, 20, options.samples, 0)
    print(f"{options.traces} traces of {options.samples} float32, one thread; median [5 %, 95 %]")
    print(f"verdicts of all  {quantiles(batch, 1e3)} ms")
    print(f"online           {quantiles(online['online'], 1e6)} us a sample")
    began = time.perf_counter()
    some = min(8, options.traces)
    said = np.array([of_rtamt(i) for i in range(some)])
    each = (time.perf_counter() - began) / some
    print(f"rtamt            {each * options.traces:.1f} s for as many")
    apart = float(np.abs(said - specification.robustness(trace, 1)[:some, 0]).max())
    return all([
        goal("from rtamt", apart, 1e-6),
        goal("verdicts, ms", float(np.median(batch)) * 1e3, 5),
        goal("online, us", float(np.median(online["online"])) * 1e6, 10),
    ])  # fmt: skip


# The command.


def rank(options: Rank) -> bool:
    """With real data of the scripted expert; the first call fills the cache."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        real = folder / "real.npz"
        asked = ranking.Options("arm-reach", "mujoco", options.seed + 1, reference_episodes=40)
        recording = ranking.record(asked, Spec(()))
        keep = slice(0, options.samples)
        ranking.Recording(
            {name: values[keep] for name, values in recording.signals.items()},
            {name: values[keep] for name, values in recording.commands.items()},
            recording.time[keep], recording.episodes[keep],
        ).save(real)  # fmt: skip
        call = [
            sys.executable, "-m", "robot_policies.cli", "rank", *options.bundles, "--real",
            str(real), "--task", "arm-reach", "--engine", "mujoco", "--behaviour", "expert",
            "--seed", str(options.seed), "--bootstraps", str(options.bootstraps),
            "--cache", str(folder / "cache"),
        ]  # fmt: skip
        seconds = []
        for number in range(2):
            began = time.perf_counter()
            subprocess.run([*call, "--output", str(folder / f"out{number}")], check=True)
            seconds.append(time.perf_counter() - began)
    print(
        f"{len(options.bundles)} bundles, {options.samples} real samples, {options.bootstraps} "
        f"bootstraps: {seconds[0]:.0f} s with simulation, {seconds[1]:.1f} s with it cached"
    )
    return goal("cached, s", seconds[1], 60)


Command = (
    Annotated[Detector, tyro.conf.subcommand("detector")]
    | Annotated[Logic, tyro.conf.subcommand("logic")]
    | Annotated[Rank, tyro.conf.subcommand("rank")]
)


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Command, description=__doc__)))  # type: ignore[arg-type]
