"""Folders without the tables of HAM10000 are recognised, and the advice fits."""

import pytest
from PIL import Image

from examples.ham10000.cli import main
from examples.ham10000.data.layouts import METADATA

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
        (
            "meta.csv",
            "image_id;lesion_id;dx;age\n",
            [f"columns of the metadata: call it {METADATA}"],
        ),
        ("other.csv", "a,b\n1,2\n", ["tables: other.csv (a, b)"]),
        ("hmnist_28_28_RGB.csv", "pixel0000,label\n", ["pixels of small copies"]),
        ("dermamnist_224.npz", "PK", ["dermamnist_224.npz has DermaMNIST, without lesion ids"]),
        ("HAM10000_metadata.xlsx", "PK", ["is a workbook: save its table as"]),
        ("data-00000-of-00001.arrow", "ARROW1", ["Dataset.to_parquet"]),
        ("dataverse_files.zip", "PK", ["dataverse_files.zip is not unpacked", "archives: 1 in"]),
    ],
)
def test_what_is_recognised_and_what_to_do(tmp_path, capsys, file, content, messages):
    (tmp_path / "images").mkdir()
    Image.new("RGB", (20, 20), (200, 90, 90)).save(tmp_path / "images" / "ISIC_1.jpg")
    (tmp_path / file).write_text(content)
    assert main(["check", "--data", str(tmp_path)]) == 1
    said = capsys.readouterr().out
    assert main(["split", "--data", str(tmp_path), "--out", str(tmp_path / "split.csv")]) == 2
    assert f"no {METADATA} and no" in said
    assert f"It has images: 1 in {tmp_path / 'images'}, such as ISIC_1.jpg" in said
    error = capsys.readouterr().err
    for message in messages:
        assert message in said
        assert message in error


def test_a_table_that_cannot_be_read_is_listed_by_its_suffix(tmp_path, capsys):
    (tmp_path / "x.csv").write_bytes(b"\xff\xfe\0\0")
    assert main(["check", "--data", str(tmp_path)]) == 1
    assert "It has no images; other files: 1 (.csv)\n" in capsys.readouterr().out
