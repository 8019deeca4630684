"""Test images from outside a split, such as those of ISIC 2018 Task 3, with a table of classes."""

from pathlib import Path
from typing import NamedTuple

from examples.ham10000.data.folders import look
from examples.ham10000.data.index import CLASSES, Image, index, refuse_all_but_missing
from examples.ham10000.data.layouts import ISIC_CLASSES, Listing, challenge_rows, metadata_rows
from examples.ham10000.data.tables import read_header, read_table, some

TEST_TRUTH = "ISIC2018_Task3_Test_GroundTruth.csv"

MOST_MISSING = 1
"""Images that may lack a file: ISIC_0035068 does in the archive of the official test set."""

ISIC_2019_CLASSES = ("AK", "SCC", "UNK")
"""Columns that the files of ISIC 2019 have and those of 2018 do not; they have no AKIEC."""


class GroundTruth(NamedTuple):
    """Images with their classes."""

    images: list[Image]  # those with a file; each a lesion of its own where the table has none
    missing: list[str]  # ids of those without one
    ignored: int  # how many other image files there are
    has_lesions: bool  # whether the table names lesions


def read_ground_truth(file: Path, folder: Path) -> GroundTruth:
    """Read a table of classes and find its images, at any depth of a folder.

    The table has the columns of the challenge or those of the metadata, perhaps without lesions.
    What is missing is a FileNotFoundError, every fault of the table a ValueError.
    """
    if not file.is_file():
        raise FileNotFoundError(f"--ground-truth {file} is no file: give a table as {TEST_TRUTH}")
    if not folder.is_dir():
        raise FileNotFoundError(f"no folder {folder}: give that of the test images with --data")
    columns = read_header(file)
    strange = [name for name in ISIC_2019_CLASSES if name in columns]
    has_lesions = {"image_id", "dx", "lesion_id"}.issubset(columns)
    if {"image_id", "dx"}.issubset(columns):
        rows = metadata_rows([file], "lesion_id" if has_lesions else "image_id")
    elif {"image", *ISIC_CLASSES}.issubset(columns) and not strange:
        rows = challenge_rows([file])
    else:
        if not columns:
            next(read_table(file, ("image",)), None)  # it says what is wrong with the text
        looks = f" looks like ISIC 2019 ({', '.join(strange)}), whose classes are others, and"
        raise ValueError(
            f"{file}{looks if strange else ''} has the columns {', '.join(dict.fromkeys(columns))}."
            f" Known are those of ISIC 2018 Task 3: image, {', '.join(ISIC_CLASSES)}, and of the "
            "metadata: lesion_id, image_id, dx"
        )
    if not rows:
        raise ValueError(f"{file} has no rows: download it again")
    contents = look(folder)
    listed, faults = index(Listing("ground truth", rows, contents.photos, [folder], contents))
    missing = refuse_all_but_missing(faults)
    if len(missing) > MOST_MISSING:
        raise FileNotFoundError(
            f"{len(missing)} of the {len(listed)} images of {file} are not in {folder}: "
            f"{some(missing)}. It has {contents}. Give the folder of the test images with --data; "
            f"at most {MOST_MISSING} may be missing there"
        )
    images = [image for image in listed if image.image_id not in missing]
    present = {image.label for image in images}
    if absent := [name.upper() for label, name in enumerate(CLASSES) if label not in present]:
        raise ValueError(
            f"of the {len(images)} images of {file} none is of the class(es) {', '.join(absent)}: "
            f"the score is the mean over all {len(CLASSES)}"
        )
    files = [*contents.photos.values(), contents.copies, contents.raw, contents.masks]
    return GroundTruth(images, missing, sum(map(len, files)) - len(images), has_lesions)
