"""Masks: which pictures are none of skin, and where the lesion is in them."""

import re
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from examples.ham10000.data.images import LOSSLESS, load_pixels, opened, square, upright
from examples.ham10000.data.tables import without_suffix

# Names that say it, and words in the names of files and folders that may say it.
_NAMES = r"segmentations?|seg|masks?|superpixels?|attribute_\w+"
_NAME = re.compile(rf"[_\-. ]({_NAMES})$", re.I)
_HINT = re.compile(
    r"mask|segm|superpixel|attribute|ground.?truth|annotation|label"
    r"|(?<![a-z])(seg|gt|lesion)(?![a-z])",
    re.I,
)
_AROUND_ID = re.compile(
    rf"^(mask|seg|segmentation|gt)[_\-. ]|[_\-. ]({_NAMES}|lesion|gt|label|annotation)$", re.I
)

FLAT = 0.8
"""Share of the pixels that are as the one beside them, above which a picture has flat colours."""

TWO_VALUED = 0.9
"""Share of the pixels near the darkest or the brightest, from which a picture is a mask."""


def is_named_mask(name: str) -> bool:
    """Whether the name of a file says that it is a mask or has superpixels."""
    return _NAME.search(without_suffix(name)) is not None


def may_be_mask(place: str) -> bool:
    """Whether a path has words that often stand with masks; its pixels have to confirm it."""
    return _HINT.search(place) is not None


def is_of_lesion(path: Path) -> bool:
    """Whether a path below the data folder is of a lesion, not of an attribute or superpixels."""
    return re.search("superpixel|attribute", str(path), re.I) is None


def masked_id(path: Path) -> str:
    """The id of the image that a mask belongs to."""
    return without_suffix(_AROUND_ID.sub("", without_suffix(path.name)))


def is_mask(path: Path) -> bool:
    """Whether the pixels of a file are those of a mask: of two greys, or, drawn, of flat colours.

    One that is black or white all over is a mask, too. A file that cannot be read is none.
    """
    try:
        pixels = load_pixels(path)
    except ValueError:
        return False
    low, high = pixels.amin(), pixels.amax()
    if low == high:
        return low.item() in (0, 1, 255)
    return has_two_greys(pixels) or (path.suffix.lower() in LOSSLESS and _is_flat(pixels))


def _is_flat(pixels: Tensor) -> bool:
    """Whether nearly all pixels, (3, H, W), are as the one beside them and the one below.

    The most frequent colour does not count: a photo may be cut out, or lie on white paper.
    """
    colours = (pixels.int() * torch.tensor([1, 256, 65536])[:, None, None]).sum(0)
    rest = colours != colours.flatten().mode().values
    beside = (colours[:, 1:] == colours[:, :-1])[rest[:, 1:]]
    below = (colours[1:] == colours[:-1])[rest[1:]]
    return all(same.double().mean() > FLAT for same in (beside, below))


def has_two_greys(pixels: Tensor) -> bool:
    """Whether nearly all pixels, uint8 (3, H, W), are about as the darkest or the brightest.

    Those between come of compression or resizing. No pixel may have a colour: a small photo on
    white paper, or an overexposed one, is nearly all white, too.
    """
    darkest, brightest = pixels.amin(0), pixels.amax(0)
    low, high = int(brightest.min()), int(brightest.max())
    margin = (high - low) // 8
    near = (brightest <= low + margin) | (brightest >= high - margin)
    grey = (brightest - darkest).max() < 16
    return bool(grey) and near.double().mean().item() >= TWO_VALUED


def load_mask(path: Path, size: int) -> Tensor:
    """Read a mask, bool (size, size), as ``load_image`` reads its image: the two fit.

    Whatever two values it was saved with, the lesion is what lies above the middle; a mask of one
    value is lesion all over. A black one, or what is no mask, is a ValueError.
    """
    with opened(path) as file:
        picture = upright(file)
        deep = picture.mode.startswith("I")
        grey = np.asarray(picture if deep else picture.convert("L"))
        if np.ptp(grey) == 0 and picture.has_transparency_data:
            grey = np.asarray(picture.convert("RGBA").getchannel("A"))
        low, high = int(grey.min()), int(grey.max())
        if high == 0:
            raise ValueError("the mask is empty")
        white = (grey - float(low)) / (high - low) if high > low else np.ones(grey.shape)
        values = torch.from_numpy(np.uint8(np.round(255 * white)))
        # Of colours there may be two: a photo that is cut out has few pixels of many.
        two = has_two_greys(values.expand(3, -1, -1))
        if two and not deep:
            colours = picture.convert("RGB")
            two = colours.getcolors(2) is not None or np.ptp(np.asarray(colours), -1).max() < 16
        if not two:
            raise ValueError(f"it is no mask: it has {len(np.unique(grey))} values")
    return square(values[None], size)[0] >= 128
