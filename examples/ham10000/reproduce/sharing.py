"""Runs that several processes share: each is done by one of them."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from filelock import FileLock, Timeout

from examples.ham10000 import processes
from examples.ham10000.config import Config
from examples.ham10000.reproduce.runs import finished


@dataclass(frozen=True)
class Outcome:
    """What was run, and written of it.

    Attributes:
        name: of the table, figure or study.
        files: where it was written.
        failures: what went wrong, by row or run.
    """

    name: str
    files: list[Path]
    failures: dict[str, str]


def run_shared(name: str, config: Config, wait: bool, begin: Callable[..., object]) -> bool:
    """Do one run, unless it is finished or another process is at it.

    Args:
        name: to call it in messages.
        config: its options.
        wait: for another process that is at it, in case that it does not finish it.
        begin: does it, called as :func:`launch`.

    Returns:
        Whether it was done here.
    """
    # One process looks, for all: between two looks a run may begin or end.
    if processes.once(partial(finished, config.out)):
        return False
    lock = FileLock(config.out.with_name(f"{config.out.name}.lock"))
    if not processes.once(lambda: _acquire(lock, wait)):
        processes.say(f"{name}: another process is at it")
        return False
    try:
        if processes.once(partial(finished, config.out)):
            return False
        processes.say(f"\n{name}")
        begin(config, resumed=processes.once(config.out.exists))
        return True
    finally:
        if processes.rank() == 0:
            lock.release()


def _acquire(lock: FileLock, wait: bool) -> bool:
    try:
        lock.acquire(timeout=-1 if wait else 0)
    except Timeout:
        return False
    return True


def one_line(error: Exception) -> str:
    """What an error says, without line breaks."""
    return " ".join(str(error).split())
