"""The functions of :mod:`attnblocks.functional` for eager mode: few passes over the feature map.

- Every reduction uses the operator that is fastest for the device and memory format. On a CPU they
  differ by up to ten times.
- The map times its first gates is multiplied by the last gate in place, not into a second new map.
- For backward, the map is the only thing of its size that is kept: autograd's own formulas would
  keep every product of it, and expand the gradients of means to full maps. Backward is itself
  differentiable.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional
from einops import rearrange
from torch import Tensor
from torch.autograd import Function

from attnblocks.ops import formulas


def _is_nhwc(x: Tensor) -> bool:
    """Whether the map lies in memory as (N, H, W, C)."""
    return x.stride(1) == 1 and not x.is_contiguous()


def _pools(x: Tensor) -> bool:
    """Whether pooling is faster than a reduction, and would not fix the size of the map."""
    if x.device.type != "cpu" or not _is_nhwc(x):
        return False
    return type(x.shape[2]) is int and type(x.shape[3]) is int  # a symbolic trace would freeze them


def channel_means(x: Tensor) -> Tensor:
    """The mean of every channel; (N, C, 1, 1)."""
    return mean(x, (2, 3))


def mean(x: Tensor, dim: tuple[int, ...]) -> Tensor:
    """The mean over H, W or both, kept as dimensions of size 1."""
    return _Mean.apply(x, dim) if torch.is_grad_enabled() else _mean(x, dim)


def _mean(x: Tensor, dim: tuple[int, ...]) -> Tensor:
    if len(dim) == 1 and _pools(x):  # mean takes up to nine times as long
        kernel = [x.shape[d] if d in dim else 1 for d in (2, 3)]
        return torch.nn.functional.avg_pool2d(x, kernel)
    return x.mean(dim, keepdim=True)


class _Mean(Function):
    """The gradient stays an expanded view of a few values."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, dim: tuple[int, ...]) -> Tensor:
        return _mean(x, dim)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        x, dim = inputs
        ctx.shape, ctx.count = x.shape, math.prod(x.shape[d] for d in dim)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return (grad / ctx.count).expand(ctx.shape), None


def coordinate_means(x: Tensor) -> Tensor:
    """The means of rows, then of columns; (N, C, H + W, 1), in memory as (N, H + W, C).

    Convolutions of vectors take up to six times as long in the other layout.
    """
    rows, columns = mean(x, (3,)), mean(x, (2,))
    rows, columns = rearrange(rows, "n c h 1 -> n h c"), rearrange(columns, "n c 1 w -> n w c")
    return rearrange(torch.cat([rows, columns], dim=1), "n l c -> n c l 1")


def channel_maxima(x: Tensor) -> Tensor:
    """The maximum of every channel; (N, C, 1, 1)."""
    return _ChannelMaxima.apply(x) if torch.is_grad_enabled() else _channel_maxima(x)


def _channel_maxima(x: Tensor) -> Tensor:
    if _pools(x):  # amax takes up to eight times as long
        return torch.nn.functional.max_pool2d(x, x.shape[2:])
    return x.amax((2, 3), keepdim=True)


class _ChannelMaxima(Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        return _channel_maxima(x)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.save_for_backward(*inputs, output)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        x, maxima = ctx.saved_tensors
        return _share_among_maxima(grad, x.detach().clone(), maxima, (2, 3))


def _share_among_maxima(grad: Tensor, y: Tensor, maxima: Tensor, dim: tuple[int, ...]) -> Tensor:
    """The gradient of a maximum over ``dim`` of ``y``: equal parts for all places that reach it.

    It overwrites ``y``, and has no gradient with respect to ``y``.
    """
    # In the dtype of y: comparisons that write bools are not vectorised, and sum slowly.
    hits = y.eq_(maxima.detach())
    # In half precision the number of places may be too large for the dtype.
    count = hits.sum(dim, keepdim=True, dtype=torch.promote_types(y.dtype, torch.float32))
    return _multiply(hits, (grad / count).to(grad.dtype))


def position_statistics(x: Tensor, gate: Tensor | None) -> Tensor:
    """Maximum and mean over the channels of ``x * gate``; (N, 2, H, W)."""
    if gate is None:
        return formulas.position_statistics(x, None)
    function = _PositionStatistics.apply if torch.is_grad_enabled() else _position_statistics
    return torch.cat(function(x, gate), dim=1)


def _position_statistics(x: Tensor, gate: Tensor) -> tuple[Tensor, Tensor]:
    y = x * gate
    return y.amax(1, keepdim=True), y.mean(1, keepdim=True)


class _PositionStatistics(Function):
    """Keeps the map and its gate for backward, and multiplies them again there."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, gate: Tensor) -> tuple[Tensor, Tensor]:
        return _position_statistics(x, gate)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.save_for_backward(*inputs, output[0])

    @staticmethod
    def backward(ctx: Any, grad_maxima: Tensor, grad_mean: Tensor) -> tuple[Tensor, Tensor]:
        x, gate, maxima = ctx.saved_tensors
        y = x.detach() * gate.detach()
        grad = _share_among_maxima(grad_maxima, y, maxima, (1,)).add_(grad_mean / x.shape[1])
        grad_gate = (grad * x).sum((2, 3), keepdim=True)
        return _reuse(grad, gate), grad_gate


def apply_gates(x: Tensor, gates: list[Tensor]) -> Tensor:
    """The map times its gates, all in the dtype of the map."""
    return _Gated.apply(x, *gates) if torch.is_grad_enabled() else _gated(x, *gates)


def _gated(x: Tensor, *gates: Tensor) -> Tensor:
    *small, last = _in_layout(x, gates)
    return _multiply(x * _fold(small), last) if small else x * last


def _in_layout(x: Tensor, gates: Sequence[Tensor]) -> Sequence[Tensor]:
    """The gates in a layout that fits the map: others take up to three times as long."""
    return [gate.contiguous() for gate in gates] if x.is_contiguous() else gates


def _fold(gates: list[Tensor]) -> Tensor:
    product = gates[0]
    for gate in gates[1:]:
        product = product * gate
    return product


class _Gated(Function):
    """Keeps only the map and the gates, and no product of them."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, *gates: Tensor) -> Tensor:
        return _gated(x, *gates)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, *gates = ctx.saved_tensors  # not copies in another layout, which would be kept too
        *small, last = _in_layout(x, gates)
        grad_x = _gated(grad, *small, last) if ctx.needs_input_grad[0] else None
        grad_product = grad * x  # the gradient of the product of all gates
        if not small:
            return grad_x, _sum_to(grad_product, last)
        fold = _fold(small)
        grad_last = _sum_to(grad_product * fold, last)
        grad_fold = _sum_to(_reuse(grad_product, last), fold)
        if len(small) == 1:
            return grad_x, grad_fold, grad_last
        others = [_fold(small[:i] + small[i + 1 :]) for i in range(len(small))]
        grads = [_sum_to(grad_fold * o, gate) for o, gate in zip(others, small, strict=True)]
        return grad_x, *grads, grad_last


def _reuse(x: Tensor, factor: Tensor) -> Tensor:
    """``x * factor``, written into ``x``, a temporary, unless autograd may still need it."""
    return x * factor if torch.is_grad_enabled() else _multiply(x, factor)


def _multiply(x: Tensor, factor: Tensor) -> Tensor:
    """``x * factor``, written into ``x``, a temporary."""
    try:
        return x.mul_(factor)
    except RuntimeError:  # vmap over the factor alone: x has room for one product only
        return x * factor


def _sum_to(x: Tensor, like: Tensor) -> Tensor:
    """Sum over the dimensions that are 1 in ``like``."""
    dim = tuple(d for d in range(4) if like.shape[d] == 1 != x.shape[d])
    # The mean is the faster reduction; in float16 it can be so small that it loses digits.
    if dim in ((2,), (3,)) and x.dtype != torch.float16:
        return _mean(x, dim) * x.shape[dim[0]]
    return x.sum(dim, keepdim=True) if dim else x
