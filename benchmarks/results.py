"""The file of a result: what was measured, on what, and every figure of every round."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from attnblocks import __version__
from benchmarks.files import write_json
from benchmarks.settings import Settings
from benchmarks.timing import Measured, quartiles

OWN_SE = "own SE"
TORCHVISION_SE = "torchvision SE"
IDENTITY = "identity"
COPY = "copy"
PUBLISHED = "published "
"""Names of rows; the last begins those of the published forms."""

BLOCKS = ("SE", "Eca", "CBAM", "CoordAtt", "SeCo", "CaCo")
"""Ours, in the order of the tables."""

TIMM = {"SE": "timm se", "Eca": "timm eca", "CBAM": "timm cbam", "CoordAtt": "timm coord"}
"""Names of timm's rows, by the block that each is compared with."""

ALL_SITES = "all sites"
NETWORK = "network"
VERSION = 1

Group = tuple[str, int | None, int | None, str, int | None]
"""Memory format, batch, image size, place and channels; None is what does not have one value."""


@dataclass(frozen=True)
class Row:
    """The figures of one block in one group.

    Attributes:
        name: the block.
        memory_format: its name.
        batch: images.
        image_size: pixels.
        where: name of the site, or ``"all sites"``, or ``"network"``.
        channels: of the map; None where there are several.
        seconds: the time of a run, in each round.
        figures: what is not a time, by name: ``parameters``, ``map_bytes`` of the maps that come
            in, ``maps`` read and written (by count of those that come in), ``saved_bytes`` kept
            for backward, ``peak_bytes`` of the CUDA allocator, ``flops`` of one image.
    """

    name: str
    memory_format: str
    batch: int
    image_size: int
    where: str
    channels: int | None
    seconds: list[float]
    figures: dict[str, float] = field(default_factory=dict)

    @property
    def group(self) -> Group:
        """What it shares with those that it is compared with."""
        return (self.memory_format, self.batch, self.image_size, self.where, self.channels)

    @property
    def median(self) -> float:
        """Median seconds over the rounds."""
        return quartiles(self.seconds)[1]


@dataclass(frozen=True)
class Result:
    """A whole run of a benchmark.

    Attributes:
        benchmark: ``"blocks"`` or ``"models"``.
        machine: its description, without names or places of its own.
        settings: what the benchmark was told.
        rows: the figures.
        sweep: what grows from group to group, if that is what was asked for.
        attnblocks: version of the library.
    """

    benchmark: str
    machine: dict[str, Any]
    settings: Settings
    rows: list[Row]
    sweep: str | None = None
    attnblocks: str = __version__

    def groups(self) -> dict[Group, dict[str, Row]]:
        """Rows by name, by group, in the order of measurement."""
        groups: dict[Group, dict[str, Row]] = {}
        for row in self.rows:
            groups.setdefault(row.group, {})[row.name] = row
        return groups


def new_rows(
    group: tuple[str, int, int, str, int | None],
    figures: Mapping[str, dict[str, float]],
    measured: Mapping[str, Measured],
) -> list[Row]:
    """The rows of a group, from what was counted and timed of each candidate."""
    return [
        Row(name, *group, measured[name].seconds, {**counted, **measured[name].figures})
        for name, counted in figures.items()
    ]


def share(row: Row, rows: Mapping[str, Row]) -> list[float]:
    """Seconds over the network with Identity at its sites, round by round; empty without one."""
    if IDENTITY not in rows or row.name == IDENTITY:
        return []
    floor = rows[IDENTITY].seconds
    return [with_it - without for with_it, without in zip(row.seconds, floor, strict=True)]


def title(group: Group) -> str:
    """What a group is, in words."""
    memory_format, batch, size, where, channels = group
    parts = [
        where,
        f"{channels} channels" if channels else "",
        memory_format,
        f"batch {batch}" if batch else "",
        f"{size} px" if size else "",
    ]
    return ", ".join(filter(None, parts))


def save_result(result: Result, path: Path) -> None:
    """Write the file, whole or not at all."""
    write_json(path, {"version": VERSION, **asdict(result)})


def load_result(path: Path) -> Result:
    """Read a file.

    Raises:
        ValueError: it is not there, or no such result.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(f"cannot read {path}: {error.strerror}") from error
    except ValueError as error:
        raise ValueError(f"{path} is no result of a benchmark: {error}") from error
    try:
        if content.pop("version") != VERSION:
            raise ValueError(f"its version is not {VERSION}")
        content["settings"] = Settings(**content["settings"])
        content["rows"] = [Row(**row) for row in content["rows"]]
        result = Result(**content)
        _check(result)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} is no result of a benchmark: {error}") from error
    return result


def _check(result: Result) -> None:
    """Look at what the reports build on: a file may be anybody's."""
    wanted: Sequence[tuple[str, object, Callable[[Any], bool]]] = [
        ("benchmark", result.benchmark, lambda v: v in ("blocks", "models")),
        ("machine", result.machine, lambda v: isinstance(v, Mapping)),
        ("rows", result.rows, bool),
    ]
    for name, value, fits in wanted:
        if not fits(value):
            raise ValueError(f"{name} is {value!r}")
    for row in result.rows:
        if not row.seconds or not all(isinstance(s, float) and s > 0 for s in row.seconds):
            raise ValueError(f"seconds of {row.name!r} are {row.seconds!r}")
