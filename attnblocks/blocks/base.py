"""What all blocks share: their widths, and the checks that turn a wrong call into a clear error."""

import math
import operator
from collections.abc import Callable
from typing import Any, ClassVar

import torch
import torch.fx
from torch import Tensor, nn

from attnblocks.ops import functional as F

LayerFactory = Callable[..., nn.Module]
"""A class such as ``nn.ReLU``, or any callable that returns a new module."""


class AttentionBlock(nn.Module):
    """Base of the blocks: an ``nn.Module`` that multiplies its input by gates.

    A block defines ``gates``; what it does to the map is the same for all of them.

    Args:
        channels: channels C of the map that comes in and goes out.
        rd_channels: width of the block's bottleneck; None for a block that has none.

    Attributes:
        gate_names: what each gate is for: ``channel``, ``rows``, ``columns`` or ``positions``.

    Example:
        >>> class Mean(AttentionBlock):
        ...     gate_names = ("channel",)
        ...     def gates(self, x):
        ...         return [x.mean((2, 3), keepdim=True).sigmoid()]
        >>> Mean(64)(torch.rand(2, 64, 7, 7)).shape
        torch.Size([2, 64, 7, 7])
    """

    gate_names: ClassVar[tuple[str, ...]] = ()

    def __init__(self, channels: int, rd_channels: int | None = None) -> None:
        super().__init__()
        self.channels = channels
        self.rd_channels = rd_channels

    def check_input(self, x: Tensor) -> None:
        """Raise ValueError unless ``x`` is (N, channels, H, W)."""
        if not torch.jit.is_scripting():  # type: ignore[attr-defined]
            check_map(x, type(self).__name__, self.channels)

    def forward(self, x: Tensor) -> Tensor:
        """Return ``x`` times its gates."""
        self.check_input(x)
        return F.apply_gates(x, self.gates(x))

    def gates(self, x: Tensor) -> list[Tensor]:
        """The gates of ``x``: tensors that broadcast to it, each in [0, 1] by default."""
        raise NotImplementedError(f"{type(self).__name__} defines no gates")

    def extra_repr(self) -> str:
        """The widths, for ``print(model)``."""
        rd = "" if self.rd_channels is None else f", rd_channels={self.rd_channels}"
        return f"channels={self.channels}{rd}"


class Pointwise(nn.Conv2d):
    """A 1x1 convolution with bias of vectors (N, C, L, 1), computed as a matrix product.

    Args:
        in_channels: C of what comes in.
        out_channels: C of what goes out.
        device: where to create the parameters.
        dtype: type of the parameters.
    """

    bias: Tensor

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(in_channels, out_channels, 1, device=device, dtype=dtype)

    def forward(self, input: Tensor, scale: Tensor | None = None) -> Tensor:
        """The layer on ``input``, multiplied by ``scale`` (N, C, 1, 1) first where it is given."""
        return F.pointwise(input, self.weight, self.bias, scale)

    def extra_repr(self) -> str:
        """The widths, for ``print(model)``."""
        return f"{self.in_channels}, {self.out_channels}"


@torch.fx.wrap
def check_map(x: Tensor, block: str, channels: int) -> None:
    """Raise ValueError unless ``x`` is (N, channels, H, W), H and W not 0; one step of a trace."""
    if not torch.jit.is_scripting():  # type: ignore[attr-defined]
        if x.dim() != 4:
            raise ValueError(
                f"{block} takes a map of 4 dimensions (N, C, H, W), got {x.dim()}: "
                f"shape {tuple(x.shape)}"
            )
        if x.shape[1] != channels:
            raise ValueError(
                f"{block} was built for {channels} channels, got {x.shape[1]}: "
                f"shape {tuple(x.shape)}"
            )
        if x.shape[2] == 0 or x.shape[3] == 0:
            raise ValueError(f"{block} takes a map with positions, got shape {tuple(x.shape)}")


def positive_int(name: str, value: int) -> int:
    """Return ``value`` as an int of at least 1, or raise an error that names the argument."""
    try:
        number = operator.index(value)
    except TypeError:
        raise TypeError(f"{name} must be an int, got {value!r}") from None
    if number < 1:
        raise ValueError(f"{name} must be at least 1, got {number}")
    return number


def odd_kernel(name: str, value: int) -> int:
    """Return ``value`` as an odd int: an even kernel cannot be padded to keep the size."""
    size = positive_int(name, value)
    if size % 2 == 0:
        raise ValueError(f"{name} must be odd, so that padding keeps the size; got {size}")
    return size


def bottleneck(
    channels: int, rd_channels: int | None, rd_ratio: float, *, least: int = 1, prefix: str = ""
) -> int:
    """``rd_channels`` where it is given, else ``floor(channels * rd_ratio)``, at least ``least``.

    ``prefix`` completes the argument names in errors. The small term keeps 1/49 of 49 channels
    at 1: in floating point the product is 0.99...
    """
    if rd_channels is not None:
        return positive_int(f"{prefix}rd_channels", rd_channels)
    if not 0 < rd_ratio < math.inf:
        raise ValueError(f"{prefix}rd_ratio must be above 0 and finite, got {rd_ratio}")
    return max(least, int(channels * rd_ratio + 1e-6))


def new_layer(name: str, factory: LayerFactory, *args: Any, **kwargs: Any) -> nn.Module:
    """Call ``factory``, and raise a TypeError that names the argument if it makes no module."""
    if not callable(factory) or isinstance(factory, nn.Module):
        raise TypeError(
            f"{name} must be a class or function that makes a module, such as nn.ReLU; "
            f"got {factory!r}"
        )
    layer = factory(*args, **kwargs)
    if not isinstance(layer, nn.Module):
        raise TypeError(f"{name} must make an nn.Module, got {layer!r} from {factory!r}")
    return layer


def new_norm(factory: LayerFactory | None, channels: int, **dd: Any) -> nn.Module:
    """The norm of ``channels``, or ``nn.Identity`` where ``factory`` is None."""
    if factory is None:
        return nn.Identity()
    return new_layer("norm_layer", factory, channels, **dd)
