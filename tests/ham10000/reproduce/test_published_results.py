"""docs/results: tables follow from the runs beside them; nothing is there that must not be."""

import csv
import json
import re
from pathlib import Path
from statistics import mean, stdev

import numpy as np
import pytest

RESULTS = Path(__file__).parents[3] / "docs" / "results"
TABLES = sorted(file.stem for file in RESULTS.glob("table-?-*.csv") if "runs" not in file.stem)
RUNS = sorted((RESULTS / "runs").iterdir())


def read(file: Path) -> list[dict[str, str]]:
    with file.open(newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def report_of(run: Path) -> dict:
    return json.loads((run / "test.json").read_text())


@pytest.mark.parametrize("run", RUNS, ids=lambda run: run.name)
def test_the_figures_of_a_run_follow_from_its_counts(run):
    report = report_of(run)
    counts = np.array(report["confusion_counts"])  # predicted by true
    hits, images, guesses = counts.diagonal(), counts.sum(axis=0), counts.sum(axis=1)
    assert images.sum() == report["images"] == 998
    assert report["accuracy"] == pytest.approx(hits.sum() / 998)
    assert report["mean_recall"] == pytest.approx((hits / images).mean())
    assert report["macro_f1"] == pytest.approx((2 * hits / (images + guesses)).mean())
    specificity = 1 - (guesses - hits) / (998 - images)
    assert report["bacc_formula"] == pytest.approx(((hits / images + specificity) / 2).mean())
    assert report["data"] == "HAM10000 at 200x150"
    assert (report["leak"] == 0) == ("lesion" in run.name)


@pytest.mark.parametrize("table", TABLES)
def test_a_table_follows_from_its_runs(table):
    runs = read(RESULTS / f"{table}-runs.csv")
    for row in read(RESULTS / f"{table}.csv"):
        of_row = [run for run in runs if run["row"] == row["row"]]
        assert int(row["seeds"]) == len(of_row)
        for name in ("accuracy", "mean_recall", "bacc_formula", "macro_f1"):
            if not of_row:
                assert row[f"{name}_percent"] == ""
                continue
            values = [100 * report_of(RESULTS / "runs" / run["run"])[name] for run in of_row]
            assert float(row[f"{name}_percent"]) == pytest.approx(mean(values))
            if len(values) > 1:
                assert float(row[f"{name}_percent_sd"]) == pytest.approx(stdev(values))
        for run in of_row:  # the epoch that validated best, and what it had
            log = read(RESULTS / "runs" / run["run"] / "metrics.csv")
            scores = [float(epoch["val_mean_recall"]) for epoch in log]
            assert len(scores) == 12
            assert int(run["chosen_epoch"]) == 1 + int(np.argmax(scores))
            validation = float(run["validation_mean_recall_percent"])
            assert validation == pytest.approx(100 * max(scores))


@pytest.mark.parametrize("table", TABLES)
def test_the_text_of_a_table_has_its_numbers(table):
    lines = (RESULTS / f"{table}.md").read_text().splitlines()
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines if line[:1] == "|"]
    rows = {row["row"]: row for row in read(RESULTS / f"{table}.csv")}
    assert {line[0] for line in cells[2:]} == rows.keys()
    for line in cells[2:]:
        row = rows[line[0]]
        for column, name in ((2, "accuracy"), (4, "mean_recall"), (5, "bacc_formula")):
            if row[f"{name}_percent"]:
                assert line[column].split()[0] == f"{float(row[f'{name}_percent']):.2f}"


def test_nothing_of_the_data_or_of_a_machine_is_published():
    files = [file for file in RESULTS.rglob("*") if file.is_file()]
    assert len(files) > 20
    for file in files:
        if file.suffix == ".png":
            assert file.name.startswith("figure-"), file
            continue
        text = file.read_text(encoding="utf-8")
        assert not re.search(r"ISIC_\d|(?<![\w.])/\w+/", text), file
