"""Lesions that the metadata count as several: images of one lesion whose ``lesion_id`` differs.

``same_lesion.csv`` beside this file has the 18 pairs that were found and confirmed by K. Abhishek,
A. Jain and G. Hamarneh: Investigating the Quality of DermaMNIST and Fitzpatrick17k Dermatological
Image Datasets, arXiv 2401.14497.
"""

from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

from examples.ham10000.data.tables import read_table

SHIPPED = Path(__file__).with_name("same_lesion.csv")
COLUMNS = ("image_id_1", "image_id_2")


class Pair(NamedTuple):
    """Two images of one lesion; ``place`` is file and line, for errors."""

    place: str
    first: str
    second: str


def read_pairs(table: Path | None, known: Collection[str], *, complete: bool = True) -> list[Pair]:
    """The pairs of the table beside this file, and of a further one.

    Args:
        table: the further one, a CSV file with the columns :data:`COLUMNS`.
        known: ids of images. Pairs that are not among them are left out.
        complete: whether all images of the further table have to be known.

    Raises:
        FileNotFoundError: there is no such table.
        ValueError: it cannot be read, or an image of it is not known; the message names the line.
    """
    if table is not None and not table.is_file():
        raise FileNotFoundError(f"no table {table} of images that show one lesion")
    pairs = []
    for file in (SHIPPED,) if table is None else (SHIPPED, table):
        for place, row in read_table(file, COLUMNS):
            pair = Pair(place, *(row[name] for name in COLUMNS))
            absent = [name for name in pair[1:] if name not in known]
            if absent and complete and file == table:
                raise ValueError(f"{place}: image {absent[0]} is not in the data: remove the row")
            if not absent:
                pairs.append(pair)
    return pairs


def join(lesion_ids: Mapping[str, str], pairs: Iterable[Pair]) -> dict[str, str]:
    """Join lesions that share an image, and those that share one with them, and so on.

    Args:
        lesion_ids: by image.
        pairs: of these images.

    Returns:
        For each lesion id that stands for a lesion with a smaller one, the smallest.
    """
    smaller: dict[str, str] = {}

    def smallest(name: str) -> str:
        while name in smaller:
            above = smaller[name]
            smaller[name] = name = smaller.get(above, above)  # half the way for the next one
        return name

    for _, first, second in pairs:
        low, high = sorted((smallest(lesion_ids[first]), smallest(lesion_ids[second])))
        if low != high:
            smaller[high] = low
    return {name: smallest(name) for name in list(smaller)}
