"""The recurrent foundation policy: a GRU that identifies the robot while it flies it.

Source: RAPTOR, "A Foundation Policy for Quadrotor Control", arXiv 2509.11481.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from robot_policies.contract import (
    SCHEMA_VERSION,
    Action,
    Chunk,
    Contract,
    Conventions,
    Observation,
    Provenance,
    Robot,
    State,
    Timing,
)

MOTORS = ("front_right", "back_right", "back_left", "front_left")


class FoundationPolicy(nn.Module):
    """Dense -> GRU -> Dense; 2,084 parameters at RAPTOR's sizes (22, 16, 4).

    The recurrent state is an explicit input and output, and its initial value is learned.
    """

    def __init__(self, observation_size: int, hidden_size: int, action_size: int) -> None:
        """Create the layers (sizes: Do, H, Da)."""
        super().__init__()
        self.encoder = nn.Linear(observation_size, hidden_size)
        self.memory = nn.GRUCell(hidden_size, hidden_size)
        self.head = nn.Linear(hidden_size, action_size)
        self.initial_state = nn.Parameter(torch.zeros(hidden_size))

    def forward(self, observation: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """Take observation [B, 1, Do] and state [B, H]; return action [B, 1, Da] and state [B, H].

        The feature for out-of-distribution scores is the new state.
        """
        encoded = torch.relu(self.encoder(observation[:, 0]))
        state = self.memory(encoded, state)
        return self.head(state).unsqueeze(1), state


def quadrotor_contract(
    name: str, network: FoundationPolicy, origin: Provenance, *,
    position_clip: float, velocity_clip: float,
) -> Contract:  # fmt: skip
    """The contract of a foundation policy for quadrotors; motors are rotor speeds in [0, 1].

    position_clip (m) and velocity_clip (m/s) limit the errors that the network is shown, per
    axis, to what it saw in training.
    """
    rotation = tuple(f"r{row}{column}" for row in range(3) for column in range(3))
    xyz = ("x", "y", "z")

    def robot_signal(
        name: str, unit: str, frame: str, elements: tuple[str, ...], clip: float | None = None
    ) -> Observation:
        limits = None if clip is None else (-clip, clip)
        return Observation(name, "robot", (len(elements),), unit, frame, elements, 1, limits)

    return Contract(
        schema_version=SCHEMA_VERSION,
        name=name,
        family="foundation",
        robot=Robot(model="quadrotor", joints=(), actuators=MOTORS),
        observation=(
            robot_signal("position_error", "m", "world", xyz, clip=position_clip),
            robot_signal("rotation_matrix", "1", "world_from_body", rotation),
            robot_signal("linear_velocity_error", "m/s", "world", xyz, clip=velocity_clip),
            robot_signal("angular_velocity", "rad/s", "body", xyz),
            Observation(
                "previous_action", "previous_action", (4,), "1", "actuator", MOTORS, 1, None
            ),
        ),
        # The network's [-1, 1] is a rotor speed in [0, 1]; PX4 uses the same (a + 1) / 2.
        action=(
            Action(
                "motors", (4,), "1", "actuator", MOTORS,
                scale=(0.5,) * 4, offset=(0.5,) * 4, lower=(0.0,) * 4, upper=(1.0,) * 4,
                mode="absolute",
            ),
        ),
        chunk=Chunk(steps=1, interval_s=0.01),
        conventions=Conventions(),
        timing=Timing(control_hz=100.0, max_observation_age_s=0.05, max_inference_s=0.005),
        state=(
            State("state", "next_state", (16,), tuple(network.initial_state.tolist())),
        ),
        noise=(),
        feature="next_state",
        gains=None,
        tolerance=1e-5,
        provenance=origin,
        calibration=None,
    )  # fmt: skip
