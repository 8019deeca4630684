"""Split files are written, read back, and held against the data."""

import csv
from collections import Counter

import pytest

from examples.ham10000.cli import main
from examples.ham10000.data.index import SHIPPED, read_index
from examples.ham10000.data.splits import by_image, by_lesion, read_split, write_split


@pytest.mark.parametrize(("protocol", "low", "high"), [("lesion", 0, 0), ("paper", 0.34, 0.40)])
def test_the_command_writes_the_papers_sizes_and_prints_the_leak(
    ham10000, tmp_path, capsys, protocol, low, high
):
    file = tmp_path / "split.csv"
    command = ["split", "--data", str(ham10000), "--protocol", protocol, "--out", str(file)]
    assert main(command) == 0
    printed = capsys.readouterr().out
    with file.open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert list(rows[0]) == ["image_id", "lesion_id", "dx", "split"]
    assert Counter(row["split"] for row in rows) == {"train": 8019, "val": 998, "test": 998}
    seen = {row["lesion_id"] for row in rows if row["split"] == "train"}
    leak = sum(row["lesion_id"] in seen for row in rows if row["split"] == "test") / 998
    assert low <= leak <= high
    assert f"is in train ({leak:.3f} by lesion_id alone)" in printed
    with SHIPPED.open(newline="") as stream:
        twins = dict(tuple(row.values()) for row in csv.DictReader(stream))
    ids = {row["image_id"]: row["lesion_id"] for row in rows}
    one = {ids[first]: ids[second] for first, second in twins.items()}
    seen = {one.get(lesion, lesion) for lesion in seen}
    tested = [one.get(row["lesion_id"], row["lesion_id"]) for row in rows if row["split"] == "test"]
    assert f"leak: {sum(lesion in seen for lesion in tested) / 998:.3f} of the test" in printed
    assert main(command) == 2
    assert "exists: name a new file" in capsys.readouterr().err
    images = read_index(ham10000)
    expected = {"lesion": by_lesion, "paper": by_image}[protocol](images, 0)
    assert read_split(file, images) == expected


def test_another_seed_is_another_split(folder, tmp_path):
    texts = []
    for seed in ("0", "1", "0"):
        file = tmp_path / f"{len(texts)}.csv"
        assert main(["split", "--data", str(folder), "--out", str(file), "--seed", seed]) == 0
        texts.append(file.read_text())
    assert texts[0] == texts[2] != texts[1]


@pytest.fixture
def split_file(folder, tmp_path):
    images = read_index(folder)
    file = tmp_path / "split.csv"
    write_split(file, images, by_lesion(images, 0))
    return file, images


def test_the_order_of_the_rows_is_free(split_file):
    file, images = split_file
    before = read_split(file, images)
    header, *rows = file.read_text().splitlines()
    file.write_text("\n".join([header, *rows[::-1]]))
    assert read_split(file, images) == before


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("ISIC_31,HAM_31,df,holdout", "line 33: unknown part 'holdout'; known are train, val, tes"),
        ("ISIC_30,HAM_30,df,train", "line 33: image ISIC_30 stands there twice"),
        ("ISIC_99,HAM_31,df,train", "line 33: image ISIC_99 is not in the data"),
        ("ISIC_31,HAM_30,df,train", "line 33: image ISIC_31 is HAM_30, df here and HAM_31, df in"),
        ("ISIC_31,HAM_31,nv,train", "line 33: image ISIC_31 is HAM_31, nv here and HAM_31, df in"),
        ("ISIC_31,HAM_31,df,", "line 33: split is empty"),
        ("", "no part for 1 of 70 images: ISIC_31"),
    ],
)
def test_files_that_do_not_fit_the_data_are_refused(split_file, row, message):
    file, images = split_file
    lines = file.read_text().splitlines()
    assert lines[32].startswith("ISIC_31,")
    lines[32:33] = [row] if row else []
    file.write_text("\n".join(lines))
    with pytest.raises(ValueError, match=message):
        read_split(file, images)


def test_a_file_may_list_some_images_where_that_is_asked_for(split_file):
    file, images = split_file
    before = read_split(file, images)
    lines = file.read_text().splitlines()
    dropped = lines.pop(32).split(",")[0]
    file.write_text("\n".join(lines))
    names = {part: [images[i].image_id for i in positions] for part, positions in before.items()}
    for part in names.values():
        part[:] = [name for name in part if name != dropped]
    after = read_split(file, images, complete=False)
    assert {part: [images[i].image_id for i in after[part]] for part in after} == names
    assert sum(map(len, after.values())) == 69


def test_a_file_that_is_not_there(folder, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no split file .*nowhere"):
        read_split(tmp_path / "nowhere.csv", read_index(folder))
