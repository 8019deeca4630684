"""What the original computes for each batch: the targets of a fit."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd import Function

from attnblocks.fit.pair import Pair


class Goal(NamedTuple):
    """A tensor to come close to, and the sum of its squares."""

    value: Tensor
    size: Tensor


@dataclass(frozen=True)
class Target:
    """What the original computes for one batch.

    Args:
        calls: input and output of every call of each replaced block, by site.
        features: what enters the head, or leaves a network without one.
    """

    calls: dict[str, list[tuple[Tensor, Goal]]]
    features: Goal

    @property
    def nbytes(self) -> int:
        """The memory that it takes."""
        calls = [call for calls in self.calls.values() for call in calls]
        return self.features.value.nbytes + sum(x.nbytes + y.value.nbytes for x, y in calls)


class Targets:
    """The targets of some batches: kept where they were made, or made again each time.

    Args:
        pair: the networks.
        batches: what they run on.
        limit: bytes of memory. A target that would go over it is made again whenever it is asked
            for; those before it, and smaller ones after it, are kept.
    """

    def __init__(self, pair: Pair, batches: Sequence[Any], limit: float) -> None:
        self.batches = batches
        self._pair = pair
        self._left = limit
        self._kept: dict[int, Target] = {}

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, i: int) -> Target:
        if i in self._kept:
            return self._kept[i]
        target = self._make(self.batches[i])
        if target.nbytes <= self._left:
            self._left -= target.nbytes
            self._kept[i] = target
        return target

    def __iter__(self) -> Iterator[Target]:
        return (self[i] for i in range(len(self)))

    @torch.no_grad()
    def _make(self, batch: Any) -> Target:
        given: dict[str, list[Tensor]] = {site: [] for site in self._pair.sites}
        goals: dict[str, list[Goal]] = {site: [] for site in self._pair.sites}
        features = self._pair.run(
            self._pair.original,
            batch,
            after=lambda site, output: goals[site].append(_goal(output)),
            before=lambda site, x: given[site].append(x.detach().clone()),
        )
        calls = {site: list(zip(given[site], goals[site], strict=True)) for site in given}
        return Target(calls, _goal(features))


def _goal(value: Tensor) -> Goal:
    value = value.detach().clone()
    return Goal(value, value.to(_wide(value)).square().sum())


def squared_error(ours: Tensor, goal: Goal) -> Tensor:
    """The sum of the squared differences; keeps no tensor that may be changed in place."""
    dtype = _wide(ours, goal.value)
    error: Tensor = _SquaredError.apply(ours.to(dtype), goal.value.to(dtype))
    return error


class _SquaredError(Function):
    """What torch makes of the formula goes over the maps twice as often."""

    @staticmethod
    def forward(ctx: Any, ours: Tensor, theirs: Tensor) -> Tensor:
        difference = ours - theirs
        ctx.save_for_backward(difference)
        return difference.square().sum()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (difference,) = ctx.saved_tensors
        return difference * (2 * grad), None


def _wide(*tensors: Tensor) -> torch.dtype:
    """At least float32: sums of squares overflow in float16, and lose most digits in bfloat16."""
    return reduce(torch.promote_types, [x.dtype for x in tensors], torch.float32)
