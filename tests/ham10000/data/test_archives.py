"""Archives that are hostile or damaged are named, and not unpacked."""

import errno
import stat
import zipfile

import pytest

from examples.ham10000.data.download import download
from tests.ham10000.data.dataverse import (
    PART_2,
    WHOLE,
    archive,
    assert_healthy_later,
    assert_holds,
    small_set,
    tree,
)
from tests.helpers import file_size_limit


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
