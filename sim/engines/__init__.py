"""Batched simulation of one robot: MuJoCo and Genesis behind one small interface.

    from sim import engines
    engine = engines.create("mujoco", ARM, count=1024, timestep=0.002, substeps=10, threads=2)
    ids = np.arange(engine.count)
    engine.reset(ids, joint_position, joint_velocity)      # [M, J] each
    engine.step(command)                                   # [N, actuators], substeps inside
    hand = engine.read("site_position", ["hand"])          # [N, 1, 3] m, world
    engine.reset(engine.diverged(), ...)

An engine has parameters for sim/randomization.py to set. Arrays are numpy; SI units; world ENU;
quaternions xyzw. A model is an MJCF file: those of this project lie in sim/models/.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from sim.engines.engine import Engine
from sim.engines.model import Model
from sim.randomization_terms import ENGINES

__all__ = ["ARM", "ARM_PUSH", "ENGINES", "Engine", "Model", "create"]

ARM = Path(__file__).parents[1] / "models" / "arm7.xml"
"""The seven-joint arm: joints and actuators joint1 to joint7, bodies link1 to link7, site hand."""

ARM_PUSH = ARM.with_name("arm7_push.xml")
"""The same with the body box, which lies free on the floor."""


def create(
    engine: str, path: Path, count: int, *, timestep: float, substeps: int, threads: int,
    device: Literal["cpu", "gpu"] = "cpu",
) -> Engine:  # fmt: skip
    """Simulate `count` robots of the MJCF at `path`.

    timestep  s of one step of the engine
    substeps  such steps within one control step, which is what Engine.step advances
    threads   of the engine, not counting the libraries' own; Genesis keeps to those of its first
              use in a process
    device    gpu with genesis only

    Raises ValueError for what cannot be, InputError for a model that the engine cannot simulate,
    ImportError where the engine is not installed.
    """
    if engine not in ENGINES:
        raise ValueError(f"engine: expected one of {', '.join(ENGINES)}; found {engine}")
    if engine == "genesis":
        from sim.engines.genesis_engine import GenesisEngine

        return GenesisEngine(path, count, timestep, substeps, threads, device)
    if device != "cpu":
        raise ValueError(f"device: expected cpu, where MuJoCo runs; found {device}")
    from sim.engines.mujoco_engine import MujocoEngine

    return MujocoEngine(path, count, timestep, substeps, threads)
