"""What of a run is read, and runs that cannot be compared."""

import json
import re
import shutil

import pytest

from examples.ham10000.cli import main
from examples.ham10000.paper.compare import read_runs
from tests.ham10000.comparison.by_hand import write_run


def test_other_test_images(case, pair, tmp_path):
    truth, guessed, _ = case
    renamed = [(f"other_{i}" if n < 12 else i, *rest) for n, (i, *rest) in enumerate(truth)]
    other = write_run(tmp_path / "other", renamed, guessed["first"], seed=3)
    number = len(truth)
    message = (
        rf"first and .*other have other test images: 12 of {number} are only in the first \(lesion "
        rf"split, seed 0\), 12 of {number} only in the second \(lesion split, seed 3\)"
    )
    with pytest.raises(ValueError, match=message):
        read_runs([pair[0], other])
    split = [(i, f"x{lesion}" if n < 3 else lesion, c) for n, (i, lesion, c) in enumerate(truth)]
    other = write_run(tmp_path / "lesions", split, guessed["first"])
    with pytest.raises(ValueError, match=rf"another lesion or diagnosis for 3 of {number} test"):
        read_runs([pair[0], other])
    other = write_run(tmp_path / "files", truth, guessed["first"], digest="bad")
    with pytest.raises(ValueError, match="files were tested on other files of the same images"):
        read_runs([pair[0], other])


def test_runs_that_cannot_be_a_pair(pair, tmp_path, capsys):
    with pytest.raises(ValueError, match="at least two runs"):
        read_runs(pair[:1])
    (tmp_path / "link").symlink_to(pair[0])
    with pytest.raises(ValueError, match=r"first and .*link are the same run"):
        read_runs([*pair, tmp_path / "link"])
    assert main(["compare", str(pair[0]), str(tmp_path / "nowhere")]) == 2
    assert "no run in" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["test.csv", "test.json"])
def test_an_unfinished_run(pair, name):
    (pair[1] / name).unlink()
    with pytest.raises(FileNotFoundError, match=rf"alike is not finished, there is no .*{name}"):
        read_runs(pair)


def edit(line, column, value):
    """A change of one cell of a CSV file."""

    def change(text):
        rows = [row.split(",") for row in text.splitlines()]
        rows[line][column] = value
        return "\n".join(map(",".join, rows))

    return change


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("config.json", lambda t: t.replace('"images_sha256"', '"x"'), "lacks 'images_sha256'"),
        ("config.json", lambda t: t[:-9], "config.json is damaged"),
        (
            "config.json",
            lambda t: re.sub('"parameters": [^,}]*', '"parameters": null', t),
            "images_sha256 or parameters",
        ),
        ("test.json", lambda t: t[:-9], "test.json is damaged"),
        ("test.json", lambda t: re.sub('"data": "[^"]*"', '"data": 5', t), "damaged: data is 5"),
        ("test.json", lambda t: "[]", "test.json is damaged"),
        ("test.json", lambda t: t.replace('"data"', '"x"'), "test.json is damaged: 'data'"),
        ("test.csv", lambda t: t.replace("BCC", "X", 1), "test.csv lacks the column.*BCC"),
        ("test.csv", edit(3, 2, "half"), "test.csv, line 4: .*'half'"),
        ("test.csv", edit(3, 2, "7"), "test.csv or split.csv beside it is damaged: row"),
        ("test.csv", edit(3, 2, "nan"), "test.csv or split.csv beside it is damaged: row"),
        ("test.csv", edit(3, 0, "ISIC_0"), "1 of the .* are missing, and 1 others are in it"),
        ("test.csv", lambda t: t + t.splitlines()[-1], "test.csv, line .* stands there twice"),
        ("split.csv", lambda t: t + t.splitlines()[-1], "split.csv, line .* stands there twice"),
        ("split.csv", edit(3, 2, "wart"), "split.csv, line 4: unknown diagnosis 'wart'"),
        ("split.csv", lambda t: t.replace(",test", ",val"), "split.csv .* has no test images"),
    ],
)
def test_damaged_files_are_named(pair, name, change, message):
    file = pair[1] / name
    file.write_text(change(file.read_text()))
    with pytest.raises(ValueError, match=f"alike.*{message}"):
        read_runs(pair)


def test_figures_of_another_test(case, pair):
    shutil.copy(case[2]["better"] / "test.json", pair[1])
    with pytest.raises(ValueError, match=r"test.csv and .*test.json have other figures"):
        read_runs(pair)


def test_no_split_file(pair):
    (pair[1] / "split.csv").unlink()
    with pytest.raises(FileNotFoundError, match=r"no .*split.csv"):
        read_runs(pair)


def test_lesions_are_joined_by_the_runs_own_table(case, pair):
    """Its copy counts, not the file that was given; runs with other tables are no pair."""
    tables = [folder / "same_lesion.csv" for folder in pair]
    for folder in pair:
        config = json.loads((folder / "config.json").read_text())
        config["options"]["same_lesion"] = "/gone.csv"
        (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(FileNotFoundError, match=r"no table .*first/same_lesion.csv"):
        read_runs(pair)
    (nevus, lesion), (other, _), *_ = ((i, n) for i, n, label in case[0] if label == 5)
    header, trained = "image_id_1,image_id_2\n", f"{nevus},ISIC_9999\n"
    for table in tables:
        table.write_text(f"{header}{trained}ISIC_left,ISIC_out\n")
    run = read_runs(pair)[0]
    members = sum(of_image == lesion for _, of_image, _ in case[0])
    assert run.leak == pytest.approx(members / len(case[0]))
    assert run.lesions[run.images.index(nevus)] == min(lesion, "other")
    tables[1].write_text(f"{header}{nevus},{other}\n{trained}")
    with pytest.raises(ValueError, match=r"another lesion .* with the same --same-lesion\?"):
        read_runs(pair)


def test_images_that_were_left_out_join_lesions_too(case, pair):
    (nevus, lesion), (other, alone), *_ = ((i, n) for i, n, label in case[0] if label == 5)
    assert lesion != alone
    for folder in pair:
        config = json.loads((folder / "config.json").read_text())
        config["options"]["same_lesion"] = "/gone.csv"
        (folder / "config.json").write_text(json.dumps(config))
        (folder / "same_lesion.csv").write_text(f"image_id_1,image_id_2\nISIC_bad,{other}\n")
        (folder / "left_out.csv").write_text("image_id,problem\nISIC_bad,missing\n")
    assert len(set(read_runs(pair)[0].lesions)) == len({name for _, name, _ in case[0]})
    for folder in pair:
        text = f"image_id,lesion_id,problem\nISIC_bad,{lesion},missing\n"
        (folder / "left_out.csv").write_text(text)
    run = read_runs(pair)[0]
    of = dict(zip(run.images, run.lesions, strict=True))
    assert of[nevus] == of[other] == min(lesion, alone)


def test_the_shipped_pairs_are_one_lesion_in_every_run(case, tmp_path):
    """Whatever its split was made with."""
    truth = [("ISIC_0033421", "z1", 5), ("ISIC_0033481", "z2", 5), *case[0]]
    runs = [write_run(tmp_path / n, truth, [5, 5, *case[1][n]]) for n in ("first", "alike")]
    for run in read_runs(runs):
        assert run.lesions[run.images.index("ISIC_0033481")] == "z1"
        assert run.summary["lesions"] == len({lesion for _, lesion, _ in truth}) - 1
