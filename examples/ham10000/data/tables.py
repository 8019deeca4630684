"""Tables as people have them: with commas, tabs or semicolons, and ids that are paths of images."""

import csv
import re
import unicodedata
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TextIO

from examples.ham10000.data.images import NOT_DECODED, SUFFIXES

IDS = ("image_id", "image", "image_id_1", "image_id_2")
"""Columns with ids of images."""

DELIMITERS = ",\t;"

Table = Iterator[tuple[str, dict[str, str]]]


def find_table(files: Iterable[Path], name: str) -> list[Path]:
    """The tables of that name that lie highest, in any case and with what browsers put behind it.

    Args:
        files: among which to look.
        name: such as ``HAM10000_metadata.csv``. Its suffix may be missing, or another one.
    """
    pattern = re.compile(rf"{re.escape(Path(name).stem)}( ?\(\d+\))?(\.(csv|tab|tsv|txt))*", re.I)
    found = [file for file in files if pattern.fullmatch(file.name)]
    highest = min((len(file.parts) for file in found), default=0)
    return [file for file in found if len(file.parts) == highest]


def read_tables(files: list[Path], columns: tuple[str, ...]) -> list[tuple[str, dict[str, str]]]:
    """The rows of a table that may lie there several times, as :func:`read_table` reads them.

    Raises:
        ValueError: the files do not say the same.
    """
    rows, *copies = (list(read_table(file, columns)) for file in files)
    said = sorted(tuple(row[name] for name in columns) for _, row in rows)
    for file, copy in zip(files[1:], copies, strict=True):
        if sorted(tuple(row[name] for name in columns) for _, row in copy) != said:
            raise ValueError(f"{files[0]} and {file} differ: remove the one that is wrong")
    return rows


def image_name(text: str) -> str:
    """The id of an image, of which a table may have the path, with either separator, and suffix.

    Raises:
        ValueError: it has no name, or leads out of the folder.
    """
    parts = re.split(r"[/\\]", text)
    name = without_suffix(parts[-1])
    # Of a whole path only the name counts, but "/ISIC_0024306" is no path of an image.
    rooted = len(parts) == 2 and not parts[0] and name == parts[-1]
    if name in ("", ".") or ".." in parts or rooted:
        raise ValueError(f"image id {text!r} is no name of a file")
    return name


def without_suffix(name: str) -> str:
    """The name of a file without the suffix of an image."""
    while name.lower().endswith((*SUFFIXES, *NOT_DECODED)):
        name = name.rpartition(".")[0]
    return name


def has_control_characters(name: str) -> bool:
    """Whether a name has line ends or the like, which not every reader of CSV gives back."""
    return any(unicodedata.category(letter) == "Cc" for letter in name)


def read_header(file: Path) -> list[str]:
    """The columns of a table; none where it is no text."""
    try:
        with file.open(newline="", encoding="utf-8-sig") as stream:
            line = next((line for line in stream if line.strip()), "")
        return max((_fields(line, letter) for letter in DELIMITERS), key=len)
    except (OSError, UnicodeDecodeError, csv.Error):
        return []


def read_table(file: Path, columns: tuple[str, ...]) -> Table:
    """Every row of a table with its place, once its columns and fields are known to be there.

    The header says whether commas, tabs or semicolons divide the fields. The ids of images are
    those of :func:`image_name`.

    Raises:
        ValueError: a column is missing or stands there twice, a field of one of ``columns`` is
            empty, has spaces around it or control characters in it, a row has more or fewer fields
            than the header, the id of an image is no name of a file, the text is not UTF-8, or its
            quoting is broken.
    """
    line = 1
    try:
        with file.open(newline="", encoding="utf-8-sig") as stream:
            delimiter = _delimiter(stream, columns)
            reader = csv.reader(_without_nul(file, stream), strict=True, delimiter=delimiter)
            header = next((fields for fields in reader if fields), [])
            absent = [name for name in columns if name not in header]
            if absent:
                raise ValueError(
                    f"{file} lacks the column(s) {', '.join(absent)}: it has "
                    f"{', '.join(header) or 'nothing'}"
                )
            twice = [name for name in columns if header.count(name) > 1]
            if twice:
                raise ValueError(f"{file} has the column(s) {', '.join(twice)} twice: remove one")
            line = reader.line_num + 1
            for fields in reader:
                place, line = f"{file}, line {line}", reader.line_num + 1
                if fields:
                    yield place, _row(place, header, fields, columns)
    except UnicodeDecodeError as error:
        raise ValueError(f"{file} is not UTF-8 ({error}): save it as UTF-8") from error
    except csv.Error as error:
        raise ValueError(f"{file}, line {line}: broken quoting ({error})") from error


def _delimiter(stream: TextIO, columns: tuple[str, ...]) -> str:
    """What divides the header into the most of the columns; the stream is then at its start."""
    line = next((line for line in stream if line.strip()), "")
    stream.seek(0)

    def known(letter: str) -> int:
        return len(set(columns) & set(_fields(line, letter)))

    return max(DELIMITERS, key=known)


def _fields(line: str, delimiter: str) -> list[str]:
    return next(csv.reader([line], delimiter=delimiter), [])


def _without_nul(file: Path, lines: Iterable[str]) -> Iterator[str]:
    for line in lines:
        if "\0" in line:
            raise ValueError(f"{file} has NUL characters: save it as UTF-8 text")
        yield line


def _row(
    place: str, header: list[str], fields: list[str], columns: tuple[str, ...]
) -> dict[str, str]:
    """The fields of a row by column."""
    if len(fields) != len(header):
        raise ValueError(f"{place}: {len(fields)} fields for {len(header)} columns; correct it")
    row = dict(zip(header, fields, strict=True))
    empty = [name for name in columns if not row[name]]
    if empty:
        raise ValueError(f"{place}: {', '.join(empty)} is empty; fill it in")
    for name in columns:
        # 'HAM_1 ' would be another lesion than 'HAM_1', and a split by lesion would leak.
        if row[name] != row[name].strip():
            raise ValueError(f"{place}: {name} {row[name]!r} has spaces around it; remove them")
        if has_control_characters(row[name]):
            raise ValueError(f"{place}: {name} {row[name]!r} has control characters; remove them")
        if name in IDS:
            try:
                row[name] = image_name(row[name])
            except ValueError as error:
                raise ValueError(f"{place}: {error}") from error
    return row
