"""Torch-Pruning: all blocks are narrowed with their maps, and the pruned network is a network."""

import copy
from functools import cache

import pytest
import timm
import torch
import torchvision
from torch import nn

from attnblocks import (
    customized_pruners,
    find_se,
    insert,
    load_model,
    recipe,
    replace_se,
    save_model,
)
from tests.helpers import BLOCKS, by_reference, randomized

tp = pytest.importorskip(
    "torch_pruning", reason="torch-pruning is not installed: pip install '.[clients]'"
)

pytestmark = [
    pytest.mark.clients,
    pytest.mark.filterwarnings("ignore:.*KernelPreference"),
]

IMAGES = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
LABELS = torch.tensor([0, 2])
SHARE = 0.3


def of_torchvision(block):
    return replace_se(torchvision.models.mobilenet_v3_small(num_classes=4), block)


def of_timm(block):
    return replace_se(
        timm.create_model("mobilenetv3_small_050", num_classes=4), block, init="fresh"
    )


def resnet(block):
    network = torchvision.models.ResNet(
        torchvision.models.resnet.BasicBlock, [1, 1, 1, 1], num_classes=4
    )
    first = (
        "layer1" if block == "Eca" else "layer1.0.bn2"
    )  # a norm is refused: tests/swap/test_pruning.py
    return insert(network, block, after=[first, "layer2", "layer4"], example=IMAGES)


NETWORKS = {make.__name__: make for make in (of_torchvision, of_timm, resnet)}
every_block = pytest.mark.parametrize("block", BLOCKS)
every_network = pytest.mark.parametrize("network", NETWORKS)


def pruner(model):
    """As on the page of the docs."""
    heads = [m for m in model.modules() if isinstance(m, nn.Linear) and m.out_features == 4]
    return tp.pruner.MagnitudePruner(
        model,
        IMAGES,
        importance=tp.importance.MagnitudeImportance(),
        pruning_ratio=SHARE,
        ignored_layers=heads,
        customized_pruners=customized_pruners(model),
    )


@cache
def pruned(network, block):
    """A network before and after pruning; what was pruned in which modules; the history."""
    model = randomized(NETWORKS[network](block)).eval()
    before, names = copy.deepcopy(model), {m: name for name, m in model.named_modules()}
    cuts, work = [], pruner(model)
    for group in work.step(interactive=True):
        cuts += [
            (names[dep.target.module], dep.handler.__name__, list(idxs))
            for dep, idxs in group
            if dep.target.module in names
        ]
        group.prune()
    return before, model, cuts, work.pruning_history()


def maps_of(model, images=IMAGES):
    """What comes to each block, and what it returns, by its name."""
    seen = {}
    hooks = [
        site.module.register_forward_hook(
            lambda _, args, y, name=site.name: seen.update({name: (args[0], y)})
        )
        for site in find_se(model)
    ]
    with torch.no_grad():
        model(images)
    for hook in hooks:
        hook.remove()
    return seen


def left(width):
    return int(width * (1 - SHARE))


@every_block
@every_network
def test_widths_shrink_with_the_maps(network, block):
    before, model, *_ = pruned(network, block)
    widths = {site.name: site for site in find_se(before)}
    maps = maps_of(model)
    assert len(maps) == len(widths) >= 3
    for site in find_se(model):
        channels, old = maps[site.name][0].shape[1], widths[site.name]
        assert channels == left(old.channels) < old.channels
        assert site.channels == channels
        if old.rd_channels is not None:
            assert site.rd_channels == max(1, left(old.rd_channels)) <= old.rd_channels
        for name, stage in site.module.named_modules():
            gain = getattr(stage, "gain", None)
            assert gain is None or gain.shape in ((), (channels,)), name


@every_block
def test_each_block_computes_what_its_weights_say(block):
    _, model, *_ = pruned("of_timm", block)
    for name, (x, y) in maps_of(model).items():
        expected = by_reference(block, model.get_submodule(name), x)
        torch.testing.assert_close(y.double(), expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("block", ["Eca", "CoordAtt"])
def test_gains_are_those_of_the_channels_that_are_left(block):
    before, model, cuts, _ = pruned("of_torchvision", block)
    removed = {name: idxs for name, cut, idxs in cuts if cut == "prune_out_channels"}
    for site in find_se(model):
        above, _, place = site.name.rpartition(".")
        norm = f"{above}.{int(place) - 1}.1"
        kept = [i for i in range(before.get_submodule(norm).num_features) if i not in removed[norm]]
        assert torch.equal(site.module.gain, before.get_submodule(site.name).gain[kept])


@pytest.mark.parametrize("block", ["SE", "CoordAtt", "SeCo", "CaCo"])
@pytest.mark.parametrize("network", ["of_torchvision", "resnet"])
def test_the_network_computes_what_it_did_with_those_channels_at_zero(network, block):
    """A channel whose weights, bias and norm are 0 is 0 everywhere, and changes nothing."""
    before, model, cuts, _ = pruned(network, block)
    masked = copy.deepcopy(before).double()
    for name, cut, idxs in cuts:
        layer = masked.get_submodule(name)
        if cut == "prune_out_channels" and hasattr(layer, "weight"):
            layer.weight.data[idxs] = 0
            if layer.bias is not None:
                layer.bias.data[idxs] = 0
    model = copy.deepcopy(model).double()
    with torch.no_grad():
        expected, found = masked(IMAGES.double()), model(IMAGES.double())
        assert not torch.allclose(expected, before.double()(IMAGES.double()), rtol=1e-3)
    torch.testing.assert_close(found, expected, atol=1e-9, rtol=1e-9)


@every_block
@pytest.mark.parametrize("network", ["of_torchvision", "resnet"])
def test_the_network_trains(network, block):
    model = copy.deepcopy(pruned(network, block)[1]).train()
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-4)
    losses = []
    for _ in range(3):
        loss = nn.functional.cross_entropy(model(IMAGES), LABELS)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
        assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    assert losses[-1] < losses[0]


@pytest.mark.parametrize(
    ("network", "block"),
    [*(("resnet", block) for block in BLOCKS), ("of_torchvision", "CoordAtt"), ("of_timm", "CaCo")],
)
def test_a_file_of_it_loads_into_a_network_that_is_pruned_alike(network, block, tmp_path):
    _, model, _, history = pruned(network, block)
    path = tmp_path / "pruned.safetensors"
    save_model(model, path)
    base = NETWORKS[network](block)
    pruner(base).load_pruning_history(history)
    loaded = load_model(path, base=base.train()).eval()
    assert recipe(loaded) == recipe(model)
    with torch.no_grad():
        assert torch.equal(loaded(IMAGES), model(IMAGES))


def test_a_base_of_the_libraries_has_other_widths(tmp_path):
    model = pruned("of_torchvision", "CaCo")[1]
    base = {"base": "torchvision/mobilenet_v3_small", "base_kwargs": {"num_classes": 4}}
    with pytest.raises(ValueError, match=r"has 16 channels, not 11.*narrowed.*without base"):
        save_model(model, tmp_path / "no.safetensors", **base)
    assert not list(tmp_path.iterdir())


def test_without_the_pruners_of_the_blocks_the_gain_is_named():
    model = of_torchvision("CoordAtt")
    group = (
        tp.DependencyGraph()
        .build_dependency(model, IMAGES)
        .get_pruning_group(model.features[1].block[0][0], tp.prune_conv_out_channels, [0, 1])
    )
    group.prune()
    with pytest.raises(RuntimeError, match=r"CoordAtt.*\(2, 14, .*16 channels.*customized_pruners"):
        model(IMAGES)


def test_networks_without_such_blocks_need_no_pruners():
    assert customized_pruners(torchvision.models.resnet18()) == {}
    assert customized_pruners(of_timm("SE")) == {}
