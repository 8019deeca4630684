"""What of a run is read, and runs that cannot be compared."""

import json
import re
import shutil

import pytest

from examples.ham10000.cli import main
from examples.ham10000.paper.compare import read_runs
from tests.ham10000.paper.by_hand import write_run


def test_other_test_images(case, pair, tmp_path):
    truth, guessed, _ = case
    number = len(truth)
    renamed = [(f"other_{i}" if n < 12 else i, *rest) for n, (i, *rest) in enumerate(truth)]
    moved = [(i, f"x{lesion}" if n < 3 else lesion, c) for n, (i, lesion, c) in enumerate(truth)]
    for name, rows, options, message in (
        (
            "other",
            renamed,
            {"seed": 3},
            rf"first and .*other have other test images: 12 of {number} are only in the first "
            rf"\(lesion split, seed 0\), 12 of {number} only in the second \(lesion split, seed 3",
        ),
        ("lesions", moved, {}, rf"another lesion or diagnosis for 3 of {number} test"),
        ("files", truth, {"digest": "bad"}, "files were tested on other files of the same images"),
    ):
        other = write_run(tmp_path / name, rows, guessed["first"], **options)
        with pytest.raises(ValueError, match=message):
            read_runs([pair[0], other])


def test_runs_that_cannot_be_a_pair(pair, tmp_path, capsys):
    with pytest.raises(ValueError, match="at least two runs"):
        read_runs(pair[:1])
    (tmp_path / "link").symlink_to(pair[0])
    with pytest.raises(ValueError, match=r"first and .*link are the same run"):
        read_runs([*pair, tmp_path / "link"])
    assert main(["compare", str(pair[0]), str(tmp_path / "nowhere")]) == 2
    assert "no run in" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["test.csv", "test.json", "split.csv"])
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


def replaced(pattern, by):
    return lambda text: re.sub(pattern, by, text, count=1)


def again(text):
    return text + text.splitlines()[-1]


def cut(text):
    return text[:-9]


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("config.json", replaced('"images_sha256"', '"x"'), "damaged.*images_sha256"),
        ("config.json", cut, "config.json is damaged"),
        ("config.json", replaced('"parameters": [^,}]*', '"parameters": 1e999'), "damaged.*inf"),
        ("config.json", replaced('"parameters": [^,}]*', '"parameters": null'), "damaged.*int"),
        ("test.json", cut, "test.json is damaged"),
        ("test.json", replaced('"data": "[^"]*"', '"data": 5'), "damaged: .*data is 5"),
        ("test.json", lambda text: "[]", "test.json is damaged"),
        ("test.json", replaced('"data"', '"x"'), "test.json is damaged: .*'data'"),
        ("test.csv", replaced("BCC", "X"), "test.csv lacks the column.*BCC"),
        ("test.csv", edit(3, 2, "half"), "test.csv, line 4 .*'half'"),
        ("test.csv", edit(3, 2, "7"), "test.csv or split.csv beside it is damaged: .*row"),
        ("test.csv", edit(3, 2, "nan"), "test.csv or split.csv beside it is damaged: .*row"),
        ("test.csv", edit(3, 0, "ISIC_0"), "1 of the .* are missing, and 1 others are in it"),
        ("test.csv", again, "test.csv, line .* stands there twice"),
        ("split.csv", again, "split.csv, line .* stands there twice"),
        ("split.csv", edit(3, 2, "wart"), "split.csv, line 4: unknown diagnosis 'wart'"),
        ("split.csv", lambda text: text.replace(",test", ",val"), "split.csv .* no test images"),
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


@pytest.fixture
def joined(pair):
    """The pair, started with a table of lesions that is gone: their own copies count."""
    for folder in pair:
        config = json.loads((folder / "config.json").read_text())
        config["options"]["same_lesion"] = "/gone.csv"
        (folder / "config.json").write_text(json.dumps(config))
    return pair


def write_pairs(runs, *rows):
    for folder in runs:
        (folder / "same_lesion.csv").write_text("\n".join(["image_id_1,image_id_2", *rows]))


def test_lesions_are_joined_by_the_runs_own_table(case, joined):
    with pytest.raises(FileNotFoundError, match=r"no table .*first/same_lesion.csv"):
        read_runs(joined)
    (nevus, lesion), (other, _), *_ = ((i, n) for i, n, label in case[0] if label == 5)
    write_pairs(joined, f"{nevus},ISIC_9999", "ISIC_left,ISIC_out")
    run = read_runs(joined)[0]
    members = sum(of_image == lesion for _, of_image, _ in case[0])
    assert run.leak == pytest.approx(members / len(case[0]))
    assert run.truth[nevus][0] == min(lesion, "other")
    write_pairs(joined[1:], f"{nevus},{other}", f"{nevus},ISIC_9999")
    with pytest.raises(ValueError, match=r"another lesion .* with the same --same-lesion\?"):
        read_runs(joined)


def test_images_that_were_left_out_join_lesions_too(case, joined):
    (nevus, lesion), (other, alone), *_ = ((i, n) for i, n, label in case[0] if label == 5)
    assert lesion != alone
    write_pairs(joined, f"ISIC_bad,{other}")
    for text, joins in (
        ("image_id,problem\nISIC_bad,missing\n", False),
        (f"image_id,lesion_id,problem\nISIC_bad,{lesion},missing\n", True),
    ):
        for folder in joined:
            (folder / "left_out.csv").write_text(text)
        run = read_runs(joined)[0]
        expected = [min(lesion, alone)] * 2 if joins else [lesion, alone]
        assert [run.truth[nevus][0], run.truth[other][0]] == expected


def test_the_shipped_pairs_are_one_lesion_in_every_run(case, tmp_path):
    """Whatever its split was made with."""
    truth = [("ISIC_0033421", "z1", 5), ("ISIC_0033481", "z2", 5), *case[0]]
    runs = [write_run(tmp_path / n, truth, [5, 5, *case[1][n]]) for n in ("first", "alike")]
    for run in read_runs(runs):
        assert run.truth["ISIC_0033481"][0] == "z1"
        assert run.summary["lesions"] == len({lesion for _, lesion, _ in truth}) - 1
