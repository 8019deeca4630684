"""The HAM10000 folder: metadata and images, checked before anything is trained."""

import csv
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

CLASSES = ("akiec", "bcc", "bkl", "df", "mel", "nv", "vasc")
"""Diagnoses in the order of the paper's confusion matrices."""

COLUMNS = ("lesion_id", "image_id", "dx")
METADATA = "HAM10000_metadata.csv"
IMAGE_FOLDERS = ("HAM10000_images_part_1", "HAM10000_images_part_2")

SYNTHETIC_ID = "SYNTHETIC_"
"""How the ids of drawn images begin."""

ATTRIBUTION = (
    "P. Tschandl, C. Rosendahl, H. Kittler: The HAM10000 dataset, Scientific Data 5, 180161 "
    "(2018), doi:10.7910/DVN/DBW86T, CC BY-NC 4.0"
)


@dataclass(frozen=True)
class Image:
    """One row of the metadata, with its file.

    Attributes:
        image_id: such as ISIC_0024306.
        lesion_id: several images may show one lesion.
        label: index into :data:`CLASSES`.
        path: the JPEG.
    """

    image_id: str
    lesion_id: str
    label: int
    path: Path


def read_index(folder: Path) -> list[Image]:
    """Read the metadata of a HAM10000 folder and find the file of every image.

    Args:
        folder: holds ``HAM10000_metadata.csv`` and the two image folders.

    Returns:
        One entry per row, in the order of the file.

    Raises:
        FileNotFoundError: the folder, the metadata or an image is missing.
        ValueError: a column is missing, a field is empty, a diagnosis is unknown, an image stands
            twice, or a lesion has two diagnoses; the message names file and row.
    """
    metadata = folder / METADATA
    if not folder.is_dir():
        raise FileNotFoundError(f"no folder {folder}: give the HAM10000 folder with --data")
    if not metadata.is_file():
        raise FileNotFoundError(f"no {METADATA} in {folder}: it belongs beside the image folders")
    files = {path.stem: path for name in IMAGE_FOLDERS for path in (folder / name).glob("*.jpg")}
    images: dict[str, Image] = {}
    diagnoses: dict[str, int] = {}
    missing: list[str] = []
    for place, row in _rows(metadata):
        image_id, lesion_id = row["image_id"], row["lesion_id"]
        label = _label(row["dx"], place)
        if image_id in images:
            raise ValueError(f"{place}: image {image_id} stands there twice; remove one row")
        if diagnoses.setdefault(lesion_id, label) != label:
            raise ValueError(f"{place}: lesion {lesion_id} has another diagnosis further up")
        if image_id not in files:
            missing.append(image_id)
        images[image_id] = Image(image_id, lesion_id, label, files.get(image_id, Path()))
    if not images:
        raise ValueError(f"{metadata} has no rows: download it again")
    if missing:
        raise FileNotFoundError(
            f"{len(missing)} of {len(images)} images are in neither {IMAGE_FOLDERS[0]} nor "
            f"{IMAGE_FOLDERS[1]} of {folder}: {', '.join(missing[:5])}"
            f"{', ...' if len(missing) > 5 else ''}. Unpack both archives there"
        )
    return list(images.values())


def is_synthetic(images: Sequence[Image]) -> bool:
    """Whether any of the images was drawn by this example."""
    return any(image.image_id.startswith(SYNTHETIC_ID) for image in images)


def _rows(metadata: Path) -> Iterator[tuple[str, dict[str, str]]]:
    """Every row with its place, once its columns and fields are known to be there."""
    line = 1
    try:
        with metadata.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file, strict=True)
            absent = [name for name in COLUMNS if name not in (reader.fieldnames or ())]
            if absent:
                raise ValueError(
                    f"{metadata} lacks the column(s) {', '.join(absent)}: it has "
                    f"{', '.join(reader.fieldnames or ['nothing'])}"
                )
            line = reader.line_num + 1
            for row in reader:
                place, line = f"{metadata}, line {line}", reader.line_num + 1
                empty = [name for name in COLUMNS if not row[name]]
                if empty:
                    raise ValueError(f"{place}: {', '.join(empty)} is empty; fill it in")
                yield place, row
    except UnicodeDecodeError as error:
        raise ValueError(f"{metadata} is not UTF-8 ({error}): save it as UTF-8") from error
    except csv.Error as error:
        raise ValueError(f"{metadata}, line {line}: broken quoting ({error})") from error


def _label(dx: str, place: str) -> int:
    if dx not in CLASSES:
        raise ValueError(f"{place}: unknown diagnosis {dx!r}; known are {', '.join(CLASSES)}")
    return CLASSES.index(dx)
