"""What insertion and removal refuse, with which advice, and that they then change nothing."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import timm
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel
from torchvision.models.convnext import CNBlockConfig, ConvNeXt
from torchvision.models.quantization.mobilenetv3 import QuantizableSqueezeExcitation
from torchvision.models.swin_transformer import SwinTransformer

from attnblocks import SE, AttentionBlock, CaCo, insert, remove
from tests.swap.inserted import IMAGES, Net, anatomy, net, same_anatomy


class Pairs(nn.Module):
    """Returns two maps."""

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return x, x


class Nothing(nn.Module):
    """Returns nothing."""

    def forward(self, x: torch.Tensor) -> None:
        return None


class Odd(Net):
    """With modules that return no map, or do not run."""

    def __init__(self) -> None:
        super().__init__()
        self.pairs, self.nothing, self.unused = Pairs(), Nothing(), nn.BatchNorm2d(8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        first, _ = self.pairs(x)
        self.nothing(first)
        return super().forward(first)


class Half(AttentionBlock):
    """Halves its map; says it starts as the identity."""

    gate_names = ("channel",)

    def gates(self, x: torch.Tensor) -> list[torch.Tensor]:
        return [torch.full_like(x[:, :, :1, :1], 0.5)]

    def start_as_identity(self) -> None:
        return None


class Plain(Half):
    """Has no stages with a gain."""

    start_as_identity = AttentionBlock.start_as_identity


class Narrow(nn.Module):
    """Gives back fewer channels."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels - 1, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv(x)


def fails_at_bn(place: Any) -> nn.Module:
    if place.name == "bn":
        raise RuntimeError("out of ideas")
    return SE(place.channels)


ONE = SE(8)
BN = {"after": "bn"}


@pytest.mark.parametrize(
    ("block", "options", "error", "message"),
    [
        (SE, {"after": "no.such"}, LookupError, "'no.such' names no module that returns a map"),
        (SE, {"after": ["bn", "typo*"]}, LookupError, r"'typo\*' names no module"),
        (SE, {"after": lambda place: False}, LookupError, "selects no place"),
        (SE, {"after": "head"}, ValueError, r"behind 'head'.*it returns a tensor of shape \(2, 5"),
        (SE, {"after": "pairs"}, ValueError, "behind 'pairs'.*it returns a tuple"),
        (SE, {"after": "p*"}, ValueError, r"behind 'pairs', which 'p\*' names"),
        (SE, {"after": "nothing"}, ValueError, "behind 'nothing'.*it returns nothing"),
        (SE, {"after": "unused"}, ValueError, "behind 'unused'.*run"),
        (SE, {}, TypeError, "after must name the modules"),
        (SE, {"after": []}, LookupError, "after names no module"),
        ({"bn": SE, "typo": CaCo}, {}, LookupError, "'typo' names no module"),
        ({"*": SE, "bn": CaCo}, {}, ValueError, r"which '\*' names"),
        ({"stem.*": SE, "stem.1": CaCo}, {}, LookupError, "after patterns that take all"),
        ({}, {}, LookupError, "the mapping from patterns to blocks is empty"),
        ({"bn": SE}, BN, TypeError, "leave out where or after"),
        ("Cacao", BN, ValueError, "Did you mean 'CaCo'"),
        (ONE, BN, TypeError, "block must be a class, a name or a function"),
        (7, BN, TypeError, "block must be a class, a name or a function"),
        (SE, {**BN, "init": "inherit"}, ValueError, "init must be 'identity' or 'fresh'"),
        (SE, {**BN, "rd_ratio": -1}, ValueError, "behind 'bn' cannot be made: rd_ratio"),
        (SE, {**BN, "dtype": torch.float64}, TypeError, "'dtype'"),
        (SE, {**BN, "no_such": 1}, ValueError, "behind 'bn' cannot be made: .*no_such"),
        (SE, {**BN, "gate_layer": nn.ReLU}, ValueError, "gates of ReLU cannot start at 1"),
        (SE, {**BN, "gain": 3.0}, ValueError, "has a gain of 3, from its maker"),
        (fails_at_bn, {"after": ["stem.1", "bn"]}, ValueError, "behind 'bn'.*out of ideas"),
        (lambda place: place.channels, BN, ValueError, "8 is no nn.Module"),
        (lambda place: ONE, {"after": ["bn", "stem.1"]}, ValueError, "one several times"),
        (lambda place: place.module, {**BN, "init": "fresh"}, ValueError, "one several times"),
        (nn.Identity, BN, ValueError, "Identity is no AttentionBlock.*init='fresh'"),
        (Plain, BN, ValueError, "Plain has no stage with a gain"),
        (Half, BN, ValueError, "the block behind 'bn' does not start as an identity"),
        (Narrow, {**BN, "init": "fresh"}, ValueError, "cannot run with the new blocks"),
        (SE, {**BN, "example": "word"}, TypeError, "example must be what the network is called"),
        (SE, {**BN, "example": nn.ReLU()}, TypeError, "example must be what the network"),
        (SE, {**BN, "example": torch.rand(2, 4, 16, 16)}, ValueError, "does not run on example"),
        (SE, {**BN, "example": {"y": IMAGES}}, ValueError, "does not run on example"),
        (SE, {**BN, "example": (IMAGES, IMAGES)}, ValueError, "does not run on example"),
        (SE, {**BN, "optimizers": "sgd"}, TypeError, "optimizers must be torch optimizers"),
    ],
)
def test_a_refusal_leaves_everything_as_it_was(block, options, error, message):
    torch.manual_seed(0)
    model = Odd().train()
    model.bn.eval()
    before = anatomy(model)
    with pytest.raises(error, match=message):
        insert(model, block, **{"example": IMAGES, **options})
    assert same_anatomy(model, before)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda p: torch.optim.LBFGS(p), "LBFGS keeps one vector"),
        (lambda p: torch.optim.Adagrad(p), "Adagrad makes the state"),
        (lambda p: torch.optim.Adam(p, fused=True), "Adam is fused"),
        (lambda p: torch.optim.SGD([nn.Parameter(torch.ones(1))], lr=1), "those of another"),
        (
            lambda p: torch.optim.SGD([{"params": [q]} for q in p if q.dim() == 1], lr=1),
            "nothing says which of 2 groups",
        ),
    ],
)
def test_an_optimizer_that_cannot_follow(make, message):
    model = net()
    optimizer = make(list(model.parameters()))
    before = anatomy(model)
    groups = [list(group["params"]) for group in optimizer.param_groups]
    with pytest.raises(ValueError, match=message):
        insert(model, "CaCo", after=["stem.1", "bn"], example=IMAGES, optimizers=optimizer)
    assert same_anatomy(model, before)
    assert [list(group["params"]) for group in optimizer.param_groups] == groups


class ByHelper(nn.Module):
    """Runs its children in a function of its own, and the network cannot be read to know it."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)

    def chained(self, x: torch.Tensor) -> torch.Tensor:
        for child in self.children():
            x = child(x)
        return x

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.chained(x)


def test_a_block_that_would_run_twice():
    model = nn.Sequential(ByHelper(), nn.ReLU()).eval()
    before = anatomy(model)
    with pytest.raises(ValueError, match=r"'0' runs 1 times, and the block behind it 2 times"):
        insert(model, "CaCo", after="0", example=IMAGES)
    assert same_anatomy(model, before)
    insert(model, "CaCo", after="0.second", example=IMAGES)


def test_networks_whose_maps_have_the_channels_last():
    convnext = ConvNeXt([CNBlockConfig(16, 16, 1), CNBlockConfig(16, None, 1)], num_classes=4)
    swin = SwinTransformer([4, 4], 16, [1, 1], [2, 2], [2, 2], num_classes=4)
    for model, place in ((convnext, "features.1.0.block.2"), (swin, "features.1.0.norm1")):
        before = anatomy(model)
        for after in (place, [place]):
            with pytest.raises(ValueError, match=rf"no block can be put behind '{place}'.*axis 1"):
                insert(model, SE, after=after, example=torch.rand(1, 3, 32, 32))
        assert same_anatomy(model, before)


def half_compiled(model: nn.Module) -> nn.Module:
    model.stem = torch.compile(model.stem, backend="eager")
    return model


def compiled_in_place(model: nn.Module) -> nn.Module:
    model.stem.compile(backend="eager")
    return model


WRAPPED: dict[str, Callable[[nn.Module], nn.Module]] = {
    "OptimizedModule": lambda model: torch.compile(model, backend="eager"),
    "OptimizedModule ": half_compiled,
    "network after model.compile": compiled_in_place,
    "DataParallel": nn.DataParallel,
    "AveragedModel": AveragedModel,
    "ModelEmaV3": timm.utils.ModelEmaV3,
    "ScriptModule": lambda model: torch.jit.trace(model, IMAGES),
    "ExportedProgram": lambda model: torch.export.export(model, (IMAGES,)),
}


@pytest.mark.parametrize("name", WRAPPED)
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
def test_wrapped_networks(name):
    inside = insert(net(), SE, after="bn", example=IMAGES)
    wrapped = WRAPPED[name](inside)
    before = anatomy(inside)
    with pytest.raises(TypeError, match=f"insert cannot change a {name}"):
        insert(wrapped, SE, after="stem.1", example=IMAGES)
    with pytest.raises(TypeError, match=f"remove cannot change a {name}"):
        remove(wrapped)
    assert same_anatomy(inside, before)


def test_what_is_no_network():
    for change in (lambda m: insert(m, SE, after="x", example=IMAGES), remove):
        with pytest.raises(TypeError, match=r"model must be an nn\.Module"):
            change("resnet18")


@pytest.mark.parametrize(
    "part",
    [
        QuantizableSqueezeExcitation(8, 2),
        torch.ao.quantization.QuantStub(),
    ],
    ids=lambda part: type(part).__name__,
)
def test_quantizable_networks(part):
    model = net()
    model.pool = nn.Sequential(part, model.pool)
    before = anatomy(model)
    with pytest.raises(TypeError, match="quantizable network"):
        insert(model, SE, after="bn", example=IMAGES)
    assert same_anatomy(model, before)


def test_a_module_that_runs_several_times_is_named():
    class Twice(Net):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.stem(x)
            x = self.bn(self.conv(self.bn(self.conv(x))))
            return self.head(x.mean((2, 3)))

    torch.manual_seed(0)
    model = Twice().eval()
    original = copy.deepcopy(model)
    with pytest.warns(UserWarning, match="bn run several times in a forward pass") as caught:
        insert(model, "CBAM", after=["bn", "stem.1"], example=IMAGES)
    assert "stem" not in str(caught[0].message)
    assert caught[0].filename == __file__
    assert torch.equal(model(IMAGES), original(IMAGES))


def test_what_remove_refuses():
    model = net()
    with pytest.raises(LookupError, match="Net has no inserted block"):
        remove(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    insert(model, SE, after=["bn", "stem.1"], example=IMAGES, optimizers=optimizer)
    before = anatomy(model)
    groups = list(optimizer.param_groups[0]["params"])
    for where, error, message in (
        ("typo", LookupError, "'typo' matches none of the sites"),
        (["bn.attention", "bn"], LookupError, "'bn' matches none"),
        (lambda site: False, LookupError, "selects none"),
    ):
        with pytest.raises(error, match=message):
            remove(model, where, optimizers=optimizer)
    fused = torch.optim.SGD(model.parameters(), lr=0.1, fused=True)
    with pytest.raises(ValueError, match="SGD is fused"):
        remove(model, optimizers=[optimizer, fused])
    assert same_anatomy(model, before)
    assert all(a is b for a, b in zip(optimizer.param_groups[0]["params"], groups, strict=True))
