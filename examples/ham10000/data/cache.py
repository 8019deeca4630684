"""Images decoded once, and kept in a memory-mapped file."""

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from filelock import FileLock
from numpy.typing import NDArray

from examples.ham10000.data.images import load_image, map_files

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
