"""The download, against a server on this machine."""

import errno
import hashlib
import re
import zipfile
from functools import partial
from pathlib import Path

import pooch
import pytest

from examples.ham10000.arguments import parse
from examples.ham10000.data.download import DATAVERSE, FILES, TEST_FILES, download
from examples.ham10000.data.folders import look
from examples.ham10000.data.ground_truth import read_ground_truth
from examples.ham10000.data.index import ATTRIBUTION, CLASSES, read_index
from examples.ham10000.data.layouts import IMAGE_FOLDERS, LESION_MASKS, METADATA
from tests.ham10000.challenge import write_metadata
from tests.ham10000.data.dataverse import (
    ANOTHER,
    CUT,
    PAGE,
    PART_1,
    PART_2,
    SMALL_SET,
    UNANNOUNCED,
    WHOLE,
    archive,
)
from tests.helpers import file_size_limit

PUBLISHED = """
HAM10000_images_part_1.zip 3172585 4639bfa73ab251610530a97c898e6e46 1366522108
HAM10000_images_part_2.zip 3172584 da43d6cc50f6613013be07e8986b384b 1403566547
HAM10000_metadata.csv 4338392?format=original 8f85fb1aa29d80a2797247e434deb79d 690218
HAM10000_segmentations_lesion_tschandl.zip 3838943 6e8d252e09cfdb0189199f15985a5b84 10808743
ISIC2018_Task3_Test_Images.zip 3855824 0488b6f65849e310857d9207daa55a21 None
ISIC2018_Task3_Test_GroundTruth.csv 6924466?format=original 2b5663aacc9644740f27e355cf7f369a None
"""
TARGETS = {line.split()[0]: f"/{line.split()[1]}" for line in PUBLISHED.strip().splitlines()}


def test_the_tables_are_the_published_ones():
    assert DATAVERSE == "https://dataverse.harvard.edu/api/access/datafile"
    lines = [" ".join(map(str, file)) for file in (*FILES, *TEST_FILES)]
    assert lines == PUBLISHED.strip().splitlines()


def read(images):
    return {i.image_id: (i.label, i.path.read_bytes()) for i in images}


@pytest.mark.parametrize("faults", [(), UNANNOUNCED])
def test_the_test_set_lands_where_evaluate_reads_it(
    folder, server, out, tmp_path, faults, monkeypatch, command
):
    images = read_index(folder)
    write_metadata(tmp_path / "t.csv", [(i.image_id, CLASSES[i.label]) for i in images], lesions=1)
    name = "ISIC2018_Task3_Test_Images"
    contents = {
        f"{name}.zip": archive({f"{name}/{i.path.name}": i.path.read_bytes() for i in images}),
        "ISIC2018_Task3_Test_GroundTruth.csv": (tmp_path / "t.csv").read_bytes(),
    }
    server.faults = {"all": faults}
    monkeypatch.setattr("examples.ham10000.data.download.TEST_FILES", server.publish(contents))
    dataverse = partial(download, server=server.url)
    monkeypatch.setattr("examples.ham10000.data.download.download", dataverse)
    printed = command(0, "download", "--test", "--out", out)
    assert server.requests == list(TARGETS.values())[4:]
    assert f"To be downloaded into {out}: 2 files, of unknown size" in printed
    words = re.search("Evaluate a run with: (.*)", printed)[1].split()
    assert words[:3] == ["evaluate", "--run", "RUN"]
    options = parse(words)
    truth = read_ground_truth(options.ground_truth, options.data)
    assert read(truth.images) == read(images)
    assert (truth.missing, truth.ignored) == ([], 0)
    assert "0 files, 0.0 GB" in command(0, "download", "--test", "--out", out)
    assert len(server.requests) == 2


def test_the_images_land_where_training_reads_them(
    folder, server, tmp_path, monkeypatch, capsys, caplog
):
    monkeypatch.setattr(pooch.get_logger(), "handlers", [caplog.handler])
    parts = [{p.name: p.read_bytes() for p in (folder / name).iterdir()} for name in IMAGE_FOLDERS]
    junk = {f"__MACOSX/{n}": b"x" for n in ("ISIC_01.jpg", "._ISIC_01.jpg")}
    junk |= {"a.txt": b"x", "../out.txt": b"x", "folder.jpg/": b"", f"{PART_2}/.hidden.jpg": b"x"}
    contents = {
        f"{PART_1}.zip": archive(parts[0]),
        f"{PART_2}.zip": archive({f"{PART_2}/{n}": c for n, c in parts[1].items()} | junk),
        METADATA: (folder / METADATA).read_bytes(),
        f"{LESION_MASKS}.zip": archive({"a/a_segmentation.png": b"mask"}),
    }
    files = server.publish(contents)
    monkeypatch.chdir(tmp_path)
    out = Path("new")
    download(out, files, server.url)
    assert f"unpacking {PART_1}.zip: 35 files, " in capsys.readouterr().err
    assert {path.name for path in out.iterdir()} == {PART_1, PART_2, METADATA, LESION_MASKS}
    assert read(read_index(out)) == read(read_index(folder))
    assert [path.name for path in look(out).masks] == ["a_segmentation.png"]
    assert server.requests == list(TARGETS.values())[:4]
    assert not any("python-requests" in agent for agent in server.agents)  # the Dataverse: 403
    download(out, files, server.url)
    assert len(server.requests) == 4
    (out / METADATA).write_bytes(b"lesion_id,im")  # has another checksum
    download(out, files, server.url)
    assert server.requests[4:] == [TARGETS[METADATA]]
    assert caplog.records == []


def assert_holds(out, files, others=None):
    """The folder has what comes of the first ``files`` files and these others, nothing else."""
    expected = dict(list(WHOLE.items())[:files]) | (others or {})
    found = {path.relative_to(out).as_posix(): path for path in out.rglob("*") if path.is_file()}
    assert {name: path.read_bytes() for name, path in found.items()} == expected
    assert {path.name for path in out.iterdir()} == {name.split("/")[0] for name in expected}


def assert_healthy_later(out, server, files):
    """The next call, for a set of which ``files`` are there, asks for the rest only."""
    server.requests.clear()
    server.faults = {}
    published = server.publish(SMALL_SET)
    download(out, published, server.url)
    assert_holds(out, 4)
    assert server.requests == [f"/{file.tail}" for file in published[files:]]


@pytest.mark.parametrize(
    ("name", "whole", "rest"),
    [(f"{PART_2}.zip", 1, "3 files, 1.4 GB"), (METADATA, 2, "2 files, 0.0 GB")],
)
@pytest.mark.parametrize(
    ("fault", "kind", "reason"),
    [
        (404, ConnectionError, "404"),
        (503, ConnectionError, "503"),
        ([CUT], ConnectionError, "IncompleteR"),
        ([CUT, UNANNOUNCED], ValueError, "expected "),  # the checksum, which shows it alone
        ([ANOTHER], ValueError, hashlib.md5(PAGE).hexdigest()),
    ],
)
def test_what_cannot_be_fetched_is_named_and_leaves_nothing(
    server, out, name, whole, rest, fault, kind, reason, capsys
):
    files = server.publish(SMALL_SET)
    server.faults = {TARGETS[name]: fault}
    with pytest.raises(kind) as caught:
        download(out, files, server.url)
    advice = f"Or fetch {server.url}{TARGETS[name]} with a browser and save it as {out / name}"
    checksum = files[whole].md5 if kind is ValueError else ""
    for part in (name, reason, checksum, "Run the command again: it continues", advice):
        assert part in str(caught.value)
    assert_holds(out, whole)
    shown = capsys.readouterr().out
    for part in ("4 files, 2.8 GB", "CC BY-NC 4.0: name the source, no commercial", ATTRIBUTION):
        assert part in shown
    assert_healthy_later(out, server, whole)
    assert rest in capsys.readouterr().out


@pytest.mark.parametrize("unpacking", [False, True])
def test_a_full_disk_is_named_and_leaves_no_half_folder(server, out, unpacking):
    large = {"ISIC_2.jpg": b"image 2", "ISIC_3.jpg": bytes(300_000)}
    part_2 = archive(large, zipfile.ZIP_DEFLATED if unpacking else zipfile.ZIP_STORED)
    files = server.publish({**SMALL_SET, f"{PART_2}.zip": part_2})
    with file_size_limit(100_000), pytest.raises(OSError, match=f"{PART_2}.zip") as caught:
        download(out, files, server.url)
    assert caught.value.errno == errno.EFBIG
    # An archive with the right checksum need not be fetched again.
    assert_holds(out, 1, {f"{PART_2}.zip": part_2} if unpacking else {})
    server.requests.clear()
    download(out, files, server.url)
    assert server.requests == [f"/{file.tail}" for file in files[1 + unpacking :]]
    assert_holds(out, 4, {f"{PART_2}/ISIC_3.jpg": bytes(300_000)})
