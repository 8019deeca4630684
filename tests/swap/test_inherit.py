"""What a warm swap keeps of the network, block by block."""

import copy

import pytest
import timm
import torch
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from attnblocks import (
    CBAM,
    SE,
    CaCo,
    CoordAtt,
    Eca,
    SeCo,
    SELayers,
    find_se,
    register_se,
    replace_se,
)
from tests.helpers import random_map, randomized, small_network


def gates(block: nn.Module, x: torch.Tensor) -> torch.Tensor:
    return block(x) / x


def old_se(seed: int = 0, **kwargs) -> nn.Module:
    """An SE block whose gates are far from constant and from each other."""
    block = torchvision.ops.SqueezeExcitation(64, 16, **kwargs)
    return randomized(block.double(), seed).eval()


def positive_map(peak: float = 3.0) -> torch.Tensor:
    """A map in which the maximum of each channel is ``peak`` times its mean, or nearly so."""
    mean = random_map(32, 64, 1, 1, dtype=torch.float64).abs() + 0.1
    x = torch.full((4, 4), (16 - peak) / 15, dtype=torch.float64)
    x[1, 2] = peak
    return mean * x


@pytest.mark.parametrize("gate", [nn.Hardsigmoid, nn.Sigmoid])
@pytest.mark.parametrize("act", [nn.ReLU, nn.SiLU])
def test_seco_computes_what_the_se_did(gate, act):
    """The gates of rows and columns are exactly 1; torch's own SE is the reference."""
    for dtype, bound in ((torch.float64, 1e-12), (torch.float32, 1e-6)):
        old = old_se(scale_activation=gate, activation=act).to(dtype)
        x = positive_map().to(dtype)
        options = {"gate_layer": gate, "act_layer": act, "match_rd_channels": True}
        new = replace_se(nn.Sequential(copy.deepcopy(old)), SeCo, **options)
        for mode in (True, False):
            wanted = old.train(mode)(x)
            assert (new.train(mode)(x) - wanted).norm() / wanted.norm() < bound


@pytest.mark.parametrize("name", ["SeCo", "CaCo", "CBAM", "CoordAtt"])
@pytest.mark.parametrize("gate", [nn.Sigmoid, nn.Hardsigmoid])
def test_stages_without_counterpart_start_where_their_gates_are_steepest(name, gate):
    """Sigmoid has its largest slope, 1/4, at 0; hard sigmoid has 1/6 wherever it has one."""
    block = replace_se(old_se(), name, gate_layer=gate).train()
    x, slopes = positive_map(), {nn.Sigmoid: 1 / 4, nn.Hardsigmoid: 1 / 6}
    entered = []
    coord = getattr(block, "coord", block)
    stage = getattr(block, "spatial", None) or coord
    stage.gate.register_forward_pre_hook(lambda _, args: entered.append(args[0]))
    block(x)
    steepest = slopes[type(stage.gate)]  # the coordinate stage of SeCo and CaCo has sigmoids
    z = entered[0].detach().requires_grad_()
    stage.gate(z).sum().backward()
    torch.testing.assert_close(z.grad, torch.full_like(z, steepest), rtol=0.05, atol=0)


@pytest.mark.parametrize("block", [CaCo, CBAM])
def test_channel_stages_follow_the_gates_where_the_peak_is_three_times_the_mean(block):
    x = positive_map()
    for act, bound in ((nn.Identity, 0.02), (nn.ReLU, 0.03)):
        old = old_se(scale_activation=nn.Sigmoid, activation=act)
        new = replace_se(copy.deepcopy(old), block, match_rd_channels=True, act_layer=act)
        error = (gates(new, x) - gates(old, x)).square().mean().sqrt()
        fresh = replace_se(copy.deepcopy(old), block, match_rd_channels=True, init="fresh")
        before = (gates(fresh, x) - gates(old, x)).square().mean().sqrt()
        assert error < bound
        assert error < before / 2


class Steeper(nn.Module):
    """A gate that a scale and a shift of the logits turn into the usual one."""

    def forward(self, z):
        return torch.sigmoid(1.5 * z + 2)


@pytest.mark.parametrize(("block", "bound"), [(SE, 1e-4), (SeCo, 0.02), (CaCo, 0.02), (CBAM, 0.02)])
def test_another_gate_is_followed_by_scale_and_shift(block, bound):
    x = positive_map()
    old = old_se(scale_activation=Steeper, activation=nn.Identity)
    options = {"match_rd_channels": True, "act_layer": nn.Identity, "gate_layer": nn.Sigmoid}
    new = replace_se(copy.deepcopy(old), block, **options)
    assert (gates(new, x) - gates(old, x)).abs().max() < bound


@settings(max_examples=8)
@given(seed=st.integers(0, 1000), width=st.integers(5, 15))  # two units can do worse
def test_a_narrower_block_follows_better_than_constant_gates(seed, width):
    """On means as they are assumed, N(1/2, 1); the constant is the best that there is."""
    old = old_se(seed, scale_activation=nn.Sigmoid)
    generator = torch.Generator().manual_seed(seed + 1)
    means = torch.randn(256, 64, 1, 1, generator=generator, dtype=torch.float64) + 0.5
    wanted = gates(old, means)
    new = replace_se(old, SE, rd_channels=width)
    assert new.rd_channels == width
    error = (gates(new, means) - wanted).square().mean()
    assert error < (wanted - wanted.mean(0)).square().mean()


def test_a_block_that_sees_the_maximum_is_read_as_one_of_the_mean():
    """Where the maximum is three times the mean and the MLP is linear, that is exact."""
    options = {"act_layer": nn.Identity, "gate_layer": nn.Sigmoid}
    old = randomized(replace_se(old_se(), CaCo, rd_channels=12, **options)).eval().double()
    means = random_map(64, 64, 1, 1, dtype=torch.float64) + 0.5
    fc1, fc2 = old.channel.fc1, old.channel.fc2
    wanted = (fc2(fc1(means)) + fc2(fc1(3 * means))).sigmoid()
    new = replace_se(old, SeCo, match_rd_channels=True, **options)
    assert (new.se(means) - wanted).abs().max() < 0.03


def test_other_activations_are_followed():
    old = old_se(activation=nn.SiLU, scale_activation=nn.Sigmoid)
    means = random_map(256, 64, 1, 1, dtype=torch.float64) + 0.5
    wanted = gates(old, means)
    new = replace_se(old, SeCo, match_rd_channels=True)
    assert (type(new.se.act), type(new.se.gate)) == (nn.ReLU, nn.Hardsigmoid)
    error = (gates(new, means) - wanted).square().mean()
    assert error < 0.25 * (wanted - wanted.mean(0)).square().mean()


def test_a_single_layer_goes_into_a_block_with_two():
    old = randomized(timm.layers.EffectiveSEModule(64, gate_layer="sigmoid").double()).eval()
    means = random_map(256, 64, 1, 1, dtype=torch.float64) + 0.5
    wanted = gates(old, means)
    errors = []
    for width in (4, 16, 48, 64):
        new = replace_se(copy.deepcopy(old), SE, rd_channels=width, gate_layer=nn.Sigmoid)
        errors.append(float((gates(new, means) - wanted).detach().square().mean()))
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 0.02 * float(wanted.var())


def test_a_norm_between_the_layers_goes_into_the_first():
    old = randomized(timm.layers.SEModule(64, rd_channels=16, norm_layer=nn.BatchNorm2d).double())
    old.eval()
    x = positive_map()
    new = replace_se(copy.deepcopy(old), SeCo, match_rd_channels=True, gate_layer=nn.Sigmoid)
    error = gates(new, x) - gates(old, x)
    assert error.abs().max() < 0.03


def test_coordatt_starts_with_the_usual_gates():
    """Those of a layer with no weights are known."""
    old = old_se()
    nn.init.zeros_(old.fc2.weight)
    x = positive_map()
    new = replace_se(copy.deepcopy(old), CoordAtt).eval()
    wanted = gates(old, x)
    assert (gates(new, x) - wanted).abs().max() < 0.12
    assert wanted.min() < 0.1 < 0.9 < wanted.max()


def test_eca_starts_with_the_usual_gates():
    """Those of a layer with no weights are known; 1e-3 of a closed one is kept."""
    old = old_se()
    nn.init.zeros_(old.fc2.weight)
    x = positive_map()
    wanted = gates(old, x)
    new = replace_se(copy.deepcopy(old), Eca)
    assert (gates(new, x) - wanted).abs().max() < 0.25
    assert (gates(new, x) / wanted - 1)[wanted > 0].abs().max() < 0.25
    assert wanted.min() < 0.1 < 0.9 < wanted.max()


@pytest.mark.parametrize("name", ["SE", "SeCo", "CaCo", "CBAM", "CoordAtt", "Eca"])
def test_gradients_reach_every_parameter(name):
    model = replace_se(small_network(), name).train()
    optimizer = torch.optim.SGD(model.parameters(), 1e-3)
    for _ in range(2):  # the first step moves the last layers of stages from 0
        optimizer.zero_grad()
        model(torch.rand(4, 3, 64, 64)).square().sum().backward()
        optimizer.step()
    for site in find_se(model)[1:]:  # in the first, one hidden unit is left, and it is switched off
        for parameter, value in site.module.named_parameters():
            assert value.grad is not None, parameter
            assert value.grad.abs().max() > 0, (site.name, parameter)


@pytest.mark.parametrize(
    ("gate", "gain", "least"),
    [(nn.Sigmoid, 1.0, 0.99), (nn.Hardsigmoid, 1.0, 0.98), (nn.Tanh, None, 0.98)],
)
def test_gates_that_cannot_start_in_the_middle_start_open_with_a_slope(gate, gain, least):
    """Those with a gain that was given, and functions that are 0 at 0."""
    block = replace_se(old_se(), CBAM, gate_layer=gate, spatial_gain=gain).spatial
    y = torch.full((1, 1, 1, 1), float(block.bn.bias.detach()), requires_grad=True)
    open_gate = block.gate(y)
    open_gate.sum().backward()
    assert least < float(open_gate.detach()) < 1
    assert y.grad > 0.005


def test_the_same_block_is_copied_and_fresh_is_not():
    model = randomized(replace_se(small_network(), CaCo)).eval()
    x = torch.rand(1, 3, 64, 64)
    before = model(x)
    torch.testing.assert_close(replace_se(model, CaCo)(x), before, atol=0, rtol=0)
    assert not torch.allclose(replace_se(model, CaCo, init="fresh")(x), before)


def test_the_same_class_with_another_gate_is_no_copy():
    old = randomized(replace_se(old_se(), CaCo, rd_channels=16)).eval()
    new = replace_se(copy.deepcopy(old), CaCo, rd_channels=16, gate_layer=nn.Hardsigmoid)
    x = positive_map()
    copied = copy.deepcopy(new)
    copied.load_state_dict(old.state_dict())
    wanted = old.gates(x)[0]
    error, of_a_copy = ((block.gates(x)[0] - wanted).square().mean() for block in (new, copied))
    assert error < 0.9 * of_a_copy


def test_a_layer_that_cannot_be_read_names_the_way_out():
    model = nn.Sequential(SE(16, gate_layer=lambda: nn.Softmax(2)))
    with pytest.raises(ValueError, match=r"site '0' cannot start from .* init='fresh' would do"):
        replace_se(model, CaCo)
    assert type(replace_se(model, CaCo, init="fresh")[0]) is CaCo


def test_fresh_is_the_published_initialisation():
    for block in (SE, SeCo, CaCo, CBAM, CoordAtt, Eca):
        old = nn.Sequential(old_se().float())
        torch.manual_seed(3)
        fresh = replace_se(old, block, init="fresh")[0]
        torch.manual_seed(3)
        published = block(64)
        for name, value in published.state_dict().items():
            assert torch.equal(fresh.state_dict()[name], value)


def test_what_has_no_channel_mlp_leaves_the_block_fresh():
    class Doubled(nn.Module):
        """A gate without layers."""

    register_se(Doubled, lambda m: SELayers(64, nn.Sigmoid()))
    model = Doubled()
    torch.manual_seed(3)
    block = replace_se(model, CaCo)
    torch.manual_seed(3)
    assert torch.equal(block.channel.fc1.weight, CaCo(64).channel.fc1.weight)


def test_a_warm_swap_keeps_a_network_nearer_than_a_fresh_one():
    model = small_network()
    x = torch.rand(8, 3, 64, 64)
    wanted = model(x)
    for block in (SeCo, CaCo, CBAM, CoordAtt):
        errors = {}
        for init in ("inherit", "fresh"):
            torch.manual_seed(0)
            new = replace_se(model, block, init=init, inplace=False)
            errors[init] = (new(x) - wanted).norm() / wanted.norm()
        assert errors["inherit"] < errors["fresh"]
    assert 0 < (replace_se(model, SeCo)(x) - wanted).norm() / wanted.norm() < 0.2  # its width
