"""The cache of decoded images."""

import os
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from examples.ham10000.data import load as cache_module
from examples.ham10000.data.images import file_digests, load_image


def load_all(paths, size, cache):
    key = cache_module.digest(file_digests(paths))
    return cache_module.load_all(paths, size, cache, key)


def arrays(cache):
    return list(cache.glob("*.npy"))


@pytest.mark.parametrize("damage", [b"", b"no image at all", None])
def test_unreadable_images_are_named(paths, tmp_path, damage):
    data = paths[3].read_bytes()
    paths[3].write_bytes(data[: len(data) // 2] if damage is None else damage)
    cache = tmp_path / "cache"
    with pytest.raises(ValueError, match=r"cannot read the image .*3\.png"):
        load_all(paths, 8, cache)
    assert {file.suffix for file in cache.iterdir()} <= {".lock"}


def test_the_cache_holds_what_is_decoded_and_is_decoded_once(paths, tmp_path, monkeypatch):
    cache = tmp_path / "cache"
    first = load_all(paths, 8, cache)
    assert first.dtype == np.uint8
    for pixels, path in zip(first, paths, strict=True):
        np.testing.assert_array_equal(pixels, load_image(path, 8).numpy())
    with pytest.raises(ValueError, match="read-only"):
        first[0] = 0
    monkeypatch.setattr(cache_module, "load_image", None)
    np.testing.assert_array_equal(load_all(paths, 8, cache), first)


def test_the_cache_follows_content_order_and_size(paths, tmp_path):
    cache = tmp_path / "cache"
    load_all(paths, 8, cache)
    np.testing.assert_array_equal(
        load_all(paths[::-1], 8, cache)[0], load_image(paths[-1], 8).numpy()
    )
    stat = paths[0].stat()
    paths[0].write_bytes(paths[1].read_bytes())
    os.utime(paths[0], ns=(stat.st_atime_ns, stat.st_mtime_ns))
    changed = load_all(paths, 8, cache)
    np.testing.assert_array_equal(changed[0], changed[1])
    assert load_all(paths, 10, cache).shape == (8, 3, 10, 10)
    assert len(arrays(cache)) == 4


@pytest.mark.parametrize("damage", [0, 100, 1000])
def test_a_damaged_cache_is_built_again(paths, tmp_path, damage):
    cache = tmp_path / "cache"
    first = np.array(load_all(paths, 8, cache))
    (file,) = arrays(cache)
    file.write_bytes(file.read_bytes()[:damage])
    np.testing.assert_array_equal(load_all(paths, 8, cache), first)


@pytest.mark.parametrize(("place", "value"), [(0, b"PK\x03\x04"), (20, b"("), (50, b"(")])
def test_a_damaged_header_of_the_cache_is_no_error(paths, tmp_path, place, value):
    cache = tmp_path / "cache"
    first = np.array(load_all(paths, 8, cache))
    (file,) = arrays(cache)
    content = file.read_bytes()
    file.write_bytes(content[:place] + value + content[place + len(value) :])
    np.testing.assert_array_equal(load_all(paths, 8, cache), first)


@pytest.mark.parametrize("write", [np.savez, np.save])
def test_arrays_of_another_kind_are_no_cache(paths, tmp_path, write):
    cache = tmp_path / "cache"
    first = np.array(load_all(paths, 8, cache))
    (file,) = arrays(cache)
    with file.open("wb") as stream:
        write(stream, np.asfortranarray(first))  # whose order is noted in the header
    np.testing.assert_array_equal(load_all(paths, 8, cache), first)
    assert b"'fortran_order': False" in file.read_bytes()[:128]


def test_a_write_that_fails_leaves_nothing_behind(paths, tmp_path, monkeypatch):
    def full_disk(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(cache_module.os, "replace", full_disk)
    with pytest.raises(OSError, match="No space left"):
        load_all(paths, 8, tmp_path / "cache")
    assert {file.suffix for file in (tmp_path / "cache").iterdir()} <= {".lock"}


def test_two_runs_decode_once_between_them(paths, tmp_path, monkeypatch):
    decoded = []
    monkeypatch.setattr(
        cache_module,
        "load_image",
        lambda path, size: decoded.append(path) or load_image(path, size),
    )
    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(lambda _: load_all(paths, 8, tmp_path / "cache"), range(8)))
    assert sorted(decoded) == sorted(paths)
    for pixels in results:
        np.testing.assert_array_equal(pixels[2], load_image(paths[2], 8).numpy())


def test_what_a_killed_run_left_is_overwritten(paths, tmp_path):
    cache = tmp_path / "cache"
    first = np.array(load_all(paths, 8, cache))
    (file,) = arrays(cache)
    file.rename(file.with_suffix(".partial")).write_bytes(b"half")
    np.testing.assert_array_equal(load_all(paths, 8, cache), first)
    assert not list(cache.glob("*.partial"))
