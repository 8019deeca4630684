"""Plots of a result: a bar for every block, or a curve where a sweep was measured."""

from collections.abc import Mapping
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.results import (
    BLOCKS,
    COPY,
    OWN_SE,
    PUBLISHED,
    TIMM,
    TORCHVISION_SE,
    Group,
    Result,
    Row,
    share,
    title,
)
from benchmarks.timing import quartiles

OURS, THEIRS, LIBRARY, SE_COLOR, FLOOR = "tab:blue", "tab:orange", "tab:green", "0.3", "0.6"
AXES = {"image_size": "image, pixels", "batch": "images in a batch", "channels": "channels"}


def draw(result: Result, folder: Path) -> list[Path]:
    """Draw the result into PNG files, one for each group, or each curve."""
    groups = result.groups()
    if result.sweep is None:
        figures = {
            _name(result, group): _bars(result, group, rows) for group, rows in groups.items()
        }
    else:
        figures = {
            _name(result, fixed): _curves(result, fixed, points)
            for fixed, points in _swept(groups, result.sweep).items()
        }
    files = []
    for name, figure in figures.items():
        files.append(folder / f"{name}.png")
        figure.savefig(files[-1], dpi=120)
    return files


def _name(result: Result, group: Group) -> str:
    sweep = [] if result.sweep is None else [f"by-{result.sweep}"]
    words = [result.benchmark, *sweep, *(str(value) for value in group if value is not None)]
    return "-".join(words).replace(" ", "-").replace("_", "-")


def _bars(result: Result, group: Group, rows: Mapping[str, Row]) -> Figure:
    """Time of every block by itself, or its share of a network; whiskers are quartiles."""
    whole = result.benchmark == "models"
    times = {name: share(row, rows) if whole else row.seconds for name, row in rows.items()}
    stacks = [
        {OWN_SE: SE_COLOR, TORCHVISION_SE: SE_COLOR},
        *({b: OURS, PUBLISHED + b: THEIRS, TIMM.get(b, ""): LIBRARY} for b in BLOCKS),
        {COPY: FLOOR},
    ]
    figure = Figure(figsize=(8, 0.9 + 0.3 * len(times)), layout="constrained")
    axes = figure.subplots()
    place, ticks = 0.0, {}
    for stack in stacks:
        for name, color in stack.items():
            if times.get(name):
                first, middle, third = (1e3 * value for value in quartiles(times[name]))
                error = [[middle - first], [third - middle]]
                axes.barh(place, middle, xerr=error, color=color, height=0.85)
                axes.text(third, place, f"  {middle:#.3g}".rstrip("."), va="center", fontsize=8)
                ticks[name], place = place, place + 1
        place += 0.5
    axes.set_yticks(list(ticks.values()), list(ticks))
    axes.invert_yaxis()
    axes.margins(x=0.1, y=0.01)
    label = "share over Identity, ms" if whole else "ms"
    axes.set_xlabel(f"{label}: median and quartiles of the rounds")
    axes.set_title(_head(result, group), fontsize=9)
    axes.grid(axis="x", alpha=0.3)
    return figure


def _head(result: Result, group: Group) -> str:
    return f"{title(group)}\n{result.settings}, {result.machine['threads']} threads"


def _swept(
    groups: Mapping[Group, Mapping[str, Row]], sweep: str
) -> dict[Group, dict[int, Mapping[str, Row]]]:
    """Groups that differ only in what grows, by the rest of them, then by its value."""
    curves: dict[Group, dict[int, Mapping[str, Row]]] = {}
    for (memory_format, batch, size, where, channels), rows in groups.items():
        fixed: Group = (
            memory_format,
            None if sweep == "batch" else batch,
            None if sweep == "image_size" else size,
            where,
            None if sweep == "channels" else channels,
        )
        value: int = getattr(next(iter(rows.values())), sweep)
        curves.setdefault(fixed, {})[value] = rows
    return curves


def _curves(result: Result, fixed: Group, points: Mapping[int, Mapping[str, Row]]) -> Figure:
    """A panel for every block, with its peers; both axes are logarithmic."""
    figure = Figure(figsize=(11, 6.5), layout="constrained")
    panels = figure.subplots(2, 3, sharex=True, sharey=True)
    for axes, block in zip(panels.flat, BLOCKS, strict=True):
        _line(axes, points, COPY, "copy of the map", FLOOR, ":")
        _line(axes, points, TORCHVISION_SE, TORCHVISION_SE, SE_COLOR, "--")
        _line(axes, points, PUBLISHED + block, "published", THEIRS, "-")
        if block in TIMM:
            _line(axes, points, TIMM[block], "timm", LIBRARY, "-")
        _line(axes, points, block, "ours", OURS, "-")
        axes.set(title=block, xscale="log", yscale="log")
        axes.set_xticks(list(points), [str(value) for value in points])
        axes.minorticks_off()
        axes.grid(alpha=0.3)
    for axes in panels[1]:
        axes.set_xlabel(AXES[result.sweep or ""])
    for axes in panels[:, 0]:
        axes.set_ylabel("ms")
    handles, labels = panels[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels))
    figure.suptitle(_head(result, fixed), fontsize=9)
    return figure


def _line(
    axes: Axes,
    points: Mapping[int, Mapping[str, Row]],
    name: str,
    label: str,
    color: str,
    style: str,
) -> None:
    known = {value: rows[name] for value, rows in points.items() if name in rows}
    if not known:
        return
    middle = [1e3 * row.median for row in known.values()]
    axes.plot(list(known), middle, style, marker=".", color=color, label=label)
