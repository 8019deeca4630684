"""The official HAM10000 files: fetched from the Harvard Dataverse, checked and unpacked."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import pooch
import requests

from examples.ham10000.data.ground_truth import TEST_TRUTH
from examples.ham10000.data.index import ATTRIBUTION
from examples.ham10000.data.layouts import LESION_MASKS, METADATA
from examples.ham10000.files import moved_into_place
from examples.ham10000.processes import bar

DATAVERSE = "https://dataverse.harvard.edu/api/access/datafile"
LICENCE = "The images are under CC BY-NC 4.0: name the source, no commercial use."

# The Dataverse answers 403 to the name that requests gives itself.
HEADERS = {"User-Agent": "attnblocks-ham10000"}
CHUNK = 2**20


class Remote(NamedTuple):
    """One published file; a ``.zip`` is unpacked into a folder of that name."""

    name: str
    tail: str  # of the address, behind that of the server
    md5: str
    size: int | None = None  # in bytes


# Without "format=original" the server sends a table of its own making.
FILES = (
    Remote("HAM10000_images_part_1.zip", "3172585", "4639bfa73ab251610530a97c898e6e46", 1366522108),
    Remote("HAM10000_images_part_2.zip", "3172584", "da43d6cc50f6613013be07e8986b384b", 1403566547),
    Remote(METADATA, "4338392?format=original", "8f85fb1aa29d80a2797247e434deb79d", 690218),
    Remote(f"{LESION_MASKS}.zip", "3838943", "6e8d252e09cfdb0189199f15985a5b84", 10808743),
)
TEST_FILES = (
    Remote("ISIC2018_Task3_Test_Images.zip", "3855824", "0488b6f65849e310857d9207daa55a21"),
    Remote(TEST_TRUTH, "6924466?format=original", "2b5663aacc9644740f27e355cf7f369a"),
)

ADVICE = "Look at it with: check --data {out}"
TEST_ADVICE = (
    f"Evaluate a run with: evaluate --run RUN --data {{out}} --ground-truth {{out}}/{TEST_TRUTH}"
)


def download(
    out: Path, files: Sequence[Remote] = FILES, server: str = DATAVERSE, advice: str = ADVICE
) -> None:
    """Fetch a data set into a folder that ``--data`` takes; print size, licence, citation, advice.

    Each archive is removed once its folder in ``out`` is whole. What is in place is left alone, so
    a second call continues where the first stopped; a table with another checksum is replaced.
    """
    missing = [file for file in files if not _is_in_place(out, file)]
    sizes = [file.size for file in missing if file.size is not None]
    size = f"{sum(sizes) / 1e9:.1f} GB" if len(sizes) == len(missing) else "of unknown size"
    print(f"{LICENCE}\nCite {ATTRIBUTION}")
    print(f"To be downloaded into {out}: {len(missing)} files, {size}")
    pooch.get_logger().setLevel(logging.WARNING)  # the bar names the file already
    for file in missing:
        path = out / file.name
        try:
            _fetch(file, path, f"{server}/{file.tail}")
            if path.suffix == ".zip":
                _unpack(path)
        except OSError as error:
            if error.errno is not None and error.filename is None:  # a write does not name its file
                error.filename = str(path)
            raise
    print(f"All is in place. {advice.format(out=out)}")


def _is_in_place(out: Path, file: Remote) -> bool:
    path = out / file.name
    if path.suffix == ".zip":
        return path.with_suffix("").is_dir()
    return path.is_file() and pooch.file_hash(path, "md5") == file.md5


def _fetch(file: Remote, path: Path, url: str) -> None:
    """Download a file, unless it is there with the right checksum; nothing stays of a failure."""
    advice = (
        f"Run the command again: it continues with this file. Or fetch {url} with a browser and "
        f"save it as {path}"
    )
    try:
        # Pooch puts the length that the server says in its place; a bar without one is False to it.
        with bar(file.name, file.size or 1, "B") as steps:
            fetcher = pooch.HTTPDownloader(progressbar=steps, chunk_size=CHUNK, headers=HEADERS)
            pooch.retrieve(url, f"md5:{file.md5}", path.name, path.parent, downloader=fetcher)
    except requests.RequestException as error:
        raise ConnectionError(f"cannot fetch {file.name}: {error}. {advice}") from error
    except ValueError as error:  # of pooch: it names the file and both checksums
        raise ValueError(f"{error} {advice}") from error


def _unpack(archive: Path) -> None:
    """Unpack an archive, whose checksum is right, into a folder of its name, and remove it."""
    with (
        bar(f"unpacking {archive.name}", 1, "files") as steps,
        moved_into_place(archive.with_suffix("")) as folder,
    ):
        unzip = pooch.Unzip(extract_dir=str(folder.absolute()))
        steps.total = len(unzip(str(archive), "download", None))
        steps.update(steps.total)
    archive.unlink()
