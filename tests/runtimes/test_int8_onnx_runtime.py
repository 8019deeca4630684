"""ONNX Runtime: networks with each block in int8 stay near to float."""

from collections import Counter

import onnx
import pytest
import torch
from torch import nn

from benchmarks.int8 import onnx_runtime
from tests.helpers import random_block
from tests.runtimes.networks import block_in_a_network

onnxruntime = pytest.importorskip(
    "onnxruntime",
    minversion="1.27",
    reason="onnxruntime 1.27 is not installed: pip install '.[runtimes]'",
)

pytestmark = [
    pytest.mark.runtimes,
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning"),
]


def network(*layers):
    torch.manual_seed(0)
    stem = nn.Conv2d(3, 16, 3, stride=2, padding=1), nn.Hardswish()
    return nn.Sequential(*stem, *layers, nn.Conv2d(16, 8, 1), nn.Flatten()).eval()


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
    quantized = onnx_runtime.quantize(model, x)
    assert quantized.share > 0.9
    assert 1e-4 < error(quantized(x), model(x)) < 0.05


@torch.no_grad()
def test_what_hard_swish_makes_0_takes_no_range():
    """A channel far below -3 would leave the others one integer each, or none."""
    model, x = network(), images()
    model[0].bias[0] = -1000
    assert error(onnx_runtime.quantize(model, x)(x), model(x)) < 0.05


@torch.no_grad()
def test_the_worst_convolution_is_found_and_left_in_float(tmp_path):
    """One channel a thousand times the others, which share its range where it is quantized."""
    model, x = network(nn.Conv2d(16, 16, 1), nn.Conv2d(16, 16, 1)), images()
    model[2].weight[0] *= 1000
    model[2].bias[0] *= 1000
    model[3].weight[:, 0] /= 1000
    wanted = model(x)
    exported = onnx_runtime.Exported(model, x, tmp_path)
    losses = exported.losses(wanted.double())
    assert len(losses) == 4
    plain = exported.opened(exported.quantized())
    kept = onnx_runtime.quantize(model, x, at_least=0.999)
    assert plain.share == 1
    assert error(kept(x), wanted) < error(plain(x), wanted) / 3
    assert 0 < kept.share < 1


@torch.no_grad()
def test_the_share_is_that_of_the_convolutions_which_run_on_integers(tmp_path):
    model, x = network(nn.Conv2d(16, 16, 1), nn.ReLU()), images()
    exported = onnx_runtime.Exported(model, x, tmp_path)
    counts = exported.multiply_adds
    sizes = [16 * 8 * 8 * 27, 16 * 8 * 8 * 16, 8 * 8 * 8 * 16]
    assert list(counts.values()) == sizes
    made = exported.quantized(but=list(counts)[:1])
    settings = onnxruntime.SessionOptions()
    settings.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    onnxruntime.InferenceSession(made, settings, providers=["CPUExecutionProvider"])
    kinds = Counter(node.op_type for node in onnx.load(tmp_path / "optimized.onnx").graph.node)
    assert (kinds["Conv"], kinds["QLinearConv"]) == (1, 2)
    assert exported.opened(made).share == sum(sizes[1:]) / sum(sizes)


def test_one_image_is_refused():
    with pytest.raises(ValueError, match="calibrate with two or more"):
        onnx_runtime.quantize(network(), images()[:1])
