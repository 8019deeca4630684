"""Splits as CSV files that name image, lesion, diagnosis and part."""

from collections.abc import Sequence
from pathlib import Path

from examples.ham10000.data.index import CLASSES, Image
from examples.ham10000.data.splits import PARTS, Split
from examples.ham10000.data.tables import read_table
from examples.ham10000.files import write_csv

COLUMNS = ("image_id", "lesion_id", "dx", "split")


def write_split(file: Path, images: Sequence[Image], split: Split) -> None:
    """Write the images that are in a part, in the order of the index.

    Args:
        file: the CSV file, with the columns ``image_id,lesion_id,dx,split``.
        images: the index.
        split: positions in it.
    """
    parts = {position: part for part in PARTS for position in split[part]}
    write_csv(
        file,
        COLUMNS,
        (
            (images[i].image_id, images[i].lesion_id, CLASSES[images[i].label], parts[i])
            for i in sorted(parts)
        ),
    )


def read_split(file: Path, images: Sequence[Image], *, complete: bool = True) -> Split:
    """Read a split file and hold it against the index.

    Args:
        file: as :func:`write_split` writes it, in any order.
        images: the index.
        complete: whether every image of the index has to be in a part.

    Returns:
        For each part the positions of its images in the index.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: a part is none of train, val and test; an image stands twice, is not in the
            index, has another lesion or diagnosis there, or is in no part.
    """
    if not file.is_file():
        raise FileNotFoundError(f"no split file {file}: write one with the split command")
    positions = {image.image_id: position for position, image in enumerate(images)}
    split: Split = {part: [] for part in PARTS}
    seen: set[str] = set()
    for place, row in read_table(file, COLUMNS):
        name, part = row["image_id"], row["split"]
        if part not in PARTS:
            raise ValueError(f"{place}: unknown part {part!r}; known are {', '.join(PARTS)}")
        if name in seen:
            raise ValueError(f"{place}: image {name} stands there twice; remove one row")
        if name not in positions:
            raise ValueError(f"{place}: image {name} is not in the data: is it their split?")
        image = images[positions[name]]
        if (image.lesion_id, CLASSES[image.label]) != (row["lesion_id"], row["dx"]):
            raise ValueError(
                f"{place}: image {name} is {row['lesion_id']}, {row['dx']} here and "
                f"{image.lesion_id}, {CLASSES[image.label]} in the data"
            )
        seen.add(name)
        split[part].append(positions[name])
    absent = [image.image_id for image in images if image.image_id not in seen]
    if complete and absent:
        raise ValueError(
            f"{file} has no part for {len(absent)} of {len(images)} images: "
            f"{', '.join(absent[:5])}{', ...' if len(absent) > 5 else ''}"
        )
    return {part: sorted(split[part]) for part in PARTS}
