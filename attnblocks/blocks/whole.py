"""Runs a block in one call, where nobody can tell that its stages and layers are not called."""

from operator import attrgetter
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules import module

from attnblocks.blocks.plain import PlainStage
from attnblocks.ops.native import kernels
from attnblocks.ops.native import whole as native
from attnblocks.ops.native.library import library

_GLOBAL_HOOKS = (
    module._global_forward_hooks,
    module._global_forward_pre_hooks,
    module._global_backward_hooks,
    module._global_backward_pre_hooks,
)

# What profilers replace in order to see all layers.
_replaceable = attrgetter(
    "Module.__call__",
    "Conv2d.forward",
    "BatchNorm2d.forward",
    "functional.conv2d",
    "functional.batch_norm",
    "functional.relu",
)
_OF_TORCH = _replaceable(nn)

_TENSORS = frozenset({nn.Parameter, Tensor})
_dtype, _is_cpu = attrgetter("dtype"), attrgetter("is_cpu")
_requires_grad = attrgetter("requires_grad")

_ABSENT = {
    dtype: torch.empty(0, dtype=dtype, device="cpu") for dtype in (torch.float32, torch.bfloat16)
}
"""Stands for a tensor that a layer does not have: its address is 0."""


class Whole:
    """Reads the stages of a block that runs in one call.

    Args:
        stages: one that makes gates of channels, one that makes those of rows and columns, or both
            in this order.
    """

    def __init__(self, *stages: PlainStage) -> None:
        self.stages = stages
        self.block: tuple[type[nn.Module], Any] | None = None

    def __set_name__(self, block: type[nn.Module], name: str) -> None:
        """Called for the class of the block, which its subclasses are not, and its ``gates``."""
        self.block = block, vars(block)["gates"]

    def run(self, block: nn.Module, x: Tensor) -> Tensor | None:
        """What the block returns for a map; None where its layers have to be called."""
        cls = type(block)
        if (cls, vars(cls).get("gates")) != self.block or "gates" in block.__dict__:
            return None
        if (where := _where(x)) is None or (reads := self._read(block, x)) is None:
            return None
        if not _has_derivatives(x, reads) and not _takes_batch(reads):
            return native.infer(where, x, reads)
        if x.dtype is not torch.float32 or (len(x) == 1 and _takes_batch(reads[:1])):
            return None  # or batch norm sees a single value, and says so
        return native.train(x, reads)

    def gates(self, block: nn.Module, x: Tensor) -> Tensor | None:
        """The gates of channels alone, (N, C, 1, 1); None where layers have to be called."""
        if (where := _where(x)) is None or (reads := self._read(block, x)) is None:
            return None
        if _has_derivatives(x, reads):
            return None
        return native.infer_gates(where, x, *reads)

    def _read(self, block: nn.Module, x: Tensor) -> list[native.Stage] | None:
        """The stages, in a map as the kernels take it."""
        channels, dtype = x.shape[1], x.dtype
        absent = _ABSENT[dtype]
        reads: list[native.Stage] = []
        tensors: list[Tensor] = []
        for stage in self.stages:
            try:
                read = stage.read(block, channels, absent)
            except KeyError:  # moved elsewhere, such as by a parametrisation
                return None
            if read is None:
                return None
            reads.append(read)
            tensors += read[1]
        tensors = [tensor for tensor in tensors if tensor is not absent]
        if (
            _TENSORS.issuperset(map(type, tensors))
            and {*map(_dtype, tensors)} == {dtype}
            and all(map(_is_cpu, tensors))
            and all(map(Tensor.is_contiguous, tensors))
        ):
            return reads
        return None


def _where(x: Tensor) -> bytes | None:
    """The geometry of a map; None where it or anything around it needs the layers."""
    if library() is None or kernels.observed() or any(_GLOBAL_HOOKS):
        return None
    if torch.is_autocast_enabled("cpu") or _replaceable(nn) != _OF_TORCH:
        return None
    return kernels.geometry(x)


def _has_derivatives(x: Tensor, reads: list[native.Stage]) -> bool:
    """Whether something is recorded for backward."""
    if not torch.is_grad_enabled():
        return False
    return x.requires_grad or any(any(map(_requires_grad, tensors)) for _, tensors in reads)


def _takes_batch(reads: list[native.Stage]) -> bool:
    """Whether a norm takes the statistics of the batch."""
    return any(numbers.norm is not None and numbers.norm.of_batch for numbers, _ in reads)
