"""Our side of a comparison with L2F: recorded raw actions, applied to a recorded scenario."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch

from sim.quadrotor.dynamics import PROTOCOL_DT, State, step
from sim.quadrotor.evaluation import TERMINATION_REWARD, Limits, reward, terminated
from sim.quadrotor.scenario import Scenario


@torch.no_grad()
def replay(arrays: Mapping[str, np.ndarray], dtype: torch.dtype) -> dict[str, np.ndarray]:
    """Apply arrays["action"] [T, N, 4] (raw) to the scenario, computing in `dtype`.

    `arrays` and the result are those of l2f_peer.replay: state [T + 1, 17, N], reward [T, N] and
    terminated [T, N]. Raises ValueError where an array is missing or does not fit.
    """
    flights = Scenario.from_arrays(arrays)
    fleet, state = flights.airframes.to(dtype), State(flights.state.data.to(dtype))
    none = np.zeros(fleet.count)
    uniform_force, uniform_torque = (
        torch.tensor(arrays.get(name, none), dtype=dtype).expand(3, -1)
        for name in ("uniform_force", "uniform_torque")
    )
    force = flights.force.to(dtype) + uniform_force
    previous = torch.zeros_like(state.rotor_speed)
    states, rewards, ends = [state.data], [], []
    for raw in torch.tensor(arrays["action"], dtype=dtype).transpose(1, 2):
        action = (raw + 1) / 2
        following = step(state, action, fleet, force, PROTOCOL_DT, torque=uniform_torque)
        ended = terminated(following, fleet, Limits())
        rewards.append(torch.where(ended, TERMINATION_REWARD, reward(state, raw, previous)))
        states.append(following.data)
        ends.append(ended)
        state, previous = following, raw
    joined = {"state": states, "reward": rewards, "terminated": ends}
    return {name: torch.stack(values).numpy() for name, values in joined.items()}


def scaled_difference(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """|left - right|, relative where a value is above one (rates reach tens of rad/s)."""
    return np.abs(left - right) / np.maximum(1, np.abs(right))
