"""The attention of a network: its gates at every site, on the image, and how open they are.

A block multiplies its map by gates between 0 and 1, or between 0 and their gain. Gates for rows,
columns or positions say where the block looks; channel gates weight features.
"""

import threading
from collections.abc import Callable
from dataclasses import dataclass
from functools import reduce
from typing import TYPE_CHECKING, Any

import torch
from einops import rearrange
from torch import Tensor, nn

from attnblocks.blocks.base import AttentionBlock
from attnblocks.swap.behind import places_of_blocks
from attnblocks.swap.observe import eval_mode
from attnblocks.swap.wrappers import unwrap

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class SiteAttention:
    """What the block at one site does to a batch of N images.

    Attributes:
        gates: by what they are for: ``channel`` (N, C, 1, 1), ``rows`` (N, C, H, 1), ``columns``
            (N, C, 1, W) and ``positions`` (N, 1, H, W), where the block has them.
        on_image: the product of all gates, averaged over the channels, upsampled to the images
            (bilinear); (N, H of the images, W of the images), float32 at least.
    """

    gates: dict[str, Tensor]
    on_image: Tensor

    @property
    def is_spatial(self) -> bool:
        """Whether the block gates rows, columns or positions, and not only channels."""
        return self.gates.keys() != {"channel"}


@dataclass(frozen=True)
class GateStatistics:
    """How open one gate of a site is.

    Attributes:
        site: qualified name of the block.
        gate: what the gate is for.
        mean: of all its values.
        spread: standard deviation over images and positions, averaged over the channels. At 0 the
            gate does not depend on its input: it is a fixed scale, which a weight could absorb.
        closed: share of the values below 0.1.
        open: share of the values above 0.9; of a gate with a gain, which runs up to it, look at the
            spread instead.
    """

    site: str
    gate: str
    mean: float
    spread: float
    closed: float
    open: float


@torch.no_grad()
def attention_maps(model: nn.Module, images: Tensor) -> dict[str, SiteAttention]:
    """Run a network on images and read the gates of every block of this library in it.

    The network runs in eval mode, not compiled, and is left in the mode that it was in; no other
    thread should train it meanwhile. All maps are kept in memory, so give a few images at a time.

    Args:
        model: the network. Its own SE blocks of torchvision or timm are not read: swap them with
            :func:`attnblocks.replace_se`, which can keep what they do. Of a wrapped network, the
            one inside is run, as for :func:`attnblocks.find_se`.
        images: what the network takes, (N, 3, H, W), on its device.

    Returns:
        What each block does, by its qualified name, in the order in which the blocks run.

    Raises:
        ValueError: the network has no block of this library, runs one of them twice, has an
            inserted one that runs no more, or one of your own whose ``gate_names`` do not fit its
            gates.
        TypeError: a network that is scripted, exported or sharded.

    Example:
        >>> from attnblocks import CaCo
        >>> model = nn.Sequential(nn.Conv2d(3, 64, 3, stride=2, padding=1), CaCo(64))
        >>> maps = attention_maps(model, torch.rand(2, 3, 32, 48))
        >>> {name: tuple(gate.shape) for name, gate in maps["1"].gates.items()}
        {'channel': (2, 64, 1, 1), 'rows': (2, 64, 16, 1), 'columns': (2, 64, 1, 24)}
        >>> maps["1"].on_image.shape
        torch.Size([2, 32, 48])
    """
    found: dict[str, SiteAttention] = {}

    thread = threading.get_ident()

    def reader(name: str) -> Callable[[AttentionBlock, tuple[Any, ...], dict[str, Any]], None]:
        def read(block: AttentionBlock, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            if threading.get_ident() != thread:  # runs the network for a purpose of its own
                return
            if name in found:
                raise ValueError(f"the block {name!r} runs twice: its gates differ from run to run")
            gates = block.gates((*args, *kwargs.values())[0])
            if len(gates) != len(block.gate_names):
                raise ValueError(
                    f"gate_names of {type(block).__name__} must name its {len(gates)} gates, got "
                    f"{block.gate_names}"
                )
            found[name] = SiteAttention(
                dict(zip(block.gate_names, gates, strict=True)), _on_image(gates, images.shape[-2:])
            )

        return read

    model = unwrap(model, "attention_maps")
    places_of_blocks(model)  # says which inserted blocks run no more
    blocks = {name: block for name, block in model.named_modules() if _is_whole(block, name, model)}
    if not blocks:
        raise ValueError(
            "model has no block of attnblocks, whose gates could be read: put them in with "
            "replace_se or insert"
        )
    hooks = [
        block.register_forward_pre_hook(reader(name), with_kwargs=True)
        for name, block in blocks.items()
    ]
    try:
        # Code that is compiled already would not run the hooks.
        with eval_mode(model), torch.compiler.set_stance("force_eager"):
            model(images)
    finally:
        for hook in hooks:
            hook.remove()
    return found


def site_statistics(maps: dict[str, SiteAttention]) -> list[GateStatistics]:
    """How open every gate is, to find blocks that do nothing.

    Args:
        maps: from :func:`attention_maps`, over as many images as possible.

    Returns:
        One entry for each gate of each site, in the order of the sites.

    Example:
        >>> from attnblocks import Eca
        >>> maps = attention_maps(Eca(64), torch.zeros(2, 64, 8, 8))
        >>> site_statistics(maps)
        [GateStatistics(site='', gate='channel', mean=0.5, spread=0.0, closed=0.0, open=0.0)]
    """
    return [
        _statistics(site, name, gate)
        for site, attention in maps.items()
        for name, gate in attention.gates.items()
    ]


def show_attention(image: Tensor, attention: SiteAttention, index: int = 0) -> "Figure":
    """Draw an image, its row and column gates along the edges, and the product of all gates on it.

    Args:
        image: as a person sees it, not normalised: (3, H, W), uint8 or floats from 0 to 1.
        attention: of one site, see :func:`attention_maps`.
        index: index of the image in the batch that was given to :func:`attention_maps`.

    Returns:
        A figure of matplotlib, which has to be installed; a notebook shows it after
        ``%matplotlib inline``. Every scale runs from the minimum to the maximum of this image,
        however little they differ: the numbers at its ends show them.

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
    colours = overlay.imshow(on_image.numpy(), cmap="inferno", alpha=0.55)
    scale = make_axes_locatable(overlay).append_axes("right", "5%", pad=0.06)
    ends = (on_image.min().item(), on_image.max().item())
    figure.colorbar(colours, cax=scale, ticks=ends, format="%.3f").ax.tick_params(labelsize=7)
    return figure


def _draw_gates(axes: "Axes", name: str, means: Tensor, length: int) -> None:
    """One gate per line of the map, drawn beside the lines of the image that it stands for."""
    edges = torch.linspace(-0.5, length - 0.5, len(means) + 1)
    low, high = means.min().item(), means.max().item()
    across = name == "rows"
    axes.stairs(
        means.numpy(),
        edges.numpy(),
        orientation="horizontal" if across else "vertical",
        baseline=low,
        fill=True,
        color="tab:blue",
    )
    limits = (low, high if high > low else low + 1e-3)
    labels = [f"{value:.3f}" for value in limits]
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


def _is_whole(block: nn.Module, name: str, model: nn.Module) -> bool:
    """Whether a module is a block, and not a stage of another block."""
    parents = [name[:i] for i, letter in enumerate(name) if letter == "."]
    outer = [model, *(model.get_submodule(parent) for parent in parents)] if name else []
    return isinstance(block, AttentionBlock) and not any(
        isinstance(module, AttentionBlock) for module in outer
    )


def _on_image(gates: list[Tensor], size: torch.Size) -> Tensor:
    product = reduce(torch.mul, gates).mean(dim=1, keepdim=True)  # (N, 1, H or 1, W or 1)
    product = product.to(torch.promote_types(product.dtype, torch.float32))
    upsampled = nn.functional.interpolate(product, tuple(size), mode="bilinear")
    return rearrange(upsampled, "n 1 h w -> n h w")


def _statistics(site: str, name: str, gate: Tensor) -> GateStatistics:
    values = rearrange(gate.double(), "n c h w -> c (n h w)")
    return GateStatistics(
        site,
        name,
        mean=values.mean().item(),
        spread=values.std(dim=1, correction=0).mean().item(),
        closed=(values < 0.1).double().mean().item(),
        open=(values > 0.9).double().mean().item(),
    )
