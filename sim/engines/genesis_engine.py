"""Genesis (genesis-world), on the CPU or a GPU, in single precision.

The first build for a model on a machine compiles for minutes; later ones read Genesis's cache
below XDG_CACHE_HOME (or ~/.cache).
"""

# Compiled modules of the simulators ship no type information.
# pyright: reportAttributeAccessIssue=false

from __future__ import annotations

import contextlib
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

with contextlib.suppress(ImportError):
    # Genesis looks for pip, after which setuptools, which torch compiles with, cannot be loaded.
    import setuptools  # noqa: F401
import genesis as gs
import mujoco
import numpy as np
import torch
from genesis.utils.misc import qd_to_torch
from torch import Tensor

from robot_policies.strict import InputError, Violation
from sim.draws import FloatArray
from sim.engines.engine import Engine
from sim.engines.model import Indices, Model
from sim.randomization import IdArray
from sim.randomization_terms import PARAMETERS

AGREEMENT = 1e-5
"""Relative; single precision leaves some 1e-7."""


class GenesisEngine(Engine):
    """Steps all environments in one Genesis scene.

    Models keep to what both engines understand; contacts follow Genesis's own solver, so compare
    them with MuJoCo's only statistically.
    """

    name = "genesis"

    def __init__(
        self, path: Path, count: int, timestep: float, substeps: int, threads: int, device: str
    ) -> None:
        """See sim.engines.create."""
        super().__init__(path, count, timestep, substeps)
        _initialise(device, threads)
        self._scene, robot = _scene(self.model, count, self.control_period_s, substeps)
        self._solver: Any = self._scene.sim.rigid_solver
        self._map = _Map(self.model.mj, robot)
        _require_agreement(self)
        mj = self.model.mj
        limited = mj.actuator_ctrllimited.astype(bool)[:, None]
        self._limits = np.where(limited, mj.actuator_ctrlrange, [-np.inf, np.inf]).T
        self._driven = _run_or_list(self._dofs(np.arange(mj.nu), of_actuators=True))
        self._failed = np.zeros(count, bool)
        self._latest: tuple[Tensor, Tensor] | None = None  # what `_state` read

    def diverged(self) -> IdArray:
        """See Engine."""
        self._state()
        return np.flatnonzero(self._failed)

    def current(self, parameter: str, names: Sequence[str]) -> FloatArray:
        """What Genesis itself has for a parameter now: [N, K, ...], K names."""
        at = self.model.ids(_kind(parameter), names)
        return _numpy(self._current(parameter, at))

    def _reset(self, ids: IdArray, qpos: FloatArray, qvel: FloatArray) -> None:
        q, v = np.empty_like(qpos), np.empty_like(qvel)
        q[:, self._map.q], v[:, self._map.dof] = qpos, qvel
        self._solver.set_dofs_velocity(_tensor(v), envs_idx=_index(ids), skip_forward=True)
        self._solver.set_qpos(_tensor(q), envs_idx=_index(ids))  # brings poses up to date, too
        self._failed[ids], self._latest = False, None

    def _step(
        self, command: FloatArray, pushed: IdArray, bodies: Indices, force: FloatArray
    ) -> None:
        self._state()
        if self._failed.any():  # Genesis would halt all: these wait at the start for their reset
            failed = np.flatnonzero(self._failed)
            mj = self.model.mj
            self._reset(
                failed, np.tile(mj.qpos0, (failed.size, 1)), np.zeros((failed.size, mj.nv))
            )
            self._failed[failed] = True
        targets = np.clip(command, *self._limits)
        self._solver.control_dofs_position(_tensor(targets), self._driven)
        if pushed.size:
            self._push(pushed, bodies, force)
        self._scene.step(update_visualizer=False)
        self._latest = None

    def _push(self, ids: IdArray, bodies: Indices, force: FloatArray) -> None:
        """For the next control step, after which Genesis clears forces."""
        (envs, row), (links, column) = (np.unique(x, return_inverse=True) for x in (ids, bodies))
        every = np.zeros((envs.size, links.size, 3))
        every[row, column] = force
        self._solver.apply_links_external_wrench(
            force=_tensor(every),
            links_idx=self._map.link[links].tolist(),
            envs_idx=_index(envs),
            ref=gs.constants.link_ref_frame.link_COM,
        )

    def _state(self) -> tuple[Tensor, Tensor]:
        """Positions and velocities, in Genesis's order; notices who failed.

        Genesis leaves the state of an environment as it was before it failed.
        """
        if self._latest is None:
            self._latest = self._solver.get_qpos(), self._solver.get_dofs_velocity()
            finite = self._latest[0].isfinite().all(1) & self._latest[1].isfinite().all(1)
            failed = self._solver.get_error_envs_mask() | ~finite
            self._failed |= failed.cpu().numpy()
        return self._latest

    def _joints(self, field: str, ids: Indices) -> FloatArray:
        mj = self.model.mj
        positions, velocities = self._state()
        if field == "joint_position":
            return _numpy(positions)[:, self._map.q[mj.jnt_qposadr[ids]]]
        return _numpy(velocities)[:, self._map.dof[mj.jnt_dofadr[ids]]]

    def _bodies(self, field: str, ids: Indices) -> FloatArray:
        links = self._map.link[ids]
        if field == "body_position":
            return _numpy(self._solver.get_links_pos())[:, links]
        return _numpy(self._solver.get_links_quat())[:, links][..., [1, 2, 3, 0]]

    def _set(self, parameter: str, at: Indices, ids: IdArray, values: FloatArray) -> None:
        # Genesis's own setters of DERIVED_FROM derive at every call: milliseconds each.
        links, dofs = self._solver.dyn_info.links, self._solver.dyn_info.dofs
        if parameter == "mass":
            self._write(links.inertial_mass, ids, self._map.link[at], values)
        elif parameter == "inertia":
            tensors = values[..., None] * np.eye(3)
            self._write(links.inertial_i, ids, self._map.link[at], tensors)
        elif parameter == "centre_of_mass":
            self._write(links.inertial_pos, ids, self._map.link[at], values)
        elif parameter == "armature":
            self._write(dofs.armature, ids, self._dofs(at, of_actuators=False), values)
        elif parameter == "friction":
            ratio = values / self.model.mj.geom_friction[at, 0]
            ratios = self._solver.dyn_state.geoms.friction_ratio
            self._write(ratios, ids, self._map.geom[at], ratio)
        else:
            which = self._dofs(at, of_actuators=parameter in ("kp", "kd"))
            set_values = getattr(self._solver, f"set_dofs_{_OF_DOFS[parameter]}")
            set_values(_tensor(values), which.tolist(), _index(ids))

    def _write(self, field: Any, ids: IdArray, columns: Indices, values: FloatArray) -> None:
        """Into Genesis's own memory, which holds [N, links, dofs or geoms, ...]."""
        own = qd_to_torch(field, transpose=True, copy=False)
        own[_index(ids)[:, None], _index(columns)] = _tensor(values)

    def _derive(self, ids: IdArray) -> None:
        self._solver._refresh_invweight_and_meaninertia(envs_idx=_index(ids))

    def _current(self, parameter: str, at: Indices) -> Tensor:
        solver = self._solver
        if parameter in _OF_LINKS:
            values = getattr(solver, f"get_links_{_OF_LINKS[parameter]}")()[:, self._map.link[at]]
            return values.diagonal(dim1=-2, dim2=-1) if parameter == "inertia" else values
        if parameter == "friction":
            geoms = self._map.geom[at]
            return solver.get_geoms_friction()[geoms] * solver.get_geoms_friction_ratio()[:, geoms]
        dofs = self._dofs(at, of_actuators=parameter in ("kp", "kd"))
        return getattr(solver, f"get_dofs_{_OF_DOFS[parameter]}")(dofs.tolist())

    def _dofs(self, at: Indices, of_actuators: bool) -> Indices:
        joints = self.model.joint_of(at) if of_actuators else at
        return self._map.dof[self.model.mj.jnt_dofadr[joints]]


# What Genesis calls the parameters.
_OF_LINKS = {"mass": "mass", "inertia": "inertia", "centre_of_mass": "COM"}
_OF_DOFS = {
    "damping": "damping",
    "armature": "armature",
    "stiffness": "stiffness",
    "kp": "kp",
    "kd": "kv",
}


class _Map:
    """Where Genesis has what MuJoCo has at an index; -1 where it has nothing."""

    def __init__(self, mj: mujoco.MjModel, robot: Any) -> None:
        links = {link.name: link.idx for link in robot.links}
        geoms = {geom.metadata.get("name"): geom.idx for geom in robot.geoms}
        self.link = np.array([links.get(mj.body(b).name, -1) for b in range(mj.nbody)])
        self.geom = np.array([geoms.get(mj.geom(g).name, -1) for g in range(mj.ngeom)])
        self.q, self.dof = np.full(mj.nq, -1), np.full(mj.nv, -1)
        joints = {joint.name: joint for joint in robot.joints}
        for j in range(mj.njnt):
            # A joint without a name is called as its body.
            joint = joints[mj.joint(j).name or mj.body(mj.jnt_bodyid[j]).name]
            first_q, first_dof = mj.jnt_qposadr[j], mj.jnt_dofadr[j]
            self.q[first_q : first_q + len(joint.qs_idx)] = joint.qs_idx
            self.dof[first_dof : first_dof + len(joint.dofs_idx)] = joint.dofs_idx
        self._pieces = Counter(geom.metadata.get("name") for geom in robot.geoms)

    def missing(self, mj: mujoco.MjModel) -> Iterator[tuple[str, str, str]]:
        """Where, what was expected and what found, of what Genesis has not, or has in pieces."""
        for body in 1 + np.flatnonzero(self.link[1:] < 0):
            where = mj.body(body).name or f"body {body}, which has no name"
            yield where, "a body that Genesis has, too", "none of this name"
        touching = np.flatnonzero(mj.geom_contype | mj.geom_conaffinity)
        for name in [mj.geom(geom).name for geom in touching]:
            if name and self._pieces[name] != 1:
                yield name, "one geom in Genesis", f"{self._pieces[name]} of this name"


def _weightless(mj: mujoco.MjModel) -> Iterator[tuple[str, str, str]]:
    for body in np.flatnonzero(mj.body_gravcomp):
        yield mj.body(body).name, "no gravcomp, which Genesis leaves out", "some"


_threads = 0
"""Of Genesis in this process, once it has begun; 0 before."""


def _initialise(device: str, threads: int) -> None:
    """Begin with Genesis, which is done once in a process."""
    global _threads
    backend = gs.gpu if device == "gpu" else gs.cpu
    if not gs._initialized:
        os.environ["QD_NUM_THREADS"] = str(threads)
        gs.init(backend=backend, precision="32", logging_level="warning")
        _threads = threads
    if not gs.use_zerocopy:
        raise ValueError(
            "GS_ENABLE_ZEROCOPY: expected Genesis to share its memory with torch; found that off. "
            "Remove the variable"
        )
    if threads != _threads:
        expected = f"{_threads}, as in the first use of Genesis in this process"
        raise ValueError(f"threads: expected {expected}; found {threads}")
    if (gs.backend == gs.cpu) != (device == "cpu"):
        raise ValueError(
            f"device: expected {gs.backend.name}, which Genesis runs on; found {device}"  # pyright: ignore[reportOptionalMemberAccess]
        )


def _scene(model: Model, count: int, control_period_s: float, substeps: int) -> tuple[Any, Any]:
    scene = gs.Scene(
        sim_options=gs.options.SimOptions(
            dt=control_period_s, substeps=substeps, gravity=tuple(model.mj.opt.gravity)
        ),
        rigid_options=gs.options.RigidOptions(
            integrator=gs.integrator.implicitfast,
            batch_links_info=True,
            batch_dofs_info=True,
            # As MuJoCo: what touches in the file's own pose collides, too.
            enable_neutral_collision=True,
        ),
        show_viewer=False,
    )
    robot = scene.add_entity(
        # None and False: no rotor inertia and no frames but those in the file.
        gs.morphs.MJCF(
            file=str(model.path), default_armature=None, align=False, visualization=False
        )
    )
    scene.build(n_envs=count)
    return scene, robot


def _require_agreement(engine: GenesisEngine) -> None:
    if violations := list(_disagreements(engine)):
        raise InputError(violations)


def _disagreements(engine: GenesisEngine) -> Iterator[Violation]:
    """Where Genesis read something else from the file than MuJoCo."""
    mend = "change the model so that both engines read it alike, or use mujoco"
    unlike = [*engine._map.missing(engine.model.mj), *_weightless(engine.model.mj)]
    if unlike:
        for where, expected, found in unlike:
            yield Violation(f"{engine.model.path.name} {where}", expected, found, mend)
        return  # what is missing cannot be compared
    for parameter in sorted(engine.capabilities - {"push"}):
        for name in engine.names(_kind(parameter)):
            expected = engine.nominal(parameter, (name,))[0]
            found = engine.current(parameter, (name,))[0, 0]
            if not np.allclose(found, expected, rtol=AGREEMENT, atol=1e-8):
                where = f"{engine.model.path.name} {name}.{parameter}"
                yield Violation(where, f"{expected} as in MuJoCo", f"{found} in Genesis", mend)


def _kind(parameter: str) -> str:
    return PARAMETERS[parameter].of


def _run_or_list(indices: Indices) -> slice | list[int]:
    """A slice, for Genesis the quicker, where the indices follow each other."""
    together = indices.size > 0 and (np.diff(indices) == 1).all()
    return slice(int(indices[0]), int(indices[-1]) + 1) if together else indices.tolist()


def _index(ids: IdArray) -> Tensor:
    return torch.as_tensor(np.asarray(ids, np.int32), device=gs.device)


def _tensor(values: FloatArray) -> Tensor:
    return torch.as_tensor(np.ascontiguousarray(values, np.float32), device=gs.device)


def _numpy(values: Tensor) -> FloatArray:
    return values.cpu().numpy().astype(np.float64)
