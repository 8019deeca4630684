"""torch.ao in eager mode: convolutions fused with norms, and observers on the layers of blocks."""

import copy
import warnings

import pytest
import torch
from torch import nn
from torch.ao import quantization as ao

from attnblocks import find_se, replace_se
from tests.clients.attended import IMAGES, attended, plain
from tests.helpers import every_block, random_block, random_map

pytestmark = [
    pytest.mark.clients,
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning"),
]

NORMS = {
    "CBAM": [["spatial.conv", "spatial.bn"]],
    "CoordAtt": [["conv1", "bn1"]],
    "SeCo": [["coord.conv1", "coord.bn1"]],
    "CaCo": [["coord.conv1", "coord.bn1"]],
}
ACTS = {
    "SE": [["fc1", "act"]],
    "CBAM": [["channel.fc1", "channel.act"]],
    "SeCo": [["se.fc1", "se.act"]],
    "CaCo": [["channel.fc1", "channel.act"]],
}
engine = pytest.mark.skipif(
    "x86" not in torch.backends.quantized.supported_engines, reason="no quantized kernels here"
)


@pytest.mark.parametrize("grad", [False, True])
@pytest.mark.parametrize(
    ("name", "pairs"),
    [*NORMS.items(), *ACTS.items()],
    ids=lambda v: v if isinstance(v, str) else "",
)
def test_fused_layers_of_a_block_compute_the_same(name, pairs, grad):
    block, x = random_block(name, 64), random_map(2, 64, 7, 9)
    fused = ao.fuse_modules(copy.deepcopy(block), pairs)
    assert isinstance(fused.get_submodule(pairs[0][1]), nn.Identity)
    with torch.set_grad_enabled(grad):
        torch.testing.assert_close(fused(x), block(x), atol=1e-5, rtol=1e-5)


def test_a_fused_norm_before_blocks_keeps_the_network():
    model = attended()
    fused = ao.fuse_modules(copy.deepcopy(model), [["stem.conv", "stem.bn"]])
    torch.testing.assert_close(fused(IMAGES), model(IMAGES), atol=1e-4, rtol=1e-4)
    assert [site.after for site in find_se(fused)] == [site.after for site in find_se(model)]


def layers_of(block):
    kinds = (nn.Conv1d, nn.Conv2d, nn.BatchNorm2d, nn.Hardswish)
    return {name for name, layer in block.named_modules() if isinstance(layer, kinds)}


@every_block
def test_every_layer_has_an_observer_that_sees_values(name):
    block, x = random_block(name, 64), random_map(2, 64, 7, 9)
    wanted = block(x)
    block.qconfig = ao.get_default_qconfig("x86")
    prepared = ao.prepare(block)
    torch.testing.assert_close(prepared(x), wanted, atol=1e-5, rtol=1e-5)
    seen = {}

    def see(layer, args, output, name):
        seen[name] = output.aminmax()

    for layer in layers_of(prepared):
        prepared.get_submodule(layer).register_forward_hook(
            lambda *call, layer=layer: see(*call, name=layer)
        )
    prepared(x)
    assert seen.keys() == layers_of(prepared)
    for layer, (low, high) in seen.items():
        observer = prepared.get_submodule(layer).activation_post_process
        assert (observer.min_val, observer.max_val) == (low, high), layer


@engine
def test_a_converted_network_has_float_blocks_where_they_are_left_out():
    """As on the page of the docs: torch multiplies no quantized maps in eager mode."""
    torch.use_deterministic_algorithms(False)  # Lightning leaves them on behind a run
    model = replace_se(plain(), "CaCo")
    wanted = model(IMAGES)
    model.qconfig = ao.get_default_qconfig("x86")
    for site in find_se(model):
        site.module.qconfig = None
    for name in ("se", "late"):
        block = getattr(model, name)
        setattr(model, name, nn.Sequential(ao.DeQuantStub(), block, ao.QuantStub()))
    quantized = ao.QuantWrapper(model)
    prepared = ao.prepare(quantized)
    prepared(IMAGES)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        converted = ao.convert(prepared)
    assert type(converted.module.stage.conv).__module__.startswith("torch.ao.nn.quantized")
    relative = (converted(IMAGES) - wanted).abs().max() / wanted.abs().max()
    assert relative < 0.1


@engine
def test_a_converted_block_is_refused_by_torch():
    block = random_block("SE", 64)
    quantized = ao.QuantWrapper(block)
    quantized.qconfig = ao.get_default_qconfig("x86")
    prepared = ao.prepare(quantized)
    prepared(random_map(2, 64, 7, 9))
    with pytest.raises(NotImplementedError, match="QuantizedCPU"):
        ao.convert(prepared)(random_map(2, 64, 7, 9))


def test_dynamic_quantization_takes_the_classifier_alone():
    model = attended()
    wanted = model(IMAGES)
    quantized = ao.quantize_dynamic(model, {nn.Linear})
    assert type(quantized.fc) is not nn.Linear
    assert len(find_se(quantized)) == 3 > len(find_se(plain()))
    relative = (quantized(IMAGES) - wanted).abs().max() / wanted.abs().max()
    assert relative < 0.1
