"""Masks are told from photos by name and pixels, and read whatever they were saved with."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from examples.ham10000.data.images import load_image
from examples.ham10000.data.masks import (
    has_two_greys,
    is_mask,
    is_named_mask,
    is_of_lesion,
    load_mask,
    masked_id,
)

HEIGHT, WIDTH = 60, 80
Y, X = np.mgrid[:HEIGHT, :WIDTH]
LESION = (Y - 30) ** 2 + (X - 44) ** 2 < 18**2


def black_and_white(path, mask=LESION, **options):
    Image.fromarray(np.uint8(255 * mask)).save(path, **options)
    return path


def palette(path, colours):
    image = Image.fromarray(np.uint8(LESION), "P")
    image.putpalette(colours)
    image.save(path)


def opacity(path):
    pixels = np.zeros((HEIGHT, WIDTH, 4), np.uint8)
    pixels[..., 3] = 255 * LESION
    Image.fromarray(pixels).save(path)


@pytest.mark.parametrize(
    "write",
    [
        lambda path: Image.fromarray(np.uint8(LESION)).save(path),
        lambda path: Image.fromarray(LESION).save(path),  # one bit
        lambda path: Image.fromarray(np.uint8(100 + 20 * LESION)).save(path),
        lambda path: Image.fromarray(np.uint16(LESION)).save(path),
        lambda path: Image.fromarray(np.uint16(65535 * LESION)).save(path),
        lambda path: Image.fromarray(np.uint8(255 * np.stack([LESION] * 3, -1))).save(path),
        lambda path: palette(path, [0, 0, 0, 128, 0, 0]),
        lambda path: palette(path, [0, 0, 0, 1, 1, 1]),
        lambda path: Image.fromarray(np.uint8(255 * LESION)).convert("RGBA").save(path),
        opacity,
    ],
)
@pytest.mark.parametrize("size", [20, 60, 90])
def test_any_two_values_are_the_same_mask(tmp_path, write, size):
    """As with 0 and 255, which are read as the image is, and cut in the middle."""
    whole = black_and_white(tmp_path / "whole.png")
    write(tmp_path / "other.png")
    mask = load_mask(tmp_path / "other.png", size)
    assert mask.dtype == torch.bool
    assert mask.shape == (size, size)
    assert mask.equal(load_image(whole, size)[0] >= 128)
    assert 0.2 < mask.double().mean() < 0.4


def test_the_pixels_are_those_of_the_file(tmp_path):
    mask = load_mask(black_and_white(tmp_path / "a.png"), HEIGHT)
    np.testing.assert_array_equal(mask.numpy(), LESION[:, 10:70])


def test_a_mask_of_jpeg_is_read(tmp_path):
    mask = load_mask(black_and_white(tmp_path / "a.jpg", quality=60), HEIGHT)
    assert (mask.numpy() != LESION[:, 10:70]).mean() < 0.01


def test_a_mask_is_turned_as_its_photo(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    black_and_white(tmp_path / "a.png", exif=exif)
    expected = np.rot90(LESION, -1)[10:70]
    np.testing.assert_array_equal(load_mask(tmp_path / "a.png", HEIGHT).numpy(), expected)


def test_masks_of_one_value(tmp_path):
    for value in (1, 7, 255):
        Image.new("L", (80, 60), value).save(tmp_path / "white.png")
        assert load_mask(tmp_path / "white.png", 20).all()
    Image.new("L", (80, 60)).save(tmp_path / "black.png")
    with pytest.raises(ValueError, match=r"black\.png: the mask is empty"):
        load_mask(tmp_path / "black.png", 20)


@pytest.mark.parametrize("quality", [50, 90])
def test_pictures_of_many_values_are_no_masks(tmp_path, quality):
    cut_out = np.where(SMALL, NOISE // 3 + (120, 80, 60), 255)
    for number, pixels in enumerate([LABELS, SMOOTH, SMOOTH[..., 0], cut_out]):
        for name in (f"{number}.png", f"{number}.jpg"):
            Image.fromarray(np.uint8(pixels)).save(tmp_path / name, quality=quality)
            with pytest.raises(
                ValueError, match=rf"{number}\.\w+: it is no mask: it has \d+ values"
            ):
                load_mask(tmp_path / name, 20)
    smooth = Image.fromarray(np.uint8(255 * LESION)).resize((201, 150))
    smooth.save(tmp_path / "resized.jpg", quality=quality)
    assert 0.2 < load_mask(tmp_path / "resized.jpg", 150).double().mean() < 0.4


@pytest.mark.parametrize(
    ("name", "image_id"),
    [
        ("ISIC_0.jpg_mask.png", "ISIC_0"),
        ("ISIC_0_segmentation.png", "ISIC_0"),
        ("ISIC_0_Segmentation.PNG", "ISIC_0"),
        ("ISIC_0_mask.bmp", "ISIC_0"),
        ("ISIC_0-Mask.tif", "ISIC_0"),
        ("ISIC_0_seg.gif", "ISIC_0"),
        ("ISIC_0_superpixels.png", None),
        ("ISIC_0_attribute_pigment_network.png", None),
    ],
)
def test_names_of_masks(name, image_id):
    assert is_named_mask(name)
    path = Path("masks") / name
    assert is_of_lesion(path) == (image_id is not None)
    assert image_id in (None, masked_id(path))


@pytest.mark.parametrize(
    "name", ["ISIC_0.png", "mask.jpg", "damask.jpg", "unmasked_1.jpg", "lesion.png", "seg.png"]
)
def test_other_names_are_left_to_the_pixels(name):
    assert not is_named_mask(name)


@pytest.mark.parametrize("name", ["mask_ISIC_0.png", "ISIC_0_lesion.bmp", "ISIC_0_gt.png"])
def test_names_of_masks_that_the_pixels_confirm(tmp_path, name):
    assert masked_id(tmp_path / name) == "ISIC_0"


NOISE = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
LABELS = (Y // 8 * 10 + X // 8)[..., None] * np.array([1, 0, 0]) + np.array([0, 3, 0])
SMOOTH = np.stack([200 - Y, 150 - X, 120 + Y], axis=-1)
SMALL = ((abs(Y - 30) < 8) & (abs(X - 40) < 8))[..., None]


@pytest.mark.parametrize(
    ("name", "pixels", "mask"),
    [
        ("a.png", 255 * LESION, True),
        ("a.png", LESION, True),
        ("a.jpg", 255 * LESION, True),
        ("a.webp", 255 * LESION, True),
        ("a.png", LABELS, True),
        ("a.png", LESION[..., None] * np.array([255, 0, 0]), True),
        ("a.png", NOISE, False),
        ("a.jpg", NOISE, False),
        ("a.png", NOISE[..., 0], False),
        ("a.png", SMOOTH, False),
        ("a.png", SMOOTH[..., 0], False),
        ("a.png", np.full((HEIGHT, WIDTH, 3), (200, 120, 90)), False),
        ("a.jpg", np.where(SMALL, NOISE // 3 + (120, 80, 60), 250), False),  # on white paper
        ("a.png", np.where(SMALL, NOISE // 3 + (120, 80, 60), 255), False),
        ("a.png", np.where(LESION[..., None], NOISE, 0), False),  # cut out
    ],
)
def test_pixels_say_what_is_a_mask(tmp_path, name, pixels, mask):
    Image.fromarray(np.uint8(pixels)).save(tmp_path / name)
    assert is_mask(tmp_path / name) is mask


@pytest.mark.parametrize("value", [0, 255])
def test_a_picture_of_black_or_white_is_a_mask(tmp_path, value):
    Image.new("L", (80, 60), value).save(tmp_path / "a.png")
    assert is_mask(tmp_path / "a.png")
    Image.new("L", (80, 60), 120).save(tmp_path / "grey.png")
    assert not is_mask(tmp_path / "grey.png")
    (tmp_path / "a.png").write_bytes(b"damaged")
    assert not is_mask(tmp_path / "a.png")


def test_real_photos_and_masks_are_told_apart(ham10000):
    photos = sorted((ham10000 / "HAM10000_images_part_1").iterdir())[::250]
    masks = sorted((ham10000 / "HAM10000_segmentations_lesion_tschandl").iterdir())[::500]
    assert [path.name for path in photos if is_mask(path)] == []
    assert [path.name for path in masks if not is_mask(path)] == []
    assert not any(has_two_greys(load_image(path, 64)) for path in photos)
    assert all(has_two_greys(load_image(path, 64)) for path in masks)
