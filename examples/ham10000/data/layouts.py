"""The folders that HAM10000 comes in: what they list, and where their images are."""

import csv
import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

METADATA = "HAM10000_metadata.csv"
IMAGE_FOLDERS = ("HAM10000_images_part_1", "HAM10000_images_part_2")
LESION_MASKS = "HAM10000_segmentations_lesion_tschandl"
"""Folder of the lesion masks, which a data folder may have: IMAGE_ID_segmentation.png."""

COLUMNS = ("lesion_id", "image_id", "dx")

ISIC_TRUTH = "ISIC2018_Task3_Training_GroundTruth.csv"
ISIC_LESIONS = "ISIC2018_Task3_Training_LesionGroupings.csv"
ISIC_IMAGES = "ISIC2018_Task3_Training_Input"
ISIC_CLASSES = ("MEL", "NV", "BCC", "AKIEC", "BKL", "DF", "VASC")
"""Classes in the order of the ISIC 2018 files."""

SUFFIXES = (".jpg", ".jpeg", ".png")

Table = Iterator[tuple[str, dict[str, str]]]


@dataclass(frozen=True)
class Row:
    """What the metadata say of one image; ``place`` is file and line, for errors."""

    place: str
    image_id: str
    lesion_id: str
    dx: str


@dataclass(frozen=True)
class Listing:
    """What a data folder lists and holds.

    Attributes:
        layout: the name of its form.
        rows: one per image, as the metadata have them.
        files: the image files by their stem; more than one where a name stands twice.
        folders: where the images belong.
    """

    layout: str
    rows: list[Row]
    files: dict[str, list[Path]]
    folders: list[Path]


def read_listing(folder: Path) -> Listing:
    """Read the metadata of a data folder and list its images.

    Three layouts are known. *HAM10000*: ``HAM10000_metadata.csv`` beside the two image folders of
    the Dataverse and Kaggle downloads. *Flat*: the same file, and all images beside it or in the
    one folder there that has images. *ISIC 2018 Task 3*: ground truth, lesion groupings and
    ``ISIC2018_Task3_Training_Input``. Images are .jpg, .jpeg or .png.

    Raises:
        FileNotFoundError: there is no such folder, or none of the layouts is in it.
        ValueError: a table cannot be read, as in :func:`read_table`, or the id of an image is no
            name of a file; the message names file and line.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"no folder {folder}: give the HAM10000 folder with --data")
    if (folder / METADATA).is_file():
        rows = [
            Row(place, row["image_id"], row["lesion_id"], row["dx"])
            for place, row in read_table(folder / METADATA, COLUMNS)
        ]
        parts = [_with_images(folder / n) for n in IMAGE_FOLDERS if (folder / n).is_dir()]
        layout, folders = ("HAM10000", parts) if parts else ("flat", [_with_images(folder)])
    elif (truth := _isic_table(folder, ISIC_TRUTH)) is not None:
        layout, rows, folders = (
            "ISIC 2018 Task 3",
            _isic_rows(folder, truth),
            [_with_images(folder / ISIC_IMAGES)],
        )
    else:
        raise FileNotFoundError(
            f"no {METADATA} and no {ISIC_TRUTH} in {folder}: either belongs beside the images"
        )
    for row in rows:
        if Path(row.image_id).name != row.image_id:  # it would lead out of the folder
            raise ValueError(f"{row.place}: image id {row.image_id!r} is no name of a file")
    files: dict[str, list[Path]] = {}
    for images in folders:
        for path in image_files(images):
            files.setdefault(path.stem, []).append(path)
    return Listing(layout, rows, files, folders)


def image_files(folder: Path) -> list[Path]:
    """The images in a folder, sorted; none where it is missing. Hidden files are no images."""
    if not folder.is_dir():
        return []
    found = (
        path
        for path in folder.iterdir()
        if path.suffix.lower() in SUFFIXES and path.is_file() and not path.name.startswith(".")
    )
    return sorted(found, key=lambda path: path.name)  # paths themselves compare slowly


def holds_masks(name: str) -> bool:
    """Whether a folder of this name has the lesion masks of the same download, which are PNG."""
    return "segmentation" in name.lower()


def has_control_characters(name: str) -> bool:
    """Whether a name has line ends or the like, which not every reader of CSV gives back."""
    return any(unicodedata.category(letter) == "Cc" for letter in name)


def read_table(file: Path, columns: tuple[str, ...]) -> Table:
    """Every row of a CSV file with its place, once its columns and fields are known to be there.

    Raises:
        ValueError: a column is missing or stands there twice, a field of one of ``columns`` is
            empty, has spaces around it or control characters in it, a row has more or fewer fields
            than the header, the text is not UTF-8, or its quoting is broken.
    """
    line = 1
    try:
        with file.open(newline="", encoding="utf-8-sig") as stream:
            reader = csv.reader(_without_nul(file, stream), strict=True)
            header = next((fields for fields in reader if fields), [])
            absent = [name for name in columns if name not in header]
            if absent:
                raise ValueError(
                    f"{file} lacks the column(s) {', '.join(absent)}: it has "
                    f"{', '.join(header) or 'nothing'}"
                )
            twice = [name for name in columns if header.count(name) > 1]
            if twice:
                raise ValueError(f"{file} has the column(s) {', '.join(twice)} twice: remove one")
            line = reader.line_num + 1
            for fields in reader:
                place, line = f"{file}, line {line}", reader.line_num + 1
                if fields:
                    yield place, _row(place, header, fields, columns)
    except UnicodeDecodeError as error:
        raise ValueError(f"{file} is not UTF-8 ({error}): save it as UTF-8") from error
    except csv.Error as error:
        raise ValueError(f"{file}, line {line}: broken quoting ({error})") from error


def _without_nul(file: Path, lines: Iterable[str]) -> Iterator[str]:
    for line in lines:
        if "\0" in line:
            raise ValueError(f"{file} has NUL characters: save it as UTF-8 text")
        yield line


def _row(
    place: str, header: list[str], fields: list[str], columns: tuple[str, ...]
) -> dict[str, str]:
    """The fields of a row by column."""
    if len(fields) != len(header):
        raise ValueError(f"{place}: {len(fields)} fields for {len(header)} columns; correct it")
    row = dict(zip(header, fields, strict=True))
    empty = [name for name in columns if not row[name]]
    if empty:
        raise ValueError(f"{place}: {', '.join(empty)} is empty; fill it in")
    for name in columns:
        # 'HAM_1 ' would be another lesion than 'HAM_1', and a split by lesion would leak.
        if row[name] != row[name].strip():
            raise ValueError(f"{place}: {name} {row[name]!r} has spaces around it; remove them")
        if has_control_characters(row[name]):
            raise ValueError(f"{place}: {name} {row[name]!r} has control characters; remove them")
    return row


def _with_images(folder: Path) -> Path:
    """The folder itself, or the only one in it that has images."""
    if not folder.is_dir():
        return folder
    inside = [path for path in sorted(folder.iterdir()) if image_files(path)]
    inside = [path for path in inside if not holds_masks(path.name)]
    return inside[0] if not image_files(folder) and len(inside) == 1 else folder


def _isic_table(folder: Path, name: str) -> Path | None:
    """A table of the challenge: in the folder, or in the one that its archive makes."""
    places = (folder / name, folder / Path(name).stem / name)
    return next((path for path in places if path.is_file()), None)


def _isic_rows(folder: Path, truth: Path) -> list[Row]:
    groupings = _isic_table(folder, ISIC_LESIONS) or truth.with_name(ISIC_LESIONS)
    if not groupings.is_file():
        raise FileNotFoundError(
            f"no {ISIC_LESIONS} in {folder}: without it nothing says which images show one lesion"
        )
    lesions: dict[str, str] = {}
    for place, row in read_table(groupings, ("image", "lesion_id")):
        if lesions.setdefault(row["image"], row["lesion_id"]) != row["lesion_id"]:
            raise ValueError(f"{place}: image {row['image']} has another lesion further up")
    rows = []
    for place, row in read_table(truth, ("image", *ISIC_CLASSES)):
        chosen = [name for name in ISIC_CLASSES if row[name] in ("1", "1.0")]
        others = [name for name in ISIC_CLASSES if row[name] in ("0", "0.0")]
        if len(chosen) != 1 or len(others) != len(ISIC_CLASSES) - 1:
            raise ValueError(f"{place}: one class must have 1.0 and the others 0.0")
        if row["image"] not in lesions:
            raise ValueError(f"{place}: {groupings.name} does not list the image {row['image']}")
        rows.append(Row(place, row["image"], lesions[row["image"]], chosen[0].lower()))
    return rows
