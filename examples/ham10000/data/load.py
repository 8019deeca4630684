"""The images of a split, decoded once and kept."""

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from filelock import FileLock
from numpy.typing import NDArray
from PIL import Image as PillowImage

from examples.ham10000.config import PARTS
from examples.ham10000.data.batches import SkinLesions, canvas_size
from examples.ham10000.data.images import file_digests, load_image, map_files
from examples.ham10000.data.index import SYNTHETIC_ID, Image, is_synthetic
from examples.ham10000.data.splits import Split, read_split
from examples.ham10000.files import moved_into_place

FORMAT = 3  # counted up when ``load_image`` changes, so that older caches are built again


def digest(parts: Sequence[str]) -> str:
    """One SHA-256 of several, in their order."""
    return hashlib.sha256("".join(parts).encode()).hexdigest()


def load_all(paths: Sequence[Path], size: int, cache: Path, key: str) -> NDArray[np.uint8]:
    """Decode all images once, keep them in the folder ``cache``, and read them back later.

    ``key`` is the :func:`digest` of their :func:`file_digests`. The array is read-only, uint8,
    (len(paths), 3, size, size); it is in memory where nothing can be written.
    """
    file, shape = cache / f"{key[:24]}-{size}-v{FORMAT}.npy", (len(paths), 3, size, size)
    images = map_files(partial(load_image, size=size), paths, "decoding")  # begins when it is read
    there = next(place for place in (cache, *cache.resolve().parents) if place.exists())
    if not os.access(there, os.W_OK):
        pixels = _read(file, shape)
        if pixels is None:
            kind = np.dtype((np.uint8, shape[1:]))
            pixels = np.fromiter((image.numpy() for image in images), kind, len(paths))
            pixels.setflags(write=False)
        return pixels
    cache.mkdir(parents=True, exist_ok=True)
    with FileLock(file.with_suffix(".lock")):
        pixels = _read(file, shape)
        if pixels is None:
            for half in cache.glob(f"*{file.stem}*.partial"):  # its process, killed, has no lock
                half.unlink()
            # As a stream: a full disk is then an OSError, not a crash of the memory map.
            with moved_into_place(file) as path, path.open("xb") as stream:
                header = {"descr": "|u1", "fortran_order": False, "shape": shape}
                np.lib.format.write_array_header_1_0(stream, header)
                stream.writelines(image.numpy().tobytes() for image in images)
            pixels = _read(file, shape)
    if pixels is None:
        raise OSError(f"{file} was written and cannot be read back: is the disk full?")
    return pixels


def _read(file: Path, shape: tuple[int, ...]) -> NDArray[np.uint8] | None:
    """The array of a cache file, or None where the file is missing or damaged."""
    try:
        pixels = np.load(file, mmap_mode="r")
    except Exception:  # a damaged header can be taken for anything
        return None
    whole = isinstance(pixels, np.memmap) and pixels.flags.c_contiguous
    return pixels if whole and pixels.shape == shape and pixels.dtype == np.uint8 else None


@dataclass(frozen=True)
class Data:
    """The images that are used: index, parts, pixels, and what to call them in figures."""

    images: list[Image]
    split: Split
    pixels: NDArray[np.uint8]  # (N, 3, S, S)
    digests: dict[str, str]  # of the files of each part
    name: str  # what the images are, with their size
    label: str  # what stands before the names of figures in the log of the run
    has_lesions: bool = True  # whether it is known which images show one lesion

    def part(self, name: str) -> SkinLesions:
        """One part of the split as a data set."""
        labels = [image.label for image in self.images]
        return SkinLesions(self.pixels, labels, self.split[name])


def cache_beside(run: Path) -> Path:
    """Where the decoded images of a run are kept."""
    return run.resolve().parent / "ham10000-cache"


def load_data(
    images: Sequence[Image], split_file: Path, size: int, cache: Path, parts: Sequence[str] = PARTS
) -> Data:
    """Decode the images that a split file lists, or those of some parts only."""
    listed = read_split(split_file, images, complete=False)
    used = sorted(i for part in parts for i in listed[part])
    place = {position: number for number, position in enumerate(used)}
    split = {part: [place[i] for i in listed[part]] for part in parts}
    chosen = [images[i] for i in used]
    synthetic = is_synthetic(chosen)
    name = "SYNTHETIC pictures" if synthetic else "HAM10000"
    return load_images(chosen, split, size, cache, name, SYNTHETIC_ID if synthetic else "")


def load_images(
    images: list[Image],
    split: Split,
    size: int,
    cache: Path,
    name: str,
    label: str,
    has_lesions: bool = True,
) -> Data:
    """Decode images, all of which are in a part; the sizes of their files are added to ``name``."""
    paths = [image.path for image in images]
    files = file_digests(paths)
    digests = {part: digest([files[i] for i in positions]) for part, positions in split.items()}
    pixels = load_all(paths, canvas_size(size), cache, digest(files))
    found = set()
    for path in paths:
        with PillowImage.open(path) as file:  # which reads no more than its header
            found.add((file.width * file.height, file.width, file.height))
    least, most = (f"{width}x{height}" for _, width, height in (min(found), max(found)))
    sizes = f"at {least}" if len(found) == 1 else f"of {len(found)} sizes, {least} to {most}"
    return Data(images, split, pixels, digests, f"{name} {sizes}", label, has_lesions)
