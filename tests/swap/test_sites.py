"""What counts as a site, and what an adapter says of it."""

import pytest
import torch
import torchvision
from torch import nn

from attnblocks import (
    SE,
    AttentionBlock,
    CaCo,
    SELayers,
    find_se,
    register_se,
    replace_se,
)
from tests.helpers import random_map, randomized


def test_sites_are_read_off_the_network():
    model = torchvision.models.mobilenet_v3_small()
    blocks = {n: m for n, m in model.named_modules() if type(m).__name__ == "SqueezeExcitation"}
    sites = find_se(model)
    assert [s.name for s in sites] == list(blocks)
    for site, block in zip(sites, blocks.values(), strict=True):
        assert site.module is block
        assert site.channels == block.fc1.weight.shape[1]
        assert site.rd_channels == block.fc1.weight.shape[0]
        assert site.kind == "torchvision.ops.misc.SqueezeExcitation"
        assert isinstance(site.act_layer(), nn.ReLU)
        assert isinstance(site.gate_layer(), nn.Hardsigmoid)
        assert site.gate_layer() is not block.scale_activation
    assert find_se(model) == sites


def test_a_part_of_a_block_that_also_stands_alone_is_a_site_of_its_own():
    class Outer(AttentionBlock):
        def __init__(self, channels: int) -> None:
            super().__init__(channels)
            self.inner = SE(channels)

    outer = Outer(16)
    model = nn.Sequential(outer, outer.inner)
    assert [site.name for site in find_se(model)] == ["0", "1"]


def test_a_class_of_the_users_own_with_linear_layers():
    class Mine(nn.Module):
        def __init__(self, dim: int) -> None:
            super().__init__()
            self.down, self.up = nn.Linear(dim, dim // 4, bias=False), nn.Linear(dim // 4, dim)

        def forward(self, x):
            y = self.up(self.down(x.mean((2, 3))).relu()).sigmoid()
            return x * y[:, :, None, None]

    class Quieter(Mine):
        def forward(self, x):
            return super().forward(x) / 2

    def layers(m: Mine) -> SELayers:
        return SELayers(m.up.out_features, nn.Sigmoid(), m.up, m.down, nn.ReLU())

    register_se(Mine, layers)
    model = randomized(nn.Sequential(Mine(16), Quieter(16), Mine(16)))
    model[2].forward = lambda x: x / 3
    x = random_map(2, 16, 5, 6)
    before = model(x)
    assert [s.name for s in find_se(model)] == ["0"]  # the others compute something else
    torch.testing.assert_close(replace_se(model, SE)(x), before)
    with pytest.raises(ValueError, match="registered already"):
        register_se(Mine, layers)


class Halved(torchvision.ops.SqueezeExcitation):
    def _scale(self, x):
        return super()._scale(x) / 2


class Renamed(torchvision.ops.SqueezeExcitation):
    def extra_repr(self):
        return "the same"


def test_a_subclass_counts_unless_it_overrides_what_is_computed():
    model = nn.Sequential(Halved(16, 4), Renamed(16, 4))
    assert [s.name for s in find_se(model)] == ["1"]
    assert find_se(model)[0].kind.endswith("test_sites.Renamed")


def test_a_method_put_back_where_it_was_replaced_counts_as_its_own():
    model = torchvision.models.mobilenet_v3_small()
    sites = [site.name for site in find_se(model)]
    block = find_se(model)[0].module
    block.forward = block.forward  # as wrappers leave it, which put the method back
    assert [site.name for site in find_se(model)] == sites
    block.forward = find_se(model)[1].module.forward
    assert [site.name for site in find_se(model)] == sites[1:]


def test_adapters_are_checked():
    class Grouped(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Conv2d(16, 4, 1), nn.Conv2d(4, 16, 1, groups=4)

    class Free(nn.Module):
        """A gate without parameters."""

    register_se(Grouped, lambda m: SELayers(16, nn.Sigmoid(), m.b, m.a, nn.ReLU()))
    with pytest.raises(ValueError, match=r"shape \(16, 1, 1, 1\) is no linear map from 4 to 16"):
        replace_se(nn.Sequential(Grouped()), SE)
    register_se(Free, lambda m: SELayers(16, nn.Sigmoid()))
    placed = replace_se(nn.Sequential(nn.Linear(2, 2).double(), Free()), CaCo)
    assert {p.dtype for p in placed.parameters()} == {torch.float64}
    register_se(nn.Flatten, lambda m: 3)
    with pytest.raises(TypeError, match="adapter of Flatten must return SELayers, got 3"):
        find_se(nn.Flatten())


def test_looking_for_sites_leaves_spectral_norm_as_it_was():
    model = nn.Sequential(nn.Conv2d(3, 16, 3), torchvision.ops.SqueezeExcitation(16, 8))
    nn.utils.parametrizations.spectral_norm(model[1].fc1)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    (site,) = find_se(model)
    assert site.rd_channels == 8
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
