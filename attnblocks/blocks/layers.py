"""Widths and layers from the arguments of a block, with errors that name the argument."""

import copy
import math
import operator
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

LayerFactory = Callable[..., nn.Module]
"""A class such as ``nn.ReLU``, or any callable that returns a new module."""

LOGITS = torch.linspace(-6, 6, 241, dtype=torch.float64, device="cpu")
"""Logits at which functions of a logit are evaluated."""

OPEN = 5.0
"""Logit of a gate that does next to nothing: sigmoid(5) is 0.993."""

LEAST_SLOPE = 0.006
"""Least slope of an open gate, so that gradients flow; sigmoid has 0.0066 at 5."""

FRESH_SHARE = 0.1
"""The share of their published initialisation that the weights of an open gate keep."""


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


def new_norm(factory: LayerFactory | None, channels: int, **place: Any) -> nn.Module:
    """The norm of ``channels``, or ``nn.Identity`` where ``factory`` is None."""
    if factory is None:
        return nn.Identity()
    return new_layer("norm_layer", factory, channels, **place)


def copy_function(function: nn.Module) -> nn.Module:
    """A copy of an activation or gate, without its hooks: they stay with the original."""
    copied = copy.deepcopy(function)
    for module in copied.modules():
        for name, hooks in vars(module).items():
            if name.startswith(("_forward", "_backward")) and isinstance(hooks, dict):
                hooks.clear()
    return copied


def float64_copy(function: nn.Module) -> nn.Module:
    """A copy of an activation or gate for float64 on the CPU."""
    return copy_function(function).cpu().double().eval()


def open_logit(gate: nn.Module, gain: float = 1.0) -> tuple[float, float]:
    """The logit, up to ``OPEN``, where a gate lets everything through; and the gate there.

    Without a gain it is the highest where the gate still has a slope; with one, of those the one at
    which the gate times the gain is nearest to 1.
    """
    values = float64_copy(gate)(LOGITS.clone())
    slopes = values.diff() / LOGITS.diff()
    usable = ((slopes > LEAST_SLOPE) & (LOGITS[:-1] < OPEN + 0.01)).nonzero()[:, 0]
    place = int(usable[-1] if gain == 1 else usable[(values[usable] * gain - 1).abs().argmin()])
    return float(LOGITS[place]), float(values[place])
