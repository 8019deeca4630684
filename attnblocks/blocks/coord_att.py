"""Coordinate attention: a gate per row and a gate per column, for every channel.

Paper: Coordinate Attention for Efficient Mobile Network Design, https://arxiv.org/abs/2103.02907
"""

from collections.abc import Mapping
from typing import ClassVar, cast

import torch
from torch import Tensor, nn

from attnblocks.blocks.base import AttentionBlock, OldGate
from attnblocks.blocks.gain import Gain, GainedStage
from attnblocks.blocks.layers import (
    FRESH_SHARE,
    LayerFactory,
    bottleneck,
    new_layer,
    new_norm,
    open_logit,
    positive_int,
)
from attnblocks.blocks.plain import Layers, PlainStage
from attnblocks.blocks.registry import register_block
from attnblocks.blocks.se_layers import SELayers, input_width, output_width
from attnblocks.blocks.whole import Whole
from attnblocks.ops import functional as F
from attnblocks.ops.native.small_layers import COORDINATES

COORD_LAYERS = Layers(COORDINATES, ("conv1", "conv_h", "conv_w"), act="act", norm="bn1")

MIN_WIDTH = 8
"""Smallest default width of the bottleneck."""


@register_block("CoordAtt")
class CoordAtt(AttentionBlock, GainedStage):
    """Coordinate attention: gates for rows and for columns, from the means along each.

    The mean over W gives one vector per row, the mean over H one per column. Both go
    together through a layer C to m, a norm and an activation; then each direction has a layer
    m to C and a gate: ``x * a_w * a_h``. All layers are 1x1 convolutions with bias. Parameters:
    ``C m + 3 m + 2 (m C + C)`` with width m and a batch norm. Parameter names are those of the
    authors' ``coordatt.py``. State dicts with the names of their MobileNetV2, ``mbv2_ca.py``, load
    too: its ``conv2`` is ``conv_h``, its ``conv3`` is ``conv_w``.

    timm's builders (``se_layer=CoordAtt``, ``attn_layer=CoordAtt``) set the ratio and the
    activation themselves; :func:`attnblocks.replace_se` gives the published block.

    Arguments, shapes and errors that the blocks share are those of
    :class:`~attnblocks.AttentionBlock`.

    Args:
        rd_channels: width m. Default: ``floor(C * rd_ratio)``, at least 8.
        gate_layer: of both gates.
        norm_layer: of the rows and columns together, (N, m, H + W, 1).
        gain: of both gates, so that it counts twice in the product.

    Example:
        >>> block = CoordAtt(64)
        >>> block.rd_channels
        8
        >>> block(torch.rand(2, 64, 14, 20)).shape
        torch.Size([2, 64, 14, 20])
    """

    gate_names = ("rows", "columns")
    logit_names = ("conv_h", "conv_w")
    hidden_names = ("conv1", "act")
    whole = Whole(PlainStage(COORD_LAYERS))
    published_names: ClassVar[Mapping[str, str]] = {"conv2": "conv_h", "conv3": "conv_w"}

    def __init__(
        self,
        channels: int,
        rd_channels: int | None = None,
        *,
        rd_ratio: float = 1 / 32,
        act_layer: LayerFactory = nn.Hardswish,
        gate_layer: LayerFactory = nn.Sigmoid,
        norm_layer: LayerFactory | None = nn.BatchNorm2d,
        gain: Gain | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        channels = positive_int("channels", channels)
        width = bottleneck(channels, rd_channels, rd_ratio, least=MIN_WIDTH)
        super().__init__()
        self.conv1 = nn.Conv2d(channels, width, 1, device=device, dtype=dtype)
        self.bn1 = new_norm(norm_layer, width, device=device, dtype=dtype)
        self.act = new_layer("act_layer", act_layer)
        self.conv_h = nn.Conv2d(width, channels, 1, device=device, dtype=dtype)
        self.conv_w = nn.Conv2d(width, channels, 1, device=device, dtype=dtype)
        self.gate = new_layer("gate_layer", gate_layer)
        self.set_gain(gain, channels, device=device, dtype=dtype)

    @property
    def channels(self) -> int:
        """Channels of the map, as the first layer has them."""
        return cast(int, input_width(self.conv1))

    @property
    def rd_channels(self) -> int:
        """Width of the bottleneck, as the first layer has it."""
        return cast(int, output_width(self.conv1))

    def gates(self, x: Tensor) -> list[Tensor]:
        """A gate per row, (N, C, H, 1), and per column, (N, C, 1, W)."""
        if self.runs_apart(x):
            return list(self.gates_apart(*F.row_and_column_means(x)))
        return list(self.coordinate_gates(F.coordinate_means(x), x.shape[2]))

    def coordinate_gates(self, means: Tensor, height: int) -> tuple[Tensor, Tensor]:
        """The gates that belong to the means (N, C, H + W, 1) of ``height`` rows and of columns."""
        y = self.act(self.bn1(self.conv1(means)))  # (N, m, H + W, 1)
        y_h, y_w = F.cut(y, height)
        logits = torch.cat([self.conv_h(y_h), self.conv_w(y_w)], dim=2)  # (N, C, H + W, 1)
        a_h, a_w = F.cut(self.times_gain(self.gate(logits)), height)
        return a_h, a_w.transpose(2, 3)  # (N, C, H, 1), (N, C, 1, W)

    def runs_apart(self, x: Tensor) -> bool:
        """Whether rows and columns go through the shared layers one after the other.

        So they do where the network is exported with free sizes: what is put together would be cut
        again by a size, and runtimes freeze that or refuse it. Elsewhere each layer is called
        once, for quantizers and for what hooks into it, also where something hooks into the stage
        or overrides its methods. A batch norm in train mode, and a norm of another kind, may join
        rows with columns.
        """
        plain = type(self) in (CoordAtt, CoordGate) and "coordinate_gates" not in vars(self)
        hooked = self._forward_hooks or self._forward_pre_hooks
        norm = self.bn1
        fixed = isinstance(norm, nn.BatchNorm2d) and norm.running_mean is not None
        pointwise = not norm.training and (fixed or isinstance(norm, nn.Identity))
        return plain and not hooked and pointwise and F.has_free_sizes(x)

    def gates_apart(self, rows: Tensor, columns: Tensor) -> tuple[Tensor, Tensor]:
        """The gates that belong to the means of rows, (N, C, H, 1), and columns, (N, C, 1, W)."""
        logits_h = self.conv_h(self.act(self.bn1(self.conv1(rows))))
        logits_w = self.conv_w(self.act(self.bn1(self.conv1(columns))))
        return self.times_gain(self.gate(logits_h)), self.times_gain(self.gate(logits_w))

    def se_layers(self) -> SELayers:
        """Gate and activation only: there is no layer from channels to their gates."""
        return SELayers(self.channels, self.gate, act=self.act)

    def inherit(self, old: OldGate) -> float:
        """Both gates start nearly constant; their product is the usual gate of the site."""
        if self.can_start_at_one():
            self.take_gain(old.usual_gates() / self.gate_at_zero() ** 2, count=2)
            self._start_at(torch.zeros(()))
        else:
            self.take_gain(old.gain, count=2)
            self._start_at(old.usual_logits(self.gate, count=2, gain=self.gain))
        return 1.0

    def _start_at(self, logits: Tensor) -> None:
        """Give both gates the same logits, and keep a little of their dependence on the input."""
        for conv in (self.conv_h, self.conv_w):
            conv.weight.mul_(FRESH_SHARE)
            cast(Tensor, conv.bias).copy_(logits)


class CoordGate(CoordAtt):
    """Coordinate attention as the stage of another block, behind a channel gate.

    A subclass of CoordAtt, so that tools that know layers by the class of their block know these.

    Shape:
        Inputs: the means of the rows, then of the columns, (N, C, H + W, 1), or, where
        ``runs_apart`` says so, both as a pair, (N, C, H, 1) and (N, C, 1, W); how many rows H
        there are; the channel gate (N, C, 1, 1) that multiplies the map first. Output: a gate per
        row, (N, C, H, 1), and per column, (N, C, 1, W).

    Example:
        >>> gate = CoordGate(64)
        >>> rows, columns = gate(torch.rand(2, 64, 14 + 20, 1), 14, torch.rand(2, 64, 1, 1))
        >>> rows.shape, columns.shape
        (torch.Size([2, 64, 14, 1]), torch.Size([2, 64, 1, 20]))
    """

    def forward(  # type: ignore[override]
        self, means: Tensor | tuple[Tensor, Tensor], height: int, channel: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The gates that belong to the means of ``height`` rows and of the columns."""
        # The means of the gated map are the means times the gate.
        if isinstance(means, tuple):
            rows, columns = means
            return self.gates_apart(rows * channel, columns * channel)
        return self.coordinate_gates(means * channel, height)

    def open(self) -> float:
        """Let everything through; returns the product of both gates."""
        if self.can_start_at_one():
            self.start_at_one()
            return 1.0
        logit, gate = open_logit(self.gate, self.mean_gain())
        self._start_at(torch.tensor(logit))
        return gate**2 * self.mean_gain(2)
