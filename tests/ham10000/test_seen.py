"""Weights of an earlier run that has learned from what is tested now."""

import shutil
from pathlib import Path

import pytest

from examples.ham10000.cli import main
from examples.ham10000.config import read_options
from examples.ham10000.data.index import Image
from examples.ham10000.data.splits import by_image, draw_split, write_split
from examples.ham10000.model import build_network
from examples.ham10000.seen import check_unseen
from tests.ham10000.finished import begin
from tests.ham10000.runs import MODEL, QUICK

# Twenty lesions of each class, of two images each.
IMAGES = [Image(f"I{n:03}", f"L{n // 2:03}", n // 2 % 7, Path("x.jpg")) for n in range(280)]


def lesions(images, parts):
    return {IMAGES[i].lesion_id for part in parts for i in images[part]}


@pytest.fixture
def check(tmp_path):
    """Check weights of a run with one split for a run with another one."""

    def call(old, new, *, weights=None, of_run=True, earlier="imagenet", **options):
        run = tmp_path / "old"
        if not run.exists():
            begin(run, weights=earlier)
            write_split(run / "split.csv", IMAGES, old)
        begin(tmp_path / "new", weights=weights or run / "best.ckpt", **options)
        config = read_options(tmp_path / "new")
        shutil.rmtree(tmp_path / "new")
        check_unseen(config, IMAGES, new, of_run=of_run)

    return call


@pytest.mark.parametrize("protocol", ["lesion", "paper"])
def test_the_same_split_has_nothing_that_was_seen(protocol, check, capsys):
    split = draw_split(IMAGES, 0, protocol)
    check(split, split)
    assert capsys.readouterr().out == ""


def test_another_fold_was_trained_on(check, tmp_path):
    old, new = (draw_split(IMAGES, 0, "lesion", 5, fold) for fold in (0, 1))
    seen = lesions(old, ("train", "val"))
    known = [IMAGES[i].image_id for i in new["test"] if IMAGES[i].lesion_id in seen]
    assert len(known) == len(new["test"])  # folds have nothing in common
    with pytest.raises(ValueError, match=r"give the best\.ckpt of a run with the same split") as e:
        check(old, new)
    start = f"{len(known)} of the {len(known)} test images show lesions of the train or val part of"
    assert f"{start} {tmp_path / 'old'}, from which --weights" in str(e.value)


def test_an_image_of_another_split_by_image_was_trained_on(check):
    old, new = by_image(IMAGES, 0), by_image(IMAGES, 1)
    ids = {IMAGES[i].image_id for part in ("train", "val") for i in old[part]}
    own = lesions(new, ("train", "val"))
    known = [
        IMAGES[i]
        for i in new["test"]
        if IMAGES[i].image_id in ids or IMAGES[i].lesion_id not in own
    ]
    with pytest.raises(ValueError, match=rf"^{len(known)} of the {len(new['test'])} test images"):
        check(old, new)


def test_what_chooses_the_epoch_was_trained_on(check):
    old = draw_split(IMAGES, 0, "lesion")
    new = {**old, "train": old["val"] + old["train"][20:], "val": old["train"][:20]}
    with pytest.raises(ValueError, match=r"20 of the 20 val images show lesions of the train part"):
        check(old, new)


@pytest.mark.parametrize("whose", ["old", "new"])
def test_lesions_with_two_ids_are_one(whose, check, tmp_path):
    split = draw_split(IMAGES, 0, "lesion")
    trained, tested = (IMAGES[split[part][0]] for part in ("train", "test"))
    table = tmp_path / "pairs.csv"
    table.write_text(f"image_id_1,image_id_2\n{trained.image_id},{tested.image_id}\n")
    check(split, split)
    options = {"same_lesion": table} if whose == "new" else {}
    if whose == "old":
        table.rename(tmp_path / "old" / "same_lesion.csv")
    with pytest.raises(ValueError, match=r"^2 of the 28 test images show"):
        check(split, split, **options)


def test_what_the_weights_of_the_weights_were_trained_on(check, tmp_path):
    old, new = (draw_split(IMAGES, 0, "lesion", 5, fold) for fold in (0, 1))
    begin(tmp_path / "older", weights=tmp_path / "old" / "best.ckpt")  # trained anew since
    write_split(tmp_path / "older" / "split.csv", IMAGES, old)
    with pytest.raises(ValueError, match=r"val part of .*older, from which"):
        check(new, new, earlier=tmp_path / "older" / "best.ckpt")


def test_of_a_checkpoint_without_its_run_it_is_said(run, check, tmp_path, capsys):
    file = tmp_path / "best.ckpt"
    shutil.copyfile(run / "best.ckpt", file)
    split = draw_split(IMAGES, 0, "lesion")
    assert build_network(MODEL, 7, str(file), "CaCo").of_run
    check(split, split, weights=file)
    said = f"Weights: it cannot be checked whether {file} has learned from images that are tested"
    assert capsys.readouterr().out.startswith(said)
    check(split, split, weights=file, of_run=False)  # any other file
    assert capsys.readouterr().out == ""


def test_a_run_does_not_begin_with_weights_of_another_seed(run, tmp_path, capsys):
    options = ["--weights", str(run / "best.ckpt"), "--data", str(run / "synthetic")]
    options += ["--seed", "1", "--out", str(tmp_path / "r")]
    assert main([*QUICK, "--image-size", "48", *options]) == 2
    assert f"test images show lesions of the train or val part of {run}" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
