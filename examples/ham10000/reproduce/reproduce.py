"""Run the rows of a table, each once, and write what came out beside the paper's figures."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from examples.ham10000 import processes
from examples.ham10000.config import Config, read_options
from examples.ham10000.options import LOSSES_WITH, train_config
from examples.ham10000.reproduce.rows import BACKBONE, FIGURES, TABLES, Row
from examples.ham10000.training.launch import launch


def reproduce(
    *,
    data: Path,
    table: int | None = None,
    figure: int | None = None,
    out: Path = Path("runs", "paper"),
    rows: list[str] | None = None,
    seeds: int = 1,
    **options: Any,
) -> dict[str, str]:
    """Run what is not finished yet, and write the table or figure from all that is.

    Several of these may share a folder: each takes rows that no other one is at.

    Args:
        data: HAM10000 folder.
        table: one of :data:`TABLES`, or
        figure: one of :data:`FIGURES`.
        out: folder for runs and results.
        rows: names of the rows to run; None for all.
        seeds: every row is run with the seeds 0 to ``seeds`` - 1.
        **options: of ``train``, for all rows; ``model`` takes the place of MobileNetV3-Small, and
            ``weights`` are those of it.

    Returns:
        What went wrong, by row.

    Raises:
        ValueError: an unknown row, an option out of range, or a run in ``out`` that has others.
    """
    wanted = FIGURES[figure] if table is None and figure is not None else TABLES[table or 0]
    if seeds < 1:
        raise ValueError(f"--seeds must be at least 1, got {seeds}")
    names = [row.name for row in wanted.rows]
    unknown = [name for name in rows or () if name not in names]
    if unknown:
        raise ValueError(f"{wanted.name} has no row {unknown[0]!r}; it has {', '.join(names)}")
    if options.get("weights") == "none":
        raise ValueError("--weights none: give those of the rows with pre-training")
    runs = {
        (row, seed): row_config(row, seed, out, data, options)
        for seed in range(seeds)
        for row in wanted.rows
    }
    for config in runs.values():
        _check_same_options(config)
    out.mkdir(parents=True, exist_ok=True)
    todo = {key: run for key, run in runs.items() if rows is None or key[0].name in rows}
    failures: dict[str, str] = {}
    for wait in (False, True):  # what another process is at is waited for in the end
        for (row, seed), config in todo.items():
            name = row.name if seeds == 1 else f"{row.name}, seed {seed}"
            if name not in failures and not finished(config.out):
                try:
                    _run(name, config, wait)
                except (ValueError, OSError, FloatingPointError) as error:
                    if processes.count() > 1:  # the others may wait for this one
                        raise
                    failures[name] = str(error)
    return failures


def finished(run: Path) -> bool:
    """Whether a run has been tested."""
    return (run / "test.json").exists()


def row_config(row: Row, seed: int, out: Path, data: Path, options: dict[str, Any]) -> Config:
    """The options of the run of a row, in a folder that is named after them."""
    own = row.model == BACKBONE
    given = {k: v for k, v in options.items() if row.loss in LOSSES_WITH.get(k, (row.loss,))}
    given["model"] = options.get("model", BACKBONE) if own else row.model
    given["weights"] = "none"
    if row.pretrained:
        given["weights"] = options.get("weights", "imagenet") if own else "imagenet"
    if row.attention in ("SE", "none"):
        given.pop("init", None)
    given |= {"attention": row.attention, "loss": row.loss, "seed": seed, "data": data, "out": out}
    config = train_config(given)
    parts = [
        config.model.partition("/")[2],
        *(["pretrained"] if row.pretrained else []),
        config.attention,
        *([config.init] if config.init else []),
        config.loss,
        config.protocol,
        f"seed{seed}",
    ]
    config = replace(config, out=out / "-".join(parts))
    config.check()
    return config


def _check_same_options(config: Config) -> None:
    """Raise ValueError where the folder of a run has one with other options."""
    if not config.out.exists():
        return
    begun = read_options(config.out)
    for name, value in vars(config).items():
        # Where the data lie and who loads them makes no difference.
        if name not in ("data", "workers") and value != getattr(begun, name):
            raise ValueError(
                f"{config.out} was begun with {name} {getattr(begun, name)}, not {value}: "
                "name another --out"
            )


def _run(name: str, config: Config, wait: bool) -> None:
    """Do one run, or leave it to the process that is at it."""
    lock = FileLock(config.out.with_suffix(".lock"))
    if not processes.once(lambda: _acquire(lock, wait)):
        processes.say(f"{name}: another process is at it")
        return
    try:
        if not finished(config.out):
            processes.say(f"\n{name}")
            launch(config, resumed=config.out.exists())
    finally:
        if processes.rank() == 0:
            lock.release()


def _acquire(lock: FileLock, wait: bool) -> bool:
    try:
        lock.acquire(timeout=-1 if wait else 0)
    except Timeout:
        return False
    return True
