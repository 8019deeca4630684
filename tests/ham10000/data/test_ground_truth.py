"""Tables of test images that are in no split, and their folders."""

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
    paths = [image.path for image in read_index(folder)]  # ten of each class in turn
    pictures = {dx: paths[10 * label :][:2] for label, dx in enumerate(CLASSES)}
    return tmp_path / "test", write_images(tmp_path / "test", pictures)


@pytest.fixture
def file(test_set, tmp_path):
    write_truth(tmp_path / "truth.csv", test_set[1].items())
    return tmp_path / "truth.csv"


def found(truth):
    """The class of every id, with the one that is missing."""
    assert truth.missing == [MISSING]
    return {image.image_id: CLASSES[image.label] for image in truth.images} | {MISSING: "nv"}


@pytest.mark.parametrize(
    ("one", "zero", "suffixes"),
    [
        ("1.0", "0.0", [""]),
        ("1", "0", ["", ".jpg", ".JPG", ".Png", ".jpeg"]),
        ("1.00", "0.00", [".jpg"]),
    ],
)
def test_the_table_of_the_challenge(test_set, file, one, zero, suffixes):
    root, classes = test_set
    named = [(n + suffixes[k % len(suffixes)], dx) for k, (n, dx) in enumerate(classes.items())]
    write_truth(file, named, one, zero)
    truth = read_ground_truth(file, root)
    assert found(truth) == classes
    assert {image.image_id: image.path for image in truth.images} == {
        path.stem: path for path in root.rglob("*.*")
    }
    assert (truth.has_lesions, truth.ignored) == (False, 0)
    assert len({image.lesion_id for image in truth.images}) == len(truth.images) == 14


def test_the_table_of_the_dataverse_names_lesions_unless_they_are_left_out(test_set, file):
    root, classes = test_set
    write_metadata(file, [(f"{name}.jpg", dx) for name, dx in classes.items()], lesions=2)
    table = file.read_text().replace(",", "\t")
    for text, has_lesions in [(table, True), (table.replace("lesion_id", "lesion", 1), False)]:
        file.write_text(text)
        truth = read_ground_truth(file, root)
        assert truth.has_lesions == has_lesions
        assert found(truth) == classes
        lesions = [f"T_{dx}_{k}" for k, dx in enumerate(CLASSES) for _ in range(2)]
        expected = lesions if has_lesions else [image.image_id for image in truth.images]
        assert [image.lesion_id for image in truth.images] == expected


def test_other_files_are_ignored_and_counted(test_set, folder, file):
    root, classes = test_set
    shutil.copytree(folder, root / "training")  # 70 images
    name = next(iter(classes))
    for place in (root / LESION_MASKS, root / "deep" / "Segmentations"):
        place.mkdir(parents=True)
        Image.new("L", (20, 15)).save(place / f"{name}.png")
        Image.new("L", (20, 15)).save(place / f"{name}_segmentation.png")
    (root / "notes.txt").write_text("no image")
    (root / f"._{name}.jpg").write_bytes(b"what macOS puts beside a file")
    truth = read_ground_truth(file, root)
    assert (len(truth.images), truth.ignored) == (14, 74)


def test_more_than_one_missing_image_is_an_error(test_set, file, tmp_path):
    root, _ = test_set
    gone = min(root.rglob("*.*"))
    gone.unlink()
    listed = f"2 of the 15 images of {file} are not in {root}: {gone.stem}, {MISSING}. "
    with pytest.raises(FileNotFoundError, match=rf"{listed}It has images: \d in .*\. Give the "):
        read_ground_truth(file, root)
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match=r"15 of the 15 .* and 10 more\. It has no im"):
        read_ground_truth(file, tmp_path / "empty")


HEAD, ISIC_2019 = ",".join(COLUMNS), "image,MEL,NV,BCC,AK,BKL,DF,VASC,SCC,UNK"
LOOKS = r"truth\.csv looks like ISIC 2019 \(.*SCC, UNK\), whose classes are others, and has the col"


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([ISIC_2019, "a,1.0" + 8 * ",0.0"], LOOKS),
        ([f"{ISIC_2019},score_weight,validation_weight", "a,1.0" + 10 * ",0.0"], LOOKS),
        ([f"{HEAD},SCC,UNK", "a,1.0" + 8 * ",0.0"], LOOKS),
        (["image_name,target", "a,0"], r"truth\.csv has the columns image_name, target\. Known are "
         "those of ISIC 2018 Task 3: image, MEL, .*, and of the metadata: lesion_id, image_id, dx"),
        ([HEAD], "has no rows"),
        ([], "it has nothing"),
        ([HEAD, *(f"ISIC_{34524 + k:07},1" + 6 * ",0" for k in range(2))],  # both of MEL
         r"of the 2 images of .* none is of the class\(es\) AKIEC, BCC, BKL, DF, NV, VASC: "),
        ([HEAD, "a,0.6,0.4,0,0,0,0,0"], r"line 2: one class must have 1\.0 and the others 0\.0"),
        ([HEAD, "a.jpg,1" + 6 * ",0", "a,1" + 6 * ",0"], "line 3: image a stands there twice"),
        (["image_id,dx", "a,scc"], "unknown diagnosis 'scc'"),
        (["lesion_id,image_id,dx", "l,a,nv", "l,b,mel"], "line 3: lesion l has another diagnosis"),
        (["lesion_id,image_id,dx", ",a,nv"], "line 2: lesion_id is empty"),
    ],
)  # fmt: skip
def test_other_tables_are_refused(test_set, file, lines, message):
    file.write_text("".join(f"{line}\n" for line in lines))
    with pytest.raises(ValueError, match=message):
        read_ground_truth(file, test_set[0])


def test_what_is_not_there_or_no_text(test_set, file, tmp_path):
    for place in (tmp_path / "no.csv", tmp_path):
        with pytest.raises(FileNotFoundError, match=f"--ground-truth {place} is no file"):
            read_ground_truth(place, test_set[0])
    with pytest.raises(FileNotFoundError, match=f"no folder {tmp_path / 'no'}: give that of"):
        read_ground_truth(file, tmp_path / "no")
    file.write_text(HEAD, encoding="utf-16")
    with pytest.raises(ValueError, match="is not UTF-8"):
        read_ground_truth(file, test_set[0])
