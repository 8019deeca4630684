"""Runs side by side: against scikit-learn, scipy, and a bootstrap that draws lesion by lesion."""

import csv
import io
import json
import re
import shutil
from collections import defaultdict
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.stats import binomtest
from sklearn.metrics import accuracy_score, balanced_accuracy_score, f1_score

from examples.ham10000.cli import main
from examples.ham10000.comparison.compare import compare, run_names
from examples.ham10000.comparison.mcnemar import holm, mcnemar
from examples.ham10000.comparison.picture import forest
from examples.ham10000.comparison.tested import read_runs
from examples.ham10000.config import NOTICE, options_for_json
from examples.ham10000.configure import train_config
from examples.ham10000.data.index import CLASSES
from examples.ham10000.data.layouts import ISIC_CLASSES
from examples.ham10000.evaluation.metrics import HEADLINES, summarise
from examples.ham10000.options import parse

OPTIONS = train_config(vars(parse(["train", "--data", "x"])))


def some_truth(generator):
    """Image, lesion, class: one to four images of a lesion, more lesions in higher classes."""
    keys = [
        (f"{label}-{lesion}", label)
        for label in range(7)
        for lesion in range(10 + 2 * label)
        for _ in range(generator.integers(1, 5))
    ]
    order = generator.permutation(len(keys))
    return [(f"ISIC_{number:04}", *keys[key]) for number, key in enumerate(order)]


def guesses(generator, truth, accuracy):
    """Classes that are right with some probability, for all images of a lesion alike."""
    right = {lesion: generator.random() < accuracy for _, lesion, _ in truth}
    return [label if right[lesion] else int(generator.choice(7)) for _, lesion, label in truth]


def some_changed(generator, guessed, truth, share, accuracy):
    """The same classes, drawn anew for a share of the images."""
    fresh = guesses(generator, truth, accuracy)
    return [f if generator.random() < share else g for g, f in zip(guessed, fresh, strict=True)]


def write_run(folder, truth, guessed, *, data="HAM10000 at 600x450", digest="f00", **options):
    """A finished run with such predictions."""
    folder.mkdir(parents=True)
    generator = np.random.default_rng(1)
    probabilities = generator.dirichlet(np.ones(7), len(truth)) * 0.4
    probabilities[np.arange(len(truth)), guessed] += 0.6
    description = {
        "options": options_for_json(replace(OPTIONS, **options)),
        "images_sha256": {"train": "a", "val": "b", "test": digest},
        "leak": 0.0,
        "parameters": 1234567,
    }
    (folder / "config.json").write_text(json.dumps(description))
    with (folder / "split.csv").open("w") as file:
        writer = csv.writer(file)
        writer.writerow(("image_id", "lesion_id", "dx", "split"))
        writer.writerow(("ISIC_9999", "other", "nv", "train"))
        writer.writerows((i, lesion, CLASSES[label], "test") for i, lesion, label in truth)
    order = [CLASSES.index(name.lower()) for name in ISIC_CLASSES]
    with (folder / "test.csv").open("w") as file:
        writer = csv.writer(file)
        writer.writerow(("image", *ISIC_CLASSES))
        rows = zip(truth, probabilities[:, order].tolist(), strict=True)
        writer.writerows((image, *row) for (image, _, _), row in rows)
    summary = summarise(
        torch.from_numpy(probabilities),
        torch.tensor([label for _, _, label in truth]),
        [lesion for _, lesion, _ in truth],
    )
    (folder / "test.json").write_text(json.dumps({"data": data, **summary}))
    return folder


@pytest.fixture(scope="module")
def case(tmp_path_factory):
    """Truth, predictions and folders of three runs: a first, one like it, and a better one."""
    generator = np.random.default_rng(0)
    truth = some_truth(generator)
    first = guesses(generator, truth, 0.6)
    alike = some_changed(generator, first, truth, 0.3, 0.6)
    better = some_changed(generator, first, truth, 0.5, 1)
    root = tmp_path_factory.mktemp("compare")
    options = {"first": {}, "alike": {"attention": "SE", "init": None}, "better": {"loss": "focal"}}
    guessed = {"first": first, "alike": alike, "better": better}
    folders = {n: write_run(root / n, truth, guessed[n], **options[n]) for n in guessed}
    return truth, guessed, folders


@pytest.fixture
def pair(case, tmp_path):
    """Two runs that a test may damage."""
    return [shutil.copytree(case[2][name], tmp_path / name) for name in ("first", "alike")]


def hand_figures(labels, guessed):
    """The headline figures, computed without confusion counts."""
    labels, guessed = np.array(labels), np.array(guessed)
    rates = []
    for c in range(7):
        rates += [(guessed[labels == c] == c).mean(), (guessed[labels != c] != c).mean()]
    return {
        "accuracy": accuracy_score(labels, guessed),
        "mean_recall": balanced_accuracy_score(labels, guessed),
        "bacc_formula": np.mean(rates),
        "macro_f1": f1_score(labels, guessed, average="macro", zero_division=0),
    }


def hand_bootstrap(truth, first, other, resamples, *, paired=True):
    """Differences of accuracy and mean recall, with every drawn lesion's images laid out."""
    images_of, lesions_of = defaultdict(list), defaultdict(set)
    for position, (_, lesion, label) in enumerate(truth):
        images_of[lesion].append(position)
        lesions_of[label].add(lesion)
    generator = np.random.default_rng(123)
    right = [
        np.array([g == t[2] for g, t in zip(guessed, truth, strict=True)], float)
        for guessed in (first, other)
    ]

    def draw():
        drawn = []
        for label in range(7):
            lesions = sorted(lesions_of[label])
            chosen = generator.choice(lesions, len(lesions))
            drawn.append([i for lesion in chosen for i in images_of[lesion]])
        return drawn

    values = {"accuracy": [], "mean_recall": []}
    for _ in range(resamples):
        drawn = draw()
        parts = (drawn, drawn if paired else draw())
        by_class = [[r[i] for i in part] for r, part in zip(right, parts, strict=True)]
        accuracy = [np.concatenate(hits).mean() for hits in by_class]
        recall = [np.mean([hits.mean() for hits in run]) for run in by_class]
        values["accuracy"].append(accuracy[1] - accuracy[0])
        values["mean_recall"].append(recall[1] - recall[0])
    return values


@pytest.mark.parametrize("only_first", [0, 1, 2, 5, 12, 300])
@pytest.mark.parametrize("only_other", [0, 1, 3, 5, 30, 350])
def test_mcnemar_is_the_binomial_test_of_scipy(only_first, only_other):
    number = only_first + only_other
    expected = binomtest(only_first, number).pvalue if number else 1
    assert mcnemar(only_first, only_other) == pytest.approx(expected, rel=1e-9)


def test_mcnemar_of_a_published_example():
    """Two media for tuberculosis bacilli: Armitage and Berry 1994, page 127."""
    assert round(mcnemar(12, 2), 4) == 0.0129


def test_holm_rejects_what_its_procedure_does():
    p_values = [0.03, 0.011, 0.8, 0.0124, 0.02]
    adjusted = holm(p_values)
    for alpha in np.linspace(0.001, 0.999, 333):
        rejected = set()
        for rank, p in enumerate(sorted(p_values)):
            if p > alpha / (len(p_values) - rank):
                break
            rejected.add(p)
        assert {p for p, a in zip(p_values, adjusted, strict=True) if a <= alpha} == rejected
    assert holm([0.9, 0.8]) == [1, 1]


def test_differences_are_those_of_the_figures(case):
    truth, guessed, folders = case
    result = compare(list(folders.values()))
    labels = [label for _, _, label in truth]
    expected = {name: hand_figures(labels, of_run) for name, of_run in guessed.items()}
    assert [run["name"] for run in result["runs"]] == ["first", "alike", "better"]
    for run in result["runs"]:
        assert {n: run[n] for n in HEADLINES} == pytest.approx(expected[run["name"]])
    for pair, name in zip(result["comparisons"], ("alike", "better"), strict=True):
        for figure, row in pair["differences"].items():
            difference = expected[name][figure] - expected["first"][figure]
            assert row["difference"] == pytest.approx(difference)
            assert row["interval"][0] < row["difference"] < row["interval"][1]


def test_right_and_wrong_are_counted(case):
    truth, guessed, folders = case
    result = compare(list(folders.values()))
    p_values = []
    for pair, name in zip(result["comparisons"], ("alike", "better"), strict=True):
        rows = list(zip(truth, guessed["first"], guessed[name], strict=True))
        only_first = sum(a == t[2] != b for t, a, b in rows)
        only_other = sum(b == t[2] != a for t, a, b in rows)
        p_values.append(binomtest(only_first, only_first + only_other).pvalue)
        test = pair["mcnemar"]
        assert (test["only_first_right"], test["only_other_right"]) == (only_first, only_other)
        assert test["p"] == pytest.approx(p_values[-1])
        assert pair["same_prediction"] == sum(a == b for _, a, b in rows)
    adjusted = [pair["mcnemar"]["p_holm"] for pair in result["comparisons"]]
    assert adjusted == pytest.approx([p_values[0], 2 * p_values[1]], abs=0)  # 1e-12 hides much


@pytest.mark.parametrize("names", [("alike",), ("alike", "better")])
def test_intervals_are_those_of_lesions_drawn_one_by_one(case, names):
    """Within Monte Carlo error; two comparisons share the 5 % that may fail."""
    truth, guessed, folders = case
    result = compare([folders["first"], *(folders[name] for name in names)])
    assert result["bootstrap"]["level"] == pytest.approx(1 - 0.05 / len(names))
    tail = 2.5 / len(names)
    for pair, name in zip(result["comparisons"], names, strict=True):
        drawn = hand_bootstrap(truth, guessed["first"], guessed[name], 4000)
        for figure, values in drawn.items():
            low, high = np.percentile(values, [tail, 100 - tail])
            found = pair["differences"][figure]["interval"]
            assert found == pytest.approx([low, high], abs=0.06 * (high - low))


def test_pairing_pays_where_runs_err_alike(case):
    truth, guessed, folders = case
    differences = compare([folders["first"], folders["alike"]])["comparisons"][0]["differences"]
    unpaired = hand_bootstrap(truth, guessed["first"], guessed["alike"], 1000, paired=False)
    for figure, values in unpaired.items():
        low, high = np.percentile(values, [2.5, 97.5])
        found = differences[figure]["interval"]
        assert found[1] - found[0] < 0.8 * (high - low)


def test_the_same_predictions_are_not_told_apart(case, tmp_path):
    """Nor does one resample differ: the same lesions were drawn for both."""
    truth, guessed, folders = case
    twin = write_run(tmp_path / "twin", truth, guessed["first"], seed=1)
    pair = compare([folders["first"], twin])["comparisons"][0]
    for row in pair["differences"].values():
        assert (row["difference"], row["interval"], row["told_apart"]) == (0, [0, 0], False)
    assert pair["mcnemar"] == {"only_first_right": 0, "only_other_right": 0, "p": 1, "p_holm": 1}
    assert "same class for every test image" in pair["verdict"]


def test_a_better_run_is_told_apart_in_either_order(case):
    folders = case[2]
    up, down = (
        compare([folders[name] for name in names])["comparisons"][0]
        for names in (("first", "better"), ("better", "first"))
    )
    assert up["verdict"].startswith("The test images tell them apart: run 2 is higher in accuracy")
    assert down["verdict"].startswith("The test images tell them apart: run 2 is lower in accuracy")
    row = up["differences"]["accuracy"]
    low, high = row["interval"]
    assert f"by {row['difference']:.3f} [{low:.3f}, {high:.3f}]" in up["verdict"]
    assert f"by {row['difference']:.3f} [{low:.3f}, {high:.3f}]" in down["verdict"]
    assert up["mcnemar"]["p"] < 0.001
    for name in HEADLINES:
        (low, high), back = (p["differences"][name]["interval"] for p in (up, down))
        assert back == pytest.approx([-high, -low], abs=1e-12)


def test_what_cannot_be_told_apart_is_said_so(case):
    folders = case[2]
    pair = compare([folders["first"], folders["alike"]])["comparisons"][0]
    row = pair["differences"]["mean_recall"]
    low, high = row["interval"]
    assert pair["verdict"].startswith("The test images cannot tell them apart")
    expected = f"from {low:+.3f} to {high:+.3f} in mean recall (here {row['difference']:+.3f})"
    assert expected in pair["verdict"]


def test_a_run_may_be_told_apart_in_one_figure_only(tmp_path):
    """All of the rarest class right instead of wrong: mean recall notices, accuracy hardly."""
    generator = np.random.default_rng(5)
    truth = [(f"n{i}", f"l{i}", 5) for i in range(3000)]
    truth += [(f"{c}-{i}", f"{c}-{i}", c) for c in (0, 1, 2, 3, 4, 6) for i in range(12)]
    common = [5 if generator.random() < 0.8 else 1 for _ in range(3000)]
    other = [5 if generator.random() < 0.8 else 1 for _ in range(3000)]
    first = common + [5 if label == 0 else label for _, _, label in truth[3000:]]
    second = other + [label for _, _, label in truth[3000:]]
    runs = [write_run(tmp_path / n, truth, g) for n, g in (("a", first), ("b", second))]
    verdict = compare(runs)["comparisons"][0]["verdict"]
    assert "run 2 is higher in mean recall by 0.14" in verdict
    assert "In the rest they cannot: the difference may be anything from -0.0" in verdict


def test_the_order_of_rows_makes_no_difference(case, pair):
    before = compare(pair)
    for name in ("test.csv", "split.csv"):
        header, *rows = (pair[1] / name).read_text().splitlines()
        (pair[1] / name).write_text("\n".join([header, *rows[::-1]]))
    assert compare(pair) == before


def test_options_that_differ_are_listed(case):
    folders = case[2]
    options = compare(list(folders.values()))["options_that_differ"]
    assert options == {
        "attention": ["CaCo", "SE", "CaCo"],
        "init": ["fresh", None, "fresh"],
        "loss": ["cross-entropy", "cross-entropy", "focal"],
    }


def test_names_are_as_long_as_they_must_be(tmp_path):
    assert run_names([tmp_path / "a" / "x", tmp_path / "b" / "y"]) == ["x", "y"]
    same = [tmp_path / "a" / "x", tmp_path / "b" / "x", tmp_path / "a" / "y"]
    assert run_names(same) == ["a/x", "b/x", "a/y"]


def test_printed_and_written(case, tmp_path, capsys):
    folders = [str(folder) for folder in case[2].values()]
    out = tmp_path / "out"
    assert main(["compare", *folders, "--out", str(out)]) == 0
    printed = capsys.readouterr().out
    result = json.loads((out / "comparison.json").read_text())
    assert result == compare([Path(folder) for folder in folders])
    assert result["notice"] == NOTICE
    written = sorted(path.name for path in out.iterdir())
    assert written == ["comparison.html", "comparison.json", "comparison.png"]
    page = (out / "comparison.html").read_text()
    flat, page_flat = " ".join(printed.split()), " ".join(page.replace("&#39;", "'").split())
    for pair in result["comparisons"]:
        for text in (flat, page_flat):
            assert pair["verdict"] in text
            row = pair["differences"]["macro_f1"]
            assert "[{:+.3f}, {:+.3f}]".format(*row["interval"]) in text
    for text in (flat, page_flat):
        assert all(note in text for note in result["notes"])
        assert NOTICE in text
        assert "97.5 %" in text
        assert "all 2 comparisons together" in text
        assert "after Holm" in text
        assert "SYNTHETIC" not in text
    assert page.count("<img") == page.count('src="data:image/svg+xml;base64,') == 1
    assert "http" not in page
    with Image.open(out / "comparison.png") as picture:
        assert np.asarray(picture.convert("L")).std() > 10
    assert main(["compare", *folders, "--out", str(out)]) == 2
    assert "exists: name a new folder" in capsys.readouterr().err
    assert main(["compare", *folders]) == 0
    assert capsys.readouterr().out == printed


def test_the_picture_shows_every_difference(case):
    result = compare(list(case[2].values()))
    for run in result["runs"]:
        run["name"] += "$x{$"  # which pictures would take for a formula
    picture = forest(result)
    picture.savefig(io.BytesIO())
    (axes,) = picture.axes
    lines = [line.get_xdata() for line in axes.lines]
    texts = [text.get_text() for text in axes.texts]
    for pair in result["comparisons"]:
        assert any(text.startswith(f"run {pair['run']}: ") for text in texts)
        for row in pair["differences"].values():
            assert any(np.array_equal(line, row["interval"]) for line in lines)
            assert any(np.array_equal(line, [row["difference"]]) for line in lines)


def test_synthetic_runs_say_so_everywhere(case, tmp_path, capsys):
    truth = [(f"SYNTHETIC_{image}", *rest) for image, *rest in case[0]]
    runs = [
        write_run(tmp_path / n, truth, case[1][n], data="SYNTHETIC pictures at 64x48")
        for n in ("first", "alike")
    ]
    assert main(["compare", *map(str, runs), "--out", str(tmp_path / "out")]) == 0
    assert "SYNTHETIC pictures at 64x48" in capsys.readouterr().out
    result = json.loads((tmp_path / "out" / "comparison.json").read_text())
    assert result["data"].startswith("SYNTHETIC")
    page = (tmp_path / "out" / "comparison.html").read_text()
    assert "SYNTHETIC pictures: every figure on this page" in page
    assert "SYNTHETIC" in forest(result).get_suptitle()
    real = write_run(tmp_path / "real", case[0], case[1]["first"])
    with pytest.raises(ValueError, match=r"first and .*real cannot be compared: they are of SYNTH"):
        read_runs([runs[0], real])


def test_other_test_images(case, pair, tmp_path):
    truth, guessed, _ = case
    renamed = [(f"other_{i}" if n < 12 else i, *rest) for n, (i, *rest) in enumerate(truth)]
    other = write_run(tmp_path / "other", renamed, guessed["first"], seed=3)
    number = len(truth)
    message = (
        rf"first and .*other have other test images: 12 of {number} are only in the first \(lesion "
        rf"split, seed 0\), 12 of {number} only in the second \(lesion split, seed 3\)"
    )
    with pytest.raises(ValueError, match=message):
        read_runs([pair[0], other])
    split = [(i, f"x{lesion}" if n < 3 else lesion, c) for n, (i, lesion, c) in enumerate(truth)]
    other = write_run(tmp_path / "lesions", split, guessed["first"])
    with pytest.raises(ValueError, match=rf"another lesion or diagnosis for 3 of {number} test"):
        read_runs([pair[0], other])
    other = write_run(tmp_path / "files", truth, guessed["first"], digest="bad")
    with pytest.raises(ValueError, match="files were tested on other files of the same images"):
        read_runs([pair[0], other])


def test_runs_that_cannot_be_a_pair(pair, tmp_path, capsys):
    with pytest.raises(ValueError, match="at least two runs"):
        read_runs(pair[:1])
    (tmp_path / "link").symlink_to(pair[0])
    with pytest.raises(ValueError, match=r"first and .*link are the same run"):
        read_runs([*pair, tmp_path / "link"])
    assert main(["compare", str(pair[0]), str(tmp_path / "nowhere")]) == 2
    assert "no run in" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["test.csv", "test.json"])
def test_an_unfinished_run(pair, name):
    (pair[1] / name).unlink()
    with pytest.raises(FileNotFoundError, match=rf"alike is not finished, there is no .*{name}"):
        read_runs(pair)


def edit(line, column, value):
    """A change of one cell of a CSV file."""

    def change(text):
        rows = [row.split(",") for row in text.splitlines()]
        rows[line][column] = value
        return "\n".join(map(",".join, rows))

    return change


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("config.json", lambda t: t.replace('"images_sha256"', '"x"'), "lacks 'images_sha256'"),
        ("config.json", lambda t: t[:-9], "config.json is damaged"),
        ("config.json", lambda t: t.replace('"leak"', '"x"'), "lacks 'leak'"),
        (
            "config.json",
            lambda t: re.sub('"leak": [^,]*', '"leak": 7', t),
            "images_sha256, leak or parameters .leak is 7",
        ),
        (
            "config.json",
            lambda t: re.sub('"parameters": [^,}]*', '"parameters": null', t),
            "images_sha256, leak or parameters",
        ),
        ("test.json", lambda t: t[:-9], "test.json is damaged"),
        ("test.json", lambda t: re.sub('"data": "[^"]*"', '"data": 5', t), "damaged: data is 5"),
        ("test.json", lambda t: "[]", "test.json is damaged"),
        ("test.json", lambda t: t.replace('"data"', '"x"'), "test.json is damaged: 'data'"),
        ("test.csv", lambda t: t.replace("BCC", "X", 1), "test.csv lacks the column.*BCC"),
        ("test.csv", edit(3, 2, "half"), "test.csv, line 4: .*'half'"),
        ("test.csv", edit(3, 2, "7"), "test.csv or split.csv beside it is damaged: row"),
        ("test.csv", edit(3, 2, "nan"), "test.csv or split.csv beside it is damaged: row"),
        ("test.csv", edit(3, 0, "ISIC_0"), "1 of the .* are missing, and 1 others are in it"),
        ("test.csv", lambda t: t + t.splitlines()[-1], "test.csv, line .* stands there twice"),
        ("split.csv", lambda t: t + t.splitlines()[-1], "split.csv, line .* stands there twice"),
        ("split.csv", edit(3, 2, "wart"), "split.csv, line 4: unknown diagnosis 'wart'"),
        ("split.csv", lambda t: t.replace(",test", ",val"), "split.csv .* has no test images"),
    ],
)
def test_damaged_files_are_named(pair, name, change, message):
    file = pair[1] / name
    file.write_text(change(file.read_text()))
    with pytest.raises(ValueError, match=f"alike.*{message}"):
        read_runs(pair)


def test_figures_of_another_test(case, pair):
    shutil.copy(case[2]["better"] / "test.json", pair[1])
    with pytest.raises(ValueError, match=r"test.csv and .*test.json have other figures"):
        read_runs(pair)


def test_no_split_file(pair):
    (pair[1] / "split.csv").unlink()
    with pytest.raises(FileNotFoundError, match=r"no .*split.csv"):
        read_runs(pair)
