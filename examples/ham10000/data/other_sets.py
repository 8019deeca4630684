"""What a folder without the tables of HAM10000 has instead, and what to do with it."""

from pathlib import Path

from examples.ham10000.data.folders import ARCHIVES, Contents
from examples.ham10000.data.tables import read_header

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
