"""Images that are in no split, against the scoring program of the challenge and formulas."""

import csv
import html
import json
import re
import shutil

import numpy as np
import pytest
from sklearn.metrics import balanced_accuracy_score

from examples.ham10000.cli import main
from examples.ham10000.data.index import CLASSES, read_index
from tests.ham10000.challenge import MISSING, write_images, write_metadata, write_truth
from tests.ham10000.isic import isic_score

pytestmark = pytest.mark.usefixtures("undrawn")

EACH = 5  # images of a class


@pytest.fixture(scope="module")
def test_set(run, tmp_path_factory):
    """The folder, and the class of each id."""
    pictures = {dx: [] for dx in CLASSES}
    for image in read_index(run / "synthetic"):
        pictures[CLASSES[image.label]].append(image.path)
    root = tmp_path_factory.mktemp("challenge") / "test"
    return root, write_images(root, {dx: paths[:EACH] for dx, paths in pictures.items()})


@pytest.fixture
def evaluate(run, tmp_path, capsys):
    """Exit code, what was printed, and the figures."""

    def call(data, *options, of=run):
        out = tmp_path / "out"
        command = ["evaluate", "--run", of, "--data", data, "--out", out, *options]
        code = main([*map(str, command)])
        printed = capsys.readouterr()
        file = out / "test.json"
        return code, printed.out + printed.err, json.loads(file.read_text()) if code == 0 else None

    return call


def read_split(run):
    with (run / "split.csv").open(newline="") as stream:
        return list(csv.DictReader(stream))


def page_text(file):
    text = re.sub(r"<style.*?</style>|<[^>]+>", "", file.read_text(), flags=re.DOTALL)
    return " ".join(html.unescape(text).split())


def test_the_score_is_that_of_the_challenge(test_set, evaluate, tmp_path):
    root, classes = test_set
    truth, there = tmp_path / "t.csv", {n: dx for n, dx in classes.items() if n != MISSING}
    write_truth(
        truth, [(f"{n}.JPG" if k % 2 else n, dx) for k, (n, dx) in enumerate(classes.items())]
    )
    code, printed, report = evaluate(root, "--ground-truth", truth)
    assert code == 0
    write_truth(tmp_path / "scored.csv", there.items())
    predictions = tmp_path / "out" / "test.csv"
    score = isic_score(tmp_path / "scored.csv", predictions)
    assert report["mean_recall"] == pytest.approx(score.aggregate["balanced_accuracy"])
    with predictions.open(newline="") as stream:
        rows = {row.pop("image"): row for row in csv.DictReader(stream)}
    guessed = [max(rows[n], key=lambda dx: float(rows[n][dx])).lower() for n in there]
    expected = balanced_accuracy_score(list(there.values()), guessed)
    assert report["mean_recall"] == pytest.approx(expected)
    assert 1 / 7 < expected < 1  # the network has learned something, and not all
    assert (report["part"], report["split"], report["leak"]) == ("ground truth file", None, None)
    assert (report["images"], report["missing_images"], report["ignored_files"]) == (
        35,
        [MISSING],
        0,
    )
    data = "SYNTHETIC: t.csv, 35 images of 4 sizes, 96x128 to 150x150"  # a network of such pictures
    assert report["data"] == data
    assert f"left out: {MISSING}, which {truth} lists and {root} does not have\n" in printed
    assert f"Ground truth file {data}, timm/" in printed
    first = printed.partition("bootstrap over images\n")[2].split()
    low, high = report["interval_95"]["mean_recall"]
    assert first[:4] == ["mean_recall", f"{expected:.3f}", f"[{low:.3f},", f"{high:.3f}]"]


def test_intervals_are_by_image(test_set, evaluate, tmp_path):
    """Resampled, the hits of a class are binomial: the sum over classes, convolved, is exact."""
    root, classes = test_set
    write_truth(tmp_path / "t.csv", classes.items())
    _, _, report = evaluate(root, "--ground-truth", tmp_path / "t.csv")
    assert (report["bootstrap_over"], report["lesions"]) == ("images", None)
    exact = np.ones(1)
    for row in report["per_class"].values():
        one = np.ones(1)
        for _ in range(EACH):
            one = np.convolve(one, [1 - row["sensitivity"], row["sensitivity"]])
        exact = np.convolve(exact, one)
    below = np.cumsum(exact)
    low, high = (np.searchsorted(below, share) / (7 * EACH) for share in (0.025, 0.975))
    assert 0 < low < report["mean_recall"] < high <= 1
    assert report["interval_95"]["mean_recall"] == pytest.approx([low, high], abs=1.01 / (7 * EACH))


def test_where_lesions_are_named_they_are_drawn(test_set, evaluate, tmp_path):
    """A class of one lesion never varies: no interval has a width."""
    root, classes = test_set
    there = [(name, dx) for name, dx in classes.items() if name != MISSING]
    write_metadata(tmp_path / "t.csv", there, lesions=EACH)
    _, printed, report = evaluate(root, "--ground-truth", tmp_path / "t.csv")
    assert (report["bootstrap_over"], report["lesions"], report["missing_images"]) == (
        "lesions", 7, []
    )  # fmt: skip
    for name, interval in report["interval_95"].items():
        assert interval == pytest.approx([report[name]] * 2)
    assert "150x150 of 7 lesions, timm/" in printed
    assert "bootstrap over lesions\n" in printed
    assert "left out" not in printed


def test_the_test_part_as_a_ground_truth_has_the_same_figures(run, evaluate, tmp_path):
    """Such images are allowed: the network has not seen them."""
    rows = [row for row in read_split(run) if row["split"] == "test"]
    with (tmp_path / "t.csv").open("w", newline="") as stream:
        writer = csv.DictWriter(stream, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    code, printed, report = evaluate(run / "synthetic", "--ground-truth", tmp_path / "t.csv")
    expected = json.loads((run / "test.json").read_text())
    assert code == 0
    own = {"data", "part", "split", "leak"}
    assert {k: v for k, v in report.items() if k in expected and k not in own} == {
        k: v for k, v in expected.items() if k not in own
    }
    assert report["data"] == f"SYNTHETIC: t.csv, {len(rows)} images at 128x96"
    assert report["ignored_files"] == 2 * len(read_split(run)) - len(rows)  # with the masks
    assert f"ignored: {report['ignored_files']} image files in {run / 'synthetic'} that" in printed
    assert (tmp_path / "out" / "test.csv").read_text() == (run / "test.csv").read_text()


def test_images_that_the_network_was_trained_on_are_refused(run, test_set, evaluate, tmp_path):
    rows = read_split(run)
    known = [row for row in rows if row["split"] != "test"]
    write_truth(tmp_path / "t.csv", [(row["image_id"], row["dx"]) for row in rows])
    code, printed, _ = evaluate(run / "synthetic", "--ground-truth", tmp_path / "t.csv")
    assert code == 2
    assert f"{len(known)} of the {len(rows)} images of {tmp_path / 't.csv'} show les" in printed
    assert f"validation part of {run}: {known[0]['image_id']}, " in printed
    assert not (tmp_path / "out").exists()


def test_their_lesions_are_refused_too(run, test_set, evaluate, tmp_path):
    root, classes = test_set
    lesion = next(row["lesion_id"] for row in read_split(run) if row["split"] == "val")
    write_metadata(tmp_path / "t.csv", classes.items(), lesions=1)
    text = (tmp_path / "t.csv").read_text()
    (tmp_path / "t.csv").write_text(text.replace("T_bcc_7,", f"{lesion},"))
    code, printed, _ = evaluate(root, "--ground-truth", tmp_path / "t.csv")
    assert (code, "1 of the 35 images" in printed) == (2, True)


def test_a_test_image_of_a_split_that_leaks_is_refused(run, evaluate, tmp_path):
    copy = tmp_path / "runs" / "run"
    shutil.copytree(run, copy, ignore=shutil.ignore_patterns("synthetic", "*.html"))
    rows = read_split(run)
    test = [row for row in rows if row["split"] == "test"]
    leaking = next(
        row for row in test if [other["lesion_id"] for other in test].count(row["lesion_id"]) == 2
    )
    for row in rows:
        if row["lesion_id"] == leaking["lesion_id"] and row is not leaking:
            row["split"] = "train"
    with (copy / "split.csv").open("w", newline="") as stream:
        writer = csv.DictWriter(stream, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    left = [(row["image_id"], row["dx"]) for row in rows if row["split"] == "test"]
    write_truth(tmp_path / "t.csv", left)
    options = ["--ground-truth", tmp_path / "t.csv"]
    code, printed, _ = evaluate(run / "synthetic", *options, of=copy)
    assert code == 2
    assert f"1 of the {len(left)} images of" in printed
    assert f": {leaking['image_id']}. Their figures" in printed


def test_lesions_that_the_table_of_a_run_joins_are_refused(run, evaluate, tmp_path):
    copy = tmp_path / "runs" / "run"
    shutil.copytree(run, copy, ignore=shutil.ignore_patterns("synthetic", "*.html"))
    rows = read_split(run)
    test = [row for row in rows if row["split"] == "test"]
    first = test[0]
    seen = next(row for row in rows if (row["split"], row["dx"]) == ("val", first["dx"]))
    pair = f"image_id_1,image_id_2\n{seen['image_id']},{first['image_id']}\n"
    (copy / "same_lesion.csv").write_text(pair)
    config = json.loads((copy / "config.json").read_text())
    config["options"]["same_lesion"] = "pairs.csv"
    (copy / "config.json").write_text(json.dumps(config))
    write_truth(tmp_path / "t.csv", [(row["image_id"], row["dx"]) for row in test])
    options = ["--ground-truth", tmp_path / "t.csv"]
    code, printed, _ = evaluate(run / "synthetic", *options, of=copy)
    lesion = [row["image_id"] for row in test if row["lesion_id"] == first["lesion_id"]]
    assert code == 2
    assert f"{len(lesion)} of the {len(test)} images of" in printed
    assert f": {', '.join(lesion)}. Their figures" in printed


def test_the_page_says_what_was_scored(test_set, evaluate, tmp_path):
    root, classes = test_set
    write_truth(tmp_path / "t.csv", classes.items())
    _, _, report = evaluate(root, "--ground-truth", tmp_path / "t.csv")
    page = page_text(tmp_path / "out" / "report.html")
    assert "SYNTHETIC pictures" in page
    assert f"{report['data']}, cross-entropy, 48 pixels" in page
    assert "Ground truth file: 35 images, with the epoch" in page
    assert "95 % bootstrap intervals over the images of this file" in page
    assert "in neither its training nor its validation part, by image id. Missing" in page
    assert f"that the ground truth file lists: {MISSING}." in page
    assert "There are no lesion masks of these images in the data folder" in page
    assert page.index("mean_recall") < page.index("accuracy")
    for word in ("leak", "None", "split leaks", "part:", "Ground truth file part"):
        assert word not in page


def test_it_cannot_stand_beside_a_part(run, capsys):
    for part in ("test", "val"):
        with pytest.raises(SystemExit) as stopped:
            main(["evaluate", "--run", "r", "--data", "d", "--split", part, "--ground-truth", "t"])
        assert stopped.value.code == 2
        assert (
            "argument --ground-truth: not allowed with argument --split" in capsys.readouterr().err
        )
