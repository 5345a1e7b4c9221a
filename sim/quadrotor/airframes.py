"""Quadrotor airframes: batched physical parameters, standard models, own ones, RAPTOR's sampler.

Rotors are listed front right, back right, back left, front left (seen from above, body FLU), the
order that the RAPTOR policy commands them in.

Sources: "RAPTOR: A Foundation Policy for Quadrotor Control" (arXiv 2509.11481) and its public
simulator L2F (rl-tools at e43ae4b, include/rl_tools/rl/environments/l2f/).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from robot_policies.strict import InputError, Violation
from robot_policies.strict_yaml import decode_yaml

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
    """A quadrotor whose four rotors are alike and lie at (+-arm_x, +-arm_y, 0).

    Units as in Airframes. Raises InputError, with every violation, for one that cannot be.
    """

    mass: float
    inertia: tuple[float, float, float]
    arm: tuple[float, float]
    thrust_curve: tuple[float, float, float]
    torque_constant: float
    rise_time: float
    fall_time: float

    def __post_init__(self) -> None:
        """Refuse what cannot be, or cannot hover."""
        if violations := [*self._sign_violations(), *self._hover_violations()]:
            raise InputError(violations)

    def _sign_violations(self) -> Iterator[Violation]:
        named = [(key, getattr(self, key)) for key in ("mass", "rise_time", "fall_time")]
        named += [(f"inertia[{axis}]", value) for axis, value in enumerate(self.inertia)]
        named += [(f"arm[{axis}]", value) for axis, value in enumerate(self.arm)]
        yield from (_above_zero("airframe", *pair) for pair in named if pair[1] <= 0)
        for key in ("rise_time", "fall_time"):
            yield from _too_fast("airframe", key, getattr(self, key))
        if self.torque_constant < 0:
            found = str(self.torque_constant)
            yield Violation("airframe.torque_constant", "zero or more", found, _CORRECT)
        if 2 * max(self.inertia) > sum(self.inertia):
            yield Violation("airframe.inertia", _RIGID, str(list(self.inertia)), _CORRECT)

    def _hover_violations(self) -> Iterator[Violation]:
        weight = self.mass * GRAVITY
        full, idle = (
            ROTOR_COUNT * thrust for thrust in (sum(self.thrust_curve), self.thrust_curve[0])
        )
        if full < weight:
            expected = f"a thrust over weight of at least 1 ({weight:.4g} N of four rotors)"
            found = f"{full / weight:.3g} ({full:.4g} N): it cannot hover"
            yield Violation("airframe.thrust_curve", expected, found, _PER_ROTOR)
        elif 0 < weight <= idle:
            expected = f"less thrust than the weight, {weight:.4g} N, of four rotors at rest"
            yield Violation("airframe.thrust_curve[0]", expected, f"{idle:.4g} N", _PER_ROTOR)


SHORTEST_TIME = 0.01
"""s, of a motor: see check_dt of sim.quadrotor.dynamics."""

_CORRECT = "correct the value"
_RIGID = "moments of a rigid body, each at most the sum of the other two"
_PER_ROTOR = "correct mass (kg) or thrust_curve (N of ONE rotor at speeds 0 to 1)"


def _too_fast(where: str, key: str, time: float) -> Iterator[Violation]:
    if 0 < time < SHORTEST_TIME:
        expected = f"at least {SHORTEST_TIME} s, a step of the simulator"
        yield Violation(f"{where}.{key}", expected, str(time), _CORRECT)


def _above_zero(where: str, key: str, value: float) -> Violation:
    return Violation(f"{where}.{key}", "a value above zero", str(value), _CORRECT)


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

_X, _Y, _Z = _STANDARD["crazyflie"].inertia
_NOMINAL_RATIO = (_Y / _X, _Z / _X)
MAX_IDLE_SHARE = 0.05
"""Of full thrust: what a rotor at rest gives at most, in a thrust curve of random shape."""

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
    return _single(_STANDARD[name])


def load(path: str | Path) -> Airframes:
    """An airframe of your own from a YAML file, as `standard` gives it.

    config/airframe_example.yaml explains every key. Raises InputError, with every violation, for
    unknown or missing keys, values that are not finite or not possible, and a quadrotor that
    cannot hover; FileNotFoundError without the file.
    """
    return _single(decode_yaml(_Model, Path(path), "airframe"))


def _single(model: _Model) -> Airframes:
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


@dataclass(frozen=True)
class Ranges:
    """What `sample` draws from; the defaults are RAPTOR's. Pairs are (low, high), drawn uniformly.

    config/quadrotor_ranges.yaml explains every key. Raises InputError, with every violation, for a
    low above its high and for what no quadrotor can have.
    """

    thrust_to_weight: tuple[float, float] = (1.5, 5.0)
    """Total thrust at full rotor speed over weight."""
    mass: tuple[float, float] = (0.02, 5.0)
    """kg; its cube root is uniform."""
    torque_to_inertia: tuple[float, float] = (40.0, 1200.0)
    """1/s^2, torque of two rotors at full thrust on the Crazyflie's arm, over inertia."""
    inertia_y_to_x: tuple[float, float] = (_NOMINAL_RATIO[0], _NOMINAL_RATIO[0])
    """J_yy / J_xx."""
    inertia_z_to_x: tuple[float, float] = (_NOMINAL_RATIO[1], _NOMINAL_RATIO[1])
    """J_zz / J_xx."""
    size_deviation_mean: float = -0.1
    """Of f in arm = cbrt(mass) * factor; the factor is 1 + f, or 1 / (1 - f) for f < 0."""
    size_deviation_std: float = 0.1
    """Its standard deviation (f is normal)."""
    torque_constant: tuple[float, float] = (0.005, 0.05)
    """m, reaction torque over thrust."""
    rise_time: tuple[float, float] = (0.03, 0.1)
    """s, time constant of the rotor speed while it rises."""
    fall_time: tuple[float, float] = (0.03, 0.3)
    """s, while it falls."""
    force_share: float = 0.3
    """Largest disturbance force per axis, at three sigma, over the surplus of thrust."""
    thrust_curve_shapes: float = 0.0
    """Share (0 to 1) of quadrotors with a thrust curve of random shape, not the Crazyflie's."""

    def __post_init__(self) -> None:
        """Refuse ranges that `sample` could not draw from."""
        if violations := list(self._violations()):
            raise InputError(violations)

    def _violations(self) -> Iterator[Violation]:
        for key, (low, high) in self._pairs().items():
            if not low <= high < np.inf:
                expected = "[low, high] with low at most high"
                yield Violation(f"ranges.{key}", expected, f"[{low}, {high}]", _CORRECT)
            if low <= 0:
                yield _above_zero("ranges", key, low)
        for key, low, high, expected in (
            ("thrust_to_weight", 1, np.inf, "at least 1, or none of them can hover"),
            ("size_deviation_mean", -np.inf, np.inf, "a finite number"),
            ("size_deviation_std", 0, np.inf, "zero or more"),
            ("force_share", 0, np.inf, "zero or more"),
            ("thrust_curve_shapes", 0, 1, "a share from 0 to 1"),
        ):
            value = self._pairs().get(key, (getattr(self, key),))[0]
            if not (low <= value <= high and np.isfinite(value)):
                yield Violation(f"ranges.{key}", expected, str(value), _CORRECT)
        for key in ("rise_time", "fall_time"):
            yield from _too_fast("ranges", key, getattr(self, key)[0])
        most = 1 / MAX_IDLE_SHARE
        if self.thrust_curve_shapes > 0 and self.thrust_to_weight[1] >= most:
            expected = f"below {most:.0f} with thrust curves of random shape, which idle"
            found = str(self.thrust_to_weight[1])
            yield Violation("ranges.thrust_to_weight", expected, found, _CORRECT)
        yield from self._inertia_violations()

    def _inertia_violations(self) -> Iterator[Violation]:
        (y_low, y_high), (z_low, z_high) = self.inertia_y_to_x, self.inertia_z_to_x
        if z_high > 1 + y_low or y_high > 1 + z_low or y_low + z_low < 1:
            found = f"y to x in [{y_low}, {y_high}] with z to x in [{z_low}, {z_high}]"
            yield Violation("ranges.inertia_z_to_x", _RIGID, found, _CORRECT)

    def _pairs(self) -> dict[str, tuple[float, float]]:
        named = {field.name: getattr(self, field.name) for field in fields(self)}
        return {key: value for key, value in named.items() if isinstance(value, tuple)}


RAPTOR_RANGES = Ranges()


def sample(count: int, seed: int, ranges: Ranges = RAPTOR_RANGES) -> Airframes:
    """Draw `count` quadrotors, float32 on the CPU; by default from RAPTOR's distribution.

    Starting from the Crazyflie: thrust over weight U(1.5, 5); cube root of mass uniform between
    0.02 and 5 kg; torque over inertia U(40, 1200) 1/s^2; arms scaled with the cube root of mass
    and a factor around 0.9; rise time U(0.03, 0.1) s, fall time U(0.03, 0.3) s; torque constant
    U(0.005, 0.05) m; force per axis up to 0.3 of the surplus thrust at three sigma. The shape of
    the thrust curve and the ratios of the inertias stay. The first n quadrotors of a seed are the
    same for every count >= n, and a range that changes leaves the other quantities' draws alone.

    Raises ValueError unless count is at least 1 and seed at least 0.
    Source: sample_dynamics_parameters of L2F (rl-tools, 10_sample_initial_parameters.h).
    """
    if count < 1 or seed < 0:
        raise ValueError(f"sample: expected count >= 1 and seed >= 0; found {count} and {seed}")
    nominal = _STANDARD["crazyflie"]
    uniform = np.random.default_rng([seed, 0]).random((count, 7)).T  # (7, N)
    deviation = (ranges.size_deviation_mean, ranges.size_deviation_std)
    size_deviation = np.random.default_rng([seed, 1]).normal(*deviation, count)

    thrust_to_weight = _between(ranges.thrust_to_weight, uniform[0])
    mass = _between(np.cbrt(ranges.mass), uniform[1]) ** 3
    curve_scale = thrust_to_weight * mass * GRAVITY / (ROTOR_COUNT * sum(nominal.thrust_curve))

    size_factor = np.where(
        size_deviation < 0, 1 / (1 - size_deviation), 1 + size_deviation
    ) * np.cbrt(mass / nominal.mass)
    torque_to_inertia = _between(ranges.torque_to_inertia, uniform[2])
    # Torque of two rotors at the NEW full thrust on the NOMINAL arm, as the source has it.
    nominal_torque = np.sqrt(2) * nominal.arm[0] * thrust_to_weight * mass * GRAVITY / ROTOR_COUNT
    inertia_scale = nominal_torque / nominal.inertia[0] / torque_to_inertia * size_factor

    surplus = ranges.force_share * (thrust_to_weight - 1)
    return _build(
        mass=mass,
        inertia=_inertia_shapes(count, seed, ranges) * inertia_scale,
        arm=np.array(nominal.arm)[:, None] * size_factor,
        thrust_curve=_curve_shapes(count, seed, ranges) * curve_scale,
        torque_constant=_between(ranges.torque_constant, uniform[3]),
        rise_time=_between(ranges.rise_time, uniform[4]),
        fall_time=_between(ranges.fall_time, uniform[5]),
        force_std=surplus * uniform[6] * thrust_to_weight * mass / 3,
    )


def _curve_shapes(count: int, seed: int, ranges: Ranges) -> np.ndarray:
    """[3, N] thrust curves with the Crazyflie's full thrust, a share of them of random shape."""
    nominal = np.array(_STANDARD["crazyflie"].thrust_curve)
    # Streams 2 and 3 of a seed belong to sim.quadrotor.scenario.
    chance, bend, rest = np.random.default_rng([seed, 4]).random((count, 3)).T
    idle = MAX_IDLE_SHARE * rest
    random = np.stack([idle, (1 - idle) * (1 - bend), (1 - idle) * bend]) * sum(nominal)
    return np.where(chance < ranges.thrust_curve_shapes, random, nominal[:, None])


def _inertia_shapes(count: int, seed: int, ranges: Ranges) -> np.ndarray:
    """[3, N] inertias with the Crazyflie's about x."""
    drawn = np.random.default_rng([seed, 5]).random((count, 2)).T
    y, z = (
        _between(pair, part) / nominal
        for pair, part, nominal in zip(
            (ranges.inertia_y_to_x, ranges.inertia_z_to_x), drawn, _NOMINAL_RATIO, strict=True
        )
    )
    return np.array(_STANDARD["crazyflie"].inertia)[:, None] * np.stack([np.ones(count), y, z])


def _between(pair: Sequence[float] | np.ndarray, uniform: np.ndarray) -> np.ndarray:
    low, high = pair
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
