"""Tables as people have them: with commas, tabs or semicolons, and ids that are paths of images."""

import csv
import io
import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from examples.ham10000.data.images import NOT_DECODED, SUFFIXES

IDS = ("image_id", "image", "image_id_1", "image_id_2")
"""Columns with ids of images."""

DELIMITERS = ",\t;"


def find_table(files: Iterable[Path], name: str) -> list[Path]:
    """The tables of that name that lie highest, in any case, with any suffix of a table or none.

    What browsers put behind the name of a second download, such as "(1)", does not matter.
    """
    pattern = re.compile(rf"{re.escape(Path(name).stem)}( ?\(\d+\))?(\.(csv|tab|tsv|txt))*", re.I)
    found = [file for file in files if pattern.fullmatch(file.name)]
    highest = min((len(file.parts) for file in found), default=0)
    return [file for file in found if len(file.parts) == highest]


def read_tables(files: list[Path], columns: tuple[str, ...]) -> list[tuple[str, dict[str, str]]]:
    """The rows of a table that may lie there several times; a ValueError where copies differ."""
    tables = [list(read_table(file, columns)) for file in files]
    said = [sorted([row[name] for name in columns] for _, row in rows) for rows in tables]
    for file, other in zip(files, said, strict=True):
        if other != said[0]:
            raise ValueError(f"{files[0]} and {file} differ: remove the one that is wrong")
    return tables[0]


def image_name(text: str, place: str) -> str:
    """The id of an image, of which a table may have the path, with either separator, and suffix.

    A text without a name, or one that leads out of the folder, is a ValueError with the place.
    """
    parts = re.split(r"[/\\]", text)
    name = without_suffix(parts[-1])
    # Of a whole path only the name counts, but "/ISIC_0024306" is no path of an image.
    rooted = len(parts) == 2 and not parts[0] and name == parts[-1]
    if name in ("", ".") or ".." in parts or rooted:
        raise ValueError(f"{place}: image id {text!r} is no name of a file")
    return name


def without_suffix(name: str) -> str:
    """The name of a file without the suffix of an image."""
    while name.lower().endswith((*SUFFIXES, *NOT_DECODED)):
        name = name.rpartition(".")[0]
    return name


def some(names: Sequence[str], most: int = 5, between: str = ", ") -> str:
    """The first names, and how many more there are."""
    more = len(names) - most
    return between.join(names[:most]) + (f" and {more} more" if more > 0 else "")


def has_control_characters(name: str) -> bool:
    """Whether a name has line ends or the like, which not every reader of CSV gives back."""
    return any(unicodedata.category(letter) == "Cc" for letter in name)


def read_header(file: Path) -> list[str]:
    """The columns of a table; none where it is no text."""
    try:
        with file.open(newline="", encoding="utf-8-sig") as stream:
            return max(_headers(stream).values(), key=len)
    except (OSError, UnicodeDecodeError, csv.Error):
        return []


def _headers(lines: Iterable[str]) -> dict[str, list[str]]:
    """The first line with text in it, as each of the delimiters divides it."""
    line = next((line for line in lines if line.strip()), "")
    return {letter: next(csv.reader([line], delimiter=letter), []) for letter in DELIMITERS}


def read_table(file: Path, columns: tuple[str, ...]) -> Iterator[tuple[str, dict[str, str]]]:
    """Every row of a table with its place (``FILE, line 2``) once its columns are there.

    Fields are divided by what divides the header into the most of ``columns``. Ids of images are
    those of :func:`image_name`. Whatever is wrong with the text, the header or a field of one of
    ``columns`` is a ValueError that names file and line.
    """
    line = 1
    try:
        text = file.read_bytes().decode("utf-8-sig")
        if "\0" in text:
            raise ValueError(f"{file} has NUL characters: save it as UTF-8 text")
        headers = _headers(io.StringIO(text, newline=""))
        known = {letter: len({*columns} & {*header}) for letter, header in headers.items()}
        delimiter = max(known, key=known.__getitem__)
        reader = csv.reader(io.StringIO(text, newline=""), strict=True, delimiter=delimiter)
        header = next(filter(None, reader), [])
        if absent := [name for name in columns if name not in header]:
            there = ", ".join(header) or "nothing"
            raise ValueError(f"{file} lacks the column(s) {', '.join(absent)}: it has {there}")
        if twice := [name for name in columns if header.count(name) > 1]:
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


def _row(
    place: str, header: list[str], fields: list[str], columns: tuple[str, ...]
) -> dict[str, str]:
    if len(fields) != len(header):
        raise ValueError(f"{place}: {len(fields)} fields for {len(header)} columns; correct it")
    row = dict(zip(header, fields, strict=True))
    for name in columns:
        text = row[name]
        if not text:
            raise ValueError(f"{place}: {name} is empty; fill it in")
        # 'HAM_1 ' would be another lesion than 'HAM_1', and a split by lesion would leak.
        if text != text.strip():
            raise ValueError(f"{place}: {name} {text!r} has spaces around it; remove them")
        if has_control_characters(text):
            raise ValueError(f"{place}: {name} {text!r} has control characters; remove them")
        row[name] = image_name(text, place) if name in IDS else text
    return row
