"""A block that a user writes in one class does all that the blocks of the library do."""

import copy
import pickle
from typing import Any

import pytest
import torch
from torch import nn
from torchvision.ops import SqueezeExcitation

from attnblocks import (
    SE,
    AttentionBlock,
    CaCo,
    SELayers,
    apply_recipe,
    create_block,
    find_se,
    load_model,
    recipe,
    register_block,
    replace_se,
    save_model,
    summary,
    warm_start,
)
from attnblocks.visualize import attention_maps
from tests.helpers import random_map, randomized


class RowSE(AttentionBlock):
    """SE, and a gate for every row beside it: of both it says how they start."""

    gate_names = ("channel", "rows")

    def __init__(
        self,
        channels: int,
        width: int = 8,
        *,
        gate_layer: Any = nn.Hardsigmoid,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__(channels)
        self.down = nn.Conv2d(channels, width, 1, device=device, dtype=dtype)
        self.act = nn.ReLU()
        self.up = nn.Conv2d(width, channels, 1, device=device, dtype=dtype)
        self.gate = gate_layer()
        self.slope = nn.Parameter(torch.ones(channels, 1, 1, device=device, dtype=dtype))
        self.shift = nn.Parameter(torch.zeros(channels, 1, 1, device=device, dtype=dtype))

    def gates(self, x: torch.Tensor) -> list[torch.Tensor]:
        rows = x.mean(3, keepdim=True)
        channel = self.gate(self.up(self.act(self.down(rows.mean(2, keepdim=True)))))
        return [channel, torch.sigmoid(self.slope * rows + self.shift)]

    def se_layers(self) -> SELayers:
        return SELayers(self.channels, self.gate, expand=self.up, squeeze=self.down, act=self.act)

    def inherit(self, old: Any) -> float:
        self.slope.fill_(0.0)
        self.shift.fill_(3.0)
        return torch.sigmoid(torch.tensor(3.0)).item()


class Brightness(AttentionBlock):
    """Gates that no layer of an SE makes: nothing is said of SE here."""

    gate_names = ("positions",)

    def __init__(self, channels: int, power: float = 1.0) -> None:
        super().__init__(channels)
        self.bias = nn.Parameter(torch.zeros(1))
        self.power = power

    def gates(self, x: torch.Tensor) -> list[torch.Tensor]:
        return [torch.sigmoid(x.mean(1, keepdim=True).abs() ** self.power + self.bias)]


@pytest.fixture(params=[RowSE, Brightness])
def block(request):
    return register_block(request.param.__name__, request.param)


def network() -> nn.Module:
    """Two SE blocks whose gates differ much from image to image."""
    layers = [
        *(nn.Conv2d(3, 32, 3, stride=2), nn.BatchNorm2d(32), nn.ReLU()),
        SqueezeExcitation(32, 8, scale_activation=nn.Hardsigmoid),
        *(nn.Conv2d(32, 32, 3), nn.ReLU()),
        SqueezeExcitation(32, 8, scale_activation=nn.Hardsigmoid),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 5)),
    ]
    return randomized(nn.Sequential(*layers)).eval()


def images() -> torch.Tensor:
    return random_map(32, 3, 16, 16) * torch.linspace(0.2, 2, 32)[:, None, None, None]


def test_it_is_swapped_in_by_name_and_by_class_and_listed(block):
    original = network()
    for given in (block, block.__name__):
        model = replace_se(original, given, inplace=False)
        assert [(site.name, site.channels) for site in find_se(model)] == [("3", 32), ("6", 32)]
        assert {type(site.module) for site in find_se(model)} == {block}
        assert summary(model, original).count(f"{block.__name__} ") == 2
    option = {RowSE: {"width": 5}, Brightness: {"power": 2.0}}[block]
    model = replace_se(original, {"3": block}, **option, inplace=False)
    assert recipe(model)[0]["arguments"].items() >= option.items()
    with pytest.raises(ValueError, match=r"site '3' cannot be made.*no_such"):
        replace_se(original, block, no_such=1, inplace=False)


def test_it_starts_from_the_se_as_it_says():
    original, x = network(), images()
    model = replace_se(original, RowSE, inplace=False)
    old, new = original[3], model[3]
    given = original[:3](x)
    wanted, (channel, rows) = old(given) / given, new.gates(given)
    assert (rows - torch.sigmoid(torch.tensor(3.0))).abs().max() < 1e-6
    inner = (wanted > 0.1) & (wanted < 0.9) & (given > 0)
    assert inner.sum() > 1000
    # The channel gate makes up for what the rows take, but where the hard sigmoid is cut.
    assert ((channel * rows) - wanted)[inner].abs().max() < 0.05
    fresh = replace_se(original, RowSE, init="fresh", inplace=False)
    assert (fresh[3].shift == 0).all()


def test_what_says_nothing_of_an_se_starts_fresh():
    torch.manual_seed(0)
    model = replace_se(network(), Brightness)
    assert (model[3].bias == 0).all()
    se = replace_se(model, SE)[3]
    assert (se.channels, se.rd_channels) == (32, SE(32).rd_channels)


def test_it_is_fitted(block):
    original = network()
    model = replace_se(original, block, init="fresh", inplace=False)
    fit = warm_start(model, original, images().split(8), epochs=(5, 5), progress=False)
    assert [site.name for site in fit.sites] == ["3", "6"]
    assert fit.after < 0.9 * fit.before


def test_it_is_saved_and_loaded(block, tmp_path):
    model = randomized(replace_se(network(), block)).eval()
    save_model(model, tmp_path / "m")
    loaded = load_model(tmp_path / "m", base=network()).eval()
    assert torch.equal(loaded(images()), model(images()))
    assert recipe(loaded) == recipe(model)


def test_another_block_takes_its_place():
    model = randomized(replace_se(network(), RowSE)).eval()
    x = random_map(4, 32, 5, 6)
    channel, _ = model[3].gates(x)
    (gate,) = replace_se(model, SE, inplace=False)[3].gates(x)
    torch.testing.assert_close(gate, channel)  # it took over the layers, width and functions
    assert type(replace_se(model, CaCo)[6]) is CaCo


def test_it_is_drawn(block):
    maps = attention_maps(replace_se(network(), block), images())
    assert {tuple(attention.gates) for attention in maps.values()} == {block.gate_names}


def test_it_is_copied_and_pickled(block):
    made = randomized(block(32))
    x = random_map(2, 32, 5, 6)
    for other in (copy.deepcopy(made), pickle.loads(pickle.dumps(made))):
        assert torch.equal(other(x), made(x))
        model = nn.Sequential(other)
        assert recipe(model) == recipe(nn.Sequential(made))


class Narrow(RowSE):
    """Its own arguments are what is noted, and not those that it gives to its base."""

    def __init__(self, channels: int, share: float = 0.5, **options: Any) -> None:
        super().__init__(channels, int(8 * share), **options)


class Halving(AttentionBlock):
    """Its attribute means something else than the argument of that name."""

    def __init__(self, channels: int, scale: float = 2.0) -> None:
        super().__init__(channels)
        self.scale = 1 / scale

    def gates(self, x: torch.Tensor) -> list[torch.Tensor]:
        return [torch.full_like(x[:, :, :1, :1], self.scale)]


class Scaled(AttentionBlock):
    """Its parameter has the name of an argument."""

    def __init__(self, channels: int, scale: float = 1.0) -> None:
        super().__init__(channels)
        self.scale = nn.Parameter(torch.full((channels, 1, 1), scale))

    def gates(self, x: torch.Tensor) -> list[torch.Tensor]:
        return [self.scale.sigmoid()[None]]


class Secret(AttentionBlock):
    """Built with something that JSON cannot hold."""

    def __init__(self, channels: int, table: torch.Tensor | None = None) -> None:
        super().__init__(channels)
        self.weight = nn.Parameter(torch.ones(1) if table is None else table)

    def gates(self, x: torch.Tensor) -> list[torch.Tensor]:
        return [self.weight.mean().expand(1, 1, 1, 1)]


@pytest.mark.parametrize(
    ("make", "arguments"),
    [
        (lambda: RowSE(32), {"width": 8, "gate_layer": "Hardsigmoid"}),
        (lambda: RowSE(32, 5), {"width": 5, "gate_layer": "Hardsigmoid"}),
        (
            lambda: RowSE(32, gate_layer=lambda: nn.Softplus(beta=2)),
            {"width": 8, "gate_layer": {"name": "Softplus", "beta": 2}},
        ),
        (lambda: RowSE(32, device="cpu"), {"width": 8, "gate_layer": "Hardsigmoid"}),
        (lambda: Narrow(32, share=0.25), {"share": 0.25}),
        (lambda: Brightness(32, power=2.0), {"power": 2.0}),
        (lambda: Halving(32, scale=4.0), {"scale": 4.0}),
        (lambda: Scaled(32, 3.0), {"scale": 3.0}),
    ],
)
def test_what_it_was_built_with_is_its_recipe(make, arguments):
    made = make()
    register_block(type(made).__name__, type(made))
    (entry,) = recipe(nn.Sequential(made))
    assert entry["arguments"] == arguments
    (again,) = apply_recipe(nn.Sequential(SE(32)), [entry])
    assert repr(again) == repr(made)
    assert vars(again)["_built_with"] == vars(made)["_built_with"]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Secret(32, torch.ones(3)), "its weights have shapes"),
        (lambda: Narrow(32, gate_layer=nn.Sigmoid), "'gate' is Sigmoid, and its arguments make"),
    ],
)
def test_what_no_recipe_can_say_is_refused(make, message):
    made = make()
    register_block(type(made).__name__, type(made))
    with pytest.raises(ValueError, match=f"the block at '0' has no recipe: {message}"):
        recipe(nn.Sequential(made))


def test_a_subclass_with_other_gates_does_not_speak_for_its_base():
    @register_block("Half")
    class Half(CaCo):
        def gates(self, x):
            return [gate / 2 for gate in super().gates(x)]

    model = nn.Sequential(Half(32))
    (site,) = find_se(model)
    assert site.layers.expand is None
    assert type(replace_se(model, SE)[0]) is SE
    fresh = replace_se(nn.Sequential(SE(32)), "Half")[0]
    assert fresh.coord.conv_h.bias.abs().max() < 1  # not opened


class Opens(AttentionBlock):
    """A base that says how its subclasses start, and leaves their gates to them."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        self.bias = nn.Parameter(torch.zeros(1))

    def inherit(self, old: Any) -> float:
        self.bias.fill_(2.0)
        return 1.0


class Opened(Opens):
    def gates(self, x: torch.Tensor) -> list[torch.Tensor]:
        return [self.bias.sigmoid().expand(len(x), 1, 1, 1)]


class Otherwise(Opened):
    def gates(self, x: torch.Tensor) -> list[torch.Tensor]:
        return [self.bias.tanh().expand(len(x), 1, 1, 1)]


def test_a_base_without_gates_speaks_for_the_first_that_follow():
    biases = [float(replace_se(network(), block)[3].bias) for block in (Opened, Otherwise)]
    assert biases == [2.0, 0.0]


def test_decorated_functions_are_blocks_too():
    @register_block("SE16")
    def se16(channels: int) -> nn.Module:
        return SE(channels, rd_ratio=1 / 16)

    assert create_block("SE16", 256).rd_channels == se16(256).rd_channels == 16
