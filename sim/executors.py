"""Many independent jobs on the cores of this machine or on a Ray cluster, each done only once.

    def train_teacher(job: dict) -> dict: ...        # at the top level of a module

    jobs = [{"quadrotor": index, "seed": 0} for index in range(1000)]
    with run_jobs(
        train_teacher, jobs, folder, executor="local", workers=2, version="1"
    ) as results:
        for outcome in results:
            bar.update(len(results.done) + len(results.failed))
    teachers, lost = results.done, results.failed

What a job returns is stored under the hash of what it was: a second call, after a kill or with
more jobs, does only what is missing. Whoever changes what the function computes changes `version`.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import signal
import sys
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing import get_context, parent_process
from pathlib import Path
from typing import Any, Literal, Protocol

import torch

from sim.runs import load_strictly, save_atomically

Job = dict[str, Any]
Function = Callable[[Job], dict[str, Any]]

RETRIES = 3
"""How often a job is begun again whose worker died."""

_FORMAT = "robot_policies job, format 1"


@dataclass(frozen=True)
class Outcome:
    """How one job ended: with a value, or with an error."""

    index: int
    """Which of the jobs."""
    value: dict[str, Any] | None
    """What the function returned, tensors on the CPU; None after an error."""
    cpu_seconds: float = 0.0
    """Spent by the function, in this call or in the earlier one whose result was stored."""
    error: str = ""
    """One line: the exception, or how the worker died."""
    details: str = ""
    """The exception's traceback."""


Outcomes = Generator[Outcome, None, None]


def run_jobs(
    function: Function,
    jobs: Sequence[Job],
    folder: str | Path | None,
    *,
    executor: Literal["local", "ray"],
    workers: int,
    version: str,
) -> Results:
    """Prepare to run `function` on every job; iterating over the Results does the work.

    A job whose worker dies (out of memory, killed) is begun again by a new one, up to RETRIES
    times. An exception ends its own job only. Neither is stored: the next call tries again.

    Args:
        function: at the top level of an importable module; takes a dict of JSON values and
            returns a dict of tensors and JSON values. It runs with one torch thread.
        jobs: what to call it with. Equal jobs are done once.
        folder: where results are stored, as SHA256.pt; made if missing. None: nowhere, for a
            function that itself knows what it has done.
        executor: "local" for processes of this machine; "ray" for the cluster at RAY_ADDRESS, or
            for this machine where that is not set.
        workers: how many jobs run at a time.
        version: of what the function computes; goes into the hash.

    Raises:
        ValueError: another executor, fewer than one worker, a function that a worker could not
            import, a job that is not JSON; while iterating: a stored result is damaged.
        ModuleNotFoundError: ray is not installed.
        ConnectionError: while iterating: Ray does not start, or its cluster does not answer.
    """
    if executor not in ("local", "ray") or workers < 1:
        raise ValueError(
            'run_jobs: expected executor "local" or "ray" and at least one worker; found '
            f"{executor!r} and {workers}"
        )
    name = _qualified_name(function)
    if executor == "ray":
        require_ray()
    if folder is not None:
        Path(folder).mkdir(parents=True, exist_ok=True)
    tasks: dict[str, _Task] = {}
    for index, job in enumerate(jobs):
        text = _canonical(job, index)
        key = hashlib.sha256(json.dumps([name, version, text]).encode()).hexdigest()
        path = None if folder is None else Path(folder) / f"{key}.pt"
        tasks.setdefault(key, _Task(function, text, key, path)).indices.append(index)
    crew = _LocalCrew if executor == "local" else _RayCrew
    return Results(list(tasks.values()), lambda: crew(workers))


class Results:
    """The outcomes of `run_jobs`, to iterate over once, in a `with` statement.

    Outcomes come as they are there: stored ones first, then in the order in which jobs end.
    Leaving the `with` statement early ends the workers; what is done stays done.
    """

    done: dict[int, dict[str, Any]]
    """What the jobs so far returned, by index."""
    failed: dict[int, Outcome]
    """The jobs so far that ended with an error, by index."""

    def __init__(self, tasks: list[_Task], crew: Callable[[], _Crew]) -> None:
        """Made by `run_jobs`."""
        self.done, self.failed = {}, {}
        self._outcomes = self._run(tasks, crew)

    def __enter__(self) -> Results:
        """The results themselves."""
        return self

    def __exit__(self, *_: object) -> None:
        """End the workers."""
        self._outcomes.close()

    def __iter__(self) -> Iterator[Outcome]:
        """Do the work, outcome by outcome."""
        return self._outcomes

    def _run(self, tasks: list[_Task], make_crew: Callable[[], _Crew]) -> Outcomes:
        stored = [task for task in tasks if task.path is not None and task.path.exists()]
        for task in stored:
            yield from self._note(task, _load(task))
        missing = deque(task for task in tasks if task not in stored)
        if not missing:
            return
        crew = make_crew()
        try:
            while missing or crew.busy:
                while missing and crew.free:
                    crew.start(missing.popleft())
                for task, reply in crew.wait():
                    _store(task, reply)
                    yield from self._note(task, reply)
        finally:
            for task, reply in crew.close():
                _store(task, reply)

    def _note(self, task: _Task, reply: _Reply) -> Outcomes:
        for index in task.indices:
            outcome = Outcome(index, reply.value, reply.cpu_seconds, reply.error, reply.details)
            if outcome.value is None:
                self.failed[index] = outcome
            else:
                self.done[index] = outcome.value
            yield outcome


# A job, from its JSON to its stored result.


@dataclass(eq=False)
class _Task:
    function: Function
    job: str
    key: str
    path: Path | None
    """Of its result; None: it is not stored."""
    indices: list[int] = field(default_factory=list)


@dataclass(frozen=True)
class _Reply:
    value: dict[str, Any] | None = None
    cpu_seconds: float = 0.0
    error: str = ""
    details: str = ""


def _qualified_name(function: Function) -> str:
    module, name = function.__module__, function.__qualname__
    if module == "__main__" or "<" in name:
        raise ValueError(
            "run_jobs: expected a function at the top level of a module that workers can import, "
            f"found {module}.{name}; move it there"
        )
    return f"{module}.{name}"


def _canonical(job: Job, index: int) -> str:
    try:
        return json.dumps(job, sort_keys=True, allow_nan=False, separators=(",", ":"))
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"run_jobs: expected jobs of JSON values, found in job {index}: {error}"
        ) from None


def _perform(function: Function, job: str) -> bytes:
    """Run one job in a worker. The reply is a file of torch's: it outlives the worker."""
    began = time.process_time()
    reply: dict[str, Any]
    try:
        value = function(json.loads(job))
        if not isinstance(value, dict):
            raise TypeError(f"expected a dict from the job, found {type(value).__name__}")
        reply = {"value": value, "cpu_seconds": time.process_time() - began}
        return _checked(_to_bytes(reply))
    except Exception as error:  # whatever the job raises belongs to its outcome
        line = f"{type(error).__name__}: {error}".splitlines()[0]
        return _to_bytes({"error": line, "details": traceback.format_exc()})


def _to_bytes(document: Any) -> bytes:
    stream = io.BytesIO()
    torch.save(document, stream)
    return stream.getvalue()


def _checked(document: bytes) -> bytes:
    """The document, if it holds nothing but tensors and plain values."""
    try:
        torch.load(io.BytesIO(document), weights_only=True)
    except Exception as error:  # torch.load raises whatever its unpickler meets
        raise TypeError(f"expected tensors and JSON values from the job: {error}") from None
    return document


def _reply_from(document: bytes) -> _Reply:
    return _Reply(**torch.load(io.BytesIO(document), weights_only=True, map_location="cpu"))


def _store(task: _Task, reply: _Reply) -> None:
    if reply.value is not None and task.path is not None:
        content = {"value": reply.value, "cpu_seconds": reply.cpu_seconds}
        save_atomically(task.path, {"format": _FORMAT, "key": task.key, "job": task.job} | content)


def _load(task: _Task) -> _Reply:
    assert task.path is not None  # only stored results are loaded
    document = load_strictly(task.path)
    known = isinstance(document, dict) and document.get("format") == _FORMAT
    if not known or document["key"] != task.key:
        raise ValueError(
            f"{task.path}: expected the result of a job ({_FORMAT}) of this name, found another "
            "file; delete it to do the job again"
        )
    return _Reply(document["value"], document["cpu_seconds"])


# Who does the jobs.


class _Crew(Protocol):
    """Workers. `wait` blocks until a job ends; `close` ends the workers, with the last replies."""

    @property
    def busy(self) -> bool: ...
    @property
    def free(self) -> bool: ...
    def start(self, task: _Task) -> None: ...
    def wait(self) -> Iterator[tuple[_Task, _Reply]]: ...
    def close(self) -> Iterator[tuple[_Task, _Reply]]: ...


class _Worker:
    """A process of its own: a pool of several breaks as a whole when one of its workers dies."""

    def __init__(self) -> None:
        self.pool = ProcessPoolExecutor(1, get_context("spawn"), _begin_worker)
        self.pid = self.pool.submit(os.getpid)

    def dismiss(self) -> None:
        """End an idle process, so that it frees what its libraries hold."""
        self.pool.shutdown(wait=True)

    def kill(self) -> None:
        """End the process whatever it does."""
        if self.pid.done() and not self.pid.exception():
            with suppress(ProcessLookupError):
                os.kill(self.pid.result(), signal.SIGKILL)
        self.pool.shutdown(wait=True, cancel_futures=True)


def _begin_worker() -> None:
    """One thread; an interrupt from the keyboard is the parent's; no parent, no worker."""
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = parent_process()
    assert parent is not None  # the pool spawned us

    def follow() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=follow, daemon=True).start()


class _LocalCrew:
    """Processes of this machine."""

    def __init__(self, workers: int) -> None:
        # All of them, also one that an interrupt caught between idle and running.
        self._workers: set[_Worker] = set()
        self._idle = [self._hire() for _ in range(workers)]
        self._running: dict[Future[bytes], tuple[_Worker, _Task, int]] = {}

    def _hire(self) -> _Worker:
        worker = _Worker()
        self._workers.add(worker)
        return worker

    def _replace(self, worker: _Worker) -> None:
        worker.kill()
        self._workers.discard(worker)
        self._idle.append(self._hire())

    @property
    def busy(self) -> bool:
        return bool(self._running)

    @property
    def free(self) -> bool:
        return bool(self._idle)

    def start(self, task: _Task, deaths: int = 0) -> None:
        worker = self._idle.pop()
        try:
            future = worker.pool.submit(_perform, task.function, task.job)
        except BrokenProcessPool:  # it died while idle, which is nobody's fault
            self._replace(worker)
            return self.start(task, deaths)
        self._running[future] = worker, task, deaths

    def wait(self) -> Iterator[tuple[_Task, _Reply]]:
        for future in wait(self._running, return_when=FIRST_COMPLETED).done:
            worker, task, deaths = self._running.pop(future)
            try:
                reply = _reply_from(future.result())
            except BrokenProcessPool:
                self._replace(worker)
                if deaths < RETRIES:
                    self.start(task, deaths + 1)
                    continue
                reply = _Reply(error=f"the worker died {deaths + 1} times")
            else:
                self._idle.append(worker)
            yield task, reply

    def close(self) -> Iterator[tuple[_Task, _Reply]]:
        ended = {future: task for future, (_, task, _) in self._running.items() if future.done()}
        for worker in self._workers:
            if worker in self._idle:
                worker.dismiss()
            else:
                worker.kill()
        for future, task in ended.items():
            if not future.exception():
                yield task, _reply_from(future.result())


class _RayCrew:
    """A Ray cluster, or this machine as one; Ray itself begins jobs again whose worker died."""

    def __init__(self, workers: int) -> None:
        self._ray, self._workers = require_ray(), workers
        self._ours = not self._ray.is_initialized()
        if self._ours:
            _start_ray(self._ray, workers)
        self._perform = self._ray.remote(num_cpus=1, max_retries=RETRIES)(_perform_on_ray)
        self._running: dict[Any, _Task] = {}

    @property
    def busy(self) -> bool:
        return bool(self._running)

    @property
    def free(self) -> bool:
        return len(self._running) < self._workers

    def start(self, task: _Task) -> None:
        self._running[self._perform.remote(task.function, task.job)] = task

    def wait(self) -> Iterator[tuple[_Task, _Reply]]:
        ended, _ = self._ray.wait(list(self._running), num_returns=1)
        yield from self._replies(ended)

    def close(self) -> Iterator[tuple[_Task, _Reply]]:
        pending = list(self._running)
        ended = self._ray.wait(pending, num_returns=len(pending), timeout=0)[0] if pending else []
        yield from self._replies(ended)
        for reference in self._running:
            self._ray.cancel(reference, force=True)
        if self._ours:
            self._ray.shutdown()

    def _replies(self, references: list[Any]) -> Iterator[tuple[_Task, _Reply]]:
        for reference in references:
            task = self._running.pop(reference)
            try:
                reply = _reply_from(self._ray.get(reference))
            except self._ray.exceptions.RayError as error:
                line = f"Ray: {type(error).__name__}"
                reply = _Reply(error=line, details=str(error))
            yield task, reply


def require_ray() -> Any:
    """The module ray. Raises ModuleNotFoundError, saying how to install it."""
    try:
        import ray
    except ModuleNotFoundError:
        raise ModuleNotFoundError(
            'executor "ray": expected the package ray, found none; install '
            'robot_policies[ray], or take executor "local"',
            name="ray",
        ) from None
    return ray


def _start_ray(ray: Any, workers: int) -> None:
    """Raises ConnectionError, for whatever reason Ray gives."""
    address = os.environ.get("RAY_ADDRESS")
    try:
        if address:
            ray.init(log_to_driver=False)
        else:
            paths = {"env_vars": {"PYTHONPATH": os.pathsep.join(sys.path)}}  # imports as here
            ray.init(
                num_cpus=workers, include_dashboard=False, log_to_driver=False, runtime_env=paths
            )
    except Exception as error:  # Ray raises RuntimeError, its own kinds, and bare Exception
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        expected, mend = (
            (f"the cluster at RAY_ADDRESS={address}", "correct RAY_ADDRESS, or unset it")
            if address
            else ("that Ray starts on this machine", 'mend that, or take executor "local"')
        )
        raise ConnectionError(
            f'executor "ray": expected {expected}, found {reason}; {mend}'
        ) from error


def _perform_on_ray(function: Function, job: str) -> bytes:
    torch.set_num_threads(1)
    return _perform(function, job)
