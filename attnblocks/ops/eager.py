"""The functions of :mod:`attnblocks.functional` for eager mode, on any device.

For backward, the map is the only thing of its size that is kept: autograd's own formulas would keep
every product of it, and expand the gradients of means to full maps. Backward is plain operators,
itself differentiable.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from attnblocks.ops import formulas


def statistics(x: Tensor, names: Sequence[str]) -> tuple[Tensor, ...]:
    """These statistics, in this order."""
    if not torch.is_grad_enabled():
        return formulas.statistics(x, names)
    found: tuple[Tensor, ...] = _Statistics.apply(x, names)
    return found


class _Statistics(Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, names: Sequence[str]) -> tuple[Tensor, ...]:
        return formulas.statistics(x, names)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        x, ctx.names = inputs
        ctx.shape = x.shape
        if "channel_maxima" in ctx.names:
            ctx.save_for_backward(x, output[ctx.names.index("channel_maxima")])

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        found = dict(zip(ctx.names, grads, strict=True))
        return gradient_of_statistics(ctx.shape, found, *ctx.saved_tensors), None


def gradient_of_statistics(
    shape: Sequence[int],
    grads: dict[str, Tensor],
    x: Tensor | None = None,
    maxima: Tensor | None = None,
) -> Tensor:
    """The gradient of a map from those of its statistics; map and maxima if those are among them.

    Places that reach a maximum share its gradient in equal parts.
    """
    height, width = shape[2:]
    terms = []
    if "channel_means" in grads:
        terms.append(grads["channel_means"] / (height * width))
    if "coordinate_means" in grads:
        rows, columns = torch.split(grads["coordinate_means"], [height, width], dim=2)
        terms += [rows / width, columns.transpose(2, 3) / height]
    if x is not None and maxima is not None:
        terms.append(_share(grads["channel_maxima"], x.detach() == maxima.detach(), (2, 3)))
    total = terms[0]
    for term in terms[1:]:  # the small ones first
        total = total + term
    return total.expand(shape)


def _share(grad: Tensor, hits: Tensor, dim: tuple[int, ...]) -> Tensor:
    """The gradient in equal parts for the hits along ``dim``."""
    count = hits.sum(dim, keepdim=True, dtype=torch.float32)  # half precision cannot count as far
    return hits * (grad / count).to(grad.dtype)


def position_statistics(x: Tensor, gate: Tensor | None) -> Tensor:
    """Maximum and mean over the channels of ``x * gate``; (N, 2, H, W)."""
    if gate is None or not torch.is_grad_enabled():
        return formulas.position_statistics(x, gate)
    found: Tensor = _PositionStatistics.apply(x, gate)
    return found


class _PositionStatistics(Function):
    """Keeps the map and its gate for backward, and multiplies them again there."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, gate: Tensor) -> Tensor:
        return formulas.position_statistics(x, gate)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:
        x, gate = ctx.saved_tensors
        return gradients_of_position_statistics(x, gate, grad)


def gradients_of_position_statistics(
    x: Tensor, gate: Tensor, grad: Tensor
) -> tuple[Tensor, Tensor]:
    """The gradients of map and gate from that of their position statistics."""
    of_maxima, of_means = grad[:, :1], grad[:, 1:]
    gated = x.detach() * gate.detach()
    hits = gated == gated.amax(1, keepdim=True)  # of what was kept, which hooks may have rounded
    product = _share(of_maxima, hits, (1,)) + of_means / x.shape[1]
    return product * gate, (product * x).sum((2, 3), keepdim=True)


def apply_gates(x: Tensor, gates: Sequence[Tensor]) -> Tensor:
    """The map times its gates, all in the dtype of the map."""
    if not torch.is_grad_enabled():
        return _multiply(x, gates)
    product: Tensor = _Product.apply(*gates, x)
    return product


def _multiply(x: Tensor, gates: Sequence[Tensor]) -> Tensor:
    *small, last = gates
    return x * _fold(small) * last if small else x * last


def _fold(gates: Sequence[Tensor]) -> Tensor:
    product = gates[0]
    for gate in gates[1:]:
        product = product * gate
    return product


class _Product(Function):
    """Keeps only the map and the gates, and no product of them.

    The map comes last: from the last input of a step, Torch-Pruning reads how many channels there
    are, and behind gates that were concatenated it would count those of both.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(*gates_and_map: Tensor) -> Tensor:
        *gates, x = gates_and_map
        return _multiply(x, gates)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        *gates, x = ctx.saved_tensors
        grad_x, *grads = gradients_of_product(x, gates, grad, ctx.needs_input_grad[-1])
        return *grads, grad_x


def gradients_of_product(
    x: Tensor, gates: Sequence[Tensor], grad: Tensor, of_map: bool = True
) -> tuple[Tensor | None, ...]:
    """The gradients of the map, if wanted, and of all gates, from that of their product."""
    grad_x = _multiply(grad, gates) if of_map else None
    *small, last = gates
    product = grad * x  # the gradient of the product of all gates
    if not small:
        return grad_x, _sum_to(product, last)
    grad_fold = _sum_to(product * last, fold := _fold(small))
    others = [small[:i] + small[i + 1 :] for i in range(len(small))]
    grads = [
        _sum_to(grad_fold * _fold(rest) if rest else grad_fold, gate)
        for rest, gate in zip(others, small, strict=True)
    ]
    return grad_x, *grads, _sum_to(product * fold, last)


def _sum_to(x: Tensor, like: Tensor) -> Tensor:
    """Sum over the dimensions that are 1 in ``like``."""
    dim = tuple(d for d in range(4) if like.shape[d] == 1 != x.shape[d])
    return x.sum(dim, keepdim=True) if dim else x
