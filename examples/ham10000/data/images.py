"""Images as uint8 tensors: decoded once, kept in a memory-mapped file."""

import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from filelock import FileLock
from numpy.typing import NDArray
from PIL import Image as PillowImage
from torchvision.transforms import v2

from examples.ham10000.progress import bar

FORMAT = 3
"""Counted up whenever ``load_image`` changes, so that older caches are built again."""

# Those that Pillow decodes itself; for others it starts programs, such as Ghostscript.
FILE_TYPES = ("BMP", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "TIFF", "WEBP")

LOSSY = (".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".webp", ".jp2", ".j2k", ".j2c", ".jpc", ".jpx")
LOSSLESS = (".png", ".bmp", ".dib", ".gif", ".tif", ".tiff", ".ppm", ".pgm", ".pbm", ".pnm")
SUFFIXES = (*LOSSY, *LOSSLESS)
"""How files of those types are named."""

_RAW = (".raw", ".cr2", ".cr3", ".nef", ".nrw", ".arw", ".dng", ".orf", ".rw2", ".raf", ".pef")
NOT_DECODED = (
    *(".heic", ".heif", ".hif", ".avif", ".jxl", ".dcm", ".dicom"),
    *(".psd", ".svg", ".tga", ".pcx", ".exr", ".eps", ".xcf", *_RAW),
)
"""How other pictures are named, which are refused by name and never passed over."""

SMALLEST = 8
"""Pixels of the shorter side below which there is nothing to see."""

LARGEST = 2**26
"""Pixels of a picture: a file of some kilobytes may claim more, and fill the memory."""

# How to turn a picture upright, by the orientation that a camera has noted in it.
_ORIENTATION = 0x0112
_TURNS = {
    2: PillowImage.Transpose.FLIP_LEFT_RIGHT,
    3: PillowImage.Transpose.ROTATE_180,
    4: PillowImage.Transpose.FLIP_TOP_BOTTOM,
    5: PillowImage.Transpose.TRANSPOSE,
    6: PillowImage.Transpose.ROTATE_270,
    7: PillowImage.Transpose.TRANSVERSE,
    8: PillowImage.Transpose.ROTATE_90,
}

T = TypeVar("T")


def load_image(path: Path, size: int) -> torch.Tensor:
    """Read one image, turn it upright, resize its shorter side to ``size``, crop the centre square.

    Args:
        path: one of :data:`FILE_TYPES`, whatever its suffix.
        size: side of the square, in pixels.

    Returns:
        uint8, (3, size, size), RGB.

    Raises:
        ValueError: the file is no image, or a damaged one.
    """
    return square(load_pixels(path), size)


def load_pixels(path: Path) -> torch.Tensor:
    """Read one image in its own size, upright: uint8, (3, H, W), RGB; as in :func:`load_image`."""
    with opened(path) as file:
        pixels: torch.Tensor = v2.functional.pil_to_tensor(_decode(file))
    return pixels


def square(pixels: torch.Tensor, size: int) -> torch.Tensor:
    """The centre square, (C, size, size), of pixels whose shorter side is resized to it."""
    pixels = v2.functional.resize(pixels, [size], antialias=True)
    centre: torch.Tensor = v2.functional.center_crop(pixels, [size, size])
    return centre


@contextmanager
def opened(path: Path) -> Iterator[PillowImage.Image]:
    """An image whose header is read; whatever is wrong with it is a ValueError that names it."""
    try:
        with _open(path) as file:
            yield file
    except Exception as error:  # Pillow has many kinds for damaged files
        advice = ""
        if path.suffix.lower() in NOT_DECODED:
            advice = f". Files of the kind {path.suffix} are not read: save it as JPEG or PNG"
        raise ValueError(f"cannot read the image {path}: {error}{advice}") from error


def damage(path: Path) -> str | None:
    """Why an image cannot be read: ``missing``, ``unreadable`` or ``truncated``; None if it can."""
    if not path.is_file():
        return "missing"
    try:
        with _open(path) as file:
            try:
                _decode(file)
            except Exception:  # a good header, then something else than an image
                return "truncated"
    except Exception:  # Pillow has many kinds for damaged files
        return "unreadable"
    return None


def _open(path: Path) -> PillowImage.Image:
    """Open an image, of which nothing but the header is read yet, and check what that says."""
    if not path.is_file():  # reading a pipe would never end
        raise FileNotFoundError("there is no such file")
    if path.suffix.lower() in _RAW:  # some are TIFF, whose first page is a thumbnail
        raise ValueError("it is the raw file of a camera")
    file = PillowImage.open(path, formats=FILE_TYPES)
    try:
        _check_shape(file)
        if file.mode in ("F", "I"):
            raise ValueError("it has 32 bits, of which none is known to be white: save it with 8")
        # A second picture in a photo, or the pages of a TIFF, belong to the first.
        if getattr(file, "is_animated", False) and file.format not in ("MPO", "TIFF"):
            raise ValueError("it is an animation: save the picture that is meant")
    except BaseException:
        file.close()
        raise
    return file


def _check_shape(file: PillowImage.Image) -> None:
    size = f"{file.width}x{file.height} pixels"
    # Resizing the shorter side of a thread of pixels would ask for gigabytes.
    if max(file.size) > 20 * min(file.size) or min(file.size) < SMALLEST:
        raise ValueError(f"{size} are no picture of a lesion")
    if file.width * file.height > LARGEST:
        raise ValueError(f"{size} are more than {LARGEST}: make it smaller")


def _decode(file: PillowImage.Image) -> PillowImage.Image:
    """The picture in RGB, upright."""
    return _eight_bit(upright(file)).convert("RGB")


def upright(file: PillowImage.Image) -> PillowImage.Image:
    """The picture as the camera was held; as it is where the camera did not say how."""
    file.load()
    turn = _TURNS.get(file.getexif().get(_ORIENTATION, 1))
    return file if turn is None else file.transpose(turn)


def _eight_bit(file: PillowImage.Image) -> PillowImage.Image:
    """The image itself, or one of 16 bits scaled down; Pillow's convert would clip it to white."""
    if not file.mode.startswith("I"):
        return file
    return PillowImage.fromarray((np.asarray(file) // 257).astype(np.uint8))


def source_size(path: Path) -> tuple[int, int]:
    """Width and height of an image file, in pixels."""
    with PillowImage.open(path) as file:
        return file.width, file.height


def map_files(work: Callable[[Path], T], paths: Sequence[Path], name: str) -> Iterator[T]:
    """``work`` of every file in turn, on several threads, under a progress bar called ``name``."""
    with ThreadPoolExecutor() as pool:
        try:
            with bar(name, len(paths)) as steps:
                for result in pool.map(work, paths):
                    yield result
                    steps.update()
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def file_digests(paths: Sequence[Path]) -> list[str]:
    """The SHA-256 of every file."""
    with ThreadPoolExecutor() as pool:
        return list(pool.map(lambda path: hashlib.sha256(path.read_bytes()).hexdigest(), paths))


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
