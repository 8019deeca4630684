"""Image files: what can be read, and their pixels as uint8 tensors."""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from PIL import Image as PillowImage
from PIL import ImageOps
from torchvision.transforms.v2 import functional as F

from examples.ham10000.processes import bar

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

SMALLEST = 8  # pixels of the shorter side, below which there is nothing to see
LARGEST = 2**26  # pixels of a picture: a file of some kilobytes may claim more, and fill the memory

T = TypeVar("T")


def load_image(path: Path, size: int) -> torch.Tensor:
    """Read one image, upright, and take its centre :func:`square`: uint8, (3, size, size), RGB."""
    return square(load_pixels(path), size)


def load_pixels(path: Path) -> torch.Tensor:
    """Read one image in its own size, upright: uint8, (3, H, W), RGB; ValueError if it is none."""
    with opened(path) as file:
        pixels: torch.Tensor = F.pil_to_tensor(_decode(file))
    return pixels


def square(pixels: torch.Tensor, size: int) -> torch.Tensor:
    """The centre square, (C, size, size), of pixels whose shorter side is resized to it."""
    pixels = F.resize(pixels, [size], antialias=True)
    centre: torch.Tensor = F.center_crop(pixels, [size, size])
    return centre


def damage(path: Path) -> str | None:
    """Why an image cannot be read: ``missing``, ``unreadable`` or ``truncated``; None if it can."""
    kind = "unreadable" if path.is_file() else "missing"
    try:
        with opened(path) as file:
            kind = "truncated"  # a good header, then something else than an image
            _decode(file)
    except ValueError:
        return kind
    return None


@contextmanager
def opened(path: Path) -> Iterator[PillowImage.Image]:
    """An image whose header is read; whatever is wrong with it is a ValueError that names it."""
    try:
        if not path.is_file():  # reading a pipe would never end
            raise FileNotFoundError("there is no such file")
        if path.suffix.lower() in _RAW:  # some are TIFF, whose first page is a thumbnail
            raise ValueError("it is the raw file of a camera")
        with PillowImage.open(path, formats=FILE_TYPES) as file:
            _check_header(file)
            yield file
    except Exception as error:  # Pillow has many kinds for damaged files
        advice = ""
        if path.suffix.lower() in NOT_DECODED:
            advice = f". Files of the kind {path.suffix} are not read: save it as JPEG or PNG"
        raise ValueError(f"cannot read the image {path}: {error}{advice}") from error


def _check_header(file: PillowImage.Image) -> None:
    size = f"{file.width}x{file.height} pixels"
    # Resizing the shorter side of a thread of pixels would ask for gigabytes.
    if max(file.size) > 20 * min(file.size) or min(file.size) < SMALLEST:
        raise ValueError(f"{size} are no picture of a lesion")
    if file.width * file.height > LARGEST:
        raise ValueError(f"{size} are more than {LARGEST}: make it smaller")
    if file.mode in ("F", "I"):
        raise ValueError("it has 32 bits, of which none is known to be white: save it with 8")
    # A second picture in a photo, or the pages of a TIFF, belong to the first.
    if getattr(file, "is_animated", False) and file.format not in ("MPO", "TIFF"):
        raise ValueError("it is an animation: save the picture that is meant")


def _decode(file: PillowImage.Image) -> PillowImage.Image:
    """The picture in RGB, upright; 16 bits are scaled, where Pillow would clip them to white."""
    picture = upright(file)
    if picture.mode.startswith("I"):
        picture = PillowImage.fromarray((np.asarray(picture) // 257).astype(np.uint8))
    return picture.convert("RGB")


def upright(file: PillowImage.Image) -> PillowImage.Image:
    """The picture as the camera was held; as it is where the camera did not say how."""
    file.load()
    file.getexif()  # which remembers what it has read
    # They would be written anew for the turned picture, which fails where a camera wrote nonsense.
    for name in ("exif", "Raw profile type exif"):
        file.info.pop(name, None)
    return ImageOps.exif_transpose(file)


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
