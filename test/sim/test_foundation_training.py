"""`train quadrotor/foundation` from nothing to a bundle, small."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
import yaml

from robot_policies import load_policy
from robot_policies.cli import main
from robot_policies.export import export_checkpoint
from robot_policies.strict import InputError
from sim.quadrotor import airframes as frames
from sim.quadrotor import teachers
from sim.quadrotor.airframes import Ranges
from sim.quadrotor.descent import Schedule
from sim.quadrotor.environment import Mixture
from sim.quadrotor.foundation import Fleet, FoundationConfig, Imitation, configure, train_bundle
from sim.quadrotor.objective import CostWeights
from sim.quadrotor.rollout import Descent
from sim.quadrotor.teachers import TeacherJob, train_job, train_teachers
from sim.runs import Run, plain

SHORT = Schedule(2, 4, 1e-3, 1e-4, 0.9)
STAGE = Descent(SHORT, 1e3, Mixture(delay=0.5, noise=0.5), CostWeights(), CostWeights(), 1.0)
SMALL = FoundationConfig(
    seed=0,
    flights=8,
    processes=1,
    pool=8,
    fleets=(Fleet(1.0, Ranges()),),
    teacher=STAGE,
    distillation=Imitation(SHORT, Mixture(), 0.4),
    tuning=(STAGE,),
)


pytestmark = pytest.mark.usefixtures("uncompiled")


def train(config, path, resume=False):
    return train_bundle(
        config, path, resume=resume, executor="local", workers=1, threads=1, command="a test"
    )


def test_a_run_ends_in_a_bundle_that_tells_how_it_was_made(tmp_path):
    bundle = train(SMALL, tmp_path / "run")
    policy = load_policy(bundle.path)
    assert policy.contract.observation[0].name == "position_error"
    assert policy.contract.provenance.seeds == (0,)
    made = yaml.safe_load((bundle.path / "training.yaml").read_text())
    assert made["configuration"] == plain(SMALL)
    assert set(made["seconds"]) == {"teacher", "distillation", "tuning-1"}
    again = train(SMALL, tmp_path / "run", resume=True)
    assert again.contract.state == bundle.contract.state
    exported = export_checkpoint(tmp_path / "run" / "checkpoint.pt", tmp_path / "exported")
    assert exported.contract == bundle.contract


def test_a_run_is_not_overwritten_and_not_resumed_with_another_configuration(tmp_path):
    train(replace(SMALL, tuning=()), tmp_path / "run")
    with pytest.raises(FileExistsError, match="--resume"):
        train(SMALL, tmp_path / "run")
    with pytest.raises(ValueError, match=r"flights: expected 8, found 16"):
        train(replace(SMALL, tuning=(), flights=16), tmp_path / "run", resume=True)


def test_the_shipped_configuration_for_distillation_alone_has_no_tuning():
    file = Path(__file__).parents[2] / "config" / "quadrotor_distillation.yaml"
    config = configure(3, file, None, independent_teachers=None)
    assert (config.seed, config.tuning) == (3, ())
    assert config.fleets[0].ranges == Ranges()


def test_independent_teachers_are_trained_and_distilled(tmp_path, monkeypatch):
    monkeypatch.setattr(teachers, "RETURN_REQUIRED", -1e9)
    config = replace(SMALL, independent_teachers=3, tuning=())
    monkeypatch.setattr("sim.quadrotor.teachers.run_jobs", run_here)
    assert load_policy(train(config, tmp_path / "run").path)
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    counts = [json.loads(line)["metrics"] for line in lines if '"teachers"' in line]
    assert counts == [{"kept": 3.0, "dropped": 0.0}]
    monkeypatch.setattr("sim.quadrotor.teachers.run_jobs", None)  # none is trained again
    assert load_policy(train(config, tmp_path / "run", resume=True).path)


class run_here:
    """The interface of run_jobs, without processes."""

    def __init__(self, function, jobs, folder, **options):
        self.done = {index: function(job) for index, job in enumerate(jobs)}
        self.failed = {}

    def __enter__(self):
        return self

    def __exit__(self, *_):
        """Nothing to end."""

    def __iter__(self):
        return iter(self.done)


TEMPLATE = TeacherJob(Ranges(), 7, 0, 3, 2, STAGE, 0)


def test_a_teacher_that_is_not_a_number_or_too_bad_is_dropped_and_named(tmp_path, monkeypatch):
    def one_is_broken(job):
        result = train_job(job)
        result["return"] = torch.tensor([400.0, torch.nan, 299.0])
        return result

    monkeypatch.setattr(teachers, "train_job", one_is_broken)
    monkeypatch.setattr(teachers, "run_jobs", run_here)
    found = train_teachers(
        3, TEMPLATE, tmp_path, executor="local", workers=1, watch=lambda done, failed: None
    )
    assert found.dropped == {1: "return nan, below 300", 2: "return 299, below 300"}
    assert found.weights[0].shape == (1, 64, 26)
    torch.testing.assert_close(found.airframes.mass, frames.sample(3, 7).mass[:1])
    monkeypatch.setattr(teachers, "RETURN_REQUIRED", 1e6)
    with pytest.raises(ValueError, match="found none of 3"):
        train_teachers(
            3, TEMPLATE, tmp_path, executor="local", workers=1, watch=lambda done, failed: None
        )


def test_a_teacher_job_survives_json_and_refuses_other_keys():
    job = json.loads(json.dumps(asdict(TEMPLATE)))
    first, second = train_job(job), train_job(job)
    torch.testing.assert_close(first["weights"], second["weights"], rtol=0, atol=0)
    with pytest.raises(InputError, match=r"job\.colour"):
        train_job(job | {"colour": "red"})


def test_the_configuration_comes_from_files(tmp_path):
    stored, ranges = tmp_path / "config.yaml", tmp_path / "ranges.yaml"
    stored.write_text(yaml.safe_dump(plain(SMALL)))
    mine = Ranges(thrust_to_weight=(2.0, 3.0))
    ranges.write_text(yaml.safe_dump(plain(mine)))
    config = configure(4, stored, ranges, independent_teachers=5)
    assert config == replace(SMALL, seed=4, fleets=(Fleet(1.0, mine),), independent_teachers=5)
    stored.write_text("seed: 1")
    with pytest.raises(InputError, match=r"configuration\.teacher: expected the key"):
        configure(0, stored, None, independent_teachers=None)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda: replace(SMALL, seed=-1), "configuration.seed: expected at least 0"),
        (lambda: replace(SMALL, processes=0), "configuration.processes: expected at least 1"),
        (lambda: replace(SMALL, fleets=(Fleet(0.5, Ranges()),)), "fleets: expected shares"),
        (lambda: replace(STAGE, ramp=0.0), "descent.ramp: expected above 0"),
        (lambda: replace(SHORT, horizon=0), "schedule.horizon: expected at least 1"),
        (lambda: Mixture(delay=1.5), "mixture.delay: expected a share"),
    ],
)
def test_a_configuration_that_cannot_be_trained_is_refused_by_name(change, message):
    with pytest.raises(InputError, match=message):
        change()


def test_a_run_is_resumed_with_its_own_config_yaml(tmp_path):
    config = configure(0, None, None, independent_teachers=None)
    with Run.create(tmp_path / "run", config, "a test"):
        pass
    own = configure(0, tmp_path / "run" / "config.yaml", None, independent_teachers=None)
    with Run.resume(tmp_path / "run", own) as run:
        assert run.command == "a test"


def test_the_command_trains(tmp_path, capsys):
    stored = tmp_path / "config.yaml"
    stored.write_text(yaml.safe_dump(plain(replace(SMALL, tuning=()))))
    command = ["train", "quadrotor/foundation", "--output", str(tmp_path / "run"), "--seed", "1"]
    assert main([*command, "--config", str(stored), "--threads", "1", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["max_difference"] < 1e-5
    assert main([*command, "--config", str(stored), "--threads", "1"]) == 2
    assert "--resume" in capsys.readouterr().err
    assert main([*command, "--config", str(stored), "--executor", "ray"]) == 2
    assert "expected --independent-teachers N" in capsys.readouterr().err
