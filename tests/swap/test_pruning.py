"""What a pruner gets to know about blocks, without a pruner."""

import pytest
import torch
from torch import nn

from attnblocks import CBAM, SE, CoordAtt, Eca, SeCo, customized_pruners, insert


def narrow(layer, kept, inputs):
    """As pruners do: new parameters, and the width in the attribute."""
    if inputs:
        layer.weight, layer.in_channels = nn.Parameter(layer.weight[:, kept]), len(kept)
    else:
        layer.weight, layer.out_channels = nn.Parameter(layer.weight[kept]), len(kept)
        layer.bias = nn.Parameter(layer.bias[kept])


def test_only_modules_that_need_one_have_a_pruner():
    gained = SE(16, gain=[1.0] * 16)
    for model, classes in (
        (SE(16), set()),
        (SE(16, gain=2.0), set()),
        (gained, {nn.Hardsigmoid}),
        (SeCo(16, coord_gain=[1.0] * 16), {nn.Sigmoid}),
        (nn.Sequential(CBAM(16), Eca(16)), {Eca, type(CBAM(16).spatial)}),
        (nn.DataParallel(gained), {nn.Hardsigmoid}),
    ):
        assert customized_pruners(model).keys() == classes
    with pytest.raises(TypeError, match="customized_pruners cannot read a"):
        customized_pruners(torch.jit.trace(nn.ReLU(), torch.rand(1)))


def test_a_gain_is_narrowed_with_its_layers():
    gains, kept, x = torch.rand(16) + 0.5, [0, 2, 3, 11, 15], torch.rand(2, 16, 6, 7)
    block = CoordAtt(16, gain=gains.tolist()).eval()
    pruner = customized_pruners(block)[nn.Sigmoid]
    removed = sorted({*range(16)} - {*kept})
    x[:, removed] = 0  # what conv1 does not see any more
    expected = block(x)[:, kept]
    for name in ("conv1", "conv_h", "conv_w"):
        narrow(block.get_submodule(name), kept, inputs=name == "conv1")
    with pytest.raises(RuntimeError, match=r"CoordAtt .*\(2, 5, 13, 1\).*16.*customized_pruners"):
        block(x[:, kept])
    other = nn.Sigmoid()  # of no stage
    assert pruner.prune_out_channels(other, removed) is other
    assert pruner.prune_in_channels(block.gate, removed) is block.gate
    torch.testing.assert_close(block.gain, gains[kept])
    torch.testing.assert_close(block(x[:, kept]), expected)


def test_eca_counts_the_channels_that_are_left():
    block = Eca(16, gain=[float(i + 1) for i in range(16)])
    weight = block.conv.weight.clone()
    customized_pruners(block)[Eca].prune_out_channels(block, [0, 3])
    assert block.channels == 14
    assert block.gain.tolist() == [2.0, 3.0, *range(5, 17)]
    assert torch.equal(block.conv.weight, weight)
    assert block(torch.rand(2, 14, 5, 5)).shape == (2, 14, 5, 5)


def test_blocks_that_a_pruner_would_take_for_the_layer_in_front_are_refused():
    def network(block, after):
        layers = (nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16), nn.ReLU())
        return insert(nn.Sequential(*layers), block, after=after, example=torch.rand(1, 3, 8, 8))

    for block, after, layer in (("SE", "0", "Conv2d"), ("Eca", "1", "BatchNorm2d")):
        with pytest.raises(
            ValueError, match=rf"'{after}.attention' is behind the {layer}.* around"
        ):
            customized_pruners(network(block, after))
    for block, after in (("SE", "1"), ("CBAM", "1"), ("Eca", "2"), ("SE", "2")):
        customized_pruners(network(block, after))
