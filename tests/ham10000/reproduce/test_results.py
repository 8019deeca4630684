"""Tables from runs made by hand, and the paper's figures typed once more."""

import json
import math
import re
from pathlib import Path

import pandas
import pytest

from examples.ham10000.paper.caption import notes
from examples.ham10000.paper.rows import FIGURES, TABLES
from examples.ham10000.paper.table import write_numbers, write_table
from tests.ham10000.finished import CACO, EPOCHS, SE, begin, finish

PAPER = {
    2: """ResNet18, without 89.88 80.67 11.18 | ResNet18, with 91.48 84.23 11.18
        | MobileNetV3, without 87.17 73.71 2.18 | MobileNetV3, with 90.88 83.44 2.18""",
    3: """ResNet18 91.48 84.23 11.18 | ShuffleNetV2 91.38 84.25 5.36 | GhostNetV2 88.88 78.63 6.16
        | EfficientNetB0 91.29 83.42 5.29 | MobileNetV3 90.88 83.44 2.18""",
    4: """MobileNetV3, cross entropy 90.88 83.44 2.18 | CaCo, cross entropy 91.78 85.70 2.29
        | CaCo, focal loss 91.98 85.74 2.29 | CaCo, LDAM 91.78 86.31 2.29
        | CaCo, joint loss 93.39 86.35 2.29""",
    5: """SE 90.88 83.44 2.18 | CBAM 91.48 85.72 2.20 | SeCo 89.68 78.70 2.64 | Eca 90.98 82.64 2.08
        | CaCo 91.78 85.70 2.29 | CaCo + joint loss 93.39 86.35 2.29""",
}
"""Name, accuracy, BACC and parameters of every row, as the paper prints them."""


def figures_of(accuracy: float, recall: float) -> dict[str, float]:
    return {"accuracy": accuracy, "mean_recall": recall, "bacc_formula": 0.81, "macro_f1": 0.605}


def markdown_table(file: Path) -> list[dict[str, str]]:
    """The rows of the one table in a Markdown file, by column."""
    lines = [line for line in file.read_text().splitlines() if line.startswith("|")]
    assert len({len(line) for line in lines}) == 1  # columns stand below each other
    header, rule, *rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines]
    assert all(re.fullmatch("-+:?", cell) for cell in rule)
    return [dict(zip(header, row, strict=True)) for row in rows]


@pytest.mark.parametrize("number", PAPER)
def test_the_papers_figures(number, results, tmp_path):
    expected = [row.strip().rsplit(" ", 3) for row in PAPER[number].split("|")]
    write_table(results("table", number))
    write_numbers(results("table", number))
    columns = ("row", "accuracy %, paper", "BACC %, paper", "parameters M, paper")
    rows = markdown_table(tmp_path / f"table-{number}-lesion.md")
    assert [[row[column] for column in columns] for row in rows] == expected
    frame = pandas.read_csv(tmp_path / f"table-{number}-lesion.csv")
    names = ["accuracy_percent_paper", "bacc_percent_paper", "parameters_million_paper"]
    assert frame[["row", *names]].values.tolist() == [
        [name, *map(float, values)] for name, *values in expected
    ]
    page = (tmp_path / f"table-{number}-lesion.html").read_text()
    assert all(f">{value}<" in page for row in expected for value in row)


def test_the_figures_show_the_rows_of_the_tables():
    assert FIGURES[6].rows == TABLES[3].rows
    assert FIGURES[7].rows == TABLES[5].rows


def test_one_seed_has_the_interval_of_its_test(results, tmp_path):
    intervals = {"accuracy": (0.77, 0.81234), "mean_recall": (0.6, 0.7)}
    finish(
        tmp_path / f"{SE}-lesion-seed0",
        figures=figures_of(0.79158, 0.64011),
        intervals=intervals,
        parameters=1_525_063,
    )
    write_table(results("table", 5))
    write_numbers(results("table", 5))
    row, *others = markdown_table(tmp_path / "table-5-lesion.md")
    assert row == {
        "row": "SE",
        "accuracy %, paper": "90.88",
        "accuracy %, ours": "79.16 [77.00, 81.23]",
        "BACC %, paper": "83.44",
        "mean recall %, ours": "64.01 [60.00, 70.00]",
        "bacc_formula %, ours": "81.00 [40.00, 60.00]",
        "macro F1 %, ours": "60.50 [40.00, 60.00]",
        "parameters M, paper": "2.18",
        "parameters M, ours": "1.525",
        "validation %, ours": "65.00",
        "seeds": "1",
    }
    assert {row["accuracy %, ours"] for row in others} == {"not run"}
    frame = pandas.read_csv(tmp_path / "table-5-lesion.csv").set_index("row")
    assert frame.loc["SE", "accuracy_percent"] == pytest.approx(79.158)
    assert frame.loc["SE", "accuracy_percent_high"] == pytest.approx(81.234)
    assert frame.loc["SE", "mean_recall_percent_low"] == pytest.approx(60)
    assert frame.loc["SE", "macro_f1_percent"] == pytest.approx(60.5)
    assert frame.loc["SE", "parameters"] == 1_525_063
    assert math.isnan(frame.loc["SE", "accuracy_percent_sd"])
    assert math.isnan(frame.loc["CBAM", "accuracy_percent"])
    assert frame["seeds"].tolist() == [1, 0, 0, 0, 0, 0]
    text = " ".join(notes(results("table", 5)))
    assert "95 % interval" in text
    assert "±" not in text


def test_several_seeds_have_mean_and_standard_deviation(results, tmp_path):
    accuracies, recalls = [0.80, 0.83, 0.81], [0.60, 0.66, 0.69]
    for seed, values in enumerate(zip(accuracies, recalls, strict=True)):
        log = [{**EPOCHS[0], "val_mean_recall": 0.6 + 0.1 * seed}]
        run = tmp_path / f"{SE}-lesion-seed{seed}"
        finish(run, seed=seed, figures=figures_of(*values), log=log)
    assert "95 % interval" not in " ".join(notes(results("table", 5)))
    joint = tmp_path / "mobilenet_v3_small-pretrained-CaCo-fitted-joint-lesion-seed10"
    finish(joint, **CACO, loss="joint", seed=10)
    begin(tmp_path / f"{SE}-lesion-seed3", seed=3)  # not finished
    write_table(results("table", 5))
    write_numbers(results("table", 5))
    row, *_, other = markdown_table(tmp_path / "table-5-lesion.md")
    # By hand: deviations from 0.81333 are -0.01333, 0.01667, -0.00333; squares / 2 sum to 2.3333e-4
    assert row["accuracy %, ours"] == "81.33 ± 1.53"
    assert row["mean recall %, ours"] == "65.00 ± 4.58"
    assert row["validation %, ours"] == "70.00 ± 10.00"
    assert (row["seeds"], other["seeds"]) == ("3", "1")
    frame = pandas.read_csv(tmp_path / "table-5-lesion.csv").set_index("row")
    assert frame.loc["SE", "mean_recall_percent_sd"] == pytest.approx(math.sqrt(21))
    assert frame.loc["SE", "validation_mean_recall_percent_sd"] == pytest.approx(10)
    assert math.isnan(frame.loc["SE", "accuracy_percent_low"])
    runs = pandas.read_csv(tmp_path / "table-5-lesion-runs.csv")
    assert runs["row"].tolist() == ["SE"] * 3 + ["CaCo + joint loss"]
    assert runs["seed"].tolist() == [0, 1, 2, 10]
    assert runs["run"][2] == f"{SE}-lesion-seed2"
    assert runs["accuracy_percent"].tolist() == pytest.approx([80, 83, 81, 50])
    assert runs["accuracy_percent_low"].tolist() == pytest.approx([40] * 4)
    assert runs["validation_mean_recall_percent"].tolist() == pytest.approx([60, 70, 80, 65])
    text = " ".join(notes(results("table", 5)))
    assert "±, where a row has several seeds" in text
    assert "95 % interval" in text


@pytest.mark.parametrize(
    ("monitor", "epoch", "recall"),
    [("val_mean_recall", 3, 65), ("val_accuracy", 2, 55), ("val_loss", 2, 55)],
)
def test_the_chosen_epoch_is_that_of_the_checkpoint(monitor, epoch, recall, results, tmp_path):
    finish(tmp_path / f"{SE}-lesion-seed0", monitor=monitor)
    (run,) = results("table", 5, monitor=monitor).runs
    assert (run.epoch, run.validation) == (epoch, pytest.approx(recall))


def test_an_epoch_without_a_figure_is_not_chosen(results, tmp_path):
    log = [{**EPOCHS[0], "val_loss": float("nan")}, *EPOCHS[1:]]
    finish(tmp_path / f"{SE}-lesion-seed0", monitor="val_loss", log=log)
    (run,) = results("table", 5, monitor="val_loss").runs
    assert run.epoch == 2


def test_runs_of_a_seed_have_the_same_test_images(results, tmp_path):
    caco = tmp_path / "mobilenet_v3_small-pretrained-CaCo-fitted-cross-entropy-lesion-seed0"
    runs = [(tmp_path / f"{SE}-lesion-seed{seed}", {"seed": seed}) for seed in (0, 1)]
    for (run, options), digest in zip([*runs, (caco, CACO)], "aba", strict=True):
        finish(run, **options)
        file = run / "config.json"
        content = json.loads(file.read_text()) | {"images_sha256": {"test": digest}}
        file.write_text(json.dumps(content))
    assert len(results("table", 5).runs) == 3
    file.write_text(file.read_text().replace('{"test": "a"}', '{"test": "c"}'))
    with pytest.raises(ValueError, match=r"were tested with other images .*: one --out for each"):
        results("table", 5)


def test_both_splits_share_a_folder(results, tmp_path):
    finish(tmp_path / f"{SE}-lesion-seed0", figures=figures_of(0.7, 0.5))
    finish(tmp_path / f"{SE}-paper-seed0", protocol="paper", figures=figures_of(0.8, 0.6))
    for protocol, accuracy in (("lesion", "70.00"), ("paper", "80.00")):
        write_table(results("table", 5, protocol=protocol))
        row = markdown_table(tmp_path / f"table-5-{protocol}.md")[0]
        assert row["accuracy %, ours"].startswith(accuracy)


def test_runs_with_other_options_or_damaged_files_are_an_error(results, tmp_path):
    run = tmp_path / f"{SE}-lesion-seed4"
    finish(run, seed=4, epochs=12)
    with pytest.raises(ValueError, match="seed4 was begun with epochs 12, not 100"):
        results("table", 5)
    for text in ("{", "[]", '{"data": 3}'):
        (run / "test.json").write_text(text)
        with pytest.raises(ValueError, match=r"the results of .*seed4 are damaged"):
            results("table", 5, epochs=12)
