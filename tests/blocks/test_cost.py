"""What a block costs that no clock is needed for: bytes kept for backward, passes over the map."""

import copy

import pytest
import torch
import torchvision
from torch import nn

from attnblocks import replace_se
from attnblocks.blocks.gain import stages_of
from attnblocks.ops.native.library import library
from benchmarks.counting import map_traffic, saved_by_training
from benchmarks.published import published
from tests.helpers import both_formats, random_block, random_map

MOST_SAVED = {"SE": 1.0, "Eca": 1.0, "CBAM": 1.1, "CoordAtt": 1.35, "SeCo": 1.52, "CaCo": 1.52}
"""Bytes that a network keeps for backward because of its blocks, over those of torchvision's SE.

These are of blocks that call their layers; in one call, any block keeps as little as an SE.
"""

MOST_PASSES = {"SE": 3, "Eca": 3, "CBAM": 10, "CoordAtt": 6, "SeCo": 6, "CaCo": 7}
"""Reads and writes of tensors as large as the map, in a forward pass."""


@pytest.fixture(scope="module")
def saved():
    """A function from what stands at the sites of MobileNetV3-Small to the bytes it keeps."""
    network = torchvision.models.mobilenet_v3_small().train()
    x = torch.rand(4, 3, 224, 224)

    def measure(block, by_layers=False) -> int:
        swapped = replace_se(copy.deepcopy(network), block, init="fresh")
        if by_layers:
            for stage in stages_of(swapped):
                stage.gate.register_forward_hook(lambda *_: None)
        return saved_by_training(swapped, x)

    without = measure(lambda site: nn.Identity())
    return lambda block, by_layers=False: measure(block, by_layers) - without


@pytest.mark.parametrize("name", MOST_SAVED)
def test_training_keeps_the_map_and_vectors(name, saved):
    se = saved(lambda site: site.module)
    assert saved(name, by_layers=True) <= MOST_SAVED[name] * se


@pytest.mark.skipif(library() is None, reason="no kernels here: attnblocks.ops.forms()")
@pytest.mark.parametrize("name", [name for name in MOST_SAVED if name != "CBAM"])
def test_training_in_one_call_keeps_the_map(name, saved):
    se = saved(lambda site: site.module)
    assert saved(name) <= se


@pytest.mark.parametrize("grad", [False, True], ids=["inference", "training"])
@both_formats
@pytest.mark.parametrize("name", MOST_PASSES)
def test_few_operators_pass_over_the_map(name, memory_format, grad):
    block = random_block(name, 64)
    x = random_map(2, 64, 14, 14).contiguous(memory_format=memory_format)
    with torch.set_grad_enabled(grad):
        assert map_traffic(block, x).maps <= MOST_PASSES[name]


def test_training_with_the_published_caco_keeps_three_maps_and_more(saved):
    se = saved(lambda site: site.module)
    assert 3.2 < saved(lambda site: published("CaCo", site)) / se < 3.4
