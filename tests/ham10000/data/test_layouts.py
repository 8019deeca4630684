"""One data set in every form that it comes in, and others that are told from it."""

import csv
import shutil

import pytest
from PIL import Image

from examples.ham10000.data.check import check
from examples.ham10000.data.index import CLASSES, read_index
from examples.ham10000.data.layouts import (
    IMAGE_FOLDERS,
    ISIC_LESIONS,
    ISIC_TRUTH,
    METADATA,
    read_listing,
)
from examples.ham10000.report.attention import read_masks
from tests.ham10000.challenge import write_truth

ISIC_IMAGES = "ISIC2018_Task3_Training_Input"


def facts(folder):
    return [(i.image_id, i.lesion_id, i.label) for i in read_index(folder)]


def move_images(folder, target):
    target.mkdir(exist_ok=True, parents=True)
    for name in IMAGE_FOLDERS:
        for path in (folder / name).iterdir():
            path.rename(target / path.name)
        (folder / name).rmdir()


def edit(path, old, new):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


@pytest.mark.parametrize(
    ("images", "masks", "named"),
    [
        ("images", "masks", "{}_lesion.png"),
        ("Images/train", "Masks", "{}.PNG"),
        ("segmentation-of-lesions/photos", "segmentation-of-lesions/gt", "{}.png"),
        ("HAM10000_IMAGES_PART_1", "GroundTruth/deep", "{}_Mask.bmp"),
        ("ISIC2018_Task1-2_Training_Input", "ISIC2018_Task1_Training_GroundTruth", "{}_seg.gif"),
        ("all of them", "all of them", "{}_segmentation.png"),
        (".", "HAM10000_segmentations_lesion_tschandl", "{}_segmentation.png"),
    ],
)
def test_images_are_found_wherever_they_are_and_masks_are_none(folder, images, masks, named):
    assert read_listing(folder).layout == "HAM10000"
    expected = facts(folder)
    move_images(folder, folder / images)
    (folder / masks).mkdir(parents=True, exist_ok=True)
    for name, _, label in expected:
        mask = Image.new("L", (20, 15))
        mask.paste(255, (label, 2, 12, 13))
        mask.save(folder / masks / named.format(name))
    assert facts(folder) == expected
    found = read_index(folder)
    assert {image.path.parent for image in found} == {folder / images}
    assert read_masks(folder, found, 32)[0] == list(range(70))
    assert read_listing(folder).layout == ("HAM10000" if "PART" in images else "flat")
    assert check(folder).usable


@pytest.fixture
def isic(folder):
    """The folder as the ISIC 2018 challenge serves it, its ground truth, and what is in it."""
    images = read_index(folder)
    move_images(folder, folder / ISIC_IMAGES)
    (folder / METADATA).unlink()
    truth = folder / ISIC_TRUTH.removesuffix(".csv") / ISIC_TRUTH
    truth.parent.mkdir()
    write_truth(truth, [(image.image_id, CLASSES[image.label]) for image in images])
    with (folder / ISIC_LESIONS).open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("image", "lesion_id", "diagnosis_confirm_type"))
        writer.writerows((i.image_id, i.lesion_id, "histopathology") for i in images[::-1])
    return folder, truth, [(i.image_id, i.lesion_id, i.label) for i in images]


def test_isic_2018_task_3(isic):
    folder, truth, expected = isic
    assert read_listing(folder).layout == "ISIC 2018 Task 3"
    assert facts(folder) == expected
    # Unpacked without its folder, under other names; the images in a folder within their folder.
    truth.rename(folder / f"{ISIC_TRUTH.upper().removesuffix('.CSV')}.tab")
    lesions = (folder / ISIC_LESIONS).rename(folder / ISIC_LESIONS.lower())
    (folder / ISIC_IMAGES).rename(folder / "inner")
    (folder / ISIC_IMAGES).mkdir()
    (folder / "inner").rename(folder / ISIC_IMAGES / ISIC_IMAGES)
    assert facts(folder) == expected
    lesions.unlink()
    with pytest.raises(FileNotFoundError, match=f"no {ISIC_LESIONS} in .* one lesion"):
        read_index(folder)


ONE_CLASS = "line 2: one class must have 1.0"


@pytest.mark.parametrize(
    ("table", "old", "new", "message"),
    [
        (ISIC_TRUTH, "1.0", "0.0", ONE_CLASS),
        (ISIC_TRUTH, "ISIC_00,0.0", "ISIC_00,1.0", ONE_CLASS),
        (ISIC_TRUTH, "1.0,0.0", "0.7,0.3", ONE_CLASS),
        (ISIC_TRUTH, "1.0", "yes", ONE_CLASS),
        (ISIC_TRUTH, "0.0\n", "\n", "line 2: VASC is empty"),
        (ISIC_LESIONS, "ISIC_03,", "ISIC_99,", rf"line 5: {ISIC_LESIONS} does not list .* ISIC_03"),
        (ISIC_LESIONS, "ISIC_03,HAM_03", "ISIC_04,HAM_03", "image ISIC_04 has another lesion furt"),
    ],
)
def test_defects_of_the_tables_of_isic(isic, table, old, new, message):
    folder, truth, _ = isic
    edit(truth if table == ISIC_TRUTH else folder / table, old, new)
    with pytest.raises(ValueError, match=message):
        read_index(folder)


def test_missing_images_are_told_with_what_there_is(folder, command):
    shutil.rmtree(folder / IMAGE_FOLDERS[1])
    (folder / "rest.zip").write_bytes(b"PK")
    printed = command(1, "check", "--data", folder)
    for text in (
        f"35 of 70 images are not in {folder / IMAGE_FOLDERS[0]}: ISIC_01, ISIC_03",
        "ISIC_09 and 30 more. Are all archives unpacked there?",
        "Layout: HAM10000; images: 35 in",
        f"archives: 1 in {folder}, such as rest.zip",
    ):
        assert text in printed
    shutil.rmtree(folder / IMAGE_FOLDERS[0])
    with pytest.raises(FileNotFoundError, match=r"Unpack the archives .* no images; archives: 1"):
        read_index(folder)
    (folder / "rest.zip").unlink()
    with pytest.raises(FileNotFoundError, match=r"Put the images there\. Layout"):
        read_index(folder)


@pytest.mark.parametrize(
    ("in_table", "file", "message"),
    [
        ("ISIC_01", "isic_01.jpg", "but for the case of letters: rename either"),
        ("ISIC_01_seg", "ISIC_01_seg.jpg", r"ISIC_01_seg\. Files of these names .* for masks"),
        (None, "ISIC_01.jpg", r"like ISIC_0000, files like ISIC_00\.jpg: rename"),  # all others
    ],
)
def test_files_that_are_missed_by_their_names(folder, in_table, file, message):
    table, path = folder / METADATA, folder / IMAGE_FOLDERS[1] / "ISIC_01.jpg"
    text = table.read_text()
    new = text.replace("ISIC_01,", f"{in_table},") if in_table else text.replace("ISIC_", "ISIC_00")
    table.write_text(new)
    path.rename(path.with_name(file))
    with pytest.raises(FileNotFoundError, match=message):
        read_index(folder)


ISIC_2018 = "image,MEL,NV,BCC,AKIEC,BKL,DF,VASC\nISIC_1,1,0,0,0,0,0,0\n"
ISIC_2019 = "image,MEL,NV,BCC,AK,BKL,DF,VASC,SCC,UNK\nISIC_1_downsampled,1,0,0,0,0,0,0,0,0\n"


@pytest.mark.parametrize(
    ("file", "content", "messages"),
    [
        (
            "ISIC_2019_Training_GroundTruth.csv",
            ISIC_2019,
            ["ISIC 2019", "eight classes", "AK and SCC", "_downsampled", "Training_Metadata.csv"],
        ),
        ("labels.tab", ISIC_2019.replace(",", "\t"), ["labels.tab is of ISIC 2019"]),
        ("ISIC2018_Task3_Test_GroundTruth.csv", ISIC_2018, ["the test part of ISIC 2018 Task 3"]),
        ("isic2018_task3_validation_groundtruth.csv", ISIC_2018, ["is the validation part of ISI"]),
        ("GroundTruth.csv", ISIC_2018, ["without lesion ids", f"put {METADATA} beside it"]),
        ("meta.csv", "image_id;lesion_id;dx;age\n", [f"of the metadata: call it {METADATA}"]),
        ("other.csv", "a,b\n1,2\n", ["It has images", "tables: other.csv (a, b)"]),
        ("x.csv", "\0\n", ["such as ISIC_1.jpg; other files: 1 (.csv)"]),
        ("hmnist_28_28_RGB.csv", "pixel0000,label\n", ["pixels of small copies"]),
        ("dermamnist_224.npz", "PK", ["dermamnist_224.npz has DermaMNIST, without lesion ids"]),
        ("all.NPZ", "PK", ["all.NPZ has arrays, without lesion ids: get HAM10000 with download"]),
        ("HAM10000_metadata.xlsx", "PK", ["is a workbook: save its table as"]),
        ("data-00000-of-00001.arrow", "ARROW1", ["Dataset.to_parquet"]),
        ("dataverse_files.zip", "PK", ["dataverse_files.zip is not unpacked", "archives: 1 in"]),
    ],
)
def test_what_is_recognised_and_what_to_do(tmp_path, command, file, content, messages):
    (tmp_path / "images").mkdir()
    Image.new("RGB", (20, 20), (200, 90, 90)).save(tmp_path / "images" / "ISIC_1.jpg")
    (tmp_path / file).write_text(content)
    said = command(1, "check", "--data", tmp_path)
    error = command(2, "split", "--data", tmp_path, "--out", tmp_path / "split.csv")
    found = f"It has images: 1 in {tmp_path / 'images'}, such as ISIC_1.jpg"
    for message in (f"no {METADATA} and no {ISIC_TRUTH} in {tmp_path}", found, *messages):
        assert message in said
        assert message in error
