"""quadrotor: hold a position from a disturbed start, by RAPTOR's protocol at 100 Hz.

Starts, limits and reward are those of sim.quadrotor.evaluation and scenario; the starts come
from the counter-based generator.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from robot_policies.contract import Provenance
from robot_policies.models.foundation import FoundationPolicy, quadrotor_contract
from robot_policies.strict import InputError, Violation
from sim.draws import FloatArray, Streams, extremes
from sim.quadrotor import airframes as frames
from sim.quadrotor.airframes import Airframes
from sim.quadrotor.dynamics import PROTOCOL_DT, State, check_dt, hover_state, step
from sim.quadrotor.environment import POSITION_CLIP, VELOCITY_CLIP, describe
from sim.quadrotor.evaluation import (
    EPISODE_STEPS,
    PROTOCOL_LIMITS,
    TERMINATION_REWARD,
    observe,
    reward,
    terminated,
)
from sim.randomization import IdArray
from sim.randomization_terms import OPERATIONS, PUSH, Spec
from sim.tasks.scene import BoolArray, Interface, Scene, Score, Signals, Start

BODY = "quadrotor"
START_RANGE_M = 0.5
"""Of positions about the target, per axis."""
SUCCESS_DISTANCE_M = 0.2
"""At the end of a flight that no limit ended."""
_FEATURES = 6
"""Rows of environment.describe that tell the airframe."""


class Quadrotor(Scene):
    """N quadrotors of one airframe, or of N that are sampled with the seed."""

    about = "Flies a quadrotor to a position, and holds it, by commanding its four rotors."
    episode_steps = EPISODE_STEPS
    lost_reward = TERMINATION_REWARD

    def __init__(self, robot: Path | None, count: int, spec: Spec) -> None:
        """robot: a YAML file as config/airframe_example.yaml; None: sampled quadrotors.

        Raises InputError for a file that is none, and where the mass or inertia of sampled
        quadrotors, or a mass that cannot be lifted, would be drawn.
        """
        self.count = count
        self._given = None if robot is None else frames.load(robot)
        _require_liftable(self._given, spec)
        self._body = _Body(self._given, count)
        self.models = (self._body,)
        self.interface = _interface()
        self.seed(0)

    @property
    def airframes(self) -> Airframes:
        """The N quadrotors as they are now."""
        return self._body.airframes

    def seed(self, seed: int) -> None:
        """See Scene."""
        one = torch.zeros(self.count, dtype=torch.int64)
        fleet = frames.sample(self.count, seed) if self._given is None else self._given.select(one)
        check_dt(fleet, PROTOCOL_DT)
        self._body.airframes = fleet
        self._streams = Streams(seed, {"start/state": 17})
        self.state = self._before = hover_state(fleet)
        self._ended = np.zeros(self.count, bool)

    def reset(self, ids: IdArray, episodes: IdArray) -> Start:
        """See Scene."""
        u = self._streams.uniform(ids, episodes, 0)["start/state"]
        data = self.state.data.clone()
        data[:, ids] = torch.tensor(_start(u.T), dtype=data.dtype)
        self.state = State(data)
        self._body.impulse[:, ids] = 0
        speed = data[13:, ids].T.double().numpy()
        return Start(command=speed, previous_action=2 * speed - 1)

    @torch.no_grad()
    def step(self, command: FloatArray) -> None:
        """See Scene."""
        action = torch.tensor(command.T, dtype=torch.float32)
        force = self._body.impulse / PROTOCOL_DT
        self._before = self.state
        self.state = step(self.state, action, self.airframes, force, PROTOCOL_DT)
        self._body.impulse = torch.zeros_like(force)

    def signals(self) -> Signals:
        """See Scene. Rotor speeds and the airframe are what no policy is told."""
        told = {name: value.astype(np.float64) for name, value in observe(self.state).items()}
        zero = torch.zeros(3, self.count)
        features = describe(self.airframes, zero, zero[:2])[:_FEATURES]
        rest = {"rotor_speed": self.state.rotor_speed, "airframe": features}
        return told | {name: value.T.double().numpy() for name, value in rest.items()}

    def score(self, signals: Signals, raw: FloatArray, previous: FloatArray) -> Score:
        """See Scene."""
        ended = self._out_of_limits()
        actions = (torch.tensor(value.T, dtype=torch.float32) for value in (raw, previous))
        gain = reward(self._before, *actions).double().numpy()
        distance = np.linalg.norm(signals["position_error"], axis=1)
        success = ~ended & (distance < SUCCESS_DISTANCE_M)
        return Score(np.where(ended, TERMINATION_REWARD, gain), ended, distance, success)

    def diverged(self) -> IdArray:
        """See Scene."""
        return np.flatnonzero(~torch.isfinite(self.state.data).all(dim=0).numpy())

    def _out_of_limits(self) -> BoolArray:
        return terminated(self.state, self.airframes, PROTOCOL_LIMITS).numpy()


class _Body:
    """The quadrotors' parameters for randomisation (see sim.randomization.Parameters)."""

    airframes: Airframes

    def __init__(self, given: Airframes | None, count: int) -> None:
        self._given = given
        self.impulse = torch.zeros(3, count)
        """[3, N] N s, world, of the next step."""

    @property
    def capabilities(self) -> frozenset[str]:
        return frozenset({PUSH} if self._given is None else {PUSH, "mass", "inertia"})

    def names(self, kind: str) -> tuple[str, ...]:
        return (BODY,) if kind == "bodies" else ()

    def nominal(self, parameter: str, names: Sequence[str]) -> FloatArray:
        if parameter == PUSH:
            return np.zeros((1, 3))
        return getattr(self._given, parameter).double().numpy().T

    def set(self, parameter: str, names: Sequence[str], ids: IdArray, values: FloatArray) -> None:
        value = torch.tensor(values[:, 0].T, dtype=torch.float32)
        target = self.impulse if parameter == PUSH else getattr(self.airframes, parameter)
        target[..., ids] = value


def _require_liftable(given: Airframes | None, spec: Spec) -> None:
    """Refuse what `_Body` could only find out once it is drawn."""
    for term in spec.terms:
        if given is None and {"mass", "inertia"} & {*term.targets}:
            expected = "push, noise, bias, latency or delay, where airframes are sampled"
            mend = "give one airframe (robot), or remove the term"
            where = f"term {term.name}.parameter"
            raise InputError([Violation(where, expected, term.parameter, mend)])
        if given is not None and "mass" in term.targets:
            nominal, most = given.mass.double().numpy(), np.array(max(extremes(term.distribution)))
            heaviest = float(OPERATIONS[term.operation](nominal, most)[0])
            carried = float(given.max_thrust[0]) / frames.GRAVITY
            if heaviest > carried:
                expected = f"at most {carried:.4g} kg, which full thrust carries"
                where = f"term {term.name}.distribution"
                found = f"{heaviest:.4g} kg"
                raise InputError([Violation(where, expected, found, "narrow the distribution")])


def _start(u: FloatArray) -> FloatArray:
    """Numbers from 0 to 1 [17, M] -> states [17, M], as scenario.initial_states has them."""
    motion = np.concatenate([(2 * u[1:4] - 1) * START_RANGE_M, 2 * u[4:10] - 1])
    azimuth, up, half = 2 * np.pi * u[10], 1 - 2 * u[11], u[12] / 2
    level = np.sqrt(1 - up**2)
    axis = np.stack([level * np.cos(azimuth), level * np.sin(azimuth), up])
    attitude = np.concatenate([axis * np.sin(half), np.cos(half)[None]])
    at_target = u[0] < 0.1
    motion[:, at_target] = 0
    attitude[:, at_target] = np.array([0.0, 0, 0, 1])[:, None]
    return np.concatenate([motion[:3], attitude, motion[3:], u[13:] / 2])


def _interface() -> Interface:
    """From the contract of the policy that flies it: said in one place only."""
    unknown = Provenance("", "", "", False, (), "", {})
    contract = quadrotor_contract(
        BODY, FoundationPolicy(22, 16, 4), unknown,
        position_clip=POSITION_CLIP, velocity_clip=VELOCITY_CLIP,
    )  # fmt: skip
    return Interface(
        contract.robot, contract.observation, contract.action, contract.gains, contract.timing
    )
