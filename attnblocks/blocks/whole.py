"""Runs a block in one call, where nobody can tell that its stages and layers are not called."""

from collections.abc import Callable, Iterable
from itertools import repeat
from operator import attrgetter
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules import module

from attnblocks.blocks.plain import PlainStage
from attnblocks.ops.native import host, kernels
from attnblocks.ops.native import whole as native
from attnblocks.ops.native.library import library
from attnblocks.ops.native.small_layers import COORDINATES, POSITIONS

_GLOBAL_HOOKS = (
    module._global_forward_hooks,
    module._global_forward_pre_hooks,
    module._global_backward_hooks,
    module._global_backward_pre_hooks,
)

# What profilers replace in order to see all layers.
_functions = attrgetter(
    *("conv1d", "conv2d", "batch_norm", "relu", "relu6", "silu", "hardswish", "hardsigmoid")
)
_calls = attrgetter("__call__", "_call_impl")
_convolves = attrgetter("__call__", "_conv_forward")


def _replaceable() -> tuple[Any, ...]:
    return (
        torch.sigmoid,
        _functions(F),
        _calls(nn.Module),
        _convolves(nn.Conv1d),
        _convolves(nn.Conv2d),
    )


_OF_TORCH = _replaceable()
_METHODS = "gates", "check_input", "channel_gate", "coordinate_gates", "times_gain"
"""What a block and its stages call on themselves, those of them that they have."""

_Methods = tuple[type[nn.Module], Callable[[Any], Any], Any]


def _methods(cls: type[nn.Module]) -> _Methods:
    """A class, what reads its methods, and what they are now."""
    read = attrgetter(*(name for name in _METHODS if hasattr(cls, name)), "forward")
    return cls, read, read(cls)


class Whole:
    """Reads the stages of a block that runs in one call.

    Args:
        stages: one that makes gates of channels, one that makes those of rows and columns or, in
            inference alone, of positions, or both in this order.
    """

    def __init__(self, *stages: PlainStage) -> None:
        self.stages = stages
        self.plans = b"".join(stage.plan for stage in stages)
        self.block: type[nn.Module] | None = None
        classes = [stage.of[0] for stage in stages if stage.of[0] is not None]
        self.methods = [_methods(cls) for cls in classes]

    def __set_name__(self, block: type[nn.Module], name: str) -> None:
        """Called for the class of the block, which its subclasses are not.

        Raises:
            TypeError: the class has no ``gates`` of its own, or another one has this attribute.
        """
        if "gates" not in vars(block):
            raise TypeError(
                f"{block.__qualname__}.{name} is for a class that defines its own gates: "
                "leave it out, so that layers are called"
            )
        if self.block is not None:
            raise TypeError(
                f"{block.__qualname__}.{name} belongs to {self.block.__qualname__}: "
                "a Whole is for one class"
            )
        self.block = block
        self.methods.append(_methods(block))

    def __reduce__(self) -> tuple[Any, ...]:
        """Plans are addresses in this process: another one makes its own."""
        return Whole, self.stages, {"block": self.block, "methods": self.methods}

    def run(self, block: nn.Module, x: Tensor) -> Tensor | None:
        """What the block returns for a map; None where its layers have to be called."""
        members = block.__dict__
        if type(block) is not self.block or not members.keys().isdisjoint(_METHODS):
            return None
        if self._is_replaced() or (where := _where(x)) is None:
            return None
        out = None if torch.is_grad_enabled() else torch.empty_like(x)
        read = native.run(where, x, members, self.plans, len(self.stages), None, out)
        if read is True:
            return out
        if read is None or (found := self._stages(read, x)) is None:
            return None
        if not _has_derivatives(x, found) and not _takes_batch(found):
            return native.infer(where, x, found)
        if x.dtype is not torch.float32 or self.stages[-1].kind == POSITIONS:
            return None
        if len(x) == 1 and self.stages[0].kind != COORDINATES and _takes_batch(found[:1]):
            return None  # batch norm sees a single value, and says so
        return native.train(x, found)

    def gates(self, block: nn.Module, x: Tensor) -> Tensor | None:
        """The gates of channels alone, (N, C, 1, 1); None where layers have to be called."""
        if self._is_replaced() or (where := _where(x)) is None:
            return None
        out = None
        if not torch.is_grad_enabled():
            out = torch.empty((*x.shape[:2], 1, 1), dtype=torch.float32, device="cpu")
        read = native.run(where, x, block.__dict__, self.plans, len(self.stages), out, None)
        if read is True:
            return out
        if read is None or (found := self._stages(read, x)) is None or _has_derivatives(x, found):
            return None
        return native.infer_gates(where, x, *found)

    def _is_replaced(self) -> bool:
        """Whether a class has other methods than it was made with."""
        return any(read(cls) != methods for cls, read, methods in self.methods)

    def _stages(self, read: Iterable[native.Read], x: Tensor) -> list[native.Stage] | None:
        """The stages, of which nothing has to be called; None where their tensors do not fit."""
        stages: list[native.Stage] = []
        for stage, of in zip(self.stages, read, strict=True):
            if (found := stage.stage(of)) is None:
                return None
            stages.append(found)
        if host.view() or all(map(PlainStage.fits, self.stages, stages, repeat(x))):
            return stages
        return None


def _where(x: Tensor) -> bytes | None:
    """The geometry of a map; None where it or anything around it needs the layers."""
    if library() is None or not host.LOCKED or kernels.observed() or any(_GLOBAL_HOOKS):
        return None
    if torch.is_autocast_enabled("cpu") or _replaceable() != _OF_TORCH:
        return None
    return kernels.geometry(x)


def _has_derivatives(x: Tensor, stages: list[native.Stage]) -> bool:
    """Whether something is recorded for backward."""
    if not torch.is_grad_enabled():
        return False
    return x.requires_grad or any(
        tensor is not None and tensor.requires_grad for _, tensors in stages for tensor in tensors
    )


def _takes_batch(stages: list[native.Stage]) -> bool:
    """Whether a norm takes the statistics of the batch."""
    return any(numbers.norm is not None and numbers.norm.of_batch for numbers, _ in stages)
