"""How open the gates of a network are, and on what they depend: sums over batches, in float64."""

import math
from dataclasses import dataclass

import torch
from einops import rearrange
from torch import Tensor

from attnblocks.gates.maps import SiteAttention

FIXED = 0.01
"""A gate is fixed if its spread is at most this share of its mean."""


@dataclass(frozen=True)
class GateStatistics:
    """What one gate of a site does over some images.

    Every spread is a standard deviation for each channel, averaged over the channels. For each
    channel, the square of ``spread`` is that of ``over_images`` plus that of ``over_positions``.

    Attributes:
        site: qualified name of the block.
        gate: what the gate is for.
        mean: of all its values, with the gain: it multiplies the map.
        spread: over images and positions together.
        closed: share of the values in the lowest tenth of the range, which ends at the gain (at 1
            without a gain). Where values can be negative, their sizes count: a gate near 0 is
            closed, and one near -1 is open.
        open: share of the values in the highest tenth of the range.
        over_images: spread over the images, of the mean of all positions.
        over_positions: spread over the positions within an image; 0 for a channel gate.
        between_classes: spread over classes of images, of the mean of each class; None without
            labels.
        moved: root mean square of the difference from what the gate was before, on the same images;
            None where that is not known.
    """

    site: str
    gate: str
    mean: float
    spread: float
    closed: float
    open: float
    over_images: float
    over_positions: float
    between_classes: float | None = None
    moved: float | None = None

    @property
    def is_fixed(self) -> bool:
        """Whether the spread is at most 1 % of the mean: a weight could absorb such a gate."""
        return self.spread <= FIXED * abs(self.mean)

    @property
    def moved_share(self) -> float | None:
        """``moved`` over the mean, where it is known."""
        if not self.moved:
            return self.moved
        return self.moved / abs(self.mean) if self.mean else math.inf


def site_statistics(maps: dict[str, SiteAttention]) -> list[GateStatistics]:
    """What every gate does, to find blocks that do nothing.

    Args:
        maps: from :func:`attnblocks.visualize.attention_maps`, over as many images as possible;
            :func:`attnblocks.gate_report` takes more than fit in memory.

    Returns:
        One entry for each gate of each site, in the order of the sites.

    Example:
        >>> from attnblocks import Eca
        >>> from attnblocks.visualize import attention_maps
        >>> (gate,) = site_statistics(attention_maps(Eca(64), torch.zeros(2, 64, 8, 8)))
        >>> gate.gate, gate.mean, gate.spread, gate.is_fixed
        ('channel', 0.5, 0.0, True)
    """
    statistics = []
    for site, attention in maps.items():
        for name, gate in attention.gates.items():
            sums = GateSums(site, name, gate.shape[1:], attention.gains.get(name))
            sums.add(gate)
            statistics.append(sums.statistics())
    return statistics


class GateSums:
    """What has to be known of the batches so far for the statistics of one gate.

    Args:
        site: qualified name of the block.
        gate: what the gate is for.
        shape: of the gate for one image, (C, h, w).
        gain: of the gate, of shape () or (C,); None for none.
    """

    def __init__(self, site: str, gate: str, shape: torch.Size, gain: Tensor | None) -> None:
        self.site, self.gate, self.shape = site, gate, shape
        top = torch.ones(()) if gain is None else gain
        self.top = top.cpu().double().abs().view(-1, 1)  # of the range; (C or 1, 1)
        self.images = self.closed = self.open = 0
        self.mean = torch.zeros(shape[0], dtype=torch.float64)
        self.deviations, self.within = torch.zeros_like(self.mean), torch.zeros_like(self.mean)
        self.classes: dict[int, tuple[Tensor, int]] = {}
        self.squares: float | None = None

    def add(
        self, values: Tensor, labels: Tensor | None = None, before: Tensor | None = None
    ) -> None:
        """Add a batch.

        Args:
            values: of the gate, (n, C, h, w).
            labels: classes of these images, (n,).
            before: what the gate was before for them.
        """
        gate = rearrange(values.cpu().double(), "n c h w -> n c (h w)")
        means = gate.mean(dim=2)  # (n, C)
        self.within += gate.var(dim=2, correction=0).sum(dim=0)
        # Sums of squares would cancel: the deviations of two batches, and that of their means.
        mean, n = means.mean(dim=0), len(means)
        total = self.images + n
        shift = mean - self.mean
        self.deviations += (means - mean).square().sum(dim=0)
        self.deviations += shift.square() * (self.images * n / total)
        self.mean += shift * (n / total)
        self.images = total
        self.closed += int((gate.abs() < 0.1 * self.top).sum())
        self.open += int((gate.abs() > 0.9 * self.top).sum())
        if labels is not None:
            for label in set(labels.tolist()):
                chosen = means[labels == label]
                summed, count = self.classes.get(label, (torch.zeros_like(mean), 0))
                self.classes[label] = (summed + chosen.sum(dim=0), count + len(chosen))
        if before is not None:
            old = rearrange(before.cpu().double(), "n c h w -> n c (h w)")
            self.squares = (self.squares or 0.0) + (gate - old).square().sum().item()

    def statistics(self) -> GateStatistics:
        """Those of all batches together."""
        count = self.images * self.shape.numel()
        images, positions = self.deviations / self.images, self.within / self.images  # variances
        classes = [summed / number for summed, number in self.classes.values()]
        return GateStatistics(
            self.site,
            self.gate,
            mean=self.mean.mean().item(),
            spread=(images + positions).sqrt().mean().item(),
            closed=self.closed / count,
            open=self.open / count,
            over_images=images.sqrt().mean().item(),
            over_positions=positions.sqrt().mean().item(),
            between_classes=_spread(classes) if classes else None,
            moved=None if self.squares is None else math.sqrt(self.squares / count),
        )


def share_inside(attention: Tensor, masks: Tensor) -> Tensor:
    """Share of the attention that lies inside a mask, of those images that have one.

    Args:
        attention: not negative, (N, H, W).
        masks: bool, (N, H, W).

    Returns:
        (images with a mask that is not empty), float64; where all attention is 0, the share of the
        image that the mask covers.
    """
    has = masks.any(dim=2).any(dim=1)
    values, masks = attention[has].double(), masks[has]
    everywhere = values.sum(dim=(1, 2))
    shares = (values * masks).sum(dim=(1, 2)) / everywhere
    return torch.where(everywhere == 0, masks.double().mean(dim=(1, 2)), shares)


def _spread(means: list[Tensor]) -> float:
    """Over the first axis, averaged over the channels."""
    return torch.stack(means).std(dim=0, correction=0).mean().item()
