"""The swap on random networks: exactly the sites that were asked for, or nothing at all."""

import warnings

import pytest
import torch
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st
from timm.layers import SEModule
from torch import nn

from attnblocks import SE, CaCo, Eca, find_se, replace_se
from tests.helpers import snapshot, unchanged

WIDTH = 8
SITES = {
    "own": lambda: SE(WIDTH),
    "timm": lambda: SEModule(WIDTH),
    "torchvision": lambda: torchvision.ops.SqueezeExcitation(WIDTH, 4),
    "swapped already": lambda: CaCo(WIDTH),  # with a stage inside that is a site elsewhere
}
OTHERS = {
    "convolution": lambda: nn.Conv2d(WIDTH, WIDTH, 3, padding=1),
    "norm": lambda: nn.BatchNorm2d(WIDTH),
    "activation": nn.ReLU,
}


class Chain(nn.Module):
    """Runs what a container of either kind holds, one after the other."""

    def __init__(self, parts: nn.ModuleList | nn.ModuleDict) -> None:
        super().__init__()
        self.parts = parts

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        parts = self.parts.values() if isinstance(self.parts, nn.ModuleDict) else self.parts
        for part in parts:
            x = part(x)
        return x


def of_parts(children: list[nn.Module]) -> st.SearchStrategy[nn.Module]:
    names = [f"part{number}" for number in range(len(children))]
    return st.sampled_from(
        [
            nn.Sequential(*children),
            Chain(nn.ModuleList(children)),
            Chain(nn.ModuleDict(dict(zip(names, children, strict=True)))),
        ]
    )


@st.composite
def networks(draw) -> nn.Module:
    """Containers in containers; some blocks shared, frozen, or with hooks."""
    shared = SE(WIDTH)
    leaves = st.sampled_from([*SITES.values(), *OTHERS.values(), lambda: shared])
    leaf = leaves.map(lambda make: make())
    model = draw(
        st.recursive(leaf, lambda parts: st.lists(parts, min_size=1, max_size=4).flatmap(of_parts))
    )
    for module in model.modules():
        if draw(st.booleans()):
            module.requires_grad_(draw(st.booleans()))
        module.train(draw(st.booleans()))
        if draw(st.integers(0, 3)) == 0:
            module.register_forward_hook(lambda *_: None)
    return model


def expected_sites(model: nn.Module) -> dict[nn.Module, list[str]]:
    """The sites and all their places, found by hand; what is inside one is none."""
    classes = (SE, CaCo, SEModule, torchvision.ops.SqueezeExcitation)
    places: dict[nn.Module, list[str]] = {}

    def descend(module: nn.Module, name: str) -> None:
        if isinstance(module, classes):
            places.setdefault(module, []).append(name)
            return
        for key, child in module._modules.items():
            descend(child, f"{name}.{key}" if name else key)

    descend(model, "")
    return places


@given(networks(), st.data())
def test_exactly_the_sites_asked_for_are_replaced(model, data):
    places = expected_sites(model)
    assert [site.module for site in find_se(model)] == list(places)
    if not places:
        return
    chosen = data.draw(
        st.sets(st.sampled_from([names[0] for names in places.values()]), min_size=1)
    )
    before = dict(model.named_modules(remove_duplicate=False))
    tensors = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
    hooked = any(
        part._forward_hooks
        for site, names in places.items()
        for part in site.modules()
        if names[0] in chosen
    )
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        swapped = replace_se(model, Eca, where=lambda site: site.name in chosen)
    assert ["take their hooks" in str(warning.message) for warning in caught] == [True] * hooked
    after = dict(swapped.named_modules(remove_duplicate=False))
    gone = [name for names in places.values() if names[0] in chosen for name in names]
    for names in places.values():
        if names[0] in chosen:
            (new,) = {after[name] for name in names}  # shared as before
            assert type(new) is Eca
            assert new.training == before[names[0]].training
    inside = tuple(f"{name}." if name else "" for name in gone)
    kept = [name for name in before if name not in gone and not name.startswith(inside)]
    assert all(after[name] is before[name] for name in kept)
    state = swapped.state_dict()
    assert all(
        torch.equal(state[name], tensor)
        for name, tensor in tensors.items()
        if not name.startswith(inside)
    )
    x = torch.rand(2, WIDTH, 5, 6)
    assert swapped.eval()(x).shape == x.shape


@given(networks(), st.data())
def test_a_swap_that_fails_leaves_everything_as_it_was(model, data):
    places = expected_sites(model)
    before = snapshot(model)
    if not places:
        with pytest.raises(LookupError):
            replace_se(model, CaCo)
    else:
        last = data.draw(st.integers(0, len(places) - 1))
        made = []

        def fails_at_last(site) -> nn.Module:
            made.append(site.name)
            if len(made) > last:
                raise RuntimeError("out of luck")
            return nn.Identity()

        with pytest.raises(ValueError, match="out of luck"):
            replace_se(model, fails_at_last)
    assert unchanged(model, before)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:replaced blocks take their hooks")
@settings(max_examples=3)
@given(networks().filter(expected_sites), st.sampled_from(["inherit", "fresh"]))
def test_there_and_back_a_hundred_times_does_not_grow_the_network(model, init):
    def size(network: nn.Module) -> tuple[int, int, int]:
        tensors = [*network.parameters(), *network.buffers()]
        hooks = sum(len(module._forward_hooks) for module in network.modules())
        return len(list(network.modules())), sum(t.numel() for t in tensors), hooks

    model = replace_se(replace_se(model, CaCo, init=init), SE, init=init)
    first = size(model)
    for _ in range(100):
        model = replace_se(replace_se(model, CaCo, init=init), SE, init=init)
    assert size(model) == first
    assert all(torch.isfinite(tensor).all() for tensor in model.state_dict().values())
