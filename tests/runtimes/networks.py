"""A small network with a block, and its comparison in a runtime."""

import pytest
import torch
from torch import nn

from benchmarks.runtimes.runtime import SIZES, Converted, Runtime
from tests.helpers import BLOCKS, random_block, randomized

# CBAM and CaCo have the stages of the others.
block_in_a_network = pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[pytest.mark.slow] * (name in ("SeCo", "CoordAtt")))
        for name in BLOCKS
    ],
)


def network_with(name: str) -> nn.Module:
    """A network with a block between its convolution and its head, with random weights."""
    stem = nn.Conv2d(3, 16, 3, stride=2, padding=1), nn.BatchNorm2d(16), nn.Hardswish()
    head = nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 5)
    return randomized(nn.Sequential(*stem, random_block(name, 16), *head)).eval()


def check_agrees(runtime: Runtime, name: str) -> Converted:
    """Convert with all sizes free, and compare with eager torch at sizes of other images."""
    model = network_with(name)
    found = runtime.convert(model, torch.rand(2, 3, 64, 64), frozenset(SIZES))
    assert found.run is not None
    for shape in [(1, 3, 64, 64), (3, 3, 80, 96), (2, 3, 97, 71)]:
        x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
        with torch.no_grad():
            wanted = model(x)
        atol = 1e-4 * wanted.abs().max().item()
        torch.testing.assert_close(found.run(x), wanted, rtol=0, atol=atol)
    return found
