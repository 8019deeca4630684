"""Squeeze-and-excitation.

Paper: Squeeze-and-Excitation Networks, https://arxiv.org/abs/1709.01507
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


class SE(AttentionBlock):
    """Squeeze-and-excitation: one gate per channel, computed from the mean of each channel.

    ``x * gate(fc2(act(norm(fc1(mean(x))))))``, both layers 1x1 convolutions with bias. The
    defaults are those of torchvision's MobileNetV3; the paper's own are ``rd_channels=C // 16``
    and ``gate_layer=nn.Sigmoid``. Parameters: ``2 C S + S + C`` with squeeze width S. Parameter
    names are those of torchvision's ``SqueezeExcitation`` and timm's ``SEModule``: checkpoints fit.

    Args:
        channels: channels C of the map.
        rd_channels: squeeze width S. Default: ``floor(C * rd_ratio)`` rounded to a multiple of 8,
            at least 8 and never below 0.9 times the unrounded width.
        rd_ratio: squeeze width over channels, used where ``rd_channels`` is None.
        act_layer: makes the activation after the squeeze, called without arguments.
        gate_layer: makes the gate function, called without arguments.
        norm_layer: makes the norm after the squeeze, called as
            ``norm_layer(rd_channels, device=device, dtype=dtype)``; None for no norm.
        device: where to create the parameters.
        dtype: type of the parameters.

    Shape:
        Input and output (N, C, H, W), with the same dtype, device and memory format.

    Raises:
        ValueError: a width below 1, a ratio not above 0; in ``forward`` a map that is not
            (N, C, H, W), or a batch norm in train mode that sees one value per channel.
        TypeError: a width that is no int, a layer argument that makes no module.

    Example:
        >>> block = SE(64)
        >>> block.rd_channels
        16
        >>> block(torch.rand(2, 64, 14, 14)).shape
        torch.Size([2, 64, 14, 14])
    """

    gate_names = ("channel",)
    rd_channels: int

    def __init__(
        self,
        channels: int,
        rd_channels: int | None = None,
        *,
        rd_ratio: float = 1 / 4,
        act_layer: LayerFactory = nn.ReLU,
        gate_layer: LayerFactory = nn.Hardsigmoid,
        norm_layer: LayerFactory | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        channels = positive_int("channels", channels)
        width = bottleneck(channels, rd_channels, rd_ratio)
        super().__init__(channels, _round_to_eight(width) if rd_channels is None else width)
        self.fc1 = Pointwise(channels, self.rd_channels, device=device, dtype=dtype)
        self.bn = new_norm(norm_layer, self.rd_channels, device=device, dtype=dtype)
        self.act = new_layer("act_layer", act_layer)
        self.fc2 = Pointwise(self.rd_channels, channels, device=device, dtype=dtype)
        self.gate = new_layer("gate_layer", gate_layer)

    def arguments(self) -> dict[str, Any]:
        """What makes a block of this structure, beside its channels, for JSON."""
        return {
            "rd_channels": self.rd_channels,
            "act_layer": name_function(self.act),
            "gate_layer": name_function(self.gate),
            "norm_layer": name_norm(self.bn),
        }

    def gates(self, x: Tensor) -> list[Tensor]:
        """One gate per channel; (N, C, 1, 1)."""
        return [self.channel_gate(F.channel_means(x))]

    def channel_gate(self, means: Tensor) -> Tensor:
        """The gates that belong to the means of the channels; both (N, C, 1, 1)."""
        y = self.act(self.bn(self.fc1(means)))  # (N, S, 1, 1)
        gate: Tensor = self.gate(self.fc2(y))  # (N, C, 1, 1)
        return gate


def _round_to_eight(width: int) -> int:
    """The multiple of 8 nearest to ``width``, at least 8; the next one if it is below 0.9 of it."""
    rounded = max(8, (width + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * width else rounded
