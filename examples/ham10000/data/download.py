"""The official HAM10000 files: fetched from the Harvard Dataverse, checked and unpacked."""

import logging
import os
import shutil
import stat
import uuid
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import pooch
import requests

from examples.ham10000.data.ground_truth import TEST_TRUTH
from examples.ham10000.data.index import ATTRIBUTION
from examples.ham10000.processes import bar

DATAVERSE = "https://dataverse.harvard.edu/api/access/datafile"
LICENCE = "The images are under CC BY-NC 4.0: name the source, no commercial use."

# The Dataverse answers 403 to the name that requests gives itself.
HEADERS = {"User-Agent": "attnblocks-ham10000"}
CHUNK = 2**20
IMAGE_SUFFIXES = (".jpg", ".png")


@dataclass(frozen=True)
class RemoteFile:
    """One published file.

    Attributes:
        name: the file's name; a ``.zip`` is unpacked into a folder of that name.
        tail: what follows the server's address in the URL.
        md5: checksum, in hexadecimal.
        size: in bytes, where it was published; only shown.
    """

    name: str
    tail: str
    md5: str
    size: int | None = None


FILES = (
    RemoteFile(
        "HAM10000_images_part_1.zip", "3172585", "4639bfa73ab251610530a97c898e6e46", 1_366_522_108
    ),
    RemoteFile(
        "HAM10000_images_part_2.zip", "3172584", "da43d6cc50f6613013be07e8986b384b", 1_403_566_547
    ),
    RemoteFile(
        "HAM10000_metadata.csv",
        "4338392?format=original",  # without it the server sends a table of its own making
        "8f85fb1aa29d80a2797247e434deb79d",
        690_218,
    ),
    RemoteFile(
        "HAM10000_segmentations_lesion_tschandl.zip",
        "3838943",
        "6e8d252e09cfdb0189199f15985a5b84",
        10_808_743,
    ),
)

TEST_FILES = (
    RemoteFile("ISIC2018_Task3_Test_Images.zip", "3855824", "0488b6f65849e310857d9207daa55a21"),
    RemoteFile(TEST_TRUTH, "6924466?format=original", "2b5663aacc9644740f27e355cf7f369a"),
)

ADVICE = "Look at it with: check --data {out}"
TEST_ADVICE = (
    f"Evaluate a run with: evaluate --run RUN --data {{out}} --ground-truth {{out}}/{TEST_TRUTH}"
)


def download(
    out: Path,
    files: Sequence[RemoteFile] = FILES,
    server: str = DATAVERSE,
    advice: str = ADVICE,
) -> None:
    """Fetch a data set into a folder that ``--data`` takes; print size, licence and citation.

    Images go directly into ``out/<name of the archive>/``, and the archive is removed once that
    folder is whole. What is in place is left alone, so a second call continues where the first
    stopped; a metadata file with another checksum is replaced.

    Args:
        out: the folder; made if needed.
        files: what to fetch.
        server: the address in front of each file's ``tail``.
        advice: what to do next; ``{out}`` stands for the folder.

    Raises:
        ConnectionError: a file cannot be fetched.
        ValueError: a checksum is wrong, or an archive is damaged, holds no image or holds a
            member that must not be unpacked.
        OSError: the folder cannot be written.
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
                _unpack(path, path.with_suffix(""))
                path.unlink()
        except OSError as error:
            if error.errno is not None and error.filename is None:  # a write does not name its file
                error.filename = str(path)
            raise
    print(f"All is in place. {advice.format(out=out)}")


def _is_in_place(out: Path, file: RemoteFile) -> bool:
    path = out / file.name
    if path.suffix == ".zip":
        return path.with_suffix("").is_dir()
    return path.is_file() and pooch.file_hash(path, "md5") == file.md5


def _fetch(file: RemoteFile, path: Path, url: str) -> None:
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


def _unpack(archive: Path, folder: Path) -> None:
    """Unpack the images of an archive; the folder appears when it is whole."""
    partial = folder.with_name(f".{folder.name}.{uuid.uuid4().hex}.partial")
    try:
        with zipfile.ZipFile(archive) as file:
            images = _images(archive, file.infolist())
            partial.mkdir()
            with bar(f"unpacking {archive.name}", len(images)) as steps:
                for member in images:
                    path = partial / PurePosixPath(member.filename).name
                    with file.open(member) as source, path.open("xb") as target:
                        shutil.copyfileobj(source, target, CHUNK)
                    steps.update()
        os.replace(partial, folder)
    except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError) as error:
        raise ValueError(f"cannot unpack {archive}: {error}. Delete it, download again") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _images(archive: Path, members: Sequence[zipfile.ZipInfo]) -> list[zipfile.ZipInfo]:
    """The images of an archive, once every member is known to be harmless."""
    images: dict[str, zipfile.ZipInfo] = {}
    for member in members:
        path = PurePosixPath(member.filename)
        refused = f"{archive} is not unpacked: its member {member.filename!r}"
        if path.is_absolute() or ".." in path.parts or set(member.filename) & set("\\:"):
            raise ValueError(f"{refused} may lead out of the folder")
        if stat.S_ISLNK(member.external_attr >> 16):
            raise ValueError(f"{refused} is a symbolic link")
        junk = "__MACOSX" in path.parts or path.name.startswith(".")
        if junk or path.suffix.lower() not in IMAGE_SUFFIXES or member.is_dir():
            continue
        # By the name in lower case, since some file systems see no difference.
        first = images.setdefault(path.name.lower(), member)
        if first is not member:
            raise ValueError(f"{refused} has the file name of {first.filename!r}")
    if not images:
        raise ValueError(f"{archive} is not unpacked: no {' or '.join(IMAGE_SUFFIXES)} in it")
    return list(images.values())
