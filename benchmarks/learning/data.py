"""The images of a fold: its training and validation parts. Its test part is never read."""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.warm_start.setup import IMAGE_SIZE, Lesions
from examples.ham10000.data.batches import canvas_size, center_crop
from examples.ham10000.data.images import file_digests
from examples.ham10000.data.index import read_index
from examples.ham10000.data.load import digest, load_all
from examples.ham10000.data.splits import draw_split
from examples.ham10000.gates import MOST_IMAGES
from examples.ham10000.report.attention import read_masks

FOLDS = 5


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
    split = draw_split(images, seed, "lesion", folds=FOLDS, fold=fold)
    kept = sorted(split["train"] + split["val"])
    place = {position: i for i, position in enumerate(kept)}
    paths = [images[i].path for i in kept]
    return Lesions(
        [images[i] for i in kept],
        load_all(paths, canvas_size(IMAGE_SIZE), cache, digest(file_digests(paths))),
        [place[i] for i in split["train"]],
        [place[i] for i in split["val"]],
    )


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
    if folder is None:
        return Shown(pixels, [], torch.zeros(0, IMAGE_SIZE, IMAGE_SIZE, dtype=torch.bool))
    having, masks = read_masks(folder, [lesions.images[i] for i in sample], IMAGE_SIZE)
    if not having:
        raise FileNotFoundError(f"no lesion masks of the images below {folder}: leave --masks out")
    return Shown(pixels, having, masks)
