"""Tables by other names, with other delimiters, and with paths as ids."""

import csv

import pytest

from examples.ham10000.data.index import read_index
from examples.ham10000.data.layouts import METADATA
from examples.ham10000.data.splits import by_lesion, read_split, write_split
from examples.ham10000.data.tables import image_name


def write(source, target, change=lambda row: row, **dialect):
    """A table under another name, or in another form; ``change`` of every row but the header."""
    with source.open(newline="") as stream:
        header, *rows = csv.reader(stream)
    source.unlink()
    with target.open("w", newline="", encoding="utf-8-sig") as stream:
        csv.writer(stream, **dialect).writerows([header, *map(change, rows)])


@pytest.mark.parametrize(
    ("name", "delimiter"),
    [
        ("HAM10000_metadata.tab", "\t"),
        ("HAM10000_metadata", ","),
        ("HAM10000_metadata.tsv", "\t"),
        ("HAM10000_metadata.txt", ";"),
        ("ham10000_Metadata.CSV", ";"),
        ("HAM10000_metadata (1).tab", "\t"),
        ("HAM10000_metadata.csv.txt", ","),
    ],
)
@pytest.mark.parametrize("quoting", [csv.QUOTE_ALL, csv.QUOTE_MINIMAL])
def test_the_table_as_browsers_and_excel_save_it(folder, name, delimiter, quoting):
    expected = read_index(folder)
    write(folder / METADATA, folder / name, delimiter=delimiter, quoting=quoting)
    assert read_index(folder) == expected


@pytest.mark.parametrize("form", ["{}.jpg", "images\\{}.JPG", "some/where/{}"])
def test_other_delimiters_and_paths_inside_of_fields(folder, form):
    expected = [image.image_id for image in read_index(folder)]
    table = folder / METADATA
    write(table, table, lambda row: [f"{row[0]},1", form.format(row[1]), *row[2:]], delimiter=";")
    images = read_index(folder)
    assert [image.image_id for image in images] == expected
    assert [image.lesion_id for image in images][:2] == ["HAM_00,1", "HAM_01,1"]


def test_two_tables_must_say_the_same_and_the_highest_count(folder):
    expected = read_index(folder)
    (folder / "old").mkdir()
    (folder / "old" / METADATA).write_text("of another kind")
    assert read_index(folder) == expected
    header, *rows = (folder / METADATA).read_text().replace(",", "\t").splitlines()
    other = folder / "HAM10000_metadata.tab"
    other.write_text("\n".join([header, *rows[::-1]]))
    assert read_index(folder) == expected
    other.write_text(other.read_text().replace("HAM_33", "HAM_34"))
    with pytest.raises(ValueError, match=rf"{METADATA} and .*metadata\.tab differ: remove"):
        read_index(folder)
    other.unlink()
    (folder / "old" / METADATA).unlink()
    (folder / METADATA).rename(folder / "old" / METADATA)
    assert read_index(folder) == expected


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("ISIC_0024306", "ISIC_0024306"),
        ("ISIC_0024306.JPEG", "ISIC_0024306"),
        ("ISIC_0024306.v2", "ISIC_0024306.v2"),
        ("part_1/ISIC_0024306.jpg", "ISIC_0024306"),
        ("C:\\data\\ham\\ISIC_0024306.png", "ISIC_0024306"),
        (".\\ISIC_0024306", "ISIC_0024306"),
        ("/home/me/ham/ISIC_0024306.tif", "ISIC_0024306"),
        *((text, None) for text in ("", ".", "..", "../ISIC_1", "..\\ISIC_1", "a/../ISIC_1.jpg")),
        *((text, None) for text in ("/ISIC_1", "\\ISIC_1", "a/", ".jpg")),
    ],
)
def test_an_id_may_be_a_path_and_has_to_be_a_name(text, name):
    if name is None:
        with pytest.raises(ValueError, match="is no name of a file"):
            image_name(text)
    else:
        assert image_name(text) == name == image_name(name)


@pytest.mark.parametrize(("form", "delimiter"), [("data\\{}.jpg", ","), ("C:\\x\\{}", ";")])
def test_a_split_file_from_windows(folder, tmp_path, form, delimiter):
    images = read_index(folder)
    file = tmp_path / "split.csv"
    write_split(file, images, by_lesion(images, 0))
    expected = read_split(file, images)
    write(file, file, lambda row: [form.format(row[0]), *row[1:]], delimiter=delimiter)
    assert read_split(file, images) == expected
