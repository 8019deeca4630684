"""The gains that a fit gives to blocks: least squares first, then by their logarithms."""

import copy
import json
import pickle

import pytest
import torch
from safetensors import safe_open
from torch import nn

from attnblocks import (
    AttentionBlock,
    apply_recipe,
    create_block,
    load_model,
    recipe,
    register_block,
    replace_se,
    save_model,
    warm_start,
)
from attnblocks.blocks.coord_att import CoordGate
from attnblocks.fit.gains import Gains
from attnblocks.fit.targets import Targets
from tests.fit.networks import SITES, batches, interrupted, network, paired
from tests.helpers import every_block, snapshot, unchanged

STAGES = {"CBAM": "channel", "SeCo": "coord", "CaCo": "coord"}
FAST = {"epochs": (2, 2), "progress": False}


def swapped(name: str, **kwargs) -> tuple[nn.Module, nn.Module]:
    original = network()
    torch.manual_seed(0)
    return replace_se(original, name, init="fresh", inplace=False, **kwargs).eval(), original


def gained(model: nn.Module, name: str, site: int) -> nn.Module:
    return model[site].get_submodule(STAGES.get(name, ""))


@every_block
def test_the_start_solves_the_normal_equation_of_every_channel(name):
    """The blocks' own outputs, from hooks: what is left is at right angles to them."""
    model, original = swapped(name)
    inputs, found = batches(), []
    pair = paired(model, original, inputs[0])
    gains = Gains({site: model.get_submodule(site) for site in pair.sites})
    gains.scale(pair, Targets(pair, inputs, float("inf")))
    with torch.no_grad():
        for site in SITES:
            given = original[:site](torch.cat(inputs))
            hook = model[site].register_forward_hook(lambda _, args, out: found.append(out))
            model[site](given.clone())
            hook.remove()
            y, goal = (v.double() for v in (found.pop(), original[site](given)))
            left = ((goal - y) * y).sum((0, 2, 3)) / y.square().sum((0, 2, 3))
            bound = 0.2 if name == "CBAM" else 1e-4  # whose spatial gate sees the scaled map
            assert left.abs().max() < bound


@every_block
def test_a_fit_leaves_plain_buffers_that_go_everywhere(name, tmp_path):
    model, original = swapped(name)
    warm_start(model, original, batches(), **FAST)
    x = batches()[0]
    for site in SITES:
        gain = gained(model, name, site).gain
        assert gain.shape == (16,)
        assert (gain > 0).all()
        assert gain.unique().numel() > 1
        assert not gain.requires_grad
        assert gain.grad_fn is None
    assert {n for n, _ in model.named_buffers()} == set(model.state_dict()) - {
        n for n, _ in model.named_parameters()
    }
    save_model(model, tmp_path / "model.safetensors")
    others = [
        copy.deepcopy(model),
        pickle.loads(pickle.dumps(model)),
        load_model(tmp_path / "model.safetensors", base=network()).eval(),
    ]
    for init in ("fresh",) if name == "SE" else ("fresh", "inherit"):  # SE inherits its width
        others.append(replace_se(network(), name, init=init).eval())
    others.append(apply_recipe(network(), recipe(model)).eval())
    for other in others[3:]:
        other.load_state_dict(model.state_dict())
    for other in others:
        assert torch.equal(other(x), model(x))
    block = create_block(name, 16).eval()
    if name != "SE":  # whose squeeze width is its own
        block.load_state_dict(model[3].state_dict())
        given = torch.rand(2, 16, 5, 4)
        assert torch.equal(block(given), model[3](given))


@pytest.mark.parametrize("gain", [None, 1.5])
def test_gains_are_put_back_to_the_bit(gain):
    model, original = swapped("Eca", gain=gain)
    before = snapshot(model)
    with pytest.warns(UserWarning, match="came no nearer"):
        warm_start(model, original, [batches()[0] * torch.nan], **FAST)
    assert unchanged(model, before)
    assert (model[3].gain is None) == (gain is None)
    with interrupted(model[3], 30):
        warm_start(model, original, batches(), **FAST)
    assert unchanged(model, before)


@pytest.mark.parametrize("value", [0.0, -1.0, float("inf"), float("nan")])
@pytest.mark.parametrize(("name", "stage"), [("Eca", ""), ("CaCo", "channel."), ("CaCo", "coord.")])
def test_gains_without_a_logarithm_are_refused_before_model_runs(name, stage, value):
    model, original = swapped(name)
    gain = torch.ones(16)
    gain[5] = value
    model[3].load_state_dict({**model[3].state_dict(), f"{stage}gain": gain})
    model.register_forward_hook(lambda *_: pytest.fail("it ran"))
    message = (
        rf"block at '3' cannot be fitted: .*above 0 and finite, and its \w+ has {value:g}: make"
    )
    with pytest.raises(ValueError, match=message):
        warm_start(model, original, batches(), **FAST)


def test_eca_comes_far_nearer_than_without_gains(monkeypatch):
    after = []
    for last in (None, lambda block: None):
        if last:
            monkeypatch.setattr("attnblocks.fit.gains._last_stage", last)
        model, original = swapped("Eca")
        after.append(warm_start(model, original, batches(), **FAST).after)
    assert after[0] < 0.5 * after[1]


class Coordinates(AttentionBlock):
    """A stage of the library in a block that has no argument for its gain."""

    gate_names = ("rows", "columns")

    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        self.coord = CoordGate(channels)

    def gates(self, x: torch.Tensor) -> list[torch.Tensor]:
        means = torch.cat([x.mean(3, keepdim=True), x.mean(2)[..., None]], dim=2)
        return list(self.coord(means, x.shape[2], torch.ones_like(means[:, :, :1])))


def test_a_block_without_an_argument_for_gains_is_saved_with_them(tmp_path):
    register_block("Coordinates", Coordinates)
    model, original = swapped("Coordinates")
    warm_start(model, original, batches(), **FAST)
    assert model[3].coord.gain is not None
    save_model(model, tmp_path / "model.safetensors")
    with safe_open(tmp_path / "model.safetensors", framework="pt") as file:
        assert json.loads(file.metadata()["attnblocks"])["format"] == 2  # 0.1.0 knows no gains
    loaded = load_model(tmp_path / "model.safetensors", base=network()).eval()
    assert torch.equal(loaded(batches()[0]), model(batches()[0]))
