"""The functions of :mod:`attnblocks.functional` as formulas: plain operators of torch.

They define what the other forms compute. Compilers, exporters and traces get these, and fuse or
translate them as they see fit.
"""

import torch
from torch import Tensor


def channel_means(x: Tensor) -> Tensor:
    """The mean of every channel; (N, C, 1, 1)."""
    return x.mean((2, 3), keepdim=True)


def channel_maxima(x: Tensor) -> Tensor:
    """The maximum of every channel; (N, C, 1, 1)."""
    return x.amax((2, 3), keepdim=True)


def coordinate_means(x: Tensor) -> Tensor:
    """The means of rows, then of columns; (N, C, H + W, 1)."""
    rows, columns = x.mean(3, keepdim=True), x.mean(2, keepdim=True)
    return torch.cat([rows, columns.transpose(2, 3)], dim=2)


def position_statistics(x: Tensor, gate: Tensor | None) -> Tensor:
    """Maximum and mean over the channels of ``x * gate``; (N, 2, H, W)."""
    y = x if gate is None else x * gate
    return torch.cat([y.amax(1, keepdim=True), y.mean(1, keepdim=True)], dim=1)


def apply_gates(x: Tensor, gates: list[Tensor]) -> Tensor:
    """The map times the product of its gates."""
    product = gates[0]
    for gate in gates[1:]:
        product = product * gate
    return x * product
