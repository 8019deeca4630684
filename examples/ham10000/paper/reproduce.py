"""Run the rows of a table, each once, and write what came out beside the paper's figures."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from filelock import FileLock

from examples.ham10000 import processes
from examples.ham10000.config import Config
from examples.ham10000.data.index import read_index
from examples.ham10000.paper import runs
from examples.ham10000.paper.results import collect
from examples.ham10000.paper.rows import FIGURES, TABLES, Table
from examples.ham10000.paper.table import write_figure, write_table


def reproduce(
    *,
    begin: Callable[..., object],
    data: Path,
    table: int | None = None,
    figure: int | None = None,
    out: Path = Path("runs", "paper"),
    rows: list[str] | None = None,
    seeds: int = 1,
    **options: Any,
) -> runs.Outcome:
    """Run what is not finished yet, and write the table or figure from all that is.

    It is written after every run. Several of these may share a folder: each takes rows that no
    other one is at. ``begin(config, resumed=...)`` does a run; every row is run with ``seeds``
    seeds from 0, or only the rows that are named. The options are of ``train``, for all rows;
    ``model`` takes the place of MobileNetV3-Small, and ``weights`` are those of it. ValueError: an
    unknown row, an option out of range, or a run in ``out`` that has others; FileNotFoundError:
    there is no such data folder.
    """
    wanted = FIGURES[figure] if table is None and figure is not None else TABLES[table or 0]
    todo, failures = _plan(wanted, out, data, rows, seeds, options)
    # Else every row would fail, and none for its own reason.
    read_index(data, allow_missing=True, same_lesion=options.get("same_lesion"))
    out.mkdir(parents=True, exist_ok=True)

    def write() -> list[Path]:
        # Without the lock, a process could replace a table by one that it has read before.
        with FileLock(out / f"{wanted.kind}-{wanted.number}.lock"):
            results = collect(wanted, out, data, options, failures)
            return write_table(results) if wanted.kind == "table" else write_figure(results)

    for wait in (False, True):  # what another process is at is waited for in the end
        for name, config in todo.items():
            if name not in failures and runs.run_shared(name, config, begin, failures, wait=wait):
                processes.once(write)
    return runs.Outcome(wanted.name, processes.once(write), failures)


def _plan(
    wanted: Table,
    out: Path,
    data: Path,
    rows: list[str] | None,
    seeds: int,
    options: dict[str, Any],
) -> tuple[dict[str, Config], dict[str, str]]:
    """The runs that are asked for, and the rows that the weights do not fit, by what to call them.

    ValueError as of :func:`reproduce`.
    """
    if seeds < 1:
        raise ValueError(f"--seeds must be at least 1, got {seeds}")
    names = [row.name for row in wanted.rows]
    unknown = [name for name in rows or () if name not in names]
    if unknown:
        raise ValueError(f"{wanted.name} has no row {unknown[0]!r}; it has {', '.join(names)}")
    if options.get("weights") == "none":
        raise ValueError("--weights none: give those of the rows with pre-training")
    config = partial(runs.row_config, out=out, data=data, options=options)
    for row in wanted.rows:
        for seed in {*range(seeds), *runs.begun_seeds(config(row, 0))}:
            runs.check_same_options(config(row, seed))
    todo, failures = {}, {}
    for seed in range(seeds):
        for row in wanted.rows:
            if rows is not None and row.name not in rows:
                continue
            name = row.name if seeds == 1 else f"{row.name}, seed {seed}"
            try:
                todo[name] = config(row, seed, read_weights=True)
            except ValueError as error:
                failures[name] = runs.one_line(error)
    return todo, failures
