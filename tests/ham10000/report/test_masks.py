"""The lesion masks of images, wherever they are."""

import warnings

import numpy as np
import pytest
from PIL import Image

from examples.ham10000.data.index import read_index
from examples.ham10000.data.layouts import LESION_MASKS
from examples.ham10000.report.attention import read_masks

LEFT = np.uint8(np.tile(np.arange(20) < 10, (15, 1)))  # as wide as the images are high


def write(folder, place, pixels=255 * LEFT):
    """A mask for each of the first four images but the first."""
    images = read_index(folder)[:4]
    for image in images[1:]:
        file = folder / place.format(image.image_id)
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.uint8(pixels)).save(file)
    return images


def check(folder, images, having=(1, 2, 3)):
    """What is said where these images have a mask of their left half, as the network sees them."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        places, masks = read_masks(folder, images, 32)
    assert (places, masks.shape) == ([*having], (len(having), 32, 32))
    assert masks[..., :15].all()
    assert not masks[..., 17:].any()
    messages = [str(warning.message) for warning in caught]
    return messages[0] if messages else None


@pytest.mark.parametrize(
    "place",
    [
        f"{LESION_MASKS}/{{}}_segmentation.png",
        f"{LESION_MASKS}/{LESION_MASKS}/{{}}_segmentation.PNG",
        "masks/{}.png",
        "Lesion Masks/train/{}_Mask.bmp",
        "ISIC2018_Task1_Training_GroundTruth/{}_segmentation.tif",
        "{}_mask.png",
    ],
)
@pytest.mark.parametrize("white", [1, 255])
def test_masks_of_any_place_and_values(folder, place, white):
    assert check(folder, write(folder, place, white * LEFT)) is None


def test_attributes_and_superpixels_are_no_masks_of_lesions(folder):
    images = write(folder, "masks/{}_attribute_globules.png")
    write(folder, "{}_superpixels.png")
    write(folder, "superpixels/train/{}_mask.png")
    assert check(folder, images, having=()) is None


def test_pictures_that_are_no_masks_are_left_out_and_named(folder):
    images = write(folder, "a/{}_seg.png", np.arange(300).reshape(15, 20) % 250)
    said = check(folder, images, having=())
    assert said.startswith("3 lesion masks are left out: ")
    assert "ISIC_01_seg" in said
    assert said.endswith(" 250 values, ...")
    write(folder, "b/{}_mask.png")
    assert check(folder, images).startswith("3 lesion masks are left out")


def test_a_damaged_mask_is_left_out_and_named(folder):
    images = write(folder, f"{LESION_MASKS}/{{}}_segmentation.png")
    damaged = folder / LESION_MASKS / f"{images[1].image_id}_segmentation.png"
    damaged.write_bytes(damaged.read_bytes()[:40])
    said = check(folder, images, having=(2, 3))
    assert said.startswith("a lesion mask is left out: ")
    assert damaged.name in said


def test_of_two_masks_of_one_image_the_first_is_used_and_named(folder):
    images = write(folder, "a/{}_mask.png")
    write(folder, "b/{}_mask.png")
    assert check(folder, images) is None
    write(folder, "b/{}_mask.png", 255 - 255 * LEFT)
    a, b = (folder / name / "ISIC_01_mask.png" for name in "ab")
    said = f"3 lesion masks are left out: {b} differs from {a}, which is used, ..."
    assert check(folder, images) == said


def test_masks_of_other_images_are_told(folder):
    images = write(folder, "masks/{}_x_mask.png")
    said = check(folder, images, having=())
    assert said.startswith("3 lesion masks, such as ISIC_01_x_mask.png: none has ")
    assert said.endswith(" such as ISIC_00")


def test_empty_masks_are_left_out_and_counted(folder):
    images = write(folder, "masks/{}.png", 0 * LEFT)
    said = check(folder, images, having=())
    assert said.startswith("3 lesion masks are left out: ")
    assert "empty" in said
    Image.fromarray(255 * LEFT).save(folder / "masks" / f"{images[2].image_id}.png")
    assert check(folder, images, having=(2,)).startswith("2 lesion masks are left out: ")


def test_a_mask_of_one_value_is_lesion_all_over(folder):
    images = write(folder, f"{LESION_MASKS}/{{}}_segmentation.png", 0 * LEFT + 1)
    having, masks = read_masks(folder, images, 32)
    assert having == [1, 2, 3]
    assert masks.all()
