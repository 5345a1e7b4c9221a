"""Tasks to train and evaluate policies on, as gymnasium.vector.VectorEnv.

    from sim import tasks
    task = tasks.make("arm-reach", engine="mujoco", count=1024, seed=0, threads=2,
                      randomization=load("config/randomization_example.yaml"))
    observation, _ = task.reset(seed=0)              # {"policy": [N, Do], "privileged": [N, Dp]}
    observation, reward, terminated, truncated, infos = task.step(raw_actions)     # [N, Da]

sim/tasks/README.md says what each task is, and how to bring your own robot.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from sim.randomization_terms import Spec
from sim.tasks.scene import Scene
from sim.tasks.task import Task

__all__ = ["TASKS", "Task", "make"]

TASKS = {
    "arm-reach": ("mujoco", "genesis"),
    "arm-push": ("mujoco", "genesis"),
    "quadrotor": ("torch",),
    "meta-world/pick-place": ("mujoco",),
    "meta-world/push": ("mujoco",),
    "meta-world/assembly": ("mujoco",),
    "meta-world/peg-insert-side": ("mujoco",),
    "meta-world/disassemble": ("mujoco",),
    "meta-world/stick-pull": ("mujoco",),
    "meta-world/bin-picking": ("mujoco",),
    "meta-world/basketball": ("mujoco",),
}
"""The tasks, and the engines that simulate them."""


def make(
    task: str, *, engine: str, count: int, seed: int, threads: int,
    randomization: Spec | None, robot: Path | None = None, device: Literal["cpu", "gpu"] = "cpu",
) -> Task:  # fmt: skip
    """`count` environments of one of TASKS.

    threads        of the engine; of "torch", which is one for all, of the whole process
    randomization  None: everything as in the model
    robot          a YAML file: as config/arm_example.yaml, or config/airframe_example.yaml for
                   the quadrotor; None: this project's arm, and sampled quadrotors; Meta-World
                   has its own
    device         gpu with genesis only

    Raises ValueError for what cannot be, InputError for a robot, model or randomisation that
    does not fit, FileNotFoundError without a file, ImportError where the engine is not installed.
    """
    if task not in TASKS:
        raise ValueError(f"task: expected one of {', '.join(TASKS)}; found {task}")
    if engine not in TASKS[task]:
        known = " or ".join(TASKS[task])
        raise ValueError(f"engine: expected {known}, which simulate {task}; found {engine}")
    if count < 1 or threads < 1 or seed < 0:
        expected = "count >= 1, threads >= 1 and seed >= 0"
        raise ValueError(f"{task}: expected {expected}; found {count}, {threads} and {seed}")
    spec = Spec(()) if randomization is None else randomization
    if task == "quadrotor":
        scene = _quadrotor(robot, count, threads, device, spec)
    elif task.startswith("meta-world/"):
        scene = _meta_world(task, robot, count, threads, device)
    else:
        scene = _arm(task, robot, engine, count, threads, device)
    return Task(scene, spec, seed)


def _arm(
    task: str, robot: Path | None, engine: str, count: int, threads: int,
    device: Literal["cpu", "gpu"],
) -> Scene:  # fmt: skip
    from sim.tasks import arm, push, reach

    kind, nominal = {
        "arm-reach": (reach.Reach, arm.ARM7),
        "arm-push": (push.Push, push.ARM7_PUSH),
    }[task]
    described = nominal if robot is None else arm.load(robot)
    return kind(described, engine=engine, count=count, threads=threads, device=device)


def _quadrotor(
    robot: Path | None, count: int, threads: int, device: str, spec: Spec
) -> Scene:  # fmt: skip
    if device != "cpu":
        raise ValueError(f"device: expected cpu, where the quadrotor is simulated; found {device}")
    import torch

    from sim.tasks.quadrotor import Quadrotor

    torch.set_num_threads(threads)
    return Quadrotor(robot, count, spec)


def _meta_world(
    task: str, robot: Path | None, count: int, threads: int, device: str
) -> Scene:  # fmt: skip
    if robot is not None:
        expected = "none, since Meta-World brings its own"
        raise ValueError(f"robot: expected {expected}; found {robot}")
    if device != "cpu":
        raise ValueError(f"device: expected cpu, where MuJoCo runs; found {device}")
    from sim.tasks.meta_world import PREFIX, MetaWorld

    return MetaWorld(task.removeprefix(PREFIX), count=count, threads=threads)
