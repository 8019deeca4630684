"""Images that are in no split, against the scoring program of the challenge and formulas."""

import csv
import json
import shutil

import numpy as np
import pytest
from sklearn.metrics import balanced_accuracy_score

from examples.ham10000.cli import main
from examples.ham10000.data.index import CLASSES, read_index
from tests.ham10000.challenge import MISSING, write_images, write_metadata, write_truth
from tests.ham10000.isic import isic_score
from tests.ham10000.report.pages import Page

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
    """Exit code, what was printed, and the figures of the table t.csv."""

    def call(data, of=run):
        out = tmp_path / "out"
        command = ["evaluate", "--run", of, "--data", data, "--out", out]
        code = main([*map(str, [*command, "--ground-truth", tmp_path / "t.csv"])])
        printed = capsys.readouterr()
        file = out / "test.json"
        return code, printed.out + printed.err, json.loads(file.read_text()) if code == 0 else None

    return call


def read_split(run):
    with (run / "split.csv").open(newline="") as stream:
        return list(csv.DictReader(stream))


def test_the_score_is_that_of_the_challenge(test_set, evaluate, tmp_path):
    """Which is by image: resampled, the hits of a class are binomial, whose sum is exact."""
    root, classes = test_set
    truth, there = tmp_path / "t.csv", {n: dx for n, dx in classes.items() if n != MISSING}
    write_truth(
        truth, [(f"{n}.JPG" if k % 2 else n, dx) for k, (n, dx) in enumerate(classes.items())]
    )
    code, printed, report = evaluate(root)
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
    data = "SYNTHETIC: t.csv, 35 images of 4 sizes, 96x128 to 150x150"  # a network of such pictures
    assert report.items() >= {
        "data": data,
        "part": "ground truth file",
        "split": None,
        "leak": None,
        "images": 35,
        "lesions": None,
        "bootstrap_over": "images",
        "ignored_files": 0,
    }.items()  # fmt: skip
    assert report["missing_images"] == [MISSING]
    assert f"left out: {MISSING}, which {truth} lists and {root} does not have\n" in printed
    assert f"Ground truth file {data}, timm/" in printed
    first = printed.partition("bootstrap over images\n")[2].split()
    low, high = report["interval_95"]["mean_recall"]
    assert first[:4] == ["mean_recall", f"{expected:.3f}", f"[{low:.3f},", f"{high:.3f}]"]
    exact = np.ones(1)
    for row in report["per_class"].values():
        for _ in range(EACH):
            exact = np.convolve(exact, [1 - row["sensitivity"], row["sensitivity"]])
    bounds = [np.searchsorted(np.cumsum(exact), share) / (7 * EACH) for share in (0.025, 0.975)]
    assert 0 < bounds[0] < report["mean_recall"] < bounds[1] <= 1
    assert (low, high) == pytest.approx(bounds, abs=1.01 / (7 * EACH))

    page = Page(tmp_path / "out" / "report.html").words
    assert "SYNTHETIC pictures" in page
    told = "none of which, by image id, it was trained on or chosen by."
    assert f"It was tested on other images ({data}), {told}" in page
    assert "cover which images happen to be in this file, not" in page
    assert f"{data}, cross-entropy, 48 pixels" in page
    assert "Ground truth file: 35 images, with the epoch" in page
    assert "95 % bootstrap intervals over the images of this file" in page
    assert "in neither its training nor its validation part, by image id. Missing" in page
    assert f"that the ground truth file lists: {MISSING}." in page
    assert "There are no lesion masks of these images in the data folder" in page
    assert page.index("mean_recall") < page.index("accuracy0")
    for word in ("leak", "None", "split leaks", "part:", "Ground truth file part"):
        assert word not in page


def test_where_lesions_are_named_they_are_drawn(test_set, evaluate, tmp_path):
    """A class of one lesion never varies: no interval has a width."""
    root, classes = test_set
    there = [(name, dx) for name, dx in classes.items() if name != MISSING]
    write_metadata(tmp_path / "t.csv", there, lesions=EACH)
    _, printed, report = evaluate(root)
    found = [report[name] for name in ("bootstrap_over", "lesions", "missing_images")]
    assert found == ["lesions", 7, []]
    for name, interval in report["interval_95"].items():
        assert interval == pytest.approx([report[name]] * 2)
    assert "150x150 of 7 lesions, timm/" in printed
    assert "bootstrap over lesions\n" in printed
    assert "left out" not in printed


def test_the_test_part_as_a_ground_truth_has_the_same_figures(run, evaluate, tmp_path):
    """Such images are allowed: the network has not seen them."""
    lines = (run / "split.csv").read_text().splitlines(keepends=True)
    rows = [line for line in lines if line.endswith(",test\n")]
    (tmp_path / "t.csv").write_text("".join([lines[0], *rows]))
    code, printed, report = evaluate(run / "synthetic")
    expected = json.loads((run / "test.json").read_text())
    assert code == 0
    common = expected.keys() - {"data", "part", "split", "leak"}
    assert {name: report[name] for name in common} == {name: expected[name] for name in common}
    assert report["data"] == f"SYNTHETIC: t.csv, {len(rows)} images at 128x96"
    assert report["ignored_files"] == 2 * len(read_split(run)) - len(rows)  # with the masks
    assert f"ignored: {report['ignored_files']} image files in {run / 'synthetic'} that" in printed
    assert (tmp_path / "out" / "test.csv").read_text() == (run / "test.csv").read_text()


def test_images_that_the_network_was_trained_on_are_refused(run, evaluate, tmp_path):
    rows = read_split(run)
    known = [row for row in rows if row["split"] != "test"]
    write_truth(tmp_path / "t.csv", [(row["image_id"], row["dx"]) for row in rows])
    code, printed, _ = evaluate(run / "synthetic")
    assert code == 2
    assert f"{len(known)} of the {len(rows)} images of {tmp_path / 't.csv'} show les" in printed
    assert f"validation part of {run}: {known[0]['image_id']}, " in printed
    assert not (tmp_path / "out").exists()


def test_test_images_of_lesions_that_were_seen_are_refused(run, evaluate, tmp_path):
    """The table of the run says that one of them was in the validation part."""
    copy = tmp_path / "runs" / "run"
    shutil.copytree(run, copy, ignore=shutil.ignore_patterns("synthetic", "*.html"))
    rows = read_split(run)
    given = [row for row in rows if row["split"] == "test"]
    first = given[0]
    seen = next(row for row in rows if (row["split"], row["dx"]) == ("val", first["dx"]))
    pair = f"image_id_1,image_id_2\n{seen['image_id']},{first['image_id']}\n"
    (copy / "same_lesion.csv").write_text(pair)
    config = json.loads((copy / "config.json").read_text())
    config["options"]["same_lesion"] = "pairs.csv"
    (copy / "config.json").write_text(json.dumps(config))
    write_truth(tmp_path / "t.csv", [(row["image_id"], row["dx"]) for row in given])
    code, printed, _ = evaluate(run / "synthetic", of=copy)
    known = [row["image_id"] for row in given if row["lesion_id"] == first["lesion_id"]]
    assert code == 2
    assert f"{len(known)} of the {len(given)} images of" in printed
    assert f": {', '.join(known)}. Their figures" in printed


@pytest.mark.parametrize("part", ["test", "val"])
def test_it_cannot_stand_beside_a_part(capsys, part):
    with pytest.raises(SystemExit) as stopped:
        main(["evaluate", "--run", "r", "--data", "d", "--split", part, "--ground-truth", "t"])
    assert stopped.value.code == 2
    error = capsys.readouterr().err
    assert all(word in error for word in ("--ground-truth", "not allowed", "--split"))


@pytest.mark.parametrize("lost", ["description.json", "images", "versions"])
def test_a_run_that_does_not_say_what_its_page_needs_is_refused(run, lost, tmp_path, capsys):
    file = shutil.copytree(run, tmp_path / "run") / "description.json"
    if lost == file.name:
        file.unlink()
    else:
        said = json.loads(file.read_text())
        file.write_text(json.dumps({name: of for name, of in said.items() if name != lost}))
    command = ["evaluate", "--run", str(file.parent), "--data", str(run / "synthetic")]
    assert main([*command, "--out", str(tmp_path / "out")]) == 2
    missing = "data" if lost == file.name else lost
    assert f"{file} does not say {missing}: copy it" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    assert main(command) == 0
    assert "Test part, SYNTHETIC pictures" in capsys.readouterr().out
