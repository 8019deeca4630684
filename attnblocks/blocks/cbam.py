"""Convolutional block attention module: a gate per channel, then a gate per position.

Paper: CBAM: Convolutional Block Attention Module, https://arxiv.org/abs/1807.06521
"""

from collections.abc import Mapping
from functools import partial
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
    odd_kernel,
    open_logit,
    positive_int,
)
from attnblocks.blocks.plain import Layers, PlainStage
from attnblocks.blocks.registry import register_block
from attnblocks.blocks.se_layers import SELayers, input_width, output_width
from attnblocks.blocks.whole import Whole
from attnblocks.ops import functional as F
from attnblocks.ops.native.small_layers import MEANS_AND_MAXIMA, POSITIONS

MLP_LAYERS = Layers(MEANS_AND_MAXIMA, ("fc1", "fc2"), act="act")
SPATIAL_LAYERS = Layers(POSITIONS, ("conv",), norm="bn")

SpatialNorm = partial(nn.BatchNorm2d, momentum=0.01)
"""The norm of the published spatial gate."""


class ChannelGate(GainedStage):
    """CBAM's channel gate: mean and maximum of each channel through one shared MLP.

    ``gate(mlp(means) + mlp(maxima))`` with ``mlp(v) = fc2(act(fc1(v)))``, both layers with bias.
    Parameters: ``2 C h + h + C`` with width h. Arguments are those of :class:`CBAM`.

    Shape:
        Inputs: means and maxima of the channels, both (N, C, 1, 1). Output: their gates, of the
        same shape.

    Example:
        >>> ChannelGate(64)(torch.rand(2, 64, 1, 1), torch.rand(2, 64, 1, 1)).shape
        torch.Size([2, 64, 1, 1])
    """

    gate_names = ("channel",)
    logit_names = ("fc2",)
    hidden_names = ("fc1", "act")

    def __init__(
        self,
        channels: int,
        rd_channels: int | None = None,
        *,
        rd_ratio: float = 1 / 16,
        act_layer: LayerFactory = nn.ReLU,
        gate_layer: LayerFactory = nn.Sigmoid,
        gain: Gain | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        channels = positive_int("channels", channels)
        width = bottleneck(channels, rd_channels, rd_ratio)
        self.fc1 = nn.Conv2d(channels, width, 1, device=device, dtype=dtype)
        self.act = new_layer("act_layer", act_layer)
        self.fc2 = nn.Conv2d(width, channels, 1, device=device, dtype=dtype)
        self.gate = new_layer("gate_layer", gate_layer)
        self.set_gain(gain, channels, device=device, dtype=dtype)

    @property
    def channels(self) -> int:
        """Channels of the map, as the first layer has them."""
        return cast(int, input_width(self.fc1))

    @property
    def rd_channels(self) -> int:
        """Width of the MLP, as the first layer has it."""
        return cast(int, output_width(self.fc1))

    def forward(self, means: Tensor, maxima: Tensor) -> Tensor:
        """The gates that belong to the means and maxima of the channels."""
        both = torch.cat([means, maxima], dim=2)  # (N, C, 2, 1): once through each layer
        # Twice the mean is the sum, which XNNPACK lacks; a split fixes the batch in ExecuTorch.
        logits = 2 * self.fc2(self.act(self.fc1(both))).mean((2, 3), keepdim=True)
        return self.times_gain(self.gate(logits))  # (N, C, 1, 1)

    def se_layers(self) -> SELayers:
        """The layers that a swap can take over."""
        return SELayers(
            self.channels, self.gate, self.fc2, self.fc1, self.act, uses_max=True, stage=self
        )


_CHANNEL = Whole(PlainStage(MLP_LAYERS, "channel", ChannelGate))


class SpatialGate(GainedStage):
    """CBAM's spatial gate: ``gate(norm(conv([maxima, means])))``, the convolution without bias.

    Parameters: ``2 k^2 + 2`` with kernel size k and a batch norm. Arguments are those of
    :class:`CBAM`.

    Shape:
        Input: maximum, then mean, over the channels of a map, (N, 2, H, W). Output: a gate for
        each position, (N, 1, H, W).

    Example:
        >>> SpatialGate()(torch.rand(2, 2, 14, 14)).shape
        torch.Size([2, 1, 14, 14])
    """

    gate_names = ("positions",)
    across_channels = True

    def __init__(
        self,
        kernel_size: int = 7,
        *,
        gate_layer: LayerFactory = nn.Sigmoid,
        norm_layer: LayerFactory | None = SpatialNorm,
        gain: float | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        size = odd_kernel("kernel_size", kernel_size)
        self.conv = nn.Conv2d(2, 1, size, padding=size // 2, bias=False, device=device, dtype=dtype)
        self.bn = new_norm(norm_layer, 1, device=device, dtype=dtype)
        self.gate = new_layer("gate_layer", gate_layer)
        self.set_gain(gain, name="spatial_gain", device=device, dtype=dtype)

    def forward(self, statistics: Tensor) -> Tensor:
        """The gates that belong to the maxima and means of the positions."""
        return self.times_gain(self.gate(self.bn(self.conv(statistics))))

    def logit_layers(self) -> list[nn.Module]:
        """The norm: behind a convolution of zeros it would make gradients 1/sqrt(eps) as large."""
        return [self.conv if getattr(self.bn, "weight", None) is None else self.bn]

    def open(self) -> float:
        """Let everything through; returns the gate."""
        if self.can_start_at_one():
            self.start_at_one()
            return 1.0
        self.conv.weight.mul_(FRESH_SHARE)
        weight, bias = getattr(self.bn, "weight", None), getattr(self.bn, "bias", None)
        if weight is None or bias is None:
            return self.gate_at_zero() * self.mean_gain()
        logit, gate = open_logit(self.gate, self.mean_gain())
        weight.mul_(FRESH_SHARE)
        bias.fill_(logit)
        return gate * self.mean_gain()


@register_block("CBAM")
class CBAM(AttentionBlock):
    """Convolutional block attention module: channel attention, then spatial attention.

    As in the authors' code: both layers of the channel MLP are biased, the spatial gate sees
    [max, mean], and its batch norm has momentum 0.01. Parameters:
    ``2 C h + h + C + 2 k^2 + 2`` with MLP width h and kernel size k. State dicts with the names of
    the authors' ``MODELS/cbam.py`` load too: its linear layers ``ChannelGate.mlp.1`` and ``.3`` are
    ``channel.fc1`` and ``channel.fc2``, its ``SpatialGate.spatial`` is ``spatial``.

    timm's builders (``se_layer=CBAM``, ``attn_layer=CBAM``) set the ratio and the activation
    themselves; :func:`attnblocks.replace_se` gives the published block.

    Arguments, shapes and errors that the blocks share are those of
    :class:`~attnblocks.AttentionBlock`.

    Args:
        rd_channels: width h of the channel MLP. Default: ``floor(C * rd_ratio)``, at least 1.
        kernel_size: size k of the spatial convolution; odd.
        gate_layer: of both gates.
        norm_layer: of the spatial gate, for one channel.
        gain: of the channel gate.
        spatial_gain: of the spatial gate, one number.

    Example:
        >>> CBAM(64)(torch.rand(2, 64, 14, 14)).shape
        torch.Size([2, 64, 14, 14])
    """

    gate_names = ("channel", "positions")
    whole = Whole(
        PlainStage(MLP_LAYERS, "channel", ChannelGate),
        PlainStage(SPATIAL_LAYERS, "spatial", SpatialGate),
    )
    published_names: ClassVar[Mapping[str, str]] = {
        "ChannelGate.mlp.1": "channel.fc1",
        "ChannelGate.mlp.3": "channel.fc2",
        "SpatialGate.spatial.conv": "spatial.conv",
        "SpatialGate.spatial.bn": "spatial.bn",
    }

    def __init__(
        self,
        channels: int,
        rd_channels: int | None = None,
        *,
        rd_ratio: float = 1 / 16,
        kernel_size: int = 7,
        act_layer: LayerFactory = nn.ReLU,
        gate_layer: LayerFactory = nn.Sigmoid,
        norm_layer: LayerFactory | None = SpatialNorm,
        gain: Gain | None = None,
        spatial_gain: float | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.channel = ChannelGate(
            channels,
            rd_channels,
            rd_ratio=rd_ratio,
            act_layer=act_layer,
            gate_layer=gate_layer,
            gain=gain,
            device=device,
            dtype=dtype,
        )
        self.spatial = SpatialGate(
            kernel_size,
            gate_layer=gate_layer,
            norm_layer=norm_layer,
            gain=spatial_gain,
            device=device,
            dtype=dtype,
        )

    @property
    def channels(self) -> int:
        """Channels of the map."""
        return self.channel.channels

    @property
    def rd_channels(self) -> int:
        """Width of the channel MLP."""
        return self.channel.rd_channels

    @property
    def gain(self) -> Tensor | None:
        """Gain of the channel gate."""
        return self.channel.gain

    @property
    def spatial_gain(self) -> Tensor | None:
        """Gain of the spatial gate."""
        return self.spatial.gain

    @property
    def kernel_size(self) -> int:
        """Size of the spatial convolution."""
        return self.spatial.conv.kernel_size[0]

    def gates(self, x: Tensor) -> list[Tensor]:
        """A gate per channel, (N, C, 1, 1), and per position, (N, 1, H, W)."""
        channel = None if torch.compiler.is_compiling() else _CHANNEL.gates(self, x)
        if channel is None:
            means, maxima = F.statistics(x, "channel_means", "channel_maxima")  # torch.fx: no *
            channel = self.channel(means, maxima)
        channel = channel.to(x.dtype)
        return [channel, self.spatial(F.position_statistics(x, channel))]

    def se_layers(self) -> SELayers:
        """Those of the channel gate."""
        return self.channel.se_layers()

    def inherit(self, old: OldGate) -> float:
        """The spatial gate starts open."""
        return self.spatial.open()
