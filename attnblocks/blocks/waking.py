"""Waking hidden units that an activation switches off on every map.

Behind the zero layers of a block that starts as the identity, a unit without a slope on any map of
the data gets no gradient, and never will: its share of the block is lost.
"""

from typing import cast

import torch
from torch import Tensor, nn

from attnblocks.blocks.gain import GainedStage
from attnblocks.blocks.layers import copy_function

SMALL = 0.01
"""Bias of a unit that is exactly 0 on every map, so that it stands on the side with a slope."""


@torch.no_grad()
def wake(block: nn.Module, x: Tensor) -> None:
    """Turn round the hidden units of a fresh block that are switched off on all of some maps.

    Such a unit, below 0 in front of a ReLU or below -3 in front of a Hardswish, gets its weights
    and bias negated. Layers draw them symmetrically around 0, so these are as likely. A unit that
    is 0 on every map gets a small bias where its layer has biases. Nothing is drawn, and all other
    units keep their weights to the bit; so does one that has no slope on the other side either,
    such as a unit far out in both directions before a ReLU6.

    A norm over several units, such as GroupNorm, takes one mean of them all, and turning one unit
    changes it for the others: also a start, but they no longer compute what was drawn for them.

    Args:
        block: the block, changed in place; it runs in eval mode, and is left in its own.
        x: maps (N, C, H, W) as they come to the block; without any the block stays as it is.

    Example:
        >>> from attnblocks import SE
        >>> block, x = SE(16, 1), torch.rand(2, 16, 7, 7)
        >>> wake(block, x)
        >>> bool((block.fc1(x.mean((2, 3), keepdim=True)) > 0).any())
        True
    """
    if len(x) == 0:
        return
    modes = {module: module.training for module in block.modules()}
    # Eval mode keeps running statistics as they are. In train mode a batch norm in front of the
    # activation gives every unit the mean 0 over the batch, so that none is off on all of it; in
    # eval mode a fresh one leaves signs as they are, and they turn with those of the layer.
    block.eval()
    try:
        for stage in block.modules():  # in turn: an earlier stage may change what a later one gets
            if isinstance(stage, GainedStage) and stage.hidden_names is not None:
                layer, act = (stage.get_submodule(name) for name in stage.hidden_names)
                _wake(layer, act, _entering(act, block, x))
    finally:
        for module, training in modes.items():
            module.training = training


def _entering(act: nn.Module, block: nn.Module, x: Tensor) -> Tensor:
    """The values of every unit that enter an activation; (units, values)."""
    seen: list[Tensor] = []

    def see(_: nn.Module, args: tuple[Tensor]) -> None:
        seen.append(args[0].transpose(0, 1).flatten(1).clone())  # some functions work in place

    handle = act.register_forward_pre_hook(see)
    try:
        block(x)
    finally:
        handle.remove()
    return torch.cat(seen, dim=1)


def _wake(layer: nn.Module, act: nn.Module, values: Tensor) -> None:
    """Turn the sleeping outputs of a layer round; no value is read, as on meta there is none."""
    asleep = ~_has_slope(act, values)
    weight, bias = cast(Tensor, layer.weight), cast(Tensor | None, layer.bias)
    sign = 1 - 2 * (asleep & _has_slope(act, -values)).to(weight.dtype)
    weight.mul_(sign.view(-1, *[1] * (weight.dim() - 1)))
    if bias is not None:
        bias.mul_(sign).masked_fill_(asleep & (values == 0).all(1), SMALL)


def _has_slope(act: nn.Module, values: Tensor) -> Tensor:
    """Whether a unit has a slope at any of its values; (units,)."""
    with torch.inference_mode(False), torch.enable_grad():
        v = values.clone().requires_grad_()
        (slopes,) = torch.autograd.grad(copy_function(act)(v.clone()).sum(), v)
    return (slopes != 0).any(1)
