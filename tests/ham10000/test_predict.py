"""Predictions for files, and what the official scoring says of them."""

import csv
import json
import os
import signal
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
from tests.ham10000.challenge import write_truth
from tests.ham10000.isic import isic_score
from tests.helpers import make_pipe


@pytest.fixture
def test_part(run):
    with (run / "split.csv").open(newline="") as stream:
        names = {row["image_id"] for row in csv.DictReader(stream) if row["split"] == "test"}
    return [image for image in read_index(run / "synthetic") if image.image_id in names]


@pytest.fixture
def predict(run, tmp_path, capsys):
    """Exit code, rows, and what was printed; the file is removed if there is one."""

    def call(*inputs, of=run, out=tmp_path / "out.csv"):
        code = main(["predict", "--run", str(of), *map(str, inputs), "--out", str(out)])
        rows = rows_of(out) if out.exists() else None
        out.unlink(missing_ok=True)
        return code, rows, capsys.readouterr()

    return call


def rows_of(file):
    with file.open(newline="") as stream:
        return {
            row.pop("image"): np.array([*map(float, row.values())])
            for row in csv.DictReader(stream)
        }


def copy_of(image, place):
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_bytes(image.path.read_bytes())
    return place


def mask_of(image):
    masks = image.path.parents[1] / "HAM10000_segmentations_lesion_tschandl"
    return masks / f"{image.image_id}_segmentation.png"


def test_isic_scores_them_as_our_report_does(run, test_part, tmp_path):
    truth, out = tmp_path / "truth.csv", tmp_path / "out.csv"
    write_truth(truth, [(image.image_id, CLASSES[image.label]) for image in test_part])
    paths = [str(image.path) for image in test_part]
    assert main(["predict", "--run", str(run), *paths, "--out", str(out)]) == 0
    report = json.loads((run / "test.json").read_text())
    for file in (out, run / "test.csv"):
        assert file.read_text().startswith("image,MEL,NV,BCC,AKIEC,BKL,DF,VASC\n")
        score = isic_score(truth, file)
        assert score.aggregate["balanced_accuracy"] == pytest.approx(report["mean_recall"])
        for name in ISIC_CLASSES:
            area = score.per_category.loc[name, "auc"]
            assert area == pytest.approx(report["per_class"][name]["roc_auc"], abs=1e-6)


def test_many_batches_links_and_unreadable_images(run, test_part, tmp_path, capsys):
    """33 images in batches of 8, one of which has no readable image; folders behind links."""
    here = tmp_path / "here"
    here.mkdir()
    (here / "behind").symlink_to(test_part[0].path.parent.parent, target_is_directory=True)
    (here / "loop").symlink_to(here, target_is_directory=True)
    for number in range(9):
        (here / f"a{number}.jpg").write_bytes(b"")
    (here / "dangling.jpg").symlink_to(tmp_path / "nowhere.jpg")
    (here / "._hidden.jpg").write_bytes(b"what macOS puts beside a file")
    outcome = module.predict(run, [here, here / "a0.jpg"], tmp_path / "out.csv", batch_size=8)
    images = read_index(run / "synthetic")
    assert (outcome.predicted, len(outcome.problems)) == (len(images), 10)
    found = rows_of(tmp_path / "out.csv")
    assert found.keys() == {image.image_id for image in images}
    for name, values in rows_of(run / "test.csv").items():
        np.testing.assert_allclose(found[name], values, atol=1e-5)


def test_what_cannot_be_done_is_said_before_anything_is_written(
    run, test_part, tmp_path, predict, capsys
):
    image = test_part[0].path
    (tmp_path / "empty").mkdir()
    twin = tmp_path / image.with_suffix(".png").name
    Image.effect_noise((40, 30), 90).save(twin)
    make_pipe(tmp_path / "pipe")
    masks = tmp_path / "masks"
    masks.mkdir()
    (masks / "a_segmentation.png").write_bytes(mask_of(test_part[0]).read_bytes())
    (masks / "notes.txt").write_text("text")
    deep = tmp_path / "nowhere" / "out.csv"
    for inputs, options, *messages in [
        (["nowhere.jpg"], {}, "no such image or folder: nowhere.jpg"),
        ([tmp_path / "pipe", image], {}, f"no such image or folder: {tmp_path / 'pipe'}"),
        ([tmp_path / "empty"], {}, f"no images in {tmp_path / 'empty'}: it has no images"),
        ([masks], {}, "error: no ", f": 1 in {masks}, such as a_seg", "other files: 1"),
        ([image, twin], {}, "have one name"),
        ([image], {"out": deep}, f"there is no folder {deep.parent}"),
        ([image], {"of": tmp_path / "no run"}, "no run in"),
    ]:
        code, rows, printed = predict(*inputs, **options)
        assert (code, rows) == (2, None)
        assert all(message in printed.err for message in messages)
    out = tmp_path / "precious.csv"
    out.write_text("precious")
    assert main(["predict", "--run", str(run), str(image), "--out", str(out)]) == 2
    assert "exists: name a new file" in capsys.readouterr().err
    assert out.read_text() == "precious"


def test_a_failure_half_way_leaves_no_file(test_part, tmp_path, monkeypatch, predict):
    def full(*args):
        raise OSError(28, "No space left on device")

    def told_to_end(*args):
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(10)

    before = signal.getsignal(signal.SIGTERM)
    for failure, expected in ((full, 2), (told_to_end, 128 + signal.SIGTERM)):
        monkeypatch.setattr(module, "isic_rows", failure)
        code, rows, printed = predict(test_part[0].path)
        assert (code, rows) == (expected, None)
        assert list(tmp_path.iterdir()) == []
    assert printed.err.endswith("error: stopped\n")
    assert signal.getsignal(signal.SIGTERM) == before


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (b"a\rb.jpg", "has control characters in its name: rename it"),  # not one row for all
        (b"a\xff.jpg", "has a name that is not UTF-8: rename it"),
    ],
)
def test_a_name_that_no_table_can_hold_is_refused(test_part, tmp_path, predict, name, message):
    try:
        copy_of(test_part[0], tmp_path / os.fsdecode(name))
    except OSError:
        pytest.skip("this system has no such names")
    code, rows, printed = predict(tmp_path)
    assert (code, rows) == (2, None)
    assert message in printed.err


def test_a_folder_that_cannot_be_read_is_no_empty_one(test_part, tmp_path, monkeypatch, predict):
    scan, closed = os.scandir, tmp_path / "closed"

    def scandir(path):
        if Path(path) == closed:
            raise PermissionError(13, "Permission denied", str(path))
        return scan(path)

    monkeypatch.setattr(os, "scandir", scandir)
    closed.mkdir()
    copy_of(test_part[0], tmp_path / "a.jpg")
    code, _, printed = predict(tmp_path)
    assert (code, f"Permission denied: '{closed}'" in printed.err) == (2, True)


def test_no_more_images_are_held_than_two_batches(run, tmp_path, monkeypatch):
    """Those that are decoded, and those that were predicted last."""
    held, most, lock = weakref.WeakSet(), [], Lock()

    def load(path, size):
        pixels = load_image(path, size)
        with lock:
            held.add(pixels)
            most.append(len(held))
        return pixels

    monkeypatch.setattr(module, "load_image", load)
    outcome = module.predict(run, [run / "synthetic"], tmp_path / "out.csv", batch_size=5)
    assert outcome.predicted > 300
    assert max(most) <= 10


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
def test_masks_have_no_row_and_are_named(test_part, tmp_path, predict, where, named):
    inputs = tmp_path / "segmentation-of-lesions"
    (inputs / where).mkdir(parents=True)
    for image in test_part[:5]:
        copy_of(image, inputs / "images" / image.path.name)
        with Image.open(mask_of(image)) as mask:
            mask.save(inputs / where / named.format(image.image_id))
    code, rows, printed = predict(inputs)
    assert (code, rows.keys()) == (0, {image.image_id for image in test_part[:5]})
    assert "no row for " in printed.out
    assert f": 5 in {inputs / where}, such as " in printed.out
    assert "5 images predicted, 0 left out" in printed.out
    shell_glob = sorted(path for path in inputs.rglob("*") if path.is_file())
    code, same, _ = predict(*shell_glob)
    assert (code, same.keys()) == (0, rows.keys())


def test_pictures_that_only_their_pixels_make_masks_are_named(test_part, tmp_path, predict):
    """Photos may look like that; those on white paper do not, as long as they have colours."""
    folder = tmp_path / "images"
    folder.mkdir()
    with Image.open(mask_of(test_part[0])) as mask, Image.open(test_part[0].path) as picture:
        mask.save(folder / "plain.png")
        Image.new("RGB", picture.size, "white").save(folder / "white.jpg")
        paper = Image.new("RGB", (5 * picture.width, 5 * picture.height), (245, 246, 244))
        paper.paste(picture, (2 * picture.width, 2 * picture.height))
        paper.save(folder / "paper.jpg")
    for inputs in ([folder], sorted(folder.iterdir())):
        code, rows, printed = predict(*inputs)
        assert (code, rows.keys()) == (1, {"paper"})
        for name in ("plain.png", "white.jpg"):
            assert f"left out: {folder / name} looks like a mask" in printed.err


def test_a_photo_that_is_asked_for_may_have_the_name_of_a_mask(test_part, tmp_path, predict):
    photo, mask = copy_of(test_part[0], tmp_path / "my_seg.jpg"), tmp_path / "x_seg.png"
    mask.write_bytes(mask_of(test_part[0]).read_bytes())
    code, rows, printed = predict(photo, mask)
    assert (code, rows.keys()) == (0, {"my_seg"})
    assert "no row for masks or superpixels: 1 in" in printed.out
    assert predict(tmp_path)[:2] == (2, None)


def test_every_kind_of_image_has_a_row_or_is_named(test_part, tmp_path, predict):
    kinds = ["JPEG.jfif", "BMP.bmp", "TIFF.TIF", "WEBP.webp", "GIF.gif", "PNG.Png", "JPEG.x", "PPM"]
    inputs = tmp_path / "inputs"
    inputs.mkdir()
    for image, kind in zip(test_part[:8], kinds, strict=True):
        with Image.open(image.path) as picture:
            picture.save(inputs / kind, format=kind.partition(".")[0])
    for name in ("a.heic", "b.DCM", "c.avif", "d.psd", "empty.tif"):
        (inputs / name).write_bytes(b"")
    with Image.open(test_part[8].path) as picture:
        picture.save(inputs / "thumbnail.nef", format="TIFF")
    (inputs / "table.csv").write_text("a,b\n")
    code, rows, printed = predict(inputs)
    # Of the kinds of image that have a suffix, it is no part of the name.
    assert rows.keys() == {"JPEG", "BMP", "TIFF", "WEBP", "GIF", "PNG", "JPEG.x", "PPM"}
    assert "8 images predicted, 6 left out" in printed.out
    problems = [line for line in printed.err.splitlines() if line.startswith("left out: ")]
    assert (code, len(problems)) == (1, 6)
    assert sum("save it as JPEG or PNG" in line for line in problems) == 5
    assert "no row for other files: 1 in" in printed.out


def test_copies_are_predicted_once(test_part, tmp_path, predict):
    first, second = (tmp_path / name / "a.jpg" for name in ("PART_1", "part_1_"))
    copy_of(test_part[0], first)
    copy_of(test_part[0], second)
    code, _, printed = predict(first.parent, second.parent)
    assert code == 0
    assert f"no row for copies of other images: 1 in {second.parent}" in printed.out
    copy_of(test_part[1], second)
    code, _, printed = predict(first.parent, second.parent)
    assert (code, "have one name" in printed.err) == (2, True)
