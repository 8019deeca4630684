"""The picture of a study."""

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from examples.ham10000.paper.forest import OPEN, TOLD
from examples.ham10000.study.analysis import Analysis, Difference
from examples.ham10000.study.measures import LOG_LOSS

SEEDS = "#b5651d"
"""Colour of an arm trained twice."""

FAR = 3
"""Differences of more than so many times the median reach of intervals are drawn as arrows."""


def forest(analysis: Analysis) -> Figure:
    """The arms with cross entropy against each reference, best first, and seeds below."""
    against = analysis.study.against
    names = [arm.name for arm in analysis.arms("cross-entropy")]
    names.sort(key=lambda name: float(analysis.figures[name][LOG_LOSS][0]))
    seeds = analysis.between_seeds(LOG_LOSS)
    lines = [*names, *seeds]
    panels = [
        {n: analysis.difference(n, other, LOG_LOSS) for n in names if n != other} | seeds
        for other in against
    ]
    reaches = sorted(max(abs(d.low), abs(d.high)) for panel in panels for d in panel.values())
    limit = 1.05 * max(r for r in reaches if r <= FAR * reaches[len(reaches) // 2])
    figure = Figure(figsize=(6.4 * len(against), 1.5 + 0.34 * len(lines)), layout="constrained")
    subplots = figure.subplots(1, len(against), sharex=True, sharey=True)
    for axes, reference, differences in zip(subplots, against, panels, strict=True):
        axes.set_xlim(-limit, limit)
        axes.xaxis.set_major_locator(MaxNLocator(5, symmetric=True))
        axes.axvline(0, color="black", linewidth=1)
        for name, of in differences.items():
            _draw(axes, lines.index(name), of, SEEDS if name in seeds else None)
        axes.text(0, names.index(reference), " reference", va="center", fontsize=9)
        axes.set_xlabel(f"log loss minus that of {reference}; less is better", fontsize=9)
        axes.tick_params(axis="y", length=0)
        axes.spines[["left", "right", "top"]].set_visible(False)
    axes.set_yticks(range(len(lines)), lines, fontsize=9)
    axes.set_ylim(len(lines) - 0.5, -0.5)
    figure.suptitle(
        f"Study {analysis.study.name}: {analysis.images:,} test images of {len(analysis.folds)} "
        "folds, 95 % intervals over lesions; filled where there is no zero in it",
        fontsize=10,
    )
    return figure


def _draw(axes: Axes, line: int, of: Difference, colour: str | None) -> None:
    """One difference; one that is far outside is an arrow at the edge."""
    told = of.low > 0 or of.high < 0
    colour = colour or (TOLD if told else OPEN)
    text = f"{of.value:+.4f} [{of.low:+.4f}, {of.high:+.4f}]"
    beside = axes.get_yaxis_transform()  # x from 0 to 1 over the axes, y in lines
    axes.text(1.02, line, text, transform=beside, va="center", fontsize=9)
    limit = axes.get_xlim()[1]
    if abs(of.value) > limit:
        edge = limit if of.value > 0 else -limit
        arrow = {"arrowstyle": "->", "color": colour, "linewidth": 2}
        axes.annotate("", (edge, line), (0.85 * edge, line), arrowprops=arrow)
        return
    axes.plot([of.low, of.high], [line, line], color=colour, linewidth=2)
    fill = colour if told else "white"
    axes.plot(of.value, line, marker="o", color=colour, markerfacecolor=fill)
