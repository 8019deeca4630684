"""Convolutional block attention module: a gate per channel, then a gate per position.

Paper: CBAM: Convolutional Block Attention Module, https://arxiv.org/abs/1807.06521
"""

from functools import partial
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
    odd_kernel,
    positive_int,
)
from attnblocks.files.layer_names import name_function, name_norm
from attnblocks.ops import functional as F

SpatialNorm = partial(nn.BatchNorm2d, momentum=0.01)
"""The norm of the published spatial gate."""


class ChannelAttention(AttentionBlock):
    """CBAM's channel gate: mean and maximum of each channel through one shared MLP.

    ``x * gate(mlp(mean(x)) + mlp(max(x)))`` with ``mlp(v) = fc2(act(fc1(v)))``, both layers with
    bias. Parameters: ``2 C h + h + C`` with width h.

    Args:
        channels: channels C of the map.
        rd_channels: width h of the MLP. Default: ``floor(C * rd_ratio)``, at least 1.
        rd_ratio: width over channels, used where ``rd_channels`` is None.
        act_layer: makes the activation of the MLP, called without arguments.
        gate_layer: makes the gate function, called without arguments.
        device: where to create the parameters.
        dtype: type of the parameters.

    Shape:
        Input and output (N, C, H, W), with the same dtype, device and memory format.

    Raises:
        ValueError: a width below 1, a ratio not above 0, an input that is not (N, C, H, W).
        TypeError: a width that is no int, a layer argument that makes no module.

    Example:
        >>> ChannelAttention(64)(torch.rand(2, 64, 14, 14)).shape
        torch.Size([2, 64, 14, 14])
    """

    gate_names = ("channel",)
    rd_channels: int

    def __init__(
        self,
        channels: int,
        rd_channels: int | None = None,
        *,
        rd_ratio: float = 1 / 16,
        act_layer: LayerFactory = nn.ReLU,
        gate_layer: LayerFactory = nn.Sigmoid,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        channels = positive_int("channels", channels)
        super().__init__(channels, bottleneck(channels, rd_channels, rd_ratio))
        self.fc1 = Pointwise(channels, self.rd_channels, device=device, dtype=dtype)
        self.act = new_layer("act_layer", act_layer)
        self.fc2 = Pointwise(self.rd_channels, channels, device=device, dtype=dtype)
        self.gate = new_layer("gate_layer", gate_layer)

    def gates(self, x: Tensor) -> list[Tensor]:
        """One gate per channel; (N, C, 1, 1)."""
        return [self.channel_gate(F.channel_means(x), F.channel_maxima(x))]

    def channel_gate(self, means: Tensor, maxima: Tensor) -> Tensor:
        """The gates that belong to the means and maxima of the channels; all (N, C, 1, 1)."""
        # One run of the MLP for both, on a batch twice as long.
        n = means.shape[0]
        of_means, of_maxima = torch.split(self.mlp(torch.cat([means, maxima])), [n, n])
        gate: Tensor = self.gate(of_means + of_maxima)
        return gate

    def mlp(self, v: Tensor) -> Tensor:
        """The shared MLP: (N, C, 1, 1) to logits of the same shape."""
        logits: Tensor = self.fc2(self.act(self.fc1(v)))
        return logits


class SpatialAttention(nn.Module):
    """CBAM's spatial gate: maximum and mean over the channels, one convolution, norm, gate.

    ``x * gate(norm(conv([max, mean])))``, the convolution without bias. Parameters:
    ``2 k^2 + 2`` with kernel size k and a batch norm.

    Args:
        kernel_size: size k of the convolution; odd.
        gate_layer: makes the gate function, called without arguments.
        norm_layer: makes the norm of the one map, called as
            ``norm_layer(1, device=device, dtype=dtype)``; None for no norm.
        device: where to create the parameters.
        dtype: type of the parameters.

    Shape:
        Input and output (N, C, H, W) for any C, with the same dtype, device and memory format.

    Raises:
        ValueError: an even kernel size; a batch norm in train mode that sees a single value.
        TypeError: a size that is no int, a layer argument that makes no module.

    Example:
        >>> SpatialAttention()(torch.rand(2, 64, 14, 14)).shape
        torch.Size([2, 64, 14, 14])
    """

    def __init__(
        self,
        kernel_size: int = 7,
        *,
        gate_layer: LayerFactory = nn.Sigmoid,
        norm_layer: LayerFactory | None = SpatialNorm,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        size = odd_kernel("kernel_size", kernel_size)
        self.conv = nn.Conv2d(2, 1, size, padding=size // 2, bias=False, device=device, dtype=dtype)
        self.bn = new_norm(norm_layer, 1, device=device, dtype=dtype)
        self.gate = new_layer("gate_layer", gate_layer)

    def forward(self, x: Tensor) -> Tensor:
        """Return ``x`` with every position scaled by its gate."""
        return F.apply_gates(x, [self.position_gate(F.position_statistics(x))])

    def position_gate(self, statistics: Tensor) -> Tensor:
        """The gates (N, 1, H, W) that belong to the maxima and means (N, 2, H, W)."""
        gate: Tensor = self.gate(self.bn(self.conv(statistics)))
        return gate


class CBAM(AttentionBlock):
    """Convolutional block attention module: channel attention, then spatial attention.

    As in the authors' code: both layers of the channel MLP are biased, the spatial gate sees
    [max, mean], and its batch norm has momentum 0.01. Parameters:
    ``2 C h + h + C + 2 k^2 + 2`` with MLP width h and kernel size k.

    The two stages are computed together: hooks on their layers run, those on the stages do not.

    timm's builders (``se_layer=CBAM``, ``attn_layer=CBAM``) set the ratio and the activation
    themselves; :func:`attnblocks.replace_se` gives the published block.

    Args:
        channels: channels C of the map.
        rd_channels: width h of the channel MLP. Default: ``floor(C * rd_ratio)``, at least 1.
        rd_ratio: width over channels, used where ``rd_channels`` is None.
        kernel_size: size k of the spatial convolution; odd.
        act_layer: makes the activation of the channel MLP, called without arguments.
        gate_layer: makes the function of both gates, called without arguments.
        norm_layer: makes the norm of the spatial gate, called as
            ``norm_layer(1, device=device, dtype=dtype)``; None for no norm.
        device: where to create the parameters.
        dtype: type of the parameters.

    Shape:
        Input and output (N, C, H, W), with the same dtype, device and memory format.

    Raises:
        ValueError: a width below 1, a ratio not above 0, an even kernel size; in ``forward`` a map
            that is not (N, C, H, W), or a single value (N = 1 at 1x1) in train mode.
        TypeError: a width that is no int, a layer argument that makes no module.

    Example:
        >>> CBAM(64)(torch.rand(2, 64, 14, 14)).shape
        torch.Size([2, 64, 14, 14])
    """

    gate_names = ("channel", "positions")

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
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        channel = ChannelAttention(
            channels,
            rd_channels,
            rd_ratio=rd_ratio,
            act_layer=act_layer,
            gate_layer=gate_layer,
            device=device,
            dtype=dtype,
        )
        super().__init__(channel.channels, channel.rd_channels)
        self.channel = channel
        self.spatial = SpatialAttention(
            kernel_size, gate_layer=gate_layer, norm_layer=norm_layer, device=device, dtype=dtype
        )

    def arguments(self) -> dict[str, Any]:
        """What makes a block of this structure, beside its channels, for JSON."""
        return {
            "rd_channels": self.rd_channels,
            "kernel_size": self.spatial.conv.kernel_size[0],
            "act_layer": name_function(self.channel.act),
            "gate_layer": name_function(self.channel.gate),
            "norm_layer": name_norm(self.spatial.bn),
        }

    def gates(self, x: Tensor) -> list[Tensor]:
        """A gate per channel, (N, C, 1, 1), and per position, (N, 1, H, W)."""
        channel = self.channel.channel_gate(F.channel_means(x), F.channel_maxima(x)).to(x.dtype)
        return [channel, self.spatial.position_gate(F.position_statistics(x, channel))]
