"""The cache of decoded images."""

import os
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from examples.ham10000.data import load as module
from examples.ham10000.data.images import file_digests, load_image
from tests.helpers import file_size_limit


def load_all(paths, size, cache):
    return module.load_all(paths, size, cache, module.digest(file_digests(paths)))


@pytest.fixture
def cache(tmp_path):
    return tmp_path / "cache"


def assert_decoded(pixels, paths):
    assert pixels.dtype == np.uint8
    for image, path in zip(pixels, paths, strict=True):
        np.testing.assert_array_equal(image, load_image(path, pixels.shape[-1]).numpy())


@pytest.mark.parametrize("writable", [True, False])
def test_what_is_decoded_is_read_only_and_decoded_once(paths, cache, writable, monkeypatch):
    if writable:
        load_all(paths, 8, cache)
        monkeypatch.setattr(module, "load_image", lambda path, size: pytest.fail("again"))
    else:  # in memory
        monkeypatch.setattr(os, "access", lambda *args: False)
    pixels = load_all(paths, 8, cache)
    assert_decoded(pixels, paths)
    with pytest.raises(ValueError, match="read-only"):
        pixels[0] = 0
    assert cache.exists() == isinstance(pixels, np.memmap) == writable


def test_the_cache_follows_content_order_and_size(paths, cache):
    load_all(paths, 8, cache)
    assert_decoded(load_all(paths[::-1], 8, cache), paths[::-1])
    stat = paths[0].stat()
    paths[0].write_bytes(paths[1].read_bytes())
    os.utime(paths[0], ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert_decoded(load_all(paths, 8, cache), paths)
    assert_decoded(load_all(paths, 10, cache), paths)
    names = sorted(file.name for file in cache.glob("*.npy"))
    assert [name.split("-", 1)[1] for name in names].count("8-v3.npy") == 3
    assert len(names) == 4


def shorten(file, content, length):
    file.write_bytes(content[:length])


def replace(file, content, place, value):
    file.write_bytes(content[:place] + value + content[place + len(value) :])


def save_otherwise(file, content, save):
    """Another array in place of the cache file."""
    array = np.load(file)
    with file.open("wb") as stream:
        save(stream, np.asfortranarray(array))  # whose order is noted in the header


def rename(file, content, name):
    file.rename(file.with_name(name.format(file.name, file.stem)))


@pytest.mark.parametrize(
    ("change", "how"),
    [
        *((shorten, [length]) for length in (0, 100, 1000)),
        *((replace, change) for change in [(0, b"PK\x03\x04"), (20, b"("), (50, b"(")]),
        *((save_otherwise, [save]) for save in (np.save, np.savez)),
        (rename, [".{0}.0f.partial"]),
        (rename, ["{1}.partial"]),  # of an older version
    ],
)
def test_what_is_damaged_or_left_by_a_killed_run_is_built_again(paths, cache, change, how):
    load_all(paths, 8, cache)
    (file,) = cache.glob("*.npy")
    content = file.read_bytes()
    change(file, content, *how)
    assert_decoded(load_all(paths, 8, cache), paths)
    assert file.read_bytes() == content
    assert {file.suffix for file in cache.iterdir()} <= {".lock", ".npy"}


def test_an_unreadable_image_or_a_full_disk_leaves_nothing_behind(paths, cache):
    with file_size_limit(1000), pytest.raises(OSError, match="File too large"):
        load_all(paths, 8, cache)
    paths[3].write_bytes(b"no image at all")
    with pytest.raises(ValueError, match=r"cannot read the image .*3\.png"):
        load_all(paths, 8, cache)
    assert {file.suffix for file in cache.iterdir()} <= {".lock"}


def test_two_runs_decode_once_between_them(paths, cache, monkeypatch):
    decoded = []
    monkeypatch.setattr(
        module, "load_image", lambda path, size: decoded.append(path) or load_image(path, size)
    )
    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(lambda _: load_all(paths, 8, cache), range(8)))
    assert sorted(decoded) == sorted(paths)
    for pixels in results:
        assert_decoded(pixels, paths)
