"""The folders that HAM10000 comes in: what they list, and where their images are."""

from dataclasses import dataclass
from pathlib import Path

from examples.ham10000.data.folders import ARCHIVES, Contents, look
from examples.ham10000.data.tables import find_table, read_header, read_tables, without_suffix

TABLES = ("", ".csv", ".tab", ".tsv", ".txt")

METADATA_COLUMNS = {"lesion_id", "image_id", "dx"}
ISIC_2018 = {"image", "MEL", "NV", "BCC", "AKIEC", "BKL", "DF", "VASC"}
ISIC_2019 = {"image", "MEL", "NV", "BCC", "AK", "SCC"}


def explain(folder: Path, contents: Contents) -> str:
    """What is recognised among the files of a folder, what to do, and what there is."""
    files = contents.others
    tables = {file: read_header(file) for file in files if file.suffix.lower() in TABLES}
    tables = {file: header for file, header in tables.items() if len(header) > 1}
    found = [
        *_parquet(folder, [file for file in files if file.suffix.lower() == ".parquet"]),
        *(_table(file, set(header)) for file, header in tables.items()),
        *(_file(file) for file in files),
    ]
    known = list(dict.fromkeys(text for text in found if text))
    listed = [
        f"{file.name} ({', '.join(header[:9])}{', ...' if len(header) > 9 else ''})"
        for file, header in list(tables.items())[:4]
    ]
    there = [str(contents), *([f"tables: {', '.join(listed)}"] if listed else [])]
    return ". ".join([*known[:4], f"It has {'; '.join(there)}"])


def _parquet(folder: Path, files: list[Path]) -> list[str]:
    if not files:
        return []
    try:
        from pyarrow import parquet

        columns = f", with columns {', '.join(parquet.read_schema(files[0]).names[:9])}"
    except Exception:  # it is damaged, or pyarrow is missing: unpack says so
        columns = ""
    return [
        f"There are Parquet files of Hugging Face ({len(files)}{columns}): write them as a "
        f"folder of images with: unpack --data {folder} --out NEW_DIR"
    ]


def _table(file: Path, columns: set[str]) -> str:
    name = file.name.lower()
    if columns >= METADATA_COLUMNS:
        return f"{file} has the columns of the metadata: call it HAM10000_metadata.csv"
    if columns >= ISIC_2019:
        return (
            f"{file.name} is of ISIC 2019, which is another data set: eight classes, with AK and "
            "SCC apart where HAM10000 has akiec with Bowen's disease, images named "
            "..._downsampled, and lesion ids in ISIC_2019_Training_Metadata.csv, where those of "
            "HAM10000 begin with HAM_. Take HAM10000 itself: download --out DIR"
        )
    if columns >= ISIC_2018 and ("test" in name or "validation" in name):
        part = "test" if "test" in name else "validation"
        return (
            f"{file.name} is the {part} part of ISIC 2018 Task 3, which has no lesion ids and is "
            "not trained on: get the training part with download --out DIR"
        )
    if columns >= ISIC_2018:
        return (
            f"{file.name} is a ground truth of ISIC 2018 Task 3 without lesion ids, which say what "
            "a split has to keep together: put HAM10000_metadata.csv beside it"
        )
    return ""


def _file(file: Path) -> str:
    name = file.name.lower()
    if name.startswith("hmnist_"):
        return (
            f"{file.name} has pixels of small copies, without lesion ids: unpack the images and "
            "HAM10000_metadata.csv of the same Kaggle download"
        )
    if file.suffix.lower() == ".npz":
        what = "DermaMNIST" if "derma" in name else "arrays"
        return f"{file.name} has {what}, without lesion ids: get HAM10000 with download --out DIR"
    if file.suffix.lower() in (".xlsx", ".xls", ".ods"):
        return f"{file.name} is a workbook: save its table as HAM10000_metadata.csv"
    if file.suffix.lower() == ".arrow":
        return f"{file.name} is of Hugging Face: write it with Dataset.to_parquet, then unpack that"
    if file.suffix.lower() in ARCHIVES:
        return f"{file.name} is not unpacked: unpack it there"
    return ""


METADATA = "HAM10000_metadata.csv"
IMAGE_FOLDERS = ("HAM10000_images_part_1", "HAM10000_images_part_2")
LESION_MASKS = "HAM10000_segmentations_lesion_tschandl"
"""Folder of the lesion masks as it is downloaded: IMAGE_ID_segmentation.png."""

COLUMNS = ("lesion_id", "image_id", "dx")

ISIC_TRUTH = "ISIC2018_Task3_Training_GroundTruth.csv"
ISIC_LESIONS = "ISIC2018_Task3_Training_LesionGroupings.csv"
ISIC_CLASSES = ("MEL", "NV", "BCC", "AKIEC", "BKL", "DF", "VASC")
"""Classes in the order of the ISIC 2018 files."""


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
        files: the image files by their id; more than one where a name stands twice.
        folders: where the images are; the data folder itself where there are none.
        contents: everything in the folder.
    """

    layout: str
    rows: list[Row]
    files: dict[str, list[Path]]
    folders: list[Path]
    contents: Contents

    def explain_missing(self, missing: list[str]) -> str:
        """What the folder has instead of these images, and what to do."""
        places = " or ".join(map(str, self.folders[:4]))
        text = (
            f"{len(missing)} of {len(self.rows)} images are not in {places}: "
            f"{', '.join(missing[:5])}{', ...' if len(missing) > 5 else ''}. "
        )
        masks = {without_suffix(path.name) for path in self.contents.masks}
        if masks & set(missing):
            text += "Files of these names are taken for masks: rename them, and the ids"
        elif self.files and not self.files.keys() & {row.image_id for row in self.rows}:
            name = next(iter(self.files.values()))[0].name
            text += f"Ids in the table look like {missing[0]}, files like {name}: rename either"
        elif {name.casefold() for name in missing} & {name.casefold() for name in self.files}:
            text += "Files are named as they are but for the case of letters: rename either"
        elif not self.files:
            text += (
                f"{'Unpack the archives of' if self.contents.archives else 'Put'} the images there"
            )
        else:
            text += "Are all archives unpacked there? --skip-bad trains without them"
        return f"{text}. Layout: {self.layout}; {self.contents}"


def read_listing(folder: Path) -> Listing:
    """Read the metadata of a data folder and list its images, wherever they are below it.

    Three layouts are known. *HAM10000*: ``HAM10000_metadata.csv`` and the two image folders of the
    Dataverse and Kaggle downloads. *Flat*: the same table, and images in any other folders. *ISIC
    2018 Task 3*: ground truth and lesion groupings. Case, suffix and delimiter of the tables do not
    matter (:func:`examples.ham10000.data.tables.find_table`), nor does how images are named beside
    their id; masks are told from photos (:func:`examples.ham10000.data.folders.sort_files`).

    Raises:
        FileNotFoundError: there is no such folder, or none of the layouts is in it.
        ValueError: a table cannot be read, as in :func:`examples.ham10000.data.tables.read_table`,
            or two copies of it differ.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"no folder {folder}: give the HAM10000 folder with --data")
    contents = look(folder)
    photos = [path for paths in contents.photos.values() for path in paths]
    folders = sorted({path.parent for path in photos}) or [folder]
    if metadata := find_table(contents.others, METADATA):
        official = {name.lower() for name in IMAGE_FOLDERS}
        layout = "HAM10000" if official & {path.name.lower() for path in folders} else "flat"
        rows = [
            Row(place, row["image_id"], row["lesion_id"], row["dx"])
            for place, row in read_tables(metadata, COLUMNS)
        ]
    elif truth := find_table(contents.others, ISIC_TRUTH):
        layout, rows = "ISIC 2018 Task 3", _isic_rows(folder, contents, truth)
    else:
        raise FileNotFoundError(
            f"no {METADATA} and no {ISIC_TRUTH} in {folder}: either belongs beside the images. "
            f"{explain(folder, contents)}"
        )
    return Listing(layout, rows, contents.photos, folders, contents)


def _isic_rows(folder: Path, contents: Contents, truth: list[Path]) -> list[Row]:
    groupings = find_table(contents.others, ISIC_LESIONS)
    if not groupings:
        raise FileNotFoundError(
            f"no {ISIC_LESIONS} in {folder}: without it nothing says which images show one lesion"
        )
    lesions: dict[str, str] = {}
    for place, row in read_tables(groupings, ("image", "lesion_id")):
        if lesions.setdefault(row["image"], row["lesion_id"]) != row["lesion_id"]:
            raise ValueError(f"{place}: image {row['image']} has another lesion further up")
    rows = []
    for place, row in read_tables(truth, ("image", *ISIC_CLASSES)):
        if row["image"] not in lesions:
            raise ValueError(f"{place}: {groupings[0].name} does not list the image {row['image']}")
        rows.append(Row(place, row["image"], lesions[row["image"]], chosen_class(place, row)))
    return rows


def chosen_class(place: str, row: dict[str, str]) -> str:
    """The class that has 1.0 in a row of the challenge, in small letters.

    Raises:
        ValueError: another class has not 0.0, or none has 1.0.
    """
    texts = [row[name] for name in ISIC_CLASSES]
    try:
        values = [float(text) for text in texts]
    except ValueError:
        values = []
    if sorted(values) != [0] * 6 + [1]:
        said = ", ".join(texts)
        raise ValueError(f"{place}: one class must have 1.0 and the others 0.0; it has {said}")
    return ISIC_CLASSES[values.index(1)].lower()
