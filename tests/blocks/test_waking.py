"""Hidden units that are off on every map are turned round; nothing else changes."""

import copy

import pytest
import torch
from torch import nn

from attnblocks import CBAM, SE, CaCo, CoordAtt, SeCo
from attnblocks.blocks.gain import GainedStage
from attnblocks.blocks.waking import wake
from tests.helpers import random_map, snapshot, unchanged

C = 16
BLOCKS = {
    "SE": lambda **kwargs: SE(C, 1, **kwargs),
    "SE with a norm": lambda **kwargs: SE(C, 1, norm_layer=nn.BatchNorm2d, **kwargs),
    "CaCo": lambda **kwargs: CaCo(C, rd_channels=1, **kwargs),
    "CBAM": lambda **kwargs: CBAM(C, **kwargs),
    "CoordAtt": lambda **kwargs: CoordAtt(C, act_layer=nn.ReLU, **kwargs),
    "SeCo": lambda **kwargs: SeCo(C, **kwargs),
}
FIRST = {"fc1", "conv1"}


def fresh(kind: str, seed: int, **kwargs) -> nn.Module:
    torch.manual_seed(seed)
    return BLOCKS[kind](**kwargs)


def maps(seed: int) -> torch.Tensor:
    """Behind an activation."""
    return torch.randn(4, C, 8, 8, generator=torch.Generator().manual_seed(seed)).relu()


def off(block: nn.Module, x: torch.Tensor) -> list[torch.Tensor]:
    """Which units each activation makes 0 everywhere, in the order in which they run."""
    found: list[torch.Tensor] = []
    block = copy.deepcopy(block).eval()
    for module in block.modules():
        if isinstance(module, nn.ReLU | nn.Hardswish):
            module.register_forward_hook(
                lambda _, __, y: found.append((y.transpose(0, 1).flatten(1) == 0).all(1))
            )
    block(x)
    return found


@pytest.mark.parametrize("kind", BLOCKS)
def test_no_unit_stays_off(kind):
    before = [torch.cat(off(fresh(kind, seed), maps(seed))) for seed in range(12)]
    assert any(units.any() for units in before)
    for seed in range(12):
        block = fresh(kind, seed)
        wake(block, maps(seed))
        assert not torch.cat(off(block, maps(seed))).any()


@pytest.mark.parametrize("kind", BLOCKS)
def test_units_are_negated_or_left_alone_to_the_bit(kind):
    for seed in range(4):
        block, x = fresh(kind, seed), maps(seed)
        old, sleeping = copy.deepcopy(block).state_dict(), torch.cat(off(block, x)).tolist()
        wake(block, x)
        for key, value in block.state_dict().items():
            layer, _, parameter = key.rpartition(".")
            if layer.rpartition(".")[2] not in FIRST:
                assert torch.equal(value, old[key]), key
                continue
            for new, then in zip(value, old[key], strict=True):
                negated = torch.equal(new, -then)
                assert negated or torch.equal(new, then)
                if parameter == "bias":
                    assert negated == sleeping.pop(0)
        assert not sleeping


def test_hardswish_is_off_below_minus_three():
    block = CoordAtt(C)
    nn.init.zeros_(block.conv1.weight)
    block.conv1.bias.data = torch.tensor([-3.01, -2.99, -40.0, 0.0, 3.0, 40.0, -1.5, 1.0])
    wake(block, maps(0))
    wanted = torch.tensor([3.01, -2.99, 40.0, 0.0, 3.0, 40.0, -1.5, 1.0])
    assert torch.equal(block.conv1.bias, wanted)


def test_a_unit_that_is_zero_gets_a_small_bias():
    block = SE(C, 3)
    with torch.no_grad():
        block.fc1.bias.copy_(torch.tensor([0.0, 0.5, -0.5]))
    weight = block.fc1.weight.detach().clone()
    wake(block, torch.zeros(2, C, 4, 4))
    torch.testing.assert_close(block.fc1.bias.detach(), torch.tensor([0.01, 0.5, 0.5]))
    assert torch.equal(block.fc1.weight[:2], weight[:2])


def test_a_unit_that_is_off_on_both_sides_stays():
    block = SE(C, 2, act_layer=nn.ReLU6)
    nn.init.zeros_(block.fc1.weight)
    block.fc1.bias.data = torch.tensor([7.0, -1.0])
    wake(block, maps(0))
    assert block.fc1.bias.tolist() == [7.0, 1.0]


class WithoutBias(GainedStage):
    """A block of one's own, whose hidden layer has no bias."""

    hidden_names = ("down", "act")

    def __init__(self) -> None:
        super().__init__()
        self.down = nn.Conv2d(C, 3, 1, bias=False)
        self.act = nn.ReLU()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.act(self.down(x.mean((2, 3), keepdim=True)))


def test_a_layer_without_bias_has_its_weights_turned():
    block = WithoutBias()
    with torch.no_grad():
        block.down.weight.copy_(torch.tensor([-1.0, 0.0, 1.0]).view(3, 1, 1, 1).expand(3, C, 1, 1))
    wake(block, torch.ones(2, C, 4, 4))
    assert block.down.weight[:, :, 0, 0].tolist() == [[1.0] * C, [0.0] * C, [1.0] * C]


@pytest.mark.parametrize("kind", BLOCKS)
def test_without_maps_nothing_changes(kind):
    block = fresh(kind, 0)
    before = snapshot(block)
    wake(block, torch.empty(0, C, 4, 4))
    assert unchanged(block, before)


@pytest.mark.parametrize("act", [nn.SiLU, nn.Identity, lambda: nn.ReLU(inplace=True)])
def test_activations_with_slopes_everywhere_and_in_place(act):
    block = SE(C, 8, act_layer=act)
    before = copy.deepcopy(block)
    wake(block, maps(0))
    changed = not torch.equal(block.fc1.bias, before.fc1.bias)
    assert changed == isinstance(block.act, nn.ReLU)
    assert not isinstance(block.act, nn.ReLU) or not torch.cat(off(block, maps(0))).any()


@pytest.mark.parametrize("kind", BLOCKS)
def test_modes_statistics_random_state_and_hooks_are_left_alone(kind):
    block = fresh(kind, 0).train()
    next(m for m in block.modules() if isinstance(m, nn.Conv2d)).eval()
    wake(block, maps(0))
    before, state = snapshot(block), torch.get_rng_state()
    with torch.inference_mode():
        wake(block, maps(0))
    assert unchanged(block, before)  # a second time there is nothing to wake
    assert torch.equal(torch.get_rng_state(), state)
    assert all(p.grad is None and p.requires_grad for p in block.parameters())
    assert not any(m._forward_pre_hooks for m in block.modules())


def test_an_error_leaves_modes_and_hooks_as_they_were():
    block = SE(C).train()
    with pytest.raises(ValueError, match="built for 16 channels, got 8"):
        wake(block, torch.rand(2, 8, 4, 4))
    assert all(m.training and not m._forward_pre_hooks for m in block.modules())


def test_half_precision_and_meta():
    block = fresh("CaCo", 1, dtype=torch.bfloat16)
    x = random_map(2, C, 4, 4, dtype=torch.bfloat16)
    wake(block, x)
    assert not torch.cat(off(block, x)).any()
    wake(CaCo(C, device="meta"), torch.empty(2, C, 4, 4, device="meta"))
