"""Run folders: what they hold, how they resume, and what they refuse."""

import json
import math
import re
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
import torch

from sim import runs
from sim.runs import Run


@dataclass(frozen=True)
class Optimizer:
    rate: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.99)


@dataclass(frozen=True)
class Config:
    seed: int = 7
    optimizer: Optimizer = field(default_factory=Optimizer)
    ranges: Path | None = None


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "run"


def lines(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def scalars(folder):
    """{tag: [(step, value), ...]} as TensorBoard reads them."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder / "events")).Reload()
    return {
        tag: [(event.step, event.value) for event in events.Scalars(tag)]
        for tag in events.Tags()["scalars"]
    }


def test_a_new_run_records_its_configuration_and_its_environment(folder):
    with Run.create(folder, Config(), "train --seed 7"):
        pass
    assert (folder / "config.yaml").read_text() == (
        "seed: 7\noptimizer:\n  rate: 0.001\n  betas:\n  - 0.9\n  - 0.99\nranges: null\n"
    )
    text = (folder / "environment.json").read_text()
    environment = json.loads(text)
    assert environment["command"] == "train --seed 7" and environment["seed"] == 7
    assert environment["versions"]["torch"] == torch.__version__
    assert re.fullmatch(r"[0-9a-f]{40}|unknown", environment["git_revision"])
    assert "/" not in text.replace(environment["command"], "")


def test_a_run_is_never_overwritten(folder):
    Run.create(folder, Config(), "").close()
    with pytest.raises(FileExistsError, match="--resume"):
        Run.create(folder, Config(), "")


def test_another_configuration_is_refused_key_by_key(folder):
    Run.create(folder, Config(), "").close()
    other = replace(Config(), seed=8, optimizer=Optimizer(rate=0.01))
    with pytest.raises(ValueError, match=r"(?s)rate: expected 0.001, found 0.01.*seed: .*7.*8"):
        Run.resume(folder, other)
    Run.resume(folder, Config()).close()
    assert len(json.loads((folder / "environment.json").read_text())["resumed"]) == 1


def test_a_folder_without_a_run_cannot_be_resumed(folder):
    with pytest.raises(FileNotFoundError, match=r"config\.yaml.*without --resume"):
        Run.resume(folder, Config())


def test_a_configuration_of_other_objects_is_refused_by_name(folder):
    with pytest.raises(ValueError, match=r"Config\.ranges: .* found Tensor"):
        Run.create(folder, Config(ranges=torch.zeros(1)), "")
    assert not folder.exists()


def test_a_checkpoint_comes_back_as_it_was_saved(folder):
    optimizer = torch.optim.Adam([torch.nn.Parameter(torch.ones(2))])
    payload = {"weights": torch.arange(3.0), "optimizer": optimizer.state_dict(), "best": 1.5}
    with Run.create(folder, Config(), "") as run:
        assert run.load("student") is None
        run.save("student", 10, {})
        run.save("student", 20, payload)
    with Run.resume(folder, Config()) as run:
        step, found = run.load("student")
    assert step == 20 and found.keys() == payload.keys() and found["best"] == 1.5
    assert torch.equal(found["weights"], payload["weights"])


def test_a_finished_stage_keeps_its_result(folder):
    with Run.create(folder, Config(), "") as run:
        assert run.finished("teacher") is None
        run.finish("teacher", {"weights": torch.ones(2)})
    with Run.resume(folder, Config()) as run:
        assert torch.equal(run.finished("teacher")["weights"], torch.ones(2))


def test_what_could_not_be_read_back_is_refused_and_the_old_checkpoint_stays(folder):
    with Run.create(folder, Config(), "") as run:
        run.save("student", 1, {"weights": torch.ones(1)})
        with pytest.raises(ValueError, match=r"student\.pt: expected tensors and plain values"):
            run.save("student", 2, {"config": Config()})
        assert run.load("student")[0] == 1
    assert [file.name for file in (folder / "checkpoints").iterdir()] == ["student.pt"]


@pytest.mark.parametrize("damage", ["torn", "foreign", "of another stage"])
def test_a_damaged_checkpoint_is_an_error_and_never_a_silent_restart(folder, damage):
    with Run.create(folder, Config(), "") as run:
        run.save("student", 1, {"weights": torch.ones(100)})
        run.save("teacher", 1, {})
    file = folder / "checkpoints" / "student.pt"
    if damage == "torn":
        file.write_bytes(file.read_bytes()[:-200])
    elif damage == "foreign":
        torch.save({"weights": torch.ones(100)}, file)
    else:
        file.write_bytes((folder / "checkpoints" / "teacher.pt").read_bytes())
    with (
        Run.resume(folder, Config()) as run,
        pytest.raises(ValueError, match=r"student\.pt: expected .* found .*(damaged|another)"),
    ):
        run.load("student")


def test_metrics_go_to_a_line_and_to_tensorboard(folder):
    with Run.create(folder, Config(), "") as run:
        run.log("teacher", 5, {"return": 611, "error": math.nan, "loss": torch.tensor(math.inf)})
    (line,) = lines(folder)
    assert line["stage"] == "teacher" and line["step"] == 5
    assert line["metrics"] == {"return": 611.0, "error": None, "loss": None}
    assert scalars(folder) == {"teacher/return": [(5, 611.0)]}


def test_a_resumed_run_has_each_step_once(folder):
    with Run.create(folder, Config(), "") as run:
        for stage, steps in (("done", 2), ("half", 4), ("lost", 3)):
            for step in range(1, steps + 1):
                run.log(stage, step, {"return": step})
                if (stage, step) == ("half", 2):
                    run.save(stage, step, {})
        run.finish("done", {})
    with (folder / "metrics.jsonl").open("a") as file:
        file.write('{"time": 1, "sta')  # what a kill leaves
    with Run.resume(folder, Config()) as run:
        run.log("half", 3, {"return": -3, "loss": math.nan})
    kept = [(line["stage"], line["step"]) for line in lines(folder)]
    assert kept == [("done", 1), ("done", 2), ("half", 1), ("half", 2), ("half", 3)]
    assert scalars(folder) == {
        "done/return": [(1, 1.0), (2, 2.0)],
        "half/return": [(1, 1.0), (2, 2.0), (3, -3.0)],
    }


def test_a_foreign_line_among_the_metrics_is_named(folder):
    Run.create(folder, Config(), "").close()
    (folder / "metrics.jsonl").write_text('{"loss": 1}\n')
    with pytest.raises(ValueError, match=r"metrics\.jsonl, line 1: expected a line of metrics"):
        Run.resume(folder, Config())


def test_a_stage_is_named_so_that_it_can_name_a_file(folder):
    with (
        Run.create(folder, Config(), "") as run,
        pytest.raises(ValueError, match="stage: expected letters"),
    ):
        run.save("../teacher", 1, {})


def test_seconds_of_a_stage_are_counted_across_resumes(folder):
    with Run.create(folder, Config(), "") as run, run.progress("teacher", total=10):
        spin(0.2)
        run.save("teacher", 5, {})
        first = run.seconds("teacher")
        spin(0.1)  # lost with the steps after the checkpoint
    assert first.wall >= 0.2 and first.cpu > 0.15
    with Run.resume(folder, Config()) as run:
        saved = run.seconds("teacher")
        assert first.wall - 0.1 < saved.wall <= first.wall
        with run.progress("teacher", total=10, start=5):
            spin(0.2)
        assert run.seconds("teacher").wall >= saved.wall + 0.2
        assert run.seconds("teacher").cpu > saved.cpu
        assert run.seconds("student").wall == 0


def spin(seconds):
    """Use so much processor time, however busy the machine is."""
    end = time.process_time() + seconds
    while time.process_time() < end:
        pass


def test_off_a_terminal_progress_is_a_plain_line_now_and_then(folder, capsys, monkeypatch):
    monkeypatch.setattr(runs, "_PLAIN_PROGRESS_SECONDS", 0.05)
    with Run.create(folder, Config(), "") as run, run.progress("teacher", 4, start=1) as bar:
        bar.update(2, {"return": 611.04})
        time.sleep(0.06)
        bar.update(3)
        bar.update(4)
    output = capsys.readouterr()
    first, last = output.err.splitlines()
    assert re.fullmatch(r"teacher 3/4  \d s, \d s left  return 611", first)
    assert last.startswith("teacher 4/4") and not output.out


def test_on_a_terminal_progress_is_a_bar_with_the_metrics(folder, monkeypatch, capsys):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "120")
    with Run.create(folder, Config(), "") as run, run.progress("teacher", 4) as bar:
        bar.update(3, {"return": 611.04, "survival": 0.97})
    output = capsys.readouterr()
    shown = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", output.err)  # without colours
    assert re.search(r"teacher .* 3/4 .*return 611  survival 0.97", shown) and not output.out


HOLDER = """
import sys, time
from test_runs import Config
from sim.runs import Run
with Run.create(sys.argv[1], Config(), "") as run:
    run.log("teacher", 1, {"return": 1})
    run.save("teacher", 1, {})
    run.log("teacher", 2, {"return": 2})
    print("ready", flush=True)
    time.sleep(60)
"""


def test_two_processes_cannot_use_one_folder_and_a_killed_one_leaves_it_free(folder):
    command = [sys.executable, "-c", HOLDER, str(folder)]
    path = ":".join([str(Path(__file__).parent), str(Path(__file__).parents[2])])
    environment = {"PYTHONPATH": path, "PATH": ""}
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment) as holder:
        assert holder.stdout.readline() == b"ready\n"
        with pytest.raises(BlockingIOError, match="found another process at work"):
            Run.resume(folder, Config())
        holder.send_signal(signal.SIGKILL)
    with Run.resume(folder, Config()) as run:
        assert run.load("teacher") == (1, {})
    assert [line["step"] for line in lines(folder)] == [1]
