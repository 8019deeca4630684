"""Statistics as poolings, for networks that are exported with a fixed height and width.

Runtimes have few reductions that are fast, or that their accelerated engines take at all: XNNPACK
takes means over whole maps only, and ONNX Runtime runs poolings in the blocked layout of its
convolutions. A pooling needs the size of its window while the network is exported. Gradients are
the same, but for positions that tie for a maximum: one of them gets all of it.
"""

from collections.abc import Sequence

from torch import Tensor
from torch.nn import functional

from attnblocks.ops.formulas import apply_gates, joined, position_statistics

__all__ = ["apply_gates", "position_statistics", "row_and_column_means", "statistics"]


def statistics(x: Tensor, names: Sequence[str]) -> tuple[Tensor, ...]:
    """These statistics, in this order."""
    found: dict[str, Tensor] = {}
    if "coordinate_means" in names:
        found["coordinate_means"] = joined(*row_and_column_means(x))
    if "channel_means" in names:
        found["channel_means"] = x.mean((2, 3), keepdim=True)
    if "channel_maxima" in names:
        found["channel_maxima"] = functional.max_pool2d(x, list(x.shape[2:]))
    return tuple(found[name] for name in names)


def row_and_column_means(x: Tensor) -> tuple[Tensor, Tensor]:
    """The means of rows, (N, C, H, 1), and of columns, (N, C, 1, W)."""
    height, width = x.shape[2:]
    return functional.avg_pool2d(x, (1, width)), functional.avg_pool2d(x, (height, 1))
