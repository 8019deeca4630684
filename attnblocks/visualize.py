"""The attention of a network: its gates at every site, on the image.

A block multiplies its map by gates between 0 and 1, or between 0 and their gain. Gates for rows,
columns or positions say where the block looks; channel gates weight features.
"""

from typing import TYPE_CHECKING

import torch
from einops import rearrange
from torch import Tensor

from attnblocks.gates.maps import SiteAttention, attention_maps
from attnblocks.gates.statistics import FIXED, GateStatistics, site_statistics

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["GateStatistics", "SiteAttention", "attention_maps", "show_attention", "site_statistics"]


def show_attention(image: Tensor, attention: SiteAttention, index: int = 0) -> "Figure":
    """Draw an image, its row and column gates along the edges, and the product of all gates on it.

    Args:
        image: as a person sees it, not normalised: (3, H, W), uint8 or floats from 0 to 1.
        attention: of one site, see :func:`attention_maps`.
        index: index of the image in the batch that was given to :func:`attention_maps`.

    Returns:
        A figure of matplotlib, which has to be installed; a notebook shows it after
        ``%matplotlib inline``. It shows the factors by which the block multiplies its map, their
        gain included. Every scale runs from the minimum to the maximum of this image, but to at
        least 1 % on either side of its middle, so that what is the same everywhere looks so; the
        numbers at its ends say how far.

    Raises:
        ValueError: the image is not (3, H, W), or has another size than ``attention``.
        IndexError: the batch has no such index.

    Example:
        >>> from attnblocks import CaCo
        >>> image = torch.rand(3, 64, 64)
        >>> figure = show_attention(image, attention_maps(CaCo(3), image[None])[""])
        >>> figure.savefig("attention.png")  # doctest: +SKIP
    """
    from matplotlib.figure import Figure
    from mpl_toolkits.axes_grid1 import make_axes_locatable

    size = attention.on_image.shape[-2:]
    if image.dim() != 3 or image.shape[0] != 3 or image.shape[1:] != size:
        raise ValueError(f"image must be (3, {size[0]}, {size[1]}), got {tuple(image.shape)}")
    on_image = attention.on_image[index].cpu()
    pixels = rearrange(image.cpu(), "c h w -> h w c").numpy()
    figure = Figure(figsize=(7.2, 3.2), layout="tight")
    picture, overlay = figure.subplots(1, 2)
    for axes in (picture, overlay):
        axes.imshow(pixels)
        axes.set(xticks=(), yticks=())
    places = make_axes_locatable(picture)
    for name, side, length in (("rows", "left", size[0]), ("columns", "bottom", size[1])):
        if name in attention.gates:
            means = attention.gates[name][index].float().mean(dim=0).flatten().cpu()  # (H) or (W)
            _draw_gates(places.append_axes(side, "18%", pad=0.06), name, means, length)
    ends = _scale(on_image)
    colours = overlay.imshow(on_image.numpy(), "inferno", alpha=0.55, vmin=ends[0], vmax=ends[1])
    scale = make_axes_locatable(overlay).append_axes("right", "5%", pad=0.06)
    bar = figure.colorbar(colours, cax=scale)
    bar.set_ticks(ends, labels=_numbers(ends))
    bar.set_label("factor of the map", size=8)
    bar.ax.tick_params(labelsize=7)
    return figure


def _scale(values: Tensor) -> tuple[float, float]:
    """From the least to the greatest value, widened for gates that are fixed."""
    low, high = values.min().item(), values.max().item()
    middle = (low + high) / 2
    half = max((high - low) / 2, FIXED * abs(middle)) or FIXED  # where all are 0
    return middle - half, middle + half


def _numbers(ends: tuple[float, float]) -> list[str]:
    return [f"{value:#.3g}" for value in ends]


def _draw_gates(axes: "Axes", name: str, means: Tensor, length: int) -> None:
    """One gate per line of the map, drawn beside the lines of the image that it stands for."""
    edges = torch.linspace(-0.5, length - 0.5, len(means) + 1)
    limits = _scale(means)
    across = name == "rows"
    axes.stairs(
        means.numpy(),
        edges.numpy(),
        orientation="horizontal" if across else "vertical",
        baseline=limits[0],
        fill=True,
        color="tab:blue",
    )
    labels = _numbers(limits)
    if across:  # growing away from the image, the first row on top
        axes.set(ylim=(length - 0.5, -0.5), yticks=(), xlim=limits[::-1])
        axes.xaxis.tick_top()  # where no other label is
        axes.set_xticks(limits, labels, rotation=90)
        axes.set_ylabel(name, fontsize=8)
    else:
        axes.set(xlim=(-0.5, length - 0.5), xticks=(), ylim=limits[::-1])
        axes.yaxis.tick_right()
        axes.set_yticks(limits, labels)
        axes.set_xlabel(name, fontsize=8)
    axes.tick_params(labelsize=7)
