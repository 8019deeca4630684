"""The picture of a study."""

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from examples.ham10000.paper.differences import draw_difference, name_lines
from examples.ham10000.study.analysis import Analysis
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
            colour = SEEDS if name in seeds else ""
            draw_difference(axes, lines.index(name), of, 4, limit, colour)
        axes.text(0, names.index(reference), " reference", va="center", fontsize=9)
        axes.set_xlabel(f"log loss minus that of {reference}; less is better", fontsize=9)
        name_lines(axes, dict(enumerate(lines)), len(lines) - 0.5)
    figure.suptitle(
        f"Study {analysis.study.name}: {analysis.images:,} test images of {len(analysis.folds)} "
        "folds, 95 % intervals over lesions; filled where there is no zero in it",
        fontsize=10,
    )
    return figure
