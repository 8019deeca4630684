"""Run the rows of a table, each once, and write what came out beside the paper's figures."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from filelock import FileLock

from examples.ham10000 import processes
from examples.ham10000.config import Config
from examples.ham10000.data.index import read_index
from examples.ham10000.paper.figures import write_figure
from examples.ham10000.paper.results import collect
from examples.ham10000.paper.rows import FIGURES, TABLES, Table
from examples.ham10000.paper.runs import (
    Outcome,
    begun_seeds,
    check_same_options,
    one_line,
    row_config,
    run_shared,
)
from examples.ham10000.paper.table import write_numbers, write_table


def reproduce(
    *,
    data: Path,
    begin: Callable[..., object],
    table: int | None = None,
    figure: int | None = None,
    out: Path = Path("runs", "paper"),
    rows: list[str] | None = None,
    seeds: int = 1,
    **options: Any,
) -> Outcome:
    """Run what is not finished yet, and write the table or figure from all that is.

    It is written after every run. Several of these may share a folder: each takes rows that no
    other one is at.

    Args:
        data: HAM10000 folder.
        begin: does a run, called as ``begin(config, resumed=...)``.
        table: one of :data:`TABLES`, or
        figure: one of :data:`FIGURES`.
        out: folder for runs and results.
        rows: names of the rows to run; None for all.
        seeds: every row is run with the seeds 0 to ``seeds`` - 1.
        **options: of ``train``, for all rows; ``model`` takes the place of MobileNetV3-Small, and
            ``weights`` are those of it.

    Raises:
        ValueError: an unknown row, an option out of range, or a run in ``out`` that has others.
        FileNotFoundError: there is no such data folder.
    """
    wanted = FIGURES[figure] if table is None and figure is not None else TABLES[table or 0]
    failures: dict[str, str] = {}
    todo = _plan(wanted, out, data, rows, seeds, options, failures)
    # Else every row would fail, and none for its own reason.
    read_index(data, allow_missing=True, same_lesion=options.get("same_lesion"))
    out.mkdir(parents=True, exist_ok=True)
    write = partial(_write, wanted, out, data, options, failures)
    for wait in (False, True):  # what another process is at is waited for in the end
        for name, config in todo.items():
            if name in failures:
                continue
            try:
                trained = run_shared(name, config, wait, begin)
            except (ValueError, OSError, FloatingPointError) as error:
                if processes.count() > 1:  # the others may wait for this one
                    raise
                failures[name] = one_line(error)
            else:
                if trained:
                    processes.once(write)
    return Outcome(wanted.name, processes.once(write), failures)


def _plan(
    wanted: Table,
    out: Path,
    data: Path,
    rows: list[str] | None,
    seeds: int,
    options: dict[str, Any],
    failures: dict[str, str],
) -> dict[str, Config]:
    """The runs that are asked for, by the names to call them; errors as of :func:`reproduce`.

    Weights that do not fit a row are a failure of that row alone.
    """
    if seeds < 1:
        raise ValueError(f"--seeds must be at least 1, got {seeds}")
    names = [row.name for row in wanted.rows]
    unknown = [name for name in rows or () if name not in names]
    if unknown:
        raise ValueError(f"{wanted.name} has no row {unknown[0]!r}; it has {', '.join(names)}")
    if options.get("weights") == "none":
        raise ValueError("--weights none: give those of the rows with pre-training")
    for row in wanted.rows:
        begun = begun_seeds(row_config(row, 0, out, data, options))
        for seed in {*range(seeds), *begun}:
            check_same_options(row_config(row, seed, out, data, options))
    todo = {}
    for seed in range(seeds):
        for row in wanted.rows:
            if rows is not None and row.name not in rows:
                continue
            name = row.name if seeds == 1 else f"{row.name}, seed {seed}"
            try:
                todo[name] = row_config(row, seed, out, data, options, read_weights=True)
            except ValueError as error:
                failures[name] = one_line(error)
    return todo


def _write(
    wanted: Table, out: Path, data: Path, options: dict[str, Any], failures: dict[str, str]
) -> list[Path]:
    """Write the table or figure from what is finished now; give the files."""
    # Without the lock, a process could replace a table by one that it has read before.
    with FileLock(out / f"{wanted.kind}-{wanted.number}.lock"):
        results = collect(wanted, out, data, options, failures)
        if wanted.kind == "figure":
            return write_figure(results)
        return write_table(results) + write_numbers(results)
