"""The download, against a server on this machine."""

import errno
import hashlib
import io
import stat
import threading
import zipfile
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pooch
import pytest

from examples.ham10000.data.download import DATAVERSE, FILES, RemoteFile, download
from examples.ham10000.data.index import ATTRIBUTION, read_index
from examples.ham10000.data.layouts import IMAGE_FOLDERS, METADATA

MASKS = "HAM10000_segmentations_lesion_tschandl"
PART_1, PART_2 = IMAGE_FOLDERS


class Server(ThreadingHTTPServer):
    """Serves ``content`` by request target; ``fault`` says what happens to one of them.

    Attributes:
        requests: the targets asked for, in order.
        agents: the user agents of these requests.
        fault: (target, a status to answer with or "cut" to send only half).
        announce: whether the length is sent.
    """

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.content, self.requests, self.agents = {}, [], []
        self.fault, self.announce = ("", None), True

    def publish(self, contents):
        """Serve the contents under the names and targets of the official files."""
        files = [
            replace(file, md5=hashlib.md5(contents[file.name]).hexdigest())
            for file in FILES
            if file.name in contents
        ]
        self.content = {f"/{file.tail}": contents[file.name] for file in files}
        return files


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        server = self.server
        server.requests.append(self.path)
        server.agents.append(self.headers["User-Agent"])
        target, fault = server.fault
        if target != self.path:
            fault = None
        if isinstance(fault, int):
            self.send_error(fault)
            return
        body = server.content[self.path]
        self.send_response(200)
        if server.announce:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[: len(body) // 2] if fault == "cut" else body)

    def log_message(self, *args):
        pass


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def out(tmp_path):
    return tmp_path / "new" / "ham10000"


def archive(members, compression=zipfile.ZIP_STORED):
    """The bytes of a zip of (name or ZipInfo, content) pairs."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as file:
        for name, content in members:
            file.writestr(name, content)
    return buffer.getvalue()


def small_set(part_2=None):
    """Contents of all four files."""
    part_2 = part_2 or archive([("ISIC_2.jpg", b"image 2")])
    return {
        f"{PART_1}.zip": archive([("ISIC_1.jpg", b"image 1")]),
        f"{PART_2}.zip": part_2,
        METADATA: b"lesion_id,image_id,dx\n",
        f"{MASKS}.zip": archive([("ISIC_1_segmentation.png", b"mask")]),
    }


def tree(folder):
    """All files below a folder, with their contents."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


WHOLE = {
    f"{PART_1}/ISIC_1.jpg": b"image 1",
    f"{PART_2}/ISIC_2.jpg": b"image 2",
    METADATA: b"lesion_id,image_id,dx\n",
    f"{MASKS}/ISIC_1_segmentation.png": b"mask",
}


def assert_holds(out, files, archives=None):
    """The folder has what comes of the first ``files`` files and these archives, nothing else."""
    expected = dict(list(WHOLE.items())[:files]) | (archives or {})
    assert tree(out) == expected
    assert {path.name for path in out.iterdir()} == {name.split("/")[0] for name in expected}


def assert_healthy_later(out, server, files):
    """The next call, for a set of which ``files`` are there, asks for the rest only."""
    server.requests.clear()
    server.fault = ("", None)
    published = server.publish(small_set())
    download(out, published, server.url)
    assert_holds(out, 4)
    assert server.requests == [f"/{file.tail}" for file in published[files:]]


def target(name):
    """The request target of an official file."""
    return next(f"/{file.tail}" for file in FILES if file.name == name)


@contextmanager
def file_size_limit(size):
    """Let every write beyond that size fail, as on a full disk."""
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


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


def test_a_write_that_fails_during_the_unpacking(server, out):
    members = [("ISIC_2.jpg", b"image 2"), ("ISIC_3.jpg", bytes(300_000))]
    part_2 = archive(members, zipfile.ZIP_DEFLATED)
    files = server.publish(small_set(part_2))
    with file_size_limit(100_000), pytest.raises(OSError, match=f"{PART_2}.zip") as caught:
        download(out, files, server.url)
    assert caught.value.errno == errno.EFBIG
    # The archive has the right checksum and need not be fetched again.
    assert_holds(out, 1, {f"{PART_2}.zip": part_2})
    server.requests.clear()
    download(out, files, server.url)
    assert server.requests == [f"/{file.tail}" for file in files[2:]]
    assert tree(out) == {**WHOLE, f"{PART_2}/ISIC_3.jpg": bytes(300_000)}


def symlink(name):
    member = zipfile.ZipInfo(name)
    member.external_attr = (stat.S_IFLNK | 0o777) << 16
    return member


@pytest.mark.parametrize(
    ("member", "reason"),
    [
        ("../evil.jpg", "lead out"),
        ("a/../../evil.jpg", "lead out"),
        ("{tmp_path}/evil.jpg", "lead out"),
        ("a\\..\\evil.jpg", "lead out"),
        ("C:evil.jpg", "lead out"),
        ("../evil.txt", "lead out"),
        (symlink("evil.jpg"), "symbolic link"),
        (symlink("evil"), "symbolic link"),
        ("evil/good.jpg", "has the file name of 'good.jpg'"),
        ("evil/GOOD.jpg", "has the file name of 'good.jpg'"),
    ],
)
def test_hostile_members_are_refused(server, out, tmp_path, member, reason):
    if isinstance(member, str):
        member = member.format(tmp_path=tmp_path)
    part_2 = archive([("good.jpg", b"good"), (member, b"/etc/passwd")])
    files = server.publish(small_set(part_2))
    with pytest.raises(ValueError, match=rf"{PART_2}\.zip is not unpacked.*evil.*{reason}"):
        download(out, files, server.url)
    assert_holds(out, 1, {f"{PART_2}.zip": part_2})
    assert not [path for path in tmp_path.rglob("*") if "evil" in path.name]
    assert_healthy_later(out, server, 1)


GOOD = archive([("ISIC_2.jpg", b"image 2" * 9), ("ISIC_3.jpg", b"image 3" * 9)])


def entry(offset, content):
    """GOOD with other bytes in what its directory says of the last member."""
    place = GOOD.rindex(b"PK\1\2") + offset
    return GOOD[:place] + content + GOOD[place + len(content) :]


@pytest.mark.parametrize(
    "part_2",
    [
        GOOD[:-40],
        GOOD.replace(b"image 3", b"image 4"),
        archive([("a.jpg", b"a" * 99)], zipfile.ZIP_DEFLATED).replace(b"KL", b"\xff\xff"),
        entry(20, b"\0\1\0\0" * 2),
        entry(8, b"\1"),
        b"no archive at all",
        archive([("readme.txt", b"no image")]),
    ],
    ids=[
        "truncated",
        "content",
        "compressed content",
        "size",
        "encrypted",
        "no archive",
        "no image",
    ],
)
def test_a_damaged_archive_is_named(server, out, part_2):
    files = server.publish(small_set(part_2))
    with pytest.raises(ValueError, match=rf"{PART_2}\.zip"):
        download(out, files, server.url)
    assert_holds(out, 1, {f"{PART_2}.zip": part_2})
    assert_healthy_later(out, server, 1)
