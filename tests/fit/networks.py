"""A small network with two SE blocks, and what tests of a fit ask of it."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from torch import nn
from torchvision.ops import SqueezeExcitation

from attnblocks import SE, replace_se
from attnblocks.fit.batches import plain_forward
from attnblocks.fit.pair import Pair, pair_up
from tests.helpers import randomized

SITES = (3, 6)


def network(seed: int = 0) -> nn.Module:
    """Two SE blocks; what enters and leaves them is changed in place behind them."""
    layers = [nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16), nn.Hardswish(inplace=True)]
    layers += [SqueezeExcitation(16, 4), nn.Hardswish(inplace=True), nn.Conv2d(16, 16, 3)]
    layers += [SqueezeExcitation(16, 4), nn.ReLU(inplace=True)]
    layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 5)]
    return randomized(nn.Sequential(*layers), seed).eval()


def batches(seed: int = 1) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    brightness = torch.rand(32, 3, 1, 1, generator=generator) * 2
    return list((torch.randn(32, 3, 12, 12, generator=generator) * brightness).split(8))


def counted(model: nn.Module) -> list[int]:
    """A list that grows by one with every run of a network."""
    runs: list[int] = []
    model.register_forward_hook(lambda *_: runs.append(1))
    return runs


@contextmanager
def interrupted(block: nn.Module, run: int) -> Iterator[None]:
    """A block that is stopped from the keyboard in one of its runs, which must come."""
    runs: list[int] = []

    def stop(*_: object) -> None:
        runs.append(1)
        if len(runs) == run:
            raise KeyboardInterrupt

    handle = block.register_forward_hook(stop)
    try:
        with pytest.raises(KeyboardInterrupt):
            yield
    finally:
        handle.remove()


def paired(model: nn.Module, original: nn.Module, x: torch.Tensor) -> Pair:
    return pair_up(model, original, x, None, plain_forward)


def fresh(original: nn.Module) -> nn.Module:
    """New blocks without batch norms, whose statistics would take runs of the network."""
    torch.manual_seed(0)
    return replace_se(original, SE, init="fresh", inplace=False)


def relative(ours: torch.Tensor, theirs: torch.Tensor) -> torch.Tensor:
    return ((ours - theirs) ** 2).sum() / (theirs**2).sum()
