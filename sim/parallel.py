"""Several processes that train one network: each has its own data, gradients are averaged.

    with together(2, follow, config):      # the second process runs follow(config)
        train(config)                      # and both come to the same `average` and `share`

All processes run the same lines, so that their weights stay equal. On the processor of a small
computer this is faster than threads: a step of a thousand flights is too short to be divided.
"""

from __future__ import annotations

import os
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from multiprocessing import get_context
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch import distributed as dist

T = TypeVar("T")
_PATIENCE = timedelta(minutes=10)
"""How long one process may compile or write while the others wait."""


def rank() -> int:
    """Which of the processes this is; 0 for the first, and where there is only one."""
    return dist.get_rank() if dist.is_initialized() else 0


def average(tensors: Sequence[Tensor]) -> None:
    """Replace `tensors` by their mean over all processes.

    Raises ConnectionError where another process has ended.
    """
    if not dist.is_initialized():
        return
    joined = torch.cat([tensor.reshape(-1) for tensor in tensors])
    with _alive():
        dist.all_reduce(joined)
    joined /= dist.get_world_size()
    parts = joined.split([tensor.numel() for tensor in tensors])
    for tensor, part in zip(tensors, parts, strict=True):
        tensor.copy_(part.reshape(tensor.shape))


def share(value: T) -> T:
    """The first process's `value`, in all of them. Raises ConnectionError as `average` does."""
    if not dist.is_initialized():
        return value
    box: list[Any] = [value]
    with _alive():
        dist.broadcast_object_list(box, src=0)
    return box[0]


@contextmanager
def together(count: int, follow: Callable[..., None], *arguments: Any) -> Iterator[None]:
    """Be the first of `count` processes; the others run `follow(*arguments)` meanwhile.

    follow: at the top level of a module. Where this process fails or is killed, the others end.
    """
    if count == 1:
        yield
        return
    with tempfile.TemporaryDirectory() as folder:
        meeting = Path(folder) / "meeting"
        spawn = get_context("spawn")
        processes = [
            spawn.Process(target=_follow, args=(index, count, meeting, follow, arguments))
            for index in range(1, count)
        ]
        for process in processes:
            process.start()
        try:
            _join(0, count, meeting)
            yield
        except BaseException:
            for process in processes:
                process.terminate()
            raise
        finally:
            if dist.is_initialized():
                dist.destroy_process_group()
            for process in processes:
                process.join()


def _follow(
    index: int, count: int, meeting: Path, follow: Callable[..., None], arguments: Sequence[Any]
) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the first process answers it, and ends us
    _join(index, count, meeting)
    try:
        follow(*arguments)
    except (ConnectionError, FloatingPointError):  # which the first process meets and reports
        sys.exit(1)
    dist.destroy_process_group()


def _join(number: int, count: int, meeting: Path) -> None:
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")  # a computer's name may lead nowhere
    dist.init_process_group(
        "gloo", init_method=f"file://{meeting}", rank=number, world_size=count, timeout=_PATIENCE
    )


@contextmanager
def _alive() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        raise ConnectionError(
            f"expected all training processes alive, found one ended ({error}); go on from the "
            "last checkpoint by --resume"
        ) from None
