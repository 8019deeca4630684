"""The places of real networks, as their sources have them, and of random ones."""

from functools import reduce
from itertools import pairwise

import pytest
import segmentation_models_pytorch as smp
import timm
import torch
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from attnblocks import SE, AttentionBlock, CaCo, Place, Places, find_places, find_se, replace_se
from tests.helpers import small_network

IMAGES, SMALL = torch.rand(1, 3, 224, 224), torch.rand(1, 3, 32, 32)


def names(places: Places, role: str) -> list[str]:
    return [place.name for place in places if role in place.roles]


def tv(name: str) -> nn.Module:
    more = {"init_weights": False} if name in ("googlenet", "inception_v3") else {}
    return torchvision.models.get_model(name, weights=None, **more)


def blocks(pattern: str, counts: dict[int, int], first: int = 0) -> list[str]:
    """Names by stage and block, for stages with some blocks each, from one block on."""
    return [
        pattern.format(stage, block)
        for stage, count in counts.items()
        for block in range(first, count)
    ]


INVERTED = [3, 5, 6, 8, 9, 10, 12, 13, 15, 16]  # the blocks of MobileNetV2 that keep their shape

# The ends of residual branches and of stages, in the order in which they run.
EXPECTED: dict[str, tuple[list[str], list[str]]] = {
    "resnet18": (
        blocks("layer{}.{}.bn2", {1: 2, 2: 2, 3: 2, 4: 2}),
        ["relu", "layer1", "layer2", "layer3", "layer4"],
    ),
    "resnet50": (
        blocks("layer{}.{}.bn3", {1: 3, 2: 4, 3: 6, 4: 3}),
        ["relu", "layer1", "layer2", "layer3", "layer4"],
    ),
    "mobilenet_v2": (
        [f"features.{i}.conv.3" for i in INVERTED],
        ["features.1", "features.3", "features.6", "features.13", "features.18"],
    ),
    "mnasnet0_5": (
        blocks("layers.{}.{}.layers.7", {8: 3, 9: 3, 10: 3, 11: 2, 12: 4}, first=1),
        ["layers.7", "layers.8", "layers.9", "layers.11", "layers.16"],
    ),
    "regnet_x_400mf": (
        blocks("trunk_output.block{0}.block{0}-{1}.f.c.1", {1: 1, 2: 2, 3: 7, 4: 12}),
        ["stem", *(f"trunk_output.block{i}" for i in range(1, 5))],
    ),
    "convnext_tiny": (
        blocks("features.{}.{}.stochastic_depth", {1: 3, 3: 3, 5: 9, 7: 3}),
        ["features.1", "features.3", "features.5", "features.7"],
    ),
    "densenet121": (
        [],
        ["features.relu0", *(f"features.denseblock{i}" for i in (1, 2, 3)), "features.norm5"],
    ),
    "vgg11_bn": ([], [f"features.{i}" for i in (2, 6, 13, 20, 27, 28)]),
    "shufflenet_v2_x0_5": ([], ["conv1", "maxpool", "stage2", "stage3", "conv5"]),
    "googlenet": ([], ["conv1", "conv3", "inception3b", "inception4e", "inception5b"]),
    "swin_t": ([], ["features.0.0", "permute"]),
}


QUICK = {"resnet18", "mobilenet_v2", "convnext_tiny", "vgg11_bn"}


@pytest.mark.parametrize(
    "name",
    [n if n in QUICK else pytest.param(n, marks=pytest.mark.slow) for n in EXPECTED],
)
def test_ends_of_torchvision_networks(name):
    places = find_places(tv(name), IMAGES)
    residual, stages = EXPECTED[name]
    assert names(places, "residual") == residual
    assert names(places, "stages") == stages


def test_timm_efficientnet_lite():
    """The batch norms of timm have an activation and a dropout inside, which do nothing here."""
    places = find_places(timm.create_model("tf_efficientnet_lite0"), IMAGES)
    assert names(places, "residual") == blocks(
        "blocks.{}.{}.bn3", {1: 2, 2: 2, 3: 3, 4: 3, 5: 4}, first=1
    )
    assert names(places, "stages") == ["blocks.0", "blocks.1", "blocks.2", "blocks.4", "bn2"]
    depthwise = blocks("blocks.{}.{}.conv_dw", {0: 1, 1: 2, 2: 2, 3: 3, 4: 3, 5: 4, 6: 1})
    assert names(places, "depthwise") == depthwise


def test_a_u_net():
    places = find_places(smp.Unet("resnet18", encoder_weights=None), IMAGES)
    encoder = blocks("encoder.layer{}.{}.bn2", {1: 2, 2: 2, 3: 2, 4: 2})
    assert names(places, "residual") == encoder
    stages = ["encoder.relu", *(f"encoder.layer{i}" for i in (1, 2, 3, 4))]
    assert names(places, "stages") == stages
    sizes = {place.name: (place.channels, place.height) for place in places}
    assert sizes["encoder.layer4"] == (512, 7)
    assert [sizes[f"decoder.blocks.{i}"] for i in range(5)] == [
        (256, 14),
        (128, 28),
        (64, 56),
        (32, 112),
        (16, 224),
    ]


def test_a_detection_network_that_scales_its_images_to_one_size():
    """With a list of images; its boxes depend on values, so that it has to run itself."""
    model = torchvision.models.detection.ssdlite320_mobilenet_v3_large(
        weights=None, weights_backbone=None
    )
    places = find_places(model, [torch.rand(3, 100, 120)])
    kept = [1, 3, 5, 6, 8, 9, 10, 12]
    ends = names(places, "residual")
    assert [int(name.split(".")[3]) for name in ends] == [*kept, 1, 2]
    assert all(name.split(".")[-3:] == ["block", name.split(".")[-2], "1"] for name in ends)
    assert {"backbone.features.0.3", "backbone.features.0.6"} <= set(names(places, "stages"))
    assert {place.height for place in places} == {160, 80, 40, 20, 10, 5, 3, 2}


def test_what_a_place_says():
    model = tv("resnet18")
    places = find_places(model, torch.rand(2, 3, 64, 96))
    assert isinstance(places, tuple)
    (place,) = [place for place in places if place.name == "layer2.0.conv1"]
    assert place.module is model.layer2[0].conv1
    assert place == Place(
        name="layer2.0.conv1",
        module=model.layer2[0].conv1,
        kind="Conv2d",
        channels=128,
        height=8,
        width=12,
        calls=1,
        roles=frozenset(),
    )
    assert len({place.name for place in places}) == len(places)
    maps = {n for n, _ in model.named_modules()} - {"", "avgpool", "fc"}
    assert {place.name for place in places} == maps
    twice = [place.name for place in places if place.calls == 2]
    assert twice == blocks("layer{}.{}.relu", {1: 2, 2: 2, 3: 2, 4: 2})
    assert {place.calls for place in places} == {1, 2}


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.act = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(self.act(x))
        y.mean()  # is used elsewhere too
        return self.act(x + y)


def test_the_table():
    model = nn.Sequential(nn.Conv2d(3, 8, 3), Block(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    expected = """\
place   class   channels  height x width  what it is
0       Conv2d         8        10 x 110
1.act   ReLU           8        10 x 110  runs 2 times
1.conv  Conv2d         8        10 x 110  end of a residual branch, depthwise convolution
1       Block          8        10 x 110  end of a stage"""
    assert str(find_places(model, torch.rand(1, 3, 12, 112))) == expected
    assert str(find_places(nn.Linear(3, 2), torch.rand(2, 3))) == (
        "place  class  channels  height x width  what it is"
    )


def test_a_block_that_pools_at_its_end_ends_its_stage_before():
    """Not where it begins, as a block does that only widens the map there."""
    parts = [[nn.Conv2d(c, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)] for c in (3, 8)]
    model = nn.Sequential(*[nn.Sequential(*part) for part in parts], nn.Flatten())
    assert names(find_places(model, SMALL), "stages") == ["0.1", "1.1", "1.2"]
    for part in model[:2]:
        part[0] = nn.Conv2d(part[0].in_channels, 8, 1)
    assert names(find_places(model, SMALL), "stages") == ["0.1", "0.2", "1"]


def test_blocks_are_places_and_what_is_inside_is_none():
    model = small_network()
    before = find_places(model, SMALL)
    sites = [site.name for site in find_se(model)]
    assert {p.name for p in before if p.kind == "SqueezeExcitation"} == set(sites) != set()
    assert not [p.name for p in before for site in sites if p.name.startswith(f"{site}.")]
    after = find_places(replace_se(model, CaCo), SMALL)
    assert [p.name for p in after] == [p.name for p in before]
    changed = [p.kind for p, old in zip(after, before, strict=True) if p.kind != old.kind]
    assert changed == ["CaCo"] * len(sites)
    assert [p.roles for p in after] == [p.roles for p in before]


def test_the_end_of_a_branch_stays_one_with_a_block_behind_it():
    model = tv("resnet18")
    before = find_places(model, IMAGES)
    for name, channels in {"layer1.0.bn2": 64, "layer2.1": 128}.items():
        place = model.get_submodule(name)
        place.attention = SE(channels)
        place.register_forward_hook(lambda module, _, output: module.attention(output))
    after = find_places(model, IMAGES)
    added = [place for place in after if isinstance(place.module, AttentionBlock)]
    assert [(p.name, p.channels) for p in added] == [
        ("layer1.0.bn2.attention", 64),
        ("layer2.1.attention", 128),
    ]
    for role in ("residual", "stages"):
        assert names(after, role) == names(before, role)


def test_a_function_in_place_of_a_method():
    """It runs modules of the network that it was made for, not those of a copy."""
    model = small_network()
    before = find_places(model, SMALL)
    model.features.forward = lambda x, layers=list(model.features): reduce(
        lambda y, layer: layer(y), layers, x
    )
    assert find_places(model, SMALL) == before
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_networks_in_wrappers():
    model = small_network()
    assert find_places(torch.compile(model, backend="eager"), SMALL) == find_places(model, SMALL)
    with pytest.raises(TypeError, match="find_places cannot read a ScriptModule"):
        find_places(torch.jit.script(nn.ReLU()), SMALL)
    with pytest.raises(TypeError, match=r"must be an nn\.Module"):
        find_places(len, SMALL)


LAYERS = {
    "conv": lambda: nn.Conv2d(4, 4, 3, padding=1),
    "valid": lambda: nn.Conv2d(4, 4, 3),
    "strided": lambda: nn.Conv2d(4, 4, 3, stride=2, padding=1),
    "depthwise": lambda: nn.Conv2d(4, 4, 3, padding=1, groups=4),
    "norm": lambda: nn.BatchNorm2d(4),
    "relu": lambda: nn.ReLU(inplace=True),
    "pool": lambda: nn.MaxPool2d(2),
    "last": lambda: Permuted(),
}


class Permuted(nn.Module):
    """Returns (N, H, W, C)."""

    def forward(self, x: Tensor) -> Tensor:
        return x.permute(0, 2, 3, 1)


class Chain(nn.Module):
    """Runs layers one after the other."""

    def __init__(self, kinds: list[str]):
        super().__init__()
        self.layers = nn.ModuleList(LAYERS[kind]() for kind in kinds)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            y = layer(x)
            x = y.permute(0, 3, 1, 2) if isinstance(layer, Permuted) else y
        return x.mean((2, 3))


@given(st.lists(st.sampled_from(sorted(LAYERS)), min_size=1, max_size=8))
@settings(max_examples=40)
def test_random_chains(kinds):
    """The expected places, by running the layers one after the other."""
    model, x = Chain(kinds).eval(), torch.rand(1, 4, 63, 65)
    sizes: dict[str, tuple[int, int]] = {}
    for i, layer in enumerate(model.layers):
        if not isinstance(layer, Permuted):
            x = layer(x)
            sizes[f"layers.{i}"] = (x.shape[2], x.shape[3])
        if x.shape[2] < 4:
            return
    places = find_places(model, torch.rand(1, 4, 63, 65))
    assert {place.name: (place.height, place.width) for place in places} == sizes
    found = list(sizes)
    ends = [
        name
        for name, after in pairwise(found)
        if sizes[name][0] * sizes[name][1] >= 2 * sizes[after][0] * sizes[after][1]
    ]
    assert names(places, "stages") == [*ends, *found[-1:]]
    assert names(places, "residual") == []
    depthwise = [f"layers.{i}" for i, kind in enumerate(kinds) if kind == "depthwise"]
    assert names(places, "depthwise") == depthwise
