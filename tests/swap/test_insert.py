"""Insertion: where blocks go, what they are called, in which order they run, and what stays."""

import copy

import pytest
import segmentation_models_pytorch as smp
import torch
import torchvision
from torch import nn

from attnblocks import CBAM, SE, CaCo, CoordAtt, Eca, find_se, insert, remove, replace_se
from attnblocks.swap.behind import hooks_on
from tests.helpers import BLOCKS, FORMATS, randomized
from tests.swap.inserted import IMAGES, Net, anatomy, lively, net, same_anatomy, same_bits


def names(model: nn.Module) -> list[tuple[str, str | None]]:
    return [(site.name, site.after) for site in find_se(model)]


@pytest.mark.parametrize("layout", FORMATS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64], ids=str)
@pytest.mark.parametrize("block", BLOCKS)
def test_nothing_changes_to_the_bit_and_the_place_is_taken_over(block, dtype, layout):
    model = net().to(dtype).to(memory_format=FORMATS[layout])
    model.bn.train()
    original = copy.deepcopy(model)
    x = IMAGES.to(dtype).contiguous(memory_format=FORMATS[layout])
    assert insert(model, block, after=["stem.1", "bn", "depthwise"], example=x) is model
    assert [(site.name, site.module.training) for site in find_se(model)] == [
        ("stem.1.attention", False),
        ("bn.attention", True),
        ("depthwise.attention", False),
    ]
    for site in find_se(model):
        assert {p.dtype for p in site.module.parameters()} == {dtype}
        for p in site.module.parameters():
            if p.dim() == 4:
                assert p.is_contiguous(memory_format=FORMATS[layout])
    for train in (False, True):
        assert same_bits(model.train(train)(x), original.train(train)(x))
    assert all(torch.equal(b, dict(model.named_buffers())[n]) for n, b in original.named_buffers())


def test_all_that_was_there_stays():
    model = net().train()
    model.head.requires_grad_(False)
    model.bn.eval()
    model.conv.register_forward_pre_hook(print_nothing)
    optimizer = torch.optim.SGD(
        [{"params": [model.conv.weight]}, {"params": [model.bn.weight, model.bn.bias]}], lr=0.1
    )
    groups = copy.copy(optimizer.param_groups), [list(g["params"]) for g in optimizer.param_groups]
    before, parts = anatomy(model), dict(model.named_modules())
    state, parameters = model.state_dict(), dict(model.named_parameters())
    insert(model, "CaCo", after="bn", example=IMAGES)
    after = model.state_dict()
    assert [key for key in after if key in state] == list(state)
    assert all(torch.equal(after[key], value) for key, value in state.items())
    assert all(key.startswith("bn.attention.") for key in after.keys() - state.keys())
    found = dict(model.named_parameters())
    assert [key for key in found if key in parameters] == list(parameters)
    assert all(found[key] is p for key, p in parameters.items())
    modules = dict(model.named_modules())
    assert [key for key in modules if key in parts] == list(parts)
    assert all(modules[key] is part for key, part in parts.items())
    assert groups == (
        list(optimizer.param_groups),
        [list(g["params"]) for g in optimizer.param_groups],
    )
    now = anatomy(model)
    changed = {key for key in before if not same(before[key], now[key])}
    # The record, the child and the hook.
    assert changed == {" has", "bn _modules", "bn _forward_hooks"}


def print_nothing(*_: object) -> None:
    """A hook of somebody else."""


def same(a: object, b: object) -> bool:
    return torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b


def test_random_numbers_go_to_the_weights_of_the_blocks_alone():
    """The runs draw none: what is drawn is what the blocks draw."""
    model = net()
    model.pool = nn.Sequential(model.pool, nn.Dropout(0.5)).train()
    torch.manual_seed(5)
    CaCo(8), CaCo(8)
    expected = torch.get_rng_state()
    torch.manual_seed(5)
    insert(model, CaCo, after=["bn", "depthwise"], example=IMAGES)
    assert torch.equal(torch.get_rng_state(), expected)


def homes(model: nn.Module, after: str, x: torch.Tensor) -> list[tuple[str, str | None]]:
    """Insert behind a module, see that it runs and goes away again, and tell its name."""
    model.eval()
    original, before = copy.deepcopy(model), anatomy(model)
    insert(model, "CBAM", after=after, example=x)
    found = [(name, place) for name, place in names(model) if place is not None]
    assert same_bits(model(x), original(x))
    for site in find_se(model):
        if site.after is None:
            continue
        # It runs behind that module, and what it computes counts.
        seen = []
        hook = site.module.register_forward_hook(lambda *args, seen=seen: seen.append(args))
        nn.init.constant_(site.module.channel.fc2.bias, -9.0)
        assert not same_bits(model(x), original(x))
        hook.remove()
        assert len(seen) == 1
    remove(model)
    assert same_anatomy(model, before)
    return found


def test_the_homes_of_blocks_behind_modules_that_run_their_children():
    x = torch.rand(2, 3, 32, 32)
    basic = torchvision.models.resnet.BasicBlock
    resnet = lively(torchvision.models.ResNet(basic, [1, 1, 1, 1]))
    assert homes(resnet, "layer1", x) == [("layer1.0.layer1_attention", "layer1")]
    mobile = lively(torchvision.models.mobilenet_v2(width_mult=0.25))
    assert homes(mobile, "features.0", x) == [("features.0.2.features_0_attention", "features.0")]
    dense = lively(torchvision.models.DenseNet(8, (2, 2), 16))
    found = homes(dense, "features.denseblock1", x)
    assert found == [
        ("features.denseblock1.denselayer2.features_denseblock1_attention", "features.denseblock1")
    ]
    found = homes(dense, "features.denseblock1.denselayer1", x)
    assert found == [
        ("features.denseblock1.denselayer1.attention", "features.denseblock1.denselayer1")
    ]


def test_the_homes_of_blocks_in_the_lists_of_a_unet():
    torch.manual_seed(0)
    unet = lively(
        smp.Unet("resnet18", encoder_weights=None, encoder_depth=3, decoder_channels=(16, 8, 8))
    )
    x = torch.rand(1, 3, 32, 32)
    assert homes(unet, "decoder.blocks.1", x) == [
        ("decoder.blocks.1.attention", "decoder.blocks.1")
    ]
    assert homes(unet, "decoder.blocks.0.conv2", x) == [
        ("decoder.blocks.0.conv2.2.decoder_blocks_0_conv2_attention", "decoder.blocks.0.conv2")
    ]


class Branches(nn.Module):
    """A dictionary of branches, whose values all run; and one module that iterates by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.branches = nn.ModuleDict({"a": nn.Conv2d(3, 4, 1), "b": nn.Conv2d(3, 4, 3, padding=1)})
        self.attention = "a word"

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return sum(branch(x) for branch in self.branches.values())


class Chain(nn.Module):
    """Runs all of its children."""

    def __init__(self, *parts: nn.Module) -> None:
        super().__init__()
        for i, part in enumerate(parts):
            self.add_module(f"part{i}", part)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for part in self.children():
            x = part(x)
        return x


def test_the_homes_of_blocks_in_dictionaries_sequences_and_loops():
    torch.manual_seed(0)
    root = nn.Sequential(Branches(), nn.Sequential(nn.Conv2d(4, 4, 1), nn.ReLU()), nn.Flatten())
    assert homes(root, "0.branches.a", IMAGES) == [("0.branches.a.attention", "0.branches.a")]
    # The module has an attribute of that name; and all around are sequences.
    assert homes(root, "0", IMAGES) == [("0.attention_2", "0")]
    assert homes(root, "1", IMAGES) == [("1.1.1_attention", "1")]
    loop = Chain(nn.Conv2d(3, 4, 1), Chain(nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4)))
    assert homes(loop, "part1", IMAGES) == [("part1.part1.part1_attention", "part1")]
    within = nn.Sequential(Chain(nn.Conv2d(3, 4, 1)))
    # Never in a layer of a block, with which it would go.
    blocks = nn.Sequential(nn.Sequential(nn.Conv2d(3, 4, 1), SE(4)), nn.Flatten())
    assert homes(blocks, "0.1", IMAGES) == [("0.0.0_1_attention", "0.1")]
    insert(blocks, "CaCo", after="0.0", example=IMAGES)
    insert(blocks, "CBAM", after=["0", "0.1"], example=IMAGES)
    assert names(blocks) == [
        ("0.0.attention", "0.0"),
        ("0.0.0_1_attention", "0.1"),
        ("0.0.0_attention", "0"),
        ("0.1", None),
    ]
    assert homes(within, "0", IMAGES) == [("0.part0.0_attention", "0")]


def test_several_behind_one_module_run_in_the_order_in_which_they_came():
    """Blocks that do not commute, against a composition by hand."""
    model = net()
    for block in (CoordAtt, CBAM, SE):
        insert(model, block, after="bn", example=IMAGES, init="fresh")
    assert names(model) == [
        ("bn.attention", "bn"),
        ("bn.attention_2", "bn"),
        ("bn.attention_3", "bn"),
    ]
    randomized(model.bn.attention), randomized(model.bn.attention_2)
    first, second, third = model.bn.attention, model.bn.attention_2, model.bn.attention_3
    plain = net()

    def run(*blocks: nn.Module) -> torch.Tensor:
        x = plain.stem(IMAGES)
        y = plain.bn(plain.conv(x))
        for block in blocks:
            y = block(y)
        return plain.head(plain.depthwise(plain.pool((x + y).relu())).mean((2, 3)))

    assert torch.equal(model(IMAGES), run(first, second, third))
    assert not torch.allclose(model(IMAGES), run(second, first, third))
    assert [hook.path for hook in hooks_on(model.bn)] == [
        ("attention",),
        ("attention_2",),
        ("attention_3",),
    ]
    remove(model, "bn.attention")
    assert torch.equal(model(IMAGES), run(second, third))
    # A block is behind the module, and not behind another block, with which it would go.
    with pytest.raises(LookupError, match=r"'bn\.attention_2' names no module"):
        insert(model, "CaCo", after="bn.attention_2", example=IMAGES)
    insert(model, "CaCo", after="bn*", example=IMAGES, init="fresh")
    assert names(model)[-1] == ("bn.attention", "bn")
    assert len(names(model)) == 3
    assert torch.equal(model(IMAGES), run(second, third, model.bn.attention))


def test_a_hand_written_network_computes_the_same_and_so_are_its_gradients():
    class Written(Net):
        def __init__(self) -> None:
            super().__init__()
            self.bn.attention = CaCo(8)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.stem(x)
            y = self.bn.attention(self.bn(self.conv(x)))
            return self.head(self.depthwise(self.pool((x + y).relu())).mean((2, 3)))

    model = insert(net(), CaCo, after="bn", example=IMAGES, init="fresh")
    written = Written()
    assert list(written.state_dict()) == list(model.state_dict())
    written.load_state_dict(model.state_dict())
    for train in (False, True):
        outputs = [network.train(train)(IMAGES) for network in (model, written)]
        assert torch.equal(*outputs)
        for network, output in zip((model, written), outputs, strict=True):
            network.zero_grad()
            output.square().sum().backward()
        for (name, ours), theirs in zip(
            model.named_parameters(), written.parameters(), strict=True
        ):
            assert torch.equal(ours.grad, theirs.grad), name


@pytest.mark.parametrize("old", [lambda: SE(8), lambda: torchvision.ops.SqueezeExcitation(8, 2)])
def test_a_block_behind_an_attention_block_stays_when_that_is_replaced(old):
    """It lives beside it, not in it."""
    model = net()
    model.pool = nn.Sequential(old(), nn.MaxPool2d(2))
    original = copy.deepcopy(model)
    insert(model, Eca, after="pool.0", example=IMAGES)
    assert names(model) == [("pool.0", None), ("pool_0_attention", "pool.0")]
    assert same_bits(model(IMAGES), original(IMAGES))
    replace_se(model, CaCo, where="pool.0")
    assert names(model) == [("pool.0", None), ("pool_0_attention", "pool.0")]
    assert isinstance(model.pool[0], CaCo)
    nn.init.ones_(model.pool_0_attention.conv.weight)
    x = torch.rand(2, 8, 6, 6)
    behind = model.pool_0_attention(model.pool[0].forward(x))  # without hooks
    assert torch.equal(model.pool[0](x), behind)
    assert not torch.equal(behind, model.pool[0].forward(x))
    remove(model)
    assert names(model) == [("pool.0", None)]
    assert not model.pool[0]._forward_hooks


def test_a_network_without_data():
    model = insert(net().to("meta"), "CaCo", after=["bn", "stem"], example=IMAGES)
    assert {tensor.device.type for tensor in model.state_dict().values()} == {"meta"}
    assert list(model.state_dict()) == list(
        insert(net(), "CaCo", after=["bn", "stem"], example=IMAGES).state_dict()
    )


def test_kinds_of_places_are_the_same_the_second_time():
    model = net()
    for block in ("SE", "Eca", "CBAM"):
        for kind in ("residual", "depthwise", "stages"):
            insert(model, block, after=kind, example=IMAGES)
    once = insert(net(), "SE", after=["residual", "depthwise", "stages"], example=IMAGES)
    assert {after for _, after in names(model)} == {after for _, after in names(once)}
    assert len(names(model)) >= 3 * len(names(once))
    assert same_bits(model(IMAGES), net()(IMAGES))
