"""What the blocks of a network do, in one report: which depend on what they see, which moved.

A gate that is the same for every image and at every position is a fixed scale, which the weights
beside it could absorb.
"""

import reprlib
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain

import torch
from torch import Tensor, nn

from attnblocks.blocks.layers import positive_int
from attnblocks.gates.maps import SiteAttention, attention_maps
from attnblocks.gates.statistics import GateStatistics, GateSums, share_inside
from attnblocks.swap.table import lay_out
from attnblocks.swap.wrappers import unwrap


@dataclass(frozen=True)
class SiteGates:
    """What the block at one site does over some images.

    Attributes:
        name: qualified name of the block.
        gates: one entry for each of its gates.
        on_where: mean share of its attention that lies in the region of interest; None for a block
            that gates channels alone, for one whose attention is negative anywhere (its parts have
            no shares), and without a region.
    """

    name: str
    gates: tuple[GateStatistics, ...]
    on_where: float | None = None

    @property
    def does_nothing(self) -> bool:
        """Whether all its gates are fixed: the spread of each is at most 1 % of its mean."""
        return all(gate.is_fixed for gate in self.gates)


@dataclass(frozen=True)
class GateReport:
    """What :func:`gate_report` found; prints as a table.

    Attributes:
        sites: the blocks, in the order in which they run.
        images: how many images were looked at.
        marked: how many of them have a region of interest; None without ``where``.
        area: mean share of the image that the region covers: what ``on_where`` is for attention
            that is the same everywhere; None without ``where``.
    """

    sites: tuple[SiteGates, ...]
    images: int
    marked: int | None = None
    area: float | None = None

    @property
    def gates(self) -> list[GateStatistics]:
        """One entry for each gate of each site."""
        return [gate for site in self.sites for gate in site.gates]

    @property
    def idle(self) -> list[str]:
        """The names of the blocks that do nothing, as :attr:`SiteGates.does_nothing` has it."""
        return [site.name for site in self.sites if site.does_nothing]

    def __str__(self) -> str:
        columns = {
            "mean": [f"{gate.mean:.3f}" for gate in self.gates],
            "over images": [f"{gate.over_images:.4f}" for gate in self.gates],
            "over positions": [f"{gate.over_positions:.4f}" for gate in self.gates],
            "spread": [f"{gate.spread:.4f}" for gate in self.gates],
            "between classes": [_cell(gate.between_classes, 4) for gate in self.gates],
            "moved": [_cell(gate.moved, 4) for gate in self.gates],
            "closed": [f"{gate.closed:.3f}" for gate in self.gates],
            "open": [f"{gate.open:.3f}" for gate in self.gates],
            "inside": [
                _cell(site.on_where if gate is site.gates[0] else None, 3)
                for site in self.sites
                for gate in site.gates
            ],
        }
        shown = {name: cells for name, cells in columns.items() if any(cells)}
        rows = [
            [gate.site, gate.gate, *(cells[row] for cells in shown.values())]
            for row, gate in enumerate(self.gates)
        ]
        lines = [lay_out([["site", "gate", *shown], *rows], words={"site", "gate"})]
        if self.area is not None:
            lines.append(f"attention that is the same everywhere would be {self.area:.3f} inside")
        marked = "" if self.marked is None else f", {self.marked} of them with a region"
        idle = ", ".join(repr(name) for name in self.idle) or "none"
        lines.append(f"over {self.images} images{marked}; blocks that do nothing: {idle}")
        return "\n".join(lines)


def gate_report(
    model: nn.Module,
    images: Tensor,
    before: nn.Module | None = None,
    where: Tensor | None = None,
    *,
    labels: Tensor | Sequence[int] | None = None,
    batch_size: int = 32,
) -> GateReport:
    """Say of every gate how open it is, on what it depends and how far it has moved.

    The networks run in eval mode, batch by batch, and are left as they were: see
    :func:`attnblocks.visualize.attention_maps`. The images go to the device of each network, and,
    if they are of floats, to the dtype of its first parameter of floats. Where a network draws
    random numbers even in eval mode, each batch starts from the random state that there is now, for
    ``model`` as for ``before``: an unchanged copy has not moved.

    Args:
        model: a network with blocks of this library.
        images: what it takes, (N, C, H, W), on any device: a few hundred, and not all alike.
        before: the network as it was, such as a deep copy from before training, with the same
            blocks; adds how far each gate has moved on the same images.
        where: a region of interest in the images, such as lesions: bool (N, H, W). Adds how much of
            the attention of blocks that gate rows, columns or positions lies inside it, beside its
            area. Images without a region count for neither; one whose gates are all 0 counts as if
            its attention were the same everywhere.
        labels: a class for each image, (N,); adds how far the gates of the classes are apart.
        batch_size: images that run at a time; it changes the numbers by rounding alone, unless a
            network draws random numbers.

    Returns:
        The report; print it.

    Raises:
        ValueError: ``images`` are not (N, C, H, W) or none; ``where`` or ``labels`` do not fit
            them, or mark no region or less than two classes; ``batch_size`` is below 1; ``before``
            is ``model`` itself, or has other blocks or gates of another shape; and what
            :func:`attnblocks.visualize.attention_maps` raises.
        TypeError: ``images`` or ``where`` is no tensor, ``where`` is not of bool, ``labels`` are
            not integers, or ``batch_size`` is no int.

    Example:
        >>> from attnblocks import CaCo
        >>> block = CaCo(8)
        >>> block.start_as_identity()
        >>> report = gate_report(block, torch.rand(4, 8, 6, 6))
        >>> print(report)
        site  gate      mean  over images  over positions  spread  closed   open
              channel  1.000       0.0000          0.0000  0.0000   0.000  0.000
              rows     1.000       0.0000          0.0000  0.0000   0.000  0.000
              columns  1.000       0.0000          0.0000  0.0000   0.000  0.000
        over 4 images; blocks that do nothing: ''
    """
    if not isinstance(images, Tensor):
        raise TypeError(f"images must be a tensor (N, C, H, W), got {type(images).__name__}")
    if images.ndim != 4 or 0 in images.shape:
        raise ValueError(f"images must be (N, C, H, W), none of them 0, got {tuple(images.shape)}")
    batch_size = positive_int("batch_size", batch_size)
    if before is not None and unwrap(before, "gate_report") is unwrap(model, "gate_report"):
        raise ValueError("before is model itself: give a deep copy that was made before training")
    classes = None if labels is None else _check_labels(labels, len(images))
    region = None if where is None else _check_where(where, images)
    sums: dict[tuple[str, str], GateSums] = {}
    inside: dict[str, list[Tensor]] = {}
    signed: set[str] = set()
    for start in range(0, len(images), batch_size):
        batch = slice(start, start + batch_size)
        maps = _maps(model, images[batch])
        old = None if before is None else _maps(before, images[batch])
        if old is not None:
            _check_same_gates(maps, old)
        for site, attention in maps.items():
            for name, gate in attention.gates.items():
                if (site, name) not in sums:
                    gain = attention.gains.get(name)
                    sums[site, name] = GateSums(site, name, gate.shape[1:], gain)
                sums[site, name].add(
                    gate,
                    None if classes is None else classes[batch],
                    None if old is None else old[site].gates[name],
                )
            if region is not None and attention.is_spatial:
                on_image = attention.on_image.cpu()
                inside.setdefault(site, []).append(share_inside(on_image, region[batch]))
                if (on_image < 0).any():
                    signed.add(site)
    gates = [gate.statistics() for gate in sums.values()]
    sites = tuple(
        SiteGates(
            site,
            tuple(gate for gate in gates if gate.site == site),
            torch.cat(inside[site]).mean().item() if site in inside.keys() - signed else None,
        )
        for site in dict.fromkeys(gate.site for gate in gates)
    )
    if region is None:
        return GateReport(sites, len(images))
    areas = region.double().mean(dim=(1, 2))
    marked = areas > 0
    return GateReport(sites, len(images), int(marked.sum()), areas[marked].mean().item())


def _maps(network: nn.Module, images: Tensor) -> dict[str, SiteAttention]:
    tensors = chain(network.parameters(), network.buffers())
    images = images.to(next((t.device for t in tensors), images.device))
    if images.is_floating_point():
        dtypes = (p.dtype for p in network.parameters() if p.is_floating_point())
        images = images.to(next(dtypes, images.dtype))
    return attention_maps(network, images)


def _check_labels(labels: Tensor | Sequence[int], count: int) -> Tensor:
    try:
        classes = torch.as_tensor(labels).cpu()
    except (TypeError, ValueError, RuntimeError) as error:  # of strings, of None, not of one length
        given = reprlib.repr(labels)
        raise TypeError(f"labels must be integers, one for each image, got {given}") from error
    if classes.is_floating_point() or classes.is_complex() or classes.dtype == torch.bool:
        raise TypeError(f"labels must be integers, one for each image, got {classes.dtype}")
    if classes.shape != (count,):
        raise ValueError(f"labels must be ({count},), as the images, got {tuple(classes.shape)}")
    if len(set(classes.tolist())) < 2:
        raise ValueError(f"labels must name at least two classes, got only {classes[0].item()}")
    return classes


def _check_where(where: Tensor, images: Tensor) -> Tensor:
    expected = (len(images), *images.shape[2:])
    if not isinstance(where, Tensor):
        raise TypeError(f"where must be a tensor of torch.bool, got {type(where).__name__}")
    if where.dtype != torch.bool:
        raise TypeError(f"where must be of torch.bool, such as masks > 0, got {where.dtype}")
    if where.shape != expected:
        raise ValueError(f"where must be {expected}, as the images, got {tuple(where.shape)}")
    if not where.any():
        raise ValueError("where marks no region in any image: leave it out")
    return where.cpu()


def _check_same_gates(maps: dict[str, SiteAttention], before: dict[str, SiteAttention]) -> None:
    now, old = (
        {(site, name): gate for site, read in of.items() for name, gate in read.gates.items()}
        for of in (maps, before)
    )
    differ = [f"{name} of {site!r}" for site, name in now.keys() ^ old.keys()]
    if differ:
        raise ValueError(
            "before must have the same blocks as model, at the same sites; only one of them has "
            f"the gates: {', '.join(sorted(differ))}"
        )
    for (site, name), gate in now.items():
        shape = tuple(old[site, name].shape)
        if shape != gate.shape:
            raise ValueError(
                f"before must have gates of the same shape: {name} of {site!r} is "
                f"{tuple(gate.shape)}, and was {shape}"
            )


def _cell(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:.{digits}f}"
