"""MuJoCo's own batch of simulations (mujoco.batch), the default engine."""

# Compiled modules of the simulators ship no type information.
# pyright: reportAttributeAccessIssue=false

from __future__ import annotations

from pathlib import Path

import mujoco
import numpy as np
from mujoco.batch import Batch, SimulationError

from sim.draws import FloatArray
from sim.engines.engine import Engine
from sim.engines.model import Indices
from sim.randomization import IdArray

LARGEST = 1e10
"""What MuJoCo takes for diverged, as NaN."""

_POSITIONS = mujoco.mjtStage.mjSTAGE_POS.value
_NONE = mujoco.mjtStage.mjSTAGE_NONE.value


class MujocoEngine(Engine):
    """Steps all environments on a pool of threads; the results are the same for any number."""

    name = "mujoco"

    def __init__(
        self, path: Path, count: int, timestep: float, substeps: int, threads: int
    ) -> None:
        """See sim.engines.create."""
        super().__init__(path, count, timestep, substeps)
        if threads < 1:
            raise ValueError(f"threads: expected 1 or more; found {threads}")
        # Or MuJoCo would itself put a diverged environment at its start, unnoticed.
        self.model.mj.opt.disableflags |= mujoco.mjtDisableBit.mjDSBL_AUTORESET
        keep_quiet()
        self._batch = Batch(self.model.mj, count, threads)
        self._poses = {name: self._batch.bind(name) for name in ("xpos", "xquat", "site_xpos")}
        self._fields: dict[str, FloatArray] = {}
        self._moved = np.ones(count, bool)  # poses are old
        self._watched = False  # poses were read since the last step
        self._failed = np.zeros(count, bool)

    def diverged(self) -> IdArray:
        """See Engine."""
        states = (self._batch.qpos, self._batch.qvel)
        if not self._failed.any() and all(np.abs(x).max() < LARGEST for x in states):
            return np.empty(0, np.intp)  # as nearly always: quicker than row by row
        held = np.all([(np.abs(x) < LARGEST).all(1) for x in states], axis=0)
        return np.flatnonzero(self._failed | ~held)

    def _reset(self, ids: IdArray, qpos: FloatArray, qvel: FloatArray) -> None:
        self._batch.reset(np.sort(ids), stage=_NONE)
        self._batch.qpos[ids], self._batch.qvel[ids] = qpos, qvel
        self._moved[ids], self._failed[ids] = True, False

    def _step(
        self, command: FloatArray, pushed: IdArray, bodies: Indices, force: FloatArray
    ) -> None:
        self._batch.ctrl[:] = command
        self._batch.xfrc_applied[pushed, bodies, :3] = force
        # After a step, poses are those before its last substep. To bring them up to date at once
        # is cheaper than later, but for nothing where nobody reads them.
        stage, self._moved[:] = (_POSITIONS, False) if self._watched else (_NONE, True)
        self._watched = False
        try:
            self._batch.step(nstep=self.substeps, stage=stage)
        except SimulationError as error:
            self._failed[error.ids] = True
        self._batch.xfrc_applied[pushed, bodies, :3] = 0

    def _displace(self, ids: IdArray, bodies: Indices, offset: FloatArray) -> None:
        mj = self.model.mj
        columns = mj.jnt_qposadr[mj.body_jntadr[bodies]][:, None] + np.arange(2)
        self._batch.qpos[ids[:, None], columns] += offset

    def _joints(self, field: str, ids: Indices) -> FloatArray:
        mj = self.model.mj
        if field == "joint_position":
            return self._batch.qpos[:, mj.jnt_qposadr[ids]]
        return self._batch.qvel[:, mj.jnt_dofadr[ids]]

    def _sites(self, field: str, ids: Indices) -> FloatArray:
        if field == "site_position":  # MuJoCo has it ready; site_quaternion_xyzw it has not
            self._update_poses()
            return self._poses["site_xpos"][:, ids]
        return super()._sites(field, ids)

    def _bodies(self, field: str, ids: Indices) -> FloatArray:
        self._update_poses()
        if field == "body_position":
            return self._poses["xpos"][:, ids]
        return self._poses["xquat"][:, ids][..., [1, 2, 3, 0]]

    def _update_poses(self) -> None:
        self._watched = True
        if self._moved.any():
            self._batch.forward(self._moved, stage=_POSITIONS)
            self._moved[:] = False

    def _set(self, parameter: str, at: Indices, ids: IdArray, values: FloatArray) -> None:
        mj, rows = self.model.mj, ids[:, None]
        if parameter in ("damping", "armature"):
            self._own(f"dof_{parameter}")[rows, mj.jnt_dofadr[at]] = values
        elif parameter == "friction":
            self._own("geom_friction")[rows, at, 0] = values
        elif parameter == "kp":
            self._own("actuator_gainprm")[rows, at, 0] = values
            self._own("actuator_biasprm")[rows, at, 1] = -values
        elif parameter == "kd":
            self._own("actuator_biasprm")[rows, at, 2] = -values
        else:
            self._own(_FIELDS[parameter])[rows, at] = values

    def _own(self, name: str) -> FloatArray:
        """A field of the model, of every environment its own: [N, ...]."""
        if name not in self._fields:
            self._fields[name] = self._batch.expand(name)
        return self._fields[name]

    def _derive(self, ids: IdArray) -> None:
        self._batch.set_const(ids)


_FIELDS = {
    "mass": "body_mass",
    "inertia": "body_inertia",
    "centre_of_mass": "body_ipos",
    "stiffness": "jnt_stiffness",
}


def keep_quiet() -> None:
    """Warnings of divergence are counted by `diverged`, not written into the working folder."""
    log = mujoco.MjLogConfig.get()
    log.logto_console = log.logto_file = False
    log.set()
