"""The page of a run: its figures against the files of the run, and the page in a browser."""

import base64
import html
import io
import json
import re
import shutil
import subprocess
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn import metrics as sk

from examples.ham10000.cli import main
from examples.ham10000.data.index import CLASSES, read_index
from examples.ham10000.evaluate import evaluate_run
from examples.ham10000.report import plots
from examples.ham10000.report.results import write_results
from tests.ham10000.report.pages import Page, seen
from tests.ham10000.runs import EPOCHS, MODEL, QUICK

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "google-chrome", "chrome"))), None)


def test_the_page_needs_nothing_but_itself(run, page):
    references = re.findall(r"(?:src|href|srcset)=.(.{11})", page.source)
    assert set(references) == {"data:image/"}
    whole = (run / "report.html").read_text()
    assert not any(word in whole for word in ("url(", "@import", "<script", str(run)))
    assert "No lesion is in two parts" in page.words
    assert "CC BY-NC" not in page.words  # nothing of HAM10000 is in it


def test_the_page_begins_with_what_one_wants_to_know(run, page, split, probabilities, truth):
    """In order, each figure from scikit-learn or counted in the files of the run."""
    parts = {
        part: [row for row in split if row["split"] == part] for part in ("train", "val", "test")
    }
    lesions = {row["lesion_id"] for row in parts["test"]}
    said = [truth[name] for name in probabilities]
    guessed = [max(values, key=values.get) for values in probabilities.values()]
    intervals = json.loads((run / "test.json").read_text())["interval_95"]
    (recall, accuracy) = (
        "{:.3f} (95 % interval {:.3f} to {:.3f})".format(figure, *intervals[name])
        for name, figure in (
            ("mean_recall", sk.balanced_accuracy_score(said, guessed)),
            ("accuracy", sk.accuracy_score(said, guessed)),
        )
    )
    hits = {dx: sum(a == b == dx for a, b in zip(said, guessed, strict=True)) for dx in CLASSES}
    least = min(hits[dx] / said.count(dx) for dx in CLASSES)
    weakest = [dx for dx in CLASSES if hits[dx] / said.count(dx) == least]
    listed = "; ".join(f"{dx.upper()}, {hits[dx]} of {said.count(dx)}" for dx in weakest)
    most = max(CLASSES, key=said.count)
    expected = [
        "SYNTHETIC pictures: every figure on this page comes from drawn images",
        f"{MODEL} with CaCo",
        f"{MODEL} with CaCo in the place of its 2 SE blocks, started from random weights",
        f"trained for {EPOCHS} epochs with cross entropy on {len(parts['train'])} images: "
        "SYNTHETIC pictures at 128x96, seen at 48 pixels.",
        f"highest mean recall on {len(parts['val'])} other images was kept.",
        f"It was tested on {len(said)} images of {len(lesions)} lesions, the test part of the "
        "lesion split, none of whose lesions it was trained on.",
        f"Mean recall {recall}: ",
        f"Accuracy {accuracy}: {sum(hits.values())} of {len(said)} images are right.",
        f"every image {most.upper()} would give 0.143 and {said.count(most) / len(said):.3f}.",
        f"Weakest class{'es' if len(weakest) > 1 else ''}: {listed} right.",
        "which lesions happen to be in this part, not how another training run would differ: this "
        "is one, with seed 0. Research code. Not a medical device; not for diagnosis.",
        "cross-entropy, 48 pixels",  # what follows is below
    ]
    places = [page.words.find(text) for text in expected]
    assert -1 not in places, expected[places.index(-1)]
    assert places == sorted(places)


@pytest.mark.parametrize(
    ("changes", "part", "expected"),
    [
        (
            {"init": "fitted", "weights": "imagenet", "model": "tv/mobilenet_v3_small"},
            "val",
            "MobileNetV3-Small with CaCo MobileNetV3-Small .tv/mobilenet_v3_small. with CaCo in "
            "the place of its 2 SE blocks, started from ImageNet weights, its blocks fitted to "
            "the SE blocks, was .* These figures are a little too good: they are of the 33 images "
            "of [0-9]+ lesions that chose the epoch, the val part of the lesion split",
        ),
        (
            {"init": "loaded", "weights": "/there/w.pt", "loss": "joint", "epochs": 1},
            "train",
            "started from the weights of w.pt, which have these blocks, was trained for 1 epoch "
            "with the focal and the LDAM loss together on cosine logits on 295 images.* These "
            "figures are no test: they are of the 295 images of [0-9]+ lesions that it was trained "
            "on",
        ),
        (
            {"insert": "residual", "init": "identity", "folds": 3, "fold": 1},
            "test",
            "with 2 CaCo blocks inserted behind its residual branches, started from random "
            "weights, its blocks as the identity, .* test part of the lesion split, fold 1 of 3, "
            "none",
        ),
        (
            {"attention": "SE", "init": None, "class_weights": "balanced", "monitor": "val_loss"},
            "test",
            " with its own 2 SE blocks, started from random weights, was .* with cross entropy and "
            "balanced class weights on .* The epoch with the lowest loss on",
        ),
    ],
)
def test_other_runs_begin_with_what_they_are(run, undrawn, tmp_path, changes, part, expected):
    """The options of the run are changed in the evaluation, not the network, which has CaCo."""
    found = evaluate_run(run, run / "synthetic", part, 0)
    config = replace(found.config, **changes)
    summary = {**found.summary, "split": config.split_name}
    write_results(tmp_path, replace(found, config=config, summary=summary))
    assert re.search(expected, Page(tmp_path / "report.html").words)


def test_the_figures_are_those_of_the_run(run, page, split):
    report = json.loads((run / "test.json").read_text())
    for name in ("accuracy", "mean_recall", "bacc_formula", "macro_f1"):
        low, high = report["interval_95"][name]
        assert f"{name}{report[name]:.3f} [{low:.3f}, {high:.3f}]" in page.words
    counts, classes, *_, settings = page.tables
    for line in counts[1:]:
        of_part = [row["dx"] for row in split if row["split"] == line[0]]
        expected = [of_part.count(name.lower()) for name in counts[0][1:-1]]
        assert [*map(int, line[1:])] == [*expected, len(of_part)]
    for line in classes[1:]:
        row = report["per_class"][line[0]]
        names = ("sensitivity", "specificity", "bacc_formula", "f1", "roc_auc")
        assert line[1:] == [str(row["images"]), *(f"{row[name]:.3f}" for name in names)]
    values = {"epochs": str(EPOCHS), "image_size": "48", "attention": "CaCo"}
    assert dict(settings[1:]).items() >= values.items()


def test_the_most_confident_errors_are_shown(run, page, probabilities, truth):
    wrong = {}
    for image, values in probabilities.items():
        guess = max(values, key=values.get)
        if guess != truth[image]:
            wrong[image] = (values[guess], guess)
    expected = sorted(wrong, key=lambda image: -wrong[image][0])[:12]
    photos = {text: source for text, source in page.images if "image/jpeg" in source}
    assert [text for text in photos if not text.startswith("attention")] == expected
    for image in expected:
        confidence, guess = wrong[image]
        taken = f"{truth[image].upper()} taken for {guess.upper()} with {confidence:.3f}"
        assert taken in page.words
    paths = {image.image_id: image.path for image in read_index(run / "synthetic")}
    data = base64.b64decode(photos[expected[0]].partition(",")[2])
    with Image.open(io.BytesIO(data)) as thumbnail, Image.open(paths[expected[0]]) as file:
        shown, original = np.asarray(thumbnail, float), seen(file).astype(float)
    assert np.corrcoef(shown.ravel(), original.ravel())[0, 1] > 0.97


def test_roc_curves_are_those_of_scikit_learn():
    generator = np.random.default_rng(0)
    labels = np.arange(70) % 7
    values = generator.dirichlet(np.ones(7), 70) + 0.1 * np.eye(7)[labels]
    values /= values.sum(axis=1, keepdims=True)
    values[10] = values[11]  # ties
    figure = plots.roc(torch.from_numpy(values), torch.from_numpy(labels))
    lines = figure.axes[0].lines
    for number, name in enumerate(CLASSES):
        x, y, _ = sk.roc_curve(labels == number, values[:, number], drop_intermediate=False)
        drawn = lines[number].get_data()
        np.testing.assert_allclose(np.unique(drawn, axis=1), np.unique((x, y), axis=1))
        area = sk.roc_auc_score(labels == number, values[:, number])
        assert lines[number].get_label() == f"{name.upper()} {area:.3f}"


def test_a_run_without_blocks_and_with_a_leak(run, tmp_path):
    out = tmp_path / "run"
    options = ["--data", str(run / "synthetic"), "--attention", "SE", "--protocol", "paper"]
    assert main([*QUICK, *options, "--batch-size", "64", "--out", str(out)]) == 0
    page = Page(out / "report.html")
    assert dict(page.tables[-1][1:])["data"] == "synthetic"  # no path of this machine
    assert "no blocks of attnblocks" in page.words
    assert f"{MODEL} with its own 2 SE blocks, started" in page.words
    leak = json.loads((out / "test.json").read_text())["leak"]
    assert leak > 0
    warning = f"The split leaks: {100 * leak:.1f} % of the test images"
    assert 0 < page.words.index(warning) < page.words.index("Mean recall")
    assert "none of whose lesions" not in page.words


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed")
@pytest.mark.parametrize("width", [1200, 500])
def test_the_page_in_a_browser(run, tmp_path, width):
    """Every picture is drawn, and nothing but wide tables needs to be moved sideways."""
    script = """<script>addEventListener("load", () => {
      document.body.dataset.found = JSON.stringify({
        width: document.documentElement.scrollWidth, window: innerWidth,
        broken: [...document.images].filter(i => !i.complete || !i.naturalWidth).map(i => i.alt),
        images: document.images.length,
      })})</script>"""
    copy = tmp_path / "page.html"
    copy.write_text((run / "report.html").read_text() + script)
    command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--dump-dom"]
    command += [f"--window-size={width},2000", f"--user-data-dir={tmp_path / 'profile'}"]
    done = subprocess.run([*command, copy.as_uri()], capture_output=True, text=True, timeout=120)
    (found,) = re.findall(r'data-found="([^"]*)"', done.stdout)
    found = json.loads(html.unescape(found))
    assert found["images"] > 15
    assert found["broken"] == []
    assert found["width"] <= found["window"] <= width
