"""Tables and captions from runs made by hand, and the paper's figures typed once more."""

import json
import math
import re
from pathlib import Path

import pandas
import pytest
import torchvision

from examples.ham10000.data.index import ATTRIBUTION
from examples.ham10000.paper.caption import caption, notes
from examples.ham10000.paper.rows import FIGURES, TABLES
from examples.ham10000.paper.table import write_table
from tests.ham10000.finished import EPOCHS, SE, begin

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
    assert FIGURES[6].rows == TABLES[3].rows
    assert FIGURES[7].rows == TABLES[5].rows


def test_one_seed_has_the_interval_of_its_test(results, row, tmp_path):
    intervals = {"accuracy": (0.77, 0.81234), "mean_recall": (0.6, 0.7)}
    row(figures=figures_of(0.79158, 0.64011), intervals=intervals, parameters=1_525_063)
    write_table(results("table", 5))
    se, *others = markdown_table(tmp_path / "table-5-lesion.md")
    assert se == {
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
    assert {other["accuracy %, ours"] for other in others} == {"not run"}
    frame = pandas.read_csv(tmp_path / "table-5-lesion.csv").set_index("row")
    found = {
        "accuracy_percent": 79.158,
        "accuracy_percent_sd": math.nan,
        "accuracy_percent_high": 81.234,
        "mean_recall_percent_low": 60,
        "macro_f1_percent": 60.5,
        "parameters": 1_525_063,
    }
    assert frame.loc["SE", [*found]].tolist() == pytest.approx([*found.values()], nan_ok=True)
    assert math.isnan(frame.loc["CBAM", "accuracy_percent"])
    assert frame["seeds"].tolist() == [1, 0, 0, 0, 0, 0]
    text = " ".join(notes(results("table", 5)))
    assert "95 % interval" in text
    assert "±" not in text


def test_several_seeds_have_mean_and_standard_deviation(results, row, tmp_path):
    for seed, values in enumerate(((0.80, 0.60), (0.83, 0.66), (0.81, 0.69))):
        log = [{**EPOCHS[0], "val_mean_recall": 0.6 + 0.1 * seed}]
        row(seed=seed, figures=figures_of(*values), log=log)
    assert "95 % interval" not in " ".join(notes(results("table", 5)))
    row("CaCo", loss="joint", seed=10)
    begin(tmp_path / f"{SE}-lesion-seed3", seed=3)  # not finished
    write_table(results("table", 5))
    se, *_, other = markdown_table(tmp_path / "table-5-lesion.md")
    # By hand: deviations from 0.81333 are -0.01333, 0.01667, -0.00333; squares / 2 sum to 2.3333e-4
    assert se["accuracy %, ours"] == "81.33 ± 1.53"
    assert se["mean recall %, ours"] == "65.00 ± 4.58"
    assert se["validation %, ours"] == "70.00 ± 10.00"
    assert (se["seeds"], other["seeds"]) == ("3", "1")
    found = pandas.read_csv(tmp_path / "table-5-lesion.csv").set_index("row").loc["SE"]
    assert found["mean_recall_percent_sd"] == pytest.approx(math.sqrt(21))
    assert math.isnan(found["accuracy_percent_low"])
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
    ("monitor", "first", "epoch", "recall"),
    [
        ("val_mean_recall", 0.9, 3, 65),
        ("val_accuracy", 0.9, 2, 55),
        ("val_loss", 0.9, 2, 55),
        ("val_loss", math.nan, 2, 55),
    ],
)
def test_the_chosen_epoch_is_that_of_the_checkpoint(monitor, first, epoch, recall, results, row):
    row(monitor=monitor, log=[{**EPOCHS[0], "val_loss": first}, *EPOCHS[1:]])
    (run,) = results("table", 5, monitor=monitor).runs
    assert run.chosen == (epoch, pytest.approx(recall))


def test_runs_of_a_seed_have_the_same_test_images(results, row):
    for run, digest in ((row(), "a"), (row(seed=1), "b"), (row("CaCo"), "a")):
        file = run / "config.json"
        content = json.loads(file.read_text()) | {"images_sha256": {"test": digest}}
        file.write_text(json.dumps(content))
    assert len(results("table", 5).runs) == 3
    file.write_text(file.read_text().replace('{"test": "a"}', '{"test": "c"}'))
    with pytest.raises(ValueError, match=r"were tested with other images .*: one --out for each"):
        results("table", 5)


def test_runs_with_other_options_or_damaged_files_are_an_error(results, row):
    run = row(seed=4, epochs=12)
    with pytest.raises(ValueError, match="seed4 was begun with epochs 12, not 100"):
        results("table", 5)
    (run / "test.json").write_text("[]")
    with pytest.raises(ValueError, match=r"seed4.test.json is damaged"):
        results("table", 5, epochs=12)


def test_the_parameters_that_the_notes_correct(results):
    network = torchvision.models.mobilenet_v3_small(num_classes=1000)
    count = sum(p.numel() for p in network.parameters())
    assert f"{count / 1e6:.3f} M" == "2.543 M"
    assert "the network has 2.543 M." in " ".join(notes(results("table", 5)))


def test_the_caption_of_the_papers_settings(results, row, tmp_path):
    """The runs of the other split in the folder are of another table, other networks expected."""
    paper = {"protocol": "paper", "leak": 0.3727}
    row(figures=figures_of(0.7, 0.5))
    row(figures=figures_of(0.8, 0.6), **paper)
    row("CaCo", loss="joint", **paper)
    assert caption(results("table", 5, protocol="paper")) == [
        "HAM10000 at 600x450, split by image (leak 0.373), test part of 998 images.",
        "All settings that can be read in the paper are as there.",
        "Chosen here, because the paper does not say: --init fitted, --schedule cosine, "
        "--monitor val_mean_recall, --recompute-bn auto. Fitted blocks start as near to the "
        "network's own SE as they get. The joint loss is read as focal loss plus LDAM.",
    ]
    for protocol, accuracy in (("lesion", "70.00"), ("paper", "80.00")):
        write_table(results("table", 5, protocol=protocol))
        se = markdown_table(tmp_path / f"table-5-{protocol}.md")[0]
        assert se["accuracy %, ours"].startswith(accuracy)
    row("none", model="tv/resnet18", protocol="paper")
    assert caption(results("table", 3, protocol="paper"))[1].startswith("All settings")


def test_the_caption_names_every_setting_that_differs(results, row):
    options = {
        "model": "timm/tf_mobilenetv3_small_075",
        "weights": "/some/where/own.safetensors",
        "image_size": 112,
        "epochs": 12,
        "batch_size": 64,
        "lr": 1e-3,
        "weight_decay": 0.01,
        "gate_lr": 0.02,
        "gate_weight_decay": 0.0,
        "warmup": 1.0,
        "clip_grad_norm": 1.0,
        "class_weights": "balanced",
        "schedule": "constant",
    }
    row(**options, pictures="HAM10000 at 200x150", images=9_990)
    found = caption(results("table", 5, **options))
    assert found[0].startswith("HAM10000 at 200x150, split by lesion (leak 0.000)")
    start, end = "Not as in the paper: ", ". So the two are not comparable as equals."
    assert found[1].removeprefix(start).removesuffix(end).split("; ") == [
        "HAM10000 at 200x150 (paper: HAM10000 at 600x450)",
        "images 9,990 (paper: 10,015)",
        "image size 112 (paper: 224)",
        "epochs 12 (paper: 100)",
        "batch size 64 (paper: 128)",
        "learning rate 0.001 (paper: 0.0005)",
        "weight decay 0.01 (paper: 0.05)",
        "network timm/tf_mobilenetv3_small_075 (paper: MobileNetV3-Small)",
        "weights from own.safetensors (paper: those of PyTorch)",
        "split by lesion, leak 0.000 (paper: most likely by image, leak 0.39)",
    ]
    assert found[2] == (
        "Chosen here, because the paper does not say: --schedule constant, --monitor "
        "val_mean_recall, --recompute-bn auto, --class-weights balanced, --warmup 1.0, "
        "--clip-grad-norm 1.0, --gate-lr 0.02, --gate-weight-decay 0.0."
    )
    for file in write_table(results("table", 5, **options))[:2]:
        text = file.read_text()
        assert found[1] in text
        assert "Not a medical device" in text
        assert ATTRIBUTION in text
        assert "/some/where" not in text


def test_pictures_of_two_kinds_are_both_named(results, row):
    row(leak=0.1)
    row("CaCo", pictures="SYNTHETIC pictures at 128x96")
    data, differ, _ = caption(results("table", 5))
    both = "HAM10000 at 600x450 and SYNTHETIC pictures at 128x96"
    split = "split by lesion (leak 0.000 to 0.100), test part of 998 images."
    assert data == f"{both}, {split}"
    assert f"{both} (paper: HAM10000 at 600x450)" in differ
    for file in write_table(results("table", 5))[:2]:
        assert "SYNTHETIC pictures:" in file.read_text()  # the warning of the page
