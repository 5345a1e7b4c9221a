"""Named trials of a quadrotor policy: how the flights start, and what disturbs them.

For example: result = CASES["payload20"].fly(policy, flights, seed=0)
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch

from sim.quadrotor.disturbances import UNDISTURBED, Disturbances, SensorNoise
from sim.quadrotor.evaluation import (
    PROTOCOL_LIMITS,
    Limits,
    Policy,
    Result,
    Watch,
    evaluate,
)
from sim.quadrotor.scenario import Scenario, tumbling
from sim.quadrotor.trajectories import Reference


@dataclass(frozen=True)
class Case:
    """A named trial."""

    description: str
    disturbances: Disturbances = UNDISTURBED
    with_force: bool = True
    """False: without the scenario's constant force."""
    any_attitude: bool = False
    """True: thrown (see scenario.tumbling), and free to be fast on the way back."""

    def prepare(self, flights: Scenario, seed: int) -> Scenario:
        """The flights of this case, made of those with force and the protocol's starts."""
        if not self.with_force:
            flights = replace(flights, force=torch.zeros_like(flights.force))
        return tumbling(flights, seed) if self.any_attitude else flights

    def loosen(self, limits: Limits) -> Limits:
        """The limits that hold in this case."""
        return replace(limits, linear_velocity=math.inf) if self.any_attitude else limits

    def fly(
        self,
        policy: Policy,
        flights: Scenario,
        seed: int,
        *,
        policy_seed: int = 0,
        limits: Limits = PROTOCOL_LIMITS,
        reference: Reference | None = None,
        watch: Watch | None = None,
    ) -> Result:
        """Fly `flights` (with force, as the protocol starts them) in this case; see evaluate.

        `seed` draws throws and disturbances.
        """
        return evaluate(
            policy, self.prepare(flights, seed), seed=policy_seed, limits=self.loosen(limits),
            reference=reference, disturbances=self.disturbances, disturbance_seed=seed,
            watch=watch,
        )  # fmt: skip


CASES = {
    "nominal": Case("a constant force of the airframe's own spread (0 for known airframes)"),
    "calm": Case("no force", with_force=False),
    "delay10": Case("commands reach the motors 10 ms late", Disturbances(delay_steps=1)),
    "delay20": Case("commands reach the motors 20 ms late", Disturbances(delay_steps=2)),
    "noise": Case(
        "white noise: position 1 cm, velocity 2 cm/s, attitude 1 degree, rates 0.05 rad/s",
        Disturbances(noise=SensorNoise()),
    ),
    "payload20": Case("20 % more mass from 2 s on", Disturbances(payload_factor=1.2)),
    "gusts": Case("gusts of 5 % of the weight, 1 s long", Disturbances(gust_std=0.05)),
    "any-attitude": Case(
        "thrown at any attitude, turning at 10 rad/s; no limit on velocity", any_attitude=True
    ),
}
"""All but `calm` fly with the constant force too; of known airframes it is zero."""
