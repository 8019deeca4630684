"""Lesions with several ids are one, everywhere and whatever the metadata say."""

import csv
import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from examples.ham10000.config import PARTS
from examples.ham10000.data.check import check
from examples.ham10000.data.index import CLASSES, SHIPPED, Image, Pair, join, read_index, read_pairs
from examples.ham10000.data.splits import by_image, by_lesion
from examples.ham10000.given import train_config
from examples.ham10000.run import create_run, prepare
from tests.ham10000.runs import MODEL


@pytest.fixture
def table(tmp_path):
    """A table of pairs, written by the test."""

    def write(*rows):
        file = tmp_path / "same.csv"
        file.write_text("\n".join(["image_id_1,image_id_2", *rows]))
        return file

    return write


def shipped():
    with SHIPPED.open(newline="") as stream:
        return [(row["image_id_1"], row["image_id_2"]) for row in csv.DictReader(stream)]


def test_the_shipped_pairs_are_of_the_real_data(ham10000):
    """Eighteen, of one diagnosis each, and no lesion is in two of them; no split divides them."""
    assert SHIPPED.read_text() == (ham10000 / "same_lesion.csv").read_text()
    real = read_index(ham10000)
    images = {image.image_id: image for image in real}
    pairs = [(images[a], images[b]) for a, b in shipped()]
    assert Counter(CLASSES[a.label] for a, _ in pairs) == {"nv": 12, "bkl": 6}
    assert all(a.lesion_id != b.lesion_id and a.label == b.label for a, b in pairs)
    assert all(a.lesion == b.lesion == min(a.lesion_id, b.lesion_id) for a, b in pairs)
    assert len({image.lesion_id for image in real}) == 7470
    assert len({image.lesion for image in real}) == 7470 - 18
    parts, before = parts_of(real, by_lesion(real, 0)), parts_by_lesion_id(real, 0)
    assert all(parts[first] == parts[second] for first, second in shipped())
    assert sum(parts[name] != before[name] for name in before) <= 29
    assert Counter(parts.values()) == Counter(before.values())


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
    assert all(image.joined is None for image in read_index(folder))
    file = table("part/ISIC_05.JPG,ISIC_06", "ISIC_03,ISIC_05", "ISIC_63,ISIC_63")
    images = {image.image_id: image for image in read_index(folder, same_lesion=file)}
    assert [images[f"ISIC_0{n}"].lesion for n in (3, 5, 6)] == ["HAM_03"] * 3
    assert images["ISIC_06"].lesion_id == "HAM_06"
    assert len({image.lesion for image in images.values()}) == 68


@pytest.mark.parametrize(
    ("rows", "code", "message"),
    [
        (["ISIC_01,ISIC_99"], 1, "line 2: image ISIC_99 is not in the data: remove"),
        (["ISIC_01,ISIC_02", "ISIC_01,ISIC_11"], 1, r"line 3: images ISIC_01 \(akiec\) and ISIC_11 "
         r"\(bcc\) cannot be of one lesion"),
        (["ISIC_01"], 2, "line 2: 1 fields for 2 columns"),
    ],
)  # fmt: skip
def test_a_further_table_that_is_wrong(folder, table, rows, code, message, command):
    file = table(*rows)
    given = ["--data", folder, "--same-lesion", file]
    out = ["--out", file.with_name("out")]
    assert re.search(f"same.csv, {message}", command(code, "check", *given))
    for words in (["split"], ["reproduce", "--table", 5]):
        assert re.search(f"same.csv, {message}", command(2, *words, *given, *out))
    file.unlink()
    assert f"no table {file} of images" in command(2, "check", *given)


def test_pairs_of_other_data_are_passed_over(table):
    both = read_pairs(table("a,b"), {"a", "b", "ISIC_0033421", "ISIC_0033481"})
    assert [pair[1:] for pair in both] == [("ISIC_0033421", "ISIC_0033481"), ("a", "b")]
    assert read_pairs(None, {"ISIC_0033421"}) == []  # the other image of the pair is missing


def test_check_lists_the_pairs(folder, table):
    part = folder / "HAM10000_images_part_1"
    (part / "ISIC_06.jpg").write_bytes((part / "ISIC_08.jpg").read_bytes())
    report = check(folder, table("ISIC_08,ISIC_06", "ISIC_07,ISIC_07", "ISIC_06,ISIC_08"))
    assert {name: items for name, items in report.findings.items() if items} == {
        "images of one lesion with two lesion_ids": ["ISIC_06 = ISIC_08 (HAM_06, HAM_08)"],
        "byte-identical images": ["ISIC_06 = ISIC_08 (one lesion)"],
    }
    assert report.usable


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


@given(st.lists(st.integers(1, 4), min_size=25, max_size=35), st.integers(0, 2**32))
def test_where_no_lesions_are_joined_the_split_is_as_before(sizes, seed):
    images = [
        Image(f"{label}-{n}-{k}", f"{label}-{n:02}", label, Path())
        for label in range(len(CLASSES))
        for n, size in enumerate(sizes)
        for k in range(size)
    ]
    assert parts_of(images, by_lesion(images, seed)) == parts_by_lesion_id(images, seed)


@pytest.mark.parametrize(
    ("protocol", "split", "now"), [("lesion", by_lesion, "0.000"), ("paper", by_image, "0.143")]
)
def test_the_split_command_prints_the_leak_with_and_without_them(
    folder, table, tmp_path, command, protocol, split, now
):
    """Of the seven test images one is, by a table, of a lesion of the training part."""
    images = read_index(folder)
    parts = parts_of(images, split(images, 0))
    first = {part: next(name for name in parts if parts[name] == part) for part in PARTS}
    file, out = table(f"{first['test']},{first['train']}"), tmp_path / "split.csv"
    given = ["--protocol", protocol, "--data", folder, "--same-lesion", file]
    leaks = f"leak: {now} of the test images show a lesion that is in train (0.000 by lesion_id al"
    joined = "1 lesion_ids are joined with others; had they not been, the split would leak 0.143"
    printed = command(0, "split", *given, "--out", out).splitlines()[1:]
    assert printed == [f"{leaks}one)", *([joined] if protocol == "lesion" else [])]


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
