"""Predictions for files, and what the official scoring says of them."""

import csv
import json
import os
import signal
import sys
import time
import weakref
from pathlib import Path
from threading import Lock

import numpy as np
import pytest
from PIL import Image

from examples.ham10000 import predict as module
from examples.ham10000.cli import main
from examples.ham10000.data.images import load_image
from examples.ham10000.data.index import CLASSES, read_index
from examples.ham10000.data.layouts import ISIC_CLASSES
from tests.ham10000.isic import isic_score
from tests.helpers import make_pipe


@pytest.fixture
def test_part(run):
    with (run / "split.csv").open(newline="") as stream:
        names = {row["image_id"] for row in csv.DictReader(stream) if row["split"] == "test"}
    return [image for image in read_index(run / "synthetic") if image.image_id in names]


def predict(run, *arguments) -> int:
    return main(["predict", "--run", str(run), *map(str, arguments)])


def rows_of(file):
    with file.open(newline="") as stream:
        return {row.pop("image"): row for row in csv.DictReader(stream)}


def test_isic_scores_them_as_our_report_does(run, test_part, tmp_path):
    truth, out = tmp_path / "truth.csv", tmp_path / "out.csv"
    with truth.open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(("image", *ISIC_CLASSES))
        for image in test_part:
            dx = CLASSES[image.label].upper()
            writer.writerow((image.image_id, *(float(name == dx) for name in ISIC_CLASSES)))
    assert predict(run, *(image.path for image in test_part), "--out", out) == 0
    report = json.loads((run / "test.json").read_text())
    for file in (out, run / "test.csv"):
        assert file.read_text().startswith("image,MEL,NV,BCC,AKIEC,BKL,DF,VASC\n")
        score = isic_score(truth, file)
        assert score.aggregate["balanced_accuracy"] == pytest.approx(report["mean_recall"])
        for name in ISIC_CLASSES:
            area = score.per_category.loc[name, "auc"]
            assert area == pytest.approx(report["per_class"][name]["roc_auc"], abs=1e-6)


def test_images_of_any_size_and_kind(run, test_part, tmp_path):
    """Three times as large, or as PNG: about the same probabilities."""
    with Image.open(test_part[0].path) as picture:
        large = picture.resize((3 * picture.width, 3 * picture.height), Image.Resampling.BICUBIC)
        large.save(tmp_path / "large.png")
        picture.convert("RGBA").save(tmp_path / "same.png")
    out = tmp_path / "out.csv"
    assert predict(run, tmp_path, test_part[0].path, "--out", out) == 0
    values = {name: np.array([*map(float, row.values())]) for name, row in rows_of(out).items()}
    original = values.pop(test_part[0].image_id)
    assert set(values) == {"large", "same"}
    np.testing.assert_allclose(values["same"], original, atol=1e-5)
    np.testing.assert_allclose(values["large"], original, atol=0.1)
    assert all(v.sum() == pytest.approx(1) for v in values.values())


def test_an_unreadable_image_does_not_stop_the_others(run, test_part, tmp_path, capsys):
    folder = tmp_path / "folder"
    (folder / "deep").mkdir(parents=True)
    for image in test_part:
        (folder / "deep" / image.path.name).write_bytes(image.path.read_bytes())
    whole = test_part[0].path.read_bytes()
    (folder / "broken.jpg").write_bytes(whole[: len(whole) // 2])
    (folder / "._hidden.jpg").write_bytes(b"what macOS puts beside a file")
    (folder / "notes.txt").write_text("no image, and not meant as one")
    out = tmp_path / "out.csv"
    assert predict(run, folder, "--out", out) == 1
    printed = capsys.readouterr()
    assert "left out: cannot read the image" in printed.err
    assert "broken.jpg" in printed.err
    assert f"{len(test_part)} images predicted, 1 left out" in printed.out
    expected = rows_of(run / "test.csv")
    found = rows_of(out)
    assert found.keys() == expected.keys()
    for name, row in found.items():
        for dx, value in row.items():
            assert float(value) == pytest.approx(float(expected[name][dx]), abs=1e-5)


def test_what_cannot_be_done_is_said_before_anything_is_written(run, test_part, tmp_path, capsys):
    out = tmp_path / "out.csv"
    (tmp_path / "empty").mkdir()
    twin = tmp_path / test_part[0].path.with_suffix(".png").name
    Image.effect_noise((40, 30), 90).save(twin)
    make_pipe(tmp_path / "pipe")
    for inputs, message in [
        (["nowhere.jpg"], "no such image or folder: nowhere.jpg"),
        ([tmp_path / "pipe", test_part[0].path], f"no such image or folder: {tmp_path / 'pipe'}"),
        ([tmp_path / "empty"], f"no images in {tmp_path / 'empty'}: it has no images"),
        ([test_part[0].path, twin], "have one name"),
    ]:
        assert predict(run, *inputs, "--out", out) == 2
        assert message in capsys.readouterr().err
    deep = tmp_path / "nowhere" / "out.csv"
    assert predict(run, test_part[0].path, "--out", deep) == 2
    assert f"there is no folder {deep.parent}" in capsys.readouterr().err
    assert predict(tmp_path / "no run", test_part[0].path, "--out", out) == 2
    assert "no run in" in capsys.readouterr().err
    assert not out.exists()
    out.write_text("precious")
    assert predict(run, test_part[0].path, "--out", out) == 2
    assert "exists: name a new file" in capsys.readouterr().err
    assert out.read_text() == "precious"


def test_a_failure_half_way_leaves_no_file(run, test_part, tmp_path, monkeypatch):
    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module, "isic_rows", full)
    assert predict(run, test_part[0].path, "--out", tmp_path / "out.csv") == 2
    assert list(tmp_path.iterdir()) == []


def test_sigterm_leaves_no_file(run, test_part, tmp_path, monkeypatch, capsys):
    def told_to_end(*args):
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(10)

    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(module, "isic_rows", told_to_end)
    assert predict(run, test_part[0].path, "--out", tmp_path / "out.csv") == 128 + signal.SIGTERM
    assert list(tmp_path.iterdir()) == []
    assert capsys.readouterr().err.endswith("error: stopped\n")
    assert signal.getsignal(signal.SIGTERM) == before


def test_many_batches_and_links_lose_nothing(run, test_part, tmp_path):
    """33 images in batches of 8, one of which has no readable image; folders behind links."""
    here = tmp_path / "here"
    here.mkdir()
    (here / "behind").symlink_to(test_part[0].path.parent.parent, target_is_directory=True)
    (here / "loop").symlink_to(here, target_is_directory=True)
    for number in range(9):
        (here / f"a{number}.jpg").write_bytes(b"")
    (here / "dangling.jpg").symlink_to(tmp_path / "nowhere.jpg")
    outcome = module.predict(run, [here, here / "a0.jpg"], tmp_path / "out.csv", batch_size=8)
    images = read_index(run / "synthetic")
    assert (outcome.predicted, len(outcome.problems)) == (len(images), 10)
    found = rows_of(tmp_path / "out.csv")
    assert found.keys() == {image.image_id for image in images}
    for name, row in rows_of(run / "test.csv").items():
        for dx, value in row.items():
            assert float(found[name][dx]) == pytest.approx(float(value), abs=1e-5)


def test_a_name_with_control_characters_is_refused(run, test_part, tmp_path, capsys):
    """Not every reader of CSV would find one row there."""
    name = tmp_path / "a\rb.jpg"
    try:
        name.write_bytes(test_part[0].path.read_bytes())
    except OSError:
        pytest.skip("this system has no such names")
    assert predict(run, name, "--out", tmp_path / "out.csv") == 2
    assert "has control characters in its name: rename it" in capsys.readouterr().err


def test_a_folder_that_cannot_be_read_is_no_empty_one(
    run, test_part, tmp_path, capsys, monkeypatch
):
    closed = tmp_path / "closed"
    closed.mkdir()
    scan = os.scandir

    def scandir(path):
        if Path(path) == closed:
            raise PermissionError(13, "Permission denied", str(path))
        return scan(path)

    monkeypatch.setattr(os, "scandir", scandir)
    (tmp_path / "a.jpg").write_bytes(test_part[0].path.read_bytes())
    assert predict(run, tmp_path, "--out", tmp_path / "out.csv") == 2
    assert f"Permission denied: '{closed}'" in capsys.readouterr().err


def test_no_more_images_are_held_than_two_batches(run, tmp_path, monkeypatch):
    """Those that are decoded, and those that were predicted last."""
    held, most = weakref.WeakSet(), 0

    def load(path, size):
        nonlocal most
        pixels = load_image(path, size)
        with lock:
            held.add(pixels)
            most = max(most, len(held))
        return pixels

    lock = Lock()
    monkeypatch.setattr(module, "load_image", load)
    outcome = module.predict(run, [run / "synthetic"], tmp_path / "out.csv", batch_size=5)
    assert outcome.predicted > 300
    assert most <= 10


@pytest.mark.skipif(sys.platform == "win32", reason="it tells no memory there")
def test_rate_and_memory_are_measured(run, capsys):
    from benchmarks.predict import main as measure

    began = time.monotonic()
    measure(["--run", str(run), "--data", str(run / "synthetic"), "--images", "7"])
    took = time.monotonic() - began
    images, seconds, rate, peak = capsys.readouterr().out.splitlines()[-1].split()
    assert images == "7"
    assert float(seconds) < took
    # Both are printed rounded: seconds to a tenth, the rate to a whole number.
    assert 7 / took < float(rate) + 0.5
    assert float(rate) - 0.5 <= 7 / (float(seconds) - 0.051)
    assert 200 < float(peak) < 4000  # MiB: torch alone takes as much


def mask_of(image):
    masks = image.path.parents[1] / "HAM10000_segmentations_lesion_tschandl"
    return masks / f"{image.image_id}_segmentation.png"


@pytest.mark.parametrize(
    ("where", "named"),
    [
        ("masks", "{}_segmentation.png"),
        ("ISIC2018_Task1_Training_GroundTruth", "{}.png"),
        (".", "{}_Superpixels.PNG"),
        ("annotations", "x{}.jpg"),
        ("other", "{}.png"),  # the photo has that name
    ],
)
def test_masks_have_no_row_and_are_named(run, test_part, tmp_path, capsys, where, named):
    inputs = tmp_path / "segmentation-of-lesions"
    (inputs / "images").mkdir(parents=True)
    (inputs / where).mkdir(exist_ok=True)
    images = test_part[:5]
    for image in images:
        (inputs / "images" / image.path.name).write_bytes(image.path.read_bytes())
        with Image.open(mask_of(image)) as mask:
            mask.save(inputs / where / named.format(image.image_id))
    out = tmp_path / "out.csv"
    assert predict(run, inputs, "--out", out) == 0
    assert rows_of(out).keys() == {image.image_id for image in images}
    said = capsys.readouterr().out
    assert "no row for " in said
    assert f": 5 in {inputs / where}, such as " in said
    assert "5 images predicted, 0 left out" in said
    shell_glob = sorted(path for path in inputs.rglob("*") if path.is_file())
    assert predict(run, *shell_glob, "--out", tmp_path / "same.csv") == 0
    assert rows_of(tmp_path / "same.csv") == rows_of(out)


def test_pictures_that_only_their_pixels_make_masks_are_named(run, test_part, tmp_path, capsys):
    """Photos may look like that; those on white paper do not, as long as they have colours."""
    folder = tmp_path / "images"
    folder.mkdir()
    with Image.open(mask_of(test_part[0])) as mask, Image.open(test_part[0].path) as picture:
        mask.save(folder / "plain.png")
        Image.new("RGB", picture.size, "white").save(folder / "white.jpg")
        paper = Image.new("RGB", (5 * picture.width, 5 * picture.height), (245, 246, 244))
        paper.paste(picture, (2 * picture.width, 2 * picture.height))
        paper.save(folder / "paper.jpg")
    for number, inputs in enumerate([[folder], sorted(folder.iterdir())]):
        out = tmp_path / f"{number}.csv"
        assert predict(run, *inputs, "--out", out) == 1
        assert rows_of(out).keys() == {"paper"}
        error = capsys.readouterr().err
        assert f"left out: {folder / 'plain.png'} looks like a mask" in error
        assert f"left out: {folder / 'white.jpg'} looks like a mask" in error


def test_a_photo_that_is_asked_for_may_have_the_name_of_a_mask(run, test_part, tmp_path, capsys):
    photo, mask, out = tmp_path / "my_seg.jpg", tmp_path / "x_seg.png", tmp_path / "out.csv"
    photo.write_bytes(test_part[0].path.read_bytes())
    mask.write_bytes(mask_of(test_part[0]).read_bytes())
    assert predict(run, photo, mask, "--out", out) == 0
    assert rows_of(out).keys() == {"my_seg"}
    assert "no row for masks or superpixels: 1 in" in capsys.readouterr().out
    assert predict(run, tmp_path, "--out", tmp_path / "none.csv") == 2


def test_a_folder_of_masks_alone_is_an_error_that_says_so(run, test_part, tmp_path, capsys):
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "a_segmentation.png").write_bytes(mask_of(test_part[0]).read_bytes())
    (folder / "notes.txt").write_text("text")
    assert predict(run, folder, "--out", tmp_path / "out.csv") == 2
    error = capsys.readouterr().err
    assert "error: no " in error
    assert f": 1 in {folder}, such as a_segmentation.png" in error
    assert "other files: 1" in error
    assert not (tmp_path / "out.csv").exists()


def test_every_kind_of_image_has_a_row_or_is_named(run, test_part, tmp_path, capsys):
    inputs = tmp_path / "inputs"
    inputs.mkdir()
    kinds = ["JPEG.jfif", "BMP.bmp", "TIFF.TIF", "WEBP.webp", "GIF.gif", "PNG.Png", "JPEG.x", "PPM"]
    for image, kind in zip(test_part[:8], kinds, strict=True):
        form, dot, suffix = kind.partition(".")
        with Image.open(image.path) as picture:
            picture.save(inputs / f"{form}{dot}{suffix}", format=form)
    for name in ("a.heic", "b.DCM", "c.avif", "d.psd", "empty.tif"):
        (inputs / name).write_bytes(b"")
    with Image.open(test_part[8].path) as picture:
        picture.save(inputs / "thumbnail.nef", format="TIFF")
    (inputs / "table.csv").write_text("a,b\n")
    out = tmp_path / "out.csv"
    assert predict(run, inputs, "--out", out) == 1
    # Of the kinds of image that have a suffix, it is no part of the name.
    assert rows_of(out).keys() == {"JPEG", "BMP", "TIFF", "WEBP", "GIF", "PNG", "JPEG.x", "PPM"}
    printed = capsys.readouterr()
    problems = [line for line in printed.err.splitlines() if line.startswith("left out: ")]
    assert len(problems) == 6
    assert sum("save it as JPEG or PNG" in line for line in problems) == 5
    assert "no row for other files: 1 in" in printed.out


def test_copies_are_predicted_once(run, test_part, tmp_path, capsys):
    for name in ("PART_1", "part_1_"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.jpg").write_bytes(test_part[0].path.read_bytes())
    assert predict(run, tmp_path / "PART_1", tmp_path / "part_1_", "--out", tmp_path / "out") == 0
    assert (
        f"no row for copies of other images: 1 in {tmp_path / 'part_1_'}" in capsys.readouterr().out
    )
    (tmp_path / "part_1_" / "a.jpg").write_bytes(test_part[1].path.read_bytes())
    assert predict(run, tmp_path / "PART_1", tmp_path / "part_1_", "--out", tmp_path / "2") == 2
    assert "have one name" in capsys.readouterr().err
