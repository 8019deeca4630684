"""The runs of a table: options, folders, and how processes share them."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from examples.ham10000 import processes
from examples.ham10000.config import Config, read_description, read_options
from examples.ham10000.given import train_config
from examples.ham10000.paper.rows import BACKBONE, Row
from examples.ham10000.rules import LOSSES_WITH, OWN_START, gates_with_rate


def finished(run: Path) -> bool:
    """Whether a run has been tested."""
    return (run / "test.json").exists()


def row_config(
    row: Row,
    seed: int,
    out: Path,
    data: Path,
    options: dict[str, Any],
    *,
    read_weights: bool = False,
) -> Config:
    """The options of the run of a row, in a folder that is named after them.

    How blocks start depends on what a file of weights holds. Runs that are begun say it, too, so
    that the file need not be there, nor fit the rows that are not asked for.

    Args:
        row: of a table.
        seed: of the run.
        out: where its folder is.
        data: HAM10000 folder.
        options: of ``train``, for all rows; what a row does not use is left out.
        read_weights: read the file where no run of the row is begun.

    Raises:
        ValueError: an option is out of range, or the file does not fit the row.
    """
    own = row.model == BACKBONE
    given = {k: v for k, v in options.items() if row.loss in LOSSES_WITH.get(k, (row.loss,))}
    given["model"] = options.get("model", BACKBONE) if own else row.model
    given["weights"] = "none"
    if row.pretrained:
        given["weights"] = options.get("weights", "imagenet") if own else "imagenet"
    if row.attention in OWN_START:
        given.pop("init", None)
    if not gates_with_rate(row.attention):
        given = {k: v for k, v in given.items() if k not in ("gate_lr", "gate_weight_decay")}
    given |= {"attention": row.attention, "loss": row.loss, "seed": seed, "data": data, "out": out}
    from_file = given["weights"] not in ("none", "imagenet")
    if from_file and "init" not in given and row.attention not in OWN_START:
        for init in ("loaded", "fitted"):
            config = _named({**given, "init": init}, row)
            if begun_seeds(config):
                return config
        if not read_weights:
            return config
    return _named(given, row)


def _named(given: dict[str, Any], row: Row) -> Config:
    config = train_config(given, as_paper=True)
    parts = [
        config.model.partition("/")[2],
        *(["pretrained"] if row.pretrained else []),
        config.attention,
        *([config.init] if config.init else []),
        config.loss,
        config.protocol,
        f"seed{config.seed}",
    ]
    config = replace(config, out=config.out / "-".join(parts))
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
        begin: does it, called as :func:`complete`.

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
