"""Every defect is found, listed, and weighed rightly."""

import pytest

from examples.ham10000.cli import main
from examples.ham10000.data.check import check
from examples.ham10000.data.layouts import IMAGE_FOLDERS, METADATA
from tests.ham10000.data.test_same_lesion import shipped


def test_the_real_folder(ham10000, capsys):
    """Its two pairs of identical images are those of its README; counts are the published ones."""
    assert main(["check", "--data", str(ham10000)]) == 0
    printed = capsys.readouterr().out
    assert "all        10015      10015     7470       7470" in printed
    for pair in ("ISIC_0029861 = ISIC_0024366", "ISIC_0029938 = ISIC_0024777"):
        assert f"{pair} (one lesion)" in printed
    assert f"{'images of one lesion with two lesion_ids':44}    18\n" in printed
    assert all(f"{first} = {second} (HAM_" in printed for first, second in shipped())
    assert printed.endswith("\n\nusable for training\n")
    assert not any(word in printed for word in ("differs", "fatal", "NOT"))


def test_a_sound_folder_that_is_not_the_published_one(folder):
    report = check(folder)
    assert report.usable
    assert not any(report.findings.values())
    assert "akiec         10        327       10        228  differs" in str(report)


def damage(folder, kind):
    """Put something odd into a folder; what is no kind is a row for the metadata."""
    part = folder / IMAGE_FOLDERS[0]
    if kind == "missing":
        (part / "ISIC_00.jpg").unlink()
    elif kind == "link to nothing":
        (part / "ISIC_18.jpg").unlink()
        (part / "ISIC_18.jpg").symlink_to(folder / "nowhere")
    elif kind == "empty":
        (part / "ISIC_02.jpg").write_bytes(b"")
    elif kind == "truncated":
        (part / "ISIC_04.jpg").write_bytes((part / "ISIC_04.jpg").read_bytes()[:-40])
    elif kind == "twin":
        (part / "ISIC_10.jpg").write_bytes((part / "ISIC_12.jpg").read_bytes())
    elif kind == "extra":
        (part / "ISIC_99.jpg").write_bytes((part / "ISIC_14.jpg").read_bytes())
    elif kind == "two files":
        (part / "ISIC_16.png").write_bytes((part / "ISIC_16.jpg").read_bytes())
    else:
        with (folder / METADATA).open("a") as file:
            file.write(f"{kind}\n")


DEFECTS = {
    "missing": ("missing images", "ISIC_00"),
    "link to nothing": ("missing images", "ISIC_18.jpg"),
    "empty": ("unreadable images", "ISIC_02.jpg"),
    "truncated": ("truncated images", "ISIC_04.jpg"),
    "twin": ("byte-identical images", "ISIC_10 = ISIC_12 (SEVERAL LESIONS)"),
    "extra": ("files that are not in the metadata", "ISIC_99.jpg"),
    "two files": ("images with two files", "ISIC_16"),
    "HAM_06,ISIC_06,akiec,": ("ids that stand twice", ": image ISIC_06"),
    "HAM_00,ISIC_77,bcc,": ("lesions with two diagnoses", ": lesion HAM_00"),
    "HAM_88,ISIC_88,naevus,": ("unknown diagnoses", ": unknown diagnosis 'naevus'"),
}


@pytest.mark.parametrize("kind", DEFECTS)
def test_each_defect_alone(folder, kind):
    damage(folder, kind)
    report, (name, text) = check(folder), DEFECTS[kind]
    (item,) = report.findings.pop(name)
    assert text in item
    assert not any(report.findings.values())
    report.findings[name] = [item]
    assert report.usable == (kind in ("twin", "extra"))


def test_all_defects_together(folder, capsys):
    for kind in DEFECTS:
        damage(folder, kind)
    assert main(["check", "--data", str(folder)]) == 1
    printed = capsys.readouterr().out
    for name, text in DEFECTS.values():
        assert f"\n{name:44}" in printed
        assert text in printed
    assert f"{'missing images':44}     2 (fatal)\n" in printed
    assert printed.endswith("\nNOT usable for training\n")


def test_a_class_without_enough_lesions_is_named(folder):
    lines = (folder / METADATA).read_text().splitlines()
    (folder / METADATA).write_text("\n".join(line for line in lines if "HAM_20" not in line))
    report = check(folder)
    assert "class bkl has 9 images" in report.findings["too little for a split"][0]
    assert not report.usable


def test_of_many_items_some_are_shown(folder):
    text = (folder / METADATA).read_text()
    (folder / METADATA).write_text(text.replace("bcc", "x").replace("bkl", "x").replace("mel", "x"))
    printed = str(check(folder))
    assert f"{'unknown diagnoses':44}    30 (fatal)\n" in printed
    assert printed.count("unknown diagnosis 'x'") == 20
    assert "\n    ... and 10 more\n" in printed


def test_metadata_that_cannot_be_read_are_an_error(folder, capsys):
    (folder / METADATA).write_text("a,b\n1,2\n")
    assert main(["check", "--data", str(folder)]) == 1
    assert "NOT usable for training: " in capsys.readouterr().out
