"""The images of a fold: its training and validation parts. Its test part is never read."""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.lesions import (
    Lesions,
    canvas_size,
    center_crop,
    load_all,
    load_pixels,
    read_index,
    split,
)
from benchmarks.warm_start.setup import IMAGE_SIZE

MOST_IMAGES = 256
"""Whose gates are read."""


@dataclass(frozen=True)
class Shown:
    """Validation images on which gates are read, evenly spaced.

    Attributes:
        pixels: uint8, (N, 3, S, S), as a network sees them.
        having: the places of those that have a lesion mask.
        masks: bool, (M, S, S).
    """

    pixels: Tensor
    having: list[int]
    masks: Tensor


def load_fold(folder: Path, cache: Path, fold: int, seed: int) -> Lesions:
    """Decode the training and the validation part of a fold; the seed draws the latter."""
    images = read_index(folder)
    parts = split(images, seed, fold)
    kept = sorted(parts["train"] + parts["val"])
    place = {position: i for i, position in enumerate(kept)}
    used = [images[i] for i in kept]
    train, val = ([place[i] for i in parts[part]] for part in ("train", "val"))
    return Lesions(used, load_all(used, IMAGE_SIZE, cache), train, val)


def show(lesions: Lesions, folder: Path | None) -> Shown:
    """Take some of the validation images.

    Args:
        lesions: of the fold.
        folder: where their lesion masks are; None to do without.

    Raises:
        FileNotFoundError: none of the images has a mask there.
    """
    sample = lesions.val[:: -(-len(lesions.val) // MOST_IMAGES)]
    pixels = center_crop(torch.from_numpy(lesions.pixels[sample]), IMAGE_SIZE)
    files: dict[str, Path] = {}
    if folder is not None:
        ending = "_segmentation"  # as the archives of HAM10000 name the masks
        files = {path.stem.removesuffix(ending): path for path in folder.rglob(f"*{ending}.png")}
    ids = [lesions.images[i].image_id for i in sample]
    having = [place for place, name in enumerate(ids) if name in files]
    if folder is not None and not having:
        raise FileNotFoundError(f"no lesion masks of the images below {folder}: leave --masks out")
    size = canvas_size(IMAGE_SIZE)
    masks = [load_pixels(files[ids[place]], size, "L")[0] >= 128 for place in having]
    masks = [torch.zeros(0, size, size, dtype=torch.bool), *(mask[None] for mask in masks)]
    return Shown(pixels, having, center_crop(torch.cat(masks), IMAGE_SIZE))
