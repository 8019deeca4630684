"""Recipes: what stands where, and the way back through JSON."""

import json

import pytest
import timm
import torch
from torch import nn

from attnblocks import (
    CBAM,
    SE,
    AttentionBlock,
    CaCo,
    CoordAtt,
    SeCo,
    apply_recipe,
    find_se,
    list_blocks,
    recipe,
    register_block,
    replace_se,
    summary,
)
from tests.helpers import randomized, small_network, snapshot, unchanged


def there_and_back(model: nn.Module, fresh: nn.Module) -> nn.Module:
    return apply_recipe(fresh, json.loads(json.dumps(recipe(model))))


@pytest.mark.parametrize("name", list_blocks())
def test_a_rebuilt_network_computes_the_same_with_the_same_weights(name):
    model = randomized(replace_se(small_network(), name)).eval()
    rebuilt = there_and_back(model, small_network())
    rebuilt.load_state_dict(model.state_dict())
    x = torch.rand(2, 3, 64, 64)
    assert torch.equal(rebuilt(x), model(x))
    assert recipe(rebuilt) == recipe(model)


def test_several_blocks_with_all_their_arguments():
    blocks = {
        "features.1.*": SE,
        "features.4.*": lambda s: CBAM(s.channels, 7, kernel_size=3, gate_layer=nn.Hardsigmoid),
        "features.5.*": lambda s: CBAM(s.channels, norm_layer=None),
        "features.6.*": lambda s: SeCo(s.channels, coord_rd_channels=5, act_layer=nn.GELU),
        "features.7.*": lambda s: CoordAtt(
            s.channels, norm_layer=lambda c, **dd: nn.BatchNorm2d(c, momentum=0.3, eps=1e-2, **dd)
        ),
        "features.8.*": lambda s: CaCo(
            s.channels, act_layer=lambda: nn.LeakyReLU(0.3), norm_layer=group_norm
        ),
    }
    model = randomized(replace_se(small_network(), blocks)).eval()
    kinds = [entry["block"] for entry in recipe(model)]
    untouched = "torchvision.ops.misc.SqueezeExcitation"
    assert kinds == ["SE", "CBAM", "CBAM", "SeCo", "CoordAtt", "CaCo", *[untouched] * 3]
    rebuilt = there_and_back(model, small_network())
    rebuilt.load_state_dict(model.state_dict())
    x = torch.rand(2, 3, 64, 64)
    assert torch.equal(rebuilt(x), model(x))
    assert torch.equal(rebuilt.train().features(x), model.train().features(x))  # before dropout
    momentum = rebuilt.features[7].block[2].bn1
    assert (momentum.momentum, momentum.eps) == (0.3, 1e-2)


def group_norm(channels: int, **kwargs) -> nn.Module:
    return nn.GroupNorm(2, channels, **kwargs)


@pytest.mark.parametrize("name", ["efficientnet_b0", "rexnet_100", "fbnetv3_b", "hgnet_tiny"])
def test_se_with_the_functions_and_norms_of_timm(name):
    """Swish, hard sigmoid, a norm inside, a single layer."""
    with torch.device("meta"):
        model, fresh = (timm.create_model(name, num_classes=3) for _ in range(2))
    replace_se(model, SE)
    rebuilt = there_and_back(model, fresh)
    assert recipe(rebuilt) == recipe(model)
    assert {n: v.shape for n, v in rebuilt.state_dict().items()} == {
        n: v.shape for n, v in model.state_dict().items()
    }
    z = torch.linspace(-5, 5, 101)
    for ours, theirs in zip(find_se(rebuilt), find_se(model), strict=True):
        torch.testing.assert_close(ours.module.gate(z), theirs.module.gate(z))
        torch.testing.assert_close(ours.module.act(z.clone()), theirs.module.act(z.clone()))


def put(block, name, layer):
    block.set_submodule(name, layer)
    return block


@pytest.mark.parametrize(
    ("make", "layer"),
    [
        (lambda: put(CaCo(16), "coord.gate", nn.Hardsigmoid()), "coord.gate"),
        (lambda: put(SeCo(16), "coord.act", nn.ReLU()), "coord.act"),
        (lambda: put(CBAM(16), "spatial.gate", nn.Hardsigmoid()), "spatial.gate"),
        (
            lambda: put(
                CBAM(16), "spatial.conv", nn.Conv2d(2, 1, 7, padding=6, dilation=2, bias=False)
            ),
            "spatial.conv",
        ),
        (lambda: put(SE(16), "fc1", nn.utils.parametrizations.weight_norm(SE(16).fc1)), "fc1"),
    ],
)
def test_a_layer_that_was_put_in_later_has_no_recipe(make, layer):
    with pytest.raises(ValueError, match=f"the block at '1' has no recipe: '{layer}' is "):
        recipe(nn.Sequential(nn.ReLU(), make()))


def test_a_layer_that_computes_the_same_is_no_other_one():
    block = put(CaCo(16), "coord.act", nn.Hardswish(inplace=True))
    put(block, "coord.gate", timm.layers.Sigmoid())
    put(block, "coord.conv1", nn.Conv2d(16, 8, 1))
    assert recipe(nn.Sequential(block)) == recipe(nn.Sequential(CaCo(16)))


def test_a_class_of_the_users_own():
    @register_block("Half")
    class Half(AttentionBlock):
        gate_names = ("channel",)

        def __init__(self, channels: int, by: int = 2) -> None:
            super().__init__(channels)
            self.by = by

        def gates(self, x):
            return [x.new_full((len(x), self.channels, 1, 1), 1 / self.by)]

    model = replace_se(small_network(), "Half", by=3)
    assert there_and_back(model, small_network()).features[1].block[1].by == 3


def entry(**changes) -> dict:
    first = {"site": "0", "block": "SE", "channels": 16, "arguments": {"rd_channels": 4}}
    return {**first, **changes}


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ([entry(site="1")], "no site '1' in the network; site '0' is not in the recipe"),
        ([], "site '0' is not in the recipe"),
        ([entry(channels=32)], "site '0' has 16 channels, not 32"),
        ([entry(block="torchvision.ops.misc.SqueezeExcitation")], "site '0' is {'site': '0', 'bl"),
        ([entry(block="os.system")], r"not \{.*'os\.system'"),
        ([entry(), entry()], "names a site twice"),
        ([entry(arguments={"width": 4})], "site '0' cannot be made: .*width"),
        ([entry(arguments={"act_layer": "eval"})], "unknown layer 'eval'; known are"),
        ([entry(arguments={"act_layer": {"name": "ReLU", "x": 1}})], r"ReLU has no arguments"),
        ([entry(arguments={"norm_layer": 5})], "unknown layer 5; known are BatchNorm2d"),
        ([entry(arguments={"norm_layer": {"name": "BatchNorm2d", "eps": []}})], "plain numbers"),
        ([entry(arguments={"rd_channels": "4"})], "rd_channels must be an int"),
        ([{"site": "0"}], "an entry of a recipe has site, block, channels, arguments"),
        ([entry(channels="16")], "an entry of a recipe has"),
        ([3], "an entry of a recipe has"),
    ],
)
def test_a_recipe_that_does_not_fit_leaves_the_network_as_it_was(entries, message):
    model = nn.Sequential(SE(16), nn.ReLU())
    before = snapshot(model)
    with pytest.raises(ValueError, match=message):
        apply_recipe(model, entries)
    assert unchanged(model, before)


def test_layers_without_a_name_are_refused():
    class Own(nn.Module):
        def forward(self, x):
            return x.sigmoid() / 2

    model = nn.Sequential(SE(16), CaCo(16, gate_layer=Own))
    with pytest.raises(ValueError, match=r"the block at '1' has no recipe: .*Own computes none"):
        recipe(model)
    norm = CoordAtt(16, norm_layer=lambda c, **dd: nn.InstanceNorm2d(c, **dd))
    with pytest.raises(ValueError, match="BatchNorm2d, GroupNorm, SyncBatchNorm, not InstanceNorm"):
        recipe(norm)


def test_summary_counts_what_stood_there_and_what_stands_there():
    original = small_network()
    model = replace_se(original, CaCo, where="features.4.*", inplace=False)
    lines = summary(model, original).splitlines()
    count = {
        m: sum(p.numel() for p in m.parameters())
        for m in (model, original, model.features[4].block[2], original.features[4].block[2])
    }
    assert len(lines) == 11
    assert lines[2].split() == [
        "features.4.block.2",
        "CaCo",
        "96",
        "6",
        str(count[model.features[4].block[2]]),
        "SqueezeExcitation",
        str(count[original.features[4].block[2]]),
    ]
    assert lines[-1].split() == ["network", str(count[model]), str(count[original])]
    assert summary(model).splitlines()[2].split()[-1] == str(count[model.features[4].block[2]])
    with pytest.raises(ValueError, match="model has the sites"):
        summary(model, nn.Sequential(SE(16)))
