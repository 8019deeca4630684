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
COLOURED = LESION[..., None] * np.array([255, 0, 0])
NOISE = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
LABELS = (Y // 8 * 10 + X // 8)[..., None] * np.array([1, 0, 0]) + np.array([0, 3, 0])
SMOOTH = np.stack([200 - Y, 150 - X, 120 + Y], axis=-1)
SMALL = ((abs(Y - 30) < 8) & (abs(X - 40) < 8))[..., None]
ON_WHITE = np.where(SMALL, NOISE // 3 + (120, 80, 60), 255)


def palette(colours):
    image = Image.fromarray(np.uint8(LESION), "P")
    image.putpalette(colours)
    return image


def opacity():
    pixels = np.zeros((HEIGHT, WIDTH, 4), np.uint8)
    pixels[..., 3] = 255 * LESION
    return Image.fromarray(pixels)


@pytest.mark.parametrize(
    "image",
    [
        Image.fromarray(np.uint8(LESION)),
        Image.fromarray(LESION),  # one bit
        Image.fromarray(np.uint8(100 + 20 * LESION)),
        Image.fromarray(np.uint16(LESION)),
        Image.fromarray(np.uint16(65535 * LESION)),
        Image.fromarray(np.uint8(255 * np.stack([LESION] * 3, -1))),
        palette([0, 0, 0, 128, 0, 0]),
        palette([0, 0, 0, 1, 1, 1]),
        Image.fromarray(np.uint8(255 * LESION)).convert("RGBA"),
        opacity(),
    ],
)
@pytest.mark.parametrize("size", [20, 60, 90])
def test_any_two_values_are_the_same_mask(tmp_path, image, size):
    """As with 0 and 255, which are read as the image is, and cut in the middle."""
    Image.fromarray(np.uint8(255 * LESION)).save(tmp_path / "whole.png")
    image.save(tmp_path / "other.png")
    mask = load_mask(tmp_path / "other.png", size)
    assert mask.dtype == torch.bool
    assert mask.equal(load_image(tmp_path / "whole.png", size)[0] >= 128)
    assert 0.2 < mask.double().mean() < 0.4


@pytest.mark.parametrize(
    ("name", "turn", "wrong"), [("a.png", 1, 0), ("a.png", 6, 0), ("a.jpg", 1, 0.01)]
)
def test_the_pixels_are_those_of_the_file_turned_as_its_photo(tmp_path, name, turn, wrong):
    exif = Image.Exif()
    exif[0x0112] = turn
    Image.fromarray(np.uint8(255 * LESION)).save(tmp_path / name, exif=exif, quality=60)
    expected = np.rot90(LESION, -1)[10:70] if turn == 6 else LESION[:, 10:70]
    assert (load_mask(tmp_path / name, HEIGHT).numpy() != expected).mean() <= wrong


def test_masks_of_one_value(tmp_path):
    for value in (1, 7, 255):
        Image.new("L", (80, 60), value).save(tmp_path / "white.png")
        assert load_mask(tmp_path / "white.png", 20).all()
    Image.new("L", (80, 60)).save(tmp_path / "black.png")
    with pytest.raises(ValueError, match=r"black\.png: the mask is empty"):
        load_mask(tmp_path / "black.png", 20)


@pytest.mark.parametrize("quality", [50, 90])
def test_pictures_of_many_values_are_no_masks(tmp_path, quality):
    for number, pixels in enumerate([LABELS, SMOOTH, SMOOTH[..., 0], ON_WHITE]):
        for name in (f"{number}.png", f"{number}.jpg"):
            Image.fromarray(np.uint8(pixels)).save(tmp_path / name, quality=quality)
            with pytest.raises(ValueError, match=rf"{name}: it is no mask: it has \d+ values"):
                load_mask(tmp_path / name, 20)
    smooth = Image.fromarray(np.uint8(255 * LESION)).resize((201, 150))
    smooth.save(tmp_path / "resized.jpg", quality=quality)
    assert 0.2 < load_mask(tmp_path / "resized.jpg", 150).double().mean() < 0.4


@pytest.mark.parametrize(
    ("name", "named"),
    [
        *((f"ISIC_0{end}", True) for end in (".jpg_mask.png", "_Segmentation.PNG", "-Mask.tif")),
        *((f"ISIC_0{end}", True) for end in ("_seg.gif", "_superpixels.png", "_attribute_net.png")),
        *((f"{name}.png", False) for name in ("mask", "damask", "unmasked_1", "lesion", "seg")),
        # Left to the pixels.
        *(
            (f"{name}.png", False)
            for name in ("ISIC_0", "mask_ISIC_0", "ISIC_0_lesion", "ISIC_0_gt")
        ),
    ],
)
def test_names_of_masks(name, named):
    assert is_named_mask(name) == named
    if "ISIC_0" in name and is_of_lesion(Path(name)):
        assert masked_id(Path("masks") / name) == "ISIC_0"


@pytest.mark.parametrize(
    ("name", "pixels", "mask"),
    [
        ("a.png", 255 * LESION, True),
        ("a.png", LESION, True),
        ("a.jpg", 255 * LESION, True),
        ("a.webp", 255 * LESION, True),
        ("a.png", LABELS, True),
        ("a.png", COLOURED, True),
        ("a.png", 0 * LESION, True),
        ("a.png", 0 * LESION + 255, True),
        ("a.png", 0 * LESION + 120, False),
        ("a.png", NOISE, False),
        ("a.jpg", NOISE, False),
        ("a.png", NOISE[..., 0], False),
        ("a.png", SMOOTH, False),
        ("a.png", SMOOTH[..., 0], False),
        ("a.png", np.full((HEIGHT, WIDTH, 3), (200, 120, 90)), False),
        ("a.jpg", np.minimum(ON_WHITE, 250), False),
        ("a.png", ON_WHITE, False),
        ("a.png", np.where(LESION[..., None], NOISE, 0), False),  # cut out
    ],
)
def test_pixels_say_what_is_a_mask(tmp_path, name, pixels, mask):
    Image.fromarray(np.uint8(pixels)).save(tmp_path / name)
    assert is_mask(tmp_path / name) is mask
    (tmp_path / name).write_bytes(b"damaged")
    assert not is_mask(tmp_path / name)


def test_real_photos_and_masks_are_told_apart(ham10000):
    photos = sorted((ham10000 / "HAM10000_images_part_1").iterdir())[::250]
    masks = sorted((ham10000 / "HAM10000_segmentations_lesion_tschandl").iterdir())[::500]
    assert [path.name for path in photos if is_mask(path)] == []
    assert [path.name for path in masks if not is_mask(path)] == []
    assert not any(has_two_greys(load_image(path, 64)) for path in photos)
    assert all(has_two_greys(load_image(path, 64)) for path in masks)
