"""The lesion masks of images, wherever they are."""

import re
import warnings

import numpy as np
import pytest
from PIL import Image

from examples.ham10000.data.index import read_index
from examples.ham10000.data.layouts import LESION_MASKS
from examples.ham10000.report.attention import read_masks

OFFICIAL = f"{LESION_MASKS}/{{}}_segmentation.png"
LEFT = np.uint8(np.tile(np.arange(20) < 10, (15, 1)))  # as wide as the images are high
MASK, BLACK, GREYS = 255 * LEFT, 0 * LEFT, np.uint8(np.arange(300).reshape(15, 20) % 250)


def write(folder, place, pixels=MASK):
    """A mask for each of the first four images but the first."""
    images = read_index(folder)[:4]
    for image in images[1:]:
        file = folder / place.format(image.image_id)
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(file)
    return images


def check(folder, images, having=(1, 2, 3)):
    """What is said where these images have a mask of their left half, as the network sees them."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        places, masks = read_masks(folder, images, 32)
    assert (places, masks.shape) == ([*having], (len(having), 32, 32))
    assert masks[..., :15].all()
    assert not masks[..., 17:].any()
    return "".join(str(warning.message) for warning in caught)


@pytest.mark.parametrize(
    ("place", "pixels", "said"),
    [
        ("masks/{}_attribute_globules.png", MASK, ""),
        ("{}_superpixels.png", MASK, ""),
        ("superpixels/train/{}_mask.png", MASK, ""),
        (OFFICIAL, GREYS, r"3 lesion masks are left out: .*ISIC_01_seg.* 250 values, \.\.\."),
        ("masks/{}.png", BLACK, r"3 lesion masks are left out: .* empty, \.\.\."),
        ("masks/{}_x_mask.png", MASK, "3 lesion masks, such as ISIC_01_x_mask.png: none has the "
         "id of an image, such as ISIC_00"),
    ],
)  # fmt: skip
def test_what_is_no_mask_of_a_lesion_is_left_out_and_named(folder, place, pixels, said):
    images = write(folder, place, pixels)
    assert re.fullmatch(said, check(folder, images, having=()))
    write(folder, "b/{}_mask.png")
    assert check(folder, images).startswith(said[:27] if "left out" in said else "")


def test_a_damaged_mask_is_left_out_and_named(folder):
    images = write(folder, OFFICIAL)
    damaged = folder / OFFICIAL.format("ISIC_01")
    damaged.write_bytes(damaged.read_bytes()[:40])
    said = check(folder, images, having=(2, 3))
    assert re.fullmatch(rf"a lesion mask is left out: .*{damaged.name}.*[^.]", said)


def test_of_two_masks_of_one_image_the_first_is_used_and_named(folder):
    images = write(folder, "a/{}_mask.png")
    write(folder, "b/{}_mask.png")
    assert check(folder, images) == ""
    write(folder, "b/{}_mask.png", 255 - MASK)
    a, b = (folder / name / "ISIC_01_mask.png" for name in "ab")
    said = f"3 lesion masks are left out: {b} differs from {a}, which is used, ..."
    assert check(folder, images) == said
