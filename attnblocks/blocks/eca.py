"""Efficient channel attention.

Paper: ECA-Net: Efficient Channel Attention for Deep CNNs, https://arxiv.org/abs/1910.03151
"""

import math
from typing import Any

import torch
from torch import Tensor, nn

from attnblocks.blocks.base import AttentionBlock, LayerFactory, new_layer, odd_kernel, positive_int
from attnblocks.files.layer_names import name_function
from attnblocks.ops import functional as F


class Eca(AttentionBlock):
    """Efficient channel attention: one gate per channel from the means of its neighbours.

    ``x * gate(conv1d(mean(x)))``: a convolution of k weights, without bias, runs over the
    channels. Parameters: k.

    Args:
        channels: channels C of the map.
        kernel_size: k, odd. Default: the paper's adaptive size, ``t = int(|log2(C)/2 + 1/2|)``,
            plus 1 if even, at least 3. (The authors' module keeps 3 for every C unless told.)
        gate_layer: makes the gate function, called without arguments.
        device: where to create the parameters.
        dtype: type of the parameters.

    Shape:
        Input and output (N, C, H, W), with the same dtype, device and memory format.

    Raises:
        ValueError: channels below 1, an even kernel size, an input that is not (N, C, H, W).
        TypeError: a size that is no int, a layer argument that makes no module.

    Example:
        >>> Eca(64).conv.kernel_size
        (3,)
        >>> Eca(64)(torch.rand(2, 64, 14, 14)).shape
        torch.Size([2, 64, 14, 14])
    """

    gate_names = ("channel",)

    def __init__(
        self,
        channels: int,
        *,
        kernel_size: int | None = None,
        gate_layer: LayerFactory = nn.Sigmoid,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(positive_int("channels", channels))
        if kernel_size is None:
            kernel_size = _adaptive_kernel_size(self.channels)
        size = odd_kernel("kernel_size", kernel_size)
        self.conv = nn.Conv1d(1, 1, size, padding=size // 2, bias=False, device=device, dtype=dtype)
        self.gate = new_layer("gate_layer", gate_layer)

    def arguments(self) -> dict[str, Any]:
        """What makes a block of this structure, beside its channels, for JSON."""
        return {
            "kernel_size": self.conv.kernel_size[0],
            "gate_layer": name_function(self.gate),
        }

    def gates(self, x: Tensor) -> list[Tensor]:
        """One gate per channel; (N, C, 1, 1)."""
        y = F.channel_means(x).squeeze(3).transpose(1, 2)  # (N, 1, C): the channels are the length
        gate: Tensor = self.gate(self.conv(y))  # (N, 1, C)
        return [gate.transpose(1, 2).unsqueeze(3)]


def _adaptive_kernel_size(channels: int) -> int:
    t = int(abs(math.log2(channels) / 2 + 1 / 2))
    return max(3, t if t % 2 else t + 1)
