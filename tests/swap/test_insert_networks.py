"""Inserted blocks change nothing, to the bit, in networks of torchvision and timm; then they learn.

Each network gets all blocks in turn; the slow cases put every one alone behind every batch norm.
"""

import copy
import itertools
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch
from torch import nn

from attnblocks import create_block, find_se, insert
from attnblocks.blocks.gain import GainedStage
from tests.helpers import BLOCKS, FORMATS
from tests.swap.inserted import (
    detection,
    lite0,
    lively,
    of_torchvision,
    same_bits,
    segmentation,
)

SEVEN = {"num_classes": 7}
DTYPES = (torch.float32, torch.bfloat16)


class Case(NamedTuple):
    """A network, and modules in it that get blocks.

    Args:
        build: builds it.
        after: names the modules.
        size: of its images.
        detects: whether it takes a list of images, and targets in train mode.
    """

    build: Callable[[], nn.Module]
    after: str
    size: int = 64
    detects: bool = False


SMALL = {
    "resnet18": Case(of_torchvision("resnet18", **SEVEN), "residual"),
    "mobilenet_v2": Case(of_torchvision("mobilenet_v2", **SEVEN), "depthwise"),
    "shufflenet_v2_x0_5": Case(of_torchvision("shufflenet_v2_x0_5", **SEVEN), "stages"),
}
OTHERS = {
    "densenet121": Case(of_torchvision("densenet121", **SEVEN), "*.denselayer1.norm2", 32),
    "vgg11_bn": Case(of_torchvision("vgg11_bn", **SEVEN), "stages"),
    "regnet_x_400mf": Case(of_torchvision("regnet_x_400mf", **SEVEN), "residual"),
    "convnext_tiny": Case(of_torchvision("convnext_tiny", **SEVEN), "depthwise", 32),
    "mnasnet0_5": Case(of_torchvision("mnasnet0_5", **SEVEN), "depthwise"),
    "deeplabv3_resnet50": Case(segmentation("deeplabv3_resnet50"), "backbone.layer?.0.bn3"),
    "ssdlite320_mobilenet_v3_large": Case(
        of_torchvision("ssdlite320_mobilenet_v3_large", weights_backbone=None, num_classes=4),
        "backbone.features.1.*.block.1.1",
        96,
        True,
    ),
    "fasterrcnn_resnet50_fpn": Case(
        detection("fasterrcnn_resnet50_fpn", 64), "backbone.body.layer?.?.bn3", 64, True
    ),
    "tf_efficientnet_lite0": Case(lite0, "depthwise"),
}
NETWORKS = {**SMALL, **OTHERS}
QUICK = {
    "convnext_tiny",
    "ssdlite320_mobilenet_v3_large",
    "tf_efficientnet_lite0",
}


def images(case: Case, count: int = 2) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.rand(count, 3, case.size, case.size, generator=generator)


def example(case: Case) -> Any:
    return ([images(case)[0]],) if case.detects else images(case)


def inputs(case: Case, train: bool, dtype: torch.dtype, memory_format: torch.memory_format) -> Any:
    x = images(case).to(dtype).contiguous(memory_format=memory_format)
    if not case.detects:
        return (x,)
    if not train:
        return (list(x),)
    half = case.size / 2
    boxes = torch.tensor([[2.0, 3.0, half, half], [5.0, 1.0, half + 9, half]], dtype=dtype)
    targets = [{"boxes": boxes, "labels": torch.tensor([1, 2])} for _ in x]
    return (list(x), targets)


def in_turn() -> Callable[[Any], nn.Module]:
    """A function of the place that makes the blocks in turn, all of them."""
    made: list[str] = []

    def make(place: Any) -> nn.Module:
        made.append(BLOCKS[len(made) % len(BLOCKS)])
        return create_block(made[-1], place.channels)

    return make


@torch.no_grad()
def outputs(model: nn.Module, x: Any, train: bool) -> tuple[Any, dict[str, torch.Tensor]]:
    """What a network computes, and its statistics afterwards; before, they are as given."""
    before = {name: value.clone() for name, value in model.named_buffers()}
    torch.manual_seed(3)
    output = model.train(train)(*x)
    after = {name: value.clone() for name, value in model.named_buffers()}
    for name, value in model.named_buffers():
        value.copy_(before[name])
    return output, after


def behind_norms(place: Any) -> bool:
    return isinstance(place.module, nn.BatchNorm2d)


def check(case: Case, block: Any, after: Any, dtypes: Any, layouts: Any = ("contiguous",)) -> None:
    """In both modes, outputs and statistics are equal to the bit."""
    model = case.build()
    original = copy.deepcopy(model)
    insert(model, block, after=after, example=example(case))
    assert any(site.after is not None for site in find_se(model))
    for dtype, layout in itertools.product(dtypes, layouts):
        for network in (model, original):
            network.to(dtype).to(memory_format=FORMATS[layout])
        for train in (False, True):
            x = inputs(case, train, dtype, FORMATS[layout])
            ours, our_buffers = outputs(model, x, train)
            theirs, buffers = outputs(original, x, train)
            assert same_bits(ours, theirs), (dtype, train, layout)
            for name, value in buffers.items():
                assert torch.equal(our_buffers[name], value), (name, dtype, train, layout)


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[pytest.mark.slow] * (n == "mobilenet_v2")) for n in SMALL]
)
def test_behind_every_batch_norm_nothing_changes(name):
    check(SMALL[name], in_turn(), behind_norms, DTYPES, FORMATS)


@pytest.mark.parametrize(
    "name", [n if n in QUICK else pytest.param(n, marks=pytest.mark.slow) for n in OTHERS]
)
def test_all_blocks_in_turn_change_nothing(name):
    case = OTHERS[name]
    check(case, in_turn(), case.after, DTYPES[:1])


@pytest.mark.slow
@pytest.mark.parametrize("block", BLOCKS)
@pytest.mark.parametrize("name", NETWORKS)
def test_every_block_changes_nothing_in_every_network(name, block):
    case = NETWORKS[name]
    after = case.after if name == "convnext_tiny" else behind_norms
    dtypes = DTYPES[:1] if case.detects else DTYPES  # resizes images, which knows no bfloat16
    check(case, block, after, dtypes, FORMATS if name in SMALL else ["contiguous"])


def in_front_of_norms(block: nn.Module) -> set[str]:
    """Biases that a batch norm takes away again."""
    modules = dict(block.named_modules())
    return {
        f"{name.rpartition('.')[0]}{'.' if '.' in name else ''}{conv}.bias"
        for name, module in modules.items()
        if isinstance(module, nn.BatchNorm2d)
        for conv in {"bn1": ["conv1"], "bn": ["conv", "conv_f"]}.get(name.rpartition(".")[2], [])
    }


def last_layers(block: nn.Module) -> list[str]:
    """The parameters that start at zero."""
    names = {p: name for name, p in block.named_parameters()}
    return [
        names[p]
        for stage in block.modules()
        if isinstance(stage, GainedStage)
        for logits in stage.logit_names
        for p in stage.get_submodule(logits).parameters()
    ]


@pytest.mark.parametrize("name", SMALL)
def test_all_layers_learn(name):
    """The layers at zero in the first step, everything after three, and nothing explodes."""
    case = SMALL[name]
    after = "depthwise" if name.startswith("shufflenet") else case.after
    model = insert(case.build(), in_turn(), after=after, example=example(case)).train()
    blocks = {site.name: site.module for site in find_se(model)}
    assert {type(block).__name__ for block in blocks.values()} == set(BLOCKS)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    x, labels = images(case, 8), torch.arange(8) % 7
    largest: dict[str, float] = {}
    for step in range(3):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), labels).backward()
        for site, block in blocks.items():
            for key, p in block.named_parameters():
                assert torch.isfinite(p.grad).all(), (site, key)
                size = float(p.grad.abs().max())
                largest[f"{site}.{key}"] = max(size, largest.get(f"{site}.{key}", 0))
            if step == 0:
                last = [f"{site}.{key}" for key in last_layers(block)]
                assert last
                assert min(largest[key] for key in last) > 0
        optimizer.step()
    excused = {f"{site}.{key}" for site, part in blocks.items() for key in in_front_of_norms(part)}
    assert {key for key, size in largest.items() if size == 0} <= excused


def test_an_identity_learns_with_the_real_weights_of_a_network():
    case = NETWORKS["tf_efficientnet_lite0"]
    model = insert(case.build(), "CaCo", after=case.after, example=example(case)).train()
    x, labels = images(case, 4), torch.arange(4)
    nn.functional.cross_entropy(model(x), labels).backward()
    for site in find_se(model):
        last = [site.module.channel.fc2, site.module.coord.conv_h, site.module.coord.conv_w]
        for layer in last:
            assert torch.isfinite(layer.weight.grad).all()
            assert layer.weight.grad.abs().max() > 0


def test_the_networks_that_are_tried_have_statistics_that_are_not_trivial():
    """A batch norm with fresh statistics would hide faults of the eval mode."""
    norm = lively(nn.Sequential(nn.BatchNorm2d(8)))[0]
    for value, trivial in ((norm.running_mean, 0), (norm.running_var, 1), (norm.weight, 1)):
        assert not torch.isclose(value, torch.full_like(value, trivial)).any()
