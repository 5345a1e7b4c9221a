"""What every engine does alike; mujoco_engine.py and genesis_engine.py add the physics."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np

from robot_policies.rotation import to_matrix
from sim.draws import FloatArray
from sim.engines.model import Indices, Model
from sim.randomization import IdArray
from sim.randomization_terms import DISPLACEMENT, ENGINES, PARAMETERS, PUSH, engines_with

FIELDS = {
    "joint_position": "joints",
    "joint_velocity": "joints",
    "body_position": "bodies",
    "body_quaternion_xyzw": "bodies",
    "site_position": "sites",
    "site_quaternion_xyzw": "sites",
}
"""What can be read, and of what."""

DERIVED_FROM = frozenset({"mass", "inertia", "centre_of_mass", "armature"})
"""Parameters from which engines derive others, such as the inverse weights of contacts."""


class Engine(ABC):
    """N copies of a robot, each with parameters of its own (see sim.randomization.Parameters)."""

    name: ClassVar[str]

    def __init__(self, path: Path, count: int, timestep: float, substeps: int) -> None:
        """See sim.engines.create."""
        if count < 1 or substeps < 1 or not timestep > 0:
            expected = "count >= 1, substeps >= 1 and timestep > 0 s"
            raise ValueError(f"{expected}; found {count}, {substeps} and {timestep}")
        self.model = Model(path, timestep)
        self.count = count
        self.substeps = substeps
        self.control_period_s = timestep * substeps
        self._impulse = np.zeros((count, self.model.mj.nbody, 3))  # N s, of the next step
        self._pushed = np.zeros((count, self.model.mj.nbody), bool)  # who has one
        self._offset = np.zeros((count, self.model.mj.nbody, 2))  # m, at the next step's begin
        self._changed = np.zeros(count, bool)  # what is derived from parameters, is old

    # State.

    def reset(
        self, ids: IdArray, joint_position: FloatArray, joint_velocity: FloatArray,
        free_position: FloatArray | None = None, free_quaternion_xyzw: FloatArray | None = None,
    ) -> None:  # fmt: skip
        """Put environments `ids` [M] into a state; nothing of their past remains but parameters.

        joint_position, joint_velocity  [M, J] of names("joints"); rad or m, per second
        free_position, free_quaternion_xyzw  [M, F, 3] m and [M, F, 4] of names("free_bodies"), in
                                        the world; where omitted, as in the file. They start at
                                        rest.

        Raises ValueError for another shape, and for what is not finite.
        """
        self._check_ids(ids)
        mj, m = self.model.mj, len(ids)
        qpos, qvel = np.tile(mj.qpos0, (m, 1)), np.zeros((m, mj.nv))
        joints = self.model.ids("joints", self.names("joints"))
        qpos[:, mj.jnt_qposadr[joints]] = _checked(joint_position, (m, len(joints)))
        qvel[:, mj.jnt_dofadr[joints]] = _checked(joint_velocity, (m, len(joints)))
        free = mj.jnt_qposadr[self.model.free_joints()][:, None]
        if free_position is not None:
            qpos[:, free + np.arange(3)] = _checked(free_position, (m, len(free), 3))
        if free_quaternion_xyzw is not None:
            xyzw = _checked(free_quaternion_xyzw, (m, len(free), 4))
            qpos[:, free + np.array([4, 5, 6, 3])] = xyzw
        self._pushed[ids], self._offset[ids] = False, 0
        if m:
            self._reset(ids, qpos, qvel)

    def step(self, command: FloatArray) -> None:
        """Advance all environments by control_period_s.

        command  [N, actuators] position targets, rad or m, of names("actuators"); limited to the
                 control ranges in the file

        Raises ValueError for another shape, and for what is not finite.
        """
        command = _checked(command, (self.count, self.model.mj.nu))
        if self._changed.any():
            self._derive(np.flatnonzero(self._changed))
            self._changed[:] = False
        if self._offset.any():
            moved, bodies = np.nonzero(self._offset.any(axis=2))
            self._displace(moved, bodies, self._offset[moved, bodies])
            self._offset[:] = 0
        pushed, bodies = np.nonzero(self._pushed)
        self._step(command, pushed, bodies, self._impulse[pushed, bodies] / self.control_period_s)
        self._pushed[:] = False

    def read(self, field: str, names: Sequence[str] | None = None) -> FloatArray:
        """One of FIELDS now: [N, K], [N, K, 3] or [N, K, 4] of K names, or of all.

        rad or m and per second of joints, m and unit quaternions in the world of bodies and
        sites. A copy. Raises ValueError for an unknown field or name.
        """
        if field not in FIELDS:
            raise ValueError(f"read: expected one of {', '.join(FIELDS)}; found {field}")
        kind = FIELDS[field]
        ids = self.model.ids(kind, self.names(kind) if names is None else names)
        if kind == "joints":
            return self._joints(field, ids)
        if kind == "bodies":
            return self._bodies(field, ids)
        return self._sites(field, ids)

    @abstractmethod
    def diverged(self) -> IdArray:
        """The environments whose state is no longer finite, until they are reset."""

    # Parameters.

    @property
    def capabilities(self) -> frozenset[str]:
        """See Parameters."""
        return ENGINES[self.name]

    def names(self, kind: str) -> tuple[str, ...]:
        """See Parameters; sim.engines.model.KINDS has the kinds."""
        return self.model.names(kind)

    def nominal(self, parameter: str, names: Sequence[str]) -> FloatArray:
        """See Parameters. Raises ValueError for an unknown name or a parameter that it lacks."""
        self._check_has(parameter)
        return self.model.nominal(parameter, names)

    def set(self, parameter: str, names: Sequence[str], ids: IdArray, values: FloatArray) -> None:
        """See Parameters. Raises ValueError as `nominal`, and for an impossible value."""
        self._check_has(parameter)
        self._check_ids(ids)
        at = self.model.ids(PARAMETERS[parameter].of, names)
        if values.shape[:2] != (len(ids), len(at)) or not PARAMETERS[parameter].accepts(values):
            expected = f"values [{len(ids)}, {len(at)}, ...], {PARAMETERS[parameter].domain}"
            found = f"{list(values.shape)} from {values.min(initial=np.inf):.6g}"
            raise ValueError(f"set {parameter}: expected {expected}; found {found}")
        if parameter == PUSH:
            self._impulse[ids[:, None], at] = values
            self._pushed[ids[:, None], at] = True
        elif parameter == DISPLACEMENT:
            self._offset[ids[:, None], at] = values
        elif values.size:
            self._set(parameter, at, ids, values)
            if parameter in DERIVED_FROM:
                self._changed[ids] = True

    def _check_has(self, parameter: str) -> None:
        if parameter not in self.capabilities:
            others = ", ".join(engines_with((parameter,))) or "none"
            expected = f"a parameter of {self.name} ({', '.join(sorted(self.capabilities))})"
            message = f"expected {expected}; found {parameter}. Engines that have it: {others}"
            raise ValueError(message)

    def _check_ids(self, ids: IdArray) -> None:
        if ids.size and not (ids.min() >= 0 and ids.max() < self.count):
            expected = f"environments 0 to {self.count - 1}"
            raise ValueError(f"{self.name}: expected {expected}; found {ids.tolist()[:8]}")

    # Sites, which engines need not know.

    def _sites(self, field: str, ids: Indices) -> FloatArray:
        mj = self.model.mj
        body = mj.site_bodyid[ids]
        quaternion_xyzw = self._bodies("body_quaternion_xyzw", body)
        if field == "site_quaternion_xyzw":
            return _product(quaternion_xyzw, mj.site_quat[ids][:, [1, 2, 3, 0]])
        offset = to_matrix(quaternion_xyzw) @ mj.site_pos[ids][..., None]
        return self._bodies("body_position", body) + offset[..., 0]

    # The physics. Indices of bodies and the like, and the order of qpos and qvel, are MuJoCo's.

    @abstractmethod
    def _reset(self, ids: IdArray, qpos: FloatArray, qvel: FloatArray) -> None: ...

    @abstractmethod
    def _step(
        self, command: FloatArray, pushed: IdArray, bodies: Indices, force: FloatArray
    ) -> None:
        """Advance, with force [L, 3] N, world, on each `pushed` [L] environment's body [L].

        It acts at the centre of mass.
        """

    def _displace(self, ids: IdArray, bodies: Indices, offset: FloatArray) -> None:
        """Move each environment's [L] free body [L] by [L, 2] m, where ENGINES says it can."""
        raise NotImplementedError

    @abstractmethod
    def _joints(self, field: str, ids: Indices) -> FloatArray: ...

    @abstractmethod
    def _bodies(self, field: str, ids: Indices) -> FloatArray: ...

    @abstractmethod
    def _set(self, parameter: str, at: Indices, ids: IdArray, values: FloatArray) -> None: ...

    @abstractmethod
    def _derive(self, ids: IdArray) -> None:
        """Bring up to date, in `ids` [M], what follows from DERIVED_FROM; once before a step."""


def _checked(values: FloatArray, shape: tuple[int, ...]) -> FloatArray:
    values = np.asarray(values, np.float64)
    if values.shape != shape:
        raise ValueError(f"expected an array {list(shape)}; found {list(values.shape)}")
    if not np.isfinite(values).all():
        rows = np.unique(np.nonzero(~np.isfinite(values))[0]).tolist()
        raise ValueError(f"expected finite numbers; found others in rows {rows[:8]}")
    return values


def _product(a: FloatArray, b: FloatArray) -> FloatArray:
    """Products of quaternions xyzw [..., 4]."""
    vector = a[..., 3:] * b[..., :3] + b[..., 3:] * a[..., :3] + np.cross(a[..., :3], b[..., :3])
    scalar = a[..., 3:] * b[..., 3:] - (a[..., :3] * b[..., :3]).sum(-1, keepdims=True)
    return np.concatenate([vector, scalar], axis=-1)
