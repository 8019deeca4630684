"""The lesion masks of images, wherever they are."""

import warnings

import numpy as np
import pytest
from PIL import Image

from examples.ham10000.data.index import read_index
from examples.ham10000.data.layouts import LESION_MASKS
from examples.ham10000.report.attention import read_masks

LEFT = np.uint8(np.tile(np.arange(20) < 10, (15, 1)))


def write(folder, place, pixels=255 * LEFT):
    """A mask for each of the first four images but the first."""
    images = read_index(folder)[:4]
    for image in images[1:]:
        file = folder / place.format(image.image_id)
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.uint8(pixels)).save(file)
    return images


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
    images = write(folder, place, white * LEFT)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        having, masks = read_masks(folder, images, 32)
    assert having == [1, 2, 3]
    assert masks.shape == (3, 32, 32)
    assert masks[..., :15].all()
    assert not masks[..., 17:].any()


def test_attributes_and_superpixels_are_no_masks_of_lesions(folder):
    images = write(folder, "masks/{}_attribute_globules.png")
    write(folder, "{}_superpixels.png")
    write(folder, "superpixels/train/{}_mask.png")
    assert read_masks(folder, images, 32)[0] == []


def test_pictures_that_are_no_masks_are_left_out_and_named(folder):
    images = write(folder, "a/{}_seg.png", np.arange(300).reshape(15, 20) % 250)
    with pytest.warns(
        UserWarning, match=r"^3 lesion .* left out: .*ISIC_01_seg.* 250 values, \.\.\."
    ):
        assert read_masks(folder, images, 32)[0] == []
    write(folder, "b/{}_mask.png")
    with pytest.warns(UserWarning, match="^3 lesion masks are left out"):
        having, masks = read_masks(folder, images, 32)
    assert having == [1, 2, 3]
    assert masks[..., :15].all()


def test_of_two_masks_of_one_image_the_first_is_used_and_named(folder):
    images = write(folder, "a/{}_mask.png")
    write(folder, "b/{}_mask.png")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        read_masks(folder, images, 32)
    write(folder, "b/{}_mask.png", 255 - 255 * LEFT)
    said = (
        r"^3 .* left out: .*b.ISIC_01_mask\.png differs from .*a.ISIC_01_mask\.png, which is used"
    )
    with pytest.warns(UserWarning, match=said):
        having, masks = read_masks(folder, images, 32)
    assert having == [1, 2, 3]
    assert masks[..., :15].all()


def test_masks_of_other_images_are_told(folder):
    images = write(folder, "masks/{}_x_mask.png")
    said = r"^3 lesion masks, such as ISIC_01_x_mask\.png: none has .* such as ISIC_00$"
    with pytest.warns(UserWarning, match=said):
        assert read_masks(folder, images, 32)[0] == []


def test_empty_masks_are_left_out_and_counted(folder):
    images = write(folder, "masks/{}.png", 0 * LEFT)
    with pytest.warns(UserWarning, match=r"^3 lesion masks are left out: .*ISIC_01\.png.* empty"):
        assert read_masks(folder, images, 32)[0] == []
    Image.fromarray(255 * LEFT).save(folder / "masks" / f"{images[2].image_id}.png")
    with pytest.warns(UserWarning, match="^2 lesion masks are left out: "):
        assert read_masks(folder, images, 32)[0] == [2]


def test_a_mask_of_one_value_is_lesion_all_over(folder):
    images = write(folder, f"{LESION_MASKS}/{{}}_segmentation.png", 0 * LEFT + 1)
    having, masks = read_masks(folder, images, 32)
    assert having == [1, 2, 3]
    assert masks.all()
