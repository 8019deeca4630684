"""Networks converted to Core ML."""

import pytest
import torch
from torch import nn

from benchmarks.runtimes import coreml
from benchmarks.runtimes.runtime import SIZES, ConversionError
from tests.helpers import random_block, randomized
from tests.runtimes.mil import compute
from tests.runtimes.networks import block_in_a_network

pytest.importorskip("coremltools", reason="coremltools is not installed: pip install '.[runtimes]'")

pytestmark = [
    pytest.mark.runtimes,
    pytest.mark.filterwarnings("ignore"),  # coremltools has not been tested with this torch
]


@block_in_a_network
def test_the_program_of_a_network_computes_the_same_at_every_size(name):
    """By the definitions of its operators: nothing here runs Core ML."""
    stem = nn.Conv2d(3, 16, 3, stride=2, padding=1), nn.BatchNorm2d(16), nn.Hardswish()
    model = randomized(nn.Sequential(*stem, random_block(name, 16), nn.Conv2d(16, 5, 1))).eval()
    package = coreml.package_of(model, torch.rand(2, 3, 64, 64), frozenset(SIZES))
    for shape in [(1, 3, 64, 64), (3, 3, 80, 96), (2, 3, 97, 71)]:
        x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
        with torch.no_grad():
            wanted = model(x)
        atol = 1e-4 * wanted.abs().max().item()
        torch.testing.assert_close(compute(package._mil_program, x), wanted, rtol=0, atol=atol)
    operators = coreml.operators_of(package)
    assert operators["conv"] >= 2
    assert "const" not in operators


@pytest.mark.parametrize("free", [frozenset(), frozenset({"batch"}), frozenset(SIZES)])
def test_sizes_are_free_as_asked(free):
    model = nn.Sequential(nn.Conv2d(3, 4, 1), random_block("CaCo", 4)).eval()
    package = coreml.package_of(model, torch.rand(2, 3, 64, 64), free)
    (images,) = package.get_spec().description.input
    ranges = images.type.multiArrayType.shapeRange.sizeRanges
    assert [r.upperBound > r.lowerBound for r in ranges] == (
        ["batch" in free, False, "height" in free, "width" in free] if free else []
    )


class SplitByHeight(nn.Module):
    def forward(self, x):
        return torch.cat(x.split([x.shape[2] - 3, 3], dim=2)[::-1], dim=2)


def test_what_coremltools_does_not_take_is_told():
    with pytest.raises(ConversionError, match="has no attribute 'val'"):
        coreml.convert(SplitByHeight(), torch.rand(1, 3, 64, 64), frozenset({"height"}))
