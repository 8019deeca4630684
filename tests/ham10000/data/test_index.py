"""Reading the folder, and what each defect of it is called."""

import re
from pathlib import Path

import pytest

from examples.ham10000.data.index import read_index
from examples.ham10000.data.layouts import IMAGE_FOLDERS, METADATA
from tests.helpers import make_pipe

ALL = r"\A(.|\n)*\Z"


def edit(folder, old, new) -> None:
    """Put other text in the place of all that the pattern ``old`` finds in the metadata."""
    path = folder / METADATA
    text = path.read_bytes().decode().replace("\r\n", "\n")
    changed = re.sub(old, lambda found: new, text)
    assert changed != text
    path.write_bytes(changed.encode())


def test_rows_keep_their_order_and_find_their_files(folder):
    images = read_index(folder)
    assert [image.image_id for image in images] == [f"ISIC_{n:02}" for n in range(70)]
    assert [image.label for image in images] == [label for label in range(7) for _ in range(10)]
    assert all(image.path.is_file() for image in images)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("HAM_13,ISIC_13,nevus,", "unknown diagnosis 'nevus'; known are akiec, bcc"),
        ("HAM_13,ISIC_13,BCC,", "unknown diagnosis 'BCC'"),
        (",ISIC_13,bcc,", "lesion_id is empty"),
        ("HAM_13,,bcc,", "image_id is empty"),
        ("HAM_13,ISIC_12,bcc,", "image ISIC_12 stands there twice; remove"),
        ("HAM_13,a\\ISIC_12.jpg,bcc,", "image ISIC_12 stands there twice"),
        ("HAM_00,ISIC_13,bcc,", "lesion HAM_00 has another diagnosis"),
        ("HAM_13,ISIC_13, bcc,", "dx ' bcc' has spaces around it"),
        ("HAM_13,ISIC_13 ,bcc,", "image_id 'ISIC_13 ' has spaces"),
        (" ,ISIC_13,bcc,", "lesion_id ' ' has spaces"),
        ("HAM_13,../ISIC_13,bcc,", "image id '../ISIC_13' is no name of a file"),
        ("HAM_13,ISIC_13,bcc", "3 fields for 4 columns"),
        ("HAM_13,ISIC_13,bcc,,", "5 fields for 4 columns"),
        ("HAM,13,ISIC_13,bcc,", "5 fields for 4 columns"),  # a comma that should be quoted
        ('HAM_13,"ISIC_13,bcc,', "broken quoting"),
        ("H" * 200_000, "broken quoting .*larger than field limit"),
        *((f'"HAM{c}13",ISIC_13,bcc,', "lesion_id .* control char") for c in "\n\r\t\x1b\x85"),
    ],
)
def test_defects_of_a_row_name_the_line(folder, row, message):
    edit(folder, "HAM_13,ISIC_13,bcc,", row)
    with pytest.raises(ValueError, match=rf"metadata\.csv, line 15: {message}"):
        read_index(folder)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("lesion_id", "Lesion", r"lacks the column\(s\) lesion_id: it h"),
        (",image_id", ", image_id", "lacks .* image_id: it has lesion"),
        ("_id,", "_id;", r"lacks the column\(s\) .*: it has lesion_id"),
        ("dx,age", "dx,dx", r"has the column\(s\) dx twice: remove one"),
        (ALL, "lesion_id,image_id,dx,age\n", "have no rows"),
        (ALL, "", "lacks the column.*: it has nothing"),
        (ALL, "\n\n", "lacks the column"),
        (ALL, "no table at all", "lacks the column"),
        (ALL, "\0" * 2000, "has NUL characters: save it as UTF-8"),
        ("HAM_13", "HAM\0_13", "has NUL characters"),
    ],
)
def test_defects_of_the_metadata_name_the_file(folder, old, new, message):
    edit(folder, old, new)
    with pytest.raises(ValueError, match=message) as error:
        read_index(folder)
    assert str(folder) in str(error.value)


@pytest.mark.parametrize("encoding", ["latin-1", "utf-16", "utf-16-le", "utf-32"])
def test_other_encodings_are_named(folder, encoding):
    path = folder / METADATA
    path.write_bytes(path.read_text().replace("HAM_13", "HÄM_13").encode(encoding))
    with pytest.raises(ValueError, match=r"metadata\.csv (is not UTF-8|has NUL characters)"):
        read_index(folder)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("\n", "\r\n"),
        ("\n", "\r"),
        ("\n", "\n\n"),
        (r"\A", "\n"),
        (r"\n\Z", ""),
        (r"\A", "\ufeff"),
        ("HAM_13", '"HAM_13"'),
    ],
)
def test_line_ends_empty_lines_and_quotes_change_nothing(folder, old, new):
    expected = read_index(folder)
    edit(folder, old, new)
    assert read_index(folder) == expected


@pytest.mark.parametrize(
    "put",
    [None, Path.mkdir, lambda path: path.symlink_to(path.with_name("nowhere")), make_pipe],
    ids=["missing", "folder", "link to nothing", "pipe"],
)
def test_metadata_that_are_no_file(folder, put):
    (folder / METADATA).unlink()
    if put is not None:
        put(folder / METADATA)
    with pytest.raises(FileNotFoundError, match=f"no {METADATA} and no "):
        read_index(folder)


def test_missing_things_are_named(folder, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no folder .*nowhere"):
        read_index(tmp_path / "nowhere")
    (folder / IMAGE_FOLDERS[1] / "ISIC_13.jpg").unlink()
    images = read_index(folder, allow_missing=True)
    assert [image.image_id for image in images if not image.path.exists()] == ["ISIC_13"]
