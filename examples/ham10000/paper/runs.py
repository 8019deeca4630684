"""The runs of a table: options, folders, and how processes share them."""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from filelock import FileLock, Timeout

from examples.ham10000 import processes
from examples.ham10000.config import Config, read_description, read_options
from examples.ham10000.given import train_config
from examples.ham10000.paper.finished import Finished, finished, read_finished
from examples.ham10000.paper.rows import BACKBONE, Row
from examples.ham10000.rules import LOSSES_WITH, OWN_START, gates_with_rate


def row_config(
    row: Row,
    seed: int,
    out: Path,
    data: Path,
    options: dict[str, Any],
    *,
    read_weights: bool = False,
) -> Config:
    """The options of the run of a row, from those of all rows that it has a use for.

    How blocks start depends on what a file of weights holds. Runs that are begun say it, too, so
    that the file need not be there, nor fit the rows that are not asked for: it is read with
    ``read_weights``, where no run of the row is begun. ValueError: an option is out of range, or
    the file does not fit the row.
    """
    given = {"model": BACKBONE, "weights": "imagenet", **options}
    if row.model != BACKBONE:
        given |= {"model": row.model, "weights": "imagenet"}
    if not row.pretrained:
        given["weights"] = "none"
    unused = {name for name, losses in LOSSES_WITH.items() if row.loss not in losses}
    if row.attention in OWN_START:
        unused.add("init")
    if not gates_with_rate(row.attention):
        unused |= {"gate_lr", "gate_weight_decay"}
    given = {name: value for name, value in given.items() if name not in unused}
    given |= {"attention": row.attention, "loss": row.loss, "seed": seed, "data": data, "out": out}
    if given["weights"] in ("none", "imagenet") or "init" in given or row.attention in OWN_START:
        return _named(given, row)
    for init in ("loaded", "fitted"):
        config = _named({**given, "init": init}, row)
        if begun_seeds(config):
            return config
    return _named(given, row) if read_weights else config


def _named(given: dict[str, Any], row: Row) -> Config:
    """Checked options, with a folder that is named after them."""
    config = train_config(given, as_paper=True)
    pretrained = "pretrained" if row.pretrained else None
    parts = [config.model.partition("/")[2], pretrained, config.attention, config.init]
    parts += [config.loss, config.protocol, f"seed{config.seed}"]
    config = replace(config, out=config.out / "-".join(filter(None, parts)))
    config.check()
    return config


def begun_seeds(config: Config) -> list[int]:
    """The seeds of all run folders that differ from that of ``config`` in nothing but the seed."""
    start = config.out.name.removesuffix(str(config.seed))
    ends = [run.name.removeprefix(start) for run in config.out.parent.glob(f"{start}*")]
    return sorted(int(end) for end in ends if end.isdecimal())


def check_same_options(config: Config) -> None:
    """Raise ValueError where a run folder has one with other options, or of an older version."""
    try:
        begun, known = read_options(config.out), read_description(config.out)["options"]
    except FileNotFoundError:  # not looked for first: another process may be taking it away
        return
    if "warmup" not in known:
        raise ValueError(
            f"{config.out} was begun by an older version, in which biases and norms decayed and "
            "lesions with two ids were not joined: name another --out"
        )
    for name, value in vars(config).items():
        # Where the data lie and who loads them makes no difference.
        if name not in ("data", "workers") and value != getattr(begun, name):
            raise ValueError(
                f"{config.out} was begun with {name} {getattr(begun, name)}, not {value}: "
                "name another --out"
            )


def read_own(config: Config) -> Finished:
    """Read a finished run; ValueError where it has other options, or its files are damaged."""
    check_same_options(config)
    return read_finished(config.out)


class Outcome(NamedTuple):
    """The name of what was run, the files that were written, and what went wrong, by row or run."""

    name: str
    files: list[Path]
    failures: dict[str, str]


def run_shared(
    name: str,
    config: Config,
    begin: Callable[..., object],
    failures: dict[str, str],
    *,
    wait: bool = False,
) -> bool:
    """Do one run by ``begin(config, resumed=...)``, and say whether it was done here.

    It is not where it is finished, has failed, which ``failures`` then say, or another process is
    at it; ``wait`` for that one, in case that it does not finish it.
    """
    lock = FileLock(config.out.with_name(f"{config.out.name}.lock"))
    is_finished = partial(finished, config.out)
    try:
        # One process looks, for all: between two looks a run may begin or end.
        if processes.once(is_finished):
            return False
        if not processes.once(lambda: _acquire(lock, wait)):
            processes.say(f"{name}: another process is at it")
            return False
        if processes.once(is_finished):
            return False
        processes.say(f"\n{name}")
        begin(config, resumed=processes.once(config.out.exists))
        return True
    except (ValueError, OSError, FloatingPointError) as error:
        if processes.count() > 1:  # the others may wait for this one
            raise
        failures[name] = one_line(error)
        return False
    finally:
        if processes.rank() == 0:
            lock.release()


def _acquire(lock: FileLock, wait: bool) -> bool:
    with suppress(Timeout):
        lock.acquire(timeout=-1 if wait else 0)
    return lock.is_locked


def one_line(error: Exception) -> str:
    """What an error says, without line breaks."""
    return " ".join(str(error).split())
