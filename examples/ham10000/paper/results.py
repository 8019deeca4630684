"""What the finished runs of a table came out with."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from examples.ham10000.paper.finished import Finished, finished
from examples.ham10000.paper.rows import Row, Table
from examples.ham10000.paper.runs import begun_seeds, read_own, row_config

SPLITS = {"lesion": "by lesion", "paper": "by image"}
"""What the protocols do."""


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
        rows[row] = [read_own(config) for config in configs if finished(config.out)]
        for run in rows[row]:
            other = of_seed.setdefault(run.config.seed, run)
            if run.digest != other.digest:
                raise ValueError(
                    f"{run.config.out} and {other.config.out} were tested with other images "
                    "(images_sha256 in what they say of themselves): one --out for each data folder"
                )
    return Results(table, out, first.protocol, rows, begun, failures)
