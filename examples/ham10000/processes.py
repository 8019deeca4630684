"""One process, or several that torchrun has started."""

import os
from collections.abc import Callable
from typing import TypeVar

import torch
from torch import distributed

T = TypeVar("T")


def join() -> None:
    """Meet the other processes, if torchrun has started this one."""
    if distributed.is_available() and distributed.is_torchelastic_launched():
        cuda = torch.cuda.is_available()
        distributed.init_process_group("cpu:gloo,cuda:nccl" if cuda else "gloo")


def leave() -> None:
    """Part from the other processes."""
    if _joined():
        distributed.destroy_process_group()


def count() -> int:
    """How many processes work on the run."""
    return distributed.get_world_size() if _joined() else 1


def count_here() -> int:
    """How many of them are on this machine."""
    return int(os.environ["LOCAL_WORLD_SIZE"]) if _joined() else 1


def rank() -> int:
    """The number of this process; 0 is the one that writes files and prints."""
    return distributed.get_rank() if _joined() else 0


def rank_here() -> int:
    """The number of this process among those on this machine, and of its GPU."""
    return int(os.environ["LOCAL_RANK"]) if _joined() else 0


def say(text: str) -> None:
    """Print, in one process only."""
    if rank() == 0:
        print(text, flush=True)


def once(work: Callable[[], T]) -> T:
    """Do ``work`` in process 0 and give its result, or its error, to all of them.

    Raises:
        Exception: what ``work`` raised.
    """
    if not _joined():
        return work()
    outcome: list[T | Exception | None] = [None]
    if rank() == 0:
        try:
            outcome[0] = work()
        except Exception as error:
            outcome[0] = error
    distributed.broadcast_object_list(outcome, 0, device=torch.device("cpu"))
    if isinstance(outcome[0], Exception):
        raise outcome[0]
    return outcome[0]  # type: ignore[return-value]


def _joined() -> bool:
    return distributed.is_available() and distributed.is_initialized()
