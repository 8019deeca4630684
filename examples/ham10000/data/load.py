"""The images of a split, decoded."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from examples.ham10000.data.augment import canvas_size
from examples.ham10000.data.dataset import SkinLesions
from examples.ham10000.data.images import digest, file_digests, load_all, source_size
from examples.ham10000.data.index import Image, is_synthetic
from examples.ham10000.data.split_file import read_split
from examples.ham10000.data.splits import PARTS, Split


@dataclass(frozen=True)
class Data:
    """Index, parts and pixels of the images that are used, and their name and label in figures."""

    images: list[Image]
    split: Split
    pixels: NDArray[np.uint8]
    digests: dict[str, str]
    name: str
    label: str

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
    paths = [image.path for image in used]
    files = file_digests(paths)
    digests = {part: digest([files[i] for i in split[part]]) for part in parts}
    pixels = load_all(paths, canvas_size(image_size), cache, digest(files))
    width, height = source_size(paths[0])
    synthetic = is_synthetic(used)
    name = f"{'SYNTHETIC pictures' if synthetic else 'HAM10000'} at {width}x{height}"
    return Data(used, split, pixels, digests, name, "SYNTHETIC_" if synthetic else "")
