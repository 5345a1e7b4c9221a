"""Imitation of demonstrations: from a data set to a bundle, in one run folder.

    config = ImitationConfig(seed=0, dataset=Path("data/pick-place"), family="energy")
    bundle = train_bundle(config, Path("runs/energy"), resume=False, threads=1, command="...")

Diffusion, energy, flow and plain cloning share data, network, optimiser and export; only the loss
and the way from noise to a chunk differ (robot_policies/models).
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from robot_policies import datasets
from robot_policies.bundle import PolicyBundle
from robot_policies.contract import (
    FRESH,
    SAMPLE,
    SCHEMA_VERSION,
    Chunk,
    Contract,
    Conventions,
    Noise,
    Provenance,
    Refinement,
)
from robot_policies.datasets import Dataset
from robot_policies.export import export, record_random, save_checkpoint, to_graphs
from robot_policies.graph import Source, model_card, provenance, stamp
from robot_policies.models.chunk import ChunkPolicy
from robot_policies.models.families import build
from robot_policies.models.trunk import Sizes
from robot_policies.runtime import OnnxPolicy
from robot_policies.strict import InputError, Violation, decode, require
from robot_policies.strict_yaml import decode_yaml
from sim.runs import Run, plain
from sim.tasks.scene import Interface

OBSERVATION, ACTION, DISTURBED = "observation.state", "action", "disturbed"
STAGE = "imitation"
CHECKPOINT_S = 30.0
LOG_EVERY = 50
EVALUATION_SEED = 20_000
"""Of the short evaluations: not one that people give."""

Check = tuple[bool, str, str, Any]
"""Whether it holds, of which key, what was expected, what was found."""


@dataclass(frozen=True)
class ImitationConfig:
    """Everything that decides how the policy comes out."""

    seed: int
    dataset: Path
    """A folder that `robot-policies collect` or LeRobot wrote."""
    family: Literal["energy", "diffusion", "flow", "cloning"]
    interface: Path | None = None
    """YAML with what the numbers mean (sim.tasks.scene.Interface), for a data set from elsewhere;
    one of `robot-policies collect` says it itself."""
    objective: Literal["matching", "ebt"] = "matching"
    """Of an energy: matching keeps several modes; ebt is EBT-Policy's published one."""
    backbone: Literal["transformer", "unet"] = "transformer"
    """Of diffusion and flow."""
    observation_steps: int = 2
    """To."""
    prediction_steps: int = 12
    """Tp, a multiple of the patch."""
    execution_steps: int = 4
    """Ta: fewer react sooner, and cost more inferences a second."""
    relative: bool = True
    """Actions of which there is an observation by the same name, such as joint positions, are
    learned relative to it; the bundle's are absolute all the same."""
    patch: int = 4
    """Actions in a token."""
    width: int = 96
    layers: int = 2
    heads: int = 2
    steps: int = 5000
    """Of the optimiser (AdamW)."""
    batch: int = 64
    learning_rate: float = 1e-3
    """After a warm-up it falls along a cosine to a fiftieth."""
    warm_up: int = 100
    weight_decay: float = 1e-4
    clip: float = 1.0
    """Of the gradient's norm."""
    ema: float = 0.998
    """Decay of the averaged weights, which are what is exported."""
    held_out: float = 0.05
    """Share of the episodes that only the validation loss sees."""
    evaluate_every: int = 0
    """Steps between short evaluations in the data set's own task; 0: none."""
    evaluate_episodes: int = 20

    def __post_init__(self) -> None:
        """Refuse what cannot be trained."""
        require("configuration", *self._checks(), *self._combinations())

    def _checks(self) -> Iterator[Check]:
        counts = (
            "observation_steps", "prediction_steps", "execution_steps", "patch", "width", "layers",
            "heads", "steps", "batch", "evaluate_episodes",
        )  # fmt: skip
        for name in counts:
            yield getattr(self, name) >= 1, name, "at least 1", getattr(self, name)
        for name in ("seed", "warm_up", "evaluate_every", "weight_decay"):
            yield getattr(self, name) >= 0, name, "at least 0", getattr(self, name)
        for name in ("learning_rate", "clip"):
            yield getattr(self, name) > 0, name, "above 0", getattr(self, name)
        for name in ("ema", "held_out"):
            value = getattr(self, name)
            yield 0 <= value < 1, name, "at least 0 and below 1", value

    def _combinations(self) -> Iterator[Check]:
        most, found = self.prediction_steps, self.execution_steps
        yield found <= most, "execution_steps", f"at most the {most} predicted ones", found
        if self.patch > 0 and self.heads > 0:
            whole = self.prediction_steps % self.patch == 0
            yield whole, "prediction_steps", f"a multiple of the patch {self.patch}", most
            shared = self.width % self.heads == 0
            yield shared, "width", f"a multiple of the {self.heads} heads", self.width
        plain_objective = self.objective == "matching" or self.family == "energy"
        yield plain_objective, "objective", "matching, where there is no energy", self.objective
        timed = self.backbone == "transformer" or self.family in ("diffusion", "flow")
        yield timed, "backbone", f"transformer, for {self.family}", self.backbone


def configure(
    dataset: Path, family: str, seed: int, file: Path | None, **given: Any
) -> ImitationConfig:
    """The configuration of `file`, or the usual one, with what else is not None.

    Raises InputError, with every violation, for files that hold something else.
    """
    chosen = {key: value for key, value in given.items() if value is not None}
    chosen |= {"seed": seed, "dataset": dataset, "family": family}
    if file is None:
        return ImitationConfig(**chosen)
    return replace(decode_yaml(ImitationConfig, file, "configuration"), **chosen)


# Data.


@dataclass(frozen=True)
class Samples:
    """Windows of demonstrations: what was seen, and the chunk that followed."""

    observation: Tensor
    """[N, Do] all rows, as measured."""
    action: Tensor
    """[N, Da]."""
    seen: Tensor
    """[M, To] rows that a window sees; an episode's first is repeated before it."""
    done: Tensor
    """[M, Tp] rows of its chunk; an episode's last is repeated after it."""
    valid: Tensor
    """[M, Tp] 1 up to the first step in which something else acted in the expert's place, of which
    it could not know; 0 after that."""

    @staticmethod
    def of(dataset: Dataset, episodes: NDArray[np.int64], config: ImitationConfig) -> Samples:
        """All windows of some episodes."""
        back = np.arange(1 - config.observation_steps, 1)
        ahead = np.arange(config.prediction_steps)
        parts = []
        for first, end in zip(dataset.starts[episodes], dataset.starts[episodes + 1], strict=True):
            now = np.arange(first, end)[:, None]
            parts.append(((now + back).clip(min=first), (now + ahead).clip(max=end - 1)))
        seen, done = (np.concatenate(part) for part in zip(*parts, strict=True))
        other = np.zeros(len(dataset.values[ACTION]), bool)
        if DISTURBED in dataset.values:
            other = dataset.values[DISTURBED].reshape(-1)
        before = np.cumsum(other[done], axis=1) - other[done]
        values = dataset.values
        return Samples(
            torch.from_numpy(values[OBSERVATION]), torch.from_numpy(values[ACTION]),
            torch.from_numpy(seen), torch.from_numpy(done), torch.from_numpy(before == 0).float(),
        )  # fmt: skip

    def __len__(self) -> int:
        """M."""
        return len(self.seen)

    def take(self, windows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Observations [B, To, Do], chunks [B, Tp, Da] and which of their steps are valid."""
        observation, action = self.observation[self.seen[windows]], self.action[self.done[windows]]
        return observation, action, self.valid[windows]


def read(config: ImitationConfig) -> tuple[Dataset, Interface]:
    """The data set, and what its numbers mean.

    Raises InputError, with every violation, where either is missing or they do not fit.
    """
    interface = None if config.interface is None else decode_yaml(
        Interface, config.interface, "interface"
    )  # fmt: skip
    found = datasets.read(config.dataset, columns={OBSERVATION: None, ACTION: None})
    interface = interface or _own_interface(found)
    signals = [signal for signal in interface.observation if signal.source == "robot"]
    columns: dict[str, tuple[str, ...] | None] = {
        OBSERVATION: element_names(signals), ACTION: element_names(interface.action)
    }  # fmt: skip
    if any(column.name == DISTURBED for column in datasets.columns_of(config.dataset)):
        columns[DISTURBED] = None
    rate = interface.timing.control_hz
    return datasets.read(config.dataset, columns=columns, fps=rate), interface


def element_names(signals: Any) -> tuple[str, ...]:
    """signal/element of each number, in order: what columns of a data set call them."""
    return tuple(f"{signal.name}/{element}" for signal in signals for element in signal.elements)


def _own_interface(found: Dataset) -> Interface:
    if "interface" not in found.source:
        mend = "describe its numbers in a YAML file, and name that file by --interface"
        raise InputError([Violation(str(found.path), "what its numbers mean", "nothing", mend)])
    violations: list[Violation] = []
    interface = decode(Interface, found.source["interface"], "data set interface", violations)
    if violations:
        raise InputError(violations)
    return interface


def split(dataset: Dataset, config: ImitationConfig) -> tuple[Samples, Samples | None]:
    """What is learned from, and what is held out; by whole episodes, drawn from the seed."""
    count = len(dataset.starts) - 1
    order = np.random.default_rng(config.seed).permutation(count)
    held = round(config.held_out * count)
    learned = Samples.of(dataset, np.sort(order[held:]), config)
    return learned, Samples.of(dataset, np.sort(order[:held]), config) if held else None


# Learning.


def train_bundle(
    config: ImitationConfig, path: Path, *, resume: bool, threads: int, command: str
) -> PolicyBundle:
    """Train in the run folder `path`, and leave the bundle at path/bundle.

    Raises what `read` and sim.runs.Run raise.
    """
    torch.set_num_threads(threads)
    dataset, interface = read(config)  # which refuses what cannot be, before there is a folder
    learned, held = split(dataset, config)
    run = Run.resume(path, config) if resume else Run.create(path, config, command)
    with run:
        judge = Judge(config, held, interface, dataset.source.get("configuration", {}))
        policy = learn(new_policy(config, learned, interface), learned, config, run, judge)
        seconds = asdict(run.seconds(STAGE))
        document = {"command": run.command, "seconds": seconds, "configuration": plain(config)}
        return write_bundle(policy, dataset, interface, document, config, path)


def network_sizes(config: ImitationConfig, observation: int, action: int) -> dict[str, Any]:
    """What `robot_policies.models.families.build` takes, of Do and Da."""
    sizes = Sizes(
        config.observation_steps, observation, config.prediction_steps, action,
        patch=config.patch, width=config.width, layers=config.layers, heads=config.heads,
    )  # fmt: skip
    found: dict[str, Any] = {"sizes": asdict(sizes), "execution_steps": config.execution_steps}
    if config.family == "energy":
        found["objective"] = config.objective
    if config.family in ("diffusion", "flow"):
        found["backbone"] = config.backbone
    return found


def new_policy(config: ImitationConfig, learned: Samples, interface: Interface) -> ChunkPolicy:
    """Weights drawn from the seed; normalisers from what is learned from."""
    torch.manual_seed(config.seed)
    sizes = network_sizes(config, learned.observation.shape[1], learned.action.shape[1])
    policy = build(config.family, sizes)
    assert isinstance(policy, ChunkPolicy)
    if config.relative:
        policy.reference.copy_(reference(interface))
    observation, actions, valid = learned.take(torch.arange(len(learned)))
    relative = (actions - policy.base(observation).unsqueeze(1))[valid > 0]
    policy.normalise_by(observation[:, -1], relative)
    return policy


def reference(interface: Interface) -> Tensor:
    """[Do, Da], 1 where an action and an observation are of one name and unit."""
    signals = [signal for signal in interface.observation if signal.source == "robot"]
    observed, commanded = (
        [(f"{s.name}/{element}", s.unit) for s in group for element in s.elements]
        for group in (signals, interface.action)
    )
    return torch.tensor([[float(o == c) for c in commanded] for o in observed])


def learn(
    policy: ChunkPolicy, learned: Samples, config: ImitationConfig, run: Run, judge: Judge
) -> ChunkPolicy:
    """To the last step, or on from the run's checkpoint; returns the averaged network."""
    average = AveragedModel(policy, multi_avg_fn=get_ema_multi_avg_fn(config.ema))
    smooth = cast(ChunkPolicy, average.module).requires_grad_(False)
    optimiser = torch.optim.AdamW(
        policy.parameters(), lr=config.learning_rate, betas=(0.9, 0.99),
        weight_decay=config.weight_decay, fused=True,
    )  # fmt: skip
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: _rate(step, config))
    parts = {"policy": policy, "average": average, "optimiser": optimiser, "schedule": schedule}
    first = _restore(parts, run, config.steps)
    losses: list[float] = []
    with run.progress(STAGE, config.steps, first) as bar:
        saved = time.monotonic()
        for step in range(first + 1, config.steps + 1):
            loss = policy.loss(*learned.take(torch.randint(len(learned), (config.batch,))))
            if not loss.isfinite():
                lower = "train with a lower learning rate, or check the data"
                raise FloatingPointError(f"step {step}: expected a finite loss; {lower}")
            optimiser.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(policy.parameters(), config.clip)
            optimiser.step()
            schedule.step()
            average.update_parameters(policy)
            losses.append(loss.item())
            if step % LOG_EVERY == 0 or step == config.steps:
                figures = {"loss": float(np.mean(losses)), "rate": schedule.get_last_lr()[0]}
                figures |= judge.figures(smooth, step)
                run.log(STAGE, step, figures)
                bar.update(step, figures)
                losses.clear()
            if time.monotonic() - saved > CHECKPOINT_S:
                run.save(STAGE, step, _payload(parts))
                saved = time.monotonic()
    if run.finished(STAGE) is None:
        run.finish(STAGE, _payload(parts))
    return smooth.eval()


def _rate(step: int, config: ImitationConfig) -> float:
    """Share of the learning rate."""
    if step < config.warm_up:
        return (step + 1) / config.warm_up
    share = (step - config.warm_up) / max(config.steps - config.warm_up, 1)
    return 0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * min(share, 1.0)))


def _payload(parts: Mapping[str, Any]) -> dict[str, Any]:
    return {n: part.state_dict() for n, part in parts.items()} | {"random": torch.get_rng_state()}


def _restore(parts: Mapping[str, Any], run: Run, steps: int) -> int:
    """Load the run's result or checkpoint, if there is one; the steps that it has done."""
    payload, done = run.finished(STAGE), steps
    if payload is None:
        done, payload = run.load(STAGE) or (0, None)
    if payload is not None:
        for name, part in parts.items():
            part.load_state_dict(payload[name])
        torch.set_rng_state(payload["random"])
    return done


@dataclass(frozen=True)
class Judge:
    """Says how good a policy is while it learns, without changing what is drawn for learning."""

    config: ImitationConfig
    held: Samples | None
    interface: Interface
    collected: Mapping[str, Any]
    """The configuration of the collection: the task to evaluate in."""

    def __post_init__(self) -> None:
        """Refuse evaluations where no task is known."""
        known = not self.config.evaluate_every or "task" in self.collected
        expected = "0, for a data set without a task of this project"
        require("configuration", (known, "evaluate_every", expected, self.config.evaluate_every))

    @torch.no_grad()
    def figures(self, policy: ChunkPolicy, step: int) -> dict[str, float]:
        """The loss on what is held out and, at times, the success of the exported policy."""
        found, every = {}, self.config.evaluate_every
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(step)
            if self.held is not None:
                windows = torch.arange(0, len(self.held), max(len(self.held) // 512, 1))
                found["held_out_loss"] = policy.loss(*self.held.take(windows)).item()
        if every and step % every == 0:
            found["success"] = self._success(policy)
        return found

    def _success(self, policy: ChunkPolicy) -> float:
        """In a few episodes of the task, whose starts are none of the data set's."""
        from sim.tasks.evaluation import Options, evaluate

        name, config = "learning", self.config
        origin = provenance("a policy that is learning", "MIT", (config.seed,), "")
        contract = contract_of(policy, self.interface, config.family, name, origin)
        graphs = to_graphs(policy, contract)
        content = {file: stamp(graph, contract) for file, graph in graphs.items()}
        options = Options(
            (name,), self.collected["task"], self.collected["engine"],
            episodes=config.evaluate_episodes, environments=config.evaluate_episodes,
            seed=EVALUATION_SEED,
        )  # fmt: skip
        learning = OnnxPolicy(PolicyBundle(Path(), contract, {}, content))
        return evaluate({name: learning}, options).figures[name]["success"].value


# The bundle.


def contract_of(
    policy: ChunkPolicy, interface: Interface, family: str, name: str, origin: Provenance
) -> Contract:
    """The contract of a chunk policy; it gives actions in their unit, so scale 1 and offset 0."""
    signals = [signal for signal in interface.observation if signal.source == "robot"]
    history = policy.sizes.observation_steps
    samplers = policy.samplers()
    noise: list[Noise] = []
    if samplers:
        noise.append(Noise(SAMPLE, policy.shape))
        if samplers[0].fresh_noise:
            noise.append(Noise(FRESH, (len(samplers[0].schedule), *policy.shape)))
    return Contract(
        schema_version=SCHEMA_VERSION,
        name=name,
        family=family,
        robot=interface.robot,
        observation=tuple(replace(signal, history=history) for signal in signals),
        action=tuple(
            replace(a, scale=(1.0,) * len(a.elements), offset=(0.0,) * len(a.elements))
            for a in interface.action
        ),
        chunk=Chunk(policy.execution_steps, 1 / interface.timing.control_hz),
        conventions=Conventions(),
        timing=interface.timing,
        state=(),
        noise=tuple(noise),
        feature="feature",
        gains=interface.gains,
        tolerance=1e-4,
        provenance=origin,
        calibration=None,
        refinement=Refinement(policy.shape, policy.columns, policy.told, samplers)
        if samplers
        else None,
    )


def write_bundle(
    policy: ChunkPolicy, dataset: Dataset, interface: Interface, training: Mapping[str, Any],
    config: ImitationConfig, path: Path,
) -> PolicyBundle:  # fmt: skip
    """Export to path/bundle, exchanging an earlier one; checkpoint.pt has it, too."""
    source = f"trained by this project on {len(dataset.starts) - 1} demonstrations"
    origin = provenance(source, "MIT", (config.seed,), dataset.sha256)
    task = str(dataset.source.get("configuration", {}).get("task", config.dataset.name))
    name = f"{config.family}-{task.split('/')[-1]}"
    contract = contract_of(policy, interface, config.family, name, origin)
    sizes = network_sizes(config, contract.observation_size, contract.action_size)
    save_checkpoint(path / "checkpoint.pt", policy, sizes, contract, training)
    golden = record_random(policy, contract, config.seed)
    card = model_card(contract, training["command"], _about(dataset, config, task))
    return export(policy, contract, golden, Source(training, card), path / "bundle", replace=True)


def _about(dataset: Dataset, config: ImitationConfig, task: str) -> str:
    made = dataset.source.get("made_by", {}).get("command")
    by = f", made by `{made}`" if made else ""
    return (
        f"Does {task} as {len(dataset.starts) - 1} demonstrations did{by}. Sees "
        f"{config.observation_steps} steps, predicts {config.prediction_steps}, of which "
        f"{config.execution_steps} are executed."
    )
