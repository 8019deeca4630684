"""Finding and replacing SE blocks: what changes, and what stays."""

import copy

import pytest
import timm
import torch
import torchvision
from timm.layers import SEModule
from torch import nn
from torch.nn.utils import prune

from attnblocks import (
    CBAM,
    SE,
    CaCo,
    CoordAtt,
    Eca,
    SeCo,
    find_se,
    list_blocks,
    register_block,
    replace_se,
)
from tests.helpers import random_map, randomized, small_network, snapshot, unchanged


def test_the_new_blocks_stand_where_the_old_ones_stood():
    model = small_network()
    sites = find_se(model)
    others = {n: m for n, m in model.named_modules() if "block" in n and not list(m.children())}
    assert replace_se(model, CaCo) is model
    new = find_se(model)
    assert [(s.name, s.channels) for s in new] == [(s.name, s.channels) for s in sites]
    assert all(type(s.module) is CaCo and not s.module.training for s in new)
    kept = [n for n in others if not any(n.startswith(s.name) for s in sites)]
    assert len(kept) > 30
    assert all(model.get_submodule(n) is others[n] for n in kept)
    y = model.train()(torch.rand(2, 3, 64, 64))
    y.sum().backward()
    assert all(p.grad is not None for s in new for p in s.module.parameters())


def test_a_swap_by_se_changes_nothing_and_fits_the_old_checkpoint():
    model = small_network()
    x = torch.rand(2, 3, 64, 64)
    before, state = model(x), copy.deepcopy(model.state_dict())
    replace_se(model, SE)
    torch.testing.assert_close(model(x), before)
    assert model.state_dict().keys() == state.keys()
    assert all(torch.equal(v, state[k]) for k, v in model.state_dict().items())


# Each block follows itself and one other; the other pairs are slow.
PAIRS = [
    pytest.param(first, second, marks=[pytest.mark.slow] * ((j - i) % len(list_blocks()) > 1))
    for i, first in enumerate(list_blocks())
    for j, second in enumerate(list_blocks())
]


@pytest.mark.parametrize(("first", "second"), PAIRS)
def test_a_swap_can_be_followed_by_another(first, second):
    model = replace_se(replace_se(small_network(), first), second)
    assert {type(s.module).__name__ for s in find_se(model)} == {second}
    assert model(torch.rand(1, 3, 32, 32)).shape == (1, 5)


def test_se_after_caco_takes_over_its_channel_mlp():
    # Of a linear MLP the logits of mean and maximum are one logit of their sum; the maximum is
    # taken to be three times the mean.
    model = replace_se(small_network(), CaCo, match_rd_channels=True, act_layer=nn.Identity)
    old = {s.name: randomized(s.module.channel) for s in find_se(model)}
    for site in find_se(replace_se(model, SE)):
        mlp, se, means = old[site.name], site.module, random_map(4, site.channels, 1, 1)
        logits = (mlp.fc2(mlp.act(mlp.fc1(v))) for v in (means, 3 * means))
        wanted = sum(logits).sigmoid()
        torch.testing.assert_close(se(means) / means, wanted, atol=1e-4, rtol=1e-4)


def test_where_selects_by_predicate_and_by_pattern():
    wide = replace_se(small_network(), CaCo, where=lambda site: site.channels > 200)
    assert [s.channels > 200 for s in find_se(wide)] == [
        isinstance(s.module, CaCo) for s in find_se(wide)
    ]
    one = replace_se(small_network(), Eca, where="features.4.*")
    assert [s.name for s in find_se(one) if isinstance(s.module, Eca)] == ["features.4.block.2"]
    two = replace_se(small_network(), Eca, where=["features.4.*", "features.1?.*"])
    assert {s.name.split(".")[1] for s in find_se(two) if isinstance(s.module, Eca)} == {
        "4",
        "10",
        "11",
    }


def test_a_mapping_puts_different_blocks_in_different_places():
    model = small_network()
    replace_se(model, {"features.4.*": "Eca", "features.5.*": CBAM, "features.[4-6].*": SE})
    kinds = {s.name.split(".")[1]: s.kind.rsplit(".", 1)[1] for s in find_se(model)}
    assert {n: k for n, k in kinds.items() if k != "SqueezeExcitation"} == {
        "4": "Eca",
        "5": "CBAM",
        "6": "SE",
    }
    replace_se(model, {"features.1.*": CaCo, "*": SeCo}, match_rd_channels=True)
    assert [type(s.module) for s in find_se(model)] == [CaCo, *[SeCo] * 8]
    assert [s.rd_channels for s in find_se(model)][2:] == [
        s.rd_channels if s.name.split(".")[1] != "5" else 240 // 16
        for s in find_se(small_network())
    ][2:]


def test_inplace_false_leaves_the_original():
    model = small_network()
    before = snapshot(model)
    copied = replace_se(model, CaCo, inplace=False)
    assert unchanged(model, before)
    assert copied is not model
    assert {type(s.module) for s in find_se(copied)} == {CaCo}
    chosen = find_se(model)[2:4]
    copied = replace_se(model, CaCo, where=lambda site: site in chosen, inplace=False)
    assert [s.name for s in find_se(copied) if type(s.module) is CaCo] == [s.name for s in chosen]
    assert unchanged(model, before)


def test_widths_are_published_unless_matched():
    published = [s.rd_channels for s in find_se(small_network())]
    assert [s.rd_channels for s in find_se(replace_se(small_network(), CaCo))] == [
        s.channels // 16 for s in find_se(small_network())
    ]
    matched = replace_se(small_network(), CaCo, match_rd_channels=True)
    assert [s.rd_channels for s in find_se(matched)] == published
    one_conv = replace_se(timm.layers.EffectiveSEModule(64), CBAM, match_rd_channels=True)
    assert one_conv.rd_channels == 4
    register_block("Twelve", lambda channels, rd_channels=12: CBAM(channels, rd_channels))
    one_conv = replace_se(timm.layers.EffectiveSEModule(64), "Twelve", match_rd_channels=True)
    assert one_conv.rd_channels == 12


def test_block_options_names_and_factories():
    model = replace_se(small_network(), "CaCo", coord_rd_channels=4, rd_channels=3)
    assert {(s.module.rd_channels, s.module.coord.rd_channels) for s in find_se(model)} == {(3, 4)}
    register_block("Tiny", lambda channels: CBAM(channels, 1))
    assert {s.rd_channels for s in find_se(replace_se(small_network(), "Tiny"))} == {1}

    # A factory may keep the old block and add to it.
    model = small_network()
    sites = find_se(model)
    replace_se(model, lambda s: nn.Sequential(s.module, CoordAtt(s.channels)))
    assert [model.get_submodule(f"{s.name}.0") for s in sites] == [s.module for s in sites]


def test_the_root_itself_may_be_an_se_block():
    root = randomized(torchvision.ops.SqueezeExcitation(16, 4))
    new = replace_se(root, SE)
    x = random_map(2, 16, 5, 6)
    assert type(new) is SE
    torch.testing.assert_close(new(x), root(x))


def test_a_shared_block_is_replaced_once_and_stays_shared():
    shared = SEModule(16)
    model = nn.ModuleDict({"a": nn.Sequential(shared, nn.ReLU()), "b": nn.ModuleList([shared])})
    assert len(find_se(model)) == 1
    replace_se(model, CaCo)
    assert type(model["a"][0]) is CaCo
    assert model["a"][0] is model["b"][0]


@pytest.mark.parametrize(
    "place", [{"device": "meta"}, {"dtype": torch.float64}, {"dtype": torch.bfloat16}]
)
@pytest.mark.parametrize("block", [SE, CaCo])
def test_device_and_dtype_are_taken_over(place, block):
    model = torchvision.models.mobilenet_v3_small().to(**place)
    placed = replace_se(model, block)
    like = next(model.parameters())
    assert all((p.device, p.dtype) == (like.device, like.dtype) for p in placed.parameters())


def test_se_of_a_float64_network_is_exact():
    model = small_network().double()
    x = torch.rand(1, 3, 64, 64, dtype=torch.float64)
    before = model(x)
    torch.testing.assert_close(replace_se(model, SE)(x), before, atol=1e-9, rtol=1e-9)


def test_memory_format_is_taken_over():
    model = replace_se(small_network().to(memory_format=torch.channels_last), CBAM)
    spatial = find_se(model)[0].module.spatial.conv.weight
    assert spatial.stride() == spatial.contiguous(memory_format=torch.channels_last).stride()
    assert spatial.stride() != spatial.contiguous().stride()


def test_the_norm_of_a_site_keeps_its_own_mode_and_dtype():
    for train_block, train_norm in [(True, False), (False, True)]:
        old = randomized(SEModule(16, norm_layer=nn.BatchNorm2d)).train(train_block)
        old.bn.train(train_norm)
        x = random_map(4, 16, 5, 6)
        before = copy.deepcopy(old)(x)
        new = replace_se(nn.Sequential(old), SE)
        assert (new[0].training, new[0].bn.training) == (train_block, train_norm)
        torch.testing.assert_close(new(x), before)
    mixed = SEModule(16, norm_layer=nn.BatchNorm2d).bfloat16()
    mixed.bn.float()
    new = replace_se(nn.Sequential(mixed), SE)[0]
    assert (new.fc1.weight.dtype, new.bn.weight.dtype) == (torch.bfloat16, torch.float32)


def frozen(*names: str, module: nn.Module) -> nn.Module:
    for name, parameter in module.named_parameters():
        parameter.requires_grad_(name not in names)
    return module


@pytest.mark.parametrize(
    ("old", "trained"),
    [
        (frozen("fc1.weight", "fc1.bias", module=SEModule(16)), {"fc2.weight", "fc2.bias"}),
        (frozen("fc2.bias", module=SEModule(16)), {"fc1.weight", "fc1.bias", "fc2.weight"}),
        (SEModule(16, bias=False).requires_grad_(False), set()),
        (timm.layers.EffectiveSEModule(16).requires_grad_(False), set()),
    ],
)
def test_what_was_frozen_is_frozen_in_se(old, trained):
    new = replace_se(old, SE)
    assert {name for name, p in new.named_parameters() if p.requires_grad} == trained


@pytest.mark.filterwarnings("ignore:replaced blocks take their hooks")
def test_reparametrised_layers_are_read_through_their_weight():
    for reparametrise in (
        nn.utils.parametrizations.spectral_norm,
        nn.utils.parametrizations.weight_norm,
        lambda layer: prune.l1_unstructured(layer, "weight", amount=0.5),
    ):
        model = small_network()
        reparametrise(model.features[1].block[1].fc1)
        reparametrise(model.features[1].block[1].fc2)
        model.eval()
        x = torch.rand(1, 3, 64, 64)
        before = model(x)
        torch.testing.assert_close(replace_se(model, SE)(x), before)
        assert all(p.requires_grad for p in model.features[1].block[1].parameters())


def test_functions_with_parameters_are_taken_over():
    old = randomized(SEModule(16, act_layer=nn.PReLU, gate_layer="sigmoid").double())
    x = random_map(2, 16, 5, 6, dtype=torch.float64)
    torch.testing.assert_close(replace_se(nn.Sequential(old), SE)(x), old(x))


def test_what_a_function_makes_is_taken_as_it_is():
    mine = randomized(CaCo(16))
    before = copy.deepcopy(mine.state_dict())
    model = replace_se(nn.Sequential(randomized(SEModule(16))), lambda site: mine)
    assert all(torch.equal(v, before[k]) for k, v in model[0].state_dict().items())


def test_a_swap_by_se_draws_no_random_numbers():
    model = small_network()
    state = torch.get_rng_state()
    replace_se(model, SE)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("block", [SE, CaCo, Eca])
def test_a_swap_in_inference_mode_is_the_same(block):
    torch.manual_seed(0)
    expected = replace_se(small_network(), block, init="inherit")
    torch.manual_seed(0)
    with torch.inference_mode():
        found = replace_se(small_network(), block, init="inherit")
    for name, value in found.state_dict().items():
        torch.testing.assert_close(value, expected.state_dict()[name])


def test_hooks_that_go_with_a_block_are_named():
    model = small_network()
    model.features[4].block[2].register_forward_hook(print)
    model.features[5].block[2].fc1.register_forward_pre_hook(repr)
    with pytest.warns(UserWarning, match=r"print on 'features\.4\.block\.2', repr on .*2\.fc1'"):
        replace_se(model, CaCo)


def test_copies_of_activations_and_gates_have_no_hooks():
    model, seen = small_network(), []
    block = model.features[4].block[2]
    for part in (block.activation, block.scale_activation):
        part.register_forward_hook(lambda *args: seen.append(args))
    with pytest.warns(UserWarning, match=r"on 'features\.4\.block\.2\.activation'"):
        replace_se(model, SE)
    model(torch.rand(1, 3, 64, 64))
    assert seen == []
    assert len(block.activation._forward_hooks) == 1


def test_hooks_that_stay_are_not_warned_of(recwarn):
    model = small_network()
    model.features[4].block[2].register_forward_hook(lambda *args: None)
    replace_se(model, lambda s: nn.Sequential(s.module, CoordAtt(s.channels)))
    assert not recwarn.list
