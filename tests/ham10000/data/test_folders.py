"""What lies in a folder is sorted into photos, masks and other files."""

import shutil

import numpy as np
import pytest
from PIL import Image

from examples.ham10000.data import folders
from examples.ham10000.data.folders import look
from tests.helpers import make_pipe

DRAW = np.random.default_rng(0)
LESION = np.uint8(255 * (np.hypot(*np.mgrid[-15:15, -20:20]) < 11))


def photo(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(DRAW.integers(0, 256, (30, 40, 3), dtype=np.uint8)).save(path)


def mask(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(LESION).save(path)


def sorted_below(folder):
    contents = look(folder)
    photos = {name: [path.name for path in paths] for name, paths in contents.photos.items()}
    return photos, [path.name for path in contents.masks], [path.name for path in contents.others]


@pytest.mark.parametrize(
    "name", ["masks", "GroundTruth", "my annotations", "Labels", "x_GT", "deep/segm/train", "seg"]
)
def test_masks_without_a_name_for_it_are_told_by_their_folder(tmp_path, name):
    root = tmp_path / "root"
    photo(root / "images" / "a.jpg")
    photo(root / name / "b.png")
    mask(root / name / "a.png")
    Image.new("L", (40, 30)).save(root / name / "empty.png")
    photos, masks, others = sorted_below(root)
    assert photos == {"a": ["a.jpg"], "b": ["b.png"]}
    assert sorted(masks) == ["a.png", "empty.png"]
    assert others == []


def test_a_mask_with_the_name_of_its_photo(tmp_path):
    root = tmp_path / "root"  # the name of a test may be one of masks
    photo(root / "one" / "a.jpg")
    mask(root / "two" / "a.png")
    mask(root / "two" / "b.png")  # nothing says what it is
    mask(root / "three" / "b.bmp")
    photo(root / "one" / "c.jpg")
    Image.new("L", (40, 30), 255).save(root / "two" / "c.png")
    photos, masks, _ = sorted_below(root)
    assert photos == {"a": ["a.jpg"], "b": ["b.bmp", "b.png"], "c": ["c.jpg"]}
    assert masks == ["a.png", "c.png"]


@pytest.mark.parametrize("suffix", ["DNG", "HEIC"])
def test_raw_files_of_a_photo_are_no_second_one(tmp_path, suffix):
    photo(tmp_path / "IMG_0.JPG")
    for name in ("IMG_0", "IMG_1"):
        (tmp_path / f"{name}.{suffix}").write_bytes(b"II*\0")
    assert sorted_below(tmp_path)[0] == {"IMG_0": ["IMG_0.JPG"], "IMG_1": [f"IMG_1.{suffix}"]}
    assert look(tmp_path).raw == [tmp_path / f"IMG_0.{suffix}"]


def test_the_name_of_the_data_folder_says_nothing(tmp_path, monkeypatch):
    """Else every photo of it would be decoded at each look."""
    photo(tmp_path / "skin lesion masks" / "images" / "a.jpg")
    monkeypatch.setattr(folders, "is_mask", lambda path: pytest.fail(f"{path} is decoded"))
    assert sorted_below(tmp_path / "skin lesion masks") == ({"a": ["a.jpg"]}, [], [])


def test_names_count_more_than_pixels_and_folders(tmp_path):
    photo(tmp_path / "images" / "a_superpixels.png")
    photo(tmp_path / "images" / "a_Mask.JPG")
    photo(tmp_path / "images" / "damask.jpg")
    photos, masks, _ = sorted_below(tmp_path)
    assert photos == {"damask": ["damask.jpg"]}
    assert sorted(masks) == ["a_Mask.JPG", "a_superpixels.png"]


def test_copies_are_one_and_others_are_not(tmp_path):
    """Kaggle's archive has every image twice, in folders that differ in case."""
    photo(tmp_path / "A" / "a.jpg")
    photo(tmp_path / "A" / "b.jpg")
    for name, copy in [("a.jpg", "a.jpg"), ("a.jpg", "a.JPEG"), ("a.jpg", "a.png")]:
        (tmp_path / "B").mkdir(exist_ok=True)
        shutil.copy(tmp_path / "A" / name, tmp_path / "B" / copy)
    photo(tmp_path / "B" / "b.jpg")
    contents = look(tmp_path)
    assert [path.parent.name for path in contents.photos["b"]] == ["A", "B"]
    # A .png with the bytes of a .jpg is no mere copy.
    assert [path.name for path in contents.photos["a"]] == ["a.jpg", "a.png"]
    assert [path.name for path in contents.copies] == ["a.JPEG", "a.jpg"]


@pytest.mark.parametrize(
    "suffix",
    [
        *("jpg", "JPEG", "jpe", "jfif", "png", "bmp", "dib", "tif", "TIFF", "webp", "gif", "jp2"),
        *("ppm", "pgm", "heic", "HEIF", "avif", "dcm", "psd", "svg", "dng"),
    ],
)
def test_suffixes_of_images(tmp_path, suffix):
    (tmp_path / f"a.{suffix}").write_bytes(b"whatever it is")
    assert sorted_below(tmp_path) == ({"a": [f"a.{suffix}"]}, [], [])


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "BMP", "TIFF", "WEBP", "PPM", "JPEG2000"])
@pytest.mark.parametrize("name", ["IM0001", "a.1234", "b.txt"])
def test_images_under_other_names(tmp_path, kind, name):
    Image.new("RGB", (20, 20), (200, 90, 90)).save(tmp_path / name, format=kind)
    assert sorted_below(tmp_path) == ({name: [name]}, [], [])


@pytest.mark.parametrize(
    "content", [b"", b"BM and more", b"P5 is a grade", b"II*\0", b"a,b\n1,2\n"]
)
@pytest.mark.parametrize("name", ["notes.txt", "README", "a.csv"])
def test_other_files_are_no_images(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    assert sorted_below(tmp_path) == ({}, [], [name])


def test_what_is_hidden_or_no_file_is_passed_over(tmp_path):
    photo(tmp_path / "a" / "a.jpg")
    photo(tmp_path / "__MACOSX" / "b.jpg")
    photo(tmp_path / ".cache" / "c.jpg")
    photo(tmp_path / "a" / "._a.jpg")
    make_pipe(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to(tmp_path, target_is_directory=True)
    (tmp_path / "nowhere.txt").symlink_to(tmp_path / "no such file")
    assert sorted_below(tmp_path) == ({"a": ["a.jpg"]}, [], [])


def test_contents_in_words(tmp_path):
    photo(tmp_path / "x" / "a.jpg")
    photo(tmp_path / "x" / "b.jpg")
    photo(tmp_path / "y" / "c.jpg")
    mask(tmp_path / "m" / "a_mask.png")
    (tmp_path / "m.zip").write_bytes(b"PK")
    (tmp_path / "t.csv").write_text("a")
    assert str(look(tmp_path)) == (
        f"images: 2 in {tmp_path / 'x'}, 1 in {tmp_path / 'y'}, such as a.jpg; "
        f"masks or superpixels: 1 in {tmp_path / 'm'}, such as a_mask.png; "
        f"archives: 1 in {tmp_path}, such as m.zip; other files: 2 (.csv, .zip)"
    )
    (tmp_path / "empty").mkdir()
    assert str(look(tmp_path / "empty")) == "no images"
