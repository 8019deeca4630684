"""One process, or several that torchrun has started; and how progress shows."""

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import perf_counter
from typing import TypeVar

from tqdm import tqdm

T = TypeVar("T")


def _launched() -> bool:
    """Whether torchrun has started this process; asking needs no torch."""
    return "TORCHELASTIC_RUN_ID" in os.environ


def join() -> None:
    """Meet the other processes, if torchrun has started this one."""
    if _launched():
        import torch

        cuda = torch.cuda.is_available()
        torch.distributed.init_process_group("cpu:gloo,cuda:nccl" if cuda else "gloo")


def leave() -> None:
    """Part from the other processes."""
    if _launched():
        from torch import distributed

        if distributed.is_initialized():
            distributed.destroy_process_group()


def count() -> int:
    """How many processes work on the run."""
    return int(os.environ["WORLD_SIZE"]) if _launched() else 1


def count_here() -> int:
    """How many of them are on this machine."""
    return int(os.environ["LOCAL_WORLD_SIZE"]) if _launched() else 1


def rank() -> int:
    """The number of this process; 0 is the one that writes files and prints."""
    return int(os.environ["RANK"]) if _launched() else 0


def rank_here() -> int:
    """The number of this process among those on this machine, and of its GPU."""
    return int(os.environ["LOCAL_RANK"]) if _launched() else 0


def say(text: str) -> None:
    """Print, in one process only."""
    if rank() == 0:
        print(text, flush=True)


def once(work: Callable[[], T]) -> T:
    """Do ``work`` in process 0 and give its result, or raise its error, in all of them."""
    if not _launched():
        return work()
    from torch import device, distributed

    outcome: list[T | Exception | None] = [None]
    if rank() == 0:
        try:
            outcome[0] = work()
        except Exception as error:
            outcome[0] = error
    distributed.broadcast_object_list(outcome, 0, device=device("cpu"))
    if isinstance(outcome[0], Exception):
        raise outcome[0]
    return outcome[0]  # type: ignore[return-value]


def shows_bars() -> bool:
    """Whether progress is a bar, each step of which would be a line of a file, pipe or notebook.

    Lightning's bar goes to standard output, others to standard error: both have to be a terminal.
    """
    return sys.stdout.isatty() and sys.stderr.isatty()


@contextmanager
def bar(name: str, total: int, unit: str = "images") -> Iterator[tqdm]:
    """A bar for ``total`` steps; where none is shown, a line at the end says how long it took.

    ``unit`` is what is counted, ``B`` for bytes.
    """
    start, shown = perf_counter(), shows_bars()
    scaled = unit == "B"
    with tqdm(desc=name, total=total, unit=unit, unit_scale=scaled, disable=not shown) as steps:
        yield steps
    if not shown:
        seconds = perf_counter() - start
        print(f"{name}: {steps.total:,} {unit}, {seconds:.1f} s", file=sys.stderr, flush=True)
