"""The tables of a comparison in Markdown: one of all runtimes, and one for each."""

import statistics
from collections.abc import Mapping, Sequence

from benchmarks.layout import markdown_table
from benchmarks.results import IDENTITY, OWN_SE
from benchmarks.runtimes.results import Result, Row
from benchmarks.runtimes.runtime import SIZES


def tables(result: Result) -> str:
    """All tables, what failed and why, and what was skipped."""
    by_runtime: dict[str, dict[str, Row]] = {}
    for row in result.rows:
        by_runtime.setdefault(row.runtime, {})[row.name] = row
    parts = [_about(result)]
    if len(by_runtime) > 1:
        parts += ["Share of the latency, x own SE's:", _overview(by_runtime)]
    for runtime, rows in by_runtime.items():
        versions = ", ".join(f"{name} {v}" for name, v in result.versions[runtime].items())
        parts += [f"{runtime} ({versions}):", _table(rows), *_failures(rows)]
    parts += [
        f"{runtime} is skipped: {', '.join(packages)} not installed: pip install '.[runtimes]'"
        for runtime, packages in result.skipped.items()
    ]
    return "\n\n".join(parts) + "\n"


def share_over_se(name: str, rows: Mapping[str, Row]) -> float | None:
    """The latency over Identity's, by own SE's over Identity's; medians of the rounds.

    None for those two, and where one of the three has no time.
    """
    wanted = [rows.get(key) for key in (name, OWN_SE, IDENTITY)]
    times = [row.seconds for row in wanted if row is not None and row.seconds]
    if name in (OWN_SE, IDENTITY) or len(times) < len(wanted):
        return None
    ours, its, floor = times
    return _over(ours, floor) / _over(its, floor)


def _over(seconds: Sequence[float], floor: Sequence[float]) -> float:
    """Round by round: a round in which the machine was slow was so for both."""
    return statistics.median(a - b for a, b in zip(seconds, floor, strict=True))


def _about(result: Result) -> str:
    machine, plan = result.machine, result.plan
    return (
        f"{plan.network}, one image of {plan.image_size} px, {plan.threads} threads of "
        f"{machine['processor']}, torch {machine['torch']}, attnblocks {result.attnblocks}"
    )


def _overview(by_runtime: Mapping[str, Mapping[str, Row]]) -> str:
    names = list(dict.fromkeys(name for rows in by_runtime.values() for name in rows))
    lines = [
        [name, *(_in_overview(name, rows) for rows in by_runtime.values())]
        for name in names
        if name not in (OWN_SE, IDENTITY)
    ]
    return markdown_table([["", *by_runtime], *lines])


def _in_overview(name: str, rows: Mapping[str, Row]) -> str:
    if name not in rows:
        return ""
    if rows[name].free is None:
        return "fails"
    share = share_over_se(name, rows)
    cell = "converts" if share is None else f"{share:.2f}"
    return cell if set(rows[name].free or ()) == set(SIZES) else f"{cell} ({_free(rows[name])})"


def _table(rows: Mapping[str, Row]) -> str:
    head = ["", "free", "difference", "operators", "delegates", "ms", "share ms", "x own SE's"]
    lines = [[row.name, *_cells(row, rows)] for row in rows.values()]
    filled = [column for column in zip(head, *lines, strict=True) if any(column[1:])]
    return markdown_table([list(line) for line in zip(*filled, strict=True)])


def _cells(row: Row, rows: Mapping[str, Row]) -> list[str]:
    floor = rows[IDENTITY].seconds if IDENTITY in rows else []
    share = share_over_se(row.name, rows)
    timed = bool(row.seconds and floor and row.name != IDENTITY)
    return [
        _free(row),
        "" if row.difference is None else f"{row.difference:.0e}",
        str(sum(row.operators.values())) if row.operators else "",
        "" if row.delegates is None else str(row.delegates),
        f"{1e3 * statistics.median(row.seconds):.2f}" if row.seconds else "",
        f"{1e3 * _over(row.seconds, floor):.2f}" if timed else "",
        "" if share is None else f"{share:.2f}",
    ]


def _free(row: Row) -> str:
    if row.free is None:
        return "fails"
    return "all" if set(row.free) == set(SIZES) else ", ".join(row.free) or "none"


def _failures(rows: Mapping[str, Row]) -> list[str]:
    lines = [f"- {r.name}, {what}: {why}" for r in rows.values() for what, why in r.failed.items()]
    return ["\n".join(lines)] if lines else []
