"""One run of a sweep: done once, by one process at a time, with a log."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import sys
import time
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import fmean
from typing import TextIO

import yaml

from sim.runs import write_atomically
from sim.sweeps.families import Plain, family_of

AVERAGED = 0.1
"""Share of a stage, its end, over which its figures are averaged."""


def run(job: Plain) -> Plain:
    """Train one Spec in its folder, from its checkpoint where there is one; once done, it is done.

    job: the fields of a Spec, "output", and "command" for the record.
    Returns "figures", "bundle" (path relative to the output) and "seconds".

    Raises FileNotFoundError where the output is not this machine's, BlockingIOError while another
    process works on the same run, InputError for a configuration that is not sound, and what
    training raises.
    """
    output, key = Path(job["output"]), job["key"]
    if not output.is_dir():
        raise FileNotFoundError(
            f"{output}: expected the sweep's folder, found none on this machine; let all machines "
            "that take part share it under one path"
        )
    family = family_of(job["task"])
    config = family.configure(job["configuration"], output)
    with _alone(output / "locks" / key):
        if (result := finished(output, key)) is not None:
            return result
        with _logged(output / "logs" / f"{key}.txt"):
            folder = output / "runs" / key
            resume = (folder / "config.yaml").is_file()
            if not resume:  # killed before it was a run's folder
                shutil.rmtree(folder, ignore_errors=True)
            bundle = family.train(config, folder, resume=resume, command=job["command"])
            result = {
                "figures": _figures(folder, family.figures),
                "bundle": str(bundle.path.relative_to(output)),
                "seconds": _seconds(bundle.path),
            }
            write_atomically(_record(output, key), json.dumps(result, indent=1) + "\n")
    return result


def finished(output: Path, key: str) -> Plain | None:
    """What `run` returned; None while it is not done."""
    record = _record(output, key)
    return json.loads(record.read_text(encoding="utf-8")) if record.is_file() else None


def _record(output: Path, key: str) -> Path:
    return output / "runs" / key / "done.json"


def _figures(folder: Path, names: Sequence[str]) -> dict[str, float | None]:
    """Means over the end of the last stage that logged them; None where one is not finite."""
    lines = (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    entries = [json.loads(line) for line in lines]
    figures = {}
    for name in names:
        logged = [entry for entry in entries if name in entry["metrics"]]
        values = [e["metrics"][name] for e in logged if e["stage"] == logged[-1]["stage"]]
        end = values[-max(1, int(AVERAGED * len(values))) :]
        if end:
            figures[name] = None if None in end else fmean(end)
    return figures


def _seconds(bundle: Path) -> float:
    """By the clock, in all stages and over all resumes."""
    training = yaml.safe_load((bundle / "training.yaml").read_text(encoding="utf-8"))
    return sum(stage["wall"] for stage in training["seconds"].values())


@contextmanager
def _alone(lock: Path) -> Iterator[None]:
    """Hold a lock file, which the death of this process frees, too."""
    with lock.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise BlockingIOError(
                f"run {lock.name}: expected nobody at work on it, found another process; call "
                "again when that has ended"
            ) from None
        yield


@contextmanager
def _logged(path: Path) -> Iterator[None]:
    """Note in a file when the work begins and ends, and all that it prints."""
    with (
        path.open("a", encoding="utf-8") as log,
        _redirected(sys.stdout, 1, log),
        _redirected(sys.stderr, 2, log),
    ):
        _mark(log, "begins")
        try:
            yield
        except Exception:
            traceback.print_exc(file=log)
            _mark(log, "failed")
            raise
        _mark(log, "finished")


def _mark(log: TextIO, event: str) -> None:
    now = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime())
    print(f"{now} UTC, process {os.getpid()}: {event}", file=log, flush=True)


@contextmanager
def _redirected(stream: TextIO, descriptor: int, log: TextIO) -> Iterator[None]:
    """Let a descriptor lead to the log: libraries and child processes print past sys.stdout."""
    kept = os.dup(descriptor)
    stream.flush()
    os.dup2(log.fileno(), descriptor)
    try:
        yield
    finally:
        stream.flush()
        os.dup2(kept, descriptor)
        os.close(kept)
