"""Every defect is found, listed, and weighed rightly."""

import pytest

from examples.ham10000.cli import main
from examples.ham10000.data.check import check
from examples.ham10000.data.layouts import IMAGE_FOLDERS, METADATA


def found(folder) -> dict[str, list[str]]:
    return {f.name: f.items for f in check(folder).findings if f.items}


def test_the_real_folder(ham10000, capsys):
    """Its two pairs of identical images are those of its README; counts are the published ones."""
    assert main(["check", "--data", str(ham10000)]) == 0
    printed = capsys.readouterr().out
    assert "all        10015      10015     7470       7470" in printed
    assert "differs" not in printed
    for pair in ("ISIC_0029861 = ISIC_0024366", "ISIC_0029938 = ISIC_0024777"):
        assert f"{pair} (one lesion)" in printed
    assert printed.endswith("usable for training\n")
    assert "NOT" not in printed


def test_a_sound_folder_that_is_not_the_published_one(folder):
    report = check(folder)
    assert report.usable
    assert report.images == dict.fromkeys(report.images, 10)
    assert "akiec         10        327       10        228  differs" in str(report)


def append(folder, *rows):
    with (folder / METADATA).open("a") as file:
        file.writelines(f"{row}\n" for row in rows)


def test_every_kind_of_defect_is_listed(folder, capsys):
    part = folder / IMAGE_FOLDERS[0]
    (part / "ISIC_00.jpg").unlink()
    (part / "ISIC_02.jpg").write_bytes(b"")
    whole = (part / "ISIC_04.jpg").read_bytes()
    (part / "ISIC_04.jpg").write_bytes(whole[: len(whole) - 40])
    (part / "ISIC_10.jpg").write_bytes((part / "ISIC_12.jpg").read_bytes())
    (part / "ISIC_99.jpg").write_bytes((part / "ISIC_14.jpg").read_bytes())
    (folder / IMAGE_FOLDERS[1] / "ISIC_16.png").write_bytes((part / "ISIC_16.jpg").read_bytes())
    append(folder, "HAM_06,ISIC_06,akiec,", "HAM_00,ISIC_77,bcc,", "HAM_88,ISIC_88,naevus,")
    items = found(folder)
    assert {name: len(texts) for name, texts in items.items()} == dict.fromkeys(items, 1)
    for name, text in {
        "missing images": "ISIC_00",
        "unreadable images": "ISIC_02.jpg",
        "truncated images": "ISIC_04.jpg",
        "byte-identical images": "ISIC_10 = ISIC_12 (SEVERAL LESIONS)",
        "files that are not in the metadata": "ISIC_99.jpg",
        "images with two files": "ISIC_16",
        "ids that stand twice": "line 72: image ISIC_06",
        "lesions with two diagnoses": "line 73: lesion HAM_00",
        "unknown diagnoses": "line 74: unknown diagnosis 'naevus'",
    }.items():
        assert text in items.pop(name)[0]
    assert items == {}
    assert main(["check", "--data", str(folder)]) == 1
    assert "NOT usable for training" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("damage", "usable"),
    [
        ("extra", True),
        ("twin", True),
        ("missing", False),
        ("empty", False),
        ("truncated", False),
        ("two files", False),
        ("HAM_06,ISIC_06,akiec,", False),
        ("HAM_00,ISIC_77,bcc,", False),
        ("HAM_88,ISIC_88,naevus,", False),
    ],
)
def test_what_is_only_odd_leaves_the_folder_usable(folder, damage, usable):
    part = folder / IMAGE_FOLDERS[0]
    path, other = part / "ISIC_14.jpg", part / "ISIC_16.jpg"
    if damage == "extra":
        (part / "ISIC_99.jpg").write_bytes(path.read_bytes())
    elif damage == "twin":
        other.write_bytes(path.read_bytes())
    elif damage == "missing":
        path.unlink()
    elif damage == "two files":
        path.with_suffix(".png").write_bytes(path.read_bytes())
    elif damage.startswith("HAM"):
        append(folder, damage)
    else:
        path.write_bytes(path.read_bytes()[: 0 if damage == "empty" else -40])
    assert check(folder).usable is usable


def test_a_class_without_enough_lesions_is_named(folder):
    lines = (folder / METADATA).read_text().splitlines()
    (folder / METADATA).write_text("\n".join(line for line in lines if "HAM_20" not in line))
    assert "class bkl has 9 images" in found(folder)["too little for a split"][0]
    assert not check(folder).usable


def test_metadata_that_cannot_be_read_are_an_error(folder, capsys):
    (folder / METADATA).write_text("a,b\n1,2\n")
    assert main(["check", "--data", str(folder)]) == 1
    assert "NOT usable for training: " in capsys.readouterr().out
