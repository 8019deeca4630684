"""Paired differences with their intervals: computed, adjusted for one another, and drawn."""

from collections.abc import Mapping, Sequence
from math import inf, nan
from typing import Any, NamedTuple

import numpy as np
import torch
from matplotlib.axes import Axes
from numpy.typing import NDArray

from examples.ham10000.metrics import interval

TOLD, OPEN = "#1f5fa8", "#7a8594"
"""Colours of differences whose interval has no zero, and of the others."""


class Difference(NamedTuple):
    """One figure minus another on the same images, with its interval.

    ``error`` is the standard deviation over the draws, ``p`` twice the share of the draws on the
    other side of zero; NaN where only the interval is known.
    """

    value: float
    low: float
    high: float
    error: float = nan
    p: float = nan

    @property
    def told_apart(self) -> bool:
        """Whether the interval has no zero."""
        return self.low > 0 or self.high < 0

    def text(self, digits: int, scale: int = 1) -> str:
        """Such as ``+0.012 [-0.001, +0.025]``."""
        value, low, high = (f"{scale * v:+.{digits}f}" for v in self[:3])
        return f"{value} [{low}, {high}]"


def differ(one: NDArray[np.float64], other: NDArray[np.float64], level: float = 0.95) -> Difference:
    """What the draws say of a difference of two figures, whose values stand before their draws."""
    value, draws = float(one[0] - other[0]), one[1:] - other[1:]
    low, high = interval(torch.from_numpy(draws), level)
    tail = min((draws <= 0).sum(), (draws >= 0).sum())
    p = min(1.0, 2 * float(tail + 1) / (len(draws) + 1))
    return Difference(value, low, high, float(draws.std(ddof=1)), p)


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjusted p-values: with 5 %, all rejections together are right with 95 %."""
    adjusted = [0.0] * len(p_values)
    largest = 0.0
    for rank, i in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[i]))
        adjusted[i] = largest
    return adjusted


def name_lines(axes: Axes, lines: Mapping[float, str], bottom: float) -> None:
    """Prepare the axes of a forest plot, whose lines have names, from 0 on top to ``bottom``."""
    axes.set_yticks([*lines], [*lines.values()], fontsize=9)
    axes.tick_params(axis="y", length=0)
    axes.set_ylim(bottom, -0.7)
    axes.spines[["left", "right", "top"]].set_visible(False)


def draw_difference(
    axes: Axes, line: float, of: Difference, digits: int, limit: float = inf, colour: str = ""
) -> None:
    """Draw an interval, with its figures beside it; beyond ``limit`` it is an arrow at the edge.

    ``colour`` takes the place of those that say whether the interval has a zero.
    """
    write_beside(axes, 1.02, line, of.text(digits))
    colour = colour or (TOLD if of.told_apart else OPEN)
    if abs(of.value) > limit:
        edge = limit if of.value > 0 else -limit
        arrow = {"arrowstyle": "->", "color": colour, "linewidth": 2}
        axes.annotate("", (edge, line), (0.85 * edge, line), arrowprops=arrow)
        return
    axes.plot([of.low, of.high], [line, line], color=colour, linewidth=2)
    fill = colour if of.told_apart else "white"
    axes.plot(of.value, line, marker="o", color=colour, markerfacecolor=fill)


def write_beside(axes: Axes, x: float, line: float, text: str, weight: str = "normal") -> None:
    """Write at a line, with ``x`` from 0 to 1 over the axes; the text may have a $."""
    place: dict[str, Any] = {
        "transform": axes.get_yaxis_transform(),
        "va": "center",
        "parse_math": False,
    }
    axes.text(x, line, text, fontsize=9, fontweight=weight, **place)
