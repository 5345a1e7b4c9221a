"""Sweeps: what a file asks for, runs that are done once, go on and fail alone, and shards."""

import csv
import fcntl
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from dataclasses import asdict
from pathlib import Path

import pytest
import yaml

from robot_policies import cli, load_policy
from robot_policies.strict import InputError
from sim import reinforcement, runs
from sim.runs import load_strictly
from sim.sweeps import Options, sweep
from sim.sweeps.grid import read
from sim.sweeps.job import _figures, finished, run

CONFIG = Path(__file__).parents[2] / "config"
BASE = {"engine": "mujoco", "environments": 4, "ppo": {"iterations": 2, "steps": 8}}
TWO = {"seed": [0, 1]}


@pytest.fixture
def declare(tmp_path):
    """Write a sweep's file."""

    def write(base=BASE, grid=TWO, **more):
        file = tmp_path / "sweep.yaml"
        file.write_text(yaml.safe_dump({"base": base, "grid": grid} | more, sort_keys=False))
        return file

    return write


@pytest.fixture
def here(monkeypatch):
    """Workers take seconds to start: do the jobs in this process."""
    calls = []

    class Here:
        def __init__(self, function, jobs, folder, **options):
            calls.append([job["key"] for job in jobs])
            self.jobs, self.function = jobs, function

        def __enter__(self):
            return self

        def __exit__(self, *_):
            """Nothing to end."""

        def __iter__(self):
            from sim.executors import Outcome

            for index, job in enumerate(self.jobs):
                try:
                    yield Outcome(index, self.function(job))
                except ValueError as error:
                    yield Outcome(index, None, error=f"ValueError: {error}")

    monkeypatch.setattr("sim.executors.run_jobs", Here)
    return calls


def refusals(file, task="arm-reach/ppo"):
    with pytest.raises(InputError) as caught:
        read(file, task)
    return str(caught.value).splitlines()


def events(output, key):
    text = (output / "logs" / f"{key}.txt").read_text()
    return re.findall(r"process [0-9]+: (\w+)$", text, re.MULTILINE)


# The file.


def test_each_combination_of_the_grid_is_a_run_with_a_whole_configuration():
    specs = read(CONFIG / "sweep_example.yaml", "arm-reach/ppo")
    assert [spec.values for spec in specs[:3]] == [
        {"seed": 0, "ppo.learning_rate": 3e-4},
        {"seed": 0, "ppo.learning_rate": 1e-3},
        {"seed": 1, "ppo.learning_rate": 3e-4},
    ]
    assert len({spec.key for spec in specs}) == len(specs) == 6
    found = specs[0].configuration
    assert (found["task"], found["environments"], found["seed"]) == ("arm-reach", 512, 0)
    defaults = runs.plain(reinforcement.Optimisation())
    assert found["ppo"] == defaults | {"learning_rate": 3e-4}


def test_a_mapping_changes_what_it_names_and_numbers_count_the_items_of_a_list(declare):
    grid = {"seed": [0], "tuning.1.schedule": [{"iterations": 7}], "fleets.0.share": [0.6]}
    (spec,) = read(declare({"processes": 1}, grid), "quadrotor/foundation")
    first, second = spec.configuration["tuning"]
    assert (first["schedule"]["iterations"], second["schedule"]["iterations"]) == (1000, 7)
    assert second["schedule"]["horizon"] == 150 and spec.configuration["processes"] == 1


def test_a_key_depends_on_nothing_but_what_decides_the_result(declare):
    (plain,) = read(declare({**BASE, "seed": 0}, {"ppo.clip": [0.2]}), "arm-reach/ppo")
    (other,) = read(declare({"seed": 0, "ppo.clip": 0.2}, {"engine": ["mujoco"]}), "arm-reach/ppo")
    assert plain.key != other.key  # 4 environments, or the default
    dotted = {"engine": "mujoco", "environments": 4, "ppo.iterations": 2, "ppo.steps": 8}
    (same,) = read(declare(dotted, {"seed": [0]}), "arm-reach/ppo")
    assert same.key == plain.key and same.configuration == plain.configuration


def test_randomisation_may_be_a_file_and_so_is_a_robot(declare, tmp_path):
    for name in ("randomization_example.yaml", "arm_example.yaml"):
        (tmp_path / name).write_text((CONFIG / name).read_text())
    grid = {"seed": [0], "randomization": [None, "randomization_example.yaml"]}
    file = declare({**BASE, "robot": "arm_example.yaml"}, grid)
    nominal, randomised = read(file, "arm-reach/ppo")
    assert nominal.configuration["randomization"] is None
    assert randomised.configuration["randomization"]["terms"][0]["name"] == "link_mass"
    assert nominal.configuration["robot"] == str(tmp_path / "arm_example.yaml")
    robot = tmp_path / "arm_example.yaml"
    robot.write_text(robot.read_text().replace("episode_s: 2.5", "episode_s: 2.0"))
    assert read(file, "arm-reach/ppo")[0].key != nominal.key


def test_everything_that_is_wrong_is_named_at_once(declare):
    base = {"engine": "bullet", "environments": "many", "robot": 3, "task": "arm-push"}
    grid = {"seed": [0, -1], "ppo.learning_rte": [1e-3], "randomization": ["none.yaml"]}
    lines = refusals(declare(base, grid))
    expected = [
        "configuration.task: expected arm-reach, as the command says, or nothing, found arm-push",
        "configuration.engine: expected mujoco or genesis, found bullet",
        "configuration.randomization: expected the path of a YAML file, from",
        "configuration.environments: expected a whole number, found many",
        "configuration.robot: expected a path, found 3",
        "configuration.ppo.learning_rte: expected no such key",
    ]
    assert len(lines) == len(expected)  # each once, not once for each combination
    for text in expected:
        assert any(line.startswith(f"sweep.yaml: {text}") for line in lines), text
    lists = refusals(declare(grid={"seed": 0, "network.memory": [], "ppo.clip": [0.2]}))
    assert [line.split(", ")[0] for line in lists] == [
        "sweep.yaml: grid.seed: expected a list of one value or more",
        "sweep.yaml: grid.network.memory: expected a list of one value or more",
    ]


@pytest.mark.parametrize(
    ("base", "grid", "message"),
    [
        (BASE, {}, "sweep.grid: expected one path or more, each with its values, found none"),
        (BASE, [1], "sweep: expected the keys base and grid, each with names and values"),
        (BASE, {"ppo.clip": [0.1]}, "configuration.seed: expected the key, found nothing"),
        (BASE, {"seed": [-1]}, "configuration.seed: expected at least 0, found -1"),
        (BASE, {"seed": [0], "ppo.steps": [4]}, "in base or in grid, found several for ppo.steps"),
        (BASE, {"seed": [0], "ppo": [{"steps": 4}]}, "found several for ppo.steps"),
        (BASE, {"seed": [0], "robot": [None], "robot.name": [1]}, "found several for robot"),
        (BASE, {"seed": [0, 0]}, "a run of its own for each combination, found seed 0 and seed 0"),
        (BASE, {"seed": [0], "robot": ["no.yaml"]}, "configuration.robot: expected the path of a"),
    ],
)
def test_a_senseless_sweep_is_refused(declare, base, grid, message):
    assert message in "\n".join(refusals(declare(base, grid)))


def test_other_keys_other_files_and_other_tasks_are_refused(declare, tmp_path):
    assert "the keys base and grid, each with names" in refusals(declare(matrix=1))[0]
    (tmp_path / "sweep.yaml").write_text("grid: {seed: [0]\n")
    assert "expected keys and values in YAML" in refusals(tmp_path / "sweep.yaml")[0]
    with pytest.raises(ValueError, match=r"arm-reach/ppo, .*, quadrotor/foundation; found 'walk'"):
        read(declare(), "walk")


# Runs.


def job(spec, output):
    (output / "locks").mkdir(parents=True, exist_ok=True)
    (output / "logs").mkdir(exist_ok=True)
    return asdict(spec) | {"output": str(output), "command": "a test"}


def test_a_run_leaves_a_bundle_and_is_not_done_twice(declare, tmp_path, monkeypatch):
    spec = read(declare(), "arm-reach/ppo")[0]
    result = run(job(spec, tmp_path / "out"))
    assert result == finished(tmp_path / "out", spec.key)
    assert result["bundle"] == f"runs/{spec.key}/bundle" and result["seconds"] > 0
    assert load_policy(tmp_path / "out" / result["bundle"]).contract.name == "arm-reach"
    folder = tmp_path / "out" / "runs" / spec.key
    assert yaml.safe_load((folder / "config.yaml").read_text()) == spec.configuration
    last = json.loads((folder / "metrics.jsonl").read_text().splitlines()[-1])
    assert result["figures"].items() <= last["metrics"].items()  # of two iterations, the last
    monkeypatch.setattr(reinforcement, "train_bundle", lambda *_, **__: pytest.fail("again"))
    assert run(job(spec, tmp_path / "out")) == result
    assert events(tmp_path / "out", spec.key) == ["begins", "finished"]


def test_figures_are_means_over_the_end_of_the_last_stage_that_logs_them(tmp_path):
    logged = [("ppo", {"return": value, "success": 0.5}) for value in range(20)]
    logged += [("adaptation", {"error": 0.1}), ("adaptation", {"error": None})]
    lines = [json.dumps({"stage": stage, "metrics": metrics}) for stage, metrics in logged]
    (tmp_path / "metrics.jsonl").write_text("\n".join(lines))
    figures = _figures(tmp_path, ("return", "success", "error", "survival"))
    assert figures == {"return": 18.5, "success": 0.5, "error": None}


def test_a_machine_that_does_not_share_the_output_is_told_so(declare, tmp_path):
    described = job(read(declare(), "arm-reach/ppo")[0], tmp_path / "out")
    with pytest.raises(FileNotFoundError, match="none on this machine; let all machines"):
        run({**described, "output": str(tmp_path / "elsewhere")})


def test_an_interrupted_run_goes_on_from_its_checkpoint(declare, tmp_path, monkeypatch):
    spec = read(declare({**BASE, "ppo": {"iterations": 4, "steps": 8}}), "arm-reach/ppo")[0]
    monkeypatch.setattr(reinforcement, "CHECKPOINT_S", 0.0)
    collect, collected = reinforcement.collect, []

    def interrupted(*arguments):
        if len(collected) == 3:
            raise KeyboardInterrupt
        collected.append(1)
        return collect(*arguments)

    monkeypatch.setattr(reinforcement, "collect", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(job(spec, tmp_path / "out"))
    assert finished(tmp_path / "out", spec.key) is None
    collected[:] = [1, 1, 1, 1]
    run(job(spec, tmp_path / "out"))
    assert len(collected) == 5  # one iteration was left
    lines = (tmp_path / "out/runs" / spec.key / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [1, 2, 3, 4]
    assert events(tmp_path / "out", spec.key) == ["begins", "begins", "finished"]


def test_a_folder_that_a_kill_left_half_made_is_made_anew(declare, tmp_path):
    spec = read(declare(), "arm-reach/ppo")[0]
    (tmp_path / "out" / "runs" / spec.key / "checkpoints").mkdir(parents=True)
    assert run(job(spec, tmp_path / "out"))["seconds"] > 0


def test_nobody_else_works_on_the_same_run(declare, tmp_path):
    spec = read(declare(), "arm-reach/ppo")[0]
    described = job(spec, tmp_path / "out")
    with (tmp_path / "out" / "locks" / spec.key).open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(BlockingIOError, match="expected nobody at work on it"):
            run(described)
    assert not (tmp_path / "out" / "runs").exists()


def test_what_training_raises_is_in_the_log(declare, tmp_path, monkeypatch, capfd):
    def fails(*_, **__):
        os.system("echo from a child process")
        raise FloatingPointError("diverged")

    monkeypatch.setattr(reinforcement, "train_bundle", fails)
    spec = read(declare(), "arm-reach/ppo")[0]
    with pytest.raises(FloatingPointError):
        run(job(spec, tmp_path / "out"))
    text = (tmp_path / "out" / "logs" / f"{spec.key}.txt").read_text()
    assert "from a child process" in text and "FloatingPointError: diverged" in text
    assert events(tmp_path / "out", spec.key) == ["begins", "failed"]
    assert "child" not in capfd.readouterr().out


@pytest.mark.usefixtures("uncompiled", "here")
def test_the_foundation_policy_is_swept_by_the_same_means(declare, tmp_path):
    short = {"iterations": 2, "horizon": 4}
    base = {
        "flights": 8, "processes": 1, "pool": 8, "tuning": [],
        "teacher.schedule": short, "distillation.schedule": short,
    }  # fmt: skip
    options = Options("quadrotor/foundation", declare(base, {"seed": [3]}), tmp_path / "out")
    (row,) = sweep(options).rows
    assert row.status == "done" and set(row.figures) == {"return", "survival", "error"}
    assert load_policy(tmp_path / "out" / row.bundle).contract.name == "quadrotor"


# Sweeps.


def test_shards_are_together_the_whole(declare, tmp_path, here):
    file = declare(grid={"seed": [0, 1, 2]})
    keys = [spec.key for spec in read(file, "arm-reach/ppo")]
    for shard in ("1/2", "2/2"):
        sweep(Options("arm-reach/ppo", file, tmp_path / "out", executor="shard", shard=shard))
    assert here == [[keys[0], keys[2]], [keys[1]]]
    whole = sweep(Options("arm-reach/ppo", file, tmp_path / "out"))
    assert here[-1] == [] and whole.ok  # nothing is left to do
    assert [row.spec.key for row in whole.rows] == keys
    for key in keys:
        assert events(tmp_path / "out", key) == ["begins", "finished"]
    parts = [f"summary-{n}-of-2.json" for n in (1, 2)]
    found = [json.loads((tmp_path / "out" / name).read_text())["runs"] for name in parts]
    assert sorted(map(len, found)) == [1, 2]
    grown = declare(grid={"seed": [0, 1, 2, 3]})
    sweep(Options("arm-reach/ppo", grown, tmp_path / "out"))
    assert len(here[-1]) == 1  # a grid that grows keeps what is done


def test_a_share_counts_from_one():
    def share(text):
        options = Options("arm-reach/ppo", Path(), Path(), executor="shard", shard=text)
        return range(7)[options.share()]

    assert [*map(share, ("1/3", "2/3", "3/3"))] == [range(0, 7, 3), range(1, 7, 3), range(2, 7, 3)]
    assert not share("8/8")


def test_the_summary_names_values_figures_and_reasons(declare, tmp_path, here, monkeypatch):
    train = reinforcement.train_bundle

    def fails(config, *arguments, **options):
        if config.seed == 1:
            raise ValueError("seed 1 is unlucky")
        return train(config, *arguments, **options)

    monkeypatch.setattr(reinforcement, "train_bundle", fails)
    summary = sweep(Options("arm-reach/ppo", declare(), tmp_path / "out"))
    columns, rows = summary.table()
    assert columns[:3] == ["seed", "status", "seconds"] and columns[-1] == "run"
    assert [row[:2] for row in rows] == [["0", "done"], ["1", "failed"]]
    assert not summary.ok
    key = summary.rows[1].spec.key
    assert summary.failures() == [f"seed 1: ValueError: seed 1 is unlucky; see logs/{key}.txt"]
    document = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert document["runs"][0]["figures"] == summary.rows[0].figures and not document["ok"]
    table = list(csv.DictReader((tmp_path / "out" / "summary.csv").open()))
    assert float(table[0]["seconds"]) == summary.rows[0].seconds
    assert table[1]["error"] == "ValueError: seed 1 is unlucky"


KILLED = {**BASE, "ppo": {"iterations": 2, "steps": 8}}
NOBODY = {
    "name": "n", "parameter": "mass", "names": ["nobody"], "operation": "scale",
    "distribution": {"uniform": [0.9, 1.1]}, "shared": False, "interval_s": None,
}  # fmt: skip


def kill_first(output, killed):
    """Kill the worker of the first run that begins."""
    while not killed:
        for log in output.glob("logs/*.txt"):
            if found := re.search(r"process ([0-9]+): begins\n", log.read_text()):
                os.kill(int(found[1]), signal.SIGKILL)
                killed.append(log.stem)
                return
        time.sleep(0.005)


def test_a_killed_worker_costs_no_run_and_a_failing_run_no_other(declare, tmp_path, monkeypatch):
    output, killed = tmp_path / "out", []
    grid = {"seed": [0], "randomization": [None, {"terms": [NOBODY]}]}
    options = Options("arm-reach/ppo", declare(KILLED, grid), output, workers=1)
    killer = threading.Thread(target=kill_first, args=(output, killed), daemon=True)
    killer.start()
    summary = sweep(options)
    nominal, impossible = summary.rows
    assert (nominal.status, impossible.status) == ("done", "failed")
    assert "nobody" in impossible.error and not summary.ok
    assert killed == [nominal.spec.key]
    assert events(output, nominal.spec.key) == ["begins", "begins", "finished"]
    assert events(output, impossible.spec.key) == ["begins", "failed"]
    undisturbed = tmp_path / "undisturbed"
    run(job(nominal.spec, undisturbed))
    assert weights(output, nominal.spec.key) == weights(undisturbed, nominal.spec.key)


def weights(output, key):
    payload = load_strictly(output / "runs" / key / "results" / "ppo.pt")["payload"]
    return {name: value.tolist() for name, value in payload["actor_state_dict"].items()}


def test_ray_comes_to_the_same_weights(declare, tmp_path):
    pytest.importorskip("ray")
    file = declare(KILLED, {"seed": [0]})
    options = Options("arm-reach/ppo", file, tmp_path / "ray", executor="ray", workers=1)
    (row,) = sweep(options).rows
    assert row.status == "done", row.error
    here = tmp_path / "here"
    assert run(job(row.spec, here))["figures"] == row.figures
    assert weights(tmp_path / "ray", row.spec.key) == weights(here, row.spec.key)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"executor": "slurm"}, "expected executor local, ray or shard .*; found 'slurm' and 2"),
        ({"workers": 0}, "at least one worker; found 'local' and 0"),
        ({"executor": "shard"}, "expected --shard I/N with --executor shard.*; found no --shard"),
        ({"shard": "1/2"}, "found --shard 1/2 with --executor local"),
        ({"executor": "ray", "shard": "1/2"}, "found --shard 1/2 with --executor ray"),
        ({"executor": "shard", "shard": "0/4"}, "from 1 to N, such as 3/8, found '0/4'"),
        ({"executor": "shard", "shard": "5/4"}, "found '5/4'.*sbatch --array=1-N"),
        ({"executor": "shard", "shard": "a/b"}, "found 'a/b'"),
        ({"executor": "shard", "shard": "1/2/3"}, "found '1/2/3'"),
    ],
)
def test_what_cannot_be_meant_is_refused_at_once(tmp_path, change, message):
    with pytest.raises(ValueError, match=message):
        Options("arm-reach/ppo", tmp_path / "sweep.yaml", tmp_path / "out", **change)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--sweep", "{file}", "--seed", "5"), "--seed: expected none with --sweep"),
        (("--sweep", "{file}", "--iterations", "3"), "--iterations: expected none with --sweep"),
        (("--seed", "5", "--executor", "ray"), "--executor: expected none without --sweep"),
        (("--seed", "5", "--workers", "9"), "--workers: expected none without --sweep"),
        (("--sweep", "{file}", "--executor", "shard"), "expected --shard I/N"),
    ],
)
def test_options_that_would_be_ignored_are_refused(declare, tmp_path, capsys, arguments, message):
    given = [argument.format(file=declare()) for argument in arguments]
    command = ["train", "arm-reach/ppo", "--output", str(tmp_path / "out"), *given]
    assert cli.main(command) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_what_cannot_be_done_is_refused_before_a_folder_is_made(declare, tmp_path, monkeypatch):
    with pytest.raises(InputError):
        sweep(Options("arm-reach/ppo", declare(grid={}), tmp_path / "out"))
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ModuleNotFoundError, match=r"install robot_policies\[ray\]"):
        sweep(Options("arm-reach/ppo", declare(), tmp_path / "out", executor="ray"))
    assert not (tmp_path / "out").exists()


def test_a_folder_of_something_else_is_not_touched(declare, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.tex").write_text("")
    with pytest.raises(FileExistsError, match="expected a new folder or that of a sweep"):
        sweep(Options("arm-reach/ppo", declare(), tmp_path / "out"))
    assert [file.name for file in (tmp_path / "out").iterdir()] == ["thesis.tex"]


def test_nothing_heavy_is_imported_before_it_is_needed():
    code = (
        "import sys, pathlib; from sim.sweeps import Options; "
        "Options('arm-reach/ppo', pathlib.Path('a'), pathlib.Path('b')); "
        "print([n for n in ('torch', 'mujoco', 'genesis', 'ray', 'rsl_rl') if n in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert found.stdout == "[]\n", found.stderr


def test_files_are_whole_or_not_there(tmp_path, monkeypatch):
    file = tmp_path / "summary.json"
    file.write_text("old")
    monkeypatch.setattr(os, "fsync", lambda _: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        runs.write_atomically(file, "new")
    assert [path.read_text() for path in tmp_path.iterdir()] == ["old"]
