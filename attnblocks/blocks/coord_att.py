"""Coordinate attention: a gate per row and a gate per column, for every channel.

Paper: Coordinate Attention for Efficient Mobile Network Design, https://arxiv.org/abs/2103.02907
"""

from typing import Any

import torch
from torch import Tensor, nn

from attnblocks.blocks.base import (
    AttentionBlock,
    LayerFactory,
    Pointwise,
    bottleneck,
    new_layer,
    new_norm,
    positive_int,
)
from attnblocks.files.layer_names import name_function, name_norm
from attnblocks.ops import functional as F

MIN_WIDTH = 8
"""Least default width of the bottleneck."""


class CoordAtt(AttentionBlock):
    """Coordinate attention: gates for rows and for columns, from the means along each.

    The mean over W gives one vector per row, the mean over H one per column. Both go through
    one layer C to m, norm and activation together; a layer m to C and a gate for each direction
    follow: ``x * a_w * a_h``. All layers are 1x1 convolutions with bias. Parameters:
    ``C m + 3 m + 2 (m C + C)`` with width m and a batch norm. Parameter names are those of the
    authors' code: its checkpoints fit.

    timm's builders (``se_layer=CoordAtt``, ``attn_layer=CoordAtt``) set the ratio and the
    activation themselves; :func:`attnblocks.replace_se` gives the published block.

    Args:
        channels: channels C of the map.
        rd_channels: width m. Default: ``floor(C * rd_ratio)``, at least 8.
        rd_ratio: width over channels, used where ``rd_channels`` is None.
        act_layer: makes the activation, called without arguments.
        gate_layer: makes the function of both gates, called without arguments.
        norm_layer: makes the norm of the rows and columns, which come as (N, m, H + W, 1);
            called as ``norm_layer(rd_channels, device=device, dtype=dtype)``; None for no norm.
        device: where to create the parameters.
        dtype: type of the parameters.

    Shape:
        Input and output (N, C, H, W), with the same dtype, device and memory format.

    Raises:
        ValueError: a width below 1, a ratio not above 0, an input that is not (N, C, H, W).
        TypeError: a width that is no int, a layer argument that makes no module.

    Example:
        >>> block = CoordAtt(64)
        >>> block.rd_channels
        8
        >>> block(torch.rand(2, 64, 14, 20)).shape
        torch.Size([2, 64, 14, 20])
    """

    gate_names = ("rows", "columns")
    rd_channels: int

    def __init__(
        self,
        channels: int,
        rd_channels: int | None = None,
        *,
        rd_ratio: float = 1 / 32,
        act_layer: LayerFactory = nn.Hardswish,
        gate_layer: LayerFactory = nn.Sigmoid,
        norm_layer: LayerFactory | None = nn.BatchNorm2d,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        channels = positive_int("channels", channels)
        super().__init__(channels, bottleneck(channels, rd_channels, rd_ratio, least=MIN_WIDTH))
        self.conv1 = Pointwise(channels, self.rd_channels, device=device, dtype=dtype)
        self.bn1 = new_norm(norm_layer, self.rd_channels, device=device, dtype=dtype)
        self.act = new_layer("act_layer", act_layer)
        self.conv_h = Pointwise(self.rd_channels, channels, device=device, dtype=dtype)
        self.conv_w = Pointwise(self.rd_channels, channels, device=device, dtype=dtype)
        self.gate = new_layer("gate_layer", gate_layer)

    def arguments(self) -> dict[str, Any]:
        """What makes a block of this structure, beside its channels, for JSON."""
        return {
            "rd_channels": self.rd_channels,
            "act_layer": name_function(self.act),
            "gate_layer": name_function(self.gate),
            "norm_layer": name_norm(self.bn1),
        }

    def gates(self, x: Tensor) -> list[Tensor]:
        """A gate per row, (N, C, H, 1), and per column, (N, C, 1, W)."""
        a_h, a_w = self.line_gates(F.coordinate_means(x), x.shape[2])
        return [a_h, a_w]

    def line_gates(
        self, means: Tensor, height: int, scale: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """The gates that belong to the means of rows and columns.

        Args:
            means: of the rows, then of the columns; (N, C, H + W, 1).
            height: how many rows there are.
            scale: gates (N, C, 1, 1) that a stage before multiplies the map by.
        """
        if scale is None:
            y = self.conv1(means)
        elif isinstance(self.conv1, Pointwise):
            y = self.conv1(means, scale=scale)
        else:  # what was put around it, such as an adapter, knows no scale
            y = self.conv1(means * scale)
        y = self.act(self.bn1(y))  # (N, m, H + W, 1)
        y_h, y_w = y.split([height, y.shape[2] - height], dim=2)
        a_h: Tensor = self.gate(self.conv_h(y_h))  # (N, C, H, 1)
        a_w: Tensor = self.gate(self.conv_w(y_w))  # (N, C, W, 1)
        return a_h, a_w.transpose(2, 3)
