"""Measure the engines: what the interface and randomisation cost, and whether they agree.

(a), (b) the speed of 1024 seven-joint arms with randomisation, as a share of the bare engine's,
         which steps the same arms after the same targets, and does nothing else. With it,
         config/randomization_example.yaml is applied wherever an episode ends (episodes end at
         different times) and falls due within one, and joint states and divergence are read after
         every control step. A second line is the whole task arm-reach: also the hand's position,
         which costs kinematics, the noise and latency of what a policy observes, the delay of
         its commands, rewards and records; it has no goal.
(c)      the largest difference between the joints of MuJoCo and of Genesis over 1000 steps of
         2 ms, without contact: the arms as in the file, and randomised.
(d)      whether randomisation draws the same numbers for both.

    python benchmarks/engines.py

Control steps of the bare engine and of the others take turns. Exit code 1 when a goal is missed.
"""

from __future__ import annotations

import os
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import mujoco
import numpy as np
import tyro

from sim import engines
from sim.channels import ActionChannel, ObservationChannel
from sim.draws import FloatArray
from sim.engines import ARM, Engine
from sim.randomization import Randomization
from sim.randomization_terms import load
from sim.tasks import Task
from sim.tasks.arm import ARM7
from sim.tasks.reach import Reach

SHARE_GOAL = 0.9
DIFFERENCE_GOAL_RAD = 1e-5
RANDOMIZATION = Path(__file__).parents[1] / "config" / "randomization_example.yaml"
TIMESTEP_S = 0.002
BENT = np.array([0.0, 0.5, 0.0, 1.5, 0.0, 0.8, 0.0])


@dataclass(frozen=True)
class Options:
    """What to measure, and for how long."""

    engines: tuple[str, ...] = ("mujoco", "genesis")
    count: int = 1024
    threads: int = 2
    substeps: int = 10
    """Steps of 2 ms in a control step."""
    episode: int = 100
    """Control steps."""
    repeats: int = 15
    steps: int = 20
    """Control steps of one repeat."""
    compared: int = 8
    """Arms in (c) and (d)."""
    seed: int = 0


class Arms:
    """Arms that follow smooth targets; their episodes end at different times."""

    def __init__(self, engine: Engine, options: Options) -> None:
        self.engine = engine
        self.randomization = randomization(engine, options.seed)
        self._episodes = np.zeros(engine.count, np.int64)
        self._ends = np.arange(engine.count) % options.episode
        self._ids, self._begun = np.arange(engine.count), np.zeros(engine.count)
        self._length = options.episode
        self._step = 0
        self._reset(np.arange(engine.count))

    def step(self) -> None:
        """One control step, what a policy observes, and the resets that are due."""
        self._step += 1
        self.engine.step(targets(self.engine.count, self._step))
        self.engine.read("joint_position")
        self.engine.read("joint_velocity")
        self.engine.diverged()
        running = (self._step - self._begun) * self.engine.control_period_s
        self.randomization.advance(self._ids, running)
        ends = np.flatnonzero(self._ends == self._step % self._length)
        if ends.size:
            self._reset(ends)

    def _reset(self, ids: np.ndarray) -> None:
        self.randomization.reset(ids, self._episodes[ids])
        self._episodes[ids] += 1
        self._begun[ids] = self._step
        self.engine.reset(ids, np.tile(BENT, (ids.size, 1)), np.zeros((ids.size, BENT.size)))


def main(options: Options) -> int:
    print_setting(options)
    held = [share(name, options) for name in options.engines]
    if len(options.engines) == 2:
        held += [difference(options, randomized=False), difference(options, randomized=True)]
        held.append(same_draws(options))
    return 0 if all(held) else 1


# (a) and (b).


def share(name: str, options: Options) -> bool:
    """Print the speed with randomisation as a share of the bare engine's."""
    arms = Arms(create(name, options.count, options.substeps, options), options)  # starts Genesis
    bare = {"mujoco": bare_mujoco, "genesis": bare_genesis}[name](options)
    rates = take_turns([bare, arms.step, whole_task(name, options)], options)
    print(f"{name}, k steps/s: bare {cell(rates[0], 1e3)}")
    shares = [[b / a for a, b in zip(rates[0], with_it, strict=True)] for with_it in rates[1:]]
    met = statistics.median(shares[0]) >= SHARE_GOAL
    print(
        f"{name} with randomisation {cell(rates[1], 1e3)}, share {cell(shares[0])}; goal "
        f"{SHARE_GOAL} {'held' if met else 'MISSED'}\n"
        f"{name}, the whole of arm-reach {cell(rates[2], 1e3)}, share {cell(shares[1])}",
        flush=True,
    )
    return met


def whole_task(name: str, options: Options) -> Callable[[], None]:
    """A control step of arm-reach, after the same targets."""
    period_s = TIMESTEP_S * options.substeps
    arm = replace(
        ARM7, control_hz=1 / period_s, substeps=options.substeps,
        episode_s=options.episode * period_s,
    )  # fmt: skip
    scene = Reach(arm, engine=name, count=options.count, threads=options.threads, device="cpu")
    task = Task(scene, load(RANDOMIZATION), options.seed)
    task.reset(seed=options.seed)
    task.stagger()
    (action,) = task.action
    moment = iter(range(10**9))

    def step() -> None:
        command = targets(options.count, next(moment))
        task.step(((command - action.offset) / action.scale).astype(np.float32))

    return step


def take_turns(steppers: list[Callable[[], None]], options: Options) -> list[list[float]]:
    """The rates, in single steps per second, of every repeat of each; turns are control steps."""
    rates: list[list[float]] = [[] for _ in steppers]
    steps = options.steps * options.substeps * options.count
    for repeat in range(options.repeats + 1):
        seconds = [0.0 for _ in steppers]
        for _ in range(options.steps):
            for n, step in enumerate(steppers):
                begun = time.perf_counter()
                step()
                seconds[n] += time.perf_counter() - begun
        if repeat:  # the first warms up
            for kept, taken in zip(rates, seconds, strict=True):
                kept.append(steps / taken)
    return rates


def bare_mujoco(options: Options) -> Callable[[], None]:
    """A control step of mujoco.batch alone."""
    from mujoco.batch import Batch

    model = mujoco.MjModel.from_xml_path(str(ARM))
    batch = Batch(model, options.count, options.threads)
    batch.qpos[:] = BENT
    moment = iter(range(10**9))

    def step() -> None:
        batch.ctrl[:] = targets(options.count, next(moment))
        batch.step(nstep=options.substeps)

    return step


def bare_genesis(options: Options) -> Callable[[], None]:
    """A control step of a Genesis scene alone, whose arms share their parameters."""
    import genesis as gs
    import torch

    scene = gs.Scene(
        sim_options=gs.options.SimOptions(
            dt=TIMESTEP_S * options.substeps, substeps=options.substeps
        ),
        rigid_options=gs.options.RigidOptions(
            integrator=gs.integrator.implicitfast, enable_neutral_collision=True
        ),
        show_viewer=False,
    )
    arm = scene.add_entity(
        gs.morphs.MJCF(file=str(ARM), default_armature=None, align=False, visualization=False)
    )
    scene.build(n_envs=options.count)
    arm.set_qpos(torch.as_tensor(np.tile(BENT, (options.count, 1)), dtype=torch.float32))
    moment = iter(range(10**9))

    def step() -> None:
        command = targets(options.count, next(moment))
        arm.control_dofs_position(torch.as_tensor(command, dtype=torch.float32))
        scene.step(update_visualizer=False)

    return step


# (c) and (d).


def difference(options: Options, randomized: bool) -> bool:
    """Print how far the engines' joints part within 1000 steps."""
    paths = []
    for name in options.engines:
        engine = create(name, options.compared, 1, options)
        ids = np.arange(engine.count)
        if randomized:
            randomization(engine, options.seed).reset(ids, 0)
        engine.reset(ids, np.tile(BENT, (ids.size, 1)), np.zeros((ids.size, BENT.size)))
        path = []
        for step in range(1000):
            engine.step(targets(engine.count, step, period=500))
            path.append(engine.read("joint_position"))
        paths.append(np.stack(path))
    worst = float(np.abs(paths[0] - paths[1]).max())
    moved = float(np.ptp(paths[0], axis=0).max())
    met = worst <= DIFFERENCE_GOAL_RAD
    which = "randomised arms" if randomized else "arms as in the file"
    print(
        f"{' against '.join(options.engines)}, {options.compared} {which}, 1000 steps: at most "
        f"{worst:.2g} rad apart (they move {moved:.2g} rad); goal {DIFFERENCE_GOAL_RAD:g} "
        f"{'held' if met else 'MISSED'}",
        flush=True,
    )
    return met


def same_draws(options: Options) -> bool:
    """Print whether both engines' arms get the same draws, and are told the same values."""
    ids, found = np.arange(options.compared), []
    for name in options.engines:
        drawn = randomization(create(name, options.compared, 1, options), options.seed)
        draws = drawn.reset(ids, 3)
        found.append(drawn.records(draws))
    equal = found[0].keys() == found[1].keys() and all(
        np.array_equal(found[0][column], found[1][column]) for column in found[0]
    )
    print(f"draws of {len(found[0])} numbers for each arm: {'equal' if equal else 'DIFFERENT'}")
    return equal


# What all share.


def create(name: str, count: int, substeps: int, options: Options) -> Engine:
    return engines.create(
        name, ARM, count, timestep=TIMESTEP_S, substeps=substeps, threads=options.threads
    )


def randomization(engine: Engine, seed: int) -> Randomization:
    spec = load(RANDOMIZATION)
    signals = {"joint_position": 7, "joint_velocity": 7}
    latency, delay = spec.longest("observation_latency"), spec.longest("actuator_delay")
    observation = ObservationChannel(signals, engine.count, seed, latency)
    action = ActionChannel(engine.names("actuators"), engine.count, delay)
    return Randomization(spec, seed, engine.count, [engine, observation, action])


def targets(count: int, step: int, period: int = 50) -> FloatArray:
    """Smooth from the pose at the start, another for each arm: [count, 7] rad."""
    swing = 0.1 * np.sin(1 + np.arange(count * BENT.size)).reshape(count, -1)
    return BENT + swing * (1 - np.cos(2 * np.pi * step / period))


def cell(values: list[float], unit: float = 1) -> str:
    middle, low, high = (f(values) / unit for f in (statistics.median, min, max))
    return f"{middle:.4g} [{low:.4g}, {high:.4g}]"


def print_setting(options: Options) -> None:
    load_now = ", ".join(f"{value:.1f}" for value in os.getloadavg())
    print(
        f"{os.cpu_count()} cores, load {load_now}; MuJoCo {mujoco.__version__}; {options.count} "
        f"arms, {options.threads} thread(s), {options.substeps} steps of 2 ms in a control step, "
        f"episodes of {options.episode} control steps, seed {options.seed}; median and range of "
        f"{options.repeats} repeats of {options.steps} control steps",
        flush=True,
    )


if __name__ == "__main__":
    try:
        sys.exit(main(tyro.cli(Options, description=__doc__)))
    except (ImportError, ValueError) as error:
        print(f"engines: {error}", file=sys.stderr)
        sys.exit(2)
