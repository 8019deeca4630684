"""Folds: every image is tested once, lesions stay whole, and the seed has no say."""

import random
import re
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from examples.ham10000.cli import main
from examples.ham10000.config import PARTS, read_options
from examples.ham10000.data.index import CLASSES, Image, read_index
from examples.ham10000.data.splits import by_fold, deal
from examples.ham10000.given import train_config
from tests.ham10000.finished import begin

FOLDS = 5


def test_the_folds_of_the_real_data(ham10000):
    """Each class is shared out to the image, and so are all images together."""
    images = read_index(ham10000)
    splits = [by_fold(images, 0, FOLDS, fold) for fold in range(FOLDS)]
    tested = [i for split in splits for i in split["test"]]
    assert sorted(tested) == list(range(10_015))
    assert [len(split["test"]) for split in splits] == [2003] * FOLDS
    total = Counter(image.label for image in images)
    for split in splits:
        for label, count in total.items():
            assert abs(sum(images[i].label == label for i in split["test"]) - count / FOLDS) < 1
            assert sum(images[i].label == label for i in split["val"]) == count // 10
        lesions = [{images[i].lesion for i in split[part]} for part in PARTS]
        assert sum(map(len, lesions)) == len(set.union(*lesions)) == 7452
        assert sorted(i for part in PARTS for i in split[part]) == list(range(10_015))


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


@given(indexes(), st.integers(2, 7), st.integers(0, 2**32), st.integers(0, 2**32))
def test_folds_are_even_and_whatever_the_seed(images, folds, seed, other_seed):
    named = dict(zip((i.image_id for i in images), deal(images, folds), strict=True))
    backwards = images[::-1]
    assert named == dict(zip((i.image_id for i in backwards), deal(backwards, folds), strict=True))
    assert len({(i.lesion, named[i.image_id]) for i in images}) == len({i.lesion for i in images})
    for label in range(len(CLASSES)):
        of_class = Counter(named[i.image_id] for i in images if i.label == label)
        largest = max(Counter(i.lesion for i in images if i.label == label).values())
        assert max(of_class.values()) - min(of_class[f] for f in range(folds)) <= largest
    for fold in range(folds):
        split, other = (by_fold(images, of, folds, fold) for of in (seed, other_seed))
        assert split["test"] == other["test"]
        assert split["test"] == [n for n, i in enumerate(images) if named[i.image_id] == fold]
        assert sorted(i for part in PARTS for i in split[part]) == list(range(len(images)))
        lesions = [{images[i].lesion for i in split[part]} for part in PARTS]
        assert sum(map(len, lesions)) == len(set.union(*lesions))
        for label in range(len(CLASSES)):
            number = sum(image.label == label for image in images)
            validated = sum(images[i].label == label for i in split["val"])
            assert number // 10 - 6 < validated <= number // 10


def test_the_validation_part_follows_the_seed(ham10000):
    images = read_index(ham10000)
    first, same, other = (by_fold(images, seed, FOLDS, 2) for seed in (0, 0, 1))
    assert first == same
    assert first["val"] != other["val"]


BOTH = ["--folds", "5", "--fold", "1"]
REFUSALS = [
    (["--folds", "5"], "--folds 5 needs --fold, the one that is tested: 0 to 4"),
    (["--fold", "0"], "--fold 0 needs --folds, the number of all folds"),
    (["--folds", "1", "--fold", "0"], "--folds must be at least 2, got 1"),
    (["--folds", "5", "--fold", "5"], "--fold must be 0 to 4 with --folds 5, got 5"),
    (["--folds", "5", "--fold", "-1"], "--fold must be 0 to 4 with --folds 5, got -1"),
    ([*BOTH, "--protocol", "paper"], "--folds is for --protocol lesion, not for paper"),
    (["--folds", "11", "--fold", "0"], "class akiec has 10 lesions: too few for --folds 11"),
    (["--folds", "10", "--fold", "0"], None),
]


@pytest.mark.parametrize(("options", "message"), REFUSALS)
def test_options_that_do_not_go_together(folder, tmp_path, options, message, capsys):
    split = ["split", "--data", str(folder), "--out", str(tmp_path / "s.csv"), *options]
    assert main(split) == (2 if message else 0)
    train = ["train", "--data", str(folder), "--out", str(tmp_path / "run"), *options]
    if message:
        assert message in capsys.readouterr().err
        assert main(train) == 2
        assert message in capsys.readouterr().err
        assert not (tmp_path / "run").exists()


def test_a_split_file_has_no_folds(folder, tmp_path, capsys):
    command = ["train", "--data", str(folder), "--split-file", "s.csv", *BOTH]
    assert main([*command, "--out", str(tmp_path / "run")]) == 2
    assert "--folds and --split-file both say what is tested" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["reproduce", "--table", "5", "--data", str(folder), *BOTH])


def test_a_run_says_which_fold_it_tested(tmp_path):
    config = train_config({"folds": 5, "fold": 3})
    assert config.split_name == "lesion split, fold 3 of 5"
    assert re.search(r"-seed0-fold3$", config.out.name)
    begin(tmp_path / "run", folds=5, fold=3)
    assert read_options(tmp_path / "run").split_name == config.split_name
    begin(tmp_path / "old")  # whose options know of no folds
    assert read_options(tmp_path / "old").split_name == "lesion split"
    assert replace(config, fold=None).split_name == "lesion split, 5 folds"


def test_the_command_splits_by_fold(folder, tmp_path, capsys):
    tests = []
    for fold in range(2):
        file = tmp_path / f"{fold}.csv"
        command = ["split", "--data", str(folder), "--out", str(file), "--seed", str(fold)]
        assert main([*command, "--folds", "2", "--fold", str(fold)]) == 0
        assert capsys.readouterr().out.startswith("28 train, 7 val, 35 test images\n")
        rows = [line.split(",") for line in file.read_text().splitlines()]
        tests.append({row[0] for row in rows if row[3] == "test"})
    assert tests[0] | tests[1] == {image.image_id for image in read_index(folder)}
