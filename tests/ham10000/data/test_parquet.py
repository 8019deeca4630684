"""Parquet mirrors of Hugging Face become the folder that they were made of."""

import json
import sys

import pyarrow
import pytest
from pyarrow import parquet

from examples.ham10000.data.index import CLASSES, read_index

# As a mirror of the data set has them, in the order of the classes.
LONG = [
    "actinic_keratoses",
    "basal_cell_carcinoma",
    "benign_keratosis-like_lesions",
    "dermatofibroma",
    "melanoma",
    "melanocytic_Nevi",
    "vascular_lesions",
]


def rows_of(folder, **change):
    """One row per image; ``change`` maps an image to what a column has, or is None without it."""
    columns = {
        "image": lambda i: {"bytes": i.path.read_bytes(), "path": f"x/{i.path.name}"},
        "image_id": lambda i: i.image_id,
        "lesion_id": lambda i: i.lesion_id,
        "dx": lambda i: CLASSES[i.label],
        "age": lambda i: 60.0,
    } | change
    return [
        {name: value(image) for name, value in columns.items() if value}
        for image in read_index(folder)
    ]


def write(file, rows, names=None):
    file.parent.mkdir(parents=True, exist_ok=True)
    table = pyarrow.Table.from_pylist(rows)
    if names:
        features = {"dx": {"names": names, "_type": "ClassLabel"}}
        text = json.dumps({"info": {"features": features}})
        table = table.replace_schema_metadata({"huggingface": text})
    parquet.write_table(table, file, row_group_size=7)
    return file


def facts(folder):
    return {i.image_id: (i.lesion_id, i.label, i.path.read_bytes()) for i in read_index(folder)}


@pytest.fixture
def hub(tmp_path):
    return tmp_path / "hub"


@pytest.mark.parametrize(
    ("change", "names"),
    [
        ({}, None),
        ({"dx": lambda image: LONG[image.label]}, None),
        ({"dx": lambda image: LONG[image.label].replace("_", " ").title()}, None),
        ({"dx": lambda image: 6 - image.label}, LONG[::-1]),
        ({"image_id": None}, None),
        ({"image": lambda image: image.path.read_bytes()}, None),
    ],
    ids=["codes", "long names", "spaces", "numbers", "paths", "plain bytes"],
)
def test_every_form_of_the_columns(folder, hub, tmp_path, command, change, names):
    rows = rows_of(folder, **change)
    write(hub / "data" / "train-00000-of-00002.parquet", rows[:40], names)
    write(hub / "data" / "test-00000-of-00001.PARQUET", rows[38:], names)  # two of them twice
    out = tmp_path / "out"
    assert "70 images are in" in command(0, "unpack", "--data", hub, "--out", out)
    assert facts(out) == facts(folder)
    command(0, "check", "--data", out)


NO_BYTES, TEXT = {"bytes": None, "path": "a.jpg"}, {"bytes": b"text", "path": ""}


@pytest.mark.parametrize(
    ("whole", "row", "change", "message"),
    [  # rows that can be used, which of all is the last one, and what is changed in it
        (0, 0, {"dx": "naevus"}, "row 1: unknown diagnosis 'naevus'; known are akiec, bcc"),
        (0, 0, {"dx": 3}, "row 1: unknown diagnosis 3"),
        (0, 0, {"lesion_id": "a "}, "row 1: lesion_id 'a ' has spaces"),
        (9, 9, {"lesion_id": None}, "row 10: no lesion_id"),
        (0, 0, {"image_id": "../a"}, "row 1: image id '../a' is no name"),
        (0, 0, {"image": NO_BYTES}, "row 1: the bytes of the image are not in the file"),
        (0, 0, {"image": TEXT}, "row 1: cannot read the image"),
        (70, 3, {"image": TEXT}, "row 71: image ISIC_03 is another one in"),
        (70, 3, {"lesion_id": "HAM_99"}, "row 71: image ISIC_03 is another one in"),
    ],
)
def test_what_cannot_be_used_is_named_and_leaves_nothing(
    folder, hub, tmp_path, command, whole, row, change, message
):
    rows = rows_of(folder)
    write(hub / "train.parquet", [*rows[:whole], {**rows[row], **change}])
    before = sorted(tmp_path.iterdir())
    assert message in command(2, "unpack", "--data", hub, "--out", tmp_path / "out")
    assert sorted(tmp_path.iterdir()) == before


def test_files_and_folders_that_will_not_do(folder, hub, tmp_path, command, monkeypatch):
    def refused(message, data=hub, out=tmp_path / "out"):
        assert message in command(2, "unpack", "--data", data, "--out", out)

    file = write(hub / "data" / "train.parquet", rows_of(folder))
    said = command(1, "check", "--data", hub)
    assert "Parquet files of Hugging Face (1, with columns image, image_id, lesion_id, dx" in said
    assert f"unpack --data {hub} --out NEW_DIR" in said
    refused("exists: name a new folder", out=folder)
    refused("no .parquet files in", folder)
    refused("no folder", tmp_path / "nowhere")
    refused("there is no folder", out=tmp_path / "no" / "out")
    whole = file.read_bytes()
    file.write_bytes(whole[:-100])
    refused(f"cannot read {file}")
    write(file, rows_of(folder, lesion_id=None))
    refused("lacks the column(s) lesion_id: it has image, image_id, dx, age")
    write(file, rows_of(folder, dx=None))
    refused("without dx there is nothing to train on")
    file.write_bytes(whole)
    parquet.write_table(parquet.read_table(file).slice(0, 0), file)
    refused("have no rows: download them again")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    refused("pip install pyarrow")
    said = command(1, "check", "--data", hub)
    assert "Parquet files of Hugging Face (1): write them" in said
    assert not (tmp_path / "out").exists()


def test_ids_may_be_numbers(folder, hub, tmp_path, command):
    write(hub / "a.parquet", rows_of(folder, image_id=lambda image: int(image.image_id[-2:])))
    command(0, "unpack", "--data", hub, "--out", tmp_path / "out")
    assert {"0", "1"} <= facts(tmp_path / "out").keys()
