"""What lies in a folder is sorted into photos, masks and other files."""

import shutil

import numpy as np
import pytest
from PIL import Image

from examples.ham10000.data import folders
from examples.ham10000.data.folders import look
from tests.helpers import make_pipe

LESION = np.uint8(255 * (np.hypot(*np.mgrid[-15:15, -20:20]) < 11))
PHOTO = np.random.default_rng(0).integers(0, 256, (30, 40, 3), dtype=np.uint8)
BLACK, WHITE = np.zeros((30, 40), np.uint8), np.full((30, 40), 255, np.uint8)


def save_all(root, pixels, *names):
    for number, name in enumerate(names):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.roll(pixels, number, axis=0)).save(root / name)


def found(root):
    contents = look(root)
    photos = {name: [path.name for path in paths] for name, paths in contents.photos.items()}
    return photos, [path.name for path in contents.masks], [path.name for path in contents.others]


@pytest.mark.parametrize(
    "name", ["masks", "GroundTruth", "my annotations", "Labels", "x_GT", "deep/segm/train", "seg"]
)
def test_masks_without_a_name_for_it_are_told_by_their_folder(tmp_path, name):
    root = tmp_path / "root"  # the name of a test may be one of masks
    save_all(root, PHOTO, "images/a.jpg", f"{name}/b.png")
    save_all(root, LESION, f"{name}/a.png")
    save_all(root, BLACK, f"{name}/empty.png")
    assert found(root) == ({"a": ["a.jpg"], "b": ["b.png"]}, ["a.png", "empty.png"], [])


def test_a_mask_with_the_name_of_its_photo(tmp_path):
    root = tmp_path / "root"
    save_all(root, PHOTO, "one/a.jpg", "one/c.jpg")
    save_all(root, LESION, "two/a.png", "two/b.png", "three/b.bmp")  # nothing says what b is
    save_all(root, WHITE, "two/c.png")
    photos = {"a": ["a.jpg"], "b": ["b.bmp", "b.png"], "c": ["c.jpg"]}
    assert found(root) == (photos, ["a.png", "c.png"], [])


def test_the_name_of_the_data_folder_says_nothing(tmp_path, monkeypatch):
    """Else every photo of it would be decoded at each look."""
    root = tmp_path / "skin lesion masks"
    save_all(root, PHOTO, "images/a.jpg")
    monkeypatch.setattr(folders, "is_mask", lambda path: pytest.fail(f"{path} is decoded"))
    assert found(root) == ({"a": ["a.jpg"]}, [], [])


def test_names_count_more_than_pixels_and_folders(tmp_path):
    save_all(tmp_path, PHOTO, "images/a_superpixels.png", "images/a_Mask.JPG", "images/damask.jpg")
    assert found(tmp_path) == ({"damask": ["damask.jpg"]}, ["a_Mask.JPG", "a_superpixels.png"], [])


def test_copies_and_raw_files_are_no_second_photo_and_others_are(tmp_path):
    """Kaggle's archive has every image twice, in folders that differ in case."""
    save_all(tmp_path, PHOTO, "A/a.jpg", "A/b.jpg", "B/b.jpg", "B/c.JPG")
    for copy in ("a.jpg", "a.JPEG", "a.png"):
        shutil.copy(tmp_path / "A" / "a.jpg", tmp_path / "B" / copy)
    for raw in ("c.DNG", "c.HEIC", "d.dng"):
        (tmp_path / "B" / raw).write_text(raw)
    # A .png with the bytes of a .jpg is no mere copy.
    photos = {"a": ["a.jpg", "a.png"], "b": ["b.jpg"] * 2, "c": ["c.JPG"], "d": ["d.dng"]}
    assert found(tmp_path) == (photos, [], [])
    contents = look(tmp_path)
    assert contents.copies == [tmp_path / "B" / name for name in ("a.JPEG", "a.jpg")]
    assert contents.raw == [tmp_path / "B" / name for name in ("c.DNG", "c.HEIC")]


def test_suffixes_of_images(tmp_path):
    suffixes = "jpg JPEG jpe jfif png bmp dib tif TIFF webp gif jp2 ppm pgm heic HEIF avif dcm psd"
    names = [f"{suffix}.{suffix}" for suffix in (*suffixes.split(), "svg", "dng")]
    for name in names:
        (tmp_path / name).write_text(f"whatever {name} is")
    photos, *rest = found(tmp_path)
    assert sorted(photos.values()) == sorted([name] for name in names)
    assert rest == [[], []]


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "BMP", "TIFF", "WEBP", "PPM", "JPEG2000"])
@pytest.mark.parametrize("name", ["IM0001", "a.1234", "b.txt"])
def test_images_under_other_names(tmp_path, kind, name):
    Image.new("RGB", (20, 20), (200, 90, 90)).save(tmp_path / name, format=kind)
    assert found(tmp_path) == ({name: [name]}, [], [])


@pytest.mark.parametrize("name", ["notes.txt", "README", "a.csv"])
def test_other_files_are_no_images(tmp_path, name):
    for content in (b"", b"BM and more", b"P5 is a grade", b"II*\0", b"a,b\n1,2\n"):
        (tmp_path / name).write_bytes(content)
        assert found(tmp_path) == ({}, [], [name])


def test_what_is_hidden_or_no_file_is_passed_over(tmp_path):
    save_all(tmp_path, PHOTO, "a/a.jpg", "__MACOSX/b.jpg", ".cache/c.jpg", "a/._a.jpg")
    make_pipe(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to(tmp_path, target_is_directory=True)
    (tmp_path / "nowhere.txt").symlink_to(tmp_path / "no such file")
    assert found(tmp_path) == ({"a": ["a.jpg"]}, [], [])


def test_contents_in_words(tmp_path):
    assert str(look(tmp_path)) == "no images"
    save_all(tmp_path, PHOTO, "x/a.jpg", "x/b.jpg", "y/c.jpg", "m/a_mask.png")
    shutil.copy(tmp_path / "x" / "a.jpg", tmp_path / "y")
    (tmp_path / "m.zip").write_bytes(b"PK")
    (tmp_path / "t.csv").write_text("a")
    assert str(look(tmp_path)) == (
        f"images: 2 in {tmp_path / 'x'}, 1 in {tmp_path / 'y'}, such as a.jpg; "
        f"copies of them: 1 in {tmp_path / 'y'}, such as a.jpg; "
        f"masks or superpixels: 1 in {tmp_path / 'm'}, such as a_mask.png; "
        f"archives: 1 in {tmp_path}, such as m.zip; other files: 2 (.csv, .zip)"
    )
