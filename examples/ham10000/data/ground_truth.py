"""Test images from outside a split, such as those of ISIC 2018 Task 3, with a table of classes."""

from dataclasses import dataclass
from pathlib import Path

from examples.ham10000.data.folders import look
from examples.ham10000.data.index import CLASSES, Image, index
from examples.ham10000.data.layouts import ISIC_CLASSES, Listing, Row, chosen_class
from examples.ham10000.data.tables import read_header, read_table

TEST_TRUTH = "ISIC2018_Task3_Test_GroundTruth.csv"

MOST_MISSING = 1
"""Images that may lack a file: ISIC_0035068 does in the archive of the official test set."""

ISIC_2019_CLASSES = ("AK", "SCC", "UNK")
"""Columns that the files of ISIC 2019 have and those of 2018 do not; they have no AKIEC."""


@dataclass(frozen=True)
class GroundTruth:
    """Images with their classes.

    Attributes:
        images: those that have a file, in the order of the table; where the table names no
            lesions, each is a lesion of its own.
        missing: ids of those without a file.
        ignored: how many other image files there are.
        has_lesions: whether the table names lesions.
    """

    images: list[Image]
    missing: list[str]
    ignored: int
    has_lesions: bool


def read_ground_truth(file: Path, folder: Path) -> GroundTruth:
    """Read a table of classes and find its images, at any depth of a folder.

    Args:
        file: with the columns of the challenge (``image,MEL,NV,BCC,AKIEC,BKL,DF,VASC``, one of
            them 1.0 and the others 0.0) or those of the metadata (``image_id,dx``, and perhaps
            ``lesion_id``). Ids may end in the suffix of their file.
        folder: the images; what the table does not name is ignored.

    Raises:
        FileNotFoundError: the table or the folder is missing, or more than :data:`MOST_MISSING`
            images are.
        ValueError: the table has other columns, its rows contradict each other, an image has two
            files, or no image is of some class.
    """
    if not file.is_file():
        raise FileNotFoundError(f"--ground-truth {file} is no file: give a table as {TEST_TRUTH}")
    if not folder.is_dir():
        raise FileNotFoundError(f"no folder {folder}: give that of the test images with --data")
    rows, has_lesions = _rows(file)
    if not rows:
        raise ValueError(f"{file} has no rows: download it again")
    contents = look(folder)
    listing = Listing("ground truth", rows, contents.photos, [folder], contents)
    listed, faults = index(listing)
    for found in (faults.unknown, faults.twice, faults.contradictory, faults.ambiguous):
        if found:
            raise ValueError(found[0])
    if len(faults.missing) > MOST_MISSING:
        raise FileNotFoundError(
            f"{len(faults.missing)} of the {len(listed)} images of {file} are not in {folder}: "
            f"{', '.join(faults.missing[:5])}{', ...' if len(faults.missing) > 5 else ''}. It has "
            f"{contents}. Give the folder of the test images with --data; at most {MOST_MISSING} "
            "may be missing there"
        )
    images = [image for image in listed if image.image_id not in faults.missing]
    present = {CLASSES[image.label] for image in images}
    if absent := [name.upper() for name in CLASSES if name not in present]:
        raise ValueError(
            f"of the {len(images)} images of {file} none is of the class(es) {', '.join(absent)}: "
            f"the score is the mean over all {len(CLASSES)}"
        )
    photos = sum(map(len, contents.photos.values()))
    ignored = photos - len(images)
    ignored += len(contents.copies) + len(contents.raw) + len(contents.masks)
    return GroundTruth(images, faults.missing, ignored, has_lesions)


def _rows(file: Path) -> tuple[list[Row], bool]:
    """The rows of a table, and whether it names lesions."""
    columns = dict.fromkeys(read_header(file)).keys()
    if not columns:
        next(read_table(file, ("image",)), None)  # it says what is wrong with the text
    if columns >= {"image_id", "dx"}:
        lesion = "lesion_id" if "lesion_id" in columns else "image_id"
        table = read_table(file, tuple(dict.fromkeys(("image_id", "dx", lesion))))
        rows = [Row(place, r["image_id"], r[lesion], r["dx"]) for place, r in table]
        return rows, lesion == "lesion_id"
    strange = [name for name in ISIC_2019_CLASSES if name in columns]
    if columns >= {"image", *ISIC_CLASSES} and not strange:
        table = read_table(file, ("image", *ISIC_CLASSES))
        return [_challenge_row(place, row) for place, row in table], False
    looks = f" looks like ISIC 2019 ({', '.join(strange)}), whose classes are others, and"
    raise ValueError(
        f"{file}{looks if strange else ''} has the columns {', '.join(columns)}. Known are those "
        f"of ISIC 2018 Task 3: image, {', '.join(ISIC_CLASSES)}, and of the metadata: lesion_id, "
        "image_id, dx"
    )


def _challenge_row(place: str, row: dict[str, str]) -> Row:
    return Row(place, row["image"], row["image"], chosen_class(place, row))
