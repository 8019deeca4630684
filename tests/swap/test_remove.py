"""Removal: the network is what it was, object by object; also where hooks were lost."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.fx.experimental import optimization
from torch.nn.utils.fusion import fuse_conv_bn_eval

from attnblocks import (
    CBAM,
    SE,
    CaCo,
    Eca,
    find_places,
    find_se,
    insert,
    recipe,
    remove,
    replace_se,
    save_model,
    summary,
    warm_start,
)
from attnblocks.visualize import attention_maps
from tests.helpers import BLOCKS
from tests.swap.inserted import IMAGES, anatomy, lively, net, same_anatomy, same_bits


def hook_of_somebody(*_: object) -> None:
    """Stays."""


def grown() -> nn.Module:
    """With frozen weights, other modes, hooks, gradients and an attribute of the user's own."""
    model = net().train()
    model.bn.eval()
    model.conv.requires_grad_(False)
    model.bn.register_forward_hook(hook_of_somebody)
    model.stem.register_forward_pre_hook(hook_of_somebody)
    model.note = {"of": "the user"}
    model(IMAGES).sum().backward()
    return model


@pytest.mark.parametrize("init", ["identity", "fresh"])
def test_all_is_as_before_object_by_object(init):
    model = grown()
    before = anatomy(model)
    insert(model, {"stem": "CaCo", "stem.1": "CBAM", "bn": "Eca"}, example=IMAGES, init=init)
    insert(model, "SE", after=["bn", "depthwise"], example=IMAGES, init=init)
    assert len(find_se(model)) == 5
    assert remove(model) is model
    assert same_anatomy(model, before)


def optimizers() -> dict[str, Callable[[nn.Module], torch.optim.Optimizer]]:
    def split(model: nn.Module) -> list[dict[str, Any]]:
        parameters = list(model.parameters())
        return [
            {"params": [p for p in parameters if p.dim() > 1], "weight_decay": 0.1},
            {"params": [p for p in parameters if p.dim() == 1]},
        ]

    return {
        "SGD": lambda model: torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9),
        "AdamW": lambda model: torch.optim.AdamW(split(model), lr=0.01),
        "names": lambda model: torch.optim.Adam(model.named_parameters(), lr=0.01),
    }


def step(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    optimizer.zero_grad()
    model(IMAGES).square().sum().backward()
    optimizer.step()


def content(optimizer: torch.optim.Optimizer) -> list[Any]:
    """Groups and states, object by object."""
    groups = [
        {key: [*map(id, v)] if key == "params" else copy.copy(v) for key, v in group.items()}
        for group in optimizer.param_groups
    ]
    states = {
        id(p): {key: id(value) for key, value in state.items()}
        for p, state in optimizer.state.items()
    }
    return [groups, states, [id(group) for group in optimizer.param_groups]]


@pytest.mark.parametrize("make", optimizers().values(), ids=optimizers())
def test_optimizers_are_as_before_too(make):
    model = net().train()
    optimizer = make(model)
    step(model, optimizer)
    before, optimized = anatomy(model), content(optimizer)
    insert(model, "CaCo", after=["stem.1", "bn"], example=IMAGES, optimizers=optimizer)
    held = [p for group in optimizer.param_groups for p in group["params"]]
    assert set(held) == set(model.parameters())
    assert len(held) == len(set(held))
    remove(model, optimizers=optimizer)
    assert same_anatomy(model, before)
    assert content(optimizer) == optimized
    insert(model, "CaCo", after="bn", example=IMAGES, optimizers=optimizer)
    step(model, optimizer)
    gone = [*model.bn.attention.parameters()]
    remove(model, optimizers=[optimizer])
    assert not optimizer.state.keys() & set(gone)
    assert content(optimizer)[0] == optimized[0]


def test_some_of_several():
    model = net()
    before = anatomy(model)
    for block in (SE, CBAM, Eca):
        insert(model, block, after="bn", example=IMAGES, init="fresh")
    insert(model, CaCo, after="stem", example=IMAGES, init="fresh")
    state = model.state_dict()
    remove(model, "*attention_2")
    assert [(s.name, type(s.module)) for s in find_se(model)] == [
        ("stem.2.stem_attention", CaCo),
        ("bn.attention", SE),
        ("bn.attention_3", Eca),
    ]
    left = {key: value for key, value in state.items() if "attention_2" not in key}
    assert list(model.state_dict()) == list(left)
    remove(model, lambda one: one.after == "bn" and isinstance(one.block, SE))
    remove(model, ["stem.*"])
    assert [site.name for site in find_se(model)] == ["bn.attention_3"]
    remove(model, "bn.*")
    assert same_anatomy(model, before)


def test_blocks_that_were_replaced_since_then():
    model = net()
    before = anatomy(model)
    insert(model, SE, after=["bn", "stem"], example=IMAGES)
    replace_se(model, CaCo)
    assert [(s.name, s.after, type(s.module)) for s in find_se(model)] == [
        ("stem.2.stem_attention", "stem", CaCo),
        ("bn.attention", "bn", CaCo),
    ]
    remove(model)
    assert same_anatomy(model, before)


def synchronised(model: nn.Module) -> nn.Module:
    return nn.SyncBatchNorm.convert_sync_batchnorm(model)


def fused(model: nn.Module) -> nn.Module:
    model.conv = fuse_conv_bn_eval(model.conv, model.bn)
    model.bn = nn.Identity()
    return model


def by_hand(model: nn.Module) -> nn.Module:
    model.stem = nn.Sequential(*model.stem)
    model.bn = copy.deepcopy(model.bn.requires_grad_(False))
    model.bn._forward_hooks.clear()
    return model


LOST = {
    "sync": (synchronised, "bn"),
    "fused": (fused, "bn"),
    "by hand": (by_hand, "bn"),
    "in another home": (by_hand, "stem"),
}


@pytest.mark.parametrize(("change", "place"), LOST.values(), ids=LOST)
def test_a_block_whose_hook_is_gone_is_named_and_goes(change, place, tmp_path):
    original = change(net())
    model = insert(net(), CaCo, after=place, example=IMAGES)
    insert(model, SE, after="depthwise", example=IMAGES)
    changed = change(model)
    for read in (
        find_se,
        summary,
        recipe,
        lambda m: summary(m, net()),
        lambda m: save_model(m, tmp_path / "m"),
        lambda m: attention_maps(m, IMAGES),
        lambda m: warm_start(m, net(), [IMAGES]),
        lambda m: replace_se(m, Eca),
        lambda m: insert(m, Eca, after="depthwise", example=IMAGES),
    ):
        with pytest.raises(ValueError, match=rf"behind '{place}' runs no more.*remove\(model\)"):
            read(changed)
    assert list(tmp_path.iterdir()) == []
    nn.init.constant_(changed.depthwise.attention.fc2.bias, -2.0)
    now = changed(IMAGES)
    remove(changed, f"{place}*attention")
    assert [(site.name, site.after) for site in find_se(changed)] == [
        ("depthwise.attention", "depthwise")
    ]
    assert same_bits(changed(IMAGES), now)  # it did not run
    remove(changed)
    assert list(changed.state_dict()) == list(original.state_dict())
    assert [vars(m).keys() for m in changed.modules()] == [
        vars(m).keys() for m in original.modules()
    ]
    assert same_bits(changed(IMAGES), original(IMAGES))


def test_a_parent_that_is_replaced_takes_its_record_along():
    """The home is the module itself, which stays whole."""
    model = insert(net(), SE, after="stem.1", example=IMAGES, init="fresh")
    expected = model(IMAGES)
    model.stem = copy.deepcopy(model.stem)
    assert [(s.name, s.after) for s in find_se(model)] == [("stem.1.attention", "stem.1")]
    assert same_bits(model(IMAGES), expected)
    assert find_se(remove(model)) == ()


def test_a_place_that_is_gone():
    model = insert(net(), SE, after="bn", example=IMAGES)
    del model.bn
    with pytest.raises(ValueError, match="behind 'bn' runs no more"):
        find_se(model)
    remove(model)
    assert find_se(model) == ()
    assert not [key for key in vars(model) if "attention" in key]


def test_a_fusion_by_fx_drops_blocks_behind_the_norms_that_it_takes_away():
    """It builds another network, in which nothing tells of the block; insert behind it instead."""
    model = insert(net(), SE, after="bn", example=IMAGES, init="fresh")
    assert find_se(optimization.fuse(model)) == ()
    assert torch.allclose(optimization.fuse(model)(IMAGES), net()(IMAGES), atol=1e-5)
    # Around the two, and after the fusion, nothing is lost.
    other = insert(net(), SE, after="pool", example=IMAGES, init="fresh")
    assert torch.allclose(optimization.fuse(other)(IMAGES), other(IMAGES), atol=1e-5)
    late = optimization.fuse(net())
    insert(late, SE, after="pool", example=IMAGES, init="fresh")
    late.pool.attention.load_state_dict(other.pool.attention.state_dict())
    assert torch.allclose(late(IMAGES), other(IMAGES), atol=1e-5)


@st.composite
def networks(draw) -> nn.Module:
    """Convolutions, norms and poolings in sequences and residual branches."""
    width = draw(st.sampled_from([3, 4, 6]))
    torch.manual_seed(draw(st.integers(0, 99)))

    class Residual(nn.Module):
        def __init__(self, body: nn.Module) -> None:
            super().__init__()
            self.body = body

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x + self.body(x)

    leaves = st.sampled_from(
        [
            lambda: nn.Conv2d(width, width, 3, padding=1),
            lambda: nn.Conv2d(width, width, 3, padding=1, groups=width, bias=False),
            lambda: nn.BatchNorm2d(width),
            lambda: nn.ReLU(inplace=True),
            lambda: nn.AvgPool2d(3, 1, 1),
            lambda: SE(width),
        ]
    ).map(lambda make: make())
    wraps = st.sampled_from(
        [lambda parts: Residual(nn.Sequential(*parts)), lambda p: nn.Sequential(*p)]
    )
    body = draw(
        st.recursive(
            leaves,
            lambda parts: st.tuples(wraps, st.lists(parts, min_size=1, max_size=3)).map(
                lambda made: made[0](made[1])
            ),
            max_leaves=8,
        )
    )
    return lively(nn.Sequential(nn.Conv2d(3, width, 3, stride=2), nn.BatchNorm2d(width), body))


@settings(max_examples=8, deadline=None)
@given(networks(), st.data())
def test_insertion_keeps_outputs_and_removal_undoes_it(model, data):
    train = data.draw(st.booleans())
    model.train(train)
    x = torch.rand(2, 3, 9, 11)
    places = [place.name for place in find_places(model, x)]
    chosen = data.draw(st.lists(st.sampled_from(places), min_size=1, max_size=4, unique=True))
    before, original = anatomy(model), copy.deepcopy(model)
    for name in chosen:
        insert(model, data.draw(st.sampled_from(BLOCKS)), after=name, example=x)
    assert {site.after for site in find_se(model)} - {None} == set(chosen)
    with torch.no_grad():
        assert same_bits(copy.deepcopy(model)(x), original(x))
    remove(model)
    assert same_anatomy(model, before)
