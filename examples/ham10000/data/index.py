"""The images of a HAM10000 folder, checked before anything is trained."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

from examples.ham10000.data.layouts import Listing, read_listing
from examples.ham10000.data.tables import read_table

CLASSES = ("akiec", "bcc", "bkl", "df", "mel", "nv", "vasc")
"""Diagnoses in the order of the paper's confusion matrices."""

SYNTHETIC_ID = "SYNTHETIC_"
"""How the ids of drawn images begin."""

ATTRIBUTION = (
    "P. Tschandl, C. Rosendahl, H. Kittler: The HAM10000 dataset, Scientific Data 5, 180161 "
    "(2018), doi:10.7910/DVN/DBW86T, CC BY-NC 4.0"
)

SHIPPED = Path(__file__).with_name("same_lesion.csv")
COLUMNS = ("image_id_1", "image_id_2")

MISSING, CONTRADICTORY = "missing images", "lesions with two diagnoses"

Faults = list[tuple[str, str]]
"""What keeps a folder from being used: what ``check`` calls it, and a message with file and line,
of :data:`MISSING` images the id."""


class Pair(NamedTuple):
    """Two images of one lesion; ``place`` is file and line, for errors."""

    place: str
    first: str
    second: str


@dataclass(frozen=True)
class Image:
    """One row of the metadata, with its file; ``label`` is an index into :data:`CLASSES`."""

    image_id: str
    lesion_id: str  # as the metadata have it; several images may show one lesion
    label: int
    path: Path
    joined: str | None = None  # where the lesion has several ids: the smallest of them

    @property
    def lesion(self) -> str:
        """What the lesion is called, whichever of its ids the metadata have."""
        return self.joined or self.lesion_id


def read_pairs(table: Path | None, known: Collection[str], *, complete: bool = True) -> list[Pair]:
    """The pairs of known images in the table beside this file, and in a further one.

    Where ``complete``, another image in the further one is a ValueError that names the line.
    """
    if table is not None and not table.is_file():
        raise FileNotFoundError(f"no table {table} of images that show one lesion")
    pairs = []
    for file in filter(None, (SHIPPED, table)):
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

    From the lesion id of each image, for each that stands for a lesion with a smaller one, the
    smallest.
    """
    groups: dict[str, set[str]] = {}
    for _, *images in pairs:
        first, second = (lesion_ids[image] for image in images)
        group = groups.get(first, {first}) | groups.get(second, {second})
        groups.update(dict.fromkeys(group, group))
    return {name: min(group) for name, group in groups.items() if name != min(group)}


def read_index(
    folder: Path, *, allow_missing: bool = False, same_lesion: Path | None = None
) -> list[Image]:
    """Read the metadata of a data folder, row by row, and find the file of every image.

    ``allow_missing`` keeps images without a file; ``same_lesion`` is a table of
    :func:`read_pairs`. What is missing is a FileNotFoundError, every other fault a ValueError.
    """
    listing = read_listing(folder)
    images, faults = index(listing, same_lesion)
    missing = refuse_all_but_missing(faults)
    if not images:
        raise ValueError(f"the metadata of {folder} have no rows: download them again")
    if missing and not allow_missing:
        raise FileNotFoundError(listing.explain_missing(missing))
    return images


def refuse_all_but_missing(faults: Faults) -> list[str]:
    """Ids of the missing images; the first fault of another kind is a ValueError."""
    for kind, message in faults:
        if kind != MISSING:
            raise ValueError(message)
    return [image_id for _, image_id in faults]


def index(listing: Listing, same_lesion: Path | None = None) -> tuple[list[Image], Faults]:
    """The images of a listing, and all faults of it; rows with a fault of their own are left out.

    An image without a file is in the list, with the path where it was expected.
    """
    faults: Faults = []
    images: dict[str, Image] = {}
    diagnoses: dict[str, str] = {}
    for place, name, lesion, dx in listing.rows:
        files = listing.files.get(name) or [listing.folders[0] / f"{name}.jpg"]
        if dx not in CLASSES:
            known = f"{place}: unknown diagnosis {dx!r}; known are {', '.join(CLASSES)}"
            faults.append(("unknown diagnoses", known))
        elif name in images:
            twice = f"{place}: image {name} stands there twice; remove one row"
            faults.append(("ids that stand twice", twice))
        elif diagnoses.setdefault(lesion, dx) != dx:
            other = f"{place}: lesion {lesion} has another diagnosis further up"
            faults.append((CONTRADICTORY, other))
        else:
            images[name] = Image(name, lesion, CLASSES.index(dx), files[0])
            if name not in listing.files:
                faults.append((MISSING, name))
            elif len(files) > 1:
                two = f"image {name} has two files, {files[0]} and {files[1]}: remove one"
                faults.append(("images with two files", two))
    pairs = read_pairs(same_lesion, {row.image_id for row in listing.rows})
    pairs = [pair for pair in pairs if pair.first in images and pair.second in images]
    for place, *names in pairs:
        if len({images[name].label for name in names}) > 1:
            two = " and ".join(f"{name} ({CLASSES[images[name].label]})" for name in names)
            told = f"{place}: images {two} cannot be of one lesion, which has one diagnosis"
            faults.append((CONTRADICTORY, told))
    joined = join({name: image.lesion_id for name, image in images.items()}, pairs)
    return [replace(image, joined=joined.get(image.lesion_id)) for image in images.values()], faults


def is_synthetic(images: Sequence[Image]) -> bool:
    """Whether any of the images was drawn by this example."""
    return any(image.image_id.startswith(SYNTHETIC_ID) for image in images)
