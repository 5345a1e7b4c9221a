"""What torch's own exporter writes for a recurrent actor, as rsl_rl does, can be imported."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from robot_policies import load_policy
from robot_policies.importers.onnx_model import import_onnx
from robot_policies.strict import ContractError

EXAMPLE = Path(__file__).parents[2] / "config" / "import_example.yaml"


class Actor(nn.Module):
    """Normaliser, LSTM and head, with explicit states [layers, B, hidden]."""

    def __init__(self) -> None:
        super().__init__()
        self.mean = nn.Parameter(torch.linspace(-1.0, 1.0, 18))
        self.rnn, self.head = nn.LSTM(18, 8), nn.Linear(8, 3)

    def forward(self, obs: Tensor, h_in: Tensor, c_in: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x, (h, c) = self.rnn((obs - self.mean).unsqueeze(0), (h_in, c_in))
        return self.head(x.squeeze(0)), h, c


def exported(path: Path, *states: Tensor, dynamo: bool) -> Actor:
    """Save an actor for batch 1 and return it."""
    torch.manual_seed(0)
    actor = Actor().eval()
    torch.onnx.export(
        actor, (torch.zeros(1, 18), *states), path, dynamo=dynamo, verbose=False,
        input_names=["obs", "h_in", "c_in"], output_names=["actions", "h_out", "c_out"],
    )  # fmt: skip
    return actor


@pytest.mark.parametrize("dynamo", [True, False])
@pytest.mark.filterwarnings("ignore")
def test_an_actor_as_rsl_rl_exports_it(tmp_path: Path, dynamo: bool) -> None:
    """Twenty steps of the bundle against torch, with the history flattened here by hand."""
    state = torch.zeros(1, 1, 8), torch.zeros(1, 1, 8)
    actor = exported(tmp_path / "actor.onnx", *state, dynamo=dynamo)
    import_onnx(tmp_path / "actor.onnx", EXAMPLE, tmp_path / "actor")
    policy, generator = load_policy(tmp_path / "actor"), np.random.default_rng(0)
    previous, history = np.zeros((1, 3), np.float32), None
    for _ in range(20):
        w, q = (generator.uniform(-1, 1, (1, 3)).astype(np.float32) for _ in range(2))
        newest = (w, q, previous)
        history = (history[1] if history else newest, newest)
        flat = [history[age][part] for part in range(3) for age in range(2)]
        with torch.no_grad():
            action, *state = actor(torch.from_numpy(np.concatenate(flat, axis=1)), *state)
        policy.step({"angular_velocity": w, "joint_position": q})
        previous = policy.last.raw_action[:, 0]
        assert np.abs(previous - action.numpy()).max() <= 1e-5


@pytest.mark.filterwarnings("ignore")
def test_states_that_the_exporter_merged_are_noticed(tmp_path: Path) -> None:
    """One tensor given for both states: torch's graph then reads c_in twice and h_in never."""
    zeros = torch.zeros(1, 1, 8)
    exported(tmp_path / "actor.onnx", zeros, zeros, dynamo=True)
    with pytest.raises(ContractError, match="model state h_in: expected a state that"):
        import_onnx(tmp_path / "actor.onnx", EXAMPLE, tmp_path / "actor")
