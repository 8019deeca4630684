"""The compiled kernels as functions of tensors, without derivatives.

What stands beside the map is float32 and dense: means, maxima and gates of channels (N, C); means
and gates of rows, then of columns, the coordinates (N, H + W, C); gates of positions (N, H, W).
None stands for what is not there or not asked for. ``where`` is the :func:`geometry` of the map.
"""

import struct
from ctypes import CDLL
from typing import TypeGuard, cast

import torch
from torch import Tensor, nn
from torch._C import (
    _are_functorch_transforms_active,
    _is_tracing,
    _len_torch_dispatch_stack,
    _len_torch_function_stack,
)
from torch.autograd import forward_ad

from attnblocks.ops.native.library import library, threads

_GEOMETRY = struct.Struct("8q")


def runs(x: object) -> bool:
    """Whether the kernels run on a map, here and now."""
    return library() is not None and not observed() and geometry(x) is not None


def observed() -> bool:
    """Whether something follows the operators of torch, which would not see the kernels."""
    return bool(
        # No public names report these.
        _are_functorch_transforms_active()
        or _len_torch_dispatch_stack()
        or _len_torch_function_stack()
        or forward_ad._current_level >= 0
        or torch.compiler.is_compiling()
        or _is_tracing()
    )


def is_plain(x: object) -> TypeGuard[Tensor]:
    """Whether something is a tensor that lies in the memory of the CPU, and nothing more."""
    if not (type(x) is Tensor or type(x) is nn.Parameter) or not x.is_cpu or x.is_neg():
        return False
    try:
        return x.data_ptr() != 0  # nothing, or zeros that are not stored
    except RuntimeError:  # sparse, opaque, or a wrapper
        return False


def geometry(x: object) -> bytes | None:
    """How a map lies in memory, as the kernels take it; None where they do not know it."""
    if not is_plain(x):
        return None
    dtype, shape = x.dtype, x.shape
    if not (dtype is torch.float32 or dtype is torch.bfloat16) or len(shape) != 4:
        return None
    images, channels, height, width = shape
    of_image, of_channel, of_row, of_column = x.stride()
    size = channels * height * width
    if images == 1:
        of_image = size
    elif of_image < size:  # images that overlap, or are interleaved
        return None
    # The stride of a dimension of size 1 may be anything.
    if (
        (of_column == 1 or width == 1)
        and (of_row == width or height == 1)
        and (of_channel == height * width or channels == 1)
    ):
        channels_last = 0
    elif (
        (of_channel == 1 or channels == 1)
        and (of_column == channels or width == 1)
        and (of_row == width * channels or height == 1)
    ):
        channels_last = 1
    else:
        return None
    return _GEOMETRY.pack(
        images,
        channels,
        height,
        width,
        of_image,
        dtype is torch.bfloat16,
        channels_last,
        threads(),
    )


def in_layout_of(x: Tensor, grad: Tensor) -> Tensor:
    """A gradient of the shape of a map, laid out as the kernels take it for the map."""
    fitting = torch.empty_like(x)
    if grad.dtype is x.dtype and grad.stride() == fitting.stride():
        return grad
    return fitting.copy_(grad)


def statistics(
    where: bytes,
    x: Tensor,
    coordinates: Tensor | None = None,
    means: Tensor | None = None,
    maxima: Tensor | None = None,
) -> None:
    """Write the means of rows and columns, means and maxima of channels into given tensors."""
    _library().attnblocks_statistics(
        where, x.data_ptr(), _address(coordinates), _address(means), _address(maxima)
    )


def product(
    where: bytes,
    x: Tensor,
    channel: Tensor | None = None,
    coordinates: Tensor | None = None,
    positions: Tensor | None = None,
) -> Tensor:
    """The map times its gates."""
    out = torch.empty_like(x)
    gates = place(channel), place(coordinates), place(positions)
    _library().attnblocks_product(where, x.data_ptr(), *gates, out.data_ptr())
    return out


def gate_gradients(
    where: bytes,
    x: Tensor,
    grad: Tensor,
    channel: Tensor | None = None,
    coordinates: Tensor | None = None,
    positions: Tensor | None = None,
    wanted: tuple[bool, bool, bool] = (True, True, True),
) -> list[Tensor | None]:
    """The gradients of the gates of :func:`product`, those that are there and wanted."""
    gates = (channel, coordinates, positions)
    grads = [
        torch.empty_like(gate) if gate is not None and want else None
        for gate, want in zip(gates, wanted, strict=True)
    ]
    _library().attnblocks_gate_gradients(
        where, x.data_ptr(), grad.data_ptr(), *map(place, gates), *map(place, grads)
    )
    return grads


def map_gradient(
    where: bytes,
    x: Tensor | None,
    grad: Tensor | None = None,
    channel: Tensor | None = None,
    coordinates: Tensor | None = None,
    positions: Tensor | None = None,
    d_coordinates: Tensor | None = None,
    d_means: Tensor | None = None,
    maxima: Tensor | None = None,
    d_maxima: Tensor | None = None,
) -> Tensor:
    """The gradient of the map: of its product with gates, plus that of its statistics.

    The map itself is read where maxima are among these.
    """
    out = _new_map(where)
    _library().attnblocks_map_gradient(
        where,
        _address(x),
        _address(grad),
        place(channel),
        place(coordinates),
        place(positions),
        place(d_coordinates),
        place(d_means),
        place(maxima),
        place(d_maxima),
        out.data_ptr(),
    )
    return out


def position_statistics(where: bytes, x: Tensor, channel: Tensor) -> Tensor:
    """Maximum, then mean, over the channels of the map times its channel gates; (N, 2, H, W)."""
    images, _, height, width = x.shape
    out = torch.empty((images, 2, height, width), dtype=torch.float32, device="cpu")
    _library().attnblocks_position_statistics(where, x.data_ptr(), place(channel), place(out))
    return out


def position_gradient(
    where: bytes,
    x: Tensor,
    channel: Tensor,
    found: Tensor,
    grad: Tensor,
    wanted: tuple[bool, bool] = (True, True),
) -> tuple[Tensor | None, Tensor | None]:
    """The gradients of map and channel gates from that of their ``found`` position statistics."""
    d_map = torch.empty_like(x) if wanted[0] else None
    d_channel = torch.empty_like(channel) if wanted[1] else None
    _library().attnblocks_position_gradient(
        where,
        x.data_ptr(),
        place(channel),
        place(found),
        place(grad),
        _address(d_map),
        place(d_channel),
    )
    return d_map, d_channel


def _new_map(where: bytes) -> Tensor:
    """A dense map, not filled, with the shape, dtype and memory layout of another one."""
    *shape, _, half, channels_last, _ = _GEOMETRY.unpack(where)
    return torch.empty(
        shape,
        dtype=torch.bfloat16 if half else torch.float32,
        device="cpu",
        memory_format=torch.channels_last if channels_last else torch.contiguous_format,
    )


def _library() -> CDLL:
    return cast(CDLL, library())


def place(x: Tensor | None) -> int | None:
    """The address of a tensor that stands beside the map; the kernels know no other layout.

    Raises:
        TypeError: it is not float32, or not dense.
    """
    if x is None:
        return None
    if x.dtype is not torch.float32 or not x.is_contiguous():
        raise TypeError(
            "a kernel takes dense float32 tensors beside its map, got "
            f"{x.dtype} with shape {tuple(x.shape)} and strides {x.stride()}"
        )
    return x.data_ptr()


def _address(x: Tensor | None) -> int | None:
    """The address of a map, a gradient in its layout, or a result that was made for a kernel."""
    return None if x is None else x.data_ptr()
