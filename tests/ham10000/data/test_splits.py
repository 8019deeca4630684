"""Protocols, folds and their files: sizes, lesions that stay whole, the leak."""

import csv
import random
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from examples.ham10000.config import PARTS, read_options
from examples.ham10000.data.index import CLASSES, SHIPPED, Image, read_index
from examples.ham10000.data.splits import (
    PROTOCOLS,
    by_image,
    by_lesion,
    deal,
    draw_split,
    leak,
    read_split,
    write_split,
)
from examples.ham10000.given import train_config
from tests.ham10000.finished import begin


@pytest.mark.parametrize(("protocol", "low", "high"), [("lesion", 0, 0), ("paper", 0.34, 0.40)])
def test_the_command_writes_the_papers_sizes_and_prints_the_leak(
    ham10000, tmp_path, command, protocol, low, high
):
    file = tmp_path / "split.csv"
    words = ["split", "--data", ham10000, "--protocol", protocol, "--out", file]
    printed = command(0, *words)
    with file.open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert list(rows[0]) == ["image_id", "lesion_id", "dx", "split"]
    total = Counter(row["dx"] for row in rows)
    counts = Counter((row["split"], row["dx"]) for row in rows)
    assert sum(total.values()) == 10_015
    assert sum(n // 10 for n in total.values()) == 998  # the paper's test set
    assert all(counts["test", dx] == counts["val", dx] == n // 10 for dx, n in total.items())
    ids = {row["image_id"]: row["lesion_id"] for row in rows}
    with SHIPPED.open(newline="") as stream:
        one = {ids[first]: ids[second] for first, second in list(csv.reader(stream))[1:]}

    def leaked(names):
        lesions = {
            part: [names.get(r["lesion_id"], r["lesion_id"]) for r in rows if r["split"] == part]
            for part in PARTS
        }
        return sum(name in set(lesions["train"]) for name in lesions["test"]) / 998

    assert low <= leaked({}) <= high
    shown = f"leak: {leaked(one):.3f} of the test images show a lesion that is in train"
    assert f"{shown} ({leaked({}):.3f} by lesion_id alone)" in printed
    assert "exists: name a new file" in command(2, *words)
    images = read_index(ham10000)
    assert read_split(file, images) == PROTOCOLS[protocol](images, 0) != by_lesion(images, 4)


def test_the_folds_of_the_real_data(ham10000):
    """Each class is shared out to the image, and so are all images together."""
    images = read_index(ham10000)
    splits = [draw_split(images, 0, "lesion", 5, fold) for fold in range(5)]
    assert [len(split["test"]) for split in splits] == [2003] * 5
    assert sorted(i for split in splits for i in split["test"]) == list(range(10_015))
    total = Counter(image.label for image in images)
    for split in splits:
        for label, count in total.items():
            assert abs(sum(images[i].label == label for i in split["test"]) - count / 5) < 1
            assert sum(images[i].label == label for i in split["val"]) == count // 10
        lesions = [{images[i].lesion for i in split[part]} for part in PARTS]
        assert sum(map(len, lesions)) == len(set.union(*lesions)) == 7452
    assert draw_split(images, 1, "lesion", 5, 2)["val"] != splits[2]["val"]


@st.composite
def indexes(draw):
    """Seven classes whose lesions have one to six images, some under two ids, in any order."""
    sizes = draw(st.lists(st.integers(1, 6), min_size=25, max_size=35))
    images = [
        Image(f"{label}-{n}-{k}", f"{label}-{n}-{k % 2}", label, Path(), f"{label}-{n}-0")
        for label in range(len(CLASSES))
        for n, size in enumerate(sizes[label:])
        for k in range(size)
    ]
    random.Random(draw(st.integers(0, 99))).shuffle(images)
    return images


def names(images, split):
    return {part: {images[i].image_id for i in split[part]} for part in PARTS}


def assert_shared_out(images, split, drawn, whole):
    """Every image is in one part; of each class a tenth, or less by one lesion, is in ``drawn``."""
    assert sorted(i for part in PARTS for i in split[part]) == list(range(len(images)))
    for label in range(len(CLASSES)):
        tenth = sum(image.label == label for image in images) // 10
        for part in drawn:
            count = sum(images[i].label == label for i in split[part])
            assert tenth - (6 if whole else 1) < count <= tenth
    lesions = [{images[i].lesion for i in split[part]} for part in PARTS]
    assert not whole or sum(map(len, lesions)) == len(set.union(*lesions))


@given(indexes(), st.integers(0, 2**32), st.sampled_from(list(PROTOCOLS)))
def test_protocols(images, seed, protocol):
    split = PROTOCOLS[protocol](images, seed)
    assert_shared_out(images, split, ("test", "val"), protocol == "lesion")
    backwards = images[::-1]
    assert names(images, split) == names(backwards, PROTOCOLS[protocol](backwards, seed))


@given(indexes(), st.integers(2, 7), st.integers(0, 2**32), st.integers(0, 2**32))
def test_folds_are_even_and_whatever_the_seed(images, folds, seed, other_seed):
    named = dict(zip((i.image_id for i in images), deal(images, folds), strict=True))
    backwards = images[::-1]
    assert named == dict(zip((i.image_id for i in backwards), deal(backwards, folds), strict=True))
    for label in range(len(CLASSES)):
        of_class = Counter(named[i.image_id] for i in images if i.label == label)
        largest = max(Counter(i.lesion for i in images if i.label == label).values())
        assert max(of_class.values()) - min(of_class[f] for f in range(folds)) <= largest
    for fold in range(folds):
        split, other = (draw_split(images, s, "lesion", folds, fold) for s in (seed, other_seed))
        assert split["test"] == other["test"]
        assert split["test"] == [n for n, i in enumerate(images) if named[i.image_id] == fold]
        assert_shared_out(images, split, ("val",), whole=True)


def test_too_few_images_of_a_class_are_an_error():
    images = [Image(f"i{n}", f"l{n}", n % 7, Path()) for n in range(63)]
    with pytest.raises(ValueError, match=r"class akiec has 9 images, of which 9 can .* too few"):
        by_image(images, 0)
    one_lesion = [Image(f"i{n}", f"l{n if n % 7 else 0}", n % 7, Path()) for n in range(140)]
    with pytest.raises(ValueError, match=r"class akiec has 20 images, of which 1 can .* too few"):
        by_lesion(one_lesion, 0)
    with pytest.raises(ValueError, match="no test images"):
        leak(images, {"train": [0], "val": [], "test": []})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--folds 5", "--folds 5 needs --fold, the one that is tested: 0 to 4"),
        ("--fold 0", "--fold 0 needs --folds, the number of all folds"),
        ("--folds 1 --fold 0", "--folds must be at least 2, got 1"),
        ("--folds 5 --fold 5", "--fold must be 0 to 4 with --folds 5, got 5"),
        ("--folds 5 --fold -1", "--fold must be 0 to 4 with --folds 5, got -1"),
        ("--folds 5 --fold 1 --protocol paper", "--folds is for --protocol lesion, not for paper"),
        ("--folds 11 --fold 0", "class akiec has 10 lesions: too few for --folds 11"),
    ],
)
def test_options_that_do_not_go_together(folder, tmp_path, options, message, command):
    out = tmp_path / "s.csv"
    assert message in command(2, "split", "--data", folder, "--out", out, *options.split())
    assert not out.exists()


def test_the_command_splits_by_fold_and_seed(folder, tmp_path, command):
    def split(*options):
        file = tmp_path / f"{len(list(tmp_path.iterdir()))}.csv"
        printed = command(0, "split", "--data", folder, "--out", file, *options)
        return printed.splitlines()[0], file.read_text()

    assert split() == split("--seed", 0) != split("--seed", 1)
    for fold in (0, 1):
        assert split("--folds", 2, "--fold", fold)[0] == "28 train, 7 val, 35 test images"
    split("--folds", 10, "--fold", 0)  # as many as there are lesions
    with pytest.raises(SystemExit):  # which trains by the paper's protocol
        command(2, "reproduce", "--table", 5, "--data", folder, "--folds", 5, "--fold", 1)


def test_a_run_says_which_fold_it_tested(tmp_path):
    config = train_config({"folds": 5, "fold": 3})
    assert config.split_name == "lesion split, fold 3 of 5"
    assert config.out.name.endswith("-seed0-fold3")
    begin(tmp_path / "run", folds=5, fold=3)
    assert read_options(tmp_path / "run").split_name == config.split_name
    begin(tmp_path / "old")  # whose options know of no folds
    assert read_options(tmp_path / "old").split_name == "lesion split"
    assert replace(config, fold=None).split_name == "lesion split, 5 folds"


@pytest.fixture
def split_file(folder, tmp_path):
    images = read_index(folder)
    file = tmp_path / "split.csv"
    write_split(file, images, by_lesion(images, 0))
    return file, images


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("ISIC_31,HAM_31,df,holdout", "line 33: unknown part 'holdout'; known are train, val, tes"),
        ("ISIC_30,HAM_30,df,train", "line 33: image ISIC_30 stands there twice"),
        ("ISIC_99,HAM_31,df,train", "line 33: image ISIC_99 is not in the data"),
        ("ISIC_31,HAM_30,df,train", "line 33: image ISIC_31 is HAM_30, df here and HAM_31, df in"),
        ("ISIC_31,HAM_31,nv,train", "line 33: image ISIC_31 is HAM_31, nv here and HAM_31, df in"),
        ("ISIC_31,HAM_31,df,", "line 33: split is empty"),
        ("", "no part for 1 of 70 images: ISIC_31"),
    ],
)
def test_files_that_do_not_fit_the_data_are_refused(split_file, row, message):
    file, images = split_file
    lines = file.read_text().splitlines()
    assert lines[32].startswith("ISIC_31,")
    lines[32] = row
    file.write_text("\n".join(lines))
    with pytest.raises(ValueError, match=message):
        read_split(file, images)


def test_rows_may_stand_in_any_order_and_some_be_left_out(split_file, tmp_path):
    file, images = split_file
    before = names(images, read_split(file, images))
    header, *rows = file.read_text().splitlines()
    file.write_text("\n".join([header, *rows[::-1]]))
    assert names(images, read_split(file, images)) == before
    file.write_text("\n".join([header, *rows[9:]]))
    left = {image.image_id for image in images[9:]}
    expected = {part: chosen & left for part, chosen in before.items()}
    assert names(images, read_split(file, images, complete=False)) == expected
    with pytest.raises(FileNotFoundError, match=r"no split file .*nowhere"):
        read_split(tmp_path / "nowhere", images)
