"""The images of a HAM10000 folder, checked before anything is trained."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

from examples.ham10000.data.layouts import Listing, read_listing
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


CLASSES = ("akiec", "bcc", "bkl", "df", "mel", "nv", "vasc")
"""Diagnoses in the order of the paper's confusion matrices."""

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
        lesion_id: as the metadata have it; several images may show one lesion.
        label: index into :data:`CLASSES`.
        path: the image file.
        joined: the lesion, where it has another ``lesion_id`` too: the smallest of them.
    """

    image_id: str
    lesion_id: str
    label: int
    path: Path
    joined: str | None = None

    @property
    def lesion(self) -> str:
        """What the lesion is called, whichever of its ids the metadata have."""
        return self.joined or self.lesion_id


@dataclass(frozen=True)
class Faults:
    """What keeps a folder from being used: one message each, with file and line.

    Attributes:
        unknown: diagnoses that are none of :data:`CLASSES`.
        twice: images that stand in the metadata twice.
        contradictory: lesions with two diagnoses, by the metadata or by a table of pairs.
        ambiguous: images that have two files.
        missing: ids of the images that have no file.
    """

    unknown: list[str]
    twice: list[str]
    contradictory: list[str]
    ambiguous: list[str]
    missing: list[str]


def read_index(
    folder: Path, *, allow_missing: bool = False, same_lesion: Path | None = None
) -> list[Image]:
    """Read the metadata of a data folder and find the file of every image.

    Args:
        folder: in one of the layouts of :func:`examples.ham10000.data.layouts.read_listing`.
        allow_missing: keep images without a file; their path then does not exist.
        same_lesion: a table of images that show one lesion, beside the one that is shipped; see
            :func:`examples.ham10000.data.index.read_pairs`.

    Returns:
        One entry per row, in the order of the file.

    Raises:
        FileNotFoundError: the folder, the metadata, the table or an image is missing.
        ValueError: a column is missing, a field is empty, a diagnosis is unknown, an image stands
            twice, or a lesion has two diagnoses; or the table cannot be used. The message names
            file and row.
    """
    listing = read_listing(folder)
    images, faults = index(listing, same_lesion)
    for found in (faults.unknown, faults.twice, faults.contradictory, faults.ambiguous):
        if found:
            raise ValueError(found[0])
    if not images:
        raise ValueError(f"the metadata of {folder} have no rows: download them again")
    missing = faults.missing
    if missing and not allow_missing:
        raise FileNotFoundError(listing.explain_missing(missing))
    return images


def index(listing: Listing, same_lesion: Path | None = None) -> tuple[list[Image], Faults]:
    """The images of a listing, and all faults of it; rows with a fault of their own are left out.

    An image without a file is in the list, with the path where it was expected.
    """
    faults = Faults([], [], [], [], [])
    images: dict[str, Image] = {}
    diagnoses: dict[str, str] = {}
    for row in listing.rows:
        files = listing.files.get(row.image_id, [])
        if row.dx not in CLASSES:
            faults.unknown.append(
                f"{row.place}: unknown diagnosis {row.dx!r}; known are {', '.join(CLASSES)}"
            )
        elif row.image_id in images:
            faults.twice.append(
                f"{row.place}: image {row.image_id} stands there twice; remove one row"
            )
        elif diagnoses.setdefault(row.lesion_id, row.dx) != row.dx:
            faults.contradictory.append(
                f"{row.place}: lesion {row.lesion_id} has another diagnosis further up"
            )
        else:
            if len(files) > 1:
                faults.ambiguous.append(
                    f"image {row.image_id} has two files, {files[0]} and {files[1]}: remove one"
                )
            if not files:
                faults.missing.append(row.image_id)
                files = [listing.folders[0] / f"{row.image_id}.jpg"]
            label = CLASSES.index(row.dx)
            images[row.image_id] = Image(row.image_id, row.lesion_id, label, files[0])
    pairs = read_pairs(same_lesion, {row.image_id for row in listing.rows})
    pairs = [pair for pair in pairs if pair.first in images and pair.second in images]
    for place, *names in pairs:
        first, second = (CLASSES[images[name].label] for name in names)
        if first != second:
            faults.contradictory.append(
                f"{place}: images {names[0]} ({first}) and {names[1]} ({second}) cannot be of one "
                "lesion, which has one diagnosis"
            )
    joined = join({name: image.lesion_id for name, image in images.items()}, pairs)
    return [
        replace(image, joined=joined[image.lesion_id]) if image.lesion_id in joined else image
        for image in images.values()
    ], faults


def is_synthetic(images: Sequence[Image]) -> bool:
    """Whether any of the images was drawn by this example."""
    return any(image.image_id.startswith(SYNTHETIC_ID) for image in images)
