"""The layers of an SE block, whatever its class."""

from dataclasses import dataclass
from typing import cast

from einops import rearrange
from torch import Tensor, nn

from attnblocks.blocks.gain import GainedStage

MAX_OVER_MEAN = 3.0
"""Assumed ratio of maximum to mean of a channel; 1.7 to 6.5 at the sites of a trained network."""


@dataclass(frozen=True)
class SELayers:
    """The layers of a block, as the block or its adapter names them.

    Args:
        channels: channels C of the map.
        gate: the gate function; None for a block whose gate is not a function of logits.
        expand: the layer S to C (or C to C where there is no squeeze), a 1x1 convolution or a
            linear layer; None for a block without one, whose weights an SE cannot take over.
        squeeze: the layer C to S; None for a block with one layer only.
        act: the activation between them, if any.
        norm: the norm between them, if any.
        uses_max: whether the maximum of each channel goes through the layers too, and the logits
            are summed, as in CBAM.
        stage: the module that multiplies the gates by its gain; None for one without gains.
    """

    channels: int
    gate: nn.Module | None = None
    expand: nn.Module | None = None
    squeeze: nn.Module | None = None
    act: nn.Module | None = None
    norm: nn.Module | None = None
    uses_max: bool = False
    stage: GainedStage | None = None

    @property
    def rd_channels(self) -> int | None:
        """Squeeze width S, the outputs of the squeeze layer; None where there is none."""
        if self.squeeze is None:
            return None
        width = output_width(self.squeeze)
        return len(cast(Tensor, self.squeeze.weight)) if width is None else width


def input_width(layer: nn.Module) -> int | None:
    """The inputs of a convolution or linear layer, or of the layer that an adapter wraps."""
    return _width(layer, ("in_channels", "in_features"))


def output_width(layer: nn.Module) -> int | None:
    """The outputs of such a layer, from its attributes: some weights change when they are read."""
    return _width(layer, ("out_channels", "out_features"))


def _width(layer: nn.Module, names: tuple[str, ...]) -> int | None:
    for name in names:
        if isinstance(width := getattr(layer, name, None), int):
            return width
    inner = (_width(child, names) for child in layer.children())
    return next((width for width in inner if width is not None), None)


def linear_weight(layer: nn.Module, inputs: int, outputs: int) -> Tensor:
    """The weight of a linear layer or 1x1 convolution; (outputs, inputs).

    Raises:
        ValueError: the layer is something else, or of another size.
    """
    weight = cast(Tensor, layer.weight)
    if weight.shape[:2] != (outputs, inputs) or weight[0, 0].numel() != 1:
        raise ValueError(
            f"{type(layer).__name__} with a weight of shape {tuple(weight.shape)} is no linear "
            f"map from {inputs} to {outputs} channels"
        )
    return rearrange(weight, "o i ... -> o (i ...)")


def copy_linear(old: nn.Module, new: nn.Conv2d) -> None:
    """Copy a linear layer or 1x1 convolution, and whether it is trained; a missing bias is zero."""
    weight = linear_weight(old, new.in_channels, new.out_channels)
    old_bias, new_bias = cast(Tensor | None, old.bias), cast(Tensor, new.bias)
    trained = any(p.requires_grad for p in old.parameters() if p is not old_bias)
    new.weight.copy_(rearrange(weight, "o i -> o i 1 1")).requires_grad_(trained)
    if old_bias is None:
        new_bias.zero_().requires_grad_(trained)
    else:
        new_bias.copy_(old_bias).requires_grad_(old_bias.requires_grad)
