"""One data set in every form that it comes in."""

import csv
import shutil

import pytest
from PIL import Image

from examples.ham10000.cli import main
from examples.ham10000.data.check import check
from examples.ham10000.data.index import CLASSES, read_index
from examples.ham10000.data.layouts import (
    IMAGE_FOLDERS,
    ISIC_CLASSES,
    ISIC_LESIONS,
    ISIC_TRUTH,
    METADATA,
    read_listing,
)

ISIC_IMAGES = "ISIC2018_Task3_Training_Input"


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


@pytest.mark.parametrize(
    ("images", "masks", "named"),
    [
        ("images", "masks", "{}_segmentation.png"),
        ("Images/train", "Masks", "{}.PNG"),
        ("segmentation-of-lesions/photos", "segmentation-of-lesions/gt", "{}.png"),
        ("HAM10000_IMAGES_PART_1", "GroundTruth/deep", "{}_Mask.bmp"),
        ("ISIC2018_Task1-2_Training_Input", "ISIC2018_Task1_Training_GroundTruth", "{}_seg.gif"),
        ("all", "all", "{}_segmentation.png"),
    ],
)
def test_images_are_found_wherever_they_are_and_masks_are_none(folder, images, masks, named):
    expected = facts(read_index(folder))
    (folder / images).parent.mkdir(parents=True, exist_ok=True)
    move_images(folder, folder / images)
    (folder / masks).mkdir(parents=True, exist_ok=True)
    for name, _, label in expected:
        box = (label, 2, 12, 13)
        mask = Image.new("L", (20, 15))
        mask.paste(255, box)
        mask.save(folder / masks / named.format(name))
    assert facts(read_index(folder)) == expected
    assert {image.path.parent for image in read_index(folder)} == {folder / images}
    assert check(folder).usable


def test_kaggles_archive_has_every_image_twice(folder):
    expected = read_index(folder)
    for name in IMAGE_FOLDERS:
        shutil.copytree(folder / name, folder / "more" / name.lower())
    assert read_index(folder) == expected
    other = folder / "more" / IMAGE_FOLDERS[0].lower() / "ISIC_00.jpg"
    other.write_bytes(other.with_name("ISIC_02.jpg").read_bytes())
    with pytest.raises(ValueError, match=r"image ISIC_00 has two files, .*ISIC_00\.jpg: remove"):
        read_index(folder)


def test_the_tables_of_isic_under_other_names(isic):
    folder, truth, images = isic
    truth.rename(folder / f"{ISIC_TRUTH.upper().removesuffix('.CSV')}.tab")
    (folder / ISIC_LESIONS).rename(folder / ISIC_LESIONS.lower())
    assert facts(read_index(folder)) == facts(images)


def test_missing_images_are_told_with_what_there_is(folder, capsys):
    shutil.rmtree(folder / IMAGE_FOLDERS[1])
    (folder / "rest.zip").write_bytes(b"PK")
    with pytest.raises(FileNotFoundError) as error:
        read_index(folder)
    for text in (
        f"35 of 70 images are not in {folder / IMAGE_FOLDERS[0]}: ISIC_01, ISIC_03",
        "Are all archives unpacked there?",
        "Layout: HAM10000; images: 35 in",
        f"archives: 1 in {folder}, such as rest.zip",
    ):
        assert text in str(error.value)
    assert main(["check", "--data", str(folder)]) == 1
    assert str(error.value) in capsys.readouterr().out
    text = (folder / METADATA).read_text()
    (folder / METADATA).write_text(text.replace("ISIC_", "ISIC_00"))
    with pytest.raises(
        FileNotFoundError, match=r"look like ISIC_0000, files like ISIC_00\.jpg: re"
    ):
        read_index(folder)
    shutil.rmtree(folder / IMAGE_FOLDERS[0])
    with pytest.raises(FileNotFoundError, match=r"Unpack the archives .* no images; archives: 1"):
        read_index(folder)


def test_files_whose_names_differ_in_case_are_told(folder):
    file = folder / IMAGE_FOLDERS[1] / "ISIC_01.jpg"
    file.rename(file.with_name("isic_01.jpg"))
    with pytest.raises(FileNotFoundError, match="but for the case of letters: rename either"):
        read_index(folder)


def test_no_archives_are_asked_to_be_unpacked(folder):
    for name in IMAGE_FOLDERS:
        shutil.rmtree(folder / name)
    with pytest.raises(FileNotFoundError, match=r"Put the images there\. Layout"):
        read_index(folder)


def test_images_that_are_named_as_masks(folder):
    table = folder / METADATA
    table.write_text(table.read_text().replace("ISIC_01,", "ISIC_01_seg,"))
    file = folder / IMAGE_FOLDERS[1] / "ISIC_01.jpg"
    file.rename(file.with_name("ISIC_01_seg.jpg"))
    with pytest.raises(
        FileNotFoundError, match=r"are not in .*: ISIC_01_seg\. Files of these .*masks"
    ):
        read_index(folder)
