"""OpenVINO with nncf: networks with each block in int8 stay near to float."""

import pytest
import torch
from torch import nn

from benchmarks.int8 import openvino
from tests.helpers import random_block
from tests.runtimes.networks import block_in_a_network

pytest.importorskip("nncf", reason="nncf is not installed: pip install '.[runtimes]'")

pytestmark = [
    pytest.mark.runtimes,
    pytest.mark.filterwarnings(
        "ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning"
    ),
]


def network(*layers):
    torch.manual_seed(0)
    stem = nn.Conv2d(3, 16, 3, stride=2, padding=1), nn.Hardswish()
    depthwise = nn.Conv2d(16, 16, 3, padding=1, groups=16)
    return nn.Sequential(*stem, depthwise, *layers, nn.Conv2d(16, 8, 1), nn.Flatten()).eval()


def images():
    generator = torch.Generator().manual_seed(0)
    brightness = torch.linspace(0.2, 3, 8)[:, None, None, None]
    return torch.randn(8, 3, 16, 16, generator=generator) * brightness


@torch.no_grad()
def error(found, wanted):
    return float((found - wanted).norm() / wanted.norm())


@block_in_a_network
@torch.no_grad()
def test_a_network_with_a_block_in_int8_is_near_to_float(name):
    model, x = network(random_block(name, 16)), images()
    quantized = openvino.quantize(model, x)
    assert 1e-4 < error(quantized(x), model(x)) < 0.05
    depthwise = 16 * 8 * 8 * 9 / sum(openvino.multiply_adds(quantized.model).values())
    assert 0.5 < quantized.share <= 1 - depthwise


@torch.no_grad()
def test_the_worst_convolution_is_left_in_float():
    """One channel a thousand times the others, which share its range where it is quantized."""
    model, x = network(nn.Conv2d(16, 16, 1), nn.Conv2d(16, 16, 1)), images()
    model[3].weight[0] *= 1000
    model[3].bias[0] *= 1000
    model[4].weight[:, 0] /= 1000
    wanted = model(x)
    plain, kept = (openvino.quantize(model, x, at_least=least) for least in (None, 0.9995))
    assert error(kept(x), wanted) < error(plain(x), wanted) / 3
    assert 0 < kept.share < plain.share
