"""What the finished runs of a table came out with."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import isnan
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from examples.ham10000.config import MONITORS, Config, read_description
from examples.ham10000.paper.rows import Row, Table
from examples.ham10000.paper.runs import (
    begun_seeds,
    check_same_options,
    finished,
    row_config,
)
from examples.ham10000.report.plots import read_curve

SPLITS = {"lesion": "by lesion", "paper": "by image"}
"""What the protocols do."""


@dataclass(frozen=True)
class Finished:
    """A run that has been tested.

    Attributes:
        config: its options.
        description: its ``config.json``.
        test: its ``test.json``.
        epoch: the one that it chose on the validation part.
        validation: the mean recall there, in percent.
    """

    config: Config
    description: dict[str, Any]
    test: dict[str, Any]
    epoch: int
    validation: float

    @property
    def images_sha256(self) -> object:
        """Of the test images; None for an old run."""
        return self.description.get("images_sha256", {}).get("test")

    @property
    def label(self) -> str:
        """What stands before the names of figures in its ``metrics.csv``."""
        return _label(self.test)


@dataclass(frozen=True)
class Value:
    """A figure of a row, in percent.

    Attributes:
        mean: over the seeds.
        sd: the sample standard deviation over them; None for one seed.
        interval: of 95 %, if it is known; None for several seeds.
    """

    mean: float
    sd: float | None = None
    interval: tuple[float, float] | None = None


@dataclass(frozen=True)
class Results:
    """A table or figure, with the finished runs of every row by ascending seed.

    Attributes:
        table: of the paper.
        out: the folder of runs and results.
        protocol: how the images are split.
        rows: its rows, with their runs.
        begun: rows that have a run folder.
        failures: what went wrong, by row.
    """

    table: Table
    out: Path
    protocol: str
    rows: dict[Row, list[Finished]]
    begun: set[Row]
    failures: dict[str, str]

    @property
    def runs(self) -> list[Finished]:
        """Those of all rows."""
        return [run for runs in self.rows.values() for run in runs]

    @property
    def synthetic(self) -> bool:
        """Whether any run was made with drawn pictures."""
        return any(run.label for run in self.runs)

    @property
    def title(self) -> str:
        """Such as ``Table 5: attention, split by lesion``."""
        return f"{self.table.name}: {self.table.title}, split {SPLITS[self.protocol]}"

    def file(self, end: str) -> Path:
        """The file of the results with this end of the name, such as ``.csv``."""
        return self.out / f"{self.table.kind}-{self.table.number}-{self.protocol}{end}"

    def state(self, row: Row) -> str:
        """What to say of a row without figures."""
        return "not finished" if row in self.begun else "not run"


def collect(
    table: Table, out: Path, data: Path, options: dict[str, Any], failures: dict[str, str]
) -> Results:
    """Read all finished runs of a table or figure that have the given options, of every seed.

    Args:
        table: of the paper.
        out: the folder of the runs.
        data: HAM10000 folder.
        options: of ``train``, for all rows.
        failures: what went wrong, by row.

    Raises:
        ValueError: a run has other options or, with the same seed, other test images; or its files
            are damaged.
    """
    rows: dict[Row, list[Finished]] = {}
    begun = set()
    for row in table.rows:
        first = row_config(row, 0, out, data, options)
        seeds = begun_seeds(first)
        if seeds:
            begun.add(row)
        configs = [row_config(row, seed, out, data, options) for seed in seeds]
        rows[row] = [read_run(config) for config in configs if finished(config.out)]
    _check_same_images([run for runs in rows.values() for run in runs])
    return Results(table, out, first.protocol, rows, begun, failures)


def read_run(config: Config) -> Finished:
    """Read the files of a finished run.

    Raises:
        ValueError: it has other options, or they are damaged.
    """
    check_same_options(config)
    description = read_description(config.out)
    try:
        test = json.loads((config.out / "test.json").read_text(encoding="utf-8"))
        metrics, label = config.out / "metrics.csv", _label(test)
        epochs, scores = read_curve(metrics, label + config.monitor)
        best = max if MONITORS[config.monitor] == "max" else min
        # The first one of several, as the checkpoint is, which takes NaN for the worst.
        chosen = scores.index(best(score for score in scores if not isnan(score)))
        recall = read_curve(metrics, f"{label}val_mean_recall")[1][chosen]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"the results of {config.out} are damaged: {error!r}") from error
    return Finished(config, description, test, epochs[chosen], 100 * recall)


def _check_same_images(runs: Sequence[Finished]) -> None:
    """Raise ValueError unless the runs of each seed were tested with the same image files."""
    first: dict[int, Finished] = {}
    for run in runs:
        other = first.setdefault(run.config.seed, run)
        if run.images_sha256 != other.images_sha256:
            raise ValueError(
                f"{run.config.out} and {other.config.out} were tested with other images "
                "(images_sha256 in their config.json): one --out for each data folder"
            )


def headline(runs: Sequence[Finished], name: str) -> Value:
    """One of the headline figures of a row, from its runs (one or more)."""
    value = summary([100 * run.test[name] for run in runs])
    if len(runs) > 1:
        return value
    low, high = runs[0].test["interval_95"][name]
    return replace(value, interval=(100 * low, 100 * high))


def summary(values: Sequence[float]) -> Value:
    """Mean and standard deviation of figures in percent, one per seed."""
    return Value(mean(values), stdev(values) if len(values) > 1 else None)


def _label(test: dict[str, Any]) -> str:
    return "SYNTHETIC_" if test["data"].startswith("SYNTHETIC") else ""
