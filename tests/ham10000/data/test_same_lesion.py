"""Lesions with several ids are one, everywhere and whatever the metadata say."""

import csv
import re
from collections import Counter
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from examples.ham10000.cli import main
from examples.ham10000.config import PARTS
from examples.ham10000.data.check import check
from examples.ham10000.data.index import CLASSES, SHIPPED, Image, Pair, join, read_index, read_pairs
from examples.ham10000.data.splits import by_image, by_lesion, leak
from examples.ham10000.given import train_config
from examples.ham10000.run import create_run, prepare
from tests.ham10000.runs import MODEL

HEADER = "image_id_1,image_id_2"


@pytest.fixture
def table(tmp_path):
    """A table of pairs, written by the test."""

    def write(*rows):
        (tmp_path / "same.csv").write_text("\n".join([HEADER, *rows]) + "\n")
        return tmp_path / "same.csv"

    return write


def shipped():
    with SHIPPED.open(newline="") as stream:
        return [(row["image_id_1"], row["image_id_2"]) for row in csv.DictReader(stream)]


def test_the_shipped_pairs_are_of_the_real_data(ham10000):
    """Eighteen, of one diagnosis each, and no lesion is in two of them."""
    assert SHIPPED.read_text() == (ham10000 / "same_lesion.csv").read_text()
    images = {image.image_id: image for image in read_index(ham10000)}
    pairs = [(images[a], images[b]) for a, b in shipped()]
    assert Counter(CLASSES[a.label] for a, _ in pairs) == {"nv": 12, "bkl": 6}
    assert all(a.lesion_id != b.lesion_id and a.label == b.label for a, b in pairs)
    assert all(a.lesion == b.lesion == min(a.lesion_id, b.lesion_id) for a, b in pairs)
    ids = {image.lesion_id for image in images.values()}
    assert (len(ids), len({image.lesion for image in images.values()})) == (7470, 7470 - 18)
    joined = {image.lesion_id for pair in pairs for image in pair}
    others = [image for image in images.values() if image.lesion_id not in joined]
    assert all(image.lesion == image.lesion_id and image.joined is None for image in others)


@given(st.lists(st.tuples(st.integers(0, 12), st.integers(0, 12))), st.integers(1, 3))
def test_lesions_are_joined_as_far_as_pairs_reach(edges, images_each):
    """The components of a graph, found by spreading names until nothing moves."""
    lesion_ids = {f"i{n}": f"l{n // images_each:02}" for n in range(13)}
    found = join(lesion_ids, [Pair("", f"i{a}", f"i{b}") for a, b in edges])
    expected = {name: name for name in lesion_ids.values()}
    for _ in expected:
        for a, b in edges:
            two = lesion_ids[f"i{a}"], lesion_ids[f"i{b}"]
            expected |= dict.fromkeys(two, min(expected[name] for name in two))
    assert found == {name: low for name, low in expected.items() if name != low}


def test_a_further_table_joins_more(folder, table):
    file = table("part/ISIC_05.JPG,ISIC_06", "ISIC_03,ISIC_05", "ISIC_63,ISIC_63")
    images = {image.image_id: image for image in read_index(folder, same_lesion=file)}
    assert [images[f"ISIC_0{n}"].lesion for n in (3, 5, 6)] == ["HAM_03"] * 3
    assert images["ISIC_06"].lesion_id == "HAM_06"
    assert len({image.lesion for image in images.values()}) == 68


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (["ISIC_01,ISIC_99"], r"same.csv, line 2: image ISIC_99 is not in the data: remove"),
        (["ISIC_01,ISIC_02", "ISIC_01,ISIC_11"], r"same.csv, line 3: images ISIC_01 \(akiec\) and "
         r"ISIC_11 \(bcc\) cannot be of one lesion"),
        (["ISIC_01"], r"same.csv, line 2: 1 fields for 2 columns"),
    ],
)  # fmt: skip
def test_a_further_table_that_is_wrong(folder, table, rows, message, capsys):
    file = table(*rows)
    with pytest.raises(ValueError, match=message):
        read_index(folder, same_lesion=file)
    out = ["--out", str(file.with_name("out"))]
    for command in (["check"], ["split", *out], ["reproduce", "--table", "5", *out]):
        assert main([*command, "--data", str(folder), "--same-lesion", str(file)]) > 0
        assert re.search(message, "".join(capsys.readouterr()))
    gone = folder / "nowhere.csv"
    with pytest.raises(FileNotFoundError, match=r"no table .*nowhere.csv of images"):
        read_index(folder, same_lesion=gone)
    assert main(["check", "--data", str(folder), "--same-lesion", str(gone)]) == 2


def test_pairs_of_other_data_are_passed_over(folder, table):
    both = read_pairs(table("a,b"), {"a", "b", "ISIC_0033421", "ISIC_0033481"})
    assert [pair[1:] for pair in both] == [("ISIC_0033421", "ISIC_0033481"), ("a", "b")]
    assert read_pairs(None, {"ISIC_0033421"}) == []  # the other image of the pair is missing
    assert all(image.joined is None for image in read_index(folder))


def test_check_lists_the_pairs(folder, table, ham10000, capsys):
    name = "images of one lesion with two lesion_ids"
    part = folder / "HAM10000_images_part_1"
    (part / "ISIC_06.jpg").write_bytes((part / "ISIC_08.jpg").read_bytes())
    report = check(folder, table("ISIC_08,ISIC_06", "ISIC_07,ISIC_07", "ISIC_06,ISIC_08"))
    listed = {finding.name: finding.items for finding in report.findings}
    assert listed[name] == ["ISIC_06 = ISIC_08 (HAM_06, HAM_08)"]
    assert listed["byte-identical images"] == ["ISIC_06 = ISIC_08 (one lesion)"]
    assert report.usable
    assert main(["check", "--data", str(ham10000)]) == 0
    printed = capsys.readouterr().out
    assert f"{name:44}    18\n" in printed
    assert all(f"{first} = {second} (HAM_" in printed for first, second in shipped())


def parts_by_lesion_id(images, seed):
    """The rule before lesions were joined, once more: the part of every image."""
    generator = np.random.default_rng(seed)
    parts = {}
    for label in range(len(CLASSES)):
        of_class = [image for image in images if image.label == label]
        sizes = Counter(image.lesion_id for image in of_class)
        names, free = np.unique(list(sizes)), [len(of_class) // 10] * 2
        chosen = {}
        for name in names[generator.permutation(len(names))]:
            fits = [n for n in (0, 1) if sizes[name] <= free[n]]
            for n in fits[:1]:
                free[n] -= sizes[name]
            chosen[name] = ("test", "val")[fits[0]] if fits else "train"
        parts |= {image.image_id: chosen[image.lesion_id] for image in of_class}
    return parts


def parts_of(images, split):
    return {images[i].image_id: part for part in PARTS for i in split[part]}


@pytest.mark.parametrize("seed", range(6))
def test_a_split_changes_by_the_joined_lesions_only(ham10000, seed):
    """In at most 29 of 10,015 images for these seeds; without joined lesions in none."""
    images = read_index(ham10000)
    before = parts_by_lesion_id(images, seed)
    split = by_lesion(images, seed)
    after = parts_of(images, split)
    assert all(after[first] == after[second] for first, second in shipped())
    assert sum(after[name] != before[name] for name in before) <= 29
    assert Counter(after.values()) == Counter(before.values())
    by_id = [replace(image, joined=None) for image in images]
    unjoined = by_lesion(by_id, seed)
    assert parts_of(images, unjoined) == before
    assert leak(images, split) == 0 == leak(by_id, split) == leak(by_id, unjoined)
    ids = {image.image_id: image.lesion_id for image in images}
    part_of = {ids[name]: before[name] for name in before}
    couples = [(ids[a], ids[b]) for pair in shipped() for a, b in (pair, pair[::-1])]
    leaking = {a for a, b in couples if (part_of[a], part_of[b]) == ("test", "train")}
    expected = sum(image.lesion_id in leaking for image in images) / 998
    assert leak(images, unjoined) == pytest.approx(expected)


@given(st.lists(st.integers(1, 4), min_size=25, max_size=35), st.integers(0, 2**32), st.data())
def test_joined_lesions_stay_whole(sizes, seed, data):
    images = [
        Image(f"{label}-{n}-{k}", f"{label}-{n:02}", label, Path())
        for label in range(len(CLASSES))
        for n, size in enumerate(sizes)
        for k in range(size)
    ]
    assert parts_of(images, by_lesion(images, seed)) == parts_by_lesion_id(images, seed)
    chains = data.draw(st.lists(st.lists(st.integers(0, 24), max_size=3), max_size=4))
    pairs = [(f"0-{a:02}", f"0-{b:02}") for chain in chains for a, b in pairwise(chain)]
    joined = join(
        {image.image_id: image.lesion_id for image in images},
        [Pair("", f"0-{int(a[2:])}-0", f"0-{int(b[2:])}-0") for a, b in pairs],
    )
    images = [replace(image, joined=joined.get(image.lesion_id)) for image in images]
    try:
        after = parts_of(images, by_lesion(images, seed))
    except ValueError:  # so many are one that they fit into no part but training
        return
    part_of = {image.lesion_id: after[image.image_id] for image in images}
    assert all(part_of[a] == part_of[b] for a, b in pairs)
    images_of_test = sum(sizes) // 10
    for part in ("test", "val"):
        assert sum(after[i.image_id] == part for i in images if i.label) <= 6 * images_of_test


@pytest.mark.parametrize("protocol", ["lesion", "paper"])
def test_the_split_command_prints_the_leak_with_and_without_them(
    folder, table, tmp_path, capsys, protocol
):
    """Of the seven test images one is, by a table, of a lesion of the training part."""
    images = read_index(folder)
    parts = parts_of(images, {"lesion": by_lesion, "paper": by_image}[protocol](images, 0))
    first = {part: next(name for name in parts if parts[name] == part) for part in PARTS}
    file, out = table(f"{first['test']},{first['train']}"), tmp_path / "split.csv"
    command = ["split", "--protocol", protocol, "--data", str(folder), "--out", str(out)]
    assert main([*command, "--same-lesion", str(file)]) == 0
    printed = capsys.readouterr().out.splitlines()[1:]
    now = {"lesion": "0.000", "paper": "0.143"}[protocol]
    expected = f"leak: {now} of the test images show a lesion that is in train (0.000 by lesion_id"
    assert printed[0] == f"{expected} alone)"
    assert printed[1:] == {
        "lesion": ["1 lesion_ids are joined with others; had they not been, the split would leak "
                   "0.143"],
        "paper": [],
    }[protocol]  # fmt: skip


def test_a_run_keeps_its_table(folder, table, tmp_path):
    """And goes on with it, whatever has become of the one that was given."""
    file = table("ISIC_15,ISIC_16", "ISIC_13,ISIC_14")
    given = {"data": folder, "same_lesion": file, "image_size": 32, "model": MODEL}
    config = train_config({**given, "attention": "SE", "batch_size": 8, "out": tmp_path / "run"})
    create_run(config)
    first, _ = prepare(config)
    assert (config.out / "same_lesion.csv").read_text() == file.read_text()
    file.unlink()
    again, _ = prepare(config)
    for data in (first, again):
        lesions = {image.image_id: image.lesion for image in data.images}
        assert [lesions[f"ISIC_{n}"] for n in (16, 14)] == ["HAM_15", "HAM_13"]
    (config.out / "same_lesion.csv").unlink()
    with pytest.raises(FileNotFoundError, match=r"no table .*run/same_lesion.csv"):
        prepare(config)
