"""A whole block in one call, from its map and the tensors of its layers."""

import ctypes
import functools
import struct
from collections.abc import Callable, Sequence
from ctypes import CDLL
from functools import partial
from itertools import islice
from typing import Any, Literal, cast

import torch
from torch import Tensor
from torch.autograd import Function

from attnblocks.ops import formulas
from attnblocks.ops.native import kernels
from attnblocks.ops.native.host import host
from attnblocks.ops.native.kernels import place
from attnblocks.ops.native.library import ARGUMENTS_OF_RUN, library
from attnblocks.ops.native.small_layers import (
    COORDINATES,
    MEANS_AND_MAXIMA,
    POSITIONS,
    Norm,
    Numbers,
    Tensors,
    gates,
)

_CHANNEL, _COORD, _SPATIAL = map(struct.Struct, ("5q9qd", "4q11qd", "3q6qd"))

Read = tuple[Any, ...]
"""What was read of a stage: the numbers of activation and gate, the width, the members of the norm,
None where there is none, and the tensors, None for those that it does not have."""

Stage = tuple[Numbers, Sequence[Tensor | None]]


def run(
    where: bytes,
    x: Tensor,
    members: dict[str, Any],
    plans: bytes,
    count: int,
    channel_gates: Tensor | None,
    out: Tensor | None,
) -> Literal[True] | tuple[Read, ...] | None:
    """Read a block, and run it where norms take their running statistics.

    Args:
        where: the geometry of the map.
        x: the map.
        members: of the block, its ``__dict__``.
        plans: how its stages are made.
        count: of the plans.
        channel_gates: is given the gates of channels; None for none.
        out: is given the map times its gates; None for none.

    Returns:
        True where it has run; None where its layers have to be called; otherwise what was read.
    """
    found: Literal[True] | tuple[Read, ...] | None = _run()(
        host(),
        plans,
        count,
        members,
        where,
        x.data_ptr(),
        place(channel_gates),
        None if out is None else out.data_ptr(),
    )
    return found


@functools.cache
def _run() -> Callable[..., Any]:
    """The function that reads a block, called with the lock of the interpreter."""
    form = ctypes.PYFUNCTYPE(ctypes.py_object, *ARGUMENTS_OF_RUN)
    return form(("attnblocks_run", cast(CDLL, library())))


def infer(where: bytes, x: Tensor, stages: Sequence[Stage]) -> Tensor:
    """What a block returns, without derivatives, and with norms by their running statistics.

    Args:
        where: the geometry of the map.
        x: the map.
        stages: those of the block.
    """
    out = torch.empty_like(x)
    packed: list[bytes | None] = [None, None, None]
    for stage in stages:
        packed[{COORDINATES: 1, POSITIONS: 2}.get(stage[0].kind, 0)] = _packed(*stage)
    cast(CDLL, library()).attnblocks_block(where, x.data_ptr(), *packed, None, out.data_ptr())
    return out


def infer_gates(where: bytes, x: Tensor, stage: Stage) -> Tensor:
    """The gates of a channel stage alone; (N, C, 1, 1), float32."""
    out = torch.empty((*x.shape[:2], 1, 1), dtype=torch.float32, device="cpu")
    cast(CDLL, library()).attnblocks_block(
        where, x.data_ptr(), _packed(*stage), None, None, out.data_ptr(), None
    )
    return out


def _packed(numbers: Numbers, tensors: Tensors) -> bytes:
    kind, width, activation, gate, norm = numbers
    gain = tensors[-1]
    gains = 0 if gain is None else gain.numel()
    places = [0 if t is None else t.data_ptr() for t in tensors]  # of the dtype of the map
    eps = 0.0 if norm is None else norm.eps
    if kind == POSITIONS:
        weight, _, *others = places  # without a bias
        return _SPATIAL.pack(width, gate, gains, weight, *others, eps)
    values = (width, activation, gate, gains, *places)
    return _COORD.pack(*values, eps) if kind == COORDINATES else _CHANNEL.pack(kind, *values, eps)


def train(x: Tensor, stages: Sequence[Stage]) -> Tensor:
    """What a block returns, with derivatives; float32.

    For backward it keeps the map and the tensors of the layers. Running statistics are updated
    here, and not where backward computes again what it needs.

    Args:
        x: the map.
        stages: those of the block.
    """
    inputs: list[Tensor | None] = []
    for (*_, norm), tensors in stages:
        present = [*tensors]
        if norm is not None and norm.of_batch:
            present[4:6] = None, None  # backward takes the batch's own
            if norm.counter is not None:
                norm.counter.add_(1)
        elif norm is not None:  # a later batch may change them, of which autograd is not told
            present[4:6] = (t if t is None else t.clone() for t in tensors[4:6])
        inputs += present
    result: Tensor = _Block.apply(x, [numbers for numbers, _ in stages], *inputs)
    return result


class _Block(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, stages: list[Numbers], *tensors: Tensor | None) -> Tensor:
        ctx.stages = [_without_running(numbers) for numbers in stages]
        ctx.save_for_backward(x, *tensors)
        where = cast(bytes, kernels.geometry(x))
        if not any(norm is not None and norm.of_batch for *_, norm in stages):
            each = iter(tensors)  # the same bits as without derivatives
            return infer(where, x, [(of, [*islice(each, of.tensors())]) for of in stages])
        made = gates(stages, _statistics(where, x, stages), tensors, x.shape[2])
        return kernels.product(where, x, *made)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, *tensors = ctx.saved_tensors
        needs = [ctx.needs_input_grad[0], *ctx.needs_input_grad[2:]]
        where = None if kernels.observed() else kernels.geometry(x)
        # A caller may go back inside an autocast that forward was not in.
        with torch.autocast("cpu", enabled=False):
            if torch.is_grad_enabled() or where is None or not kernels.is_plain(grad):
                of_x, *found = _by_operators(ctx.stages, x, tensors, grad, needs)
            else:
                of_x, *found = _by_kernels(ctx.stages, where, x, tensors, grad, needs)
        return of_x, None, *found


def _without_running(numbers: Numbers) -> Numbers:
    if numbers.norm is None:
        return numbers
    return numbers._replace(norm=Norm(numbers.norm.of_batch, numbers.norm.eps))


def _statistics(where: bytes, x: Tensor, stages: Sequence[Numbers]) -> list[Tensor | None]:
    """Coordinate means, channel means and channel maxima, those that the stages take."""
    images, channels, height, width = x.shape
    kinds = [numbers.kind for numbers in stages]
    new = partial(torch.empty, dtype=torch.float32, device="cpu")
    coords = new((images, height + width, channels)) if COORDINATES in kinds else None
    means = new((images, channels)) if kinds[0] != COORDINATES else None
    maxima = new((images, channels)) if MEANS_AND_MAXIMA in kinds else None
    kernels.statistics(where, x, coords, means, maxima)
    return [coords, means, maxima]


def _by_kernels(
    stages: Sequence[Numbers],
    where: bytes,
    x: Tensor,
    tensors: Tensors,
    grad: Tensor,
    needs: Sequence[bool],
) -> list[Tensor | None]:
    """The gradients of map and tensors."""
    grad = kernels.in_layout_of(x, grad)
    statistics = _statistics(where, x, stages)
    with torch.enable_grad():
        all_needs = [*[needs[0]] * len(statistics), *needs[1:]]
        sources = [
            None if tensor is None else tensor.detach().requires_grad_(need)
            for tensor, need in zip((*statistics, *tensors), all_needs, strict=True)
        ]
        made = gates(stages, sources[:3], sources[3:], x.shape[2])
    of_channels, of_coords = (gate is not None and gate.requires_grad for gate in made)
    of_gates = kernels.gate_gradients(where, x, grad, *made, wanted=(of_channels, of_coords, False))
    results = [gate for gate in made if gate is not None and gate.requires_grad]
    found = _gradients(results, [of for of in of_gates if of is not None], sources)
    of_x = None
    if needs[0]:
        d_coords, d_means, d_maxima = (d if d is None else d.contiguous() for d in found[:3])
        maxima = statistics[2]
        of_x = kernels.map_gradient(
            where, x, grad, *made, None, d_coords, d_means, maxima, d_maxima
        )
    return [of_x, *found[3:]]


def _by_operators(
    stages: Sequence[Numbers], x: Tensor, tensors: Tensors, grad: Tensor, needs: Sequence[bool]
) -> list[Tensor | None]:
    """The same by operators of torch alone, which have derivatives themselves."""
    create_graph = torch.is_grad_enabled()
    height, width = x.shape[2:]
    with torch.enable_grad():
        # Views: a weight may itself depend on the map, which is no path of this block.
        x = x.view_as(x) if needs[0] else x.detach()
        tensors = [
            t if t is None else t.view_as(t) if need else t.detach()
            for t, need in zip(tensors, needs[1:], strict=True)
        ]
        coords, means, maxima = formulas.statistics(
            x, ("coordinate_means", "channel_means", "channel_maxima")
        )
        of_map = coords.squeeze(3).transpose(1, 2), means.flatten(1), maxima.flatten(1)
        of_channels, of_coords = gates(stages, of_map, tensors, height)
        y = x
        if of_channels is not None:
            y = y * of_channels[:, :, None, None]
        if of_coords is not None:
            rows, columns = torch.split(of_coords.transpose(1, 2), [height, width], dim=2)
            y = y * rows.unsqueeze(3) * columns.unsqueeze(2)
    return _gradients([y], [grad], (x, *tensors), create_graph)


def _gradients(
    results: Sequence[Tensor],
    grads: Sequence[Tensor],
    sources: Tensors,
    create_graph: bool = False,
) -> list[Tensor | None]:
    """The gradients of those sources that have one."""
    wanted = [source for source in sources if source is not None and source.requires_grad]
    found = torch.autograd.grad(
        results, wanted, grads, create_graph=create_graph, allow_unused=True
    )
    each = iter(found)
    return [
        next(each) if source is not None and source.requires_grad else None for source in sources
    ]
