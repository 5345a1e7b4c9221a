"""Jobs over a process pool or Ray: done once, retried when a worker dies, never all lost."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from sim import executors
from sim.executors import run_jobs


def act(job):
    """Square x; or fail, die or sleep, as the job says."""
    if job.get("fail"):
        raise ValueError("two is not accepted")
    if "lives" in job:
        _die_or_live(Path(job["lives"]))
    if "log" in job:
        with Path(job["log"]).open("a") as file:
            file.write(f"{job['x']}\n")
    time.sleep(job.get("sleep", 0))
    if job.get("odd"):
        return {"path": Path("somewhere")}
    return {"square": torch.tensor(float(job["x"] ** 2)), "threads": torch.get_num_threads()}


def _die_or_live(file):
    """Kill the own process as often as the file says."""
    left = int(file.read_text())
    file.write_text(str(left - 1))
    if left > 0:
        os.kill(os.getpid(), signal.SIGKILL)


def finish(jobs, folder, *, executor="local", workers=1, version="1"):
    with run_jobs(
        act, jobs, folder, executor=executor, workers=workers, version=version
    ) as results:
        outcomes = list(results)
    assert {outcome.index for outcome in outcomes} == set(range(len(jobs)))
    return results


def squares(results):
    return {index: float(value["square"]) for index, value in results.done.items()}


def test_every_job_is_done_once_and_its_result_is_found_again(tmp_path):
    log = tmp_path / "log"
    jobs = [{"x": x, "log": str(log)} for x in (1, 2, 2)]
    first = finish(jobs, tmp_path / "jobs")
    assert squares(first) == {0: 1, 1: 4, 2: 4}
    assert all(value["threads"] == 1 for value in first.done.values())
    again = finish([*jobs, {"log": str(log), "x": 3}], tmp_path / "jobs")
    assert squares(again) == {0: 1, 1: 4, 2: 4, 3: 9}
    assert log.read_text().split() == ["1", "2", "3"]  # equal jobs and stored ones once
    finish(jobs[:1], tmp_path / "jobs", version="2")
    assert log.read_text().split().count("1") == 2


def test_without_a_folder_nothing_is_stored(tmp_path):
    log = tmp_path / "log"
    for _ in range(2):
        assert squares(finish([{"x": 1, "log": str(log)}] * 2, None)) == {0: 1, 1: 1}
    assert log.read_text().split() == ["1", "1"]  # equal jobs once, in each call
    assert list(tmp_path.iterdir()) == [log]


def test_an_exception_is_recorded_and_the_other_jobs_go_on(tmp_path):
    jobs = [{"x": 1}, {"x": 2, "fail": True}, {"x": 3, "odd": True}, {"x": 4}]
    results = finish(jobs, tmp_path)
    assert squares(results) == {0: 1, 3: 16} and set(results.failed) == {1, 2}
    assert results.failed[1].error == "ValueError: two is not accepted"
    assert "in act" in results.failed[1].details
    assert "expected tensors and JSON values from the job" in results.failed[2].error
    files = list(tmp_path.iterdir())
    assert len(files) == 2  # a failure is not stored, so that it is tried again
    files[0].write_bytes(files[0].read_bytes()[:-100])
    with pytest.raises(ValueError, match=rf"{files[0].name}: expected a whole file"):
        finish(jobs, tmp_path)


def test_a_killed_worker_is_replaced_and_a_job_that_kills_each_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(executors, "RETRIES", 1)
    for name, lives in (("once", 1), ("always", 100)):
        (tmp_path / name).write_text(str(lives))
    jobs = [{"x": 2, "lives": str(tmp_path / name)} for name in ("once", "always")]
    results = finish([*jobs, {"x": 3}], tmp_path / "jobs", workers=2)
    assert squares(results) == {0: 4, 2: 9}
    assert "the worker died 2 times" in results.failed[1].error
    assert (tmp_path / "always").read_text() == "98"


SCRIPT = """
import signal
import sys
from sim.executors import run_jobs
from test_executors import act
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it
jobs = [{"x": 3}, {"x": 1, "sleep": 60}]
with run_jobs(act, jobs, sys.argv[1], executor="local", workers=1, version="1") as results:
    for outcome in results:
        print("done", outcome.index, flush=True)
"""


@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGKILL])
def test_an_interrupt_leaves_finished_results_and_no_worker(tmp_path, end):
    path = ":".join([str(Path(__file__).parent), str(Path(__file__).parents[2])])
    command = [sys.executable, "-c", SCRIPT, str(tmp_path)]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env={"PYTHONPATH": path},
        start_new_session=True,
    ) as process:  # fmt: skip
        assert process.stdout.readline() == b"done 0\n"
        process.send_signal(end)
        process.wait(timeout=60)
        assert no_process_left(process.pid)
    with run_jobs(act, [{"x": 3}], tmp_path, executor="local", workers=1, version="1") as results:
        assert float(next(iter(results)).value["square"]) == 9
    assert len(list(tmp_path.iterdir())) == 1


def no_process_left(group):
    for _ in range(100):
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.1)
    return False


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"function": lambda job: job}, "top level of a module"),
        ({"jobs": [{"x": 1}, {"x": torch.ones(1)}]}, "JSON values, found in job 1"),
        ({"jobs": [{"x": float("nan")}]}, "JSON values, found in job 0"),
        ({"executor": "slurm"}, 'expected executor "local" or "ray"'),
        ({"workers": 0}, "at least one worker; found 'local' and 0"),
    ],
)
def test_what_no_worker_could_do_is_refused_at_once(tmp_path, change, message):
    arguments = {"function": act, "jobs": [{"x": 1}], "folder": tmp_path, "version": "1"}
    with pytest.raises(ValueError, match=message):
        run_jobs(**(arguments | {"executor": "local", "workers": 1} | change))


def test_ray_does_the_same_jobs(tmp_path):
    pytest.importorskip("ray")
    lives = tmp_path / "lives"
    lives.write_text("1")
    jobs = [{"x": 1, "lives": str(lives)}, {"x": 2, "fail": True}]
    results = finish(jobs, tmp_path / "jobs", executor="ray", workers=2)
    assert squares(results) == {0: 1} and lives.read_text() == "-1"
    assert results.failed[1].error == "ValueError: two is not accepted"


def test_without_ray_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ModuleNotFoundError, match=r"install robot_policies\[ray\]") as caught:
        finish([{"x": 1}], tmp_path / "jobs", executor="ray")
    assert caught.value.name == "ray" and not (tmp_path / "jobs").exists()


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("", 'starts on this machine, found RuntimeError: no GCS here; .* executor "local"'),
        ("10.0.0.1:6379", "RAY_ADDRESS=10.0.0.1:6379, found RuntimeError: no GCS here; correct"),
    ],
)
def test_a_ray_that_does_not_start_is_named(tmp_path, monkeypatch, address, message):
    def init(**options):
        raise RuntimeError("no GCS\nhere")

    monkeypatch.setitem(
        sys.modules, "ray", SimpleNamespace(is_initialized=lambda: False, init=init)
    )
    monkeypatch.setenv("RAY_ADDRESS", address)
    with pytest.raises(ConnectionError, match=message):
        list(run_jobs(act, [{"x": 1}], tmp_path, executor="ray", workers=1, version="1"))
