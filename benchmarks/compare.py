"""Show regressions between two results: ``python -m benchmarks.compare OLD.json NEW.json``.

A time is a regression if its median has grown by more than the threshold, and more than the rounds
spread: the quartiles of old and new do not touch. Bytes and passes are counted and have no spread.
The exit code is 1 if there are regressions, and 2 if the files cannot be compared.
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks.results import Group, Result, Row, load_result, title
from benchmarks.settings import UsageError, factor
from benchmarks.timing import quartiles

EFFORT = ("rounds", "min_run_time")  # settings that change the spread, and not the time
COUNTED = ("maps", "saved_bytes", "peak_bytes")


@dataclass(frozen=True)
class Change:
    """One figure of one row in both results.

    Attributes:
        group: the group of the row.
        name: the block.
        figure: ``"seconds"``, or the name of what is counted.
        old: its value before; the median of a time.
        new: its value now.
        apart: whether the difference is more than the spread.
    """

    group: Group
    name: str
    figure: str
    old: float
    new: float
    apart: bool

    @property
    def ratio(self) -> float:
        """New over old."""
        return self.new / self.old

    def regressed(self, threshold: float) -> bool:
        """Whether it has grown by more than the threshold and the spread."""
        return self.apart and self.ratio > threshold

    def __str__(self) -> str:
        old, new, unit = self.old, self.new, ""
        if self.figure == "seconds":
            old, new, unit = 1e3 * old, 1e3 * new, " ms"
        what = "" if self.figure == "seconds" else f" {self.figure}"
        return f"{self.name}{what}: {old:.4g} to {new:.4g}{unit}, ratio {self.ratio:.3f}"


def check_comparable(old: Result, new: Result, *, across_machines: bool) -> None:
    """Raise UsageError where a difference would not be one of the code."""
    if old.benchmark != new.benchmark:
        raise UsageError(f"one is a result of {old.benchmark}, the other of {new.benchmark}")
    before, after = asdict(old.settings), asdict(new.settings)
    if changed := _differences(before, after, but=EFFORT):
        raise UsageError(f"the settings differ: {changed}")
    changed = _differences(old.machine, new.machine)
    if changed and not across_machines:
        raise UsageError(f"the machines differ: {changed}; --across-machines compares all the same")


def _differences(old: dict[str, object], new: dict[str, object], but: Sequence[str] = ()) -> str:
    keys = [k for k in {**old, **new} if k not in but and old.get(k) != new.get(k)]
    return ", ".join(f"{key} {old.get(key)!r} and {new.get(key)!r}" for key in keys)


def compare(old: Result, new: Result) -> list[Change]:
    """All figures that both results have.

    Raises:
        UsageError: there are none.
    """
    before = {(row.group, row.name): row for row in old.rows}
    after = {(row.group, row.name): row for row in new.rows}
    pairs = [(before[key], row) for key, row in after.items() if key in before]
    if not pairs:
        raise UsageError("the files have no row in common")
    return [change for pair in pairs for change in _changes(*pair)]


def _changes(old: Row, new: Row) -> list[Change]:
    apart = quartiles(new.seconds)[0] > quartiles(old.seconds)[2]
    changes = [Change(new.group, new.name, "seconds", old.median, new.median, apart)]
    for figure in COUNTED:
        before, after = old.figures.get(figure), new.figures.get(figure)
        if before and after is not None:
            changes.append(Change(new.group, new.name, figure, before, after, after > before))
    return changes


def main(arguments: Sequence[str] | None = None) -> None:
    """Print all ratios, then the regressions."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.compare", description=__doc__)
    parser.add_argument("old", type=Path, metavar="OLD.json")
    parser.add_argument("new", type=Path, metavar="NEW.json")
    parser.add_argument("--threshold", type=factor, default=1.1, help="new over old (1.1)")
    parser.add_argument(
        "--across-machines", action="store_true", help="compare though processor or versions differ"
    )
    options = parser.parse_args(arguments)
    try:
        old, new = load_result(options.old), load_result(options.new)
        check_comparable(old, new, across_machines=options.across_machines)
        changes = compare(old, new)
    except ValueError as error:
        parser.error(str(error))
    group = None
    for change in changes:
        if change.group != group:
            group = change.group
            print(title(group))
        print(f"  {change}")
    regressions = [change for change in changes if change.regressed(options.threshold)]
    both = {(change.group, change.name) for change in changes}
    single = [row for row in (*old.rows, *new.rows) if (row.group, row.name) not in both]
    print(f"\n{len(both)} rows compared, {len(single)} are in one file only")
    print(f"{len(regressions)} regressions beyond {options.threshold}")
    for change in regressions:
        print(f"  {title(change.group)}: {change}")
    sys.exit(bool(regressions))


if __name__ == "__main__":
    main()
