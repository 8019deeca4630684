"""Squeeze-and-excitation.

Paper: Squeeze-and-Excitation Networks, https://arxiv.org/abs/1709.01507
"""

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.utils import skip_init

from attnblocks.blocks import base
from attnblocks.blocks.base import AttentionBlock, B
from attnblocks.blocks.gain import Gain, GainedStage
from attnblocks.blocks.layers import (
    LayerFactory,
    bottleneck,
    copy_function,
    new_layer,
    new_norm,
    positive_int,
)
from attnblocks.blocks.plain import Layers, PlainStage
from attnblocks.blocks.registry import register_block
from attnblocks.blocks.se_layers import (
    MAX_OVER_MEAN,
    SELayers,
    copy_linear,
    input_width,
    output_width,
)
from attnblocks.blocks.whole import Whole
from attnblocks.ops import functional as F
from attnblocks.ops.native.small_layers import MEANS

SE_LAYERS = Layers(MEANS, ("fc1", "fc2"), act="act", norm="bn")


@register_block("SE")
class SE(AttentionBlock, GainedStage):
    """Squeeze-and-excitation: one gate per channel, computed from the mean of each channel.

    ``x * gate(fc2(act(norm(fc1(mean(x))))))``, both layers 1x1 convolutions with bias. The
    defaults are those of torchvision's MobileNetV3; the paper's own are ``rd_channels=C // 16``
    and ``gate_layer=nn.Sigmoid``. Parameters: ``2 C S + S + C`` with squeeze width S. Parameter
    names are those of torchvision's ``SqueezeExcitation`` and timm's ``SEModule``: checkpoints fit.

    Arguments, shapes and errors that the blocks share are those of
    :class:`~attnblocks.AttentionBlock`.

    Args:
        rd_channels: squeeze width S. Default: ``floor(C * rd_ratio)`` rounded to a multiple of 8,
            at least 8 and never below 0.9 times the unrounded width.
        norm_layer: of the squeezed vector, (N, S, 1, 1).

    Example:
        >>> block = SE(64)
        >>> block.rd_channels
        16
        >>> block(torch.rand(2, 64, 14, 14)).shape
        torch.Size([2, 64, 14, 14])
    """

    gate_names = ("channel",)
    logit_names = ("fc2",)
    hidden_names = ("fc1", "act")
    whole = Whole(PlainStage(SE_LAYERS))

    def __init__(
        self,
        channels: int,
        rd_channels: int | None = None,
        *,
        rd_ratio: float = 1 / 4,
        act_layer: LayerFactory = nn.ReLU,
        gate_layer: LayerFactory = nn.Hardsigmoid,
        norm_layer: LayerFactory | None = None,
        gain: Gain | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        channels = positive_int("channels", channels)
        width = bottleneck(channels, rd_channels, rd_ratio)
        width = _round_to_eight(width) if rd_channels is None else width
        super().__init__()
        self.fc1 = nn.Conv2d(channels, width, 1, device=device, dtype=dtype)
        self.bn = new_norm(norm_layer, width, device=device, dtype=dtype)
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
        """Squeeze width, as the first layer has it."""
        return cast(int, output_width(self.fc1))

    def gates(self, x: Tensor) -> list[Tensor]:
        """One gate per channel; (N, C, 1, 1)."""
        return [self.channel_gate(F.channel_means(x))]

    def channel_gate(self, means: Tensor) -> Tensor:
        """The gates that belong to the means of the channels; both (N, C, 1, 1)."""
        y = self.act(self.bn(self.fc1(means)))  # (N, S, 1, 1)
        return self.times_gain(self.gate(self.fc2(y)))  # (N, C, 1, 1)

    def se_layers(self) -> SELayers:
        """All of them."""
        return SELayers(self.channels, self.gate, self.fc2, self.fc1, self.act, self.bn, stage=self)

    @classmethod
    @torch.no_grad()
    def from_se(cls: type[B], layers: SELayers) -> B | None:
        """An SE with widths, functions, gain and weights of these layers; None if they have no MLP.

        It computes the same to float rounding, unless a maximum went through the layers too.
        """
        if layers.expand is None or layers.gate is None:
            return None
        weight = cast(Tensor, layers.expand.weight)
        # Every weight is filled below: nothing is drawn, and the random state stays as it is.
        se = skip_init(  # type: ignore[no-untyped-call]
            cls,
            layers.channels,
            layers.rd_channels or layers.channels,
            act_layer=nn.Identity,
            gate_layer=nn.Identity,
            device=weight.device,
            dtype=weight.dtype,
        )
        se.act = nn.Identity() if layers.act is None else copy_function(layers.act)
        se.gate = copy_function(layers.gate)
        if layers.stage is not None:
            se.take_gain(layers.stage.gain)
        copy_linear(layers.expand, se.fc2)
        if layers.uses_max:  # the terms of mean and maximum merge into one of the mean
            se.fc2.weight.mul_(2)
            se.fc2.bias.mul_(2)
        if layers.norm is not None:
            se.bn = layers.norm
        if layers.squeeze is not None:
            copy_linear(layers.squeeze, se.fc1)
            if layers.uses_max:
                se.fc1.weight.mul_((1 + MAX_OVER_MEAN) / 2)
        else:
            nn.init.dirac_(se.fc1.weight)
            nn.init.zeros_(se.fc1.bias)
            se.fc1.requires_grad_(se.fc2.weight.requires_grad)
        return cast(B, se)


class SEGate(SE):
    """SE as a stage of another block, which computes the means and multiplies the map.

    A subclass of SE, so that tools that know layers by the class of their block, such as pruners,
    know these.

    Shape:
        Input: the means of the channels, (N, C, 1, 1). Output: their gates, of the same shape.

    Example:
        >>> SEGate(64)(torch.rand(2, 64, 1, 1)).shape
        torch.Size([2, 64, 1, 1])
    """

    def forward(self, means: Tensor) -> Tensor:
        """The gates that belong to the means of the channels."""
        base.check_means(means, self.channels)  # by its module, where a symbolic trace finds it
        return self.channel_gate(means)


def _round_to_eight(width: int) -> int:
    """The multiple of 8 nearest to ``width``, at least 8; the next if that is below 0.9 width."""
    rounded = max(8, (width + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * width else rounded
