"""Tables of a result, for the terminal and in Markdown; ``python -m benchmarks.report FILE.json``.

The documentation takes its tables and plots from here, so that it holds what was measured.
"""

import argparse
import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from benchmarks.layout import aligned_table, markdown_table
from benchmarks.plots import draw
from benchmarks.results import (
    COPY,
    IDENTITY,
    OWN_SE,
    PUBLISHED,
    TORCHVISION_SE,
    Result,
    Row,
    load_result,
    save_result,
    share,
    title,
)
from benchmarks.settings import check_output
from benchmarks.timing import quartiles

Rows = Mapping[str, Row]
Column = Callable[[Row, Rows], str]
MIB = 2**20
HEAVY = ("CBAM", "CoordAtt", "SeCo", "CaCo")
"""The blocks that pass over the map more often than SE, in their published forms."""


def _ms(seconds: float) -> str:
    """Three digits where there are some behind the point, and at most three there."""
    value = 1e3 * seconds
    decimals = sum(abs(value) < limit for limit in (100, 10, 1))
    return f"{value:.{decimals}f}"


def _spread(values: list[float]) -> str:
    if not values:
        return ""
    first, _, third = quartiles(values)
    return f"{_ms(first)} to {_ms(third)}"


def _ratio(value: float | None, base: float | None) -> str:
    return f"{value / base:.2f}" if value is not None and base else ""


def _over(name: str) -> Column:
    def cell(row: Row, rows: Rows) -> str:
        return _ratio(row.median, rows[name].median if name in rows else None)

    return cell


def _over_published(row: Row, rows: Rows) -> str:
    peer = rows.get(PUBLISHED + row.name)
    return _ratio(row.median, peer.median if peer else None)


def _figure(name: str, form: str, scale: float = 1) -> Column:
    def cell(row: Row, rows: Rows) -> str:
        return format(row.figures[name] * scale, form) if name in row.figures else ""

    return cell


def _bandwidth(row: Row, rows: Rows) -> str:
    if not row.figures.get("maps"):
        return ""
    return f"{row.figures['maps'] * row.figures['map_bytes'] / row.median / 1e9:.1f}"


def _roofline(row: Row, rows: Rows) -> str:
    if not row.figures.get("maps") or COPY not in rows:
        return ""
    least = row.figures["maps"] / rows[COPY].figures["maps"] * rows[COPY].median
    return _ratio(least, row.median)


def _share(row: Row, rows: Rows) -> str:
    values = share(row, rows)
    return _ms(statistics.median(values)) if values else ""


def _share_over_se(row: Row, rows: Rows) -> str:
    ours, peers = share(row, rows), share(rows[OWN_SE], rows)
    return _ratio(statistics.median(ours), statistics.median(peers)) if ours and peers else ""


def _saved_share(row: Row, rows: Rows) -> str:
    if IDENTITY not in rows or row.name == IDENTITY or "saved_bytes" not in row.figures:
        return ""
    ours, floor, peers = (r.figures["saved_bytes"] for r in (row, rows[IDENTITY], rows[OWN_SE]))
    return _ratio(ours - floor, peers - floor)


TIME: dict[str, Column] = {
    "ms": lambda row, rows: _ms(row.median),
    "quartiles": lambda row, rows: _spread(row.seconds),
}
MEMORY: dict[str, Column] = {
    "saved MiB": _figure("saved_bytes", ".1f", 1 / MIB),
    "peak MiB": _figure("peak_bytes", ".1f", 1 / MIB),
}
COLUMNS: dict[str, dict[str, Column]] = {
    "blocks": {
        **TIME,
        "x SE": _over(TORCHVISION_SE),
        "x published": _over_published,
        "x copy": _over(COPY),
        "maps": _figure("maps", ".1f"),
        "GB/s": _bandwidth,
        "roofline": _roofline,
        **MEMORY,
        "parameters": _figure("parameters", ",.0f"),
    },
    "models": {
        **TIME,
        "images/s": lambda row, rows: f"{row.batch / row.median:.0f}",
        "share ms": _share,
        "its quartiles": lambda row, rows: _spread(share(row, rows)),
        "x SE's": _share_over_se,
        **MEMORY,
        "share saved, x SE's": _saved_share,
        "GFLOPs": _figure("flops", ".4f", 1e-9),
        "parameters": _figure("parameters", ",.0f"),
    },
}


def tables(result: Result, *, markdown: bool = False) -> str:
    """A table for every group of the result, under a line that says what it is."""
    layout = markdown_table if markdown else aligned_table
    parts = []
    for group, rows in result.groups().items():
        head = f"{title(group)}: {result.settings}, {result.machine['threads']} threads"
        columns = COLUMNS[result.benchmark]
        cells = [
            [row.name, *(column(row, rows) for column in columns.values())] for row in rows.values()
        ]
        filled = [column for column in zip(["", *columns], *cells, strict=True) if any(column[1:])]
        parts.append(f"{head}\n\n{layout([list(line) for line in zip(*filled, strict=True)])}")
        pairs = [(rows.get(name), rows.get(PUBLISHED + name)) for name in HEAVY]
        if result.benchmark == "blocks" and all(ours and peer for ours, peer in pairs):
            ratios = [ours.median / peer.median for ours, peer in pairs if ours and peer]
            mean = statistics.geometric_mean(ratios)
            parts.append(f"x published, geometric mean of {', '.join(HEAVY)}: {mean:.2f}")
    return "\n\n".join(parts) + "\n"


def publish(result: Result, out: Path | None, plots: Path | None) -> None:
    """Write the file and the plots, as far as they are asked for."""
    if out is not None:
        save_result(result, out)
    if plots is not None:
        for file in draw(result, plots):
            print(file)


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the tables of a file, and draw it."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.report", description=__doc__)
    parser.add_argument("file", type=Path, metavar="FILE.json")
    parser.add_argument("--markdown", action="store_true", help="tables in Markdown")
    parser.add_argument("--plots", type=Path, metavar="DIR", help="draw them into this folder")
    options = parser.parse_args(arguments)
    try:
        check_output(None, options.plots)
        result = load_result(options.file)
        text = tables(result, markdown=options.markdown)
    except ValueError as error:
        parser.error(str(error))
    about = ", ".join(f"{key} {value}" for key, value in result.machine.items() if value)
    print(f"{about}, attnblocks {result.attnblocks}\n\n{text}")
    publish(result, None, options.plots)


if __name__ == "__main__":
    main()
