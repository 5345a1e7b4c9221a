"""From a trained network to a bundle: parity, the golden run, and checkpoints."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from leg_policy import leg_contract
from torch import Tensor, nn

from robot_policies import load_policy
from robot_policies.bundle import read
from robot_policies.contract import Noise
from robot_policies.export import export, export_checkpoint, random_inputs, record, save_checkpoint
from robot_policies.graph import Source
from robot_policies.models.foundation import FoundationPolicy
from robot_policies.strict import ContractError

SIZES = {"observation_size": 9, "hidden_size": 4, "action_size": 3}


def network(seed: int = 0) -> FoundationPolicy:
    torch.manual_seed(seed)
    return FoundationPolicy(**SIZES)


def contract(**changes):
    """The leg's contract for a network that sees one step."""
    from dataclasses import replace

    observation = tuple(replace(signal, history=1) for signal in leg_contract().observation)
    return leg_contract(**({"observation": observation, "family": "foundation"} | changes))


SOURCE = Source({"learning_rate": 3e-4}, "# leg\n")


def test_an_exported_network_runs_as_in_torch(tmp_path: Path) -> None:
    golden = record(network(), contract(), *random_inputs(contract()))
    bundle = export(network(), contract(), golden, SOURCE, tmp_path / "leg")
    policy = load_policy(tmp_path / "leg")
    assert policy.replay(golden)[1] <= 1e-6
    for batch in (1, 5):
        observation, reset, _ = inputs = random_inputs(contract(), batch=batch, seed=7)
        truth = record(network(), contract(), *inputs)
        assert truth.observation is observation and reset.sum() == 2
        assert policy.replay(truth)[1] <= 1e-6
    assert yaml.safe_load(bundle.content["training.yaml"]) == {"learning_rate": 3e-4}


def test_a_graph_that_differs_from_its_network_gets_no_name(tmp_path: Path) -> None:
    golden = record(network(seed=1), contract(), *random_inputs(contract()))
    with pytest.raises(ContractError, match="golden replay"):
        export(network(seed=0), contract(), golden, SOURCE, tmp_path / "leg")
    assert not list(tmp_path.iterdir())


def test_no_path_and_no_stack_trace_is_left_in_the_graph(tmp_path: Path) -> None:
    golden = record(network(), contract(), *random_inputs(contract()))
    export(network(), contract(), golden, SOURCE, tmp_path / "leg")
    graph = (tmp_path / "leg" / "policy.onnx").read_bytes()
    assert b".py" not in graph and str(Path.home()).encode() not in graph


class Noisy(nn.Module):
    """A network without recurrent state that takes noise."""

    def forward(self, observation: Tensor, noise: Tensor) -> Tensor:
        """[B, 1, 9] and [B, 1, 3] -> [B, 1, 3]."""
        return observation[..., :3] + 0.1 * noise


def test_noise_is_an_input_and_part_of_the_record(tmp_path: Path) -> None:
    noisy = contract(state=(), feature=None, noise=(Noise("noise", (1, 3)),))
    golden = record(Noisy(), noisy, *random_inputs(noisy))
    export(Noisy(), noisy, golden, SOURCE, tmp_path / "noisy")
    assert load_policy(tmp_path / "noisy").replay(golden)[1] == 0.0


# Checkpoints.


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    path = tmp_path / "checkpoint.pt"
    save_checkpoint(path, network(), SIZES, contract(), {"steps": 10})
    return path


def test_a_checkpoint_becomes_a_bundle(checkpoint: Path, tmp_path: Path) -> None:
    bundle = export_checkpoint(checkpoint, tmp_path / "leg")
    assert bundle.contract == contract()
    observation, reset, noise = random_inputs(contract(), seed=3)
    truth = record(network(), contract(), observation, reset, noise)
    assert load_policy(tmp_path / "leg").replay(truth)[1] <= 1e-6
    again = export_checkpoint(checkpoint, tmp_path / "again")
    assert again.content == read(tmp_path / "leg").content  # the same bytes


def test_the_seed_decides_the_golden_run(checkpoint: Path, tmp_path: Path) -> None:
    one = export_checkpoint(checkpoint, tmp_path / "one", seed=1).golden.observation
    two = export_checkpoint(checkpoint, tmp_path / "two", seed=2).golden.observation
    assert not np.array_equal(one, two)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 half a file", b"import os"])
def test_what_is_no_checkpoint_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "checkpoint.pt").write_bytes(content)
    with pytest.raises(ContractError, match=r"checkpoint\.pt"):
        export_checkpoint(tmp_path / "checkpoint.pt", tmp_path / "leg")


def test_a_checkpoint_with_pickled_code_is_refused(tmp_path: Path) -> None:
    torch.save({"network": network()}, tmp_path / "checkpoint.pt")
    with pytest.raises(ContractError, match=r"checkpoint\.pt"):
        export_checkpoint(tmp_path / "checkpoint.pt", tmp_path / "leg")


def spoil(checkpoint: Path, **changes) -> Path:
    document = torch.load(checkpoint, weights_only=True)
    document |= {key: value for key, value in changes.items() if value is not None}
    torch.save({k: v for k, v in document.items() if changes.get(k, 1) is not None}, checkpoint)
    return checkpoint


def without_memory() -> dict[str, Tensor]:
    return {k: v for k, v in network().state_dict().items() if "memory" not in k}


def not_finite() -> dict[str, Tensor]:
    return network().state_dict() | {"head.bias": torch.full((3,), torch.nan)}


BROKEN = {
    "contract": {"contract": None},
    "surplus": {"surplus": 1},
    "checkpoint family": {"family": "oracle"},
    "checkpoint weights": {"weights": without_memory()},
    "checkpoint network": {"network": {"layers": 3}},
    "head.bias": {"weights": not_finite()},
    "control_hz": {"contract": contract().to_json().replace("control_hz", "rate")},
}


@pytest.mark.parametrize("named", BROKEN)
def test_a_checkpoint_with_a_fault_is_refused_by_name(
    checkpoint: Path, tmp_path: Path, named: str
) -> None:
    with pytest.raises(ContractError, match=named):
        export_checkpoint(spoil(checkpoint, **BROKEN[named]), tmp_path / "leg")
    assert not (tmp_path / "leg").exists()


def test_a_network_of_another_size_than_its_contract_is_refused(tmp_path: Path) -> None:
    other = FoundationPolicy(10, 4, 3)
    sizes = SIZES | {"observation_size": 10}
    save_checkpoint(tmp_path / "checkpoint.pt", other, sizes, contract(), {})
    with pytest.raises(ContractError, match="network"):
        export_checkpoint(tmp_path / "checkpoint.pt", tmp_path / "leg")
