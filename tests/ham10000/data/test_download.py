"""The download, against a server on this machine."""

import errno
import hashlib
from functools import partial

import pooch
import pytest

from examples.ham10000 import cli
from examples.ham10000.arguments import parse
from examples.ham10000.data.download import (
    DATAVERSE,
    FILES,
    TEST_FILES,
    RemoteFile,
    download,
)
from examples.ham10000.data.ground_truth import read_ground_truth
from examples.ham10000.data.index import ATTRIBUTION, CLASSES, read_index
from examples.ham10000.data.layouts import IMAGE_FOLDERS, METADATA
from tests.ham10000.challenge import write_metadata
from tests.ham10000.data.dataverse import (
    MASKS,
    PART_1,
    PART_2,
    Server,
    archive,
    assert_healthy_later,
    assert_holds,
    small_set,
    target,
    tree,
)
from tests.helpers import file_size_limit


def test_the_table_is_the_published_one():
    assert DATAVERSE == "https://dataverse.harvard.edu/api/access/datafile"
    assert list(FILES) == [
        RemoteFile(
            "HAM10000_images_part_1.zip", "3172585", "4639bfa73ab251610530a97c898e6e46", 1366522108
        ),
        RemoteFile(
            "HAM10000_images_part_2.zip", "3172584", "da43d6cc50f6613013be07e8986b384b", 1403566547
        ),
        RemoteFile(
            "HAM10000_metadata.csv",
            "4338392?format=original",
            "8f85fb1aa29d80a2797247e434deb79d",
            690218,
        ),
        RemoteFile(
            "HAM10000_segmentations_lesion_tschandl.zip",
            "3838943",
            "6e8d252e09cfdb0189199f15985a5b84",
            10808743,
        ),
    ]


def test_so_is_that_of_the_test_set():
    assert list(TEST_FILES) == [
        RemoteFile("ISIC2018_Task3_Test_Images.zip", "3855824", "0488b6f65849e310857d9207daa55a21"),
        RemoteFile(
            "ISIC2018_Task3_Test_GroundTruth.csv",
            "6924466?format=original",
            "2b5663aacc9644740f27e355cf7f369a",
        ),
    ]
    assert [file.size for file in TEST_FILES] == [None, None]  # which is published nowhere


@pytest.mark.parametrize("announce", [True, False])
def test_the_test_set_lands_where_evaluate_reads_it(
    folder, server, out, tmp_path, announce, monkeypatch, capsys
):
    images = sorted(read_index(folder), key=lambda image: image.image_id)
    write_metadata(tmp_path / "t.csv", [(i.image_id, CLASSES[i.label]) for i in images], lesions=1)
    name = "ISIC2018_Task3_Test_Images"
    contents = {
        f"{name}.zip": archive([(f"{name}/{i.path.name}", i.path.read_bytes()) for i in images]),
        "ISIC2018_Task3_Test_GroundTruth.csv": (tmp_path / "t.csv").read_bytes(),
    }
    server.announce = announce
    monkeypatch.setattr("examples.ham10000.data.download.TEST_FILES", server.publish(contents))
    dataverse = partial(download, server=server.url)
    monkeypatch.setattr("examples.ham10000.data.download.download", dataverse)
    assert cli.main(["download", "--test", "--out", str(out)]) == 0
    assert server.requests == ["/3855824", "/6924466?format=original"]
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
def test_the_images_land_where_training_reads_them(folder, server, out, announce):
    parts = [sorted((folder / name).iterdir()) for name in IMAGE_FOLDERS]
    junk = [("__MACOSX/._ISIC_01.jpg", b"x"), ("__MACOSX/ISIC_01.jpg", b"x"), ("a.txt", b"x")]
    contents = {
        f"{PART_1}.zip": archive([(path.name, path.read_bytes()) for path in parts[0]]),
        f"{PART_2}.zip": archive(
            [(f"{PART_2}/", b""), ("folder.jpg/", b""), (f"{PART_2}/.hidden.jpg", b"x"), *junk]
            + [(f"{PART_2}/{path.name}", path.read_bytes()) for path in parts[1]]
        ),
        METADATA: (folder / METADATA).read_bytes(),
        f"{MASKS}.zip": archive([(f"{MASKS}/a_segmentation.png", b"mask")]),
    }
    server.announce = announce
    files = server.publish(contents)
    download(out, files, server.url)
    assert tree(out) == {**tree(folder), f"{MASKS}/a_segmentation.png": b"mask"}
    assert [(image.image_id, image.label) for image in read_index(out)] == [
        (image.image_id, image.label) for image in read_index(folder)
    ]
    assert server.requests == ["/3172585", "/3172584", "/4338392?format=original", "/3838943"]
    assert not any("python-requests" in agent for agent in server.agents)  # the Dataverse: 403
    download(out, files, server.url)
    assert len(server.requests) == 4


def test_size_licence_and_citation_are_shown_first(server, out, capsys, caplog, monkeypatch):
    monkeypatch.setattr(pooch.get_logger(), "handlers", [caplog.handler])
    files = server.publish(small_set())
    server.fault = (target(f"{PART_1}.zip"), 503)
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


SECOND_OR_THIRD = pytest.mark.parametrize(("name", "whole"), [(f"{PART_2}.zip", 1), (METADATA, 2)])


@SECOND_OR_THIRD
def test_a_wrong_checksum(server, out, name, whole):
    files = server.publish(small_set())
    page = b"<html>Please log in</html>"
    server.content[target(name)] = page
    found = hashlib.md5(page).hexdigest()
    with pytest.raises(ValueError, match=rf"{name}.*{files[whole].md5}.*{found}.*again: it cont"):
        download(out, files, server.url)
    assert_holds(out, whole)
    assert_healthy_later(out, server, whole)


@SECOND_OR_THIRD
@pytest.mark.parametrize(("fault", "reason"), [(404, "404"), (503, "503"), ("cut", "IncompleteR")])
def test_a_failure_of_the_network(server, out, name, whole, fault, reason):
    files = server.publish(small_set())
    server.fault = (target(name), fault)
    with pytest.raises(ConnectionError) as caught:
        download(out, files, server.url)
    for part in (name, server.url + target(name), reason, "Run the command again: it continues"):
        assert part in str(caught.value)
    assert_holds(out, whole)
    assert_healthy_later(out, server, whole)


@SECOND_OR_THIRD
def test_a_cut_that_only_the_checksum_shows(server, out, name, whole):
    files = server.publish(small_set())
    server.announce, server.fault = False, (target(name), "cut")
    with pytest.raises(ValueError, match=rf"{name}.*Run the command again: it continues"):
        download(out, files, server.url)
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


def test_a_write_that_fails_during_the_download(server, out):
    files = server.publish(small_set(archive([("ISIC_2.jpg", bytes(300_000))])))
    with file_size_limit(100_000), pytest.raises(OSError, match=f"{PART_2}.zip") as caught:
        download(out, files, server.url)
    assert caught.value.errno == errno.EFBIG
    assert_holds(out, 1)
    assert_healthy_later(out, server, 1)
