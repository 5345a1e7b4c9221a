"""Batched, differentiable quadrotor dynamics: rigid body, first-order motors, one RK4 step.

The equations are those of L2F (rl-tools, arXiv 2311.13081), so that a policy trained there flies
here and the reverse; the numbers agree within rounding (see test/sim/test_l2f_oracle.py).

    n'     = (u - n) / tau                    tau = rise_time where u >= n, else fall_time
    T_i    = c0 + c1 n_i + c2 n_i^2
    omega' = J^-1 (sum r_i x T_i z + d_i k_i T_i z - omega x J omega)
    q'     = q (0, omega) / 2
    v'     = R(q) z sum T_i / m + F / m - g z
    p'     = v

Tensors are laid out (quantity, N) with N quadrotors. World ENU, body FLU, SI units.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from sim.quadrotor.airframes import GRAVITY, ROTOR_COUNT, Airframes

PROTOCOL_DT = 0.01
"""s, the step of L2F, of RAPTOR's training and of every stored comparison."""

STATE_SIZE = 17

Rows = tuple[Tensor, ...]
Step = Callable[["State", Tensor, Airframes, Tensor, float], "State"]


class Parts(NamedTuple):
    """The parts of a state as tensors of their own, in which differentiating a step is fast.

    The gradient of a slice is a tensor of zeros around it; that of a part is just the part.
    """

    position: Tensor
    """[3, N] m, world."""
    quaternion_xyzw: Tensor
    """[4, N] unit quaternion, body to world."""
    linear_velocity: Tensor
    """[3, N] m/s, world."""
    angular_velocity: Tensor
    """[3, N] rad/s, body."""
    rotor_speed: Tensor
    """[4, N] normalised, 0 to 1."""

    @property
    def rotation_matrix(self) -> Tensor:
        """[9, N] row-major rotation, body to world."""
        return torch.stack(_rotation_rows(self.quaternion_xyzw.unbind()))


@dataclass(frozen=True)
class State:
    """The state of N quadrotors: one tensor [17, N], and its parts by name (views of it).

    Rows 0-2 position, 3-6 quaternion_xyzw, 7-9 linear velocity, 10-12 angular velocity,
    13-16 rotor speed.
    """

    data: Tensor

    @staticmethod
    def of(
        position: Tensor,
        quaternion_xyzw: Tensor,
        linear_velocity: Tensor,
        angular_velocity: Tensor,
        rotor_speed: Tensor,
    ) -> State:
        """Join the parts [3, N], [4, N], [3, N], [3, N] and [4, N]; units as in the properties."""
        parts = (position, quaternion_xyzw, linear_velocity, angular_velocity, rotor_speed)
        return State(torch.cat(parts))

    @property
    def parts(self) -> Parts:
        """The same in parts (views)."""
        return Parts._make(self.data.split((3, 4, 3, 3, 4)))

    @property
    def count(self) -> int:
        """N, the number of quadrotors."""
        return self.data.shape[1]

    @property
    def position(self) -> Tensor:
        """[3, N] m, world."""
        return self.data[0:3]

    @property
    def quaternion_xyzw(self) -> Tensor:
        """[4, N] unit quaternion, body to world."""
        return self.data[3:7]

    @property
    def linear_velocity(self) -> Tensor:
        """[3, N] m/s, world."""
        return self.data[7:10]

    @property
    def angular_velocity(self) -> Tensor:
        """[3, N] rad/s, body."""
        return self.data[10:13]

    @property
    def rotor_speed(self) -> Tensor:
        """[4, N] normalised, 0 to 1."""
        return self.data[13:17]

    @property
    def rotation_matrix(self) -> Tensor:
        """[9, N] row-major rotation, body to world."""
        return torch.stack(_rotation_rows(self.quaternion_xyzw.unbind()))


def hover_state(airframes: Airframes) -> State:
    """Every quadrotor at rest and level at the world's origin, its rotors carrying its weight."""
    zero = torch.zeros_like(airframes.inertia)
    level = torch.cat([zero, torch.ones_like(airframes.mass)[None]])
    return State.of(zero, level, zero, zero, airframes.hover_action)


def step(
    state: State, action: Tensor, airframes: Airframes, force: Tensor, dt: float, *,
    torque: Tensor | None = None,
) -> State:  # fmt: skip
    """Advance N quadrotors by `dt` seconds with the classical Runge-Kutta method.

    action  [4, N] set-point of the normalised rotor speed, limited to 0..1 (a policy's raw output
            a in -1..1 means (a + 1) / 2); constant over the step
    force   [3, N] N, world, constant disturbance on the centre of mass
    torque  [3, N] N m, body, constant disturbance; none where omitted

    The quaternion is normalised and the rotor speeds are limited to 0..1 afterwards. Every tensor
    may carry gradients. Raises ValueError for a wrong shape. Values are not read, to keep the
    inner loop fast: call check_dt once, and check_finite as often as wanted.
    """
    _check_shapes(state, action, airframes, force, torque)
    return _step(state, action, airframes, force, dt, torque)


def compile_step() -> Step:
    """`step` fused into a few loops by torch.compile, for batches above about a thousand.

    The first call with a new batch size takes some seconds of compilation. Shapes are checked as
    in `step`; the results differ from it by rounding only.
    """
    fused = torch.compile(_step, fullgraph=True, dynamic=False)

    def compiled(
        state: State, action: Tensor, airframes: Airframes, force: Tensor, dt: float
    ) -> State:
        _check_shapes(state, action, airframes, force, None)
        return fused(state, action, airframes, force, dt, None)

    return compiled


def _step(
    state: State, action: Tensor, airframes: Airframes, force: Tensor, dt: float,
    torque: Tensor | None,
) -> State:  # fmt: skip
    return State(torch.cat(advance(state.parts, action, airframes, force, dt, torque)))


def advance(
    state: Parts, action: Tensor, airframes: Airframes, force: Tensor, dt: float,
    torque: Tensor | None = None,
) -> Parts:  # fmt: skip
    """`step` without its checks, on parts: for code that is compiled as a whole.

    RK4 in the order of the cascade motors -> omega -> q -> v -> p, which loses nothing.

    Each quantity depends only on itself and on those before it, so integrating them one after the
    other gives the Runge-Kutta stages of the joint system, without its copies.
    """
    speeds, rotor_speed = _spin_rotors(state.rotor_speed, action.clamp(0, 1), airframes, dt)
    wrenches = [_rotor_wrench(speed, airframes) for speed in speeds]
    torques = [wrench[1:] for wrench in wrenches]
    if torque is not None:
        torques = [_add(stage, torque.unbind()) for stage in torques]
    rates, omega = _turn(state.angular_velocity.unbind(), torques, airframes, dt)
    attitudes, quaternion = _rotate(state.quaternion_xyzw.unbind(), rates, dt)
    accelerations = _accelerate(attitudes, [wrench[0] for wrench in wrenches], airframes, force)
    position, velocity = _move(state, accelerations, dt)
    moved = (torch.stack(rows) for rows in (position, quaternion, velocity, omega))
    return Parts._make([*moved, rotor_speed])


def _spin_rotors(
    speed: Tensor, target: Tensor, airframes: Airframes, dt: float
) -> tuple[list[Tensor], Tensor]:
    """Rotor speed [4, N] at the four stages, and after the step.

    A first-order lag does not cross its target within a step (see check_dt), so the choice between
    rise and fall holds for all stages.
    """
    gap = target - speed
    x = dt / torch.where(gap >= 0, airframes.rise_time, airframes.fall_time)
    second = x / 2
    third = second * (1 - second)
    fourth = x * (1 - third)
    stages = [speed, *(torch.addcmul(speed, share, gap) for share in (second, third, fourth))]
    share = x * (1 - second * (1 - x / 3 * (1 - x / 4)))
    return stages, torch.addcmul(speed, share, gap).clamp(0, 1)


def _rotor_wrench(speed: Tensor, airframes: Airframes) -> Rows:
    """Thrust along body z [N] and torque about body x, y, z (three times [N]) of all rotors."""
    c0, c1, c2 = airframes.thrust_curve.unbind(dim=1)
    thrust = torch.addcmul(c0, speed, torch.addcmul(c1, speed, c2))
    x, y, _ = airframes.rotor_position.unbind(dim=1)
    yaw = airframes.rotor_direction * airframes.torque_constant
    return (
        thrust.sum(dim=0),
        (thrust * y).sum(dim=0),
        -(thrust * x).sum(dim=0),
        (thrust * yaw).sum(dim=0),
    )


def _turn(
    omega: Rows, torques: list[Rows], airframes: Airframes, dt: float
) -> tuple[list[Rows], Rows]:
    """Angular velocity at the four stages, and after the step (Euler's equations)."""
    jx, jy, jz = airframes.inertia.unbind()
    cx, cy, cz = (jy - jz) / jx, (jz - jx) / jy, (jx - jy) / jz
    pushes = [(tx / jx, ty / jy, tz / jz) for tx, ty, tz in torques]

    def derivative(stage: int, rate: Rows) -> Rows:
        x, y, z = rate
        px, py, pz = pushes[stage]
        return (
            torch.addcmul(px, cx * y, z),
            torch.addcmul(py, cy * z, x),
            torch.addcmul(pz, cz * x, y),
        )

    return _runge_kutta(derivative, omega, dt)


def _rotate(quaternion: Rows, rates: list[Rows], dt: float) -> tuple[list[Rows], Rows]:
    """Attitude (x, y, z, w) at the four stages, and, normalised, after the step."""

    def twice_derivative(stage: int, attitude: Rows) -> Rows:
        x, y, z, w = attitude
        a, b, c = rates[stage]
        return (
            _product_sum((w, a), (y, c), minus=(z, b)),
            _product_sum((w, b), (z, a), minus=(x, c)),
            _product_sum((w, c), (x, b), minus=(y, a)),
            -_product_sum((x, a), (y, b), (z, c)),
        )

    stages, end = _runge_kutta(twice_derivative, quaternion, dt / 2)
    scale = torch.rsqrt(_product_sum(*((q, q) for q in end)))
    return stages, tuple(q * scale for q in end)


def _runge_kutta(
    derivative: Callable[[int, Rows], Rows], start: Rows, dt: float
) -> tuple[list[Rows], Rows]:
    """The classical method for y' = derivative(stage, y): y at its four stages, and at the end."""
    k1 = derivative(0, start)
    second = _add(start, k1, dt / 2)
    k2 = derivative(1, second)
    third = _add(start, k2, dt / 2)
    k3 = derivative(2, third)
    fourth = _add(start, k3, dt)
    k4 = derivative(3, fourth)
    slope = _add(_add(k1, k4), _add(k2, k3), 2)
    return [start, second, third, fourth], _add(start, slope, dt / 6)


def _accelerate(
    attitudes: list[Rows], thrusts: list[Tensor], airframes: Airframes, force: Tensor
) -> list[Rows]:
    """Linear acceleration at the four stages, world, m/s^2."""
    fx, fy, fz = (force / airframes.mass).unbind()
    fz = fz - GRAVITY

    def acceleration(attitude: Rows, thrust: Tensor) -> Rows:
        x, y, z, w = attitude
        push = thrust / airframes.mass
        twice = 2 * push
        return (
            torch.addcmul(fx, _product_sum((x, z), (w, y)), twice),
            torch.addcmul(fy, _product_sum((y, z), minus=(w, x)), twice),
            torch.addcmul(push + fz, _product_sum((x, x), (y, y)), twice, value=-1),
        )

    return [acceleration(*stage) for stage in zip(attitudes, thrusts, strict=True)]


def _move(state: Parts, accelerations: list[Rows], dt: float) -> tuple[Rows, Rows]:
    """Position and velocity after the step: Runge-Kutta for p'' = a, its stages summed."""
    a1, a2, a3, a4 = accelerations
    velocity = state.linear_velocity.unbind()
    inner = _add(a2, a3)
    mean = _add(_add(a1, a4), inner, 2)
    travel = _add(velocity, _add(a1, inner), dt / 6)
    return _add(state.position.unbind(), travel, dt), _add(velocity, mean, dt / 6)


def _add(left: Rows, right: Rows, scale: float = 1) -> Rows:
    return tuple(torch.add(a, b, alpha=scale) for a, b in zip(left, right, strict=True))


def _product_sum(
    first: tuple[Tensor, Tensor], *more: tuple[Tensor, Tensor],
    minus: tuple[Tensor, Tensor] | None = None,
) -> Tensor:  # fmt: skip
    """Sum of the products of pairs, less one pair's; in as few passes over memory as can be."""
    total = first[0] * first[1]
    for left, right in more:
        total = torch.addcmul(total, left, right)
    return total if minus is None else torch.addcmul(total, *minus, value=-1)


def _rotation_rows(quaternion: Rows) -> Rows:
    x, y, z, w = quaternion
    return (
        1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y),
        2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x),
        2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y),
    )  # fmt: skip


def specific_force(state: State, airframes: Airframes, force: Tensor) -> Tensor:
    """What an ideal accelerometer at the centre of mass reads: [3, N] m/s^2, body.

    It is the acceleration without gravity: thrust along body z, and the disturbance `force`
    [3, N] (N, world) turned into the body frame. Raises ValueError for a wrong shape.
    """
    _check_shapes(state, airframes.hover_action, airframes, force, None)
    thrust = _rotor_wrench(state.rotor_speed, airframes)[0]
    rotation = state.rotation_matrix.reshape(3, 3, -1)
    push = (rotation * force[:, None]).sum(dim=0) / airframes.mass
    return torch.cat([push[:2], push[2:] + thrust / airframes.mass])


def check_finite(state: State, action: Tensor) -> None:
    """Raise ValueError naming the first quadrotor with a non-finite state or action."""
    for name, value in (("state", state.data), ("action", action)):
        finite = torch.isfinite(value)
        if not bool(finite.all()):
            row, index = (int(i) for i in (~finite).nonzero()[0])
            raise ValueError(
                f"{name}: expected finite values; found {float(value[row, index])} in row {row} "
                f"of quadrotor {index}. Check the policy's output, or shorten dt"
            )


def check_dt(airframes: Airframes, dt: float) -> None:
    """Raise ValueError unless 0 < dt <= the shortest motor time constant.

    Beyond it a rotor's Runge-Kutta stages overshoot their set-point, and the result is not that
    of the equations.
    """
    shortest = float(torch.minimum(airframes.rise_time, airframes.fall_time).min())
    if not 0 < dt <= shortest:
        raise ValueError(
            f"dt: expected above 0 and at most {shortest:.4g} s, the shortest motor time "
            f"constant; found {dt} s. Take several shorter steps"
        )


def _check_shapes(
    state: State, action: Tensor, airframes: Airframes, force: Tensor, torque: Tensor | None
) -> None:
    count = airframes.count
    expected = (
        ("state", state.data, STATE_SIZE),
        ("action", action, ROTOR_COUNT),
        ("force", force, 3),
        ("torque", torque, 3),
    )
    for name, value, rows in expected:
        if value is not None and tuple(value.shape) != (rows, count):
            raise ValueError(
                f"{name}: expected shape [{rows}, {count}] (quantity, quadrotor) for {count} "
                f"airframes; found {list(value.shape)}"
            )
