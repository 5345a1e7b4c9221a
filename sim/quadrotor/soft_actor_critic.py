"""The paper's teacher: soft actor-critic for ONE quadrotor, as plain weights.

RAPTOR trains 1000 of these, a million steps each; here a few serve to compare with teachers that
learn through the dynamics. The optimisation is stable-baselines3's, with the two things that the
paper's has and it lacks: an actor updated at every second step, and a learning rate of its own
for the temperature.

Source: arXiv 2509.11481 and its public configuration; soft actor-critic: arXiv 1812.05905. The
paper's teachers also follow trajectories half of the time; these hold a position only.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from robot_policies.strict import InputError, Violation, decode
from sim.quadrotor import airframes as frames
from sim.quadrotor.airframes import ROTOR_COUNT, Airframes
from sim.quadrotor.dynamics import PROTOCOL_DT, State, check_dt, step
from sim.quadrotor.evaluation import (
    EPISODE_STEPS,
    FINAL_STEPS,
    TERMINATION_REWARD,
    Limits,
    reward,
    terminated,
)
from sim.quadrotor.scenario import initial_states

try:
    from gymnasium import spaces
    from stable_baselines3 import SAC
    from stable_baselines3.common.callbacks import BaseCallback
    from stable_baselines3.common.utils import polyak_update
    from stable_baselines3.common.vec_env import VecEnv
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        f"soft actor-critic: expected the package {error.name}, found none; install "
        "robot_policies[sac]"
    ) from None

OBSERVATION_SIZE = 26
LIMITS = Limits()

Weights = dict[str, Tensor]


@dataclass(frozen=True)
class Rating:
    """How E flights of a teacher went."""

    total_reward: np.ndarray
    """[E] sum of rewards."""
    survived: np.ndarray
    """[E] bool."""
    final_distance: np.ndarray
    """[E] m, mean over the last second; infinite where not survived."""

    @property
    def score(self) -> float:
        """Mean return, by which checkpoints are chosen."""
        return float(self.total_reward.mean())


@dataclass(frozen=True)
class SoftActorCriticConfig:
    """The paper's values. Raises ValueError for counts that cannot be."""

    seed: int
    steps: int = 1_000_000
    """Of the environments together."""
    environments: int = 1
    """Flown side by side; there is one update for each step of each."""
    batch: int = 128
    discount: float = 0.99
    learning_rate: float = 3e-4
    """Of actor and critics."""
    temperature_rate: float = 1e-4
    """Learning rate of the temperature."""
    target_entropy: float = -2.0
    """nat"""
    target_mixing: float = 0.005
    """Share of the critics that enters their targets at each update."""
    actor_layers: tuple[int, int] = (64, 64)
    critic_layers: tuple[int, int] = (256, 256)
    actor_interval: int = 2
    """Updates of the critics for each of the actor."""
    warm_up: int = 10_000
    """Steps with random actions before the first update."""
    checkpoints: int = 10
    """Evenly spaced; the best one is returned."""
    evaluation_episodes: int = 64

    def __post_init__(self) -> None:
        """Refuse counts that cannot be."""
        counts = ("environments", "batch", "actor_interval", "checkpoints", "evaluation_episodes")
        for name in counts:
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: expected at least 1, found {getattr(self, name)}")
        if not 0 <= self.warm_up < self.steps:
            raise ValueError(
                f"steps: expected more than the warm-up of {self.warm_up}, found {self.steps}"
            )


def job_of(
    airframe_seed: int, airframe_index: int, config: SoftActorCriticConfig
) -> dict[str, Any]:
    """The job of `train_soft_actor_critic` for quadrotor number `airframe_index` of a seed."""
    return {"airframe_seed": airframe_seed, "airframe_index": airframe_index} | asdict(config)


def train_soft_actor_critic(job: dict[str, Any]) -> dict[str, Any]:
    """Train the teacher of one sampled quadrotor, in a form that `run_jobs` takes.

    Args:
        job: as `job_of` makes it.

    Returns:
        `weights` as `train` returns them; `return`, `survival` and `final_distance` (m, median)
        of the best checkpoint; `checkpoints`: the return of each.

    Raises:
        InputError: with every key of the job that is wrong.
        ValueError: as `train`.
    """
    quadrotor, config = _read_job(job)
    weights, history = train(quadrotor, config)
    best = max(history, key=lambda rating: rating.score)
    return {
        "weights": weights,
        "return": best.score,
        "survival": float(best.survived.mean()),
        "final_distance": float(np.median(best.final_distance)),
        "checkpoints": [rating.score for rating in history],
    }


def train(quadrotor: Airframes, config: SoftActorCriticConfig) -> tuple[Weights, list[Rating]]:
    """Train a teacher of one quadrotor (a batch of one).

    Returns:
        The deterministic actor of the best checkpoint: w0 [64, 26], b0 [64], w1 [64, 64], b1 [64],
        w2 [4, 64], b2 [4], see `act`; and the Rating of every checkpoint whose weights are finite.

    Raises:
        ValueError: more than one quadrotor, motors too fast for the simulator, or no checkpoint
            with finite weights.
    """
    if quadrotor.count != 1:
        raise ValueError(f"train: expected one quadrotor, found {quadrotor.count}")
    check_dt(quadrotor, PROTOCOL_DT)
    learner = _learner(Hover(quadrotor, config.environments, config.seed), config)
    keeper = _Checkpoints(quadrotor, config)
    learner.learn(config.steps, callback=keeper)
    if keeper.best is None:
        raise ValueError(
            "train: expected finite weights, found none in any checkpoint; lower learning_rate"
        )
    return keeper.best, keeper.history


def act(weights: Mapping[str, Tensor], observation: Tensor) -> Tensor:
    """The raw action [N, 4] in -1 to 1 for observations [N, 26] of `Hover`."""
    hidden = torch.relu(functional.linear(observation, weights["w0"], weights["b0"]))
    hidden = torch.relu(functional.linear(hidden, weights["w1"], weights["b1"]))
    return torch.tanh(functional.linear(hidden, weights["w2"], weights["b2"]))


def fly(weights: Weights, quadrotor: Airframes, episodes: int, seed: int) -> Rating:
    """Rate a teacher: `episodes` flights from within +-10 arm lengths, with force."""
    hover = Hover(quadrotor, episodes, seed)
    observation = torch.from_numpy(hover.reset())
    alive = np.ones(episodes, dtype=bool)
    survived = np.zeros(episodes, dtype=bool)
    total, final = np.zeros(episodes), np.zeros(episodes)
    for index in range(EPISODE_STEPS):
        distance = observation[:, :3].norm(dim=1).numpy()
        final += distance / FINAL_STEPS * (index >= EPISODE_STEPS - FINAL_STEPS)
        found, gain, done, infos = hover.step(act(weights, observation).numpy())
        total += gain * alive
        survived |= alive & [info.get(TRUNCATED, False) for info in infos]
        alive &= ~done
        observation = torch.from_numpy(found)
    return Rating(total, survived, np.where(survived, final, np.inf))


# The environment.

TRUNCATED = "TimeLimit.truncated"
"""The key under which stable-baselines3 reads that an episode ended by its length only."""


class Hover(VecEnv):
    """N flights of one quadrotor that shall hold the world's origin; ended ones begin anew.

    Observation 26, float32: position 3 (m, world), rotation matrix 9 (row-major, body to world),
    linear velocity 3 (m/s, world), angular velocity 3 (rad/s, body), previous raw action 4, rotor
    speed 4 (normalised 0 to 1). Raw action 4 in -1 to 1; (a + 1) / 2 is the rotor speed's
    set-point. Initial states within +-10 arm lengths, reward and termination as in
    sim.quadrotor.evaluation; a force, constant over an episode.
    """

    def __init__(self, quadrotor: Airframes, flights: int, seed: int) -> None:
        """Put `flights` flights of `quadrotor` (a batch of one) at their start."""
        bound = np.full(OBSERVATION_SIZE, np.inf, dtype=np.float32)
        unit = np.ones(ROTOR_COUNT, dtype=np.float32)
        self.render_mode = None
        super().__init__(flights, spaces.Box(-bound, bound), spaces.Box(-unit, unit))
        self._fleet = quadrotor.repeat(flights)
        self._random = np.random.default_rng([seed, 6])
        self._actions = np.zeros((flights, ROTOR_COUNT), dtype=np.float32)
        self.reset()

    def reset(self) -> np.ndarray:
        """Begin all flights anew; their observations [N, 26]."""
        self._state = State(torch.zeros(17, self.num_envs))
        self._force = torch.zeros(3, self.num_envs)
        self._age = np.zeros(self.num_envs, dtype=int)
        self._previous, self._counted = (torch.zeros(4, self.num_envs) for _ in range(2))
        self._begin(np.ones(self.num_envs, dtype=bool))
        return self._observe()

    def step_async(self, actions: np.ndarray) -> None:
        """Take the raw actions [N, 4]."""
        self._actions = actions

    def step_wait(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, list[dict[str, Any]]]:
        """Observation [N, 26] (of the new flight where one ended), reward [N], done [N], infos."""
        raw = torch.from_numpy(self._actions).T.float().contiguous()
        gain = reward(self._state, raw, self._counted)
        self._state = step(self._state, (raw + 1) / 2, self._fleet, self._force, PROTOCOL_DT)
        self._previous = self._counted = raw
        self._age += 1
        ended = terminated(self._state, self._fleet, LIMITS).numpy()
        late = (self._age >= EPISODE_STEPS) & ~ended
        done = ended | late
        observation = self._observe()
        infos: list[dict[str, Any]] = [{} for _ in range(self.num_envs)]
        if done.any():
            for index in np.flatnonzero(done):
                last = observation[index].copy()
                infos[index] = {"terminal_observation": last, TRUNCATED: bool(late[index])}
            self._begin(done)
            observation = self._observe()
        return observation, np.where(ended, TERMINATION_REWARD, gain.numpy()), done, infos

    def _begin(self, which: np.ndarray) -> None:
        """Draw new flights. As in L2F, the first change of action is counted from zero."""
        rows = torch.from_numpy(np.flatnonzero(which))
        fleet = self._fleet.select(rows)
        start = initial_states(fleet, int(self._random.integers(2**31)), None)
        normal = self._random.standard_normal((len(rows), 3)).T
        self._state = State(self._state.data.index_copy(1, rows, start.data))
        self._force[:, rows] = torch.tensor(normal, dtype=torch.float32) * fleet.force_std
        self._previous = self._previous.index_copy(1, rows, 2 * start.rotor_speed - 1)
        self._counted = self._counted.index_fill(1, rows, 0)
        self._age[which] = 0

    def _observe(self) -> np.ndarray:
        state = self._state
        rows = torch.cat(
            [
                state.position, state.rotation_matrix, state.linear_velocity,
                state.angular_velocity, self._previous, state.rotor_speed,
            ]
        )  # fmt: skip
        return rows.T.contiguous().numpy()

    # What stable-baselines3 asks of its environments beside.

    def close(self) -> None:
        """Nothing to close."""

    def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:
        """An attribute, once for each flight."""
        return [getattr(self, attr_name)] * self.num_envs

    def set_attr(self, attr_name: str, value: Any, indices: Any = None) -> None:
        """Nothing can be set."""
        raise AttributeError(f"Hover: {attr_name} cannot be set")

    def env_method(
        self, method_name: str, *args: Any, indices: Any = None, **kw: Any
    ) -> list[Any]:
        """There are no environments inside."""
        raise AttributeError(f"Hover: there is no {method_name} of a single flight")

    def env_is_wrapped(self, wrapper_class: Any, indices: Any = None) -> list[bool]:
        """No wrappers."""
        return [False] * self.num_envs


# The learner.


class _Learner(SAC):
    """Soft actor-critic with the paper's update."""

    config: SoftActorCriticConfig

    @property
    def _log_temperature(self) -> Tensor:
        assert self.log_ent_coef is not None  # made where the temperature is learned
        return self.log_ent_coef

    def train(self, gradient_steps: int, batch_size: int = 64) -> None:
        """Make `gradient_steps` updates of the critics, and the actor's among them."""
        for _ in range(gradient_steps):
            batch = self.replay_buffer.sample(batch_size)  # pyright: ignore[reportOptionalMemberAccess]
            self._n_updates += 1
            self._update_critics(batch)
            if self._n_updates % self.config.actor_interval == 0:
                self._update_actor(batch.observations)

    def _update_critics(self, batch: Any) -> None:
        temperature = self._log_temperature.exp().detach()
        with torch.no_grad():
            action, log_probability = self.actor.action_log_prob(batch.next_observations)
            values = torch.cat(self.critic_target(batch.next_observations, action), dim=1)
            soft = values.min(dim=1).values - temperature * log_probability
            target = batch.rewards + (1 - batch.dones) * self.gamma * soft[:, None]
        values = self.critic(batch.observations, batch.actions)
        loss = sum(functional.mse_loss(value, target) for value in values)
        _descend(self.critic.optimizer, loss / 2)
        polyak_update(self.critic.parameters(), self.critic_target.parameters(), self.tau)

    def _update_actor(self, observation: Tensor) -> None:
        action, log_probability = self.actor.action_log_prob(observation)
        surplus = (log_probability + self.config.target_entropy).detach()
        _descend(self.ent_coef_optimizer, -(self._log_temperature * surplus).mean())
        self.critic.requires_grad_(False)
        value = torch.cat(self.critic(observation, action), dim=1).min(dim=1).values
        temperature = self._log_temperature.exp().detach()
        _descend(self.actor.optimizer, (temperature * log_probability - value).mean())
        self.critic.requires_grad_(True)


def _descend(optimizer: Any, loss: Any) -> None:
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


def _learner(hover: Hover, config: SoftActorCriticConfig) -> _Learner:
    layers = {"pi": list(config.actor_layers), "qf": list(config.critic_layers)}
    learner = _Learner(
        "MlpPolicy",
        hover,
        learning_rate=config.learning_rate,
        buffer_size=config.steps,
        learning_starts=config.warm_up,
        batch_size=config.batch,
        tau=config.target_mixing,
        gamma=config.discount,
        train_freq=1,
        gradient_steps=-1,  # as many as steps were taken
        target_entropy=config.target_entropy,
        policy_kwargs={
            "net_arch": layers,
            "activation_fn": nn.ReLU,
            "optimizer_kwargs": {"fused": True},  # one kernel for all weights
        },
        seed=config.seed,
        device="cpu",
    )
    learner.config = config
    learner.ent_coef_optimizer = torch.optim.Adam(
        [learner._log_temperature], lr=config.temperature_rate
    )
    return learner


class _Checkpoints(BaseCallback):
    """Rate the actor now and then, and keep the best one's weights; leave out those not finite."""

    def __init__(self, quadrotor: Airframes, config: SoftActorCriticConfig) -> None:
        super().__init__()
        self._quadrotor, self._config = quadrotor, config
        self.best: Weights | None = None
        self.history: list[Rating] = []
        self._reached = 0
        self._interval = config.steps / config.checkpoints

    def _on_step(self) -> bool:
        if self.num_timesteps >= self._interval * (self._reached + 1):
            self._reached += 1
            weights = _weights(self.model.actor)  # pyright: ignore[reportAttributeAccessIssue]
            if all(bool(torch.isfinite(value).all()) for value in weights.values()):
                self._rate(weights)
        return True

    def _rate(self, weights: Weights) -> None:
        config = self._config
        # The same flights for every checkpoint, none of them flown in training.
        rating = fly(weights, self._quadrotor, config.evaluation_episodes, config.seed + 2**31)
        if rating.score > max((r.score for r in self.history), default=-math.inf):
            self.best = weights
        self.history.append(rating)


def _weights(actor: Any) -> Weights:
    layers = (actor.latent_pi[0], actor.latent_pi[2], actor.mu)
    named = {}
    for index, layer in enumerate(layers):
        named[f"w{index}"] = layer.weight.detach().clone()
        named[f"b{index}"] = layer.bias.detach().clone()
    return named


def _read_job(job: dict[str, Any]) -> tuple[Airframes, SoftActorCriticConfig]:
    keys: Sequence[str] = ("airframe_seed", "airframe_index")
    rest = {key: value for key, value in job.items() if key not in keys}
    violations: list[Violation] = []
    config = decode(SoftActorCriticConfig, rest, "job", violations)
    seed, index = (decode(int, job.get(key), f"job.{key}", violations) for key in keys)
    if violations:
        raise InputError(violations)
    quadrotor = frames.sample(index + 1, seed).select(torch.tensor([index]))
    return quadrotor, config
