"""The flights that policies are trained on: thousands at once, persistent, disturbed, compiled.

One flight is a column of every tensor. `fly` is one step of 10 ms, made to be compiled together
with a network and a cost; between horizons, `Flights.renew` ends and starts episodes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree

from robot_policies.strict import require
from sim.quadrotor.airframes import GRAVITY, Airframes
from sim.quadrotor.disturbances import SensorNoise
from sim.quadrotor.dynamics import PROTOCOL_DT, Parts, advance
from sim.quadrotor.evaluation import EPISODE_STEPS, Limits
from sim.quadrotor.trajectories import langevin_step

POSITION_CLIP = 1.0
"""m, of the position error that a policy sees, as in its contract."""
VELOCITY_CLIP = 3.0
"""m/s, the same of the velocity error."""
MEMORY_SIZE = 16
"""Of the student; a teacher carries it along unused."""
BRIEF_STEPS = 150
NOISE_ROWS = 15
"""Rows of a step's standard normal noise: p, v, R, omega (three each), Langevin trajectory."""
_NOISE_BANK = 1 << 16
"""Columns at least; four times as many as there are flights where that is more."""
_DRAWN = ("force", "late", "noise", "moving", "reach", "speed")
"""What of a world is drawn for an episode, beside the quadrotor."""
_FREE = 1e3
"""A limit that nothing reaches."""


@dataclass(frozen=True)
class Mixture:
    """Which disturbances the flights have, as shares of all episodes."""

    any_attitude: float = 0.0
    """Starts thrown: a tilt of 0 to 180 degrees, up to 10 rad/s, no limit on velocity; brief."""
    far: float = 0.0
    """Starts up to 2 m away, without a limit on position."""
    delay: float = 0.0
    """Motor commands that arrive one or two steps late."""
    noise: float = 0.0
    """Sensor noise of up to 1.5 times the protocol's."""
    payload: float = 0.0
    """A mass that changes in flight, by up to 30 %."""
    gusts: float = 0.0
    """A force that jumps in flight."""
    langevin: float = 0.0
    """A moving target: RAPTOR's Langevin reference, one to four times as large and as fast."""
    brief: float = 0.0
    """Episodes of 1.5 s, to the next end of a horizon: what decides between life and death comes
    first."""

    def __post_init__(self) -> None:
        """Refuse shares that are none."""
        shares = asdict(self).items()
        require("mixture", *((0 <= x <= 1, key, "a share, 0 to 1", x) for key, x in shares))


@dataclass(frozen=True)
class Flight:
    """What changes from step to step."""

    state: Parts
    reference: Tensor
    """[12, N], see trajectories.langevin_step; zero holds the position."""
    previous: Tensor
    """[4, N] raw action that the policy sees as its previous one."""
    last: Tensor
    """[4, N] the last raw action that was commanded: `previous`, but for an episode's start."""
    older: Tensor
    """[4, N] the one before."""
    memory: Tensor
    """[16, N] recurrent state."""


@dataclass(frozen=True)
class World:
    """What stays for a horizon."""

    airframes: Airframes
    force: Tensor
    """[3, N] N, world."""
    late: Tensor
    """[2, N] 1 where commands arrive at least one, at least two steps late, else 0."""
    noise: Tensor
    """[12, N] standard deviation of the noise on p, v, R (rad, a small rotation) and omega."""
    moving: Tensor
    """[N] how much farther than RAPTOR's references the target moves; 0: it rests."""
    reach: Tensor
    """[N] m, the distance along an axis that ends an episode."""
    speed: Tensor
    """[N] m/s, the same of the velocity."""
    features: Tensor
    """[11, N] what a conditioned teacher is told, see `describe`."""


def _revive(values: Iterable[Any], names: tuple[str, ...]) -> Airframes:
    """Airframes whose values nobody reads: a tensor that is being traced has none."""
    airframes = object.__new__(Airframes)
    airframes.__dict__.update(zip(names, values, strict=True))
    return airframes


def _dissect(airframes: Airframes) -> tuple[list[Tensor], tuple[str, ...]]:
    return list(vars(airframes).values()), tuple(vars(airframes))


for _kind in (Flight, World):
    _pytree.register_dataclass(_kind)  # so that they cross the border of a compiled step
_pytree.register_pytree_node(Airframes, _dissect, _revive)


def describe(airframes: Airframes, force: Tensor, late: Tensor) -> Tensor:
    """[11, N] all that decides how a quadrotor moves, scaled to about one.

    Thrust over weight, angular acceleration about x and z at full differential thrust, rise and
    fall time, hover action, delay in steps, where the position ends an episode, and the force
    over mass (3 rows).
    """
    side = airframes.rotor_position[0, 1].abs()
    turn = 2 * airframes.max_thrust / 4 * side / airframes.inertia[0]
    spin = airframes.max_thrust / 2 * airframes.torque_constant[0] / airframes.inertia[2]
    rows = [
        airframes.thrust_to_weight / 3 - 1,
        torch.log(turn / 300) / 1.5,
        torch.log(spin / 50) / 2,
        airframes.rise_time[0] * 20 - 1,
        airframes.fall_time[0] * 8 - 1,
        airframes.hover_action[0] * 4 - 2,
        late[0] + late[1],
        20 * airframes.arm_length / 2 - 1,
    ]
    return torch.cat([torch.stack(rows), force / airframes.mass / 2])


def observe(flight: Flight) -> Tensor:
    """[22, N] the student's observation without noise: p, R, v, omega, previous raw action."""
    state = flight.state
    position = (state.position - flight.reference[0:3]).clamp(-POSITION_CLIP, POSITION_CLIP)
    velocity = (state.linear_velocity - flight.reference[3:6]).clamp(-VELOCITY_CLIP, VELOCITY_CLIP)
    return torch.cat(
        [position, state.rotation_matrix, velocity, state.angular_velocity, flight.previous]
    )


def disturb(observation: Tensor, world: World, noise: Tensor) -> Tensor:
    """The observation with sensor noise; `noise` [15, N] is standard normal."""
    scaled = noise[:12] * world.noise
    position, r, velocity, omega, previous = observation.split((3, 9, 3, 3, 4))
    x, y, z = scaled[6:9].unbind()
    r = r.unbind()
    turned = torch.stack([  # R (1 + [e]x), the first order of a small rotation e in the body
        r[0] + r[1] * z - r[2] * y, r[1] + r[2] * x - r[0] * z, r[2] + r[0] * y - r[1] * x,
        r[3] + r[4] * z - r[5] * y, r[4] + r[5] * x - r[3] * z, r[5] + r[3] * y - r[4] * x,
        r[6] + r[7] * z - r[8] * y, r[7] + r[8] * x - r[6] * z, r[8] + r[6] * y - r[7] * x,
    ])  # fmt: skip
    return torch.cat(
        [position + scaled[0:3], turned, velocity + scaled[3:6], omega + scaled[9:12], previous]
    )


def fly(flight: Flight, world: World, action: Tensor, memory: Tensor, noise: Tensor) -> Flight:
    """One step of 10 ms with the raw `action` [4, N], which arrives as late as the world says."""
    once, twice = world.late
    arrived = action + once * (flight.last - action) + twice * (flight.older - flight.last)
    state = advance(flight.state, (arrived + 1) / 2, world.airframes, world.force, PROTOCOL_DT)
    reference = langevin_step(flight.reference, world.moving * noise[12:])
    return Flight(state, reference, action, action, flight.last, memory)


def ended(flight: Flight, world: World) -> Tensor:
    """[N] bool: beyond a limit of the protocol, relative to the target."""
    state = flight.state
    position = (state.position - flight.reference[0:3]).abs().amax(dim=0)
    velocity = (state.linear_velocity - flight.reference[3:6]).abs().amax(dim=0)
    rate = state.angular_velocity.abs().amax(dim=0)
    # Negated, so that what is not a number ends, too.
    sound = (position <= world.reach) & (velocity <= world.speed)
    return ~(sound & (rate <= Limits().angular_velocity))


class Flights:
    """N persistent flights over a pool of quadrotors, with their episodes' bookkeeping."""

    def __init__(
        self, pool: Airframes, count: int, mixture: Mixture, seed: int, *, fixed: bool = False
    ) -> None:
        """Start `count` flights.

        fixed: column n always flies quadrotor n * P // count of the pool of P (stacked teachers);
        otherwise every episode draws one.
        """
        self._pool, self._mixture, self._fixed = pool, mixture, fixed
        self.count = count
        self._generator = torch.Generator().manual_seed(seed)
        self._bank = torch.randn(
            NOISE_ROWS, max(_NOISE_BANK, 4 * count), generator=self._generator
        )
        self._own = torch.arange(count) * pool.count // count
        self.index, self.flight, self.world = self._draw()
        self.fresh = torch.ones(count, dtype=torch.bool)
        self.age = torch.zeros(count, dtype=torch.int64)
        """[N] steps since the episode began."""
        # Episodes end at different times, or all would in the same iteration.
        spent = torch.randint(0, EPISODE_STEPS, (count,), generator=self._generator)
        self.left = EPISODE_STEPS - spent
        """[N] steps until it ends."""

    def begin(self, initial_memory: Tensor) -> Flight:
        """Where the next horizon starts: new episodes with `initial_memory` [16, 1]."""
        memory = torch.where(self.fresh, initial_memory, self.flight.memory)
        return replace(self.flight, memory=memory)

    @property
    def steps(self) -> int:
        """How many noise columns there are to begin a step at."""
        return (self._bank.shape[1] - self.count) // 16

    def noise(self) -> Tensor:
        """[15, N] standard normal noise of a step: a random window of a fixed bank."""
        start = 16 * int(torch.randint(self.steps, (), generator=self._generator))
        return self._bank[:, start : start + self.count]

    def renew(self, flight: Flight, over: Tensor, steps: int) -> Tensor:
        """Go on from `flight` after `steps` steps; begin anew where `over` [N] or 5 s are up.

        Returns [N] bool: which episodes came to their end, terminated or not.
        """
        self.left = self.left - steps
        broken = ~torch.isfinite(torch.cat(flight.state)).all(dim=0)
        done = over | broken | (self.left <= 0)
        index, fresh, world = self._draw()
        self.index = torch.where(done, index, self.index)
        self.flight = _choose(done, fresh, _pytree.tree_map(torch.detach, flight))
        self.world = self._shaken(_choose(done, world, self.world), done)
        brief = self._share(self._mixture.brief) | (world.speed == _FREE)
        self.left = torch.where(done, torch.where(brief, BRIEF_STEPS, EPISODE_STEPS), self.left)
        self.age = torch.where(done, 0, self.age + steps)
        self.fresh = done
        return done

    def state_dict(self) -> dict[str, Any]:
        """All that a resumed run needs, as tensors."""
        drawn = {name: getattr(self.world, name) for name in _DRAWN}
        parts = {
            "index": self.index, "age": self.age, "left": self.left, "fresh": self.fresh,
            "generator": self._generator.get_state(), "mass": self.world.airframes.mass,
        }  # fmt: skip
        return parts | drawn | {"flight": _pytree.tree_leaves(self.flight)}

    def load_state_dict(self, stored: Mapping[str, Any]) -> None:
        """Go on where `state_dict` was taken. Raises ValueError for another number of flights."""
        if len(stored["index"]) != self.count:
            raise ValueError(
                f"flights: expected {self.count}, as many as are configured, found "
                f"{len(stored['index'])} in the checkpoint; begin a new run"
            )
        self.index, self.fresh = stored["index"], stored["fresh"]
        self.age, self.left = stored["age"], stored["left"]
        self._generator.set_state(stored["generator"])
        shape = _pytree.tree_structure(self.flight)
        self.flight = _pytree.tree_unflatten(stored["flight"], shape)
        airframes = replace(self._pool.select(self.index), mass=stored["mass"])
        self.world = _world(airframes, **{name: stored[name] for name in _DRAWN})

    def _uniform(self, rows: int) -> Tensor:
        return torch.rand(rows, self.count, generator=self._generator)

    def _share(self, share: float) -> Tensor:
        return self._uniform(1)[0] < share

    def _draw(self) -> tuple[Tensor, Flight, World]:
        """A new episode for every column."""
        index = self._own if self._fixed else torch.randint(
            self._pool.count, (self.count,), generator=self._generator
        )  # fmt: skip
        airframes = self._pool.select(index)
        far = self._share(self._mixture.far)
        thrown = self._share(self._mixture.any_attitude) & ~far
        state = self._initial_state(far, thrown)
        raw = 2 * state.rotor_speed - 1
        # The protocol tells a policy the initial rotor speed; a node that starts tells it zero.
        previous = torch.where(self._share(0.5), raw, torch.zeros_like(raw))
        memory = torch.zeros(MEMORY_SIZE, self.count)
        flight = Flight(state, torch.zeros(12, self.count), previous, raw, raw, memory)
        return index, flight, self._draw_world(airframes, far, thrown)

    def _draw_world(self, airframes: Airframes, far: Tensor, thrown: Tensor) -> World:
        steps_late = torch.where(self._share(self._mixture.delay), 1 + self._share(0.5).int(), 0)
        std = SensorNoise()
        named = [std.position, std.linear_velocity, std.attitude, std.angular_velocity]
        protocol = torch.tensor(named).repeat_interleave(3)[:, None]
        strength = 1.5 * self._uniform(1) * self._share(self._mixture.noise)
        return _world(
            airframes,
            force=self._normal(3) * airframes.force_std,
            late=torch.stack([steps_late >= 1, steps_late >= 2]).float(),
            noise=protocol * strength,
            moving=self._share(self._mixture.langevin) * (1 + 3 * self._uniform(1)[0]),
            reach=torch.where(far, _FREE, Limits().position_arms * airframes.arm_length),
            speed=torch.where(thrown, _FREE, Limits().linear_velocity),
        )

    def _normal(self, rows: int) -> Tensor:
        return torch.randn(rows, self.count, generator=self._generator)

    def _initial_state(self, far: Tensor, thrown: Tensor) -> Parts:
        """RAPTOR's initial states (see scenario.initial_states), and the mixture's."""
        draw = self._uniform(14)
        position = (2 * draw[0:3] - 1) * torch.where(far, 2.0, 0.5)
        velocity = 2 * draw[3:6] - 1
        omega = (2 * draw[6:9] - 1) * torch.where(thrown, 10.0, 1.0)
        axis = self._normal(3)
        half = draw[9] * torch.where(thrown, torch.pi, 1.0) / 2
        attitude = torch.cat([axis / axis.norm(dim=0) * half.sin(), half.cos()[None]])
        calm = self._share(0.1) & ~thrown
        level = torch.tensor([0.0, 0, 0, 1])[:, None]
        attitude = torch.where(calm, level, attitude)
        position, velocity, omega = (torch.where(calm, 0, v) for v in (position, velocity, omega))
        return Parts(position, attitude, velocity, omega, draw[10:14] / 2)

    def _shaken(self, world: World, fresh: Tensor) -> World:
        """Payloads and gusts come and go between horizons."""
        loads = self._share(self._mixture.payload / 3) & ~fresh
        gusts = self._share(self._mixture.gusts / 3) & ~fresh
        if not (loads.any() or gusts.any()):
            return world
        nominal = self._pool.mass[self.index]
        # A load may be more than a weak quadrotor can lift.
        most = (0.9 * world.airframes.max_thrust / GRAVITY / nominal).clamp(min=1, max=1.3)
        loaded = nominal * (1 + (most - 1) * self._uniform(1)[0])
        mass = torch.where(loads, loaded, world.airframes.mass)
        force = torch.where(gusts, self._normal(3) * world.airframes.force_std, world.force)
        return _world(
            replace(world.airframes, mass=mass), force, world.late, world.noise, world.moving,
            world.reach, world.speed,
        )  # fmt: skip


def _world(
    airframes: Airframes, force: Tensor, late: Tensor, noise: Tensor, moving: Tensor,
    reach: Tensor, speed: Tensor,
) -> World:  # fmt: skip
    told = describe(airframes, force, late)
    return World(airframes, force, late, noise, moving, reach, speed, told)


def _choose(mask: Tensor, yes: Any, no: Any) -> Any:
    return _pytree.tree_map(lambda a, b: torch.where(mask, a, b), yes, no)
