"""What policies that predict chunks cost: onboard, in export and in training.

parity   ONNX Runtime against torch: every family and sampler, with shortly trained weights
latency  time of a chunk onboard, batch 1, at the zoo's size and at a larger one
memory   peak resident memory of a process that loads a bundle and runs it
export   time from a network to its bundle
steps    CPU time of a step of training; an energy's gradient by hand and by autograd
peer     time of a chunk against LeRobot's DiffusionPolicy, for which see lerobot_peer.py
all      all of these

    OMP_NUM_THREADS=1 taskset -c 1 python benchmarks/imitation_latency.py latency

One thread. What is timed takes turns in random order, block by block; the weights are random but
for parity, and time does not depend on them. A busy machine interrupts long calls, and seldom
short ones: ratios are therefore of CPU time. Medians are of wall time, and say too much where the
share of it that was spent on the CPU, printed beside, is much below 100 %. Brackets are 95 %
intervals of medians and of their ratios, by bootstrap over blocks, paired by block. Exit code 1
when a goal is missed, 2 where something to measure is missing.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnxruntime as ort
import torch
import tyro
from lerobot_peer import Policies, serve
from torch import Tensor

from robot_policies.bundle import PolicyBundle
from robot_policies.contract import Action, Contract, Observation, Robot, Timing
from robot_policies.export import export, record_random, to_graphs
from robot_policies.graph import Source, provenance, stamp
from robot_policies.models.chunk import ChunkPolicy
from robot_policies.models.energy import EnergyPolicy
from robot_policies.models.families import build
from robot_policies.models.trunk import Sizes
from robot_policies.runtime import OnnxPolicy
from robot_policies.strict import ContractError, InputError, Violation
from robot_policies.tables import text_table
from sim.estimate import Estimate
from sim.imitation import contract_of
from sim.tasks.scene import Interface

PARITY_GOAL = 1e-5
RATIO_GOAL, CHUNK_GOAL_MS = 18.0, {"zoo": 3.0, "large": 5.5}
MEMORY_GOAL_MB, EXPORT_GOAL_S, PEER_GOAL = 150.0, 60.0, 4.0
BOOTSTRAPS = 1000

Size = Literal["zoo", "large", "wide"]
SIZES: dict[str, Sizes] = {
    "zoo": Sizes(2, 21, 12, 4, width=96, layers=2),
    "large": Sizes(2, 39, 16, 7, width=128, layers=4),
    "wide": Sizes(2, 39, 16, 7, width=256, layers=4),
}
UNETS: dict[str, Sizes] = {
    "zoo": Sizes(2, 21, 12, 4, width=16, layers=3),
    "large": Sizes(2, 39, 16, 7, width=24, layers=3),
    "wide": Sizes(2, 39, 16, 7, width=48, layers=3),
}
"""Of about as many parameters as the transformer of that size."""
EXECUTED = 4
KINDS: dict[str, tuple[str, dict[str, str]]] = {
    "energy": ("energy", {}),
    "diffusion": ("diffusion", {}),
    "U-Net": ("diffusion", {"backbone": "unet"}),
    "flow": ("flow", {}),
    "cloning": ("cloning", {}),
}
"""Family, and what else it is made of."""
SAMPLERS: dict[str, tuple[str | None, ...]] = {
    "energy": ("two-steps", "four-steps", "scored"),
    "diffusion": ("ddpm-100", "ddim-10", "ddim-5"),
    "U-Net": ("ddim-10",),
    "flow": ("flow-1", "flow-2", "flow-4"),
    "cloning": (None,),
}
ENERGY, DDPM = "energy two-steps", "diffusion ddpm-100"

Timed = Callable[[int], Sequence[Sequence[float]]]
"""Makes so many calls, and tells the seconds of each: by the clock, and on the CPU."""


@dataclass(frozen=True)
class Parity:
    """ONNX Runtime against torch."""

    seed: int = 0
    size: Size = "zoo"
    steps: int = 300
    """Of training, on smooth made-up chunks: descent is to converge as it does in use."""
    draws: int = 25
    """Of observations and noise, for each sampler and batch."""


@dataclass(frozen=True)
class Latency:
    """Time of a chunk onboard."""

    seed: int = 0
    sizes: tuple[Size, ...] = ("large", "zoo")
    blocks: int = 100
    calls: int = 10
    """Chunks in a block."""


@dataclass(frozen=True)
class Memory:
    """Peak resident memory."""

    seed: int = 0
    size: Size = "zoo"
    chunks: int = 1000
    processes: int = 5


@dataclass(frozen=True)
class Export:
    """Time from a network to its bundle, which has replayed its golden run."""

    seed: int = 0
    sizes: tuple[Size, ...] = ("zoo", "large")
    repeats: int = 3


@dataclass(frozen=True)
class Steps:
    """CPU time of a step of training."""

    seed: int = 0
    size: Size = "zoo"
    batch: int = 64
    blocks: int = 30
    calls: int = 5
    """Steps in a block."""


@dataclass(frozen=True)
class Peer:
    """LeRobot's DiffusionPolicy against this project's policies, of as many parameters."""

    seed: int = 0
    lerobot_python: Path | None = None
    """A Python with lerobot 0.4.4; the environment's LEROBOT_PYTHON where omitted."""
    sizes: tuple[Literal["large", "wide"], ...] = ("large", "wide")
    """Not the zoo's: LeRobot's U-Net of three levels wants Tp to be a multiple of eight."""
    blocks: int = 30
    calls: int = 3
    """Chunks in a block."""


@dataclass(frozen=True)
class All:
    """All of these, as they are unless asked otherwise."""

    seed: int = 0
    lerobot_python: Path | None = None


def main(options: Any) -> int:
    """Print the tables; 1 where a goal is missed."""
    torch.set_num_threads(1)
    load = os.getloadavg()[0]
    print(
        f"seed {options.seed}, one thread, torch {torch.__version__}, onnxruntime "
        f"{ort.__version__}, load average {load:.2f} at the start",
        flush=True,
    )
    return 0 if all([*MEASURED[type(options)](options)]) else 1


def everything(options: All) -> Iterator[bool]:
    for part in (Parity, Latency, Memory, Export, Steps):
        yield from MEASURED[part](part(options.seed))
    yield from peer(Peer(options.seed, options.lerobot_python))


# Parity.


def parity(options: Parity) -> Iterator[bool]:
    rows, worst, same = [], 0.0, True
    for kind in KINDS:
        policy = new_policy(kind, options.size, options.seed)
        take = learn(policy, options)
        bundle = in_memory(kind, policy)
        for sampler in policy.samplers() or (None,):
            name = None if sampler is None else sampler.name
            cells = [kind, name or "direct"]
            for batch in (1, 3, 8):
                pairs = [both(policy, OnnxPolicy(bundle, name), take(batch)[0], draw)
                         for draw in range(options.draws)]  # fmt: skip
                difference = max(found for found, _, _ in pairs)
                mine, onboard = (np.concatenate([p[n] for p in pairs]) for n in (1, 2))
                cells += [f"{difference:.1e}", stops(mine, onboard)]
                worst, same = max(worst, difference), same and bool((mine == onboard).all())
            rows.append(cells)
    columns = ["kind", "sampler"]
    columns += [text for b in (1, 3, 8) for text in (f"batch {b}", "steps taken; same as torch")]
    print(
        f"\nparity, {options.size} size, after {options.steps} steps of training: largest "
        f"difference of the normalised action in {options.draws} chunks of a batch"
    )
    print(text_table(columns, rows))
    yield verdict(worst <= PARITY_GOAL, f"largest {worst:.1e}, goal {PARITY_GOAL:g}")
    yield verdict(same, "every robot takes as many steps as in torch")


def both(
    policy: ChunkPolicy, onboard: OnnxPolicy, observation: Tensor, seed: int
) -> tuple[float, np.ndarray, np.ndarray]:
    """Largest difference, normalised, and the steps [B] that either took."""
    onboard.reset(len(observation), seed=seed)
    for step in observation.unbind(1):
        onboard.step({"state": step.numpy()})
    if onboard.sampler is None:
        with torch.no_grad():
            action = policy(observation)[0]
        taken = told = np.zeros(len(observation), np.int64)
    else:
        noise = [torch.from_numpy(value) for value in onboard._noise.values()]
        chunk = policy.generate(observation, onboard.sampler, noise)
        action, taken, told = chunk.action, chunk.iterations.numpy(), onboard.last.iterations
        assert told is not None
    difference = (torch.from_numpy(onboard.last.raw_action) - action) / policy.action_scale
    return difference.abs().max().item(), taken, told


def stops(mine: np.ndarray, onboard: np.ndarray) -> str:
    return f"{onboard.min()}..{onboard.max()}; {(mine == onboard).sum()} of {mine.size}"


def learn(policy: ChunkPolicy, options: Parity) -> Callable[[int], tuple[Tensor, Tensor]]:
    """Train for a while; returns what draws observations [B, To, Do] and chunks [B, Tp, Da]."""
    sizes, generator = policy.sizes, torch.Generator().manual_seed(options.seed)
    seen_by = torch.randn(4, sizes.observation_size, generator=generator)
    done_by = torch.randn(4, sizes.action_size, generator=generator)
    before = torch.arange(1.0 - sizes.observation_steps, 1.0)[:, None]
    ahead = torch.arange(float(sizes.prediction_steps))[:, None]

    def take(batch: int) -> tuple[Tensor, Tensor]:
        latent = torch.randn(batch, 1, 4, generator=generator)
        actions = 0.5 + 2.0 * (latent @ done_by + 0.3 * ahead).sin()
        return latent @ seen_by + 0.3 * before, actions

    observation, actions = (x.flatten(0, 1) for x in take(4096))
    policy.normalise_by(observation, actions)
    valid = torch.ones(128, sizes.prediction_steps)
    train = training_step(policy, lambda: (*take(128), valid))
    for _ in range(options.steps):
        train()
    policy.eval()
    return take


# Onboard.


def latency(options: Latency) -> Iterator[bool]:
    for size in options.sizes:
        contenders, parameters = {}, {}
        for kind, samplers in SAMPLERS.items():
            policy = new_policy(kind, size, options.seed)
            bundle = in_memory(kind, policy)
            for sampler in samplers:
                name = f"{kind} {sampler or 'direct'}"
                contenders[name] = onboard_chunk(bundle, sampler, options.seed)
                parameters[name] = count(policy)
        times, cpu = measure(contenders, options.blocks, options.calls, options.seed)
        print(f"\nlatency, {size} size {SIZES[size]}, U-Net {UNETS[size].width} wide: ms a chunk")
        print(latency_table(times, cpu, parameters, (ENERGY,)))
        if size in CHUNK_GOAL_MS:
            found, goal = median(times[ENERGY]), CHUNK_GOAL_MS[size]
            yield verdict(found.value <= goal, f"{ENERGY}: {found} ms, goal {goal:g} ms")
        share = ratio(cpu[DDPM], cpu[ENERGY])
        if size == "large":
            met = share.value >= RATIO_GOAL
            yield verdict(met, f"{DDPM} / {ENERGY}: {share}, goal {RATIO_GOAL:g}")


def onboard_chunk(bundle: PolicyBundle, sampler: str | None, seed: int) -> Timed:
    policy, generator = OnnxPolicy(bundle, sampler), np.random.default_rng(seed)
    shape = (64, 1, bundle.contract.observation_size)
    signals = [{"state": x} for x in generator.standard_normal(shape, dtype=np.float32)]
    calls = iter(range(sys.maxsize))
    return timed(lambda: policy.step(signals[next(calls) % len(signals)]))


# VmHWM and not getrusage, whose figure a child inherits from the process that started it.
PEAK = """
for line in open("/proc/self/status"):
    if line.startswith("VmHWM"):
        print(int(line.split()[1]) / 1024)
"""
BARE = "import numpy, onnxruntime\n" + PEAK
LOADED = """
import sys
import numpy as np
from robot_policies import load_policy
policy = load_policy(sys.argv[1])
generator = np.random.default_rng(int(sys.argv[3]))
for _ in range(int(sys.argv[2])):
    shape = (1, policy.contract.observation_size)
    policy.step({"state": generator.standard_normal(shape, dtype=np.float32)})
"""


def memory(options: Memory) -> Iterator[bool]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "bundle"
        write("energy", new_policy("energy", options.size, options.seed), path)
        arguments = [str(path), str(options.chunks), str(options.seed)]
        peaks = {
            name: [peak_mb(code, arguments) for _ in range(options.processes)]
            for name, code in (
                ("import numpy, onnxruntime", BARE),
                (f"load_policy and {options.chunks} chunks of energy", LOADED + PEAK),
            )
        }
    print(f"\nmemory, {options.size} size: peak resident MB of {options.processes} processes each")
    print(text_table(["process", "median and range"], [[n, spread(x)] for n, x in peaks.items()]))
    *_, loaded = peaks.values()
    yield verdict(max(loaded) <= MEMORY_GOAL_MB, f"{max(loaded):.0f}, goal {MEMORY_GOAL_MB:g} MB")


def peak_mb(code: str, arguments: Sequence[str]) -> float:
    command = [sys.executable, "-c", code, *arguments]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return float(done.stdout)


# Export and training.


def export_time(options: Export) -> Iterator[bool]:
    rows, longest, refused = [], 0.0, []
    for size in options.sizes:
        for kind in KINDS:
            policy = new_policy(kind, size, options.seed)
            seconds = []
            for _ in range(options.repeats):
                with tempfile.TemporaryDirectory() as folder:
                    started = time.perf_counter()
                    try:
                        write(kind, policy, Path(folder) / "bundle")
                    except ContractError as error:  # which comes last, when all was exported
                        refused.append(f"{size} {kind}: {error}")
                    seconds.append(time.perf_counter() - started)
            rows.append([size, kind, f"{count(policy):,}", spread(seconds)])
            longest = max(longest, *seconds)
    print(f"\nexport, bundle written and replayed: s, of {options.repeats} each")
    print(text_table(["size", "kind", "parameters", "median and range"], rows))
    told = "".join(f"\n       {text}" for text in dict.fromkeys(refused))
    yield verdict(not refused, f"every bundle replays its golden run{told}")
    yield verdict(longest <= EXPORT_GOAL_S, f"longest {longest:.1f}, goal {EXPORT_GOAL_S:g} s")


class AutogradEnergy(EnergyPolicy):
    """The same energy; its gradient by autograd, through which training differentiates again."""

    def energy(self, context: Tensor, sample: Tensor) -> tuple[Tensor, Tensor]:
        """The energy [B] and its gradient [B, Tp, Da]."""
        sample = sample.detach().requires_grad_()
        output = self.trunk(sample, context)
        energy = (sample * (0.5 * sample - output)).flatten(1).sum(1)
        return energy, torch.autograd.grad(energy.sum(), sample, create_graph=True)[0]


BY_HAND, BY_AUTOGRAD = "energy, by hand", "energy, by autograd"


def steps(options: Steps) -> Iterator[bool]:
    sizes = SIZES[options.size]
    policies: dict[str, ChunkPolicy] = {BY_HAND: new_policy("energy", options.size, options.seed)}
    torch.manual_seed(options.seed)
    policies[BY_AUTOGRAD] = AutogradEnergy(sizes, EXECUTED)
    for kind in KINDS:
        if kind != "energy":
            policies[kind] = new_policy(kind, options.size, options.seed)
    observation = torch.randn(options.batch, sizes.observation_steps, sizes.observation_size)
    actions = torch.rand(options.batch, sizes.prediction_steps, sizes.action_size)
    batch = (observation, actions, torch.ones(actions.shape[:2]))
    losses = []
    for name in (BY_HAND, BY_AUTOGRAD):
        torch.manual_seed(options.seed)
        losses.append(policies[name].loss(*batch).item())
    contenders = {
        name: timed(training_step(policy, lambda: batch)) for name, policy in policies.items()
    }
    _, cpu = measure(contenders, options.blocks, options.calls, options.seed)
    print(f"\nsteps, {options.size} size, batch {options.batch}: CPU ms of a step of training")
    parameters = {name: count(policy) for name, policy in policies.items()}
    print(latency_table(cpu, cpu, parameters, (BY_HAND,)))
    share = ratio(cpu[BY_AUTOGRAD], cpu[BY_HAND])
    faster = "by hand" if share.value > 1 else "by autograd"
    print(f"by autograd / by hand: {share}: training is faster {faster}")
    yield verdict(bool(np.isclose(*losses, rtol=1e-4)), f"the same loss: {losses}")


def training_step(
    policy: ChunkPolicy, take: Callable[[], tuple[Tensor, Tensor, Tensor]]
) -> Callable[[], None]:
    """Loss, gradients, their norm and AdamW, as sim.imitation does it."""
    optimiser = torch.optim.AdamW(
        policy.train().parameters(), lr=1e-3, betas=(0.9, 0.99), fused=True
    )

    def step() -> None:
        optimiser.zero_grad()
        policy.loss(*take()).backward()
        torch.nn.utils.clip_grad_norm_(policy.parameters(), 1.0)
        optimiser.step()

    return step


# LeRobot.

STATE = 4
"""Numbers of the robot itself, in Meta-World; the rest is the environment's."""


def peer(options: Peer) -> Iterator[bool]:
    python = options.lerobot_python or os.environ.get("LEROBOT_PYTHON")
    if python is None:
        mend = "install lerobot 0.4.4 into an environment of its own, and name its Python"
        raise InputError([Violation("--lerobot-python", "a Python with lerobot", "none", mend)])
    for size in options.sizes:
        given = lerobots(size, options.seed)
        with serve(python, given) as (about, ask):
            contenders: dict[str, Timed] = {
                f"LeRobot {name}": partial(ask, name) for name in given.samplers
            }
            theirs = tuple(contenders)
            parameters = dict.fromkeys(theirs, int(about["parameters"]))
            for kind, samplers in (
                ("U-Net", ("ddpm-100", "ddim-10")),
                ("diffusion", ("ddpm-100", "ddim-10")),
                ("energy", ("two-steps",)),
            ):
                policy = new_policy(kind, size, options.seed)
                bundle = in_memory(kind, policy)
                for sampler in samplers:
                    name = f"{kind} {sampler}"
                    contenders[name] = onboard_chunk(bundle, sampler, options.seed)
                    parameters[name] = count(policy)
            times, cpu = measure(contenders, options.blocks, options.calls, options.seed)
        print(
            f"\npeer, {size} size, U-Nets {given.widths} wide: ms a chunk; "
            f"LeRobot {about['lerobot']}, eager torch {about['torch']}"
        )
        print(latency_table(times, cpu, parameters, theirs))
        yield from peer_verdicts(cpu, theirs)


def peer_verdicts(cpu: Mapping[str, np.ndarray], theirs: Sequence[str]) -> Iterator[bool]:
    """Ours against LeRobot's with as many steps; energy against both."""
    for ours in cpu:
        for other in theirs:
            if ours not in theirs and ours.split()[-1] in (other.split()[-1], "two-steps"):
                share = ratio(cpu[other], cpu[ours])
                met = share.value >= PEER_GOAL
                yield verdict(met, f"{other} / {ours}: {share}, goal {PEER_GOAL:g}")


def lerobots(size: Size, seed: int) -> Policies:
    """LeRobot's policy of the same sizes as our U-Net."""
    sizes = UNETS[size]
    return Policies(
        sizes.observation_steps,
        sizes.prediction_steps,
        EXECUTED,
        state=STATE,
        environment=sizes.observation_size - STATE,
        action=sizes.action_size,
        widths=tuple(sizes.width * 2**level for level in range(sizes.layers)),
        samplers={"ddpm-100": ("DDPM", 100), "ddim-10": ("DDIM", 10)},
        seed=seed,
    )


# Policies to measure.


def new_policy(kind: str, size: Size, seed: int) -> ChunkPolicy:
    """With random weights."""
    torch.manual_seed(seed)
    family, others = KINDS[kind]
    sizes = (UNETS if kind == "U-Net" else SIZES)[size]
    policy = build(family, {"sizes": vars(sizes), "execution_steps": EXECUTED, **others})
    assert isinstance(policy, ChunkPolicy)
    return policy.eval()


def contract_for(kind: str, policy: ChunkPolicy) -> Contract:
    """Of a robot that does not exist."""
    seen = tuple(f"s{n}" for n in range(policy.sizes.observation_size))
    motors = tuple(f"m{n}" for n in range(policy.sizes.action_size))
    far, ones = (100.0,) * len(motors), (1.0,) * len(motors)
    interface = Interface(
        Robot("none", (), motors),
        (Observation("state", "robot", (len(seen),), "1", "none", seen, 1, None),),
        (Action("push", (len(motors),), "1", "none", motors, ones, (0.0,) * len(motors),
                tuple(-x for x in far), far, "absolute"),),
        None, Timing(20.0, 0.1, 0.05),
    )  # fmt: skip
    origin = provenance("a benchmark", "MIT", (0,), "")
    return contract_of(policy, interface, KINDS[kind][0], "benchmark", origin)


def in_memory(kind: str, policy: ChunkPolicy) -> PolicyBundle:
    contract = contract_for(kind, policy)
    graphs = to_graphs(policy, contract)
    content = {file: stamp(graph, contract) for file, graph in graphs.items()}
    return PolicyBundle(Path(), contract, {}, content)


def write(kind: str, policy: ChunkPolicy, path: Path) -> None:
    contract = contract_for(kind, policy)
    export(policy, contract, record_random(policy, contract, 0), Source({}, "a benchmark"), path)


def count(policy: ChunkPolicy) -> int:
    return sum(parameter.numel() for parameter in policy.parameters())


# What all measure with, and print.


def timed(call: Callable[[], object]) -> Timed:
    def several(calls: int) -> list[tuple[float, float]]:
        seconds = []
        for _ in range(calls):
            started, spent = time.perf_counter(), time.process_time()
            call()
            seconds.append((time.perf_counter() - started, time.process_time() - spent))
        return seconds

    return several


def measure(
    contenders: Mapping[str, Timed], blocks: int, calls: int, seed: int
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Milliseconds [blocks, calls] by contender, after a block that warms up: wall, and CPU."""
    generator = np.random.default_rng(seed)
    found: dict[str, list[Sequence[Sequence[float]]]] = {name: [] for name in contenders}
    for block in range(blocks + 1):
        for name in generator.permutation(list(contenders)):
            seconds = contenders[name](calls)
            if block:
                found[name].append(seconds)
    both = {name: 1e3 * np.array(seconds) for name, seconds in found.items()}
    return {n: x[..., 0] for n, x in both.items()}, {n: x[..., 1] for n, x in both.items()}


def median(times: np.ndarray) -> Estimate:
    return bootstrap(np.median, times)


def ratio(above: np.ndarray, below: np.ndarray) -> Estimate:
    return bootstrap(lambda a, b: np.median(a) / np.median(b), above, below)


def bootstrap(statistic: Callable[..., Any], *times: np.ndarray) -> Estimate:
    """Over blocks: the same draw for all."""
    blocks = len(times[0])
    drawn = np.random.default_rng(0).integers(blocks, size=(BOOTSTRAPS, blocks))
    values = [statistic(*(t[rows] for t in times)) for rows in drawn]
    low, high = np.quantile(values, [0.025, 0.975])
    return Estimate(float(statistic(*times)), float(low), float(high))


def latency_table(
    times: Mapping[str, np.ndarray], cpu: Mapping[str, np.ndarray],
    parameters: Mapping[str, int], yardsticks: Sequence[str],
) -> str:  # fmt: skip
    columns = ["", "parameters", "n", "median", "p99", "on the CPU"]
    columns += [f"in times of {name}" for name in yardsticks]
    rows = [
        [name, f"{parameters[name]:,}", str(wall.size), str(median(wall)),
         f"{np.quantile(wall, 0.99):.4g}", f"{cpu[name].sum() / wall.sum():.0%}",
         *(str(ratio(cpu[name], cpu[other])) for other in yardsticks)]
        for name, wall in times.items()
    ]  # fmt: skip
    return text_table(columns, rows)


def spread(values: Sequence[float]) -> str:
    return f"{np.median(values):.3g} [{min(values):.3g}, {max(values):.3g}]"


def verdict(met: bool, text: str) -> bool:
    print(f"{'met   ' if met else 'MISSED'} {text}", flush=True)
    return met


MEASURED: dict[type, Callable[[Any], Iterator[bool]]] = {
    Parity: parity, Latency: latency, Memory: memory, Export: export_time, Steps: steps,
    Peer: peer, All: everything,
}  # fmt: skip

if __name__ == "__main__":
    commands = {kind.__name__.lower(): kind for kind in MEASURED}
    try:
        sys.exit(main(tyro.extras.subcommand_cli_from_dict(commands, description=__doc__)))
    except (InputError, ConnectionError) as error:
        print(f"imitation_latency: {error}", file=sys.stderr)
        sys.exit(2)
