"""The functions of :mod:`attnblocks.functional` as formulas: plain operators of torch.

They define what the other forms compute. Compilers, exporters and traces get these, and fuse or
translate them as they see fit.
"""

from collections.abc import Sequence

import torch
from torch import Tensor


def statistics(x: Tensor, names: Sequence[str]) -> tuple[Tensor, ...]:
    """These statistics, in this order."""
    found: dict[str, Tensor] = {}
    if "coordinate_means" in names:
        rows, columns = row_and_column_means(x)
        found["coordinate_means"] = joined(rows, columns)
    if "channel_means" in names:
        # The means of rows save a pass over the map.
        means = x.mean((2, 3), keepdim=True) if not found else rows.mean(2, keepdim=True)
        found["channel_means"] = means
    if "channel_maxima" in names:
        found["channel_maxima"] = x.amax((2, 3), keepdim=True)
    return tuple(found[name] for name in names)


def row_and_column_means(x: Tensor) -> tuple[Tensor, Tensor]:
    """The means of rows, (N, C, H, 1), and of columns, (N, C, 1, W)."""
    return x.mean(3, keepdim=True), x.mean(2, keepdim=True)


def joined(rows: Tensor, columns: Tensor) -> Tensor:
    """The means of rows, (N, C, H, 1), then of columns, (N, C, 1, W), in one tensor."""
    return torch.cat([rows, columns.transpose(2, 3)], dim=2)  # (N, C, H + W, 1)


def position_statistics(x: Tensor, gate: Tensor | None) -> Tensor:
    """Maximum and mean over the channels of ``x * gate``; (N, 2, H, W)."""
    y = x if gate is None else x * gate
    return torch.cat([y.amax(1, keepdim=True), y.mean(1, keepdim=True)], dim=1)


def apply_gates(x: Tensor, gates: Sequence[Tensor]) -> Tensor:
    """The map times the product of its gates."""
    product = gates[0]
    for gate in gates[1:]:
        product = product * gate
    return x * product
