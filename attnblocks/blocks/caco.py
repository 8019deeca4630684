"""A channel gate followed by coordinate attention: SeCo and CaCo.

Paper: Shi X, Fang R, Luo M, Liu T-K. Skin Tumor Classification Based on Improved
MobileNetV3-Small (in Chinese). Computer Systems & Applications 32(12), 2023, 120-128.
"""

from typing import Any

import torch
from torch import Tensor, nn

from attnblocks.blocks.base import AttentionBlock, OldGate
from attnblocks.blocks.cbam import MLP_LAYERS, ChannelGate
from attnblocks.blocks.coord_att import COORD_LAYERS, MIN_WIDTH, CoordGate
from attnblocks.blocks.gain import Gain
from attnblocks.blocks.layers import LayerFactory, bottleneck
from attnblocks.blocks.plain import PlainStage
from attnblocks.blocks.registry import register_block
from attnblocks.blocks.se import SE_LAYERS, SEGate
from attnblocks.blocks.se_layers import SELayers
from attnblocks.blocks.whole import Whole
from attnblocks.ops import functional as F

_COORD = PlainStage(COORD_LAYERS, "coord", CoordGate)


class _BeforeCoordAtt(AttentionBlock):
    """The shared part of blocks with a channel stage before coordinate attention."""

    gate_names = ("channel", "rows", "columns")
    coord: CoordGate

    @property
    def coord_rd_channels(self) -> int:
        """Width of the coordinate stage."""
        return self.coord.rd_channels

    @property
    def coord_gain(self) -> Tensor | None:
        """Gain of the gates of rows and of columns."""
        return self.coord.gain

    def statistics(self, x: Tensor, *names: str) -> tuple[Any, ...]:
        """The means that the coordinate stage takes, then statistics of these names."""
        if isinstance(self.coord, CoordGate) and self.coord.runs_apart(x):
            return F.row_and_column_means(x), *F.statistics(x, *names)
        return F.statistics(x, "coordinate_means", *names)

    def inherit(self, old: OldGate) -> float:
        """The coordinate stage starts open."""
        return self.coord.open()

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Restore a pickle or copy; in pickles of version 0.1.0 the stages are whole blocks."""
        super().__setstate__(state)  # type: ignore[no-untyped-call]
        for name, stage in (("se", SEGate), ("coord", CoordGate)):
            module = self._modules.get(name)
            if module is not None and type(module) is stage.__base__:
                module.__class__ = stage


@register_block("SeCo")
class SeCo(_BeforeCoordAtt):
    """Squeeze-and-excitation, then coordinate attention.

    ``y = x * gate(fc2(act(fc1(mean(x)))))``, then ``y * a_w * a_h`` as in :class:`CoordAtt`.
    Parameters: those of :class:`SE` plus those of :class:`CoordAtt`.

    timm's builders (``se_layer=SeCo``, ``attn_layer=SeCo``) set the ratio and the activation of
    the first stage themselves; :func:`attnblocks.replace_se` gives the published block.

    Arguments, shapes and errors that the blocks share are those of
    :class:`~attnblocks.AttentionBlock`.

    Args:
        rd_channels: squeeze width of the SE stage. Default: as in :class:`SE`.
        act_layer: of the SE stage.
        gate_layer: of the SE stage.
        coord_rd_channels: width of the coordinate stage. Default:
            ``floor(C * coord_rd_ratio)``, at least 8.
        coord_rd_ratio: that width over channels, used where ``coord_rd_channels`` is None.
        norm_layer: of the coordinate stage.
        gain: of the channel gate.
        coord_gain: of the gates of rows and of columns.

    Example:
        >>> SeCo(64)(torch.rand(2, 64, 14, 20)).shape
        torch.Size([2, 64, 14, 20])
    """

    whole = Whole(PlainStage(SE_LAYERS, "se", SEGate), _COORD)

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
        gain: Gain | None = None,
        coord_gain: Gain | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.se = SEGate(
            channels,
            rd_channels,
            rd_ratio=rd_ratio,
            act_layer=act_layer,
            gate_layer=gate_layer,
            gain=gain,
            device=device,
            dtype=dtype,
        )
        width = bottleneck(
            self.channels, coord_rd_channels, coord_rd_ratio, least=MIN_WIDTH, prefix="coord_"
        )
        self.coord = CoordGate(channels, width, norm_layer=norm_layer, device=device, dtype=dtype)
        self.coord.set_gain(coord_gain, channels, name="coord_gain", device=device, dtype=dtype)

    @property
    def channels(self) -> int:
        """Channels of the map."""
        return self.se.channels

    @property
    def rd_channels(self) -> int:
        """Squeeze width of the SE stage."""
        return self.se.rd_channels

    @property
    def gain(self) -> Tensor | None:
        """Gain of the SE stage."""
        return self.se.gain

    def gates(self, x: Tensor) -> list[Tensor]:
        """A gate per channel, (N, C, 1, 1), per row, (N, C, H, 1), and per column, (N, C, 1, W)."""
        coordinates, means = self.statistics(x, "channel_means")
        channel = self.se(means)
        return [channel, *self.coord(coordinates, x.shape[2], channel)]

    def se_layers(self) -> SELayers:
        """Those of the SE stage."""
        return self.se.se_layers()


@register_block("CaCo")
class CaCo(_BeforeCoordAtt):
    """CBAM's channel gate, then coordinate attention.

    ``y = x * gate(mlp(mean(x)) + mlp(max(x)))`` with ``mlp(v) = fc2(act(fc1(v)))``, then
    ``y * a_w * a_h`` as in :class:`CoordAtt`. The means of the rows and columns of y are those of x
    times the channel gate, so y itself is never computed.
    Parameters: those of :class:`~attnblocks.blocks.cbam.ChannelGate` plus those of
    :class:`CoordAtt`. The composition is worked out from the parameter counts of the paper.

    timm's builders (``se_layer=CaCo``, ``attn_layer=CaCo``) set the ratio and the activation of
    the first stage themselves, which is not the published CaCo;
    :func:`attnblocks.replace_se` gives the published one.

    Arguments, shapes and errors that the blocks share are those of
    :class:`~attnblocks.AttentionBlock`.

    Args:
        rd_channels: width of the channel MLP. Default: ``floor(C * rd_ratio)``, at least 1.
        act_layer: of the channel MLP.
        gate_layer: of the channel stage.
        coord_rd_channels: width of the coordinate stage. Default:
            ``floor(C * coord_rd_ratio)``, at least 8.
        coord_rd_ratio: that width over channels, used where ``coord_rd_channels`` is None.
        norm_layer: of the coordinate stage.
        gain: of the channel gate.
        coord_gain: of the gates of rows and of columns.

    Example:
        >>> CaCo(64)(torch.rand(2, 64, 14, 20)).shape
        torch.Size([2, 64, 14, 20])
    """

    whole = Whole(PlainStage(MLP_LAYERS, "channel", ChannelGate), _COORD)

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
        gain: Gain | None = None,
        coord_gain: Gain | None = None,
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
        width = bottleneck(
            self.channels, coord_rd_channels, coord_rd_ratio, least=MIN_WIDTH, prefix="coord_"
        )
        self.coord = CoordGate(channels, width, norm_layer=norm_layer, device=device, dtype=dtype)
        self.coord.set_gain(coord_gain, channels, name="coord_gain", device=device, dtype=dtype)

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

    def gates(self, x: Tensor) -> list[Tensor]:
        """A gate per channel, (N, C, 1, 1), per row, (N, C, H, 1), and per column, (N, C, 1, W)."""
        coordinates, means, maxima = self.statistics(x, "channel_means", "channel_maxima")
        channel = self.channel(means, maxima)
        return [channel, *self.coord(coordinates, x.shape[2], channel)]

    def se_layers(self) -> SELayers:
        """Those of the channel stage."""
        return self.channel.se_layers()
