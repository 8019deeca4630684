"""What the finished runs of a table came out with."""

import json
from dataclasses import dataclass
from math import isnan
from pathlib import Path
from typing import Any

from examples.ham10000.config import MONITORS, Config, read_description
from examples.ham10000.paper.rows import Row, Table
from examples.ham10000.paper.runs import (
    begun_seeds,
    check_same_options,
    damaged,
    finished,
    row_config,
)
from examples.ham10000.report.plots import read_curve

SPLITS = {"lesion": "by lesion", "paper": "by image"}
"""What the protocols do."""


@dataclass(frozen=True)
class Finished:
    """A run that has been tested, with what it has written of itself and the epoch that it chose.

    ``test`` is its ``test.json``, ``label`` stands before the names in its ``metrics.csv``, and
    ``validation`` is the mean recall of that epoch on the validation part, in percent.
    """

    config: Config
    description: dict[str, Any]
    test: dict[str, Any]
    label: str
    epoch: int
    validation: float


@dataclass(frozen=True)
class Results:
    """A table or figure, with the finished runs of every row by ascending seed.

    ``out`` is the folder of runs and results, ``protocol`` how the images are split, ``begun`` are
    the rows that have a run folder, and ``failures`` says what went wrong, by row.
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
    """Read all finished runs of a table or figure in ``out`` that have the options, of every seed.

    ValueError: a run has other options or, with the same seed, other test images; or its files are
    damaged.
    """
    rows: dict[Row, list[Finished]] = {}
    begun = set()
    of_seed: dict[int, Finished] = {}
    for row in table.rows:
        first = row_config(row, 0, out, data, options)
        seeds = begun_seeds(first)
        if seeds:
            begun.add(row)
        configs = [row_config(row, seed, out, data, options) for seed in seeds]
        rows[row] = [read_run(config) for config in configs if finished(config.out)]
        for run in rows[row]:
            other = of_seed.setdefault(run.config.seed, run)
            if _digest(run) != _digest(other):
                raise ValueError(
                    f"{run.config.out} and {other.config.out} were tested with other images "
                    "(images_sha256 in their config.json): one --out for each data folder"
                )
    return Results(table, out, first.protocol, rows, begun, failures)


def _digest(run: Finished) -> object:
    """Of the test images; None for an old run."""
    return run.description.get("images_sha256", {}).get("test")


def read_run(config: Config) -> Finished:
    """Read a finished run; ValueError where it has other options, or its files are damaged."""
    check_same_options(config)
    description = read_description(config.out)
    with damaged(f"the results of {config.out} are"):
        test = json.loads((config.out / "test.json").read_text(encoding="utf-8"))
        label = "SYNTHETIC_" if test["data"].startswith("SYNTHETIC") else ""
        metrics = config.out / "metrics.csv"
        epochs, scores = read_curve(metrics, label + config.monitor)
        best = max if MONITORS[config.monitor] == "max" else min
        # The first one of several, as the checkpoint is, which takes NaN for the worst.
        chosen = scores.index(best(score for score in scores if not isnan(score)))
        recall = read_curve(metrics, f"{label}val_mean_recall")[1][chosen]
    return Finished(config, description, test, label, epochs[chosen], 100 * recall)
