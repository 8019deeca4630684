"""However a block is given - class, name, function, bound options - it is made and starts alike."""

import copy
from functools import partial

import pytest
import torch
from torch import nn
from torchvision.ops import SqueezeExcitation

from attnblocks import CBAM, SE, CaCo, Eca, find_se, register_block, replace_se
from tests.helpers import randomized, small_network


def wide(channels: int, *, rd_channels: int = 12) -> nn.Module:
    return CaCo(channels, rd_channels)


def same(a: nn.Module, b: nn.Module) -> bool:
    ours, theirs = a.state_dict(), b.state_dict()
    return ours.keys() == theirs.keys() and all(
        torch.equal(value, theirs[name]) for name, value in ours.items()
    )


def swapped(block, **options) -> nn.Module:
    """Two SE blocks, replaced."""
    layers = nn.Conv2d(3, 16, 1), SqueezeExcitation(16, 8), nn.Conv2d(16, 24, 1)
    model = nn.Sequential(*layers, SqueezeExcitation(24, 8))
    torch.manual_seed(0)
    return replace_se(randomized(model), block, **options)


@pytest.mark.parametrize("factory", [wide, partial(CaCo, coord_rd_channels=4), CaCo, Eca])
@pytest.mark.parametrize("init", ["inherit", "fresh"])
def test_a_factory_that_is_passed_is_that_of_its_name(factory, init):
    register_block("Mine", factory)
    assert same(swapped(factory, init=init), swapped("Mine", init=init))
    assert not same(swapped(factory), swapped(factory, init="fresh"))


def test_bound_options_are_those_of_the_call():
    bound = swapped(partial(CaCo, coord_rd_channels=4))
    assert same(bound, swapped(CaCo, coord_rd_channels=4))
    assert {site.module.coord.rd_channels for site in find_se(bound)} == {4}
    register_block("Wide", wide)
    narrow = swapped(partial(wide, rd_channels=3))
    assert {site.rd_channels for site in find_se(narrow)} == {3}
    assert same(narrow, swapped("Wide", rd_channels=3))


def test_what_a_function_of_channels_makes_inherits():
    """As a class does: where its MLP has the widths of the SE, its channel gate is the SE's."""
    register_block("Wide", wide)
    model = small_network()
    old = {site.name: site for site in find_se(model)}
    for site in find_se(replace_se(copy.deepcopy(model), wide, match_rd_channels=True)):
        theirs = old[site.name].module.fc1
        # The logits of mean and maximum, assumed three times the mean, are summed.
        torch.testing.assert_close(site.module.channel.fc1.weight, theirs.weight / 2)
        torch.testing.assert_close(site.module.channel.fc1.bias, theirs.bias)


def test_a_function_that_is_not_registered_gets_the_site():
    model, seen = small_network(), []
    sites = find_se(model)
    replace_se(model, lambda site: seen.append(site) or SE(site.channels))
    assert tuple(seen) == sites


def test_the_older_spelling_of_matched_widths_is_the_same():
    assert same(swapped(CaCo, rd_channels="match"), swapped(CaCo, match_rd_channels=True))
    by_pattern = {"3": CBAM, "*": CaCo}
    assert same(
        swapped(by_pattern, rd_channels="match"), swapped(by_pattern, match_rd_channels=True)
    )


def test_a_copy_has_what_a_swap_in_place_has():
    model = randomized(small_network())
    torch.manual_seed(0)
    copied = replace_se(model, CaCo, inplace=False, where=lambda site: site.channels > 100)
    torch.manual_seed(0)
    assert same(copied, replace_se(model, CaCo, where=lambda site: site.channels > 100))


def test_a_predicate_sees_the_network_that_was_given():
    model = small_network()
    chosen = model.features[4].block[2]
    copied = replace_se(model, CaCo, where=lambda site: site.module is chosen, inplace=False)
    assert [type(site.module) is CaCo for site in find_se(copied)].count(True) == 1
    assert type(copied.features[4].block[2]) is CaCo


class Scaled(nn.Module):
    """Keeps the old block, with values and a counter of its own."""

    def __init__(self, old: nn.Module) -> None:
        super().__init__()
        self.old = old
        self.register_buffer("scale", torch.ones(1, 16, 1, 1))
        self.register_buffer("count", torch.zeros((), dtype=torch.int64))

    def forward(self, x):
        return self.old(x) * self.scale


def test_what_stands_around_an_old_block_gets_its_type():
    model = nn.Sequential(nn.Conv2d(3, 16, 1), SE(16)).bfloat16()
    replace_se(model, lambda site: Scaled(site.module))
    assert (model[1].scale.dtype, model[1].count.dtype) == (torch.bfloat16, torch.int64)
    assert model(torch.rand(1, 3, 4, 4).bfloat16()).dtype == torch.bfloat16


@pytest.mark.parametrize("block", [CBAM, CaCo])
def test_a_block_with_synchronised_norms_is_copied_too(block):
    old = nn.SyncBatchNorm.convert_sync_batchnorm(nn.Sequential(randomized(block(16)))).eval()
    x = torch.rand(2, 16, 5, 6)
    before = old(x)
    torch.testing.assert_close(replace_se(old, block)(x), before)


class Strict(nn.Module):
    """Takes SE blocks alone, as its last check finds."""

    def __init__(self) -> None:
        super().__init__()
        self.a = SE(16)

    def __setattr__(self, name, value):
        if isinstance(value, CaCo):
            raise TypeError("an SE block is needed here")
        super().__setattr__(name, value)


def test_a_parent_that_refuses_a_block_leaves_all_as_they_were():
    model = nn.Sequential(SE(16), Strict())
    old = [site.module for site in find_se(model)]
    with pytest.raises(TypeError, match="an SE block is needed"):
        replace_se(model, CaCo)
    assert [site.module for site in find_se(model)] == old
