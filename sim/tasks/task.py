"""Episodes of a scene, as gymnasium's vector environments: what policies are trained on."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
from gymnasium import spaces
from gymnasium.error import ResetNeeded
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray

from robot_policies.contract import Action, Gains, Observation, Robot, Timing
from robot_policies.strict import InputError, Violation
from sim.channels import ActionChannel, ObservationChannel, RandomActions
from sim.draws import FloatArray, Streams
from sim.randomization import IdArray, Randomization
from sim.randomization_terms import EVENTS, Spec
from sim.tasks.parameters import EpisodeParameters
from sim.tasks.scene import BoolArray, Scene, Score

Float32Array = NDArray[np.float32]
Observations = dict[str, Float32Array]
Columns = dict[str, NDArray[Any]]

_SHOWN = 8
"""Environments that a report names."""


class Task(VectorEnv[Observations, Float32Array, NDArray[Any]]):
    """N environments that are stepped at once and reset in the step that ends their episode.

    Observations are {"policy": [N, Do], "privileged": [N, Dp]}, float32. "policy" holds the
    signals of `observation` in their order, as they are measured: with bias, noise and latency,
    then limited as the contract says. "privileged", for a critic or an adaptation module, holds
    the true signals, limited alike, and `parameters`.

    Actions [N, Da] are a network's raw output; the contract's `action` maps them to commands.

    Where episodes end, infos has what gymnasium's SyncVectorEnv gives in AutoresetMode.SAME_STEP:
    "final_info", arrays [N] by name with their masks ("_return" of "return"), "final_obs", and
    the masks "_final_info" and "_final_obs" [N]. But "final_obs" is one batch like any other
    observation, of which the masked rows count, not an array of objects.
    """

    metadata: ClassVar[dict[str, Any]] = {"autoreset_mode": AutoresetMode.SAME_STEP}  # pyright: ignore[reportIncompatibleVariableOverride]

    def __init__(self, scene: Scene, spec: Spec, seed: int) -> None:
        """See sim.tasks.make."""
        _require_in_time(spec, scene.episode_steps / scene.interface.timing.control_hz)
        self.scene = scene
        self.num_envs = scene.count
        self.episodes: list[Columns] | None = None
        """A block of columns for each step that ended episodes, a row for each of them: that of
        "final_info", with "environment" and "episode". None: nothing is kept; set it to [] to
        begin."""
        self._spec = spec
        self._ids = np.arange(scene.count)
        self._started = False
        signals = [signal for signal in self.observation if signal.source == "robot"]
        self._widths = {signal.name: len(signal.elements) for signal in signals}
        self._command_map = _joined(self.action)
        self._begin(seed)
        self._set_spaces()

    # What a contract says of the task.

    @property
    def robot(self) -> Robot:
        """Its joints and actuators."""
        return self.scene.interface.robot

    @property
    def observation(self) -> tuple[Observation, ...]:
        """The signals of "policy"."""
        return self.scene.interface.observation

    @property
    def action(self) -> tuple[Action, ...]:
        """The commands."""
        return self.scene.interface.action

    @property
    def gains(self) -> Gains | None:
        """Of the servos, before randomisation."""
        return self.scene.interface.gains

    @property
    def timing(self) -> Timing:
        """The rate of `step`."""
        return self.scene.interface.timing

    # Episodes.

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observations, dict[str, Any]]:
        """Begin an episode in every environment.

        With a seed everything starts anew, as in a task made with it; without one, the next
        episodes begin. Raises ValueError for options: there are none.
        """
        if options:
            raise ValueError(f"reset: expected no options; found {sorted(options)}")
        super().reset(seed=seed)
        if seed is not None:
            self._begin(seed)
        self._started = True
        self._random.acted[:] = False
        self._reset(self._ids)
        return self._observe(), {}

    def step(
        self, actions: Float32Array
    ) -> tuple[Observations, FloatArray, BoolArray, BoolArray, dict[str, Any]]:
        """Advance by a control period.

        actions  [N, Da] raw, finite

        Returns observations, rewards [N], terminated [N], truncated [N] and infos. A diverged
        environment is terminated, with the last signals that were finite. Raises ValueError for
        other actions, ResetNeeded before the first `reset`.
        """
        raw = self._checked(actions)
        arriving = self._commands.step(self._ids, self.commands(raw).astype(np.float64))
        self.scene.step(self._random.step(self._ids, arriving))
        self._elapsed += 1
        self._randomize()
        diverged = self._look()
        score = self._score(raw, diverged)
        self._told_action, self._action = raw, raw.copy()
        self._return += score.reward
        truncated = (self._elapsed >= self._deadline) & ~score.ended
        observation, infos = self._observe(), {}
        ended = score.ended | truncated
        if ended.any():
            infos = self._conclude(ended, score, diverged, observation)
            self._reset(ids := np.flatnonzero(ended))
            observation = {name: value.copy() for name, value in observation.items()}
            for name, value in self._observe(ids).items():
                observation[name][ids] = value
        return observation, score.reward, score.ended, truncated, infos

    def stagger(self) -> None:
        """Let the running episodes end at different times, or all would in the same step.

        To be called after `reset`, for training. The times depend on the seed.
        """
        u = Streams(self._seed, {"stagger/end": 1}).uniform(self._ids, self._episode, 0)
        self._deadline[:] = 1 + u["stagger/end"][:, 0] * self.scene.episode_steps

    # What a policy is told and does.

    def signals(self) -> dict[str, Float32Array]:
        """What the policy is told now, name -> [N, *shape], for OnnxPolicy.step."""
        return {
            signal.name: self._told[signal.name]
            .astype(np.float32)
            .reshape(self.num_envs, *signal.shape)
            for signal in self.observation
            if signal.name in self._widths
        }

    @property
    def previous_action(self) -> Float32Array:
        """[N, Da] raw, as the policy is told; after a reset what it begins with."""
        return self._told_action.astype(np.float32)

    def commands(self, raw: FloatArray | Float32Array) -> Float32Array:
        """Raw actions [N, Da] -> commands, before delay, as the contract's Action says."""
        scale, offset, lower, upper = self._command_map
        return np.minimum(np.maximum(raw.astype(np.float32) * scale + offset, lower), upper)

    @property
    def disturbed(self) -> BoolArray:
        """[N] whether a random command acted in the last step, not the policy's."""
        return self._random.acted.copy()

    @property
    def elapsed(self) -> NDArray[np.int64]:
        """[N] control steps since the episodes began."""
        return self._elapsed.copy()

    # Randomisation and divergence.

    @property
    def parameter_names(self) -> tuple[str, ...]:
        """P names, "term/name", of what is drawn and lasts; records have events, too."""
        return self._parameters.names

    @property
    def parameters(self) -> FloatArray:
        """[N, P] the draws that hold now, from -1 to 1 over their distributions' ranges."""
        return self._parameters.scaled.copy()

    def divergence_report(self) -> str:
        """Which environments diverged since the seed was given, in a sentence."""
        where = np.flatnonzero(self.diverged)
        if not where.size:
            return f"none of {self.num_envs} environments diverged"
        worst = where[np.argsort(-self.diverged[where], kind="stable")][:_SHOWN]
        named = [f"{n}: {_times(int(self.diverged[n]))}" for n in sorted(worst)]
        if where.size > _SHOWN:
            named.append(f"and {where.size - _SHOWN} more, less often or as often")
        return f"{where.size} of {self.num_envs} environments diverged ({', '.join(named)})"

    # Within.

    def _set_spaces(self) -> None:
        limits = {s.name: s.clip or (-np.inf, np.inf) for s in self.observation}
        self._policy_limits = _limits(limits, {s.name: len(s.elements) for s in self.observation})
        true = {name: value.shape[1] for name, value in self.scene.signals().items()}
        self._true_limits = _limits(limits, true | {"parameters": len(self.parameter_names)})
        parts = {"policy": self._policy_limits, "privileged": self._true_limits}
        self.single_observation_space = spaces.Dict(
            {name: spaces.Box(*pair, dtype=np.float32) for name, pair in parts.items()}
        )
        size = len(self._command_map[0])
        self.single_action_space = spaces.Box(-np.inf, np.inf, (size,), np.float32)
        self.observation_space = batch_space(self.single_observation_space, self.num_envs)
        self.action_space = batch_space(self.single_action_space, self.num_envs)

    def _begin(self, seed: int) -> None:
        """Everything anew."""
        count, spec = self.num_envs, self._spec
        self._seed = seed
        self.scene.seed(seed)
        self._sensors = ObservationChannel(
            self._widths, count, seed, spec.longest("observation_latency")
        )
        self._commands = ActionChannel(self.robot.actuators, count, spec.longest("actuator_delay"))
        ones = np.ones((1, len(self._command_map[0])))
        ends = np.concatenate([self.commands(-ones), self.commands(ones)]).astype(np.float64)
        self._random = RandomActions(
            self.robot.actuators, ends.min(axis=0), ends.max(axis=0), count, seed
        )
        models = [*self.scene.models, self._sensors, self._commands, self._random]
        self._randomization = Randomization(spec, seed, count, models)
        self._parameters = EpisodeParameters(self._randomization, spec, count)
        self.diverged = np.zeros(count, np.int64)
        """[N] how often each environment has diverged since the seed was given."""
        self._episode = np.full(count, -1)
        self._elapsed, self._deadline = np.zeros((2, count), np.int64)
        self._return = np.zeros(count)
        self._action, self._told_action = np.zeros((2, count, len(self._command_map[0])))
        self._told = {name: np.zeros((count, width)) for name, width in self._widths.items()}

    def _reset(self, ids: IdArray) -> None:
        self._episode[ids] += 1
        episodes = self._episode[ids]
        self._parameters.begin(ids, self._randomization.reset(ids, episodes))
        start = self.scene.reset(ids, episodes)
        self._commands.reset(ids, start.command)
        self._random.reset(ids, episodes)
        self._sensors.reset(ids, episodes)
        # A reward counts the first change of action from zero, whatever the policy is told.
        self._told_action[ids], self._action[ids] = start.previous_action, 0
        self._elapsed[ids], self._return[ids] = 0, 0
        self._deadline[ids] = self.scene.episode_steps
        self._true = self.scene.signals()
        self._measure(ids)

    def _checked(self, actions: Float32Array) -> FloatArray:
        if not self._started:
            raise ResetNeeded("step: expected a task that was reset; call reset() first")
        raw = np.array(actions, np.float64)
        if raw.shape != self._action.shape:
            expected = f"actions {list(self._action.shape)}"
            raise ValueError(f"step: expected {expected}; found {list(raw.shape)}")
        if not np.isfinite(raw).all():
            rows = np.flatnonzero(~np.isfinite(raw).all(1)).tolist()
            raise ValueError(
                f"step: expected finite actions; found others in rows {rows[:_SHOWN]}. Check the "
                "network and its learning rate"
            )
        return raw

    def _randomize(self) -> None:
        """What falls due now acts from the next step on, where there is one."""
        ids = np.flatnonzero(self._elapsed < self._deadline)
        due = self._randomization.advance(ids, self._elapsed[ids] / self.timing.control_hz)
        self._parameters.change(due)

    def _look(self) -> IdArray:
        """Read and measure the signals; those who diverged [M] keep their last finite ones."""
        diverged = self.scene.diverged()
        last, self._true = self._true, self.scene.signals()
        if diverged.size:
            for name, value in self._true.items():
                value[diverged] = last[name][diverged]
        self._measure(self._ids)
        return diverged

    def _measure(self, ids: IdArray) -> None:
        true = {name: self._true[name] for name in self._widths}
        if ids is self._ids:  # all of them: nothing to pick out, nothing to merge
            self._told = self._sensors.measure(ids, true)
            return
        told = self._sensors.measure(ids, {name: value[ids] for name, value in true.items()})
        for name, value in told.items():
            self._told[name][ids] = value

    def _score(self, raw: FloatArray, diverged: IdArray) -> Score:
        score = self.scene.score(self._true, raw, self._action)
        score.reward[diverged] = self.scene.lost_reward
        score.ended[diverged], score.success[diverged] = True, False
        self.diverged[diverged] += 1
        return score

    def _observe(self, ids: IdArray | slice = slice(None)) -> Observations:
        """Of environments `ids` [M], or of all."""
        told = (self._told.get(signal.name, self._told_action) for signal in self.observation)
        true = (*self._true.values(), self._parameters.scaled)
        return {
            "policy": _limited([value[ids] for value in told], self._policy_limits),
            "privileged": _limited([value[ids] for value in true], self._true_limits),
        }

    def _conclude(
        self, ended: BoolArray, score: Score, diverged: IdArray, observation: Observations
    ) -> dict[str, Any]:
        """The infos of a step that ends episodes; keeps their records where asked to."""
        ids = np.flatnonzero(ended)
        record: Columns = {
            "return": self._return[ids],
            "length": self._elapsed[ids],
            "success": score.success[ids],
            "final_distance": score.distance[ids],
            "diverged": np.isin(ids, diverged),
        }
        drawn = self._parameters
        record |= dict(zip(drawn.recorded_names, drawn.recorded[ids].T, strict=True))
        if self.episodes is not None:
            which = {"environment": ids, "episode": self._episode[ids]}
            self.episodes.append(which | {name: value.copy() for name, value in record.items()})
        final_info: Columns = {}
        for name, value in record.items():
            final_info[name] = np.zeros(self.num_envs, value.dtype)
            final_info[name][ids] = value
            final_info[f"_{name}"] = ended
        return {
            "final_obs": observation,
            "_final_obs": ended,
            "final_info": final_info,
            "_final_info": ended,
        }


def _require_in_time(spec: Spec, episode_s: float) -> None:
    """Raise InputError for events that no episode lasts long enough to meet."""
    late = [
        Violation(
            f"term {term.name}.{'at_s' if term.at_s else 'interval_s'}",
            f"a lowest {'time' if term.at_s else 'interval'} below the {episode_s:g} s of an "
            "episode", str(list(term.times_s)), "shorten it, or remove the term"
        )
        for term in spec.terms
        if term.parameter in EVENTS and term.times_s and term.times_s[0] >= episode_s
    ]  # fmt: skip
    if late:
        raise InputError(late)


def _joined(actions: tuple[Action, ...]) -> tuple[Float32Array, ...]:
    """Scale, offset, lower and upper limits [Da]; float32, as on the robot."""
    fields = ("scale", "offset", "lower", "upper")
    values = ([x for action in actions for x in getattr(action, field)] for field in fields)
    return tuple(np.array(value, np.float32) for value in values)


def _limits(
    clips: dict[str, tuple[float, float]], widths: dict[str, int]
) -> tuple[Float32Array, Float32Array]:
    """Lower and upper limits [D] of signals by name and width."""
    free = (-np.inf, np.inf)
    rows = [clips.get(name, free) for name, width in widths.items() for _ in range(width)]
    low, high = np.array(rows, np.float32).reshape(-1, 2).T.copy()
    return low, high


def _limited(parts: list[FloatArray], limits: tuple[Float32Array, Float32Array]) -> Float32Array:
    joined = np.concatenate(parts, axis=1, dtype=np.float32, casting="same_kind")
    np.maximum(joined, limits[0], out=joined)
    return np.minimum(joined, limits[1], out=joined)


def _times(count: int) -> str:
    return "once" if count == 1 else f"{count} times"
