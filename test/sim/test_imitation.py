"""From demonstrations to a bundle: windows, training, resuming, and what is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from robot_policies import ContractError, load_policy
from robot_policies.datasets import Column, Writer
from robot_policies.export import export_checkpoint
from robot_policies.strict import InputError
from robot_policies.strict_yaml import decode_yaml
from robot_policies.verify import verify
from sim.imitation import ImitationConfig, Samples, new_policy, read, split, train_bundle
from sim.runs import Run, plain
from sim.tasks.scene import Interface

INTERFACE = Path(__file__).parents[2] / "config" / "interface_example.yaml"
STATE = ("joint_position/shoulder", "joint_position/elbow", "target_position/x",
         "target_position/y")  # fmt: skip
ACTION = ("joint_position/shoulder", "joint_position/elbow")
TINY = {"steps": 30, "batch": 16, "width": 16, "layers": 1, "heads": 2}


def write(path: Path, *, names=ACTION, lengths=(20, 30, 25), disturbed=(), described=True) -> Path:
    """Episodes in which two joints go to where the target says."""
    columns = (
        Column("observation.state", "float32", (4,), STATE),
        Column("action", "float32", (2,), tuple(names)),
        Column("disturbed", "bool", (1,), ("disturbed",)),
    )
    source = {"interface": plain(decode_yaml(Interface, INTERFACE, "interface"))}
    generator = np.random.default_rng(0)
    with Writer(
        path, columns=columns, fps=20, robot="planar-arm", source=source if described else {},
        resume=False,
    ) as out:  # fmt: skip
        for length in lengths:
            target = generator.uniform(-1, 1, 2)
            joints = target * np.linspace(0, 1, length)[:, None]
            state = np.concatenate([joints, np.tile(target, (length, 1))], axis=1)
            acted = np.isin(np.arange(length), disturbed)[:, None]
            out.add("reach", {
                "observation.state": state.astype(np.float32),
                "action": (joints + 0.05 * target).astype(np.float32),
                "disturbed": acted,
            })  # fmt: skip
    return path


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return write(tmp_path_factory.mktemp("data") / "reach")


def config(data: Path, family: str = "flow", **changes) -> ImitationConfig:
    return ImitationConfig(0, data, family, **(TINY | changes))  # type: ignore[arg-type]


def test_windows_repeat_the_first_observation_and_the_last_action(data):
    dataset, _ = read(config(data))
    samples = Samples.of(dataset, np.array([1]), config(data))
    assert len(samples) == 30
    assert samples.seen[0].tolist() == [20, 20] and samples.seen[1].tolist() == [20, 21]
    assert samples.done[0].tolist() == list(range(20, 32))
    assert samples.done[-1].tolist() == [49] * 12
    observation, chunk, valid = samples.take(torch.tensor([0, 5]))
    assert observation.shape == (2, 2, 4) and chunk.shape == (2, 12, 2) and valid.all()


def test_what_follows_another_s_action_does_not_count(tmp_path):
    path = write(tmp_path / "d", lengths=(30,), disturbed=(20, 21))
    dataset, _ = read(config(path))
    valid = Samples.of(dataset, np.array([0]), config(path)).valid
    assert valid.sum(1)[[0, 8, 9, 15, 20, 21, 22]].tolist() == [12, 12, 12, 6, 1, 1, 12]
    assert valid[15].tolist() == [1] * 6 + [0] * 6


def test_the_normalisers_are_those_of_what_is_learned_from(data):
    dataset, interface = read(config(data, held_out=0.4))
    learned, held = split(dataset, config(data, held_out=0.4))
    assert held is not None and not set(learned.seen[:, -1].tolist()) & set(
        held.seen[:, -1].tolist()
    )
    policy = new_policy(config(data), learned, interface)
    observation, actions, valid = learned.take(torch.arange(len(learned)))
    assert policy.seen(observation)[:, -1].mean(0).abs().max() < 1e-4
    sample = policy.normalised(actions, observation)
    known = sample[valid > 0]
    assert known.mean(0).abs().max() < 1e-4
    assert known.std(0) == pytest.approx([1.0, 1.0], rel=1e-2)
    again = policy.action(sample, policy.base(observation))
    torch.testing.assert_close(again, actions[:, :4])


def test_commanded_positions_are_learned_relative_to_measured_ones(data):
    dataset, interface = read(config(data))
    learned, _ = split(dataset, config(data))
    relative = new_policy(config(data), learned, interface)
    absolute = new_policy(config(data, relative=False), learned, interface)
    assert relative.reference.argmax(0).tolist() == [0, 1]
    assert (relative.action_scale < 0.8 * absolute.action_scale).all()
    observation, *_ = learned.take(torch.tensor([3]))
    assert torch.equal(relative.base(observation), observation[:, -1, :2])
    assert absolute.base(observation).eq(0).all()


@pytest.mark.parametrize("family", ["flow", "cloning"])
def test_a_bundle_is_trained_verified_and_exported_again(data, tmp_path, family):
    bundle = train_bundle(
        config(data, family), tmp_path / "run", resume=False, threads=1, command="a test"
    )
    assert bundle.contract.family == family and bundle.contract.chunk.steps == 4
    assert bundle.contract.action[0].lower == (-3.1, -3.1)
    assert verify(bundle.path, latency=False).ok
    again = export_checkpoint(tmp_path / "run" / "checkpoint.pt", tmp_path / "again")
    assert again.contract == bundle.contract
    policy = load_policy(tmp_path / "again")
    signals = {"joint_position": np.zeros((1, 2)), "target_position": np.ones((1, 2))}
    assert policy.act(signals)["joint_position"].shape == (1, 2)


def test_an_interrupted_run_comes_to_the_same_end(data, tmp_path, monkeypatch):
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    train_bundle(config(data), whole, resume=False, threads=1, command="a test")
    monkeypatch.setattr("sim.imitation.CHECKPOINT_S", 0.0)
    save = Run.save

    def killed(self: Run, stage: str, step: int, payload) -> None:
        save(self, stage, step, payload)
        if step == 17:
            raise KeyboardInterrupt

    monkeypatch.setattr(Run, "save", killed)
    with pytest.raises(KeyboardInterrupt):
        train_bundle(config(data), cut, resume=False, threads=1, command="a test")
    monkeypatch.setattr(Run, "save", save)
    train_bundle(config(data), cut, resume=True, threads=1, command="a test")
    first, second = (torch.load(path / "checkpoint.pt")["weights"] for path in (whole, cut))
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize(
    ("names", "changes", "message"),
    [
        (ACTION[::-1], {}, "action.*expected.*shoulder.*elbow"),
        (ACTION, {"described": False}, "what its numbers mean.*--interface"),
    ],
)
def test_a_data_set_that_does_not_fit_is_refused(tmp_path, names, changes, message):
    path = write(tmp_path / "d", names=names, **changes)
    with pytest.raises(InputError, match=message):
        train_bundle(config(path), tmp_path / "run", resume=False, threads=1, command="")
    assert not (tmp_path / "run").exists()


def test_a_data_set_from_elsewhere_is_described_in_a_file(tmp_path):
    path = write(tmp_path / "d", described=False)
    dataset, interface = read(replace(config(path), interface=INTERFACE))
    assert interface.robot.model == "planar-arm" and len(dataset.starts) == 4


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"execution_steps": 13}, "at most the 12 predicted ones"),
        ({"prediction_steps": 10}, "a multiple of the patch 4"),
        ({"family": "flow", "objective": "ebt"}, "matching, where there is no energy"),
        ({"family": "energy", "backbone": "unet"}, "transformer, for energy"),
        ({"ema": 1.0}, "below 1"),
    ],
)
def test_what_cannot_be_trained_is_refused(data, changes, message):
    with pytest.raises(InputError, match=message):
        config(data, **changes) if "family" not in changes else config(
            data, changes["family"], **{k: v for k, v in changes.items() if k != "family"}
        )


def test_early_evaluation_needs_a_task(data, tmp_path):
    with pytest.raises(InputError, match="0, for a data set without a task"):
        train_bundle(
            config(data, evaluate_every=10), tmp_path / "r", resume=False, threads=1, command=""
        )
    assert not issubclass(InputError, FileNotFoundError) and issubclass(InputError, ContractError)
