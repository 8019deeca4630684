"""A change of a layer of a block that runs in one call is noticed, or counts at once."""

import contextlib
import copy
import pickle
import sys
import warnings

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, parametrize, prune

from attnblocks import Eca
from attnblocks.blocks.coord_att import CoordGate
from attnblocks.ops.native.library import library
from tests.blocks.test_called_layers import Adapter, weight_norm_of_old
from tests.blocks.test_whole import BATCH, by_layers
from tests.helpers import BLOCKS, random_block, random_map

pytestmark = pytest.mark.skipif(library() is None, reason="no kernels here: attnblocks.ops.forms()")


CHANGES = {
    "weight norm": lambda block: parametrizations.weight_norm(block.channel.fc1),
    "old weight norm": lambda block: weight_norm_of_old(block.coord.conv_h),
    "spectral norm": lambda block: parametrizations.spectral_norm(block.coord.conv1),
    "parametrised": lambda block: parametrize.register_parametrization(
        block.coord.bn1, "weight", nn.Identity()
    ),
    "pruned": lambda block: prune.l1_unstructured(block.channel.fc2, "weight", 0.5),
    "adapter": lambda block: block.set_submodule("channel.fc1", Adapter(block.channel.fc1)),
    "other activation": lambda block: block.set_submodule("coord.act", nn.GELU()),
    "dropout": lambda block: block.set_submodule("channel.act", nn.Dropout()),
    "other norm": lambda block: block.set_submodule("coord.bn1", nn.GroupNorm(1, 8)),
    "synchronised norm": lambda block: nn.SyncBatchNorm.convert_sync_batchnorm(block),
    "several layers": lambda block: block.set_submodule("coord.act", nn.Sequential(nn.Hardswish())),
    "linear": lambda block: block.set_submodule("channel.fc1", nn.Identity()),
    "kernel of 3": lambda block: block.set_submodule("coord.conv1", nn.Conv2d(16, 8, 3, padding=1)),
    "groups": lambda block: block.set_submodule("channel.fc1", nn.Conv2d(16, 2, 1, groups=2)),
    "lazy": lambda block: block.set_submodule("coord.conv1", nn.LazyConv2d(8, 1)),
    "subclass of a parameter": lambda block: setattr(
        block.channel.fc1,
        "weight",
        type("Own", (nn.Parameter,), {})(block.channel.fc1.weight.detach()),
    ),
    "other device of a layer": lambda block: block.coord.conv1.to("meta"),
    "one statistic alone": lambda block: setattr(block.coord.bn1, "running_var", None),
    "other dtype of a layer": lambda block: block.coord.bn1.double(),
    "weight with gaps": lambda block: setattr(
        block.coord.conv_h, "weight", nn.Parameter(torch.randn(16, 16, 1, 1)[:, ::2])
    ),
    "a gain that learns": lambda block: (
        delattr(block.coord, "gain"),
        block.coord.register_parameter("gain", nn.Parameter(torch.ones(16))),
    ),
    "own convolution": lambda block: setattr(
        block.channel.fc1, "_conv_forward", block.channel.fc1._conv_forward
    ),
    "compiled layer": lambda block: block.coord.act.compile(backend="eager"),
    "attribute over a parameter": lambda block: vars(block.coord.conv1).update(
        weight=torch.zeros(8, 16, 1, 1)
    ),
    "attribute over a module": lambda block: vars(block.coord).update(conv1=nn.Conv2d(16, 8, 1)),
    "attribute over a stage": lambda block: vars(block).update(coord=CoordGate(16, 8)),
    "plain attribute": lambda block: (
        vars(block.coord.conv1).update(weight=block.coord.conv1.weight),
        block.coord.conv1._parameters.pop("weight"),
    ),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_of_a_layer(change, in_one_call, checking):
    block = random_block("CaCo", 16)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        CHANGES[change](block)
    ran = False
    with contextlib.suppress(Exception):  # whether or not its layers can run then
        ran = in_one_call(block.eval())
    assert not ran


def test_a_convolution_over_channels_of_another_form(in_one_call, checking):
    for change in (
        {"padding_mode": "circular"},
        {"bias": True},
        {"dilation": 2, "padding": 2},
    ):
        block = Eca(16)
        block.conv = nn.Conv1d(1, 1, 3, **{"padding": 1, "bias": False, **change})
        assert not in_one_call(block)


def test_what_changes_nothing_stays_in_one_call(in_one_call, checking):
    block = random_block("CaCo", 16)
    block.channel.fc1.note = "whatever a user keeps here"
    assert in_one_call(block)
    assert in_one_call(block.to(memory_format=torch.channels_last))
    assert in_one_call(copy.deepcopy(block))
    assert in_one_call(pickle.loads(pickle.dumps(block)))
    assert in_one_call(block.share_memory())
    assert in_one_call(lambda x: torch.func.functional_call(block, dict(block.state_dict()), (x,)))
    block.channel.act = nn.ReLU(inplace=True)
    assert in_one_call(block)
    assert in_one_call(block.bfloat16(), random_map(*BATCH).bfloat16())


def test_other_weights_count_at_once(in_one_call, checking):
    """In place, as data, as another parameter, and by a call with other weights."""
    block, other, x = random_block("CaCo", 16), random_block("CaCo", 16, seed=5), random_map(*BATCH)
    with torch.no_grad():
        wanted = other(x)
        found = torch.func.functional_call(block, dict(other.state_dict()), (x,))
        assert torch.equal(found, wanted)
        for p, q in zip(block.parameters(), other.parameters(), strict=True):
            p.data = q.data.clone()
        for p, q in zip(block.buffers(), other.buffers(), strict=True):
            p.copy_(q)
        assert in_one_call(block)
        assert torch.equal(block(x), wanted)
        block.channel.fc1.weight = nn.Parameter(torch.zeros(1, 16, 1, 1))
        other.channel.fc1.weight.zero_()
        assert torch.equal(block(x), other(x))


@pytest.mark.parametrize("name", BLOCKS)
def test_reading_keeps_no_reference_and_gives_what_layers_give(name, in_one_call, checking):
    block, x = random_block(name, 16), random_map(*BATCH)
    held = [*block.parameters(), *block.buffers(), *block.modules(), *map(vars, block.modules())]
    before = [sys.getrefcount(each) for each in held]
    for _ in range(9):
        assert in_one_call(block, x)
        block(x)
    assert [sys.getrefcount(each) for each in held] == before
    with torch.no_grad():
        torch.testing.assert_close(block(x), by_layers(block)(x))
