"""What disturbs a flight besides the scenario's constant force: gusts, payload, delay, noise.

    evaluate(policy, flights, disturbances=Disturbances(delay_steps=1, gust_std=0.05))

Every part is drawn on the CPU from one seed, in a stream of its own, so that adding one
changes none of the others, and every policy meets the same.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from sim.quadrotor.airframes import Airframes
from sim.quadrotor.dynamics import PROTOCOL_DT, State
from sim.quadrotor.scenario import Scenario


@dataclass(frozen=True)
class SensorNoise:
    """Standard deviations per axis of white measurement noise, drawn anew at every step."""

    position: float = 0.01
    """m, world."""
    linear_velocity: float = 0.02
    """m/s, world."""
    attitude: float = math.radians(1)
    """rad, a small rotation of the body: R exp([e]x)."""
    angular_velocity: float = 0.05
    """rad/s, body."""

    def __post_init__(self) -> None:
        """Refuse what is no standard deviation."""
        for name, value in vars(self).items():
            _require(f"SensorNoise.{name}", value, 0 <= value < math.inf, "zero or more")


@dataclass(frozen=True)
class Disturbances:
    """What acts on a flight; the defaults do nothing. Raises ValueError for a senseless value."""

    gust_std: float = 0.0
    """Standard deviation per world axis of the gusts' force, as a share of the weight."""
    gust_time_s: float = 1.0
    """s, correlation time of the gusts."""
    payload_factor: float = 1.0
    """The mass is multiplied by this; the load hangs at the centre of mass."""
    payload_step: int = 200
    """Steps of 10 ms flown before the load is there."""
    delay_steps: int = 0
    """Steps of 10 ms between a command and the motors; before the first one arrives they get
    the set-point that keeps their initial speed."""
    noise: SensorNoise | None = None
    """Of what the policy is told; rewards and limits go by the truth."""

    def __post_init__(self) -> None:
        """Refuse what cannot be flown."""
        gust, factor = self.gust_std, self.payload_factor
        _require("gust_std", gust, 0 <= gust < math.inf, "zero or more")
        _require("gust_time_s", self.gust_time_s, 0 < self.gust_time_s < math.inf, "above 0 s")
        _require("payload_factor", factor, 0 < factor < math.inf, "above 0")
        _require("payload_step", self.payload_step, self.payload_step >= 0, "zero or more")
        _require("delay_steps", self.delay_steps, self.delay_steps >= 0, "zero or more")


def _require(name: str, value: float, accepted: bool, expected: str) -> None:
    if not accepted:
        raise ValueError(f"disturbances: {name}: expected {expected}, found {value}")


UNDISTURBED = Disturbances()


class Gusts:
    """A force that wanders: one first-order Gauss-Markov process per world axis, from its middle.

    Discretised exactly. This is the form that Dryden's model gives the gust along the flight
    path (MIL-F-8785C, 3.7.2), here of the force itself, since these quadrotors have no drag.
    """

    def __init__(self, disturbances: Disturbances, airframes: Airframes, seed: int) -> None:
        """Gusts for N quadrotors."""
        self._spread = disturbances.gust_std * airframes.weight
        self._keep = math.exp(-PROTOCOL_DT / disturbances.gust_time_s)
        self._generator = np.random.default_rng([seed, 6])
        self._value = self._normal()

    def step(self) -> Tensor:
        """The force of the next 10 ms: [3, N] N, world."""
        force = self._spread * self._value
        self._value = self._keep * self._value + math.sqrt(1 - self._keep**2) * self._normal()
        return force

    def _normal(self) -> Tensor:
        shape = (3, self._spread.shape[0])
        return torch.from_numpy(self._generator.standard_normal(shape, np.float32))


class Sensors:
    """Measures states with noise."""

    def __init__(self, noise: SensorNoise, seed: int) -> None:
        """Begin a flight."""
        self._noise = noise
        self._generator = np.random.default_rng([seed, 7])

    def measure(self, state: State) -> State:
        """`state` as it is measured; rotor speeds, which no policy sees, are left alone."""
        noise = self._noise
        normal = self._generator.standard_normal((12, state.count), np.float32)
        e = torch.from_numpy(normal).to(state.data.dtype)
        return State.of(
            state.position + noise.position * e[0:3],
            _turned(state.quaternion_xyzw, noise.attitude * e[3:6]),
            state.linear_velocity + noise.linear_velocity * e[6:9],
            state.angular_velocity + noise.angular_velocity * e[9:12],
            state.rotor_speed,
        )


def _turned(quaternion_xyzw: Tensor, rotation_vector: Tensor) -> Tensor:
    """[4, N], turned about body axes by rotation vectors [3, N] (rad)."""
    half = rotation_vector.norm(dim=0) / 2
    vector, scalar = quaternion_xyzw[:3], quaternion_xyzw[3]
    # sin(x) / x that is also right at zero
    turn, cos = rotation_vector / 2 * torch.sinc(half / math.pi), half.cos()
    joined = scalar * turn + cos * vector + torch.linalg.cross(vector, turn, dim=0)
    return torch.cat([joined, (scalar * cos - (vector * turn).sum(dim=0))[None]])


class World:
    """What acts on N quadrotors while they fly: to be asked once for every step, in order."""

    def __init__(self, disturbances: Disturbances, scenario: Scenario, seed: int) -> None:
        """Begin a flight of the scenario. Raises ValueError where the load cannot be carried."""
        light, self._payload_step = scenario.airframes, disturbances.payload_step
        self._light = light
        self._loaded = replace(light, mass=light.mass * disturbances.payload_factor)
        self._force = scenario.force
        self._gusts = Gusts(disturbances, light, seed) if disturbances.gust_std else None
        self._sensors = Sensors(disturbances.noise, seed) if disturbances.noise else None
        self._queue = deque([scenario.state.rotor_speed] * disturbances.delay_steps)
        self._step = -1

    def measure(self, state: State) -> State:
        """What the policy is told of `state`."""
        return self._sensors.measure(state) if self._sensors else state

    def step(self, action: Tensor) -> tuple[Tensor, Airframes, Tensor]:
        """Set-point that reaches the motors [4, N], airframes and force [3, N] of this step."""
        self._step += 1
        self._queue.append(action)
        airframes = self._light if self._step < self._payload_step else self._loaded
        force = self._force + self._gusts.step() if self._gusts else self._force
        return self._queue.popleft(), airframes, force
