"""Images as uint8 tensors: decoded once, kept in a memory-mapped file."""

import hashlib
import os
import uuid
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image as PillowImage
from torchvision.transforms import v2
from tqdm import tqdm

FORMAT = 1
"""Counted up whenever ``load_image`` changes, so that older caches are built again."""


def load_image(path: Path, size: int) -> torch.Tensor:
    """Read one image, resize its shorter side to ``size``, crop the centre square.

    Args:
        path: any format that Pillow reads.
        size: side of the square, in pixels.

    Returns:
        uint8, (3, size, size), RGB.

    Raises:
        ValueError: the file is no image, or a damaged one.
    """
    try:
        with PillowImage.open(path) as file:
            pixels = v2.functional.pil_to_tensor(file.convert("RGB"))
    except Exception as error:  # Pillow has many kinds for damaged files
        raise ValueError(f"cannot read the image {path}: {error}. Download it again") from error
    pixels = v2.functional.resize(pixels, [size], antialias=True)
    square: torch.Tensor = v2.functional.center_crop(pixels, [size, size])
    return square


def source_size(path: Path) -> tuple[int, int]:
    """Width and height of an image file, in pixels."""
    with PillowImage.open(path) as file:
        return file.width, file.height


def load_all(paths: Sequence[Path], size: int, cache: Path) -> NDArray[np.uint8]:
    """Decode all images once and keep them; a later call with the same content reads them back.

    The file is named by the content of the images and their order: a change of either builds
    another one. It is written under a temporary name, so that two runs may build it at once.

    Args:
        paths: the image files.
        size: side of the square, in pixels, as in :func:`load_image`.
        cache: the folder to keep the file in; made if needed.

    Returns:
        A read-only memory map of uint8, (len(paths), 3, size, size).

    Raises:
        ValueError: an image is unreadable.
        OSError: the cache cannot be written.
    """
    file = cache / f"{_digest(paths, size)}.npy"
    shape = (len(paths), 3, size, size)
    pixels = _read(file, shape)
    if pixels is None:
        cache.mkdir(parents=True, exist_ok=True)
        _decode_into(file, paths, size)
        pixels = _read(file, shape)
        assert pixels is not None
    return pixels


def _read(file: Path, shape: tuple[int, ...]) -> NDArray[np.uint8] | None:
    """The array of a cache file, or None where the file is missing or damaged."""
    try:
        pixels: NDArray[np.uint8] = np.load(file, mmap_mode="r")
    except (OSError, EOFError, ValueError):
        return None
    return pixels if pixels.shape == shape and pixels.dtype == np.uint8 else None


def _digest(paths: Sequence[Path], size: int) -> str:
    digest = hashlib.sha256(f"{FORMAT} {size}".encode())
    with ThreadPoolExecutor() as pool:
        for part in pool.map(lambda path: hashlib.sha256(path.read_bytes()).digest(), paths):
            digest.update(part)
    return digest.hexdigest()[:24]


def _decode_into(file: Path, paths: Sequence[Path], size: int) -> None:
    """Write the array as a stream: a full disk is then an OSError, not a crash of the map."""
    header = {"descr": "|u1", "fortran_order": False, "shape": (len(paths), 3, size, size)}
    partial = file.with_suffix(f".{uuid.uuid4().hex}.partial")
    try:
        with partial.open("xb") as stream, ThreadPoolExecutor() as pool:
            np.lib.format.write_array_header_1_0(stream, header)
            images = pool.map(lambda path: load_image(path, size), paths)
            try:
                for image in tqdm(images, "decoding", len(paths), unit="image"):
                    stream.write(image.numpy().tobytes())
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(partial, file)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
