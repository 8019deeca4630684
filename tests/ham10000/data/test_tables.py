"""Tables by other names, with other delimiters, and with paths as ids."""

import csv

import pytest

from examples.ham10000.data.index import read_index
from examples.ham10000.data.layouts import METADATA
from examples.ham10000.data.splits import by_lesion, read_split, write_split
from examples.ham10000.data.tables import image_name


def write(folder, name, change=lambda row: row, **dialect):
    """The metadata under another name; ``change`` of every row but the header."""
    path = folder / METADATA
    with path.open(newline="") as stream:
        header, *rows = csv.reader(stream)
    path.unlink()
    with (folder / name).open("w", newline="", encoding=dialect.pop("encoding", None)) as stream:
        csv.writer(stream, **dialect).writerows([header, *map(change, rows)])


@pytest.mark.parametrize(
    "name",
    [
        "HAM10000_metadata.tab",
        "HAM10000_metadata",
        "HAM10000_metadata.tsv",
        "HAM10000_metadata.txt",
        "ham10000_Metadata.CSV",
        "HAM10000_metadata (1).tab",
        "HAM10000_metadata.csv.txt",
    ],
)
@pytest.mark.parametrize("delimiter", [",", "\t", ";"])
@pytest.mark.parametrize("quoting", [csv.QUOTE_ALL, csv.QUOTE_MINIMAL])
def test_the_table_as_browsers_and_excel_save_it(folder, name, delimiter, quoting):
    expected = read_index(folder)
    write(folder, name, delimiter=delimiter, quoting=quoting, encoding="utf-8-sig")
    assert read_index(folder) == expected


def test_other_delimiters_inside_of_fields_are_text(folder):
    write(folder, METADATA, lambda row: [f"{row[0]},1", *row[1:]], delimiter=";")
    assert [image.lesion_id for image in read_index(folder)][:2] == ["HAM_00,1", "HAM_01,1"]


def test_two_tables_must_say_the_same(folder):
    expected = read_index(folder)
    text = (folder / METADATA).read_text()
    other = folder / "HAM10000_metadata.tab"
    lines = text.replace(",", "\t").splitlines()
    other.write_text("\n".join([lines[0], *lines[:0:-1]]))  # in another order
    assert read_index(folder) == expected
    other.write_text(other.read_text().replace("HAM_33", "HAM_34"))
    with pytest.raises(ValueError, match=rf"{METADATA} and .*metadata\.tab differ: remove"):
        read_index(folder)


def test_the_highest_table_counts(folder):
    expected = read_index(folder)
    (folder / "old").mkdir()
    (folder / "old" / METADATA).write_text("of another kind")
    assert read_index(folder) == expected
    (folder / "deep" / "er").mkdir(parents=True)
    (folder / METADATA).rename(folder / "deep" / "er" / METADATA)
    (folder / "old" / METADATA).unlink()
    assert read_index(folder) == expected


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("ISIC_0024306", "ISIC_0024306"),
        ("ISIC_0024306.jpg", "ISIC_0024306"),
        ("ISIC_0024306.JPEG", "ISIC_0024306"),
        ("ISIC_0024306.tif", "ISIC_0024306"),
        ("ISIC_0024306.v2", "ISIC_0024306.v2"),
        ("part_1/ISIC_0024306.jpg", "ISIC_0024306"),
        ("HAM10000_images_part_1\\ISIC_0024306.jpg", "ISIC_0024306"),
        ("C:\\data\\ham\\ISIC_0024306.png", "ISIC_0024306"),
        (".\\ISIC_0024306", "ISIC_0024306"),
        ("/home/me/ham/ISIC_0024306.jpg", "ISIC_0024306"),
    ],
)
def test_an_id_may_be_a_path(text, name):
    assert image_name(text) == name == image_name(name)


@pytest.mark.parametrize(
    "text",
    [
        "",
        ".",
        "..",
        "../ISIC_1",
        "..\\ISIC_1",
        "a/../ISIC_1.jpg",
        "/ISIC_1",
        "\\ISIC_1",
        "a/",
        ".jpg",
    ],
)
def test_an_id_that_is_no_name_is_refused(text):
    with pytest.raises(ValueError, match="is no name of a file"):
        image_name(text)


@pytest.mark.parametrize("form", ["{}.jpg", "images\\{}.JPG", "some/where/{}"])
def test_ids_of_the_metadata_may_be_paths(folder, form):
    expected = read_index(folder)
    write(folder, METADATA, lambda row: [row[0], form.format(row[1]), *row[2:]])
    assert read_index(folder) == expected


@pytest.mark.parametrize(("form", "delimiter"), [("data\\{}.jpg", ","), ("C:\\x\\{}", ";")])
def test_a_split_file_from_windows(folder, tmp_path, form, delimiter):
    images = read_index(folder)
    file = tmp_path / "split.csv"
    write_split(file, images, by_lesion(images, 0))
    expected = read_split(file, images)
    with file.open(newline="") as stream:
        header, *rows = csv.reader(stream)
    with file.open("w", newline="") as stream:
        writer = csv.writer(stream, delimiter=delimiter)
        writer.writerows([header, *([form.format(name), *rest] for name, *rest in rows)])
    assert read_split(file, images) == expected


def test_ids_that_become_one_stand_twice(folder):
    write(
        folder,
        METADATA,
        lambda row: [row[0], row[1].replace("ISIC_01", "a\\ISIC_00.jpg"), *row[2:]],
    )
    with pytest.raises(ValueError, match="line 3: image ISIC_00 stands there twice"):
        read_index(folder)
