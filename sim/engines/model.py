"""What an MJCF file declares: names, and the values before any randomisation.

Every engine takes both from here, so that one randomisation means the same to all of them.
"""

# Compiled modules of the simulators ship no type information.
# pyright: reportAttributeAccessIssue=false

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import mujoco
import numpy as np
from numpy.typing import NDArray

from robot_policies.strict import InputError, Violation
from sim.draws import FloatArray
from sim.randomization_terms import PARAMETERS, closest

Indices = NDArray[np.intp]

KINDS = ("bodies", "free_bodies", "joints", "geoms", "actuators", "sites")
FREE = mujoco.mjtJoint.mjJNT_FREE.value
HINGE_AND_SLIDE = (mujoco.mjtJoint.mjJNT_HINGE.value, mujoco.mjtJoint.mjJNT_SLIDE.value)

_NOMINAL: dict[str, Callable[[mujoco.MjModel, Indices], FloatArray]] = {
    "mass": lambda m, body: m.body_mass[body],
    "inertia": lambda m, body: m.body_inertia[body],
    "centre_of_mass": lambda m, body: m.body_ipos[body],
    "push": lambda m, body: np.zeros((len(body), 3)),
    "displacement": lambda m, body: np.zeros((len(body), 2)),
    "friction": lambda m, geom: m.geom_friction[geom, 0],
    "damping": lambda m, joint: m.dof_damping[m.jnt_dofadr[joint]],
    "armature": lambda m, joint: m.dof_armature[m.jnt_dofadr[joint]],
    "stiffness": lambda m, joint: m.jnt_stiffness[joint],
    "kp": lambda m, actuator: m.actuator_gainprm[actuator, 0],
    "kd": lambda m, actuator: -m.actuator_biasprm[actuator, 2],
}


class Model:
    """An MJCF file, compiled for a time step (s) and the integrator implicitfast.

    Joints are hinges and slides; a body with a free joint is a free body. Actuators are position
    servos on joints: torque = kp (command - position) - kd velocity.
    """

    def __init__(self, path: Path, timestep: float) -> None:
        """Raises InputError for what is no MJCF, or has other joints or actuators than these."""
        self.path = Path(path)
        self.mj = _compile(self.path)
        self.mj.opt.timestep = timestep
        self.mj.opt.integrator = mujoco.mjtIntegrator.mjINT_IMPLICITFAST
        self._ids = {kind: dict(_named(self.mj, kind)) for kind in KINDS}
        if violations := list(self._violations()):
            raise InputError(violations)

    def names(self, kind: str) -> tuple[str, ...]:
        """All names of one of KINDS, in the order of the file; () of another kind."""
        return tuple(self._ids.get(kind, ()))

    def ids(self, kind: str, names: Sequence[str]) -> Indices:
        """MuJoCo's indices [K] of K names. Raises ValueError for an unknown one."""
        known = self._ids[kind]
        for name in names:
            if name not in known:
                raise ValueError(f"expected {closest(kind, name, known)}; found {name}")
        return np.array([known[name] for name in names], np.intp)

    def nominal(self, parameter: str, names: Sequence[str]) -> FloatArray:
        """The values of a parameter in the file: [K, ...], K names."""
        ids = self.ids(PARAMETERS[parameter].of, names)
        return np.array(_NOMINAL[parameter](self.mj, ids), np.float64)

    def joint_of(self, actuators: Indices) -> Indices:
        """The joints that actuators move."""
        return self.mj.actuator_trnid[actuators, 0].astype(np.intp)

    def free_joints(self) -> Indices:
        """The joints of the free bodies."""
        return self.mj.body_jntadr[self.ids("free_bodies", self.names("free_bodies"))]

    def _violations(self) -> Iterator[Violation]:
        mj, where = self.mj, self.path.name
        for joint in range(mj.njnt):
            free = mj.jnt_type[joint] == FREE
            if not free and mj.joint(joint).name not in self._ids["joints"]:
                kind = mujoco.mjtJoint(mj.jnt_type[joint]).name
                found = f"{mj.joint(joint).name or 'a joint without a name'}, {kind}"
                expected = "hinge, slide and free joints, the first two with names"
                yield Violation(f"{where} joint", expected, found, "change the model")
        for actuator in range(mj.nu):
            name = mj.actuator(actuator).name
            if not (name and self._is_servo(actuator)):
                expected = "position servos with names, on joints, with gear 1"
                found = name or "an actuator without a name"
                yield Violation(f"{where} actuator", expected, found, "use <position>")

    def _is_servo(self, actuator: int) -> bool:
        mj = self.mj
        gain, bias = mj.actuator_gainprm[actuator], mj.actuator_biasprm[actuator]
        return bool(
            mj.actuator_trntype[actuator] == mujoco.mjtTrn.mjTRN_JOINT.value
            and mj.actuator_dyntype[actuator] == mujoco.mjtDyn.mjDYN_NONE.value
            and mj.actuator_gaintype[actuator] == mujoco.mjtGain.mjGAIN_FIXED.value
            and mj.actuator_biastype[actuator] == mujoco.mjtBias.mjBIAS_AFFINE.value
            and mj.actuator_gear[actuator, 0] == 1
            and bias[0] == 0
            and bias[1] == -gain[0]
        )


def _compile(path: Path) -> mujoco.MjModel:
    if not path.is_file():
        raise FileNotFoundError(f"model: expected an MJCF file; found nothing at {path}")
    try:
        spec = mujoco.MjSpec.from_file(str(path))
        for body in spec.bodies[1:]:
            # Or MuJoCo would take a free body's centre of mass to stay where its frame is.
            body.simple = False
        return spec.compile()
    except ValueError as error:
        mend = "correct the file"
        raise InputError([Violation(path.name, "an MJCF model", str(error), mend)]) from None


def _named(mj: mujoco.MjModel, kind: str) -> Iterator[tuple[str, int]]:
    """Name and index of all of one kind with names; not the world, nor geoms that never touch."""
    first_joint = mj.body_jntadr
    is_free = (mj.jnt_type == FREE) if mj.njnt else np.zeros(1, bool)
    chosen: dict[str, tuple[mujoco.mjtObj, Sequence[int]]] = {
        "bodies": (mujoco.mjtObj.mjOBJ_BODY, range(1, mj.nbody)),
        "free_bodies": (
            mujoco.mjtObj.mjOBJ_BODY,
            [b for b in range(1, mj.nbody) if first_joint[b] >= 0 and is_free[first_joint[b]]],
        ),
        "joints": (
            mujoco.mjtObj.mjOBJ_JOINT,
            [j for j in range(mj.njnt) if mj.jnt_type[j] in HINGE_AND_SLIDE],
        ),
        "geoms": (
            mujoco.mjtObj.mjOBJ_GEOM,
            [g for g in range(mj.ngeom) if mj.geom_contype[g] or mj.geom_conaffinity[g]],
        ),
        "actuators": (mujoco.mjtObj.mjOBJ_ACTUATOR, range(mj.nu)),
        "sites": (mujoco.mjtObj.mjOBJ_SITE, range(mj.nsite)),
    }
    of, ids = chosen[kind]
    for index in ids:
        if name := mujoco.mj_id2name(mj, of, index):
            yield name, index
