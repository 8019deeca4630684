"""Efficient channel attention.

Paper: ECA-Net: Efficient Channel Attention for Deep CNNs, https://arxiv.org/abs/1910.03151
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from attnblocks.blocks.base import AttentionBlock, OldGate
from attnblocks.blocks.gain import Gain, GainedStage
from attnblocks.blocks.layers import (
    FRESH_SHARE,
    LayerFactory,
    new_layer,
    odd_kernel,
    positive_int,
)
from attnblocks.blocks.plain import Layers, PlainStage
from attnblocks.blocks.registry import register_block
from attnblocks.blocks.se_layers import SELayers
from attnblocks.blocks.whole import Whole
from attnblocks.ops import functional as F
from attnblocks.ops.native.small_layers import NEIGHBOURS


@register_block("Eca")
class Eca(AttentionBlock, GainedStage):
    """Efficient channel attention: one gate per channel from the means of its neighbours.

    ``x * gate(conv1d(mean(x)))``: a convolution of k weights, without bias, runs over the
    channels. Parameters: k. Its weight does not depend on C: a built block takes any C. Its
    parameter name is that of the authors' ``eca_module.py``.

    Arguments, shapes and errors that the blocks share are those of
    :class:`~attnblocks.AttentionBlock`.

    Args:
        kernel_size: k, odd. Default: the paper's adaptive size, ``t = int(|log2(C)/2 + 1/2|)``,
            plus 1 if even, at least 3. (The authors' module keeps 3 for every C by default.)

    Example:
        >>> Eca(64).kernel_size
        3
        >>> Eca(64)(torch.rand(2, 64, 14, 14)).shape
        torch.Size([2, 64, 14, 14])
    """

    gate_names = ("channel",)
    logit_names = ("conv",)
    across_channels = True
    whole = Whole(PlainStage(Layers(NEIGHBOURS, ("conv",))))

    def __init__(
        self,
        channels: int,
        *,
        kernel_size: int | None = None,
        gate_layer: LayerFactory = nn.Sigmoid,
        gain: Gain | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(positive_int("channels", channels))
        if kernel_size is None:
            kernel_size = _adaptive_kernel_size(self.channels)
        size = odd_kernel("kernel_size", kernel_size)
        self.conv = nn.Conv1d(1, 1, size, padding=size // 2, bias=False, device=device, dtype=dtype)
        self.gate = new_layer("gate_layer", gate_layer)
        self.set_gain(gain, self.channels, device=device, dtype=dtype)

    @property
    def any_channels(self) -> bool:  # type: ignore[override]
        """Whether the block takes any number of channels: unless it has a gain for each."""
        return self.gain is None or self.gain.dim() == 0

    @property
    def kernel_size(self) -> int:
        """Size of the convolution."""
        return self.conv.kernel_size[0]

    def gates(self, x: Tensor) -> list[Tensor]:
        """One gate per channel; (N, C, 1, 1)."""
        y = F.channel_means(x).squeeze(3).transpose(1, 2)  # (N, 1, C): the channels are the length
        gate: Tensor = self.gate(self.conv(y))  # (N, 1, C)
        return [self.times_gain(gate.transpose(1, 2).unsqueeze(3))]

    def remove_channels(self, removed: Sequence[int]) -> None:
        """Forget the gains of removed channels, and be a block for those that are left."""
        super().remove_channels(removed)
        vars(self)["channels"] = self.channels - len({*removed})

    def se_layers(self) -> SELayers:
        """The gate only: a convolution over the channels is not a layer of an SE."""
        return SELayers(self.channels, self.gate)

    def inherit(self, old: OldGate) -> float:
        """The usual gates of the site, as gains: no weight of its own belongs to a channel."""
        if self.can_start_at_one():
            self.take_gain(old.usual_gates() / self.gate_at_zero())
        else:
            self.take_gain(old.gain)
        self.conv.weight.mul_(FRESH_SHARE)
        return 1.0


def _adaptive_kernel_size(channels: int) -> int:
    t = int(abs(math.log2(channels) / 2 + 1 / 2))
    return max(3, t if t % 2 else t + 1)
