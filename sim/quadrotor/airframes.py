"""Quadrotor airframes: batched physical parameters, the standard models and the RAPTOR sampler.

Rotors are listed front right, back right, back left, front left (seen from above, body FLU), the
order that the RAPTOR policy commands them in.

Sources: "RAPTOR: A Foundation Policy for Quadrotor Control" (arXiv 2509.11481) and its public
simulator L2F (rl-tools at e43ae4b, include/rl_tools/rl/environments/l2f/).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields

import numpy as np
import torch
from torch import Tensor

GRAVITY = 9.81
"""Standard acceleration of free fall used by the sources, m/s^2."""

ROTOR_COUNT = 4


@dataclass(frozen=True)
class Airframes:
    """The physical parameters of N quadrotors with four upright rotors and no aerodynamic drag.

    Raises ValueError when a shape, device or type differs between fields, a value is not finite,
    a mass, inertia or time constant is not positive, or a quadrotor cannot lift its own weight.
    """

    mass: Tensor
    """[N] kg, take-off mass."""
    inertia: Tensor
    """[3, N] kg m^2, principal moments about body x, y, z."""
    rotor_position: Tensor
    """[4, 3, N] m, rotor hubs from the centre of mass, body FLU."""
    rotor_direction: Tensor
    """[4, N] +1 or -1, the sign of the rotor's reaction torque about body z."""
    thrust_curve: Tensor
    """[4, 3, N] N, (c0, c1, c2) of thrust = c0 + c1 n + c2 n^2, normalised rotor speed n."""
    torque_constant: Tensor
    """[4, N] m, reaction torque over thrust."""
    rise_time: Tensor
    """[4, N] s, time constant of the rotor speed while it rises."""
    fall_time: Tensor
    """[4, N] s, time constant of the rotor speed while it falls."""
    force_std: Tensor
    """[N] N, standard deviation per world axis of the disturbance force of an episode."""

    def __post_init__(self) -> None:
        """Refuse parameters that no quadrotor can have."""
        self._check_layout()
        for name in ("mass", "inertia", "rise_time", "fall_time"):
            self._check(name, lambda value: value > 0, "positive values")
        for name in ("torque_constant", "force_std"):
            self._check(name, lambda value: value >= 0, "values of zero or more")
        self._check("rotor_direction", lambda value: value.abs() == 1, "+1 or -1")
        _check_every(
            self.thrust_to_weight >= 1,
            "Airframes: thrust over weight",
            "at least 1, or the quadrotor cannot leave the ground",
            self.thrust_to_weight,
        )

    @property
    def count(self) -> int:
        """N, the number of quadrotors."""
        return self.mass.shape[0]

    @property
    def weight(self) -> Tensor:
        """[N] N."""
        return self.mass * GRAVITY

    @property
    def max_thrust(self) -> Tensor:
        """[N] N, of all rotors together at full speed."""
        return self.thrust_curve.sum(dim=(0, 1))

    @property
    def thrust_to_weight(self) -> Tensor:
        """[N] total thrust at full rotor speed over weight."""
        return self.max_thrust / self.weight

    @property
    def arm_length(self) -> Tensor:
        """[N] m, distance of the farthest rotor from the centre of mass."""
        return self.rotor_position.norm(dim=1).amax(dim=0)

    @property
    def hover_action(self) -> Tensor:
        """[4, N] normalised rotor speed at which each rotor carries a quarter of the weight."""
        c0, c1, c2 = self.thrust_curve.unbind(dim=1)
        surplus = self.weight / ROTOR_COUNT - c0
        # The root that also exists for a straight curve (c2 = 0) and for one that bends down.
        return 2 * surplus / (c1 + torch.sqrt(c1**2 + 4 * c2 * surplus))

    def select(self, indices: Tensor) -> Airframes:
        """The quadrotors at `indices` [M] (integers; repeats allowed), in that order."""
        return self._map(lambda value: value[..., indices])

    def repeat(self, episodes: int) -> Airframes:
        """Each quadrotor `episodes` times in a row: [N * episodes], airframe-major."""
        return self._map(lambda value: value.repeat_interleave(episodes, dim=-1))

    def to(self, target: torch.device | torch.dtype | str) -> Airframes:
        """The same quadrotors on another device or in another floating-point type."""
        return self._map(lambda value: value.to(target))

    def _map(self, function: Callable[[Tensor], Tensor]) -> Airframes:
        return Airframes(**{f.name: function(getattr(self, f.name)) for f in fields(self)})

    def _check_layout(self) -> None:
        if self.mass.ndim != 1:
            raise ValueError(f"Airframes.mass: expected shape [N], found {list(self.mass.shape)}")
        for field in fields(self):
            value = getattr(self, field.name)
            expected = (*_LEADING_SHAPE[field.name], self.count)
            if tuple(value.shape) != expected:
                raise ValueError(
                    f"Airframes.{field.name}: expected shape {list(expected)} "
                    f"(N = {self.count} from mass), found {list(value.shape)}"
                )
            if (value.dtype, value.device) != (self.mass.dtype, self.mass.device):
                raise ValueError(
                    f"Airframes.{field.name}: expected {self.mass.dtype} on {self.mass.device} "
                    f"like mass, found {value.dtype} on {value.device}; use Airframes.to"
                )
            self._check(field.name, torch.isfinite, "finite values")

    def _check(self, name: str, accepts: Callable[[Tensor], Tensor], expected: str) -> None:
        value = getattr(self, name)
        _check_every(accepts(value), f"Airframes.{name}", expected, value)


_LEADING_SHAPE: dict[str, tuple[int, ...]] = {
    "mass": (),
    "inertia": (3,),
    "rotor_position": (4, 3),
    "rotor_direction": (4,),
    "thrust_curve": (4, 3),
    "torque_constant": (4,),
    "rise_time": (4,),
    "fall_time": (4,),
    "force_std": (),
}


def _check_every(accepted: Tensor, what: str, expected: str, value: Tensor) -> None:
    if bool(accepted.all()):
        return
    refused = ~accepted.reshape(-1, accepted.shape[-1]).all(dim=0)
    index = int(refused.nonzero()[0, 0])
    raise ValueError(
        f"{what}: expected {expected}; found {value[..., index].tolist()} for quadrotor {index} "
        f"({int(refused.sum())} of {refused.numel()} quadrotors are affected)"
    )


@dataclass(frozen=True)
class _Model:
    """A quadrotor whose four rotors are alike and lie at (+-arm_x, +-arm_y, 0)."""

    mass: float
    inertia: tuple[float, float, float]
    arm: tuple[float, float]
    thrust_curve: tuple[float, float, float]
    torque_constant: float
    rise_time: float
    fall_time: float


_STANDARD = {
    "crazyflie": _Model(
        mass=0.0306,
        inertia=(9.416556729130406e-06, 9.644051701582312e-06, 1.745951732253285e-05),
        arm=(0.028, 0.028),
        thrust_curve=(0.00352526, 0.01437313, 0.09223048),
        torque_constant=4.665e-3,
        rise_time=0.05545454545454546,
        fall_time=0.24939393939393945,
    ),
    "x500_real": _Model(
        mass=2.0,
        # The source types J_xx as "2.1705-2"; its own inverse, 46.0723, says 2.1705e-2.
        inertia=(2.1705e-2, 2.1304e-2, 0.039396244),
        arm=(0.176776695296636, 0.176776695296636),
        thrust_curve=(0.0, 0.0, 15.926119900619797),
        torque_constant=0.10847,
        rise_time=0.054,
        fall_time=0.054,
    ),
    "x500_sim": _Model(
        mass=2.0,
        inertia=(0.0216666666666666, 0.0216666666666666, 0.04),
        arm=(0.176776695296636, 0.176776695296636),
        thrust_curve=(0.0, 0.0, 8.74),
        torque_constant=0.11697849233439939,
        rise_time=0.03,
        fall_time=0.03,
    ),
    "fs": _Model(
        mass=3.35,
        inertia=(7.56e-2, 7.296e-2, 7.296e-2 * 1.879),
        arm=(0.20895, 0.240666),
        thrust_curve=(0.7846629595902934, 9.15540123440728, 18.005569363583604),
        torque_constant=0.01492,
        rise_time=0.06532,
        fall_time=0.06532,
    ),
    "race": _Model(
        mass=0.782,
        inertia=(1.7665e-3, 1.3766e-3, (1.7665e-3 + 1.3766e-3) / 2 * 1.879),
        arm=(0.0775, 0.0981),
        thrust_curve=(-0.5300192490953086, 8.971435376396558, -0.8911788522090669),
        torque_constant=0.005964552,
        rise_time=0.033,
        fall_time=0.033,
    ),
    "flightmare": _Model(
        mass=0.73,
        inertia=(0.00791, 0.00791, 0.0123),
        arm=(0.17 * 0.7071067811865475, 0.17 * 0.7071067811865475),
        thrust_curve=(-1.7689986848125325, 11.50824315802381, 11.968428150335603),
        torque_constant=0.016,
        rise_time=0.02,
        fall_time=0.02,
    ),
}
STANDARD_NAMES = tuple(_STANDARD)

_ROTOR_SIDE = np.array([(1.0, -1.0), (-1.0, -1.0), (-1.0, 1.0), (1.0, 1.0)])  # FR, BR, BL, FL
_ROTOR_DIRECTION = np.array([-1.0, 1.0, -1.0, 1.0])


def standard(name: str) -> Airframes:
    """One of the standard models as a batch of one, float32 on the CPU, without disturbance force.

    The names are in STANDARD_NAMES; the numbers are those of the files of the same names in L2F
    ("fs" is its fs_base), with the rotors put into this module's order as RAPTOR does.

    Raises ValueError for an unknown name.
    """
    if name not in _STANDARD:
        raise ValueError(f"airframe: expected one of {', '.join(STANDARD_NAMES)}; found {name!r}")
    model = _STANDARD[name]
    return _build(
        mass=np.array([model.mass]),
        inertia=np.array(model.inertia)[:, None],
        arm=np.array(model.arm)[:, None],
        thrust_curve=np.array(model.thrust_curve)[:, None],
        torque_constant=np.array([model.torque_constant]),
        rise_time=np.array([model.rise_time]),
        fall_time=np.array([model.fall_time]),
        force_std=np.zeros(1),
    )


def join(fleets: Sequence[Airframes]) -> Airframes:
    """All quadrotors of several fleets as one, in order. Raises ValueError for an empty list."""
    if not fleets:
        raise ValueError("join: expected at least one fleet, found none")
    names = [f.name for f in fields(Airframes)]
    return Airframes(**{n: torch.cat([getattr(f, n) for f in fleets], dim=-1) for n in names})


def sample(count: int, seed: int) -> Airframes:
    """Draw `count` quadrotors from RAPTOR's distribution, float32 on the CPU.

    Starting from the Crazyflie: thrust over weight U(1.5, 5); cube root of mass uniform between
    0.02 and 5 kg; torque over inertia U(40, 1200) 1/s^2; arms scaled with the cube root of mass
    and a factor around 0.9; rise time U(0.03, 0.1) s, fall time U(0.03, 0.3) s; torque constant
    U(0.005, 0.05) m; force per axis up to 0.3 of the surplus thrust at three sigma. The shape of
    the thrust curve and the ratios of the inertias stay. The first n quadrotors of a seed are the
    same for every count >= n.

    Raises ValueError unless count is at least 1 and seed at least 0.
    Source: sample_dynamics_parameters of L2F (rl-tools, 10_sample_initial_parameters.h).
    """
    if count < 1 or seed < 0:
        raise ValueError(f"sample: expected count >= 1 and seed >= 0; found {count} and {seed}")
    nominal = _STANDARD["crazyflie"]
    uniform = np.random.default_rng([seed, 0]).random((count, 7)).T  # (7, N)
    size_deviation = np.random.default_rng([seed, 1]).normal(-0.1, 0.1, count)

    thrust_to_weight = _between(1.5, 5.0, uniform[0])
    mass = _between(np.cbrt(0.02), np.cbrt(5.0), uniform[1]) ** 3
    curve_scale = thrust_to_weight * mass * GRAVITY / (ROTOR_COUNT * sum(nominal.thrust_curve))

    size_factor = np.where(
        size_deviation < 0, 1 / (1 - size_deviation), 1 + size_deviation
    ) * np.cbrt(mass / nominal.mass)
    torque_to_inertia = _between(40.0, 1200.0, uniform[2])
    # Torque of two rotors at the NEW full thrust on the NOMINAL arm, as the source has it.
    nominal_torque = np.sqrt(2) * nominal.arm[0] * thrust_to_weight * mass * GRAVITY / ROTOR_COUNT
    inertia_scale = nominal_torque / nominal.inertia[0] / torque_to_inertia * size_factor

    surplus = 0.3 * (thrust_to_weight - 1)
    return _build(
        mass=mass,
        inertia=np.array(nominal.inertia)[:, None] * inertia_scale,
        arm=np.array(nominal.arm)[:, None] * size_factor,
        thrust_curve=np.array(nominal.thrust_curve)[:, None] * curve_scale,
        torque_constant=_between(0.005, 0.05, uniform[3]),
        rise_time=_between(0.03, 0.1, uniform[4]),
        fall_time=_between(0.03, 0.3, uniform[5]),
        force_std=surplus * uniform[6] * thrust_to_weight * mass / 3,
    )


def _between(low: float, high: float, uniform: np.ndarray) -> np.ndarray:
    return low + (high - low) * uniform


def _build(
    mass: np.ndarray,
    inertia: np.ndarray,
    arm: np.ndarray,
    thrust_curve: np.ndarray,
    torque_constant: np.ndarray,
    rise_time: np.ndarray,
    fall_time: np.ndarray,
    force_std: np.ndarray,
) -> Airframes:
    """Quadrotors with four equal rotors; arm [2, N] and thrust_curve [3, N], the rest [N]."""
    count = mass.shape[0]
    rotor_position = np.zeros((ROTOR_COUNT, 3, count))
    rotor_position[:, :2] = _ROTOR_SIDE[:, :, None] * arm

    def every_rotor(value: np.ndarray) -> np.ndarray:
        return np.broadcast_to(value, (ROTOR_COUNT, *value.shape))

    values = {
        "mass": mass,
        "inertia": inertia,
        "rotor_position": rotor_position,
        "rotor_direction": np.repeat(_ROTOR_DIRECTION[:, None], count, axis=1),
        "thrust_curve": every_rotor(thrust_curve),
        "torque_constant": every_rotor(torque_constant),
        "rise_time": every_rotor(rise_time),
        "fall_time": every_rotor(fall_time),
        "force_std": force_std,
    }
    return Airframes(**{k: torch.tensor(v, dtype=torch.float32) for k, v in values.items()})
