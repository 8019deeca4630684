"""Parquet mirrors of Hugging Face become the folder that they were made of."""

import hashlib
import json
import sys

import pyarrow
import pytest
from pyarrow import parquet

from examples.ham10000.cli import main
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
    """One row per image; ``change`` maps an image to what a column has."""
    return [
        {
            "image": {"bytes": image.path.read_bytes(), "path": f"x/{image.path.name}"},
            "image_id": image.image_id,
            "lesion_id": image.lesion_id,
            "dx": CLASSES[image.label],
            "age": 60.0,
            **{name: value(image) for name, value in change.items()},
        }
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
    return {
        image.image_id: (
            image.lesion_id,
            image.label,
            hashlib.sha256(image.path.read_bytes()).hexdigest(),
        )
        for image in read_index(folder)
    }


@pytest.fixture
def hub(tmp_path):
    return tmp_path / "hub"


def unpack(hub, out):
    return main(["unpack", "--data", str(hub), "--out", str(out)])


def without(rows, name):
    return [{key: value for key, value in row.items() if key != name} for row in rows]


@pytest.mark.parametrize(
    "kind", ["codes", "long names", "spaces", "numbers", "paths", "plain bytes"]
)
def test_every_form_of_the_columns(folder, hub, tmp_path, capsys, kind):
    rows, names = rows_of(folder), None
    if kind == "long names":
        rows = rows_of(folder, dx=lambda image: LONG[image.label])
    elif kind == "spaces":
        rows = rows_of(folder, dx=lambda i: LONG[i.label].replace("_", " ").title())
    elif kind == "numbers":
        names = LONG[::-1]
        rows = rows_of(folder, dx=lambda image: 6 - image.label)
    elif kind == "paths":
        rows = without(rows, "image_id")
    elif kind == "plain bytes":
        rows = rows_of(folder, image=lambda image: image.path.read_bytes())
    write(hub / "data" / "train-00000-of-00002.parquet", rows[:40], names)
    write(hub / "data" / "test-00000-of-00001.PARQUET", rows[38:], names)  # two of them twice
    assert unpack(hub, tmp_path / "out") == 0
    assert "70 images are in" in capsys.readouterr().out
    assert facts(tmp_path / "out") == facts(folder)
    assert main(["check", "--data", str(tmp_path / "out")]) == 0


def test_the_commands_say_what_it_is(folder, hub, tmp_path, capsys):
    write(hub / "data" / "train.parquet", rows_of(folder))
    assert main(["check", "--data", str(hub)]) == 1
    said = capsys.readouterr().out
    assert "Parquet files of Hugging Face (1, with columns image, image_id, lesion_id, dx" in said
    assert f"unpack --data {hub} --out NEW_DIR" in said


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda rows: without(rows, "lesion_id"),
            "lacks the column(s) lesion_id: it has image, im",
        ),
        (lambda rows: without(rows, "dx"), "without dx there is nothing to train on"),
        (lambda rows: [{**rows[0], "lesion_id": "a "}], "row 1: lesion_id 'a ' has spaces"),
        (
            lambda rows: [{**row, "dx": "naevus"} for row in rows],
            "row 1: unknown diagnosis 'naevus'",
        ),
        (lambda rows: [{**row, "dx": 3} for row in rows], "row 1: unknown diagnosis 3"),
        (lambda rows: [*rows[:9], {**rows[9], "lesion_id": None}], "row 10: no lesion_id"),
        (lambda rows: [{**rows[0], "image_id": "../a"}], "row 1: image id '../a' is no name"),
        (lambda rows: [{**rows[0], "image": {"bytes": None, "path": "a.jpg"}}], "row 1: the bytes"),
        (lambda rows: [{**rows[0], "image": {"bytes": b"text", "path": ""}}], "row 1: cannot read"),
        (
            lambda rows: [*rows, {**rows[3], "image": rows[4]["image"]}],
            "row 71: image ISIC_03 is another one in",
        ),
        (
            lambda rows: [*rows, {**rows[3], "lesion_id": "HAM_99"}],
            "row 71: image ISIC_03 is anoth",
        ),
    ],
)
def test_what_cannot_be_used_is_named_and_leaves_nothing(
    folder, hub, tmp_path, capsys, change, message
):
    write(hub / "train.parquet", change(rows_of(folder)))
    before = sorted(tmp_path.iterdir())
    assert unpack(hub, tmp_path / "out") == 2
    assert message in capsys.readouterr().err
    assert sorted(tmp_path.iterdir()) == before


def test_files_and_folders_that_will_not_do(folder, hub, tmp_path, capsys, monkeypatch):
    file = write(hub / "train.parquet", rows_of(folder))
    for data, out, message in [
        (hub, folder, "exists: name a new folder"),
        (folder, tmp_path / "out", "no .parquet files in"),
        (tmp_path / "nowhere", tmp_path / "out", "no folder"),
        (hub, tmp_path / "no" / "out", "there is no folder"),
    ]:
        assert unpack(data, out) == 2
        assert message in capsys.readouterr().err
    whole = file.read_bytes()
    file.write_bytes(whole[:-100])
    assert unpack(hub, tmp_path / "out") == 2
    assert f"cannot read {file}" in capsys.readouterr().err
    file.write_bytes(whole)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    assert unpack(hub, tmp_path / "out") == 2
    assert "pip install pyarrow" in capsys.readouterr().err
    assert main(["check", "--data", str(hub)]) == 1
    assert "Parquet files of Hugging Face (1): write them" in capsys.readouterr().out
    assert not (tmp_path / "out").exists()


def test_ids_may_be_numbers_and_no_rows_are_an_error(folder, tmp_path, capsys):
    rows = rows_of(folder, image_id=lambda image: int(image.image_id[-2:]))
    file = write(tmp_path / "hub" / "a.parquet", rows)
    assert main(["unpack", "--data", str(tmp_path / "hub"), "--out", str(tmp_path / "o")]) == 0
    assert {"0", "1"} <= facts(tmp_path / "o").keys()
    parquet.write_table(parquet.read_table(file).slice(0, 0), file)
    assert main(["unpack", "--data", str(tmp_path / "hub"), "--out", str(tmp_path / "p")]) == 2
    assert "have no rows: download them again" in capsys.readouterr().err
