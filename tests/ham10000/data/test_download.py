"""The download, against a server on this machine."""

import errno
import hashlib
import zipfile
from functools import partial
from pathlib import Path

import pooch
import pytest

from examples.ham10000 import cli
from examples.ham10000.arguments import parse
from examples.ham10000.data.download import (
    DATAVERSE,
    FILES,
    TEST_FILES,
    download,
)
from examples.ham10000.data.folders import look
from examples.ham10000.data.ground_truth import read_ground_truth
from examples.ham10000.data.index import ATTRIBUTION, CLASSES, read_index
from examples.ham10000.data.layouts import IMAGE_FOLDERS, LESION_MASKS, METADATA
from tests.ham10000.challenge import write_metadata
from tests.ham10000.data.dataverse import (
    PART_1,
    PART_2,
    WHOLE,
    Server,
    archive,
    assert_healthy_later,
    assert_holds,
    small_set,
    tree,
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


@pytest.mark.parametrize("announce", [True, False])
def test_the_test_set_lands_where_evaluate_reads_it(
    folder, server, out, tmp_path, announce, monkeypatch, capsys
):
    images = sorted(read_index(folder), key=lambda image: image.image_id)
    write_metadata(tmp_path / "t.csv", [(i.image_id, CLASSES[i.label]) for i in images], lesions=1)
    name = "ISIC2018_Task3_Test_Images"
    contents = {
        f"{name}.zip": archive({f"{name}/{i.path.name}": i.path.read_bytes() for i in images}),
        "ISIC2018_Task3_Test_GroundTruth.csv": (tmp_path / "t.csv").read_bytes(),
    }
    server.announce = announce
    monkeypatch.setattr("examples.ham10000.data.download.TEST_FILES", server.publish(contents))
    dataverse = partial(download, server=server.url)
    monkeypatch.setattr("examples.ham10000.data.download.download", dataverse)
    assert cli.main(["download", "--test", "--out", str(out)]) == 0
    assert server.requests == list(TARGETS.values())[4:]
    printed = capsys.readouterr().out
    assert f"To be downloaded into {out}: 2 files, of unknown size" in printed
    words = printed.splitlines()[-1].partition("Evaluate a run with: ")[2].split()
    assert words[:3] == ["evaluate", "--run", "RUN"]
    options = parse(words)
    truth = read_ground_truth(options.ground_truth, options.data)
    assert [(image.image_id, image.label) for image in truth.images] == [
        (image.image_id, image.label) for image in images
    ]
    assert (truth.missing, truth.ignored) == ([], 0)
    assert cli.main(["download", "--test", "--out", str(out)]) == 0
    assert "0 files, 0.0 GB" in capsys.readouterr().out
    assert len(server.requests) == 2


@pytest.mark.parametrize("announce", [True, False])
def test_the_images_land_where_training_reads_them(
    folder, server, tmp_path, announce, monkeypatch, capsys
):
    parts = [{p.name: p.read_bytes() for p in (folder / name).iterdir()} for name in IMAGE_FOLDERS]
    junk = {f"__MACOSX/{n}": b"x" for n in ("ISIC_01.jpg", "._ISIC_01.jpg")}
    junk |= {"a.txt": b"x", "../out.txt": b"x", "folder.jpg/": b"", f"{PART_2}/.hidden.jpg": b"x"}
    contents = {
        f"{PART_1}.zip": archive(parts[0]),
        f"{PART_2}.zip": archive({f"{PART_2}/{n}": c for n, c in parts[1].items()} | junk),
        METADATA: (folder / METADATA).read_bytes(),
        f"{LESION_MASKS}.zip": archive({"a/a_segmentation.png": b"mask"}),
    }
    server.announce = announce
    files = server.publish(contents)
    monkeypatch.chdir(tmp_path)
    out = Path("new")
    download(out, files, server.url)
    assert f"unpacking {PART_1}.zip: 35 files, " in capsys.readouterr().err
    found = {path.name for path in out.iterdir()}
    assert found == {PART_1, PART_2, METADATA, LESION_MASKS}
    assert {i.image_id: (i.label, i.path.read_bytes()) for i in read_index(out)} == {
        i.image_id: (i.label, i.path.read_bytes()) for i in read_index(folder)
    }
    assert [path.name for path in look(out).masks] == ["a_segmentation.png"]
    assert server.requests == list(TARGETS.values())[:4]
    assert not any("python-requests" in agent for agent in server.agents)  # the Dataverse: 403
    download(out, files, server.url)
    assert len(server.requests) == 4


def test_size_licence_and_citation_are_shown_first(server, out, capsys, caplog, monkeypatch):
    monkeypatch.setattr(pooch.get_logger(), "handlers", [caplog.handler])
    files = server.publish(small_set())
    server.fault = (TARGETS[f"{PART_1}.zip"], 503)
    with pytest.raises(ConnectionError):
        download(out, files, server.url)
    shown = capsys.readouterr().out
    assert "4 files, 2.8 GB" in shown
    assert "CC BY-NC 4.0: name the source, no commercial use" in shown
    assert ATTRIBUTION in shown
    server.fault = ("", None)
    download(out, files[:1], server.url)
    capsys.readouterr()
    for missing in ("3 files, 1.4 GB", "0 files, 0.0 GB"):
        download(out, files, server.url)
        assert missing in capsys.readouterr().out
    assert caplog.records == []


def test_a_metadata_file_with_another_checksum_is_replaced(server, out):
    out.mkdir(parents=True)
    (out / METADATA).write_bytes(b"lesion_id,im")
    assert_healthy_later(out, server, 0)


@pytest.mark.parametrize(("name", "whole"), [(f"{PART_2}.zip", 1), (METADATA, 2)])
@pytest.mark.parametrize("fault", [404, 503, "cut", "cut, of unknown length", "another file"])
def test_what_cannot_be_fetched_is_named_and_leaves_nothing(server, out, name, whole, fault):
    files = server.publish(small_set())
    page = b"<html>Please log in</html>"
    kind, reasons = ConnectionError, [name, server.url + TARGETS[name], str(fault)]
    if fault == "another file":
        server.content[TARGETS[name]] = page
        reasons = [name, files[whole].md5, hashlib.md5(page).hexdigest()]
        kind = ValueError
    elif fault == "cut, of unknown length":  # which the checksum shows alone
        server.announce, server.fault = False, (TARGETS[name], "cut")
        kind, reasons = ValueError, [name, files[whole].md5]
    else:
        server.fault = (TARGETS[name], fault)
        reasons[2] = "IncompleteR" if fault == "cut" else str(fault)
    with pytest.raises(kind) as caught:
        download(out, files, server.url)
    advice = f"Or fetch {server.url}{TARGETS[name]} with a browser and save it as {out / name}"
    for part in (*reasons, "Run the command again: it continues", advice):
        assert part in str(caught.value)
    assert_holds(out, whole)
    assert_healthy_later(out, server, whole)


def test_a_server_that_is_not_there(server, out):
    files = server.publish(small_set())
    with Server() as closed:
        pass
    with pytest.raises(ConnectionError, match=f"{PART_1}.zip.*refused.*{closed.url}/3172585"):
        download(out, files, closed.url)
    assert_holds(out, 0)
    assert_healthy_later(out, server, 0)


@pytest.mark.parametrize("unpacking", [False, True])
def test_a_full_disk_is_named_and_leaves_no_half_folder(server, out, unpacking):
    images = {"ISIC_2.jpg": b"image 2", "ISIC_3.jpg": bytes(300_000)}
    part_2 = archive(images, zipfile.ZIP_DEFLATED if unpacking else zipfile.ZIP_STORED)
    files = server.publish({**small_set(), f"{PART_2}.zip": part_2})
    with file_size_limit(100_000), pytest.raises(OSError, match=f"{PART_2}.zip") as caught:
        download(out, files, server.url)
    assert caught.value.errno == errno.EFBIG
    # An archive with the right checksum need not be fetched again.
    assert_holds(out, 1, {f"{PART_2}.zip": part_2} if unpacking else {})
    server.requests.clear()
    download(out, files, server.url)
    assert server.requests == [f"/{file.tail}" for file in files[1 + unpacking :]]
    assert tree(out) == {**WHOLE, f"{PART_2}/ISIC_3.jpg": bytes(300_000)}
