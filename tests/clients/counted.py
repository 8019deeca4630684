"""What blocks cost, by formulas: the right value for every tool that counts.

Tools differ in what they count. A formula has its parts, and a test adds those of its tool up.
"""

import copy
import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields

import pytest
import torch
import torchvision
from torch import Tensor, nn

from attnblocks import create_block, find_se, replace_se

CHANNELS, HEIGHT, WIDTH = 64, 14, 20
IMAGES = (3, 64, 96)


@dataclass(frozen=True)
class Cost:
    """What one block costs for one map.

    Attributes:
        parameters: of all layers.
        norms: parameters of norms, of those.
        macs: multiplications of convolutions, each with its addition.
        biased: values to which a convolution adds a bias.
        normed: values that a norm returns.
        relus: values that a ReLU returns.
    """

    parameters: int = 0
    norms: int = 0
    macs: int = 0
    biased: int = 0
    normed: int = 0
    relus: int = 0

    def __add__(self, other: "Cost") -> "Cost":
        names = [field.name for field in fields(Cost)]
        return Cost(**{name: getattr(self, name) + getattr(other, name) for name in names})


def _round(width: float) -> int:
    """Torchvision's ``_make_divisible`` by 8."""
    rounded = max(8, int(width + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * width else rounded


def _se(c: int, h: int, w: int) -> Cost:
    s = _round(c / 4)
    return Cost(2 * c * s + s + c, macs=2 * c * s, biased=s + c, relus=s)


def _twice(c: int) -> Cost:
    """CBAM's channel gate: means and maxima through one MLP, so all but parameters twice."""
    s = max(1, c // 16)
    return Cost(2 * c * s + s + c, macs=4 * c * s, biased=2 * (s + c), relus=2 * s)


def _cbam(c: int, h: int, w: int) -> Cost:
    places = h * w
    return _twice(c) + Cost(2 * 49 + 2, norms=2, macs=2 * 49 * places, normed=places)


def _coord(c: int, h: int, w: int) -> Cost:
    m, lines = max(8, c // 32), h + w
    return Cost(
        3 * c * m + m + 2 * c + 2 * m,
        norms=2 * m,
        macs=c * m * lines + m * c * h + m * c * w,
        biased=m * lines + c * h + c * w,
        normed=m * lines,
    )


def _eca(c: int, h: int, w: int) -> Cost:
    k = {16: 3, 64: 3, 96: 3, 120: 3, 144: 5, 240: 5, 288: 5, 576: 5}[c]
    return Cost(k, macs=c * k)


COSTS: dict[str, Callable[[int, int, int], Cost]] = {
    "SE": _se,
    "CBAM": _cbam,
    "Eca": _eca,
    "CoordAtt": _coord,
    "SeCo": lambda c, h, w: _se(c, h, w) + _coord(c, h, w),
    "CaCo": lambda c, h, w: _twice(c) + _coord(c, h, w),
}

STRIDES = {"1": 4, "9": 32, "10": 32, "11": 32} | dict.fromkeys("45678", 16)
"""By how much the maps are smaller than the images, for each stage that has a site."""

MODES = ["eval", "train", "no_grad"]
every_mode = pytest.mark.parametrize("mode", MODES)


@contextmanager
def in_mode(model: nn.Module, mode: str) -> Iterator[nn.Module]:
    """The network in train or eval mode, or in the latter without gradients."""
    model.train(mode == "train")
    with torch.set_grad_enabled(mode != "no_grad"):
        yield model


def block_and_map(name: str) -> tuple[nn.Module, Tensor, Cost]:
    """A block, a map for it, and what they cost."""
    x = torch.rand(1, CHANNELS, HEIGHT, WIDTH)
    return create_block(name, CHANNELS), x, COSTS[name](CHANNELS, HEIGHT, WIDTH)


def network_pair() -> tuple[nn.Module, nn.Module, Tensor, Cost]:
    """MobileNetV3-Small without attention and with all blocks, images, and what the blocks cost."""
    swapped = torchvision.models.mobilenet_v3_small(num_classes=5)
    names = dict(zip([site.name for site in find_se(swapped)], itertools.cycle(COSTS)))
    replace_se(swapped, names)
    without = copy.deepcopy(swapped)
    height, width = IMAGES[1:]
    total = Cost()
    for site in find_se(without):
        parent, _, child = site.name.rpartition(".")
        setattr(without.get_submodule(parent), child, nn.Identity())
        by = STRIDES[site.name.split(".")[1]]
        total += COSTS[names[site.name]](site.channels, height // by, width // by)
    return without, swapped, torch.rand(1, *IMAGES), total


Count = Callable[[nn.Module, Tensor], tuple[int, int]]
"""A tool: from a network and its input to operations and parameters."""


def check_block(name: str, mode: str, count: Count, wanted: Callable[[Cost], int]) -> None:
    """Assert what a tool counts of a block alone.

    Args:
        name: of the block.
        mode: of ``MODES``.
        count: the tool.
        wanted: the operations that it counts, from the parts of the formula.
    """
    block, x, cost = block_and_map(name)
    with in_mode(block, mode):
        assert count(block, x) == (wanted(cost), cost.parameters)


def check_network(count: Count, wanted: Callable[[Cost], int]) -> None:
    """Assert what a tool counts of blocks in a network; arguments as for ``check_block``."""
    without, swapped, x, cost = network_pair()
    plain_operations, plain_parameters = count(without.eval(), x)
    operations, parameters = count(swapped.eval(), x)
    assert plain_operations > 1e6
    assert operations - plain_operations == wanted(cost)
    assert parameters - plain_parameters == cost.parameters
