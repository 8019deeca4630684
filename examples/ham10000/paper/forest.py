"""A comparison as files: JSON, a picture, and a page."""

from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from examples.ham10000.files import moved_into_place, write_json
from examples.ham10000.paper import gates
from examples.ham10000.paper.differences import (
    Difference,
    draw_difference,
    name_lines,
    write_beside,
)
from examples.ham10000.paper.words import NAMES, format_p, format_percent
from examples.ham10000.report.page import drawing, write_page
from examples.ham10000.report.plots import save_picture

BLOCK = len(NAMES) + 1.6
"""Height of a run in lines: its name, its figures, and room below."""


def forest(comparison: dict[str, Any]) -> Figure:
    """A forest plot of a comparison: one block of lines per run, one line per figure."""
    pairs, names = comparison["comparisons"], [run["name"] for run in comparison["runs"]]
    # The end of a name tells runs apart better than its beginning.
    names = [name if len(name) <= 84 else f"...{name[-81:]}" for name in names]
    figure = Figure(figsize=(8, 1.6 + 0.25 * BLOCK * len(pairs)), layout="constrained")
    axes = figure.subplots()
    lines = {}
    for index, (pair, name) in enumerate(zip(pairs, names[1:], strict=True)):
        top = index * BLOCK
        write_beside(axes, 0, top, f"run {pair['run']}: {name}", "bold")
        # Not through the titles.
        axes.plot([0, 0], [top + 0.5, top + len(NAMES) + 0.5], color="black", linewidth=1)
        for line, (figure_name, row) in enumerate(pair["differences"].items(), start=1):
            lines[top + line] = NAMES[figure_name]
            draw_difference(axes, top + line, Difference(row["difference"], *row["interval"]), 3)
    name_lines(axes, lines, BLOCK * len(pairs) - 1)
    level = format_percent(comparison["bootstrap"]["level"])
    axes.set_xlabel(f"difference from run 1, {level} interval; filled where it has no zero")
    pooled = "" if comparison["part"] == "test" else f" of {comparison['part']}"
    title = f"{comparison['data']}, {comparison['images']} test images{pooled}\nrun 1: {names[0]}"
    figure.suptitle(title, fontsize=10, parse_math=False)  # names of folders may hold $
    return figure


def write_comparison(folder: Path, comparison: dict[str, Any]) -> None:
    """Write ``comparison.json``, ``.png`` and ``.html`` to a new folder, whole or not at all."""
    picture = forest(comparison)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with moved_into_place(folder) as partial:
        partial.mkdir()
        write_json(partial / "comparison.json", comparison)
        save_picture(picture, partial / "comparison.png")
        write_page(
            partial / "comparison.html",
            "compare.html",
            synthetic=comparison["data"].startswith("SYNTHETIC"),
            comparison=comparison,
            level=format_percent(comparison["bootstrap"]["level"]),
            names=NAMES,
            format_p=format_p,
            gates=gates,
            picture=drawing(picture, "The differences with their intervals, as in the table below"),
        )
