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


# litert-torch keeps the batch of the example in Eca, CBAM and CaCo.
@pytest.mark.parametrize(
    ("names", "free"),
    [
        (["CaCo"], ("height", "width")),
        pytest.param(BLOCKS, ("height", "width"), marks=pytest.mark.slow),
        pytest.param(["SE", "CoordAtt", "SeCo"], SIZES, marks=pytest.mark.slow),
    ],
)
def test_a_network_with_these_blocks_agrees_at_every_size(names, free):
    stem = nn.Conv2d(3, 16, 3, stride=2, padding=1), nn.BatchNorm2d(16), nn.Hardswish()
    blocks = [random_block(name, 16) for name in names]
    model = randomized(nn.Sequential(*stem, *blocks, nn.Conv2d(16, 5, 1))).eval()
    found = litert.convert(model, torch.rand(2, 3, 32, 64), frozenset(free))
    assert found.run is not None
    assert found.prepare is not None
    for batch, *sides in [(1, 32, 64), (3, 80, 96), (2, 97, 71)]:
        shape = (batch if "batch" in free else 2, 3, *sides)
        x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
        with torch.no_grad():
            wanted = model(x)
        atol = 1e-4 * wanted.abs().max().item()
        torch.testing.assert_close(found.run(x), wanted, rtol=0, atol=atol)
        found.prepare(x)()
    assert found.delegates == 1  # XNNPACK takes all of it
    assert found.operators["CONV_2D"] >= 2
    assert litert.DELEGATE not in found.operators


class Nonzero(nn.Module):
    def forward(self, x):
        return x.nonzero()


def test_what_litert_torch_does_not_take_is_told():
    with pytest.raises(ConversionError, match="ConcretizationTypeError"):
        litert.convert(Nonzero().eval(), torch.rand(1, 3, 8, 8), frozenset())
