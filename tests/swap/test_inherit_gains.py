"""A swap keeps what a block with gains computes, and the gains that the new one was given."""

import copy

import pytest
import torch
from torch import nn

from attnblocks import (
    CBAM,
    SE,
    AttentionBlock,
    CaCo,
    CoordAtt,
    Eca,
    SeCo,
    SELayers,
    create_block,
    replace_se,
)
from tests.helpers import every_block, random_map, randomized

C = 64
PER_CHANNEL = torch.linspace(0.5, 2, C, dtype=torch.float64)
GAINS = [2.0, PER_CHANNEL]
every_gain = pytest.mark.parametrize("gain", GAINS, ids=["number", "channels"])
SECOND = {"CBAM": "spatial_gain", "SeCo": "coord_gain", "CaCo": "coord_gain"}


def gained(cls: type = SE, gain: object = None, **kwargs) -> nn.Module:
    """A float64 block with random weights, whose gates have this gain."""
    block = randomized(cls(C, dtype=torch.float64, **kwargs)).eval()
    stage = block.se_layers().stage or block
    stage.set_gain(gain, C, dtype=torch.float64)
    return block


def gates(block: nn.Module, x: torch.Tensor) -> torch.Tensor:
    return (block(x) / x).detach()


def maps() -> torch.Tensor:
    """Constant maps: means and maxima are the same."""
    return (random_map(32, C, 1, 1, dtype=torch.float64).abs() + 0.1).expand(-1, -1, 4, 4)


def constant(gain: object, logit: float = 1.5) -> nn.Module:
    """An SE whose gates do not depend on the map."""
    block = gained(gain=gain, gate_layer=nn.Sigmoid)
    nn.init.zeros_(block.fc2.weight)
    nn.init.constant_(block.fc2.bias, logit)
    return block


@every_gain
@every_block
def test_a_block_of_the_same_class_is_a_copy_with_its_gains(name, gain):
    cls = type(create_block(name, C))
    old = gained(cls, gain, **{SECOND[name]: 1.5} if name in SECOND else {})
    state = old.state_dict()
    new = replace_se(nn.Sequential(copy.deepcopy(old)), name)[0]
    assert list(new.state_dict()) == list(state)
    x = random_map(4, C, 5, 4, dtype=torch.float64)
    assert torch.equal(new(x), old(x))
    for key, value in state.items():
        assert torch.equal(new.state_dict()[key], value), key


@every_block
def test_the_same_gain_given_again_is_a_copy_too(name):
    cls = type(create_block(name, C))
    old = gained(cls, 2.0)
    new = replace_se(nn.Sequential(copy.deepcopy(old)), cls, gain=2.0)[0]
    x = random_map(4, C, 5, 4, dtype=torch.float64)
    assert torch.equal(new(x), old(x))


@every_gain
@pytest.mark.parametrize("cls", [SE, SeCo, CaCo, CBAM])
def test_se_takes_the_gain_of_a_channel_stage(cls, gain):
    old = gained(cls, gain, act_layer=nn.Identity, gate_layer=nn.Sigmoid)
    wanted = old.gates(maps())[0].detach()
    if cls in (CaCo, CBAM):  # the maximum is taken for three times the mean
        stage = old.channel
        v = maps()[:, :, :1, :1]
        wanted = stage(v, 3 * v).detach()
    new = replace_se(nn.Sequential(old), SE)[0]
    factor = torch.as_tensor(gain, dtype=torch.float64)
    assert torch.equal(new.gain, factor)
    torch.testing.assert_close(new.gates(maps())[0].detach(), wanted, rtol=1e-9, atol=1e-9)


@every_gain
@pytest.mark.parametrize("cls", [SeCo, CaCo, CBAM])
def test_the_channel_stage_takes_the_gain_and_the_function(cls, gain):
    """The channel gate is what it would be without a gain, times the gain."""
    x, found = maps(), []
    for factor in (None, gain):
        old = gained(gain=factor, gate_layer=nn.Sigmoid)
        new = replace_se(copy.deepcopy(old), cls, gate_layer=nn.Sigmoid).eval()
        stage = new.se_layers().stage
        assert torch.equal(stage.gain, old.gain) if factor is not None else stage.gain is None
        found.append(new.gates(x)[0].detach())
    scale = torch.as_tensor(gain, dtype=torch.float64).view(-1, 1, 1)
    torch.testing.assert_close(found[1], found[0] * scale, rtol=1e-9, atol=0)


@pytest.mark.parametrize("gain", [1.25, torch.full((C,), 1.25)], ids=["number", "channels"])
@pytest.mark.parametrize("old_gain", [None, 1.5])
@pytest.mark.parametrize("cls", [SE, SeCo])
def test_a_gain_that_is_given_stays_and_the_gates_make_up_for_it(cls, old_gain, gain):
    old, x = gained(gain=old_gain, gate_layer=nn.Sigmoid), maps()
    new = replace_se(copy.deepcopy(old), cls, rd_channels=16, gate_layer=nn.Sigmoid, gain=gain)
    error = (gates(new.eval(), x) - gates(old, x)).abs().mean()
    assert (new.gain == 1.25).all()
    unmatched = copy.deepcopy(old)
    unmatched.set_gain(1.25)
    assert error < 0.07
    assert error < (gates(unmatched, x) - gates(old, x)).abs().mean() * 0.6


class Plain(AttentionBlock):
    """The layers of an SE, in a block that knows no gain."""

    gate_names = ("channel",)

    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        self.down = nn.Conv2d(channels, 16, 1)
        self.act = nn.ReLU()
        self.up = nn.Conv2d(16, channels, 1)
        self.gate = nn.Sigmoid()

    def gates(self, x: torch.Tensor) -> list[torch.Tensor]:
        return [self.gate(self.up(self.act(self.down(x.mean((2, 3), keepdim=True)))))]

    def se_layers(self) -> SELayers:
        return SELayers(self.channels, self.gate, self.up, self.down, self.act)


def test_a_block_without_gains_matches_the_gate_times_their_mean():
    for gain in (0.7, torch.full((C,), 0.7)):
        old, x = gained(gain=gain, gate_layer=nn.Sigmoid), maps()
        new = replace_se(copy.deepcopy(old), Plain)
        assert (gates(new, x) - gates(old, x)).abs().mean() < 0.07
    spread, number = (replace_se(constant(g), Plain) for g in (torch.tensor([0.4, 0.6] * 32), 0.5))
    torch.testing.assert_close(spread.state_dict(), number.state_dict(), rtol=1e-6, atol=1e-6)


@every_gain
def test_coordatt_shares_the_gain_between_its_gates(gain):
    old, x = constant(gain), maps()
    new = replace_se(copy.deepcopy(old), CoordAtt).eval()
    usual = torch.sigmoid(torch.tensor(1.5, dtype=torch.float64))
    wanted = (usual * torch.as_tensor(gain, dtype=torch.float64)).expand(C)
    torch.testing.assert_close((new.gain / 2) ** 2, wanted)
    error = gates(new, x) / gates(old, x) - 1
    assert error.abs().max() < 0.15


@pytest.mark.parametrize("old_gain", [None, 1.2])
def test_coordatt_with_a_given_gain_starts_at_the_usual_gates_too(old_gain):
    old, x = constant(old_gain, 0.0), maps()
    new = replace_se(copy.deepcopy(old), CoordAtt, gain=1.5).eval()
    assert float(new.gain) == 1.5
    assert (gates(new, x) / gates(old, x) - 1).abs().max() < 0.25


@every_gain
def test_eca_takes_the_usual_gates_with_their_gain(gain):
    old = constant(gain)
    new = replace_se(copy.deepcopy(old), Eca)
    assert (gates(new, maps()) / gates(old, maps()) - 1).abs().max() < 0.2
    given = replace_se(copy.deepcopy(old), Eca, gain=1.25)
    assert float(given.gain) == 1.25


@pytest.mark.parametrize(
    ("cls", "kwargs"),
    [
        (SeCo, {"coord_gain": 2.0}),
        (CaCo, {"coord_gain": torch.full((C,), 2.0)}),
        (CBAM, {"spatial_gain": 2.0}),
        (CBAM, {"spatial_gain": 2.0, "norm_layer": None}),
    ],
)
def test_later_stages_with_gains_start_at_one(cls, kwargs):
    """And at logits of 0, where a sigmoid is a half."""
    old, x = constant(None), maps()
    new = replace_se(copy.deepcopy(old), cls, gate_layer=nn.Sigmoid, **kwargs).eval()
    product = torch.ones(()).double()
    for gate in new.gates(x)[1:]:
        product = product * gate.detach()
    assert (product - 1).abs().max() < 0.15
    assert (gates(new, x) - gates(old, x)).abs().max() < 0.15


def test_what_later_stages_with_other_gains_take_away_the_channel_gate_makes_up_for():
    """Gains of 0.5 cannot be opened to 1: the best product is 0.25, and the channel gate grows."""
    for cls, kwargs, count in ((SeCo, {"coord_gain": 0.5}, 2), (CBAM, {"spatial_gain": 0.25}, 1)):
        old, x = constant(None, -2.5), maps()
        new = replace_se(copy.deepcopy(old), cls, gate_layer=nn.Sigmoid, **kwargs).eval()
        channel, *others = new.gates(x)
        assert others[-1].detach().max() < 0.5
        assert len(others) == count
        error = gates(new, x).mean() / gates(old, x).mean() - 1
        assert error.abs() < 0.4
        assert channel.detach().mean() > 2 * gates(old, x).mean()


@every_gain
def test_gains_are_taken_on_meta(gain):
    for cls in (SE, SeCo, CBAM):
        old = gained(gain=gain).to("meta")
        new = replace_se(nn.Sequential(old), cls)[0]
        assert all(value.is_meta for value in new.state_dict().values())
        if cls is SE:
            assert new.gain.shape == old.gain.shape


def test_the_identity_stays_one_when_its_block_is_swapped():
    x = maps()
    for cls in (SE, SeCo, CaCo, CBAM):
        old = SE(C, gate_layer=nn.Sigmoid, dtype=torch.float64)
        old.start_as_identity()
        new = replace_se(nn.Sequential(old), cls).eval()[0]
        assert (gates(new, x) - 1).abs().max() < 0.15, cls
