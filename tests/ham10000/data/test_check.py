"""Every defect is found, listed, and weighed rightly."""

import re

import pytest

from examples.ham10000.data.check import check
from examples.ham10000.data.layouts import IMAGE_FOLDERS, METADATA
from tests.ham10000.data.test_same_lesion import shipped


def test_the_real_folder(ham10000, command):
    """Its two pairs of identical images are those of its README; counts are the published ones."""
    printed = command(0, "check", "--data", ham10000)
    assert (
        "akiec 327 327 228 228 bcc 514 514 327 327 bkl 1099 1099 727 727 df 115 115 73 73 mel 1113 "
        "1113 614 614 nv 6705 6705 5403 5403 vasc 142 142 98 98 all 10015 10015 7470 7470 unknown"
    ) in " ".join(printed.split())
    for pair in ("ISIC_0029861 = ISIC_0024366", "ISIC_0029938 = ISIC_0024777"):
        assert f"{pair} (one lesion)" in printed
    assert f"{'images of one lesion with two lesion_ids':44}    18\n" in printed
    assert all(f"{first} = {second} (HAM_" in printed for first, second in shipped())
    assert "\n\nusable for training\n" in printed
    assert not any(word in printed for word in ("differs", "fatal", "NOT"))


def test_a_sound_folder_that_is_not_the_published_one(folder):
    report = check(folder)
    assert report.usable
    assert not any(report.findings.values())
    assert "akiec         10        327       10        228  differs" in str(report)


EXTRA, SAME = "files that are not in the metadata", "byte-identical images"
DEFECTS = {  # what becomes of a file, or a further row; the finding, and what is said
    ("ISIC_00.jpg", None): ("missing images", "ISIC_00"),
    ("ISIC_18.jpg", "nowhere"): ("missing images", "ISIC_18.jpg"),  # a link
    ("ISIC_02.jpg", 0): ("unreadable images", "ISIC_02.jpg"),
    ("ISIC_04.jpg", -40): ("truncated images", "ISIC_04.jpg"),
    ("ISIC_10.jpg", "ISIC_12.jpg"): (SAME, "= ISIC_12 (SEVERAL LESIONS)"),
    ("ISIC_99.jpg", "ISIC_14.jpg"): (EXTRA, "ISIC_99.jpg"),
    ("ISIC_16.png", "ISIC_16.jpg"): ("images with two files", "image ISIC_16 has two files"),
    "HAM_06,ISIC_06,akiec,": ("ids that stand twice", ": image ISIC_06"),
    "HAM_00,ISIC_77,bcc,": ("lesions with two diagnoses", ": lesion HAM_00"),
    "HAM_88,ISIC_88,naevus,": ("unknown diagnoses", ": unknown diagnosis 'naevus'"),
}


def damage(folder, defect):
    if isinstance(defect, str):
        with (folder / METADATA).open("a") as table:
            table.write(f"{defect}\n")
        return
    file, source = (folder / IMAGE_FOLDERS[0] / defect[0]), defect[1]
    content = file.read_bytes() if file.exists() else b""
    file.unlink(missing_ok=True)
    if isinstance(source, int):
        file.write_bytes(content[:source])
    elif source is not None:
        file.symlink_to(file.with_name(source))


@pytest.mark.parametrize("defect", DEFECTS)
def test_each_defect_alone(folder, defect, command):
    damage(folder, defect)
    name, text = DEFECTS[defect]
    harmless = name in (EXTRA, SAME)
    printed = command(int(not harmless), "check", "--data", folder)
    ((found, item),) = re.findall(r"\n(.{44} {5}[1-9].*)\n    (.*)", printed)
    assert found == f"{name:44}     1" + ("" if harmless else " (fatal)")
    assert text in item
    assert ("\n\nusable for training\n" if harmless else "\nNOT usable for training\n") in printed


def test_of_many_items_some_are_shown_and_too_small_a_class_is_named(folder):
    text = (folder / METADATA).read_text()
    (folder / METADATA).write_text(re.sub("bcc|bkl|mel", "x", text))
    report = check(folder)
    assert f"{'unknown diagnoses':44}    30 (fatal)\n" in str(report)
    assert str(report).count("unknown diagnosis 'x'") == 20
    assert "\n    ... and 10 more\n" in str(report)
    assert "class bcc has 0 images" in report.findings["too little for a split"][0]


def test_metadata_that_cannot_be_read_are_an_error(folder, command):
    (folder / METADATA).write_text("a,b\n1,2\n")
    assert "NOT usable for training: " in command(1, "check", "--data", folder)
