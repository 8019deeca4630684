"""Decoding."""

import struct

import numpy as np
import pytest
from PIL import Image, ImageOps

from examples.ham10000.data.images import damage, load_image
from tests.helpers import make_pipe


@pytest.mark.parametrize(
    ("height", "width"), [(30, 40), (40, 30), (30, 30), (90, 120), (120, 90), (90, 90)]
)
def test_the_shorter_side_is_resized_as_pillow_does_and_the_centre_kept(tmp_path, height, width):
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    photo = Image.fromarray(pixels)
    photo.save(tmp_path / "a.png")
    scale = 30 / min(height, width)
    small = photo.resize((round(width * scale), round(height * scale)), Image.Resampling.BILINEAR)
    left, top = (small.width - 30) // 2, (small.height - 30) // 2
    expected = np.asarray(small)[top : top + 30, left : left + 30]
    loaded = load_image(tmp_path / "a.png", 30).permute(1, 2, 0).numpy().astype(int)
    assert np.abs(loaded - expected).max() <= (0 if scale == 1 else 1)


GREY = Image.new("RGB", (20, 15), (200, 200, 200))


def animation(path, **options):
    GREY.save(path, save_all=True, append_images=[Image.new("RGB", (20, 15))], **options)


def save_as(kind, mode="RGB", size=(20, 15), colour=0, **options):
    return lambda path: Image.new(mode, size, colour).save(path, kind, **options)


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (save_as("PNG", size=(1, 6000)), "1x6000 pixels are no picture"),
        (save_as("PNG", size=(1, 1)), "1x1 pixels are no picture"),
        (save_as("TIFF", "F", colour=0.5), "it has 32 bits"),
        (save_as("TIFF", "I", colour=200), "it has 32 bits"),
        (save_as("PNG", "1", size=(9000, 9000)), "9000x9000 pixels are more than"),
        (save_as("PNG", "1", size=(13_400, 13_400)), "decompression bomb"),
        (lambda path: animation(path, format="GIF"), "it is an animation"),
        (lambda path: animation(path, format="PNG"), "it is an animation"),
        (lambda path: path.write_bytes(b""), "identify"),
        (lambda path: path.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n"), "identify"),
        (lambda path: path.mkdir(), "there is no such file"),
        (lambda path: path.symlink_to(path.with_name("nowhere")), "there is no such file"),
        (lambda path: path.symlink_to(path), "there is no such file"),
        (make_pipe, "there is no such file"),
    ],
)
def test_what_is_no_picture_is_refused(tmp_path, write, message):
    path = tmp_path / "x.jpg"
    write(path)
    with pytest.raises(ValueError, match=rf"cannot read the image .*x\.jpg: .*{message}"):
        load_image(path, 24)
    assert damage(path) == ("missing" if "such file" in message else "unreadable")


@pytest.mark.parametrize(
    "write",
    [
        save_as("JPEG", "CMYK", colour=(55, 55, 55, 0)),
        save_as("TIFF", "CMYK", colour=(55, 55, 55, 0)),
        save_as("PNG", "RGBA", colour=(200, 200, 200, 0)),
        save_as("JPEG", "L", colour=200),
        lambda path: GREY.quantize().save(path, "PNG"),
        save_as("PNG", "LA", colour=(200, 0)),
        save_as("PNG", "I;16", colour=200 * 257),
        save_as("BMP", colour=(200, 200, 200)),
        save_as("WEBP", colour=(200, 200, 200)),
        lambda path: animation(path, format="TIFF"),  # the first page
        lambda path: animation(path, format="MPO"),  # the photo, not what a phone adds to it
        lambda path: GREY.save(path, "JPEG", exif=b"Exif\0\0no orientation"),
    ],
)
def test_what_the_suffix_hides_is_decoded(tmp_path, write):
    path = tmp_path / "x.jpg"
    write(path)
    loaded = load_image(path, 12)
    assert loaded.shape == (3, 12, 12)
    assert (loaded.int() - 200).abs().max() <= 2
    assert damage(path) is None


# By what EXIF says of the first row and column: quarter turns, and whether a flip follows.
TURNS = {2: (0, 1), 3: (2, 0), 4: (2, 1), 5: (-1, 1), 6: (-1, 0), 7: (1, 1), 8: (1, 0)}


@pytest.mark.parametrize("mode", ["RGB", "P", "I;16"])
@pytest.mark.parametrize("orientation", range(10))
def test_a_photo_is_turned_as_the_camera_was_held(tmp_path, orientation, mode):
    grey = np.random.default_rng(0).integers(0, 256, (12, 12), dtype=np.uint8)
    photo = Image.fromarray(np.uint16(grey) * 257 if mode == "I;16" else grey)
    exif = Image.Exif()
    exif[0x0112] = orientation
    exif[0x010F] = "maker"
    (photo if mode == "I;16" else photo.convert(mode)).save(tmp_path / "a.png", exif=exif)
    turns, flip = TURNS.get(orientation, (0, 0))
    expected = np.rot90(grey, turns)
    expected = np.fliplr(expected) if flip else expected
    assert (1 < orientation < 9) == (not np.array_equal(expected, grey))
    np.testing.assert_array_equal(load_image(tmp_path / "a.png", 12)[0], expected)


def test_nonsense_that_a_camera_has_noted_does_no_harm(tmp_path):
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = 3, "maker"
    photo = Image.fromarray(np.arange(192, dtype=np.uint8).reshape(12, 16))
    photo.save(tmp_path / "a.png", exif=exif.tobytes().replace(b"\x01\x0f", b"\x01\0"))  # as width
    with Image.open(tmp_path / "a.png") as file, pytest.raises(struct.error):
        ImageOps.exif_transpose(file)
    np.testing.assert_array_equal(
        load_image(tmp_path / "a.png", 12)[0], np.asarray(photo)[::-1, 13:1:-1]
    )


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_a_part_of_a_picture_is_truncated(tmp_path, kind):
    noise = np.random.default_rng(0).integers(0, 256, (150, 200, 3), dtype=np.uint8)
    path = tmp_path / "x.jpg"
    Image.fromarray(noise).save(path, kind)
    assert damage(path) is None
    path.write_bytes(path.read_bytes()[:-800])
    assert damage(path) == "truncated"
