"""Tables and figures from runs made by hand, and the paper's figures typed once more."""

import json
import math
import re
from itertools import combinations
from pathlib import Path

import pandas
import pytest
import torchvision
from matplotlib.figure import Figure

from examples.ham10000.data.index import ATTRIBUTION
from examples.ham10000.reproduce import figures
from examples.ham10000.reproduce.caption import caption, notes
from examples.ham10000.reproduce.figures import write_figure
from examples.ham10000.reproduce.numbers import write_numbers
from examples.ham10000.reproduce.results import Results, collect
from examples.ham10000.reproduce.rows import FIGURES, TABLES
from examples.ham10000.reproduce.table import write_table
from tests.ham10000.finished import EPOCHS, begin, finish

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

SE = "mobilenet_v3_small-pretrained-SE-cross-entropy"
CACO = {"attention": "CaCo", "init": "fitted"}


@pytest.fixture
def results(tmp_path):
    """What is finished in ``tmp_path``."""

    def read(kind: str, number: int, failures: dict[str, str] | None = None, **options) -> Results:
        wanted = (TABLES if kind == "table" else FIGURES)[number]
        return collect(wanted, tmp_path, Path("/data"), options, failures or {})

    return read


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


def test_the_parameters_that_the_notes_correct(results):
    network = torchvision.models.mobilenet_v3_small(num_classes=1000)
    count = sum(p.numel() for p in network.parameters())
    assert f"{count / 1e6:.3f} M" == "2.543 M"
    assert "the network has 2.543 M." in " ".join(notes(results("table", 5)))


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


def test_the_caption_of_the_papers_settings(results, tmp_path):
    finish(tmp_path / f"{SE}-paper-seed0", protocol="paper", leak=0.3727)
    finish(
        tmp_path / "mobilenet_v3_small-pretrained-CaCo-fitted-joint-paper-seed0",
        **CACO,
        protocol="paper",
        loss="joint",
        leak=0.3727,
    )
    assert caption(results("table", 5, protocol="paper")) == [
        "HAM10000 at 600x450, split by image (leak 0.37), test part of 998 images.",
        "All settings that can be read in the paper are as there.",
        "Chosen here, because the paper does not say: --init fitted, --schedule cosine, "
        "--monitor val_mean_recall, --recompute-bn auto. Fitted blocks start as near to the "
        "network's own SE as they get. The joint loss is read as focal loss plus LDAM.",
    ]


def test_the_caption_names_every_setting_that_differs(results, tmp_path):
    options = {
        "model": "timm/tf_mobilenetv3_small_075",
        "weights": "/some/where/own.safetensors",
        "image_size": 112,
        "epochs": 12,
        "batch_size": 64,
        "lr": 1e-3,
        "weight_decay": 0.01,
        "clip_grad_norm": 1.0,
        "class_weights": "balanced",
        "schedule": "constant",
    }
    finish(
        tmp_path / "tf_mobilenetv3_small_075-pretrained-SE-cross-entropy-lesion-seed0",
        **options,
        pictures="HAM10000 at 200x150",
        images=9_990,
    )
    found = caption(results("table", 5, **options))
    assert found[0].startswith("HAM10000 at 200x150, split by lesion (leak 0.00)")
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
        "split by lesion, leak 0.00 (paper: most likely by image, leak 0.37)",
    ]
    assert found[2] == (
        "Chosen here, because the paper does not say: --schedule constant, --monitor "
        "val_mean_recall, --recompute-bn auto, --class-weights balanced, --clip-grad-norm 1.0."
    )
    for file in write_table(results("table", 5, **options)):
        text = file.read_text()
        assert found[1] in text
        assert "Not a medical device" in text
        assert ATTRIBUTION in text
        assert "/some/where" not in text


def test_networks_of_other_rows_are_no_difference(results, tmp_path):
    finish(
        tmp_path / "resnet18-pretrained-none-cross-entropy-paper-seed0",
        model="tv/resnet18",
        attention="none",
        protocol="paper",
    )
    assert caption(results("table", 3, protocol="paper"))[1].startswith("All settings")


def test_pictures_of_two_kinds_are_both_named(results, tmp_path):
    finish(tmp_path / f"{SE}-lesion-seed0", leak=0.1)
    finish(
        tmp_path / "mobilenet_v3_small-pretrained-CaCo-fitted-cross-entropy-lesion-seed0",
        **CACO,
        pictures="SYNTHETIC pictures at 128x96",
    )
    found = results("table", 5)
    both = "HAM10000 at 600x450 and SYNTHETIC pictures at 128x96"
    assert (
        caption(found)[0]
        == f"{both}, split by lesion (leak 0.00 to 0.10), test part of 998 images."
    )
    assert f"{both} (paper: HAM10000 at 600x450)" in caption(found)[1]
    for file in write_table(found):
        assert "SYNTHETIC pictures:" in file.read_text()  # the warning of the page


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


@pytest.fixture
def drawn(monkeypatch) -> list[Figure]:
    """The figures that are written."""
    kept: list[Figure] = []
    monkeypatch.setattr(figures, "save_picture", lambda figure, file: kept.append(figure))
    return kept


def test_figure_6_has_the_curves_of_the_logs(results, tmp_path, drawn):
    logs = {}
    for name, attention in (("resnet18", "none"), ("mobilenet_v3_small", "SE")):
        logs[name] = [{**row, "train_loss": row["train_loss"] + len(logs)} for row in EPOCHS]
        run = tmp_path / f"{name}-pretrained-{attention}-cross-entropy-lesion-seed0"
        finish(run, model=f"tv/{name}", attention=attention, log=logs[name])
    finish(tmp_path / f"{SE}-lesion-seed1", seed=1, log=[EPOCHS[0]])
    write_figure(results("figure", 6))
    assert "seed 0." in (tmp_path / "figure-6-lesion.html").read_text()
    loss, accuracy = drawn[0].axes
    for axes, name in ((loss, "train_loss"), (accuracy, "val_accuracy")):
        lines = {line.get_label(): list(line.get_ydata()) for line in axes.lines}
        assert lines == {
            "ResNet18": [row[name] for row in logs["resnet18"]],
            "ShuffleNetV2: not run": [],
            "GhostNetV2: not run": [],
            "EfficientNetB0: not run": [],
            "MobileNetV3": [row[name] for row in logs["mobilenet_v3_small"]],
        }
        assert list(axes.lines[0].get_xdata()) == [1, 2, 3, 4]
    assert "not comparable as equals" in drawn[0].get_supxlabel().replace("\n", " ")


def test_figure_7_has_the_matrices_of_the_rows(results, tmp_path, drawn):
    start = "mobilenet_v3_small-pretrained"
    finish(tmp_path / f"{SE}-lesion-seed0", hit=0.9, pictures="SYNTHETIC pictures at 9x9")
    finish(tmp_path / f"{start}-CaCo-fitted-joint-lesion-seed0", **CACO, loss="joint", hit=0.6)
    write_figure(results("figure", 7))
    assert "SYNTHETIC" in drawn[0].get_suptitle()
    first, *others, last = drawn[0].axes
    assert [axes.texts[0].get_text() for axes in others] == [
        f"{name}: not run" for name in ("CBAM", "SeCo", "Eca", "CaCo")
    ]
    for axes, hit, name in ((first, "0.90", "SE"), (last, "0.60", "CaCo + joint loss")):
        assert axes.get_title() == f"{name}\naccuracy 50.00 %, mean recall 50.00 %"
        assert [axes.texts[8 * i].get_text() for i in range(7)] == [hit] * 7


def test_nothing_in_figure_7_overlaps(results, tmp_path, drawn):
    finish(tmp_path / f"{SE}-lesion-seed0")
    for attention in ("CBAM", "SeCo", "Eca", "CaCo"):
        run = (
            tmp_path
            / f"mobilenet_v3_small-pretrained-{attention}-fitted-cross-entropy-lesion-seed0"
        )
        finish(run, attention=attention, init="fitted")
    run = tmp_path / "mobilenet_v3_small-pretrained-CaCo-fitted-joint-lesion-seed0"
    finish(run, **CACO, loss="joint")
    write_figure(results("figure", 7))
    (figure,) = drawn
    figure.draw_without_rendering()
    boxes = [axes.get_tightbbox() for axes in figure.axes]
    boxes += [text.get_window_extent() for text in figure.texts]  # title and caption
    assert len(boxes) == 8
    assert not any(one.overlaps(other) for one, other in combinations(boxes, 2))
    assert all(figure.bbox.containsx(x) for box in boxes for x in (box.x0, box.x1))
    assert all(figure.bbox.containsy(y) for box in boxes for y in (box.y0, box.y1))


def test_figures_are_written_as_picture_and_page(results, tmp_path):
    finish(tmp_path / f"{SE}-lesion-seed0")
    picture, page = write_figure(results("figure", 7, {"Eca": "no <weights>"}))
    assert picture.read_bytes().startswith(b"\x89PNG")
    text = page.read_text()
    assert "data:image/svg+xml;base64," in text
    assert "Eca: no &lt;weights&gt;" in text
    assert caption(results("figure", 7))[0] in text
