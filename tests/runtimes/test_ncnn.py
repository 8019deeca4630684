"""Networks in ncnn."""

import pytest
import torch

from benchmarks.runtimes import ncnn
from benchmarks.runtimes.runtime import ConversionError
from tests.runtimes.networks import block_in_a_network, network_with

pytest.importorskip("ncnn", reason="ncnn is not installed: pip install '.[runtimes]'")
pytest.importorskip("pnnx", reason="pnnx is not installed: pip install '.[runtimes]'")

pytestmark = pytest.mark.runtimes

FREE = frozenset({"height", "width"})


@block_in_a_network
def test_a_network_agrees_at_every_height_and_width(name):
    model = network_with(name)
    found = ncnn.convert(model, torch.rand(1, 3, 64, 64), FREE)
    assert found.run is not None
    for shape in [(1, 3, 64, 64), (2, 3, 80, 96), (2, 3, 97, 71)]:
        x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
        with torch.no_grad():
            wanted = model(x)
        atol = 1e-4 * wanted.abs().max().item()
        torch.testing.assert_close(found.run(x), wanted, rtol=0, atol=atol)
    assert found.operators["Convolution"] >= 1
    assert "Split" not in found.operators


def test_images_run_one_by_one():
    with pytest.raises(ConversionError, match="it has no batch"):
        ncnn.convert(network_with("SE"), torch.rand(2, 3, 64, 64), FREE)
    with pytest.raises(ConversionError, match="it has no batch"):
        ncnn.convert(network_with("SE"), torch.rand(1, 3, 64, 64), frozenset({"batch"}))


class Cross(torch.nn.Module):
    def forward(self, x):
        return torch.linalg.cross(x, x.flip(2), dim=1)


def test_layers_that_ncnn_lacks_are_named():
    with pytest.raises(ConversionError, match=r"ncnn has no layer .*cross"):
        ncnn.convert(Cross(), torch.rand(1, 3, 8, 8), FREE)


class SplitByHeight(torch.nn.Module):
    def forward(self, x):
        return torch.cat(x.split([x.shape[2] - 3, 3], dim=2)[::-1], dim=2)


def test_what_ends_pnnx_is_told():
    with pytest.raises(ConversionError, match=r"pnnx ended with -6: terminate.* map::at"):
        ncnn.convert(SplitByHeight(), torch.rand(1, 3, 8, 8), FREE)
