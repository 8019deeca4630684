"""The images of a split, decoded once and kept."""

import hashlib
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from filelock import FileLock
from numpy.typing import NDArray

from examples.ham10000.config import PARTS
from examples.ham10000.data.batches import SkinLesions, canvas_size
from examples.ham10000.data.images import file_digests, load_image, map_files, source_size
from examples.ham10000.data.index import SYNTHETIC_ID, Image, is_synthetic
from examples.ham10000.data.splits import Split, read_split

FORMAT = 3
"""Counted up whenever ``load_image`` changes, so that older caches are built again."""


def digest(parts: Sequence[str]) -> str:
    """One SHA-256 of several, in their order."""
    return hashlib.sha256("".join(parts).encode()).hexdigest()


def load_all(paths: Sequence[Path], size: int, cache: Path, key: str) -> NDArray[np.uint8]:
    """Decode all images once and keep them; a later call with the same content reads them back.

    A lock lets one process build the file while others wait for it. It is written under another
    name and moved into place when it is whole.

    Args:
        paths: the image files.
        size: side of the square, in pixels, as in :func:`load_image`.
        cache: the folder to keep the file in; made if needed. Where it cannot be written, the
            images are in memory instead.
        key: :func:`digest` of the :func:`file_digests` of the paths.

    Returns:
        Read-only, as a rule a memory map; uint8, (len(paths), 3, size, size).

    Raises:
        ValueError: an image is unreadable.
        OSError: the cache cannot be written.
    """
    file = cache / f"{key[:24]}-{size}-v{FORMAT}.npy"
    shape = (len(paths), 3, size, size)
    if not _is_writable(cache):
        pixels = _read(file, shape)
        return _decode_into_memory(paths, size) if pixels is None else pixels
    cache.mkdir(parents=True, exist_ok=True)
    with FileLock(file.with_suffix(".lock")):
        pixels = _read(file, shape)
        if pixels is None:
            _decode_into(file, paths, size)
            pixels = _read(file, shape)
    if pixels is None:
        raise OSError(f"{file} was written and cannot be read back: is the disk full?")
    return pixels


def _is_writable(folder: Path) -> bool:
    """Whether a folder can be written, or made."""
    there = next(place for place in (folder, *folder.resolve().parents) if place.exists())
    return os.access(there, os.W_OK)


def _decode_into_memory(paths: Sequence[Path], size: int) -> NDArray[np.uint8]:
    pixels = np.empty((len(paths), 3, size, size), np.uint8)
    for place, image in enumerate(
        map_files(lambda path: load_image(path, size), paths, "decoding")
    ):
        pixels[place] = image.numpy()
    pixels.setflags(write=False)
    return pixels


def _read(file: Path, shape: tuple[int, ...]) -> NDArray[np.uint8] | None:
    """The array of a cache file, or None where the file is missing or damaged."""
    try:
        pixels = np.load(file, mmap_mode="r")
    except Exception:  # a damaged header can be taken for anything
        return None
    whole = isinstance(pixels, np.memmap) and pixels.flags.c_contiguous
    return pixels if whole and pixels.shape == shape and pixels.dtype == np.uint8 else None


def _decode_into(file: Path, paths: Sequence[Path], size: int) -> None:
    """Write the array as a stream: a full disk is then an OSError, not a crash of the map."""
    header = {"descr": "|u1", "fortran_order": False, "shape": (len(paths), 3, size, size)}
    # The lock keeps other writers away, so what a killed one left under this name is overwritten.
    partial = file.with_suffix(".partial")
    try:
        with partial.open("wb") as stream:
            np.lib.format.write_array_header_1_0(stream, header)
            for image in map_files(lambda path: load_image(path, size), paths, "decoding"):
                stream.write(image.numpy().tobytes())
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(partial, file)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


@dataclass(frozen=True)
class Data:
    """The images that are used: index, parts, pixels, and what to call them in figures.

    Attributes:
        images: the index.
        split: for each part the positions of its images.
        pixels: uint8, (N, 3, S, S).
        digests: of the files of each part.
        name: what the images are, with their size.
        label: what stands before the names of figures in the log of the run.
        has_lesions: whether it is known which images show one lesion.
    """

    images: list[Image]
    split: Split
    pixels: NDArray[np.uint8]
    digests: dict[str, str]
    name: str
    label: str
    has_lesions: bool = True

    def part(self, name: str) -> SkinLesions:
        """One part of the split as a data set."""
        labels = [image.label for image in self.images]
        return SkinLesions(self.pixels, labels, self.split[name])


def load_data(
    images: Sequence[Image],
    split_file: Path,
    image_size: int,
    cache: Path,
    parts: Sequence[str] = PARTS,
) -> Data:
    """Decode the images that a split file lists, or those of some parts only."""
    listed = read_split(split_file, images, complete=False)
    used = [images[i] for i in sorted(i for part in parts for i in listed[part])]
    position = {image.image_id: place for place, image in enumerate(used)}
    split = {part: [position[images[i].image_id] for i in listed[part]] for part in parts}
    synthetic = is_synthetic(used)
    name = "SYNTHETIC pictures" if synthetic else "HAM10000"
    return load_images(used, split, image_size, cache, name, SYNTHETIC_ID if synthetic else "")


def load_images(
    images: list[Image],
    split: Split,
    image_size: int,
    cache: Path,
    name: str,
    label: str,
    *,
    has_lesions: bool = True,
) -> Data:
    """Decode images, all of which are in a part; the sizes of their files are added to ``name``."""
    paths = [image.path for image in images]
    files = file_digests(paths)
    digests = {part: digest([files[i] for i in positions]) for part, positions in split.items()}
    pixels = load_all(paths, canvas_size(image_size), cache, digest(files))
    name = f"{name} {_sizes(paths)}"
    return Data(images, split, pixels, digests, name, label, has_lesions)


def _sizes(paths: Sequence[Path]) -> str:
    """The size of image files, or the smallest and the largest by area, from their headers."""
    with ThreadPoolExecutor() as pool:
        sizes = sorted(
            set(pool.map(source_size, paths)), key=lambda size: (size[0] * size[1], size)
        )
    least, most = (f"{width}x{height}" for width, height in (sizes[0], sizes[-1]))
    return f"at {least}" if len(sizes) == 1 else f"of {len(sizes)} sizes, {least} to {most}"
