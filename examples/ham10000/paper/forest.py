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
    """A forest plot: one block of lines per run, one line per figure.

    Args:
        comparison: see :func:`examples.ham10000.paper.compare.compare`.
    """
    pairs, runs = comparison["comparisons"], comparison["runs"]
    figure = Figure(figsize=(8, 1.6 + 0.25 * BLOCK * len(pairs)), layout="constrained")
    axes = figure.subplots()
    for index, pair in enumerate(pairs):
        title = f"run {pair['run']}: {_short(runs[pair['run'] - 1]['name'])}"
        _draw_block(axes, index * BLOCK, title, pair["differences"])
    lines = [index * BLOCK + 1 + i for index in range(len(pairs)) for i in range(len(NAMES))]
    axes.set_yticks(lines, [*NAMES.values()] * len(pairs), fontsize=9)
    axes.tick_params(axis="y", length=0)
    axes.set_ylim(BLOCK * len(pairs) - 1, -0.7)
    axes.spines[["left", "right", "top"]].set_visible(False)
    level = format_percent(comparison["bootstrap"]["level"])
    axes.set_xlabel(f"difference from run 1, {level} interval; filled where it has no zero")
    pooled = "" if comparison["part"] == "test" else f" of {comparison['part']}"
    figure.suptitle(
        f"{comparison['data']}, {comparison['images']} test images{pooled}\n"
        f"run 1: {_short(runs[0]['name'])}",
        fontsize=10,
        parse_math=False,  # names of folders may hold $
    )
    return figure


def _draw_block(axes: Axes, top: float, title: str, differences: dict[str, Any]) -> None:
    beside = axes.get_yaxis_transform()  # x from 0 to 1 over the axes, y in lines
    axes.text(
        0,
        top,
        title,
        transform=beside,
        va="center",
        fontsize=9,
        fontweight="bold",
        parse_math=False,
    )
    # Not through the titles.
    axes.plot([0, 0], [top + 0.5, top + len(differences) + 0.5], color="black", linewidth=1)
    for line, row in enumerate(differences.values(), start=1):
        (low, high), told = row["interval"], row["told_apart"]
        colour = TOLD if told else OPEN
        axes.plot([low, high], [top + line] * 2, color=colour, linewidth=2)
        axes.plot(
            row["difference"],
            top + line,
            marker="o",
            color=colour,
            markerfacecolor=colour if told else "white",
        )
        text = f"{row['difference']:+.3f} [{low:+.3f}, {high:+.3f}]"
        axes.text(1.02, top + line, text, transform=beside, va="center", fontsize=9)


def _short(name: str) -> str:
    """Its end, which tells runs apart better than its beginning."""
    return name if len(name) <= 84 else f"...{name[-81:]}"


def write_comparison(folder: Path, comparison: dict[str, Any]) -> None:
    """Write ``comparison.json``, ``comparison.png`` and ``comparison.html``.

    Args:
        folder: a new one.
        comparison: see :func:`examples.ham10000.paper.compare.compare`.

    Raises:
        FileExistsError: the folder exists.
    """
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
