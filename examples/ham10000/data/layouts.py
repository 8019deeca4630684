"""The folders that HAM10000 comes in: what they list, and where their images are."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from examples.ham10000.data.folders import Contents, look
from examples.ham10000.data.tables import (
    find_table,
    read_header,
    read_table,
    read_tables,
    some,
    without_suffix,
)  # fmt: skip

METADATA = "HAM10000_metadata.csv"
IMAGE_FOLDERS = ("HAM10000_images_part_1", "HAM10000_images_part_2")
LESION_MASKS = "HAM10000_segmentations_lesion_tschandl"
"""Folder of the lesion masks as it is downloaded: IMAGE_ID_segmentation.png."""

COLUMNS = ("lesion_id", "image_id", "dx")

ISIC_TRUTH = "ISIC2018_Task3_Training_GroundTruth.csv"
ISIC_LESIONS = "ISIC2018_Task3_Training_LesionGroupings.csv"
ISIC_CLASSES = ("MEL", "NV", "BCC", "AKIEC", "BKL", "DF", "VASC")
"""Classes in the order of the ISIC 2018 files."""

OTHER_SETS = Path(__file__).with_name("other_sets.csv")
"""What else a folder may have, by columns and what a name has in it, and what to do then."""


class Row(NamedTuple):
    """What the metadata say of one image; ``place`` is file and line, for errors."""

    place: str
    image_id: str
    lesion_id: str
    dx: str


@dataclass(frozen=True)
class Listing:
    """What a data folder lists and holds."""

    layout: str  # the name of its form
    rows: list[Row]  # one per image, as the metadata have them
    files: dict[str, list[Path]]  # the image files by their id; several where a name stands twice
    folders: list[Path]  # where the images are; the data folder itself where there are none
    contents: Contents

    def explain_missing(self, missing: list[str]) -> str:
        """What the folder has instead of these images, and what to do."""
        if {without_suffix(path.name) for path in self.contents.masks}.intersection(missing):
            advice = "Files of these names are taken for masks: rename them, and the ids"
        elif not self.files:
            verb = "Unpack the archives of" if self.contents.archives else "Put"
            advice = f"{verb} the images there"
        elif self.files.keys().isdisjoint(row.image_id for row in self.rows):
            name = next(iter(self.files.values()))[0].name
            advice = f"Ids in the table look like {missing[0]}, files like {name}: rename either"
        elif {name.casefold() for name in missing} & {name.casefold() for name in self.files}:
            advice = "Files are named as they are but for the case of letters: rename either"
        else:
            advice = "Are all archives unpacked there? --skip-bad trains without them"
        places = " or ".join(map(str, self.folders[:4]))
        return (
            f"{len(missing)} of {len(self.rows)} images are not in {places}: {some(missing)}. "
            f"{advice}. Layout: {self.layout}; {self.contents}"
        )


def read_listing(folder: Path) -> Listing:
    """Read the metadata of a data folder and list its images, wherever they are below it.

    A folder has the metadata, in the HAM10000 layout or flat, or else the two tables of ISIC 2018
    Task 3. What there is instead is said in the FileNotFoundError.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"no folder {folder}: give the HAM10000 folder with --data")
    contents = look(folder)
    folders = {path.parent for paths in contents.photos.values() for path in paths}
    if metadata := find_table(contents.others, METADATA):
        official = {name.lower() for name in IMAGE_FOLDERS}
        layout = "HAM10000" if official & {path.name.lower() for path in folders} else "flat"
        rows = metadata_rows(metadata)
    elif truth := find_table(contents.others, ISIC_TRUTH):
        layout, rows = "ISIC 2018 Task 3", challenge_rows(truth)
        groupings = find_table(contents.others, ISIC_LESIONS)
        if not groupings:
            raise FileNotFoundError(
                f"no {ISIC_LESIONS} in {folder}: without it nothing says what shows one lesion"
            )
        lesions: dict[str, str] = {}
        for place, row in read_tables(groupings, ("image", "lesion_id")):
            if lesions.setdefault(row["image"], row["lesion_id"]) != row["lesion_id"]:
                raise ValueError(f"{place}: image {row['image']} has another lesion further up")
        for place, name, *_ in rows:
            if name not in lesions:
                raise ValueError(f"{place}: {groupings[0].name} does not list the image {name}")
        rows = [row._replace(lesion_id=lesions[row.image_id]) for row in rows]
    else:
        raise FileNotFoundError(
            f"no {METADATA} and no {ISIC_TRUTH} in {folder}: either belongs beside the images. "
            f"{_explain(folder, contents)}"
        )
    return Listing(layout, rows, contents.photos, sorted(folders) or [folder], contents)


def metadata_rows(tables: list[Path], lesion: str = "lesion_id") -> list[Row]:
    """The rows of the metadata, and its copies; ``lesion`` is the column with ids of lesions."""
    rows = read_tables(tables, tuple(dict.fromkeys((lesion, "image_id", "dx"))))
    return [Row(place, row["image_id"], row[lesion], row["dx"]) for place, row in rows]


def challenge_rows(tables: list[Path]) -> list[Row]:
    """The rows of a ground truth of the challenge, and its copies: each image is one lesion."""
    rows = read_tables(tables, ("image", *ISIC_CLASSES))
    return [Row(place, row["image"], row["image"], chosen_class(place, row)) for place, row in rows]


def chosen_class(place: str, row: dict[str, str]) -> str:
    """The class that has 1.0 in a row of the challenge, in small letters; the others have 0.0."""
    texts = [row[name] for name in ISIC_CLASSES]
    try:
        values = [float(text) for text in texts]
    except ValueError:
        values = []
    if sorted(values) != [0] * 6 + [1]:
        said = ", ".join(texts)
        raise ValueError(f"{place}: one class must have 1.0 and the others 0.0; it has {said}")
    return ISIC_CLASSES[values.index(1)].lower()


def _explain(folder: Path, contents: Contents) -> str:
    """What is recognised among the files of a folder, what to do, and what there is."""
    texts = [f for f in contents.others if re.fullmatch(r"|\.(csv|tab|tsv|txt)", f.suffix, re.I)]
    tables = {file: header for file in texts if len(header := read_header(file)) > 1}
    words = {"folder": folder, "parquet": _describe_parquet(contents.others)}
    known: dict[Path, str] = {}  # of a file, the first explanation that fits it
    for _, row in read_table(OTHER_SETS, ("name", "text")):
        for file in contents.others:
            name = re.search(row["name"], file.name.lower())
            if name and {*row["columns"].split()}.issubset(tables.get(file, ())):
                known.setdefault(file, row["text"].format(file=file, found=name[0], **words))
    there = f"It has {contents}"
    if tables:
        listed = (f"{file.name} ({some(header, 9)})" for file, header in tables.items())
        there += f"; tables: {', '.join(list(listed)[:4])}"
    return ". ".join([*list(dict.fromkeys(known.values()))[:4], there])


def _describe_parquet(files: list[Path]) -> str:
    """How many Parquet files there are, and the columns of the first."""
    files = [file for file in files if file.suffix.lower() == ".parquet"]
    try:
        from pyarrow import parquet

        columns = parquet.read_schema(files[0]).names
        return f"{len(files)}, with columns {', '.join(columns[:9])}"
    except Exception:  # there is none, it is damaged, or pyarrow is missing: unpack says so
        return str(len(files))
