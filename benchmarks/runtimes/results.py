"""The file of a comparison of runtimes: what was converted, how well it agrees, and every time."""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from attnblocks import __version__
from benchmarks.files import write_json

VERSION = 1


@dataclass(frozen=True)
class Plan:
    """What a comparison was told.

    Attributes:
        network: name of the network.
        image_size: pixels of the square images that are converted with, and timed.
        threads: of every runtime.
        rounds: how often all networks of a runtime are timed in turn.
        min_run_time: seconds of each timing, at least.
    """

    network: str = "mobilenet_v3_small"
    image_size: int = 224
    threads: int = 1
    rounds: int = 15
    min_run_time: float = 0.1


@dataclass(frozen=True)
class Row:
    """What became of one network in one runtime.

    Attributes:
        runtime: its name.
        name: what stands at the SE sites.
        free: which sizes are free in the freest conversion that agrees with torch; None where
            there is none.
        difference: the largest to torch at all sizes that were tried, by the largest value of
            torch's output; None where the runtime cannot run here.
        operators: how many of each name there are in what runs, converted without free sizes.
        delegates: parts that another engine runs, likewise.
        seconds: latency of one image, in each round, likewise.
        failed: why others were not taken, by what was tried.
    """

    runtime: str
    name: str
    free: list[str] | None = None
    difference: float | None = None
    operators: dict[str, int] = field(default_factory=dict)
    delegates: int | None = None
    seconds: list[float] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Result:
    """A comparison.

    Attributes:
        machine: its description, without names or places of its own.
        plan: what it was told.
        versions: of the packages of every runtime.
        skipped: packages that are missing, by runtime.
        rows: of every runtime and network.
        attnblocks: version of the library.
    """

    machine: dict[str, Any]
    plan: Plan
    versions: dict[str, dict[str, str | None]]
    skipped: dict[str, list[str]]
    rows: list[Row]
    attnblocks: str = __version__


def save(result: Result, path: Path) -> None:
    """Write the file, whole or not at all."""
    write_json(path, {"version": VERSION, "benchmark": "runtimes", **asdict(result)})


def load(path: Path) -> Result:
    """Read a file.

    Raises:
        ValueError: it is not there, or no such result.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        kind = content.pop("benchmark"), content.pop("version")
        if kind != ("runtimes", VERSION):
            raise ValueError(f"benchmark and version are {kind}, not {('runtimes', VERSION)}")
        content["plan"] = Plan(**content["plan"])
        content["rows"] = [Row(**row) for row in content["rows"]]
        return Result(**content)
    except OSError as error:
        raise ValueError(f"cannot read {path}: {error.strerror}") from error
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} is no comparison of runtimes: {error}") from error
