"""Proximal policy optimisation in a task of sim/tasks: from nothing to a bundle, in one folder.

    config = ReinforcementConfig(seed=0, task="arm-reach", engine="mujoco", environments=512)
    bundle = train_bundle(config, Path("runs/reach"), resume=False, threads=2, command="...")

The algorithm is rsl_rl's (rsl-rl-lib); stages, checkpoints and export are this project's.
Three kinds of actors: feed-forward, recurrent, and one with an adaptation module (RMA, arXiv
2107.04034): it first learns with an encoder that is told the robot's parameters, then a memory
learns to infer from experience what the encoder says. The critic may be told the parameters and
the true signals, which no robot knows (an asymmetric critic, arXiv 1710.06542).
"""

from __future__ import annotations

import io
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from rsl_rl.algorithms import PPO
from rsl_rl.models import MLPModel, RNNModel
from tensordict import TensorDict
from torch import Tensor, nn

from robot_policies.bundle import PolicyBundle
from robot_policies.contract import SCHEMA_VERSION, Chunk, Contract, Conventions, Provenance, State
from robot_policies.export import export, record, save_checkpoint
from robot_policies.graph import Source, model_card, provenance, random_inputs
from robot_policies.models.actor import ActorPolicy, layers
from robot_policies.strict import InputError, Violation, require
from robot_policies.strict_yaml import decode_yaml
from sim import tasks
from sim.randomization_terms import EVENTS, Spec, load
from sim.runs import Run, plain
from sim.tasks import Task

POLICY, PRIVILEGED, PARAMETERS = "policy", "privileged", "parameters"
"""Groups of observations: what the robot knows; what only a simulator knows; of the latter, the
randomised parameters."""
FIGURES = ("return", "success", "final_distance", "length")
"""Of the episodes that ended, for the log."""
CHECKPOINT_S = 30.0
SAVE_EVERY = 25
"""Iterations of the adaptation."""
NORMALISER_EPS = 1e-2
"""What rsl_rl adds to a standard deviation."""
TOLERANCE = 1e-4

Check = tuple[bool, str, str, Any]
"""Whether it holds, of which key, what was expected, what was found."""


@dataclass(frozen=True)
class Network:
    """The actor's shape; the critic has the same layers."""

    hidden: tuple[int, ...] = (128, 128)
    """Widths of the layers."""
    memory: int = 0
    """Size of the recurrent state; 0: feed-forward."""
    context: int = 0
    """How many numbers the adaptation module infers from its memory; 0: none."""


@dataclass(frozen=True)
class Optimisation:
    """Of PPO, arXiv 1707.06347; the learning rate follows the policy's change (desired_kl)."""

    iterations: int = 250
    steps: int = 24
    """Of each environment in an iteration."""
    epochs: int = 4
    mini_batches: int = 4
    learning_rate: float = 1e-3
    """At first."""
    desired_kl: float = 0.01
    discount: float = 0.98
    gae: float = 0.95
    """Lambda of generalised advantage estimation, arXiv 1506.02438."""
    clip: float = 0.2
    entropy: float = 0.0
    value: float = 1.0
    """Weight of the critic's loss."""
    initial_std: float = 0.5
    """Of the actions' noise."""


@dataclass(frozen=True)
class Adaptation:
    """How the memory learns to infer the context, where there is one."""

    iterations: int = 200
    steps: int = 24
    """A gradient goes back through."""
    learning_rate: float = 1e-3


@dataclass(frozen=True)
class ReinforcementConfig:
    """Everything that decides how the policy comes out."""

    seed: int
    task: str
    engine: str
    device: Literal["cpu", "gpu"] = "cpu"
    """Where the engine runs: a gpu with genesis only. Networks learn on the cpu."""
    robot: Path | None = None
    """A YAML file with a robot of your own (see sim/tasks/README.md)."""
    environments: int = 512
    randomization: Spec | None = None
    """None: the robot as in its model."""
    privileged_critic: bool = True
    """The critic is told the true signals and the parameters."""
    network: Network = field(default_factory=Network)
    ppo: Optimisation = field(default_factory=Optimisation)
    adaptation: Adaptation = field(default_factory=Adaptation)

    def __post_init__(self) -> None:
        """Refuse what cannot be trained."""
        require("configuration", *self._checks(), *self._network_checks(), *self._ppo_checks())

    def _checks(self) -> Iterator[Check]:
        engines = tasks.TASKS.get(self.task, (self.engine,))
        yield self.seed >= 0, "seed", "at least 0", self.seed
        yield self.environments >= 1, "environments", "at least 1", self.environments
        yield self.task in tasks.TASKS, "task", f"one of {', '.join(tasks.TASKS)}", self.task
        yield self.engine in engines, "engine", " or ".join(engines), self.engine
        found = f"{self.device} with {self.engine}"
        there = self.device == "cpu" or self.engine == "genesis"
        yield there, "device", "cpu, or gpu with genesis", found

    def _network_checks(self) -> Iterator[Check]:
        network = self.network
        terms = () if self.randomization is None else self.randomization.terms
        lasting = any(term.parameter not in EVENTS for term in terms)
        yield network.memory >= 0, "network.memory", "at least 0", network.memory
        yield network.context >= 0, "network.context", "at least 0", network.context
        yield min(network.hidden, default=0) > 0, "network.hidden", "widths", network.hidden
        if network.context > 0:
            memory = "a memory that infers the context"
            yield network.memory > 0, "network.memory", memory, network.memory
            yield lasting, "randomization", "parameters, for a context to infer", "none"

    def _ppo_checks(self) -> Iterator[Check]:
        plan, adaptation = self.ppo, self.adaptation
        counts = {f"ppo.{n}": getattr(plan, n) for n in ("iterations", "steps", "epochs")}
        counts |= {f"adaptation.{n}": getattr(adaptation, n) for n in ("iterations", "steps")}
        for name, count in counts.items():
            yield count >= 1, name, "at least 1", count
        rates = {"ppo": plan.learning_rate, "adaptation": adaptation.learning_rate}
        for name, rate in rates.items():
            yield rate > 0, f"{name}.learning_rate", "above 0", rate
        for name in ("desired_kl", "clip", "initial_std"):
            yield getattr(plan, name) > 0, f"ppo.{name}", "above 0", getattr(plan, name)
        for name in ("discount", "gae"):
            value = getattr(plan, name)
            yield 0 <= value <= 1, f"ppo.{name}", "from 0 to 1", value
        recurrent = self.network.memory > 0 and self.network.context == 0
        whole, of = self.environments * plan.steps, "samples of an iteration"
        if recurrent:  # a mini-batch is of whole environments, as many in each
            whole, of = self.environments, "environments"
        parts = plan.mini_batches
        shared = 1 <= parts <= whole and not (recurrent and whole % parts)
        yield shared, "ppo.mini_batches", f"a number that the {whole} {of} can be shared by", parts


def configure(
    task: str, seed: int, *, engine: str | None, device: Literal["cpu", "gpu"] | None,
    file: Path | None, randomization: Path | None, robot: Path | None, environments: int | None,
    iterations: int | None,
) -> ReinforcementConfig:  # fmt: skip
    """The configuration of `file`, or the task's own, with what else is not None.

    Raises InputError, with every violation, for files that hold something else.
    """
    config = ReinforcementConfig(seed, task, "torch" if task == "quadrotor" else "mujoco")
    if file is not None:
        config = replace(decode_yaml(ReinforcementConfig, file, "configuration"), seed=seed)
        if config.task != task:
            found = [Violation("configuration.task", task, config.task, "name the right file")]
            raise InputError(found)
    given = {
        "engine": engine, "device": device, "robot": robot, "environments": environments,
        "randomization": None if randomization is None else load(randomization),
    }  # fmt: skip
    if iterations is not None:
        given["ppo"] = replace(config.ppo, iterations=iterations)
    return replace(config, **{key: value for key, value in given.items() if value is not None})


def train_bundle(
    config: ReinforcementConfig, path: Path, *, resume: bool, threads: int, command: str
) -> PolicyBundle:
    """Train in the run folder `path`, and leave the bundle at path/bundle.

    Raises what sim.runs.Run and sim.tasks.make raise.
    """
    torch.set_num_threads(threads)
    task = make_task(config, threads)  # which refuses what cannot be, before there is a folder
    run = Run.resume(path, config) if resume else Run.create(path, config, command)
    with run:
        algorithm = learn(task, config, run)
        actor = adapt(task, config, algorithm, run) if config.network.context else None
        actor = actor or actor_of(algorithm.get_policy(), config.network)
        if task.diverged.any():
            print(task.divergence_report(), file=sys.stderr)
        seconds = {stage: asdict(run.seconds(stage)) for stage in run.stages}
        document = {"command": run.command, "seconds": seconds, "configuration": plain(config)}
        return write_bundle(actor, task, document, config, path)


def make_task(config: ReinforcementConfig, threads: int) -> Task:
    """The task that a configuration names."""
    return tasks.make(
        config.task, engine=config.engine, count=config.environments, seed=config.seed,
        threads=threads, randomization=config.randomization, robot=config.robot,
        device=config.device,
    )  # fmt: skip


# Learning.


def learn(task: Task, config: ReinforcementConfig, run: Run) -> PPO:
    """PPO to its end, or on from the run's checkpoint; after a resume episodes begin anew."""
    plan = config.ppo
    torch.manual_seed(config.seed)
    seen = groups(task.reset(seed=config.seed)[0], task, config)
    task.stagger()
    algorithm = make_ppo(seen, task, config)
    first = _load(algorithm, task, run, plan.iterations)
    with run.progress("ppo", plan.iterations, first) as bar:
        saved = time.monotonic()
        for iteration in range(first, plan.iterations):
            seen, figures = collect(algorithm, task, seen, config)
            losses = algorithm.update()
            bar.update(iteration + 1, figures)
            learned = {"learning_rate": algorithm.learning_rate} | losses
            run.log("ppo", iteration + 1, figures | learned)
            if time.monotonic() - saved > CHECKPOINT_S:
                run.save("ppo", iteration + 1, algorithm.save() | _diverged(task))
                saved = time.monotonic()
    if run.finished("ppo") is None:
        run.finish("ppo", algorithm.save() | _diverged(task))
    return algorithm


def groups(told: Mapping[str, np.ndarray], task: Task, config: ReinforcementConfig) -> TensorDict:
    """What the networks are to be told, for rsl_rl, which copies all of it at every use."""
    arrays = {POLICY: told[POLICY]}
    if config.privileged_critic:
        arrays[PRIVILEGED] = told[PRIVILEGED]
    if config.network.context:
        arrays[PARAMETERS] = task.parameters.astype(np.float32)
    tensors = {name: torch.from_numpy(value) for name, value in arrays.items()}
    return TensorDict(tensors, batch_size=[task.num_envs])  # type: ignore[arg-type]


def collect(
    algorithm: PPO, task: Task, seen: TensorDict, config: ReinforcementConfig
) -> tuple[TensorDict, dict[str, float]]:
    """Act for one iteration's steps; what is seen then, and means over the episodes that ended."""
    ended: dict[str, list[np.ndarray]] = {}
    with torch.inference_mode(), _one_thread(config.engine):
        for _ in range(config.ppo.steps):
            told, reward, terminated, truncated, infos = task.step(algorithm.act(seen).numpy())
            seen = groups(told, task, config)
            done, late = (torch.from_numpy(v) for v in (terminated | truncated, truncated))
            extras = {"time_outs": late.float()}
            algorithm.process_env_step(seen, torch.from_numpy(reward).float(), done, extras)
            for name in FIGURES if infos else ():
                ended.setdefault(name, []).append(infos["final_info"][name][infos["_final_info"]])
        algorithm.compute_returns(seen)
    means = {name: float(np.concatenate(values).mean()) for name, values in ended.items()}
    return seen, means


@contextmanager
def _one_thread(engine: str) -> Iterator[None]:
    """Of torch, whose others would wait for more by spinning, on the cores of another engine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(threads if engine == "torch" else 1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def make_ppo(seen: TensorDict, task: Task, config: ReinforcementConfig) -> PPO:
    """rsl_rl's algorithm with this configuration's networks."""
    network, plan = config.network, config.ppo
    common = {"hidden_dims": list(network.hidden), "activation": "elu", "obs_normalization": True}
    recurrent = {
        "class_name": RNNModel, "rnn_type": "gru", "rnn_hidden_dim": network.memory,
    }  # fmt: skip
    actor = common | {"class_name": MLPModel}
    if network.context:
        actor |= {"class_name": ContextModel, "context": network.context}
    elif network.memory:
        actor |= recurrent
    std = {"class_name": "GaussianDistribution", "init_std": plan.initial_std, "std_type": "log"}
    critic = common | {"class_name": MLPModel}
    if network.memory and not config.privileged_critic:
        critic |= recurrent
    settings = {
        "actor": actor | {"distribution_cfg": std},
        "critic": critic,
        "obs_groups": {
            "actor": [POLICY],
            "critic": [POLICY, PRIVILEGED] if config.privileged_critic else [POLICY],
        },
        "num_steps_per_env": plan.steps,
        "multi_gpu": None,
        "algorithm": {
            "class_name": PPO, "num_learning_epochs": plan.epochs,
            "num_mini_batches": plan.mini_batches, "clip_param": plan.clip,
            "gamma": plan.discount, "lam": plan.gae, "value_loss_coef": plan.value,
            "entropy_coef": plan.entropy, "learning_rate": plan.learning_rate,
            "desired_kl": plan.desired_kl, "schedule": "adaptive",
        },
    }  # fmt: skip
    with redirect_stdout(io.StringIO()):  # it prints its networks
        algorithm = PPO.construct_algorithm(seen, _Shape(task), settings, "cpu")  # type: ignore[arg-type]
    learned = [*algorithm.actor.parameters(), *algorithm.critic.parameters()]
    algorithm.optimizer = torch.optim.Adam(learned, plan.learning_rate, fused=True)  # the quicker
    algorithm.train_mode()
    return algorithm


@dataclass(frozen=True)
class _Shape:
    """All that rsl_rl asks of an environment when it makes its networks."""

    task: Task

    @property
    def num_envs(self) -> int:
        return self.task.num_envs

    @property
    def num_actions(self) -> int:
        return sum(len(action.elements) for action in self.task.action)


class ContextModel(MLPModel):
    """An actor that is told the parameters, through an encoder: the first phase of RMA."""

    def __init__(self, *args: Any, context: int, **kwargs: Any) -> None:
        """As MLPModel, which sees the observation and `context` numbers."""
        self._context = context
        super().__init__(*args, **kwargs)
        self.encoder = nn.Sequential(layers(self._told, (64,)), nn.Linear(64, context))

    def get_latent(self, obs: TensorDict, masks: Any = None, hidden_state: Any = None) -> Tensor:
        """The normalised observation and what the encoder says."""
        return torch.cat([self.obs_normalizer(obs[POLICY]), self.encoder(obs[PARAMETERS])], dim=-1)

    def _get_obs_dim(self, obs: TensorDict, obs_groups: Any, obs_set: str) -> tuple[Any, int]:
        self._told = obs[PARAMETERS].shape[-1]
        return super()._get_obs_dim(obs, obs_groups, obs_set)

    def _get_latent_dim(self) -> int:
        return self.obs_dim + self._context


def _load(algorithm: PPO, task: Task, run: Run, iterations: int) -> int:
    """Take over what the run has; returns the next iteration."""
    result = run.finished("ppo")
    iteration, payload = (run.load("ppo") or (0, None)) if result is None else (iterations, result)
    if payload is not None:
        algorithm.load(payload, None, True)
        task.diverged[:] = payload["diverged"].numpy()
    return iteration


def _diverged(task: Task) -> dict[str, Tensor]:
    """For a checkpoint, so that the report at the end counts from the beginning."""
    return {"diverged": torch.from_numpy(task.diverged.copy())}


# The second phase of RMA.


def adapt(task: Task, config: ReinforcementConfig, algorithm: PPO, run: Run) -> ActorPolicy:
    """Let a memory infer, from what the robot sees, what the encoder knows from the parameters.

    The actor acts on what its own memory infers, so that it learns where that leads it.
    """
    told: Any = algorithm.get_policy()  # a ContextModel
    plan = config.adaptation
    pupil = _Pupil(actor_of(told, config.network), plan.learning_rate, task.num_envs)
    if (result := run.finished("adaptation")) is not None:
        pupil.actor.load_state_dict(result["actor"])
        task.diverged[:] = result["diverged"].numpy()
        return pupil.actor
    first, payload = run.load("adaptation") or (0, None)
    if payload is not None:
        pupil.load(payload)
        task.diverged[:] = payload["diverged"].numpy()
    seen = groups(task.reset()[0], task, config)
    task.stagger()
    with run.progress("adaptation", plan.iterations, first) as bar:
        for iteration in range(first, plan.iterations):
            errors = []
            for _ in range(plan.steps):
                with torch.no_grad():
                    known = told.encoder(seen[PARAMETERS])
                action, inferred = pupil.act(seen[POLICY])
                errors.append((inferred - known).square().mean())
                obs, _, terminated, truncated, _ = task.step(action.numpy())
                pupil.forget(torch.from_numpy(terminated | truncated))
                seen = groups(obs, task, config)
            figures = {"error": pupil.learn(torch.stack(errors).mean())}
            bar.update(iteration + 1, figures)
            run.log("adaptation", iteration + 1, figures)
            if (iteration + 1) % SAVE_EVERY == 0:
                run.save("adaptation", iteration + 1, pupil.payload() | _diverged(task))
    run.finish("adaptation", {"actor": pupil.actor.state_dict()} | _diverged(task))
    return pupil.actor


class _Pupil:
    """An actor whose memory and context learn; the rest of it stays."""

    def __init__(self, actor: ActorPolicy, learning_rate: float, count: int) -> None:
        assert actor.memory is not None and actor.context is not None
        self.actor = actor
        self._learned = [*actor.memory.parameters(), *actor.context.parameters()]
        self._optimiser = torch.optim.Adam(self._learned, lr=learning_rate)
        self._state = torch.zeros(count, actor.memory.hidden_size)

    def act(self, observation: Tensor) -> tuple[Tensor, Tensor]:
        """Of observation [N, Do]: action [N, Da], without a gradient, and inferred [N, C]."""
        seen = self.actor.normalise(observation)
        self._state, inferred = self.actor.infer(seen, self._state)
        with torch.no_grad():
            return self.actor.decide(seen, inferred)[0], inferred

    def forget(self, done: Tensor) -> None:
        """Begin new episodes where `done` [N]."""
        self._state = torch.where(done[:, None], 0.0, self._state)

    def learn(self, loss: Tensor) -> float:
        """One step of the optimiser; the loss."""
        self._optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self._learned, 1.0)
        self._optimiser.step()
        self._state = self._state.detach()
        return float(loss.detach())

    def payload(self) -> dict[str, Any]:
        """A checkpoint."""
        return {"actor": self.actor.state_dict(), "optimiser": self._optimiser.state_dict()}

    def load(self, payload: Mapping[str, Any]) -> None:
        """Take a checkpoint over."""
        self.actor.load_state_dict(payload["actor"])
        self._optimiser.load_state_dict(payload["optimiser"])


# The bundle.


def actor_of(model: Any, network: Network) -> ActorPolicy:
    """The deployable actor with the weights of rsl_rl's; an adaptation module is yet untrained."""
    *hidden, head = [m for m in model.mlp.modules() if isinstance(m, nn.Linear)]
    size = model.obs_normalizer.mean.numel()
    actor = ActorPolicy(size, head.out_features, network.hidden, network.memory, network.context)
    with torch.no_grad():
        actor.mean.copy_(model.obs_normalizer.mean)
        actor.scale.copy_(1 / (model.obs_normalizer.std + NORMALISER_EPS))
        own = [m for m in actor.body if isinstance(m, nn.Linear)]
        for mine, theirs in zip((*own, actor.head), (*hidden, head), strict=True):
            mine.load_state_dict(theirs.state_dict())
        if actor.memory is not None and not network.context:
            weights = {n.removesuffix("_l0"): w for n, w in model.rnn.rnn.named_parameters()}
            actor.memory.load_state_dict(weights)
    return actor


def contract_of(task: Task, network: Network, name: str, origin: Provenance) -> Contract:
    """The contract of an actor in a task, whose signals and commands it takes over."""
    size = network.memory
    return Contract(
        schema_version=SCHEMA_VERSION,
        name=name,
        family="actor",
        robot=task.robot,
        observation=task.observation,
        action=task.action,
        chunk=Chunk(steps=1, interval_s=1 / task.timing.control_hz),
        conventions=Conventions(),
        timing=task.timing,
        state=(State("state", "next_state", (size,), (0.0,) * size),) if size else (),
        noise=(),
        feature="feature",
        gains=task.gains,
        tolerance=TOLERANCE,
        provenance=origin,
        calibration=None,
    )


def write_bundle(
    actor: ActorPolicy, task: Task, training: Mapping[str, Any], config: ReinforcementConfig,
    path: Path,
) -> PolicyBundle:  # fmt: skip
    """Export the actor to path/bundle, exchanging an earlier one; checkpoint.pt has it, too."""
    origin = provenance("trained by this project, in simulation", "MIT", (config.seed,), "")
    contract = contract_of(task, config.network, config.task, origin)
    sizes = {
        "observation_size": contract.observation_size, "action_size": contract.action_size,
        **asdict(config.network),
    }  # fmt: skip
    save_checkpoint(path / "checkpoint.pt", actor, sizes, contract, training)
    golden = record(actor, contract, *random_inputs(contract, seed=config.seed))
    drawn = "the robot as in its model" if config.randomization is None else (
        "robots randomised as in training.yaml"
    )  # fmt: skip
    about = f"{task.scene.about} Trained by PPO in simulation ({config.engine}), on {drawn}."
    source = Source(training, model_card(contract, training["command"], about))
    return export(actor, contract, golden, source, path / "bundle", replace=True)
