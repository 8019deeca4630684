"""Decoding."""

import os
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, ImageOps

from examples.ham10000.data.images import damage, load_image
from tests.helpers import make_pipe


def save(path, pixels):
    Image.fromarray(pixels).save(path)
    return path


@pytest.mark.parametrize(("height", "width"), [(30, 40), (40, 30), (30, 30)])
def test_the_centre_square_is_kept(tmp_path, height, width):
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    loaded = load_image(save(tmp_path / "a.png", pixels), 30)
    top, left = (height - 30) // 2, (width - 30) // 2
    np.testing.assert_array_equal(
        loaded.permute(1, 2, 0).numpy(), pixels[top : top + 30, left : left + 30]
    )


def test_the_shorter_side_is_resized_as_pillow_does(tmp_path):
    y, x = np.mgrid[:90, :120]
    pixels = np.stack([2 * y, 2 * x, 255 - y - x], axis=-1).astype(np.uint8)
    path = save(tmp_path / "a.png", pixels)
    expected = Image.fromarray(pixels).resize((40, 30), Image.Resampling.BILINEAR)
    loaded = load_image(path, 30).permute(1, 2, 0).numpy().astype(int)
    assert np.abs(loaded - np.asarray(expected)[:, 5:35]).max() <= 1


GREY = Image.new("RGB", (20, 15), (200, 200, 200))


def animation(path, **options):
    GREY.save(path, save_all=True, append_images=[Image.new("RGB", (20, 15))], **options)


def empty_png(path, side):
    """A file without pixels, which claims to have ``side`` x ``side`` of them."""
    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    chunks = [b"IHDR" + header, b"IDAT" + zlib.compress(b"")]
    packed = [struct.pack(">I", len(c) - 4) + c + struct.pack(">I", zlib.crc32(c)) for c in chunks]
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(packed))


def save_as(kind, mode="RGB", size=(20, 15), colour=0, **options):
    return lambda path: Image.new(mode, size, colour).save(path, kind, **options)


@pytest.mark.parametrize(
    ("write", "message", "kind"),
    [
        (save_as("PNG", size=(1, 6000)), "1x6000 pixels are no picture", "unreadable"),
        (save_as("PNG", size=(1, 1)), "1x1 pixels are no picture", "unreadable"),
        (save_as("TIFF", "F", colour=0.5), "it has 32 bits", "unreadable"),
        (save_as("TIFF", "I", colour=200), "it has 32 bits", "unreadable"),
        (lambda path: empty_png(path, 9000), "9000x9000 pixels are more than", "unreadable"),
        (lambda path: empty_png(path, 30_000), "decompression bomb", "unreadable"),
        (lambda path: animation(path, format="GIF"), "it is an animation", "unreadable"),
        (lambda path: animation(path, format="PNG"), "it is an animation", "unreadable"),
        (lambda path: path.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n"), "identify", "unreadable"),
        (lambda path: path.mkdir(), "there is no such file", "missing"),
        (lambda path: path.symlink_to(path.with_name("nowhere")), "no such file", "missing"),
        (lambda path: path.symlink_to(path), "no such file", "missing"),
        (make_pipe, "there is no such file", "missing"),
    ],
)
def test_what_is_no_picture_is_refused(tmp_path, write, message, kind):
    path = tmp_path / "x.jpg"
    write(path)
    with pytest.raises(ValueError, match=rf"cannot read the image .*x\.jpg: .*{message}"):
        load_image(path, 24)
    assert damage(path) == kind


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root reads all")
def test_a_file_that_may_not_be_read_is_named(tmp_path):
    path = save(tmp_path / "x.png", np.zeros((12, 12, 3), np.uint8))
    path.chmod(0)
    with pytest.raises(ValueError, match=r"cannot read the image .*x\.png: .*Permission"):
        load_image(path, 12)
    assert damage(path) == "unreadable"


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


FLIP, TURN = np.fliplr, np.rot90
UPRIGHT = {  # by what EXIF says of the first row and column
    2: FLIP,
    3: lambda p: TURN(p, 2),
    4: np.flipud,
    5: lambda p: FLIP(TURN(p, -1)),
    6: lambda p: TURN(p, -1),
    7: lambda p: FLIP(TURN(p, 1)),
    8: TURN,
}


@pytest.mark.parametrize("mode", ["RGB", "P", "I;16"])
@pytest.mark.parametrize("orientation", range(10))
def test_a_photo_is_turned_as_the_camera_was_held(tmp_path, orientation, mode):
    grey = np.random.default_rng(0).integers(0, 256, (12, 12), dtype=np.uint8)
    photo = Image.fromarray(np.uint16(grey) * 257 if mode == "I;16" else grey)
    exif = Image.Exif()
    exif[0x0112] = orientation
    exif[0x010F] = "maker"
    (photo if mode == "I;16" else photo.convert(mode)).save(tmp_path / "a.png", exif=exif)
    expected = UPRIGHT.get(orientation, np.asarray)(grey)
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


def test_the_kind_of_damage_is_told(paths, tmp_path):
    assert [damage(path) for path in paths] == [None] * 8
    whole = paths[0].read_bytes()
    photo = tmp_path / "photo.jpg"
    Image.open(paths[1]).resize((200, 150)).save(photo)
    for content, kind in [
        (b"", "unreadable"),
        (b"text", "unreadable"),
        (whole[: len(whole) // 2], "truncated"),
        (photo.read_bytes()[:-800], "truncated"),
        (photo.read_bytes(), None),
    ]:
        photo.write_bytes(content)
        assert damage(photo) == kind
