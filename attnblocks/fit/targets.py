"""What the original computes for each batch: the targets of a fit."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

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
        seen = self._pair.run(self._pair.original, batch, inputs=True)
        calls = {
            site: [
                (given.detach(), _goal(output))
                for given, output in zip(seen.given[site], seen.outputs[site], strict=True)
            ]
            for site in self._pair.sites
        }
        return Target(calls, _goal(seen.features.clone()))


def _goal(value: Tensor) -> Goal:
    value = value.detach()
    return Goal(value, value.to(_wide(value)).square().sum())


def squared_error(ours: Tensor, goal: Goal) -> Tensor:
    """The sum of the squared differences."""
    dtype = _wide(ours, goal.value)
    return F.mse_loss(ours.to(dtype), goal.value.to(dtype), reduction="sum")


def _wide(*tensors: Tensor) -> torch.dtype:
    """At least float32: sums of squares overflow in float16, and lose most digits in bfloat16."""
    return reduce(torch.promote_types, [x.dtype for x in tensors], torch.float32)
