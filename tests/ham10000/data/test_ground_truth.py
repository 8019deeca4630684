"""Tables of test images that are in no split, and their folders."""

import re
import shutil

import pytest
from PIL import Image

from examples.ham10000.data.ground_truth import read_ground_truth
from examples.ham10000.data.index import CLASSES, read_index
from examples.ham10000.data.layouts import LESION_MASKS
from tests.ham10000.challenge import COLUMNS, MISSING, write_images, write_metadata, write_truth


@pytest.fixture
def test_set(folder, tmp_path):
    """Two images of each class and one without a file: the folder, and the class of each id."""
    pictures = {dx: [] for dx in CLASSES}
    for image in read_index(folder):
        pictures[CLASSES[image.label]].append(image.path)
    root = tmp_path / "test"
    return root, write_images(root, {dx: paths[:2] for dx, paths in pictures.items()})


@pytest.fixture
def refused(test_set, tmp_path):
    """The message for a table of these lines."""

    def message(*lines: str, kind: type[Exception] = ValueError) -> str:
        (tmp_path / "truth.csv").write_text("".join(line + "\n" for line in lines))
        with pytest.raises(kind) as caught:
            read_ground_truth(tmp_path / "truth.csv", test_set[0])
        return str(caught.value)

    return message


def found(truth):
    return {image.image_id: CLASSES[image.label] for image in truth.images}


@pytest.mark.parametrize(("one", "zero"), [("1.0", "0.0"), ("1", "0"), ("1.00", "0.00")])
@pytest.mark.parametrize("suffixes", [("",), ("", ".jpg", ".JPG", ".Png", ".jpeg")])
def test_the_table_of_the_challenge(test_set, tmp_path, one, zero, suffixes):
    root, classes = test_set
    named = [(n + suffixes[k % len(suffixes)], dx) for k, (n, dx) in enumerate(classes.items())]
    write_truth(tmp_path / "truth.csv", named, one, zero)
    truth = read_ground_truth(tmp_path / "truth.csv", root)
    assert truth.missing == [MISSING]
    assert found(truth) == {name: dx for name, dx in classes.items() if name != MISSING}
    assert {image.image_id: image.path for image in truth.images} == {
        path.stem: path for path in root.rglob("*.*")
    }
    assert not truth.has_lesions
    assert len({image.lesion_id for image in truth.images}) == len(truth.images) == 14
    assert truth.ignored == 0


@pytest.mark.parametrize("tab", [False, True])
@pytest.mark.parametrize("suffix", ["", ".jpg"])
def test_the_table_of_the_dataverse_names_lesions(test_set, tmp_path, suffix, tab):
    root, classes = test_set
    named = [(name + suffix, dx) for name, dx in classes.items()]
    write_metadata(tmp_path / "truth.csv", named, lesions=2)
    if tab:
        text = (tmp_path / "truth.csv").read_text()
        text = re.sub(r"[^,\n]+", r'"\g<0>"', text)
        (tmp_path / "truth.csv").write_text(text.replace(",", "\t"))
    truth = read_ground_truth(tmp_path / "truth.csv", root)
    assert truth.has_lesions
    assert found(truth) == {name: dx for name, dx in classes.items() if name != MISSING}
    lesions = [image.lesion_id for image in truth.images]
    assert lesions == [f"T_{dx}_{k}" for k, dx in enumerate(CLASSES) for _ in range(2)]


def test_a_table_of_ids_and_diagnoses_names_none(test_set, tmp_path):
    root, classes = test_set
    lines = "".join(f"{name},{dx}\n" for name, dx in classes.items())
    (tmp_path / "truth.csv").write_text(f"image_id,dx\n{lines}")
    truth = read_ground_truth(tmp_path / "truth.csv", root)
    assert not truth.has_lesions
    assert found(truth) == {name: dx for name, dx in classes.items() if name != MISSING}


def test_other_files_are_ignored_and_counted(test_set, folder, tmp_path):
    root, classes = test_set
    write_truth(tmp_path / "truth.csv", classes.items())
    shutil.copytree(folder, root / "training")  # 70 images
    name = next(iter(classes))
    for place in (root / LESION_MASKS, root / "deep" / "Segmentations"):
        place.mkdir(parents=True)
        Image.new("L", (20, 15)).save(place / f"{name}.png")
        Image.new("L", (20, 15)).save(place / f"{name}_segmentation.png")
    (root / "notes.txt").write_text("no image")
    (root / f"._{name}.jpg").write_bytes(b"what macOS puts beside a file")
    truth = read_ground_truth(tmp_path / "truth.csv", root)
    assert len(truth.images) == 14
    assert truth.ignored == 74


def test_more_than_one_missing_image_is_an_error(test_set, tmp_path):
    root, classes = test_set
    write_truth(tmp_path / "truth.csv", classes.items())
    first, *_ = sorted(path for path in root.rglob("*.*"))
    first.unlink()
    with pytest.raises(FileNotFoundError) as caught:
        read_ground_truth(tmp_path / "truth.csv", root)
    for words in (f"2 of the 15 images of {tmp_path / 'truth.csv'} are not in {root}: ", MISSING):
        assert words in str(caught.value)
    assert first.stem in str(caught.value)
    assert re.search(r"It has images: \d in .*, such as ISIC_\d+\.\w+\. Give", str(caught.value))
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match=r"15 of the 15 .*, \.\.\.\. It has no images\."):
        read_ground_truth(tmp_path / "truth.csv", tmp_path / "empty")


def test_an_image_with_two_files(test_set, tmp_path):
    root, classes = test_set
    write_truth(tmp_path / "truth.csv", classes.items())
    path = next(root.rglob("*.JPG"))
    other = next(root.rglob("*.jpg"))
    (root / "again").mkdir()
    shutil.copy(other, root / "again" / f"{path.stem}.jpg")
    with pytest.raises(ValueError, match=f"image {path.stem} has two files, .*: remove one"):
        read_ground_truth(tmp_path / "truth.csv", root)


def test_a_class_without_images(test_set, tmp_path):
    root, classes = test_set
    kept = [(name, dx) for name, dx in classes.items() if dx not in ("df", "vasc")]
    write_truth(tmp_path / "truth.csv", kept)
    with pytest.raises(ValueError, match=r"of the 10 images .* is of the class\(es\) DF, VASC: "):
        read_ground_truth(tmp_path / "truth.csv", root)


def test_other_tables_are_refused_by_what_they_look_like(refused):
    zeros = ",0.0" * 7
    for header in (
        "image,MEL,NV,BCC,AK,BKL,DF,VASC,SCC,UNK",
        "image,MEL,NV,BCC,AK,BKL,DF,VASC,SCC,UNK,score_weight,validation_weight",
        f"{','.join(COLUMNS)},SCC,UNK",
    ):
        row = "a,1.0" + ",0.0" * (header.count(",") - 1)
        message = refused(header, row)
        assert "truth.csv looks like ISIC 2019 (" in message
        assert "SCC, UNK), whose classes are others, and has the columns image, MEL" in message
    message = refused("image_name,benign_malignant,target", "a,benign,0")
    assert "truth.csv has the columns image_name, benign_malignant, target. Known are" in message
    assert "image, MEL, NV, BCC, AKIEC, BKL, DF, VASC, and of the metadata: lesion_id" in message
    assert "ISIC 2019" not in message
    assert "has no rows" in refused(",".join(COLUMNS))
    assert "it has nothing" in refused()
    for row in (f"a{zeros}", "a,0.6,0.4,0,0,0,0,0", f"a,1.0,1.0{zeros[:-8]}", f"a,yes{zeros[:-4]}"):
        assert "line 2: one class must have 1.0 and the others 0.0" in refused(
            ",".join(COLUMNS), row
        )


def test_rows_that_contradict_each_other(refused):
    head, one = ",".join(COLUMNS), ",1.0,0.0,0.0,0.0,0.0,0.0,0.0"
    assert "line 3: image a stands there twice" in refused(head, f"a.jpg{one}", f"a{one}")
    assert "unknown diagnosis 'scc'" in refused("image_id,dx", "a,scc")
    head = "lesion_id,image_id,dx"
    assert "line 3: lesion l has another diagnosis" in refused(head, "l,a,nv", "l,b,mel")
    assert "line 2: lesion_id is empty" in refused(head, ",a,nv")


def test_what_is_not_there(test_set, tmp_path):
    root, classes = test_set
    write_truth(tmp_path / "truth.csv", classes.items())
    for place in (tmp_path / "no.csv", tmp_path):
        with pytest.raises(FileNotFoundError, match=f"--ground-truth {place} is no file"):
            read_ground_truth(place, root)
    with pytest.raises(FileNotFoundError, match=f"no folder {tmp_path / 'no'}: give that of"):
        read_ground_truth(tmp_path / "truth.csv", tmp_path / "no")


def test_utf_16_is_said(test_set, tmp_path):
    (tmp_path / "truth.csv").write_text(",".join(COLUMNS), encoding="utf-16")
    with pytest.raises(ValueError, match="is not UTF-8"):
        read_ground_truth(tmp_path / "truth.csv", test_set[0])
