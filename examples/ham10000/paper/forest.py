"""A comparison as files: JSON, a picture, and a page."""

from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from examples.ham10000.files import write_json
from examples.ham10000.paper import gates
from examples.ham10000.paper.words import NAMES, format_p, format_percent
from examples.ham10000.report.page import drawing, write_page
from examples.ham10000.report.plots import save_picture

TOLD, OPEN = "#1f5fa8", "#7a8594"
"""Colours of differences whose interval has no zero, and of the others."""

BLOCK = len(NAMES) + 1.6
"""Height of a run in lines: its name, its figures, and room below."""


def forest(comparison: dict[str, Any]) -> Figure:
    """A forest plot of a comparison: one block of lines per run, one line per figure."""
    pairs, names = comparison["comparisons"], [run["name"] for run in comparison["runs"]]
    # The end of a name tells runs apart better than its beginning.
    names = [name if len(name) <= 84 else f"...{name[-81:]}" for name in names]
    figure = Figure(figsize=(8, 1.6 + 0.25 * BLOCK * len(pairs)), layout="constrained")
    axes = figure.subplots()
    for index, (pair, name) in enumerate(zip(pairs, names[1:], strict=True)):
        _draw_block(axes, index * BLOCK, f"run {pair['run']}: {name}", pair["differences"])
    lines = [index * BLOCK + 1 + i for index in range(len(pairs)) for i in range(len(NAMES))]
    axes.set_yticks(lines, [*NAMES.values()] * len(pairs), fontsize=9)
    axes.tick_params(axis="y", length=0)
    axes.set_ylim(BLOCK * len(pairs) - 1, -0.7)
    axes.spines[["left", "right", "top"]].set_visible(False)
    level = format_percent(comparison["bootstrap"]["level"])
    axes.set_xlabel(f"difference from run 1, {level} interval; filled where it has no zero")
    pooled = "" if comparison["part"] == "test" else f" of {comparison['part']}"
    title = f"{comparison['data']}, {comparison['images']} test images{pooled}\nrun 1: {names[0]}"
    figure.suptitle(title, fontsize=10, parse_math=False)  # names of folders may hold $
    return figure


def _draw_block(axes: Axes, top: float, title: str, differences: dict[str, Any]) -> None:
    # x from 0 to 1 over the axes, y in lines
    style: dict[str, Any] = {"transform": axes.get_yaxis_transform(), "va": "center", "fontsize": 9}
    axes.text(0, top, title, fontweight="bold", parse_math=False, **style)
    # Not through the titles.
    axes.plot([0, 0], [top + 0.5, top + len(differences) + 0.5], color="black", linewidth=1)
    for line, row in enumerate(differences.values(), start=1):
        (low, high), difference, y = row["interval"], row["difference"], top + line
        colour = TOLD if row["told_apart"] else OPEN
        fill = colour if row["told_apart"] else "white"
        axes.plot([low, high], [y, y], color=colour, linewidth=2)
        axes.plot(difference, y, marker="o", color=colour, markerfacecolor=fill)
        axes.text(1.02, y, f"{difference:+.3f} [{low:+.3f}, {high:+.3f}]", **style)


def write_comparison(folder: Path, comparison: dict[str, Any]) -> None:
    """Write ``comparison.json``, ``.png`` and ``.html`` to a new folder, else FileExistsError."""
    folder.mkdir(parents=True)
    write_json(folder / "comparison.json", comparison)
    picture = forest(comparison)
    save_picture(picture, folder / "comparison.png")
    write_page(
        folder / "comparison.html",
        "compare.html",
        synthetic=comparison["data"].startswith("SYNTHETIC"),
        comparison=comparison,
        level=format_percent(comparison["bootstrap"]["level"]),
        names=NAMES,
        format_p=format_p,
        gates=gates,
        picture=drawing(picture, "The differences with their intervals, as in the table below"),
    )
