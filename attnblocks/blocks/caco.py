"""A channel gate followed by coordinate attention: SeCo and CaCo.

Paper: Shi X, Fang R, Luo M, Liu T-K. Skin Tumor Classification Based on Improved
MobileNetV3-Small (in Chinese). Computer Systems & Applications 32(12), 2023, 120-128.
"""

from typing import Any

import torch
from torch import Tensor, nn

from attnblocks.blocks.base import AttentionBlock, LayerFactory, bottleneck
from attnblocks.blocks.cbam import ChannelAttention
from attnblocks.blocks.coord_att import MIN_WIDTH, CoordAtt
from attnblocks.blocks.se import SE
from attnblocks.files.layer_names import name_function, name_norm
from attnblocks.ops import functional as F


class SeCo(AttentionBlock):
    """Squeeze-and-excitation, then coordinate attention.

    Parameters: those of :class:`SE` plus those of :class:`CoordAtt`.

    The two stages are computed together: hooks on their layers run, those on the stages do not.

    timm's builders (``se_layer=SeCo``, ``attn_layer=SeCo``) set the ratio and the activation of
    the first stage themselves; :func:`attnblocks.replace_se` gives the published block.

    Args:
        channels: channels C of the map.
        rd_channels: squeeze width of the SE stage. Default: as in :class:`SE`.
        rd_ratio: squeeze width over channels, used where ``rd_channels`` is None.
        act_layer: makes the activation of the SE stage, called without arguments.
        gate_layer: makes the gate function of the SE stage, called without arguments.
        coord_rd_channels: width of the coordinate stage. Default:
            ``floor(C * coord_rd_ratio)``, at least 8.
        coord_rd_ratio: that width over channels, used where ``coord_rd_channels`` is None.
        norm_layer: makes the norm of the coordinate stage, called as
            ``norm_layer(coord_rd_channels, device=device, dtype=dtype)``; None for no norm.
        device: where to create the parameters.
        dtype: type of the parameters.

    Shape:
        Input and output (N, C, H, W), with the same dtype, device and memory format.

    Raises:
        ValueError: a width below 1, a ratio not above 0, an input that is not (N, C, H, W).
        TypeError: a width that is no int, a layer argument that makes no module.

    Example:
        >>> SeCo(64)(torch.rand(2, 64, 14, 20)).shape
        torch.Size([2, 64, 14, 20])
    """

    gate_names = ("channel", "rows", "columns")

    def __init__(
        self,
        channels: int,
        rd_channels: int | None = None,
        *,
        rd_ratio: float = 1 / 4,
        act_layer: LayerFactory = nn.ReLU,
        gate_layer: LayerFactory = nn.Hardsigmoid,
        coord_rd_channels: int | None = None,
        coord_rd_ratio: float = 1 / 32,
        norm_layer: LayerFactory | None = nn.BatchNorm2d,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        se = SE(
            channels,
            rd_channels,
            rd_ratio=rd_ratio,
            act_layer=act_layer,
            gate_layer=gate_layer,
            device=device,
            dtype=dtype,
        )
        super().__init__(se.channels, se.rd_channels)
        self.se = se
        width = bottleneck(
            self.channels, coord_rd_channels, coord_rd_ratio, least=MIN_WIDTH, prefix="coord_"
        )
        self.coord = CoordAtt(channels, width, norm_layer=norm_layer, device=device, dtype=dtype)

    def arguments(self) -> dict[str, Any]:
        """What makes a block of this structure, beside its channels, for JSON."""
        return {
            "rd_channels": self.rd_channels,
            "act_layer": name_function(self.se.act),
            "gate_layer": name_function(self.se.gate),
            "coord_rd_channels": self.coord.rd_channels,
            "norm_layer": name_norm(self.coord.bn1),
        }

    def gates(self, x: Tensor) -> list[Tensor]:
        """A gate per channel, (N, C, 1, 1), per row, (N, C, H, 1), and per column, (N, C, 1, W)."""
        means = F.coordinate_means(x)  # (N, C, H + W, 1)
        channel = self.se.channel_gate(F.channel_means(x, means))
        a_h, a_w = self.coord.line_gates(means, x.shape[2], channel)
        return [channel, a_h, a_w]


class CaCo(AttentionBlock):
    """CBAM's channel attention, then coordinate attention.

    Parameters: those of :class:`~attnblocks.blocks.cbam.ChannelAttention` plus those of
    :class:`CoordAtt`. The composition is worked out from the parameter counts of the paper.

    The two stages are computed together: hooks on their layers run, those on the stages do not.

    timm's builders (``se_layer=CaCo``, ``attn_layer=CaCo``) set the ratio and the activation of
    the first stage themselves, which is not the published CaCo;
    :func:`attnblocks.replace_se` gives the published one.

    Args:
        channels: channels C of the map.
        rd_channels: width of the channel MLP. Default: ``floor(C * rd_ratio)``, at least 1.
        rd_ratio: that width over channels, used where ``rd_channels`` is None.
        act_layer: makes the activation of the channel MLP, called without arguments.
        gate_layer: makes the gate function of the channel stage, called without arguments.
        coord_rd_channels: width of the coordinate stage. Default:
            ``floor(C * coord_rd_ratio)``, at least 8.
        coord_rd_ratio: that width over channels, used where ``coord_rd_channels`` is None.
        norm_layer: makes the norm of the coordinate stage, called as
            ``norm_layer(coord_rd_channels, device=device, dtype=dtype)``; None for no norm.
        device: where to create the parameters.
        dtype: type of the parameters.

    Shape:
        Input and output (N, C, H, W), with the same dtype, device and memory format.

    Raises:
        ValueError: a width below 1, a ratio not above 0, an input that is not (N, C, H, W).
        TypeError: a width that is no int, a layer argument that makes no module.

    Example:
        >>> CaCo(64)(torch.rand(2, 64, 14, 20)).shape
        torch.Size([2, 64, 14, 20])
    """

    gate_names = ("channel", "rows", "columns")

    def __init__(
        self,
        channels: int,
        rd_channels: int | None = None,
        *,
        rd_ratio: float = 1 / 16,
        act_layer: LayerFactory = nn.ReLU,
        gate_layer: LayerFactory = nn.Sigmoid,
        coord_rd_channels: int | None = None,
        coord_rd_ratio: float = 1 / 32,
        norm_layer: LayerFactory | None = nn.BatchNorm2d,
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
        width = bottleneck(
            self.channels, coord_rd_channels, coord_rd_ratio, least=MIN_WIDTH, prefix="coord_"
        )
        self.coord = CoordAtt(channels, width, norm_layer=norm_layer, device=device, dtype=dtype)

    def arguments(self) -> dict[str, Any]:
        """What makes a block of this structure, beside its channels, for JSON."""
        return {
            "rd_channels": self.rd_channels,
            "act_layer": name_function(self.channel.act),
            "gate_layer": name_function(self.channel.gate),
            "coord_rd_channels": self.coord.rd_channels,
            "norm_layer": name_norm(self.coord.bn1),
        }

    def gates(self, x: Tensor) -> list[Tensor]:
        """A gate per channel, (N, C, 1, 1), per row, (N, C, H, 1), and per column, (N, C, 1, W)."""
        means = F.coordinate_means(x)  # (N, C, H + W, 1)
        channel = self.channel.channel_gate(F.channel_means(x, means), F.channel_maxima(x))
        a_h, a_w = self.coord.line_gates(means, x.shape[2], channel)
        return [channel, a_h, a_w]
