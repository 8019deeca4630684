"""One data set in every form that it comes in."""

import csv

import pytest
from PIL import Image

from examples.ham10000.data.index import CLASSES, read_index
from examples.ham10000.data.layouts import (
    IMAGE_FOLDERS,
    ISIC_CLASSES,
    ISIC_IMAGES,
    ISIC_LESIONS,
    ISIC_TRUTH,
    METADATA,
    read_listing,
)


def facts(images):
    return [(i.image_id, i.lesion_id, i.label) for i in images]


def move_images(folder, target):
    target.mkdir(exist_ok=True)
    for name in IMAGE_FOLDERS:
        for path in (folder / name).iterdir():
            path.rename(target / path.name)
        (folder / name).rmdir()


@pytest.mark.parametrize("place", [".", "images", "all of them"])
def test_one_flat_folder(folder, place):
    expected = facts(read_index(folder))
    move_images(folder, folder / place)
    masks = folder / "HAM10000_segmentations_lesion_tschandl"
    masks.mkdir()
    Image.new("L", (4, 4)).save(masks / "ISIC_00_segmentation.png")
    images = read_index(folder)
    assert facts(images) == expected
    assert all(image.path.parent.samefile(folder / place) for image in images)
    assert read_listing(folder).layout == "flat"


def test_suffixes_other_than_jpg(folder):
    for name, suffix in [("ISIC_00", ".png"), ("ISIC_02", ".JPG"), ("ISIC_04", ".jpeg")]:
        path = folder / IMAGE_FOLDERS[0] / f"{name}.jpg"
        path.rename(path.with_suffix(suffix))
    found = {image.path.suffix for image in read_index(folder)}
    assert found == {".jpg", ".png", ".JPG", ".jpeg"}


def test_the_eight_columns_of_the_official_file(folder):
    expected = facts(read_index(folder))
    path = folder / METADATA
    lines = path.read_text().splitlines()
    path.write_text("\n".join([f"{lines[0]},dataset", *(f"{x},rosendahl" for x in lines[1:])]))
    assert facts(read_index(folder)) == expected


@pytest.fixture
def isic(folder):
    """The folder as the ISIC 2018 challenge serves it."""
    images = read_index(folder)
    move_images(folder, folder / ISIC_IMAGES)
    (folder / METADATA).unlink()
    truth = folder / ISIC_TRUTH.removesuffix(".csv") / ISIC_TRUTH
    truth.parent.mkdir()
    with truth.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("image", *ISIC_CLASSES))
        for image in images:
            dx = CLASSES[image.label].upper()
            writer.writerow((image.image_id, *(str(float(name == dx)) for name in ISIC_CLASSES)))
    with (folder / ISIC_LESIONS).open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("image", "lesion_id", "diagnosis_confirm_type"))
        writer.writerows((i.image_id, i.lesion_id, "histopathology") for i in images[::-1])
    return folder, truth, images


def test_isic_2018_task_3(isic):
    folder, truth, images = isic
    assert facts(read_index(folder)) == facts(images)
    truth.rename(folder / ISIC_TRUTH)  # unpacked without its folder
    assert facts(read_index(folder)) == facts(images)


def edit(path, old, new):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


@pytest.mark.parametrize(
    ("new", "message"),
    [
        ("0.0,0.0,0.0,0.0,0.0,0.0,0.0", "line 2: one class must have 1.0"),
        ("1.0,0.0,0.0,1.0,0.0,0.0,0.0", "line 2: one class must have 1.0"),
        ("0.0,0.0,0.0,0.7,0.3,0.0,0.0", "line 2: one class must have 1.0"),
        ("0.0,0.0,0.0,1.0,0.0,0.0,", "line 2: VASC is empty"),
    ],
)
def test_defects_of_the_ground_truth_name_the_line(isic, new, message):
    folder, truth, _ = isic
    edit(truth, "0.0,0.0,0.0,1.0,0.0,0.0,0.0", new)
    with pytest.raises(ValueError, match=message):
        read_index(folder)


def test_archives_unpacked_into_a_folder_of_their_name(isic):
    folder, _, images = isic
    (folder / ISIC_IMAGES).rename(folder / "inner")
    (folder / ISIC_IMAGES).mkdir()
    (folder / "inner").rename(folder / ISIC_IMAGES / ISIC_IMAGES)
    assert facts(read_index(folder)) == facts(images)


def test_defects_of_the_lesion_groupings(isic):
    folder, _, images = isic
    groupings = folder / ISIC_LESIONS
    whole = groupings.read_text()
    edit(groupings, "ISIC_03,", "ISIC_99,")
    with pytest.raises(ValueError, match=rf"line 5: {ISIC_LESIONS} does not list the .* ISIC_03"):
        read_index(folder)
    groupings.write_text(f"{whole}ISIC_03,HAM_07,x\n")
    with pytest.raises(ValueError, match="line 72: image ISIC_03 has another lesion further up"):
        read_index(folder)
    groupings.unlink()
    with pytest.raises(FileNotFoundError, match=f"no {ISIC_LESIONS} in .* one lesion"):
        read_index(folder)
    assert len(images) == 70


def test_an_image_with_two_files_is_refused(folder):
    first = folder / IMAGE_FOLDERS[0] / "ISIC_00.jpg"
    (folder / IMAGE_FOLDERS[1] / "ISIC_00.png").write_bytes(first.read_bytes())
    with pytest.raises(ValueError, match=r"image ISIC_00 has two files, .*\.jpg and .*\.png"):
        read_index(folder)


def test_a_folder_of_another_kind_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=f"no {METADATA} and no {ISIC_TRUTH} in"):
        read_index(tmp_path)
