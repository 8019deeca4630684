"""Tables by other names, with other delimiters, and with paths as ids."""

import csv
from dataclasses import replace

import pytest

from examples.ham10000.data.index import read_index
from examples.ham10000.data.layouts import METADATA
from examples.ham10000.data.tables import image_name


@pytest.mark.parametrize(
    ("name", "delimiter", "form"),
    [
        ("HAM10000_metadata.tab", "\t", "{}"),
        ("HAM10000_metadata", ",", "{}.jpg"),
        ("HAM10000_metadata.tsv", "\t", "images\\{}.JPG"),
        ("HAM10000_metadata.txt", ";", "some/where/{}"),
        ("ham10000_Metadata.CSV", ";", "{}"),
        ("HAM10000_metadata (1).tab", "\t", "{}"),
        ("HAM10000_metadata.csv.txt", ",", "{}"),
    ],
)
@pytest.mark.parametrize("quoting", [csv.QUOTE_ALL, csv.QUOTE_MINIMAL])
def test_the_table_as_browsers_and_excel_save_it(folder, name, delimiter, form, quoting):
    """With a comma in every lesion id, and paths as ids of images."""
    before = read_index(folder)
    with (folder / METADATA).open(newline="") as stream:
        header, *rows = csv.reader(stream)
    (folder / METADATA).unlink()
    with (folder / name).open("w", newline="", encoding="utf-8-sig") as stream:
        writer = csv.writer(stream, delimiter=delimiter, quoting=quoting)
        writer.writerow(header)
        writer.writerows([f"{row[0]},1", form.format(row[1]), *row[2:]] for row in rows)
    expected = [replace(image, lesion_id=f"{image.lesion_id},1") for image in before]
    assert read_index(folder) == expected


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
            image_name(text, "")
    else:
        assert image_name(text, "") == name == image_name(name, "")
