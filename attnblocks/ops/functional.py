"""What the blocks are made of: statistics of a feature map, and its product with gates.

Each function has up to three forms with the same numbers. In eager mode an operator costs what it
reads and writes, and the forms of :mod:`attnblocks.ops.eager` pass over the map as seldom as they can.
Compilers fuse passes themselves: they get plain operators in the order that fuses best. What is
left, ONNX, tracing and scripting, gets those that ONNX Runtime runs fast one by one.
"""

import torch
import torch.fx
import torch.nn.functional
from torch import Tensor
from torch.autograd import forward_ad
from torch.jit import is_scripting, is_tracing  # type: ignore[attr-defined]

from attnblocks.ops import eager as _eager


def _is_eager() -> bool:
    """Whether operators run as they are called, and derivatives are taken backward.

    ``torch.jit.script`` has to see ``is_scripting()`` itself in front of what it cannot compile.
    """
    if torch.compiler.is_compiling() or is_tracing():  # type: ignore[no-untyped-call]
        return False
    return forward_ad._current_level < 0  # no public name tells of forward-mode derivatives


def _is_compiled() -> bool:
    """Whether a compiler fuses what follows."""
    return torch.compiler.is_compiling() and not torch.onnx.is_in_onnx_export()


@torch.fx.wrap
def channel_means(x: Tensor, lines: Tensor | None = None) -> Tensor:
    """The mean of every channel.

    Args:
        x: the map; (N, C, H, W).
        lines: its :func:`coordinate_means` where they are known: they save a pass over the map.

    Returns:
        (N, C, 1, 1).
    """
    if not is_scripting():
        if lines is not None and (_is_eager() or _is_compiled()):
            return lines.narrow(2, 0, x.shape[2]).mean(2, keepdim=True)
        if _is_eager():
            return _eager.mean(x, (2, 3))
    return x.mean((2, 3), keepdim=True)


@torch.fx.wrap
def channel_maxima(x: Tensor) -> Tensor:
    """The maximum of every channel; positions that share it share the gradient.

    Args:
        x: the map; (N, C, H, W).

    Returns:
        (N, C, 1, 1).
    """
    if not is_scripting():
        if _is_eager():
            return _eager.channel_maxima(x)
        # Part of the loop that computes the means of the rows; its gradient would share among rows.
        if _is_compiled() and not torch.is_grad_enabled():
            return x.amax(3, keepdim=True).amax(2, keepdim=True)
    return x.amax((2, 3), keepdim=True)


@torch.fx.wrap
def coordinate_means(x: Tensor) -> Tensor:
    """The mean of every row, then of every column, of every channel.

    Args:
        x: the map; (N, C, H, W).

    Returns:
        (N, C, H + W, 1), in memory as (N, H + W, C) if the map is channels-last.
    """
    if not is_scripting() and _is_eager():
        return _eager.coordinate_means(x)
    x = x.permute(0, 2, 3, 1)
    lines = torch.cat([x.mean(2), x.mean(1)], dim=1)  # (N, H + W, C)
    return lines.unsqueeze(2).permute(0, 3, 1, 2)


@torch.fx.wrap
def position_statistics(x: Tensor, gate: Tensor | None = None) -> Tensor:
    """Maximum and mean over the channels of a map, or of ``x * gate``.

    Args:
        x: the map; (N, C, H, W).
        gate: (N, C, 1, 1), in the dtype of the map; None for 1.

    Returns:
        (N, 2, H, W): the maximum, then the mean.
    """
    if not is_scripting() and _is_eager() and gate is not None:
        return _eager.position_statistics(x, gate)
    y = x if gate is None else x * gate
    return torch.cat([y.amax(1, keepdim=True), y.mean(1, keepdim=True)], dim=1)


@torch.fx.wrap
def pointwise(v: Tensor, weight: Tensor, bias: Tensor, scale: Tensor | None = None) -> Tensor:
    """A 1x1 convolution of vectors, ``weight @ (scale * v) + bias``.

    Args:
        v: the vectors; (N, C, L, 1), in memory as such or as (N, L, C).
        weight: (O, C, 1, 1).
        bias: (O,).
        scale: (N, C, 1, 1), multiplied into ``v`` first; None for 1. In eager mode the product
            is computed again in backward instead of being kept beside ``v``.

    Returns:
        (N, O, L, 1), in memory as the vectors.
    """
    if not is_scripting():
        if _is_eager():
            return _eager.pointwise(v, weight, bias, scale)
        if _is_compiled():
            scaled = v if scale is None else v * scale
            return _eager.product_of_nlc(scaled, weight.flatten(1), bias)
    return torch.nn.functional.conv2d(v if scale is None else v * scale, weight, bias)


@torch.fx.wrap
def apply_gates(x: Tensor, gates: list[Tensor]) -> Tensor:
    """Multiply a map by its gates.

    Args:
        x: the map; (N, C, H, W).
        gates: at least one tensor of 4 dimensions that broadcast to the map. All but the last one
            are small when multiplied together, such as a gate per channel and one per row.

    Returns:
        (N, C, H, W), with dtype and memory format of the map.
    """
    gates = [gate.to(x.dtype) for gate in gates]
    if not is_scripting() and _is_eager():
        return _eager.apply_gates(x, gates)
    product = gates[0]
    for gate in gates[1:]:
        product = product * gate
    return x * product
