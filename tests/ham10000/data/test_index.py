"""Reading the folder, and what each defect of it is called."""

from collections import Counter

import pytest

from examples.ham10000.data.index import CLASSES, read_index
from examples.ham10000.data.layouts import IMAGE_FOLDERS, METADATA
from tests.helpers import make_pipe


def test_the_real_folder_has_the_published_counts(ham10000):
    images = read_index(ham10000)
    counts = Counter(CLASSES[image.label] for image in images)
    lesions = Counter(CLASSES[label] for _, label in {(i.lesion_id, i.label) for i in images})
    assert counts == {
        "nv": 6705, "mel": 1113, "bkl": 1099, "bcc": 514, "akiec": 327, "vasc": 142, "df": 115
    }  # fmt: skip
    assert lesions == {
        "nv": 5403, "bkl": 727, "mel": 614, "bcc": 327, "akiec": 228, "vasc": 98, "df": 73
    }  # fmt: skip
    assert all(image.path.stem == image.image_id for image in images)


def test_rows_keep_their_order_and_find_their_files(folder):
    images = read_index(folder)
    assert [image.image_id for image in images][:3] == ["ISIC_00", "ISIC_01", "ISIC_02"]
    assert [image.label for image in images] == [label for label in range(7) for _ in range(10)]
    assert all(image.path.is_file() for image in images)


def edit(folder, old: str, new: str) -> None:
    path = folder / METADATA
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("lesion_id,image_id,dx", "lesion,image_id,dx", "lacks the column.* lesion_id: it has"),
        ("HAM_13,ISIC_13,bcc", "HAM_13,ISIC_13,nevus", "line 15: unknown diagnosis 'nevus'; known"),
        ("HAM_13,ISIC_13,bcc", ",ISIC_13,bcc", "line 15: lesion_id is empty"),
        ("HAM_13,ISIC_13,bcc", "HAM_13,,bcc", "line 15: image_id is empty"),
        ("HAM_13,ISIC_13,bcc", "HAM_13,ISIC_12,bcc", "line 15: image ISIC_12 stands there twice"),
        ("HAM_13,ISIC_13,bcc", "HAM_00,ISIC_13,bcc", "line 15: lesion HAM_00 has another diagn"),
        ("HAM_13,ISIC_13,bcc", "HAM_13,ISIC_13,BCC", "line 15: unknown diagnosis 'BCC'; known ar"),
        ("HAM_13,ISIC_13,bcc", "HAM_13,ISIC_13, bcc", "line 15: dx ' bcc' has spaces around it"),
        ("HAM_13,ISIC_13,bcc", "HAM_13,ISIC_13 ,bcc", "line 15: image_id 'ISIC_13 ' has spaces"),
        ("HAM_13,ISIC_13,bcc", "HAM_12 ,ISIC_13,bcc", "line 15: lesion_id 'HAM_12 ' has spaces"),
        ("HAM_13,ISIC_13,bcc", " ,ISIC_13,bcc", "line 15: lesion_id ' ' has spaces around it"),
        ("HAM_13,ISIC_13,bcc", "HAM_13,../ISIC_13,bcc", "line 15: image id '../ISIC_13' is no na"),
        ("HAM_13,ISIC_13,bcc", "HAM_13,/ISIC_13,bcc", "line 15: image id '/ISIC_13' is no name"),
        ("HAM_13", "HAM\0_13", r"HAM10000_metadata\.csv has NUL characters: save it as UTF-8"),
        ("HAM_13", "H" * 200_000, "line 15: broken quoting .*larger than field limit"),
        ("lesion_id,image_id,dx", "lesion_id, image_id,dx", "lacks .* image_id: it has lesion_id,"),
        ("lesion_id,image_id,dx", "Lesion_ID,image_id,dx", "lacks the column.* lesion_id"),
        ("lesion_id,image_id,dx", "lesion_id;image_id;dx", "lacks the column.* lesion_id, im"),
        ("dx,age", "dx,dx", r"has the column\(s\) dx twice: remove one"),
    ],
)
def test_defects_of_the_metadata_name_the_line(folder, old, new, message):
    edit(folder, old, new)
    with pytest.raises(ValueError, match=message):
        read_index(folder)


@pytest.mark.parametrize(
    ("row", "count"),
    [
        ("HAM_13", 1),
        ("HAM_13,ISIC_13,bcc", 3),
        ("HAM_13,ISIC_13,bcc,,", 5),
        ("HAM,13,ISIC_13,bcc,", 5),  # a comma that should have been quoted
    ],
)
def test_a_short_or_long_row_names_the_line(folder, row, count):
    edit(folder, "HAM_13,ISIC_13,bcc,", row)
    with pytest.raises(ValueError, match=f"line 15: {count} fields for 4 columns"):
        read_index(folder)


def test_text_that_is_no_csv_names_the_file(folder):
    edit(folder, "HAM_13,ISIC_13,bcc,", 'HAM_13,"ISIC_13,bcc,')
    with pytest.raises(ValueError, match=r"HAM10000_metadata\.csv, line 15: broken quoting"):
        read_index(folder)
    (folder / METADATA).write_bytes("lesion_id,image_id,dx\nA,B,n\xe9vus\n".encode("latin-1"))
    with pytest.raises(ValueError, match=r"HAM10000_metadata\.csv is not UTF-8"):
        read_index(folder)


@pytest.mark.parametrize(
    ("encoding", "message"),
    [("utf-16", "is not UTF-8"), ("utf-16-le", "has NUL characters"), ("utf-32", "is not UTF-8")],
)
def test_other_encodings_are_named(folder, encoding, message):
    path = folder / METADATA
    path.write_bytes(path.read_text().encode(encoding))
    with pytest.raises(ValueError, match=rf"HAM10000_metadata\.csv {message}"):
        read_index(folder)


@pytest.mark.parametrize("content", ["", "\n\n", "\0" * 2000, "no table at all"])
def test_text_that_is_no_table_is_told(folder, content):
    (folder / METADATA).write_text(content)
    with pytest.raises(ValueError, match=r"HAM10000_metadata\.csv (lacks the column|has NUL)"):
        read_index(folder)


@pytest.mark.parametrize("kind", ["folder", "link to nothing", "pipe"])
def test_metadata_that_are_no_file(folder, kind):
    path = folder / METADATA
    path.unlink()
    if kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        make_pipe(path)
    else:
        path.symlink_to(folder / "nowhere")
    with pytest.raises(FileNotFoundError, match=f"no {METADATA} and no "):
        read_index(folder)


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text.replace("\n", "\r\n"),
        lambda text: text.replace("\n", "\r"),
        lambda text: text.replace("\n", "\n\n"),
        lambda text: "\n" + text.rstrip("\n"),
        lambda text: text.replace("HAM_13", '"HAM_13"'),
    ],
)
def test_line_ends_empty_lines_and_quotes_change_nothing(folder, change):
    expected = read_index(folder)
    path = folder / METADATA
    path.write_bytes(change(path.read_bytes().decode().replace("\r\n", "\n")).encode())
    assert read_index(folder) == expected


def test_quoted_commas_are_part_of_the_value(folder):
    edit(folder, "HAM_13,", '"HAM,13",')
    assert read_index(folder)[13].lesion_id == "HAM,13"


@pytest.mark.parametrize("letter", ["\n", "\r", "\t", "\x1b", "\x85"])
def test_control_characters_in_a_name_are_refused(folder, letter):
    path = folder / METADATA
    text = path.read_bytes().decode().replace("HAM_13,", f'"HAM{letter}13",')
    path.write_bytes(text.encode())
    with pytest.raises(ValueError, match=r"line 15: lesion_id 'HAM.+13' has control characters"):
        read_index(folder)


def test_missing_things_are_named(folder, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no folder .*nowhere"):
        read_index(tmp_path / "nowhere")
    (folder / IMAGE_FOLDERS[1] / "ISIC_13.jpg").unlink()
    with pytest.raises(FileNotFoundError, match=r"1 of 70 images .*: ISIC_13\. Are all"):
        read_index(folder)
    images = read_index(folder, allow_missing=True)
    assert [image.image_id for image in images if not image.path.exists()] == ["ISIC_13"]
    (folder / METADATA).write_text("lesion_id,image_id,dx\n")
    with pytest.raises(ValueError, match="have no rows"):
        read_index(folder)
    (folder / METADATA).unlink()
    with pytest.raises(FileNotFoundError, match=f"no {METADATA} and no "):
        read_index(folder)


def test_a_byte_order_mark_is_no_part_of_the_first_column(folder):
    path = folder / METADATA
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert len(read_index(folder)) == 70
