"""What the blocks are made of: statistics of a feature map, and its product with gates.

On a large map an operator costs what it reads and writes, so every function here passes over the
map as seldom as it can, in eager mode, and keeps nothing as large as the map for backward but the
map itself:

- Means are sums over the gradient's size in forward, and expanded views in backward.
- Statistics behind a channel gate are taken before it: the mean of ``s * x`` along a row is ``s``
  times the mean of ``x``.
- All gates of a block are multiplied into the map by one function, in place after the first one.

Compilers fuse passes themselves. For them, and for tracing and scripting, each function is the
formula in plain operators, with the same numbers.
"""

from typing import Any

import torch
import torch.fx
import torch.nn.functional
from torch import Tensor
from torch.autograd import Function


def _is_eager() -> bool:
    return not (torch.compiler.is_compiling() or torch.jit.is_tracing())


def _is_nhwc(x: Tensor) -> bool:
    """Whether the map lies in memory as (N, H, W, C)."""
    return x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()


# Statistics


@torch.fx.wrap
def channel_means(x: Tensor) -> Tensor:
    """The mean of every channel.

    Args:
        x: the map; (N, C, H, W).

    Returns:
        (N, C, 1, 1).
    """
    if not torch.jit.is_scripting():
        if _is_eager():
            return _mean(x, (2, 3))
    return x.mean((2, 3), keepdim=True)


@torch.fx.wrap
def channel_maxima(x: Tensor) -> Tensor:
    """The maximum of every channel; positions that share it share the gradient.

    Args:
        x: the map; (N, C, H, W).

    Returns:
        (N, C, 1, 1).
    """
    if not torch.jit.is_scripting():
        if _is_eager():
            return _ChannelMaxima.apply(x) if torch.is_grad_enabled() else _maxima(x)
    return x.amax((2, 3), keepdim=True)


def _maxima(x: Tensor) -> Tensor:
    if x.device.type == "cpu" and _is_nhwc(x):  # amax is up to eight times slower there
        return torch.nn.functional.max_pool2d(x, x.shape[2:])
    return x.amax((2, 3), keepdim=True)


class _ChannelMaxima(Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        return _maxima(x)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.save_for_backward(*inputs, output)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        x, peak = ctx.saved_tensors
        return _share_among_maxima(grad, x.detach().clone(), peak, (2, 3))


def _share_among_maxima(grad: Tensor, y: Tensor, peak: Tensor, dim: tuple[int, ...]) -> Tensor:
    """The gradient of a maximum over ``dim`` of ``y``: equal parts for all places that reach it.

    It is written in place of ``y``, and has no gradient to ``y``.
    """
    # In the dtype of y: comparisons that write bools are not vectorised, and sum slowly.
    hits = y.eq_(peak.detach())
    return hits.mul_(grad / hits.sum(dim, keepdim=True))


@torch.fx.wrap
def coordinate_means(x: Tensor) -> Tensor:
    """The mean of every row, then of every column, of every channel.

    Args:
        x: the map; (N, C, H, W).

    Returns:
        (N, C, H + W, 1), in memory as (N, H + W, C) if the map is channels-last.
    """
    if not torch.jit.is_scripting():
        if _is_eager():
            return _coordinate_means(x)
    rows = x.mean(3, keepdim=True)  # (N, C, H, 1)
    columns = x.mean(2, keepdim=True).transpose(2, 3)  # (N, C, W, 1)
    return torch.cat([rows, columns], dim=2)


def _coordinate_means(x: Tensor) -> Tensor:
    rows, columns = _mean(x, (3,)), _mean(x, (2,))
    if not _is_nhwc(x):
        return torch.cat([rows, columns.transpose(2, 3)], dim=2)
    rows, columns = rows.permute(0, 2, 3, 1), columns.permute(0, 3, 2, 1)  # (N, H or W, 1, C)
    return torch.cat([rows, columns], dim=1).permute(0, 3, 1, 2)


def _mean(x: Tensor, dim: tuple[int, ...]) -> Tensor:
    """The mean over H, W or both, kept as 1."""
    return _Mean.apply(x, dim) if torch.is_grad_enabled() else _new_mean(x, dim)


def _new_mean(x: Tensor, dim: tuple[int, ...]) -> Tensor:
    if len(dim) == 1 and x.device.type == "cpu" and _is_nhwc(x):  # mean takes up to five times
        kernel = [x.shape[d] if d in dim else 1 for d in (2, 3)]
        return torch.nn.functional.avg_pool2d(x, kernel)
    return x.mean(dim, keepdim=True)


class _Mean(Function):
    """The gradient stays a view of few values: autograd's own fills a map with them."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, dim: tuple[int, ...]) -> Tensor:
        return _new_mean(x, dim)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        x, _ = inputs
        ctx.shape, ctx.count = x.shape, x.numel() // output.numel()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return (grad / ctx.count).expand(ctx.shape), None


@torch.fx.wrap
def position_statistics(x: Tensor, gate: Tensor | None = None) -> Tensor:
    """Maximum and mean over the channels of a map, or of ``x * gate``.

    Args:
        x: the map; (N, C, H, W).
        gate: (N, C, 1, 1), in the dtype of the map; None for 1.

    Returns:
        (N, 2, H, W): the maximum, then the mean.
    """
    if not torch.jit.is_scripting():
        if _is_eager() and torch.is_grad_enabled() and gate is not None:
            return torch.cat(_PositionStatistics.apply(x, gate), dim=1)
    y = x if gate is None else x * gate
    return torch.cat([y.amax(1, keepdim=True), y.mean(1, keepdim=True)], dim=1)


class _PositionStatistics(Function):
    """Keeps the map and its gate for backward, and multiplies them once more there."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, gate: Tensor) -> tuple[Tensor, Tensor]:
        y = x * gate
        return y.amax(1, keepdim=True), y.mean(1, keepdim=True)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.save_for_backward(*inputs, output[0])

    @staticmethod
    def backward(ctx: Any, grad_peak: Tensor, grad_mean: Tensor) -> tuple[Tensor, Tensor]:
        x, gate, peak = ctx.saved_tensors
        y = x.detach() * gate.detach()
        grad = _share_among_maxima(grad_peak, y, peak, (1,)).add_(grad_mean / x.shape[1])
        grad_gate = (grad * x).sum((2, 3), keepdim=True)
        return _reuse(grad, gate), grad_gate


# Vectors


@torch.fx.wrap
def pointwise(v: Tensor, weight: Tensor, bias: Tensor, scale: Tensor | None = None) -> Tensor:
    """A 1x1 convolution of vectors, ``weight @ (scale * v) + bias``, as a matrix product.

    Args:
        v: the vectors; (N, C, L, 1), in memory as such or as (N, L, C).
        weight: (O, C, 1, 1).
        bias: (O,).
        scale: (N, C, 1, 1), multiplied into ``v`` first; None for 1. ``scale * v`` is computed
            again in backward instead of being kept beside ``v``.

    Returns:
        (N, O, L, 1), in memory as the vectors.
    """
    if not torch.jit.is_scripting():
        if _is_eager():
            if scale is not None and torch.is_grad_enabled():
                return _ScaledPointwise.apply(v, weight, bias, scale)
            return _product(v if scale is None else v * scale, weight, bias)
    return torch.nn.functional.conv2d(v if scale is None else v * scale, weight, bias)


def _product(v: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """The product that is fastest for the shape, and leaves the layout as it is."""
    n = v.shape[0]
    if n == 1 and v.is_contiguous():
        return torch.nn.functional.conv2d(v, weight, bias)
    matrix = weight.flatten(1)
    if v.stride(1) == 1:
        y = torch.nn.functional.linear(v.permute(0, 2, 3, 1), matrix, bias)  # (N, L, 1, O)
        return y.permute(0, 3, 1, 2)
    v = v.squeeze(3)  # (N, C, L)
    if bias is None:
        y = torch.matmul(matrix, v)
    else:
        y = torch.baddbmm(bias[:, None], matrix.expand(n, -1, -1), v)
    return y.unsqueeze(3)


class _ScaledPointwise(Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(v: Tensor, weight: Tensor, bias: Tensor, scale: Tensor) -> Tensor:
        return _product(v * scale, weight, bias)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        v, weight, _, scale = inputs
        ctx.save_for_backward(v, weight, scale)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        v, weight, scale = ctx.saved_tensors
        # Autocast computes in a dtype that is not that of the parameters.
        scaled = (v * scale).to(grad.dtype)
        grad_weight = torch.einsum("nol,ncl->oc", grad.squeeze(3), scaled.squeeze(3))
        grad_scaled = _product(grad, weight.transpose(0, 1).to(grad.dtype), None).to(v.dtype)
        return (
            grad_scaled * scale,
            grad_weight[..., None, None].to(weight.dtype),
            grad.sum((0, 2, 3)).to(weight.dtype),
            (grad_scaled * v).sum(2, keepdim=True),
        )


# The product


@torch.fx.wrap
def apply_gates(x: Tensor, gates: list[Tensor]) -> Tensor:
    """Multiply a map by its gates.

    Args:
        x: the map; (N, C, H, W).
        gates: one to three tensors that broadcast to the map: all but the last one small together,
            such as a gate per channel and one per row, and one in another direction.

    Returns:
        (N, C, H, W), with dtype and memory format of the map.
    """
    gates = [gate.to(x.dtype) for gate in gates]
    if not torch.jit.is_scripting():
        if _is_eager():
            return _Gated.apply(x, *gates) if torch.is_grad_enabled() else _gated(x, *gates)
    for gate in gates:
        x = x * gate
    return x


def _gated(x: Tensor, *gates: Tensor) -> Tensor:
    if len(gates) == 1:
        return x * gates[0]
    *small, last = gates
    # In place: a second new map costs more than the product.
    return (x * _fold(small)).mul_(last)


def _fold(gates: list[Tensor] | tuple[Tensor, ...]) -> Tensor:
    product = gates[0]
    for gate in gates[1:]:
        product = product * gate
    return product


class _Gated(Function):
    """Keeps the map and the gates alone, and no product of them."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, *gates: Tensor) -> Tensor:
        return _gated(x, *gates)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, ...]:
        x, *gates = ctx.saved_tensors
        grad_x = _gated(grad, *gates)
        grad = grad * x  # of the product of all gates
        if len(gates) == 1:
            return grad_x, _sum_to(grad, gates[0])
        *small, last = gates
        grad_last = _sum_to(grad * _fold(small), last)
        grad_small = _sum_to(_reuse(grad, last), _fold(small))
        return grad_x, *_grads_of_factors(grad_small, small), grad_last


def _reuse(x: Tensor, factor: Tensor) -> Tensor:
    """``x * factor`` in place of ``x``, unless autograd may need ``x`` again."""
    return x * factor if torch.is_grad_enabled() else x.mul_(factor)


def _grads_of_factors(grad: Tensor, factors: list[Tensor]) -> list[Tensor]:
    """The gradients of one or two factors, given that of their product."""
    if len(factors) == 1:
        return [grad]
    a, b = factors
    return [_sum_to(grad * b, a), _sum_to(grad * a, b)]


def _sum_to(x: Tensor, like: Tensor) -> Tensor:
    """Sum over the dimensions that are 1 in ``like``."""
    dim = [d for d in range(4) if like.shape[d] == 1 != x.shape[d]]
    if dim in ([2], [3]):
        return _new_mean(x, tuple(dim)) * x.shape[dim[0]]
    return x.sum(dim, keepdim=True) if dim else x
