"""The functions that blocks are made of, for blocks of your own."""

from attnblocks.ops.functional import (
    apply_gates,
    channel_maxima,
    channel_means,
    coordinate_means,
    position_statistics,
    statistics,
)

__all__ = [
    "apply_gates",
    "channel_maxima",
    "channel_means",
    "coordinate_means",
    "position_statistics",
    "statistics",
]
