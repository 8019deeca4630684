"""Files that are either whole or not there."""

import csv
import json
import os
import shutil
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO


@contextmanager
def moved_into_place(path: Path) -> Iterator[Path]:
    """Give a temporary name for a file or folder, ``path`` when the block has ended well.

    A file is on the disk before it is moved: after a crash there is the old one or the whole new
    one. A folder takes the place of nothing but an empty one.
    """
    if not path.parent.is_dir():
        raise FileNotFoundError(f"cannot write {path}: there is no folder {path.parent}")
    partial = path.with_name(f".{path.name}.{uuid.uuid4().hex}.partial")
    try:
        yield partial
        if not partial.is_dir():
            with partial.open("rb+") as stream:
                os.fsync(stream.fileno())
        os.replace(partial, path)
    except BaseException:
        if partial.is_dir():
            shutil.rmtree(partial)
        else:
            partial.unlink(missing_ok=True)
        raise


@contextmanager
def whole_file(path: Path) -> Iterator[TextIO]:
    """A text file to write, which is at ``path`` when the block has ended well."""
    with (
        moved_into_place(path) as partial,
        partial.open("x", newline="", encoding="utf-8") as stream,
    ):
        yield stream


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write a JSON file, whole or not at all."""
    with whole_file(path) as stream:
        stream.write(json.dumps(content, indent=2) + "\n")


def write_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Write a CSV file, whole or not at all."""
    with whole_file(path) as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(rows)
