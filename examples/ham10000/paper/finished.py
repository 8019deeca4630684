"""A run that has been tested, read back from its folder."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from math import isnan
from pathlib import Path
from typing import Any

from examples.ham10000.config import (
    MONITORS,
    Config,
    options_for_json,
    read_description,
    read_options,
)
from examples.ham10000.gates import RecordedGates, read_gates
from examples.ham10000.report.plots import read_curve

NO_MATTER = ("data", "out", "workers")
"""Options that make no difference: where data and run lie, and who loads the images."""


def which_matter(config: Config) -> dict[str, Any]:
    """The other options, as JSON has them."""
    return {k: v for k, v in options_for_json(config).items() if k not in NO_MATTER}


def finished(run: Path) -> bool:
    """Whether a run has been tested."""
    return (run / "test.json").exists()


@dataclass(frozen=True)
class Finished:
    """A run with what it has written of itself and of its test.

    ``test`` is its ``test.json``, of the images ``data``; ``digest`` of their files, None for an
    old run.
    """

    config: Config
    description: dict[str, Any]
    test: dict[str, Any]
    data: str
    parameters: int
    digest: str | None

    @property
    def label(self) -> str:
        """What stands before the names in its ``metrics.csv``."""
        return "SYNTHETIC_" if self.data.startswith("SYNTHETIC") else ""

    @cached_property
    def gates(self) -> RecordedGates | None:
        """What it has recorded of its gates."""
        return read_gates(self.config.out)

    @cached_property
    def chosen(self) -> tuple[int, float]:
        """The epoch that was chosen, and its mean recall on the validation part, in percent."""
        metrics, monitor = self.config.out / "metrics.csv", self.config.monitor
        with damaged(f"{metrics} is"):
            epochs, scores = read_curve(metrics, self.label + monitor)
            best = max if MONITORS[monitor] == "max" else min
            # The first one of several, as the checkpoint is, which takes NaN for the worst.
            chosen = scores.index(best(score for score in scores if not isnan(score)))
            recall = read_curve(metrics, f"{self.label}val_mean_recall")[1][chosen]
        return epochs[chosen], 100 * recall


def read_finished(run: Path) -> Finished:
    """Read a run that was tested.

    FileNotFoundError: the folder has no run, or one that is not finished. ValueError: its files
    are damaged.
    """
    config, description = read_options(run), read_description(run)
    report = run / "test.json"
    if not report.is_file():
        raise unfinished(report)
    with damaged(f"{run / 'config.json'} or description.json beside it is"):
        parameters = int(description["parameters"])
        digest = description.get("images_sha256", {}).get("test")
    with damaged(f"{report} is"):
        test = json.loads(report.read_text(encoding="utf-8"))
        if not isinstance(test["data"], str):
            raise TypeError(f"data is {test['data']!r}")
    return Finished(config, description, test, test["data"], parameters, digest)


def unfinished(file: Path) -> FileNotFoundError:
    """The error of a run that lacks a file of its end."""
    return FileNotFoundError(
        f"the run {file.parent} is not finished, there is no {file}: train --resume it"
    )


@contextmanager
def damaged(what: str) -> Iterator[None]:
    """Say what is damaged, such as ``a.json is``, where its content is not as it has to be."""
    try:
        yield
    except (ValueError, LookupError, TypeError, AttributeError, ArithmeticError) as error:
        raise ValueError(f"{what} damaged: {error!r}") from error
