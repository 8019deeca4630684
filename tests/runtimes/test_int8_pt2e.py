"""PT2E for x86 and XNNPACK: networks with each block in int8 stay near to float."""

import importlib
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from attnblocks import replace_se
from benchmarks.int8 import pt2e
from tests.helpers import every_block, random_block

pytestmark = [
    pytest.mark.runtimes,
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning"),
]

pytest.importorskip("torchao", reason="torchao is not installed: pip install '.[runtimes]'")

both_backends = pytest.mark.parametrize("backend", ["x86", "xnnpack"])


def tool(name):
    if name == "xnnpack":
        pytest.importorskip(
            "executorch", reason="executorch is not installed: pip install '.[runtimes]'"
        )
    return importlib.import_module(f"benchmarks.int8.{name}")


def network(block):
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, stride=2, padding=1), nn.Hardswish(), block, nn.Conv2d(16, 8, 1)
    ).eval()


def images():
    """Bright and dark ones, whose gates differ."""
    generator = torch.Generator().manual_seed(0)
    brightness = torch.linspace(0.2, 3, 8)[:, None, None, None]
    return torch.randn(8, 3, 24, 24, generator=generator) * brightness


def error(found, wanted):
    return float((found - wanted).norm() / wanted.norm())


@both_backends
@every_block
@torch.no_grad()
def test_a_network_with_a_block_in_int8_is_near_to_float(name, backend):
    block = random_block(name, 16)
    model, x = network(block), images()
    wanted = model(x)
    quantized = tool(backend).quantize(model, x)
    assert pt2e.int8_share(quantized) > 0.5
    assert error(quantized(x), wanted) < 0.05
    assert error(network(nn.Identity())(x), wanted) > 0.3  # what lost gates would do


@torch.no_grad()
def test_executorch_runs_dynamic_ranges_as_torch_does():
    xnnpack = tool("xnnpack")
    model, x = network(random_block("CaCo", 16)), images()
    quantized = xnnpack.quantize(model, x, dynamic=True)
    run = xnnpack.lower(quantized, x[:1])
    one_by_one = torch.cat([quantized(one) for one in x.split(1)])
    assert error(run(x), one_by_one) < 0.02
    assert error(run(x), model(x)) < 0.05


@torch.no_grad()
def test_a_range_that_begins_where_hard_swish_does_has_smaller_steps():
    """The map in front of hard swish goes down to -50, of which -3 and below all become 0."""
    xnnpack = tool("xnnpack")
    model, x = network(random_block("SE", 16)), images()
    model[0].bias[:8] = -50
    errors = [error(xnnpack.quantize(model, x, clip=c)(x), model(x)) for c in (False, True)]
    assert errors[1] < errors[0] / 2


@torch.no_grad()
def test_a_range_that_another_map_shares_begins_where_it_did():
    """XNNPACK gives a pooling and its input one range, which clipping would cut for both."""
    xnnpack = tool("xnnpack")
    torch.manual_seed(0)
    pooled = nn.Conv2d(3, 8, 3), nn.AdaptiveAvgPool2d(4), nn.Hardswish(), nn.Conv2d(8, 8, 1)
    model, x = nn.Sequential(*pooled).eval(), torch.randn(16, 3, 16, 16)
    model[0].weight.mul_(15)
    assert error(xnnpack.quantize(model, x, clip=True)(x), model(x)) < 0.1


@both_backends
def test_a_module_that_there_is_not_is_named(backend):
    with pytest.raises(LookupError, match="no module 'stem'"):
        tool(backend).quantize(network(nn.Identity()), images(), but=("0", "stem"))


@pytest.fixture(scope="module")
def lesions(ham10000):
    """64 images to calibrate and 64 of other lesions, without a cache."""
    pytest.importorskip("sklearn", reason="scikit-learn is not installed: pip install '.[bench]'")
    setup = importlib.import_module("benchmarks.warm_start.setup")
    data = "examples.ham10000.data"
    kept, train, val = setup.split(importlib.import_module(f"{data}.index").read_index(ham10000))
    shown = [kept[i] for i in (*train[::100][:64], *val[::25][:64])]
    load = importlib.import_module(f"{data}.images").load_image
    side = importlib.import_module(f"{data}.batches").canvas_size(setup.IMAGE_SIZE)
    pixels = np.stack([load(image.path, side).numpy() for image in shown])
    return SimpleNamespace(pixels=pixels)


@pytest.mark.slow
@pytest.mark.parametrize("block", ["own SE", "CaCo"])
@pytest.mark.parametrize(
    ("backend", "recipe"), [("x86", "depthwise and first stage float"), ("xnnpack", "dynamic")]
)
def test_the_recipe_keeps_the_features_of_real_images(
    backend, recipe, block, lesions, imagenet_weights
):
    warm = importlib.import_module("benchmarks.warm_start.setup")
    setup = importlib.import_module("benchmarks.int8.setup")
    own = warm.original(imagenet_weights, 0)
    if block != "own SE":
        replace_se(own.model, block, init="inherit")
    model = setup.without_head(own)
    seen, other = (
        warm.normalised(own, lesions, range(start, start + 64)).contiguous() for start in (0, 64)
    )
    quantized = tool(backend).quantize(model, seen, **tool(backend).RECIPES[recipe])
    kept = setup.cosine(setup.features(quantized, other), setup.features(model, other))
    assert kept > 0.98
    assert pt2e.int8_share(quantized) > 0.65
