"""Measure reinforcement learning of arms: how fast, how robust, and what a memory is worth.

reach       arm-reach by PPO: the distance from the target at the end of an episode, after at most
            five minutes; and samples per second against Stable-Baselines3's PPO in the same
            environments, with the same networks, batches, epochs and steps, and with normalised
            observations, in turns.
shifted     policies trained with and without randomisation, on the same budget, on five robots
            that differ from the model.
unseen      feed-forward, recurrent and context policies, trained with the same randomisation and
            budget, on ten robots from beyond its ranges.

    python benchmarks/reinforcement.py reach --output runs/reinforcement

The robots to report were never trained on, and nothing was chosen by them. Episodes are paired.
Brackets are 95 % intervals over episodes, of means over the training seeds; behind them the lowest
and the highest seed. OUTPUT keeps the runs, for all three: called again, the command goes on. Exit
code 1 when a goal is missed.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
import tyro
import yaml
from gymnasium import spaces
from scipy import stats

from robot_policies import load_policy
from robot_policies.tables import text_table
from sim.randomization_terms import Spec, Term, load
from sim.reinforcement import (
    Network,
    ReinforcementConfig,
    collect,
    groups,
    make_ppo,
    make_task,
    train_bundle,
)
from sim.runs import plain
from sim.tasks import Task
from sim.tasks.evaluation import Evaluation, evaluate
from sim.tasks.evaluation import Options as Evaluated

DISTANCE_GOAL_M, SECONDS_GOAL, SPEED_GOAL = 0.02, 300.0, 1.2
RANDOMIZATION = Path(__file__).parents[1] / "config" / "randomization_example.yaml"
JOINTS = tuple(f"joint{n}" for n in range(1, 8))
LINKS = tuple(f"link{n}" for n in range(1, 8))
TRAINED = {
    "nominal": (None, Network()),
    "randomised": (RANDOMIZATION, Network()),
    "recurrent": (RANDOMIZATION, Network(memory=64)),
    "context": (RANDOMIZATION, Network(memory=64, context=8)),
}
"""Kinds of training: what is randomised, and the network."""


@dataclass(frozen=True)
class Common:
    """Of all three."""

    output: Path
    """A folder for the runs."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Of training."""
    iterations: int | None = None
    """Of PPO; as configured where omitted."""
    threads: int = 2
    episodes: int = 500
    """Of each robot."""
    evaluation_seed: int = 7001


@dataclass(frozen=True)
class Reach(Common):
    """Accuracy and speed on arm-reach."""

    repeats: int = 11
    """Of each trainer, in turns."""


@dataclass(frozen=True)
class Shifted(Common):
    """Randomised against nominal training, on five robots."""


@dataclass(frozen=True)
class Unseen(Common):
    """With and without memory, on ten robots."""


def main(options: Reach | Shifted | Unseen) -> int:
    print(
        f"training seeds {options.seeds}, {options.threads} threads; {options.episodes} episodes "
        f"of each robot, evaluation seed {options.evaluation_seed}",
        flush=True,
    )
    torch.set_num_threads(options.threads)
    if isinstance(options, Reach):
        return 0 if all([*_reach(options)]) else 1
    if isinstance(options, Shifted):
        _compare(("nominal", "randomised"), _shifted(), options)
    else:
        _compare(("randomised", "recurrent", "context"), _unseen(), options)
    return 0


def _train(kind: str, seed: int, options: Common) -> Path:
    """The bundle of a run, trained or found."""
    file, network = TRAINED[kind]
    randomization = None if file is None else load(file)
    config = ReinforcementConfig(
        seed, "arm-reach", "mujoco", randomization=randomization, network=network
    )
    iterations = config.ppo.iterations if options.iterations is None else options.iterations
    second = iterations // 3 if network.context else 0  # two phases on the budget of one
    config = replace(config, ppo=replace(config.ppo, iterations=iterations - second))
    if second:
        config = replace(config, adaptation=replace(config.adaptation, iterations=second))
    path = options.output / f"{kind}-{seed}"
    train_bundle(
        config, path, resume=path.exists(), threads=options.threads,
        command=f"benchmarks/reinforcement.py, {kind}, seed {seed}",
    )  # fmt: skip
    return path / "bundle"


def _evaluate(bundles: Mapping[str, Path], spec: Path | None, options: Common) -> Evaluation:
    chosen = Evaluated(
        tuple(bundles), "arm-reach", "mujoco", randomization=spec, episodes=options.episodes,
        seed=options.evaluation_seed, threads=options.threads,
    )  # fmt: skip
    return evaluate({name: load_policy(path) for name, path in bundles.items()}, chosen)


# Accuracy and speed.


def _reach(options: Reach) -> Iterator[bool]:
    bundles = {f"seed {seed}": _train("nominal", seed, options) for seed in options.seeds}
    evaluation = _evaluate(bundles, None, options)
    for name, bundle in bundles.items():
        training = yaml.safe_load((bundle / "training.yaml").read_text(encoding="utf-8"))
        seconds = sum(stage["wall"] for stage in training["seconds"].values())
        distance = evaluation.figures[name]["mean final distance"]
        met = distance.value <= DISTANCE_GOAL_M and seconds <= SECONDS_GOAL
        print(
            f"{name}: mean final distance {distance} m after {seconds:.0f} s of training; goal "
            f"{DISTANCE_GOAL_M} m in {SECONDS_GOAL:.0f} s {_verdict(met)}",
            flush=True,
        )
        yield met
    yield _speed(options)


def _speed(options: Reach) -> bool:
    """Samples per second of this project's trainer and of Stable-Baselines3's, in turns."""
    config = ReinforcementConfig(
        options.seeds[0], "arm-reach", "mujoco", randomization=load(RANDOMIZATION),
        privileged_critic=False,
    )  # fmt: skip
    ours, theirs = _our_iteration(config, options), _their_iteration(config, options)
    rates: dict[str, list[float]] = {"ours": [], "Stable-Baselines3": []}
    samples = config.environments * config.ppo.steps
    for repeat in range(options.repeats + 1):
        for name, iterate in (("ours", ours), ("Stable-Baselines3", theirs)):
            begun = time.perf_counter()
            for _ in range(3):
                iterate()
            if repeat:  # the first warms up
                rates[name].append(3 * samples / (time.perf_counter() - begun))
    ratios = [a / b for a, b in zip(*rates.values(), strict=True)]
    met = statistics.median(ratios) >= SPEED_GOAL
    for name, found in rates.items():
        print(f"{name}: {_spread(found)} samples/s")
    print(f"ratio {_spread(ratios)}; goal {SPEED_GOAL} {_verdict(met)}", flush=True)
    return met


def _our_iteration(config: ReinforcementConfig, options: Reach) -> Callable[[], None]:
    task = make_task(config, options.threads)
    seen = groups(task.reset(seed=config.seed)[0], task, config)
    task.stagger()
    algorithm = make_ppo(seen, task, config)
    state = [seen]

    def iterate() -> None:
        state[0], _ = collect(algorithm, task, state[0], config)
        algorithm.update()

    return iterate


def _their_iteration(config: ReinforcementConfig, options: Reach) -> Callable[[], None]:
    from stable_baselines3 import PPO
    from stable_baselines3.common.logger import Logger
    from stable_baselines3.common.vec_env import VecEnv, VecNormalize

    task, plan = make_task(config, options.threads), config.ppo

    class Adapter(VecEnv):
        """The same task as Stable-Baselines3 wants it."""

        def __init__(self) -> None:
            size = task.single_action_space.shape
            bounded = spaces.Box(-100, 100, size, np.float32)  # it demands some bounds
            super().__init__(task.num_envs, task.single_observation_space["policy"], bounded)

        def reset(self) -> np.ndarray:
            return _reset(task)

        def step_async(self, actions: np.ndarray) -> None:
            self._actions = actions

        def step_wait(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, list[dict]]:
            told, reward, terminated, truncated, infos = task.step(self._actions)
            done = terminated | truncated
            each: list[dict] = [{} for _ in range(task.num_envs)]
            for n in np.flatnonzero(done):
                final = infos["final_obs"]["policy"][n]
                each[n] = {"terminal_observation": final, "TimeLimit.truncated": truncated[n]}
            return told["policy"], reward.astype(np.float32), done, each

        def close(self) -> None: ...
        def get_attr(self, attr_name: str, indices: object = None) -> list:
            return [None] * task.num_envs

        def set_attr(self, attr_name: str, value: object, indices: object = None) -> None: ...
        def env_method(self, method_name: str, *args: object, **kwargs: object) -> list:
            return []

        def env_is_wrapped(self, wrapper_class: type, indices: object = None) -> list[bool]:
            return [False] * task.num_envs

    samples = config.environments * plan.steps
    hidden = list(config.network.hidden)
    normalised = VecNormalize(Adapter(), norm_reward=False)  # ours are, too
    model = PPO(
        "MlpPolicy", normalised, n_steps=plan.steps, batch_size=samples // plan.mini_batches,
        n_epochs=plan.epochs, gamma=plan.discount, gae_lambda=plan.gae, device="cpu",
        policy_kwargs={"net_arch": hidden, "activation_fn": torch.nn.ELU}, seed=config.seed,
    )  # fmt: skip
    model.set_logger(Logger(None, []))  # or it leaves a folder behind at every call
    return lambda: model.learn(samples, reset_num_timesteps=False) and None


def _reset(task: Task) -> np.ndarray:
    told = task.reset(seed=0)[0]["policy"]
    task.stagger()
    return told


# Robots that nobody trained for.


def _compare(kinds: Sequence[str], robots: Mapping[str, Spec], options: Common) -> None:
    """Print, for every robot, each kind's figures, and the differences from the first kind."""
    bundles = {
        f"{kind} {seed}": _train(kind, seed, options) for kind in kinds for seed in options.seeds
    }
    first, *others = kinds
    better = dict.fromkeys(others, 0)
    rows = []
    for robot, spec in robots.items():
        file = options.output / f"{robot.replace(' ', '-')}.yaml"
        file.write_text(yaml.safe_dump(plain(spec), sort_keys=False), encoding="utf-8")
        records = _evaluate(bundles, file, options).records

        every = {
            kind: {
                name: np.stack([records[f"{kind} {seed}"][name] for seed in options.seeds])
                for name in ("final_distance", "success")
            }
            for kind in kinds
        }
        distance = {kind: 1e3 * found["final_distance"] for kind, found in every.items()}
        row = [robot]
        for kind in kinds:
            row += [_interval(distance[kind]), _share(every[kind]["success"])]
        for kind in others:
            row.append(_interval(difference := distance[kind] - distance[first]))
            better[kind] += bool(difference.mean() < 0)
        rows.append(row)
    headings = ["robot"]
    for kind in kinds:
        headings += [f"{kind}: mm", "success %"]
    headings += [f"{kind} minus {first}, mm" for kind in others]
    print(text_table(headings, rows))
    for kind, count in better.items():
        print(f"{kind}: nearer than {first} on {count} of {len(robots)} robots")


def _shifted() -> dict[str, Spec]:
    return {
        "heavy tool": _spec(_add("mass", ("link7",), 0.8)),
        "worn gears": _spec(_scale("damping", JOINTS, 3.0)),
        "soft servos": _spec(_scale("kp", JOINTS, 0.5)),
        "slow bus": _spec(_set("actuator_delay", JOINTS, 2)),
        "heavy links": _spec(
            _scale("mass_and_inertia", LINKS, 1.5),
            _set("observation_bias", ("joint_position",), 0.02),
        ),
    }


def _unseen() -> dict[str, Spec]:
    """Ten robots, drawn once from beyond the ranges of config/randomization_example.yaml."""
    generator = np.random.default_rng(7001)

    def draw(low: float, high: float) -> float:
        return round(float(generator.uniform(low, high)), 3)

    return {
        f"robot {n}": _spec(
            _scale("mass_and_inertia", LINKS[:6], draw(1.3, 1.8)),
            _add("mass", ("link7",), draw(0.5, 1.2)),
            _scale("kp", JOINTS, draw(0.4, 0.8)),
            _scale("damping", JOINTS, draw(2.0, 4.0)),
            _set("actuator_delay", JOINTS, int(generator.integers(2, 4))),
        )
        for n in range(10)
    }


def _spec(*terms: Term) -> Spec:
    return Spec(tuple(terms))


def _term(parameter: str, names: Sequence[str], operation: str, value: float) -> Term:
    fixed = {"choice": (value,), "probabilities": (1.0,)}
    return Term(parameter, parameter, tuple(names), operation, fixed, True, None)


def _scale(parameter: str, names: Sequence[str], value: float) -> Term:
    return _term(parameter, names, "scale", value)


def _add(parameter: str, names: Sequence[str], value: float) -> Term:
    return _term(parameter, names, "add", value)


def _set(parameter: str, names: Sequence[str], value: float) -> Term:
    return _term(parameter, names, "set", value)


# What all print.


def _interval(values: np.ndarray) -> str:
    """Of [training seeds, episodes]."""
    episodes, seeds = values.mean(0), values.mean(1)
    half = 1.96 * episodes.std(ddof=1) / len(episodes) ** 0.5
    mean = episodes.mean()
    return (
        f"{mean:.1f} [{mean - half:.1f}, {mean + half:.1f}] {seeds.min():.1f}..{seeds.max():.1f}"
    )


def _share(held: np.ndarray) -> str:
    """Of [training seeds, episodes], in %, by Wilson for as many episodes as one seed has."""
    seeds, episodes = 100 * held.mean(1), held.shape[1]
    found = stats.binomtest(round(held.mean() * episodes), episodes).proportion_ci(method="wilson")
    return (
        f"{seeds.mean():.1f} [{100 * found.low:.1f}, {100 * found.high:.1f}] "
        f"{seeds.min():.1f}..{seeds.max():.1f}"
    )


def _spread(values: Sequence[float]) -> str:
    middle = statistics.median(values)
    return f"{middle:.4g} [{min(values):.4g}, {max(values):.4g}]"


def _verdict(met: bool) -> str:
    return "held" if met else "MISSED"


if __name__ == "__main__":
    commands = {"reach": Reach, "shifted": Shifted, "unseen": Unseen}
    sys.exit(main(tyro.extras.subcommand_cli_from_dict(commands, description=__doc__)))
