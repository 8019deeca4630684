"""Files and folders are whole, or as they were before."""

import json
import os

import pytest

from examples.ham10000.files import moved_into_place, write_csv, write_json


def test_what_fails_leaves_the_old_file_and_no_other(tmp_path):
    file = tmp_path / "figures.json"
    write_json(file, {"a": 1})
    with pytest.raises(TypeError):
        write_json(file, {"a": 2, "b": object()})
    with pytest.raises(FileExistsError), moved_into_place(file) as partial:  # noqa: PT012
        (partial / "inner").mkdir(parents=True)
        partial.mkdir()
    assert [path.name for path in tmp_path.iterdir()] == ["figures.json"]
    assert json.loads(file.read_text()) == {"a": 1}
    with pytest.raises(FileNotFoundError, match=r"cannot write .*no folder .*nowhere"):
        write_csv(tmp_path / "nowhere" / "x.csv", ("a",), [])


def test_a_folder_takes_the_place_of_none_that_is_filled(tmp_path):
    with moved_into_place(tmp_path / "new") as partial:
        partial.mkdir()
        (partial / "inner").touch()
    assert (tmp_path / "new" / "inner").exists()
    with pytest.raises(OSError), moved_into_place(tmp_path / "new") as partial:  # noqa: PT011
        partial.mkdir()
    assert [path.name for path in tmp_path.rglob("*")] == ["new", "inner"]


def test_a_file_is_on_the_disk_before_it_takes_its_place(tmp_path, monkeypatch):
    """Else a crash of the machine can leave an empty file in the place of the old one."""
    done, replace = [], os.replace
    monkeypatch.setattr(os, "fsync", lambda number: done.append(os.fstat(number).st_size))
    monkeypatch.setattr(os, "replace", lambda *paths: [done.append("moved"), replace(*paths)])
    write_csv(tmp_path / "x.csv", ("a",), [(1,)])
    assert done == [len("a\n1\n"), "moved"]
