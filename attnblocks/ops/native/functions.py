"""The functions of :mod:`attnblocks.functional` by kernels: one pass over the map for each.

For backward they keep what the eager form keeps. Second derivatives, and a backward pass that
something follows, are computed by the formulas of the eager form.
"""

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor
from torch.autograd import Function

from attnblocks.ops import eager
from attnblocks.ops.native import kernels

Gradients = tuple[Tensor | None, ...]


def statistics(x: Tensor, names: Sequence[str]) -> tuple[Tensor, ...]:
    """These statistics, in this order."""
    if not (x.requires_grad and torch.is_grad_enabled()):
        return _statistics(x, names)
    found: tuple[Tensor, ...] = _Statistics.apply(x, names)
    return found


def _statistics(x: Tensor, names: Sequence[str]) -> tuple[Tensor, ...]:
    images, channels, height, width = x.shape
    found = {
        name: _new(images, channels, height + width if name == "coordinate_means" else 1)
        for name in names
    }
    kernels.statistics(
        _geometry(x),
        x,
        found.get("coordinate_means"),
        found.get("channel_means"),
        found.get("channel_maxima"),
    )
    return tuple(value.to(x.dtype) for value in found.values())


def _new(images: int, channels: int, length: int) -> Tensor:
    """A float32 tensor (N, C, L, 1), in memory as (N, L, C)."""
    # Of one value each they are contiguous, and layers that get several of them together stay so:
    # the per-sample gradients of torch's expanded weights need that.
    last = 1 if length == 1 else channels
    strides = (length * channels, 1, last, last)
    shape = images, channels, length, 1
    return torch.empty_strided(shape, strides, dtype=torch.float32, device="cpu")


class _Statistics(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, names: Sequence[str]) -> tuple[Tensor, ...]:
        found = _statistics(x, names)
        ctx.set_materialize_grads(False)
        ctx.names, ctx.shape, ctx.where = names, x.shape, _geometry(x)
        if "channel_maxima" in names:
            ctx.save_for_backward(x, found[names.index("channel_maxima")])
        return found

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> Gradients:
        named = zip(ctx.names, grads, strict=True)
        given = {name: grad for name, grad in named if grad is not None}
        if not given:
            return None, None
        saved = ctx.saved_tensors if "channel_maxima" in given else ()
        # The gradient of the means of channels is a view of a few values.
        if given.keys() == {"channel_means"} or not _computes(*saved[:1], grads=given.values()):
            return eager.gradient_of_statistics(ctx.shape, given, *saved), None
        x, maxima = saved or (None, None)
        where = ctx.where if x is None else _geometry(x)
        grad = kernels.map_gradient(
            where,
            x,
            d_coordinates=_lines(given.get("coordinate_means")),
            d_means=_vectors(given.get("channel_means")),
            maxima=_vectors(maxima),
            d_maxima=_vectors(given.get("channel_maxima")),
        )
        return grad, None


def apply_gates(x: Tensor, gates: Sequence[Tensor]) -> Tensor:
    """The map times its gates, all in the dtype of the map."""
    roles = _roles(x, gates)
    if roles is None:
        return eager.apply_gates(x, gates)
    if not torch.is_grad_enabled():
        return kernels.product(_geometry(x), x, *_packed(x, gates, roles))
    product: Tensor = _Product.apply(roles, *gates, x)
    return product


class _Product(Function):
    """Keeps only the map and the gates; the map comes last, as in the eager form."""

    @staticmethod
    def forward(ctx: Any, roles: Sequence[str], *gates_and_map: Tensor) -> Tensor:
        *gates, x = gates_and_map
        ctx.roles = roles
        ctx.save_for_backward(*gates, x)
        return kernels.product(_geometry(x), x, *_packed(x, gates, roles))

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Gradients:
        *gates, x = ctx.saved_tensors
        _, *of_gates, of_map = ctx.needs_input_grad
        if not _computes(x, *gates, grads=[grad]):
            grad_x, *grads = eager.gradients_of_product(x, gates, grad, of_map)
            return None, *grads, grad_x
        where, grad = _geometry(x), kernels.in_layout_of(x, grad)
        packed = _packed(x, gates, ctx.roles)
        grad_x = kernels.map_gradient(where, x, grad, *packed) if of_map else None
        wanted = {role for role, want in zip(ctx.roles, of_gates, strict=True) if want}
        if not wanted:
            return None, *([None] * len(gates)), grad_x
        which = ("channel" in wanted, bool(wanted & {"rows", "columns"}), "positions" in wanted)
        found = kernels.gate_gradients(where, x, grad, *packed, which)
        return None, *_unpacked(x, found, ctx.roles), grad_x


def _roles(x: Tensor, gates: Sequence[Tensor]) -> list[str] | None:
    """What each gate is for; None where the kernels do not know them."""
    images, channels, height, width = x.shape
    shapes = (
        ("channel", (images, channels, 1, 1)),
        ("rows", (images, channels, height, 1)),
        ("columns", (images, channels, 1, width)),
        ("positions", (images, 1, height, width)),
    )
    roles: list[str] = []
    for gate in gates:
        found = tuple(gate.shape)
        for role, shape in shapes:
            if found == shape and role not in roles and kernels.is_plain(gate):
                roles.append(role)
                break
        else:
            return None
    exclusive = "positions" in roles and ("rows" in roles or "columns" in roles)
    return None if exclusive else roles


def _packed(
    x: Tensor, gates: Sequence[Tensor], roles: Sequence[str]
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """The gates as the kernels take them: of channels, of rows and columns, of positions."""
    named = dict(zip(roles, gates, strict=True))
    rows, columns, positions = named.get("rows"), named.get("columns"), named.get("positions")
    if positions is not None:
        positions = positions.squeeze(1).float().contiguous()
    lines = None
    if rows is not None or columns is not None:
        rows = _ones(x, 3) if rows is None else rows
        columns = _ones(x, 2) if columns is None else columns
        lines = torch.cat([rows.squeeze(3).mT, columns.squeeze(2).mT], dim=1).float()
    return _vectors(named.get("channel")), lines, positions


def _ones(x: Tensor, dim: int) -> Tensor:
    """Gates of 1, for every line that runs along ``dim``."""
    return torch.ones_like(x.narrow(dim, 0, 1))


def _unpacked(
    x: Tensor, found: Sequence[Tensor | None], roles: Sequence[str]
) -> list[Tensor | None]:
    """The gradients of the gates, each in the shape and dtype of its gate."""
    channel, lines, positions = found
    grads: dict[str, Tensor | None] = dict.fromkeys(roles)
    if channel is not None:
        grads["channel"] = channel[:, :, None, None].to(x.dtype)
    if lines is not None:
        rows, columns = torch.split(lines.to(x.dtype).mT, list(x.shape[2:]), dim=2)
        grads.update(rows=rows.unsqueeze(3), columns=columns.unsqueeze(2))
    if positions is not None:
        grads["positions"] = positions.unsqueeze(1).to(x.dtype)
    return [grads[role] for role in roles]


def position_statistics(x: Tensor, gate: Tensor | None) -> Tensor:
    """Maximum and mean over the channels of ``x * gate``; (N, 2, H, W)."""
    shape = (*x.shape[:2], 1, 1)
    if gate is None:
        gate = x.new_ones(shape)
    if gate.shape != shape or gate.dtype is not x.dtype or not kernels.is_plain(gate):
        return eager.position_statistics(x, gate)
    if not torch.is_grad_enabled():
        return _position_statistics(x, gate).to(x.dtype)
    found: Tensor = _PositionStatistics.apply(x, gate)
    return found


def _position_statistics(x: Tensor, gate: Tensor) -> Tensor:
    return kernels.position_statistics(_geometry(x), x, cast(Tensor, _vectors(gate)))


class _PositionStatistics(Function):
    """Keeps the map and its gate.

    Where a position reached its maximum is found by comparing, to the bit: with a maximum of what
    is kept, which hooks on saved tensors may have rounded.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, gate: Tensor) -> Tensor:
        ctx.save_for_backward(x, gate)
        return _position_statistics(x, gate).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Gradients:
        x, gate = ctx.saved_tensors
        if not _computes(x, gate, grads=[grad]):
            return eager.gradients_of_position_statistics(x, gate, grad)
        where, vectors = _geometry(x), cast(Tensor, _vectors(gate))
        found = kernels.position_statistics(where, x, vectors)
        grad = grad.float().contiguous()
        grad_x, grad_gate = kernels.position_gradient(
            where, x, vectors, found, grad, ctx.needs_input_grad
        )
        if grad_gate is not None:
            grad_gate = grad_gate[:, :, None, None].to(x.dtype)
        return grad_x, grad_gate


def _computes(*saved: Tensor, grads: Any) -> bool:
    """Whether kernels compute a first derivative, here and now, from the map and other tensors."""
    if torch.is_grad_enabled() or not all(map(kernels.is_plain, (*saved, *grads))):
        return False
    return kernels.runs(saved[0]) if saved else not kernels.observed()


def _geometry(x: Tensor) -> bytes:
    """How a map lies in memory that the kernels are known to run on."""
    return cast(bytes, kernels.geometry(x))


def _vectors(x: Tensor | None) -> Tensor | None:
    """(N, C, 1, 1) as (N, C), float32 and dense."""
    return None if x is None else x.flatten(1).float().contiguous()


def _lines(x: Tensor | None) -> Tensor | None:
    """(N, C, L, 1) as (N, L, C), float32 and dense."""
    return None if x is None else x.squeeze(3).mT.float().contiguous()
