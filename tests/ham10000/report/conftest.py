"""The page of the run that all read, and what it has to say."""

import csv

import pytest

from examples.ham10000.data.index import CLASSES
from tests.ham10000.report.pages import Page


@pytest.fixture(scope="module")
def page(run) -> Page:
    return Page(run / "report.html")


@pytest.fixture(scope="module")
def split(run) -> list[dict[str, str]]:
    with (run / "split.csv").open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def probabilities(run) -> dict[str, dict[str, float]]:
    with (run / "test.csv").open(newline="") as file:
        return {
            row["image"]: {name.lower(): float(row[name.upper()]) for name in CLASSES}
            for row in csv.DictReader(file)
        }


@pytest.fixture(scope="module")
def truth(split) -> dict[str, str]:
    return {row["image_id"]: row["dx"] for row in split}
