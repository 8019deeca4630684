"""Fits, summaries and pictures of inserted blocks, and swaps of them."""

import copy
import warnings

import pytest
import torch
from torch import nn

from attnblocks import SE, CaCo, Eca, find_se, insert, replace_se, summary, warm_start
from attnblocks.visualize import attention_maps, site_statistics
from tests.helpers import snapshot, unchanged
from tests.swap.inserted import IMAGES, net

BATCHES = list(torch.rand(32, 3, 16, 16, generator=torch.Generator().manual_seed(2)).split(8))
QUICK = {"epochs": (4, 4), "progress": False}


def attended(*places: str, block: object = "CaCo", init: str = "fresh") -> nn.Module:
    torch.manual_seed(1)
    return insert(net(), block, after=list(places), example=IMAGES, init=init)


def error(model: nn.Module, original: nn.Module) -> float:
    """Relative L2 error of what enters the head, by hand."""
    entered: list[torch.Tensor] = []
    for network in (model, original):
        hook = network.head.register_forward_hook(lambda m, args, y: entered.append(args[0]))
        with torch.no_grad():
            for batch in BATCHES:
                network(batch)
        hook.remove()
    ours, theirs = (torch.cat(part) for part in (entered[: len(BATCHES)], entered[len(BATCHES) :]))
    return float((ours - theirs).norm() / theirs.norm())


@pytest.mark.parametrize("place", ["bn", "stem"])
def test_fresh_blocks_come_close_to_the_network_without_them(place):
    model, original = attended(place, "depthwise"), net()
    rest = {k: v.clone() for k, v in model.state_dict().items() if "attention" not in k}
    before = snapshot(original)
    first = error(model, original)
    fit = warm_start(model, original, BATCHES, epochs=(10, 10), lr=(0.1, 0.03), progress=False)
    assert [site.name for site in fit.sites] == [site.name for site in find_se(model)]
    assert fit.before == pytest.approx(first, rel=1e-4)
    assert fit.after == pytest.approx(error(model, original), rel=1e-3)
    assert fit.after < 0.6 * fit.before
    assert unchanged(original, before)
    assert all(torch.equal(model.state_dict()[key], value) for key, value in rest.items())


def test_the_error_of_a_block_is_how_far_it_is_from_the_map_that_enters_it():
    model, original = attended("bn"), net()
    inputs: list[torch.Tensor] = []
    hook = original.bn.register_forward_hook(lambda m, args, y: inputs.append(y.clone()))
    with torch.no_grad():
        for batch in BATCHES:
            original(batch)
    hook.remove()
    x = torch.cat(inputs)
    with torch.no_grad():
        y = model.bn.attention(x)
    fit = warm_start(copy.deepcopy(model), original, BATCHES, epochs=(1, 0), progress=False)
    assert fit.sites[0].before == pytest.approx(float((y - x).norm() / x.norm()), rel=1e-4)


def test_identities_are_exact_and_there_is_nothing_to_fit():
    model, original = attended("bn", "stem", init="identity"), net()
    state = copy.deepcopy(model.state_dict())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fit = warm_start(model, original, BATCHES, **QUICK)
    assert [(site.before, site.after) for site in fit.sites] == [(0, 0), (0, 0)]
    assert (fit.before, fit.after) == (0, 0)
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())


def test_several_behind_one_module_are_fitted_together():
    model = attended("bn", block="SE")
    insert(model, "Eca", after="bn", example=IMAGES, init="fresh")
    fit = warm_start(model, net(), BATCHES, **QUICK)
    assert [site.name for site in fit.sites] == ["bn.attention", "bn.attention_2"]
    assert fit.after < fit.before


def test_the_original_may_have_some_of_the_blocks():
    """What is in both stays; only the other one is fitted."""
    original = attended("stem", init="identity")
    model = insert(copy.deepcopy(original), CaCo, after="bn", example=IMAGES, init="fresh")
    fit = warm_start(model, original, BATCHES, **QUICK)
    assert [site.name for site in fit.sites] == ["bn.attention"]
    assert fit.after < fit.before


def test_networks_that_do_not_belong_together():
    model, other = attended("bn"), net(3)
    with pytest.raises(ValueError, match="model and original differ at"):
        warm_start(model, other, BATCHES, **QUICK)
    with pytest.raises(ValueError, match="no block of model stands in place of another"):
        warm_start(net(), net(), BATCHES, **QUICK)
    original = net()
    original.bn = nn.Identity()
    with pytest.raises(ValueError, match="differ at 'bn"):
        warm_start(model, original, BATCHES, **QUICK)
    del original.bn
    with pytest.raises(ValueError, match="original has no module 'bn', which model has"):
        warm_start(model, original, BATCHES, **QUICK)


def test_a_swap_of_inserted_blocks():
    """They stay behind their modules, take weights over, and their gains."""
    model = attended("bn", "stem", block=SE, init="identity")
    nn.init.normal_(model.bn.attention.fc2.weight, std=0.1)
    expected = model(IMAGES)
    before = {site.name: site.after for site in find_se(model)}
    same = replace_se(copy.deepcopy(model), SE)
    torch.testing.assert_close(same(IMAGES), expected)
    swapped = replace_se(model, CaCo, where="bn.*", inplace=False)
    assert {site.name: site.after for site in find_se(swapped)} == before
    assert (type(swapped.bn.attention), type(swapped.stem[2].stem_attention)) == (CaCo, SE)
    assert [type(site.module) for site in find_se(model)] == [SE, SE]
    assert torch.equal(model(IMAGES), expected)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    replace_se(model, Eca, optimizers=optimizer)
    assert set(optimizer.param_groups[0]["params"]) == set(model.parameters())
    calls: list[str] = []
    for site in find_se(model):
        site.module.register_forward_hook(lambda *_, name=site.name: calls.append(name))
    model(IMAGES)
    assert sorted(calls) == sorted(before)


def test_the_summary_beside_the_network_without_them():
    model, original = attended("bn", block=SE), net()
    count = sum(p.numel() for p in model.bn.attention.parameters())
    total = sum(p.numel() for p in original.parameters())
    header, row, network = (line.split() for line in summary(model, original).splitlines())
    assert " ".join(header) == "site block channels width parameters before parameters before"
    assert row == ["bn.attention", "SE", "8", "8", str(count), "0"]
    assert network == ["network", str(total + count), str(total)]
    with pytest.raises(ValueError, match=r"original has \['bn.attention'\]"):
        summary(original, model)


def test_maps_of_inserted_blocks():
    model = attended("bn", "stem", block=CaCo)
    maps = attention_maps(model, IMAGES)
    assert set(maps) == {"bn.attention", "stem.2.stem_attention"}
    assert list(maps) == ["stem.2.stem_attention", "bn.attention"]  # in the order in which they run
    entered: list[torch.Tensor] = []
    hook = model.bn.attention.register_forward_pre_hook(lambda m, args: entered.append(args[0]))
    with torch.no_grad():  # as the maps are made
        model(IMAGES)
        hook.remove()
        gates = model.bn.attention.gates(entered[0])
    for (name, found), gate in zip(maps["bn.attention"].gates.items(), gates, strict=True):
        assert torch.equal(found, gate), name
    assert maps["bn.attention"].on_image.shape == (2, 16, 16)
    identity = attention_maps(attended("bn", init="identity"), IMAGES)
    assert {row.mean for row in site_statistics(identity)} == {1.0}
