"""Runs a block in one call, where nobody can tell that its stages and layers are not called."""

from collections.abc import Iterable
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
_replaceable = attrgetter("conv2d", "batch_norm", "relu")
_OF_TORCH = nn.Module.__call__, _replaceable(F)


class Whole:
    """Reads the stages of a block that runs in one call.

    Args:
        stages: one that makes gates of channels, one that makes those of rows and columns or, in
            inference alone, of positions, or both in this order.
    """

    def __init__(self, *stages: PlainStage) -> None:
        self.stages = stages
        self.plans = b"".join(stage.plan for stage in stages)
        self.block: tuple[type[nn.Module], Any] | None = None

    def __set_name__(self, block: type[nn.Module], name: str) -> None:
        """Called for the class of the block, which its subclasses are not, and its ``gates``."""
        self.block = block, vars(block)["gates"]

    def run(self, block: nn.Module, x: Tensor) -> Tensor | None:
        """What the block returns for a map; None where its layers have to be called."""
        cls, members = type(block), block.__dict__
        if (cls, cls.__dict__.get("gates")) != self.block or "gates" in members:
            return None
        if (where := _where(x)) is None:
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
        if (where := _where(x)) is None:
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

    def _stages(self, read: Iterable[native.Read], x: Tensor) -> list[native.Stage] | None:
        """The stages, of which nothing has to be called; None where their tensors do not fit."""
        stages = [stage.stage(of) for stage, of in zip(self.stages, read, strict=True)]
        if host.view() or all(map(PlainStage.fits, self.stages, stages, repeat(x))):
            return stages
        return None


def _where(x: Tensor) -> bytes | None:
    """The geometry of a map; None where it or anything around it needs the layers."""
    if library() is None or not host.LOCKED or kernels.observed() or any(_GLOBAL_HOOKS):
        return None
    if torch.is_autocast_enabled("cpu") or (nn.Module.__call__, _replaceable(F)) != _OF_TORCH:
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
