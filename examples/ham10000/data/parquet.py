"""Parquet files of Hugging Face, written as the usual folder of images."""

import hashlib
import io
import json
import re
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any

from PIL import Image as PillowImage

from examples.ham10000.data.folders import files_below
from examples.ham10000.data.images import FILE_TYPES
from examples.ham10000.data.index import CLASSES
from examples.ham10000.data.layouts import COLUMNS, METADATA
from examples.ham10000.data.tables import image_name
from examples.ham10000.files import moved_into_place, write_csv

BATCH = 64  # images that are held at a time

# How the long names of the classes begin, in small letters without spaces and the like.
_LONG_NAMES = {
    "actinickeratos": "akiec",
    "basalcellcarcinoma": "bcc",
    "benignkeratos": "bkl",
    "dermatofibroma": "df",
    "melanoma": "mel",
    "melanocyticnev": "nv",
    "vascularlesion": "vasc",
}
_SUFFIXES = {"JPEG": ".jpg", "MPO": ".jpg", "JPEG2000": ".jp2", "TIFF": ".tif"}

Named = tuple[str, str, str]  # lesion, image and diagnosis


def unpack(data: Path, out: Path) -> int:
    """Write the Parquet files of a folder as a new one that ``--data`` takes; the number of images.

    The bytes of the images stay as they are; one that stands in several files is written once.
    OSError if there are no files or ``out`` is there, ValueError if something cannot be used.
    """
    if out.exists():
        raise FileExistsError(f"--out {out} exists: name a new folder")
    if not data.is_dir():
        raise FileNotFoundError(f"no folder {data}: give that of the Parquet files with --data")
    files = [path for path in files_below(data) if path.suffix.lower() == ".parquet"]
    if not files:
        raise FileNotFoundError(f"no .parquet files in {data}: give their folder with --data")
    written: dict[str, tuple[str, Named, str]] = {}
    with moved_into_place(out) as partial:
        (partial / "images").mkdir(parents=True)
        for place, row, labels in chain.from_iterable(map(_rows, files)):
            named, content = _image(place, row, labels)
            name, digest = named[1], hashlib.sha256(content).hexdigest()
            first, *known = written.setdefault(name, (place, named, digest))
            if known != [named, digest]:
                raise ValueError(f"{place}: image {name} is another one in {first}")
            if first == place:
                (partial / "images" / f"{name}{_suffix(place, content)}").write_bytes(content)
        if not written:
            raise ValueError(f"the Parquet files in {data} have no rows: download them again")
        write_csv(partial / METADATA, COLUMNS, (named for _, named, _ in written.values()))
    return len(written)


def _rows(file: Path) -> Iterator[tuple[str, dict[str, Any], list[str]]]:
    """Every row of a file with its place, and the names of the numbers in ``dx``."""
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise ValueError("Parquet files are read with pyarrow: pip install pyarrow") from error
    try:
        with parquet.ParquetFile(file) as table:
            schema = table.schema_arrow
            if absent := sorted({"image", "dx", "lesion_id"} - set(schema.names)):
                why = f"{' and '.join(absent)} there is nothing to train on"
                if "lesion_id" in absent:
                    why = "lesion ids a split would have pictures of one lesion in several parts"
                raise ValueError(
                    f"{file} lacks the column(s) {', '.join(absent)}: it has "
                    f"{', '.join(schema.names)}. Take another copy of the data: without {why}"
                )
            labels = _label_names(schema.metadata or {})
            columns = [name for name in ("image", *COLUMNS) if name in schema.names]
            batches = table.iter_batches(BATCH, columns=columns)
            rows = chain.from_iterable(batch.to_pylist() for batch in batches)
            for number, row in enumerate(rows, 1):
                yield f"{file}, row {number}", row, labels
    except (pyarrow.ArrowException, OSError) as error:
        raise ValueError(f"cannot read {file}: {error}. Download it again") from error


def _label_names(metadata: dict[bytes, bytes]) -> list[str]:
    """The names of the numbers in ``dx``; none where it has text."""
    try:
        names = json.loads(metadata[b"huggingface"])["info"]["features"]["dx"]["names"]
    except (KeyError, TypeError, ValueError):
        return []
    return [str(name) for name in names]


def _image(place: str, row: dict[str, Any], labels: list[str]) -> tuple[Named, bytes]:
    image = row["image"] if isinstance(row["image"], dict) else {"bytes": row["image"]}
    content, dx, lesion = image.get("bytes"), row["dx"], row["lesion_id"]
    name = row.get("image_id")
    name = str(name) if isinstance(name, int) else name or image.get("path")
    if not isinstance(content, bytes):
        raise ValueError(f"{place}: the bytes of the image are not in the file")
    if not isinstance(name, str) or not lesion:
        raise ValueError(f"{place}: no {'lesion_id' if name else 'image_id, and no path either'}")
    if str(lesion) != str(lesion).strip():
        raise ValueError(f"{place}: lesion_id {lesion!r} has spaces around it; remove them")
    if isinstance(dx, int) and 0 <= dx < len(labels):
        dx = labels[dx]
    letters = re.sub("[^a-z]", "", str(dx).lower())
    code = next((code for begin, code in _LONG_NAMES.items() if letters.startswith(begin)), letters)
    if code not in CLASSES:
        raise ValueError(f"{place}: unknown diagnosis {dx!r}; known are {', '.join(CLASSES)}")
    return (str(lesion), image_name(name, place), code), content


def _suffix(place: str, content: bytes) -> str:
    try:
        with PillowImage.open(io.BytesIO(content), formats=FILE_TYPES) as image:
            kind = str(image.format)
    except Exception as error:  # Pillow has many kinds for damaged files
        raise ValueError(f"{place}: cannot read the image: {error}") from error
    return _SUFFIXES.get(kind, f".{kind.lower()}")
