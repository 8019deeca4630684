"""The images of a split, decoded."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from examples.ham10000.data.augment import canvas_size
from examples.ham10000.data.cache import digest, load_all
from examples.ham10000.data.dataset import SkinLesions
from examples.ham10000.data.images import file_digests, source_size
from examples.ham10000.data.index import SYNTHETIC_ID, Image, is_synthetic
from examples.ham10000.data.split_file import read_split
from examples.ham10000.data.splits import PARTS, Split


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
