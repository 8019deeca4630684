"""Networks in LiteRT."""

import pytest
import torch
from torch import nn

from benchmarks.runtimes import litert
from benchmarks.runtimes.runtime import SIZES, ConversionError
from tests.helpers import BLOCKS, random_block, randomized

pytest.importorskip(
    "litert_torch", reason="litert-torch is not installed: pip install '.[runtimes]'"
)

pytestmark = [
    pytest.mark.runtimes,
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning"),
]


def test_a_network_with_every_block_agrees_at_every_size():
    """One network for all: a conversion takes several seconds, most of them for any network."""
    stem = nn.Conv2d(3, 16, 3, stride=2, padding=1), nn.BatchNorm2d(16), nn.Hardswish()
    blocks = [random_block(name, 16) for name in BLOCKS]
    model = randomized(nn.Sequential(*stem, *blocks, nn.Conv2d(16, 5, 1))).eval()
    found = litert.convert(model, torch.rand(2, 3, 32, 64), frozenset(SIZES))
    assert found.run is not None
    assert found.prepare is not None
    for shape in [(1, 3, 32, 64), (3, 3, 80, 96), (2, 3, 97, 71)]:
        x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
        with torch.no_grad():
            wanted = model(x)
        atol = 1e-4 * wanted.abs().max().item()
        torch.testing.assert_close(found.run(x), wanted, rtol=0, atol=atol)
        found.prepare(x)()
    assert found.delegates == 1  # XNNPACK takes all of it
    assert found.operators["CONV_2D"] >= 2
    assert litert.DELEGATE not in found.operators


class Cross(nn.Module):
    def forward(self, x):
        return torch.linalg.cross(x, x, dim=1).nonzero()


def test_operators_that_it_does_not_lower_are_named():
    with pytest.raises(ConversionError, match="nonzero"):
        litert.convert(Cross(), torch.rand(1, 3, 8, 8), frozenset())
