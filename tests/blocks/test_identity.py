"""A block that starts as the identity is it to the bit, and learns with all its layers."""

import pytest
import torch
from torch import nn

from attnblocks import CBAM, AttentionBlock, CaCo, create_block, recipe
from attnblocks.blocks.cbam import SpatialGate
from attnblocks.blocks.gain import GainedStage
from attnblocks.blocks.waking import wake
from tests.helpers import (
    both_formats,
    both_modes,
    every_block,
    random_map,
    snapshot,
    unchanged,
)

C = 16
DTYPES = [torch.float32, torch.bfloat16, torch.float16, torch.float64]
LAST = {
    "SE": ["fc2"],
    "Eca": ["conv"],
    "CoordAtt": ["conv_h", "conv_w"],
    "CBAM": ["channel.fc2", "spatial.bn"],
    "SeCo": ["se.fc2", "coord.conv_h", "coord.conv_w"],
    "CaCo": ["channel.fc2", "coord.conv_h", "coord.conv_w"],
}
every_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=str)


def identity(name: str, channels: int = C, **kwargs) -> nn.Module:
    torch.manual_seed(0)
    block = create_block(name, channels, **kwargs)
    block.start_as_identity()
    return block


def same_bits(y: torch.Tensor, x: torch.Tensor) -> bool:
    """Equal with the sign of zeros."""
    return torch.equal(y, x) and torch.equal(y.signbit(), x.signbit())


@every_dtype
@both_formats
@both_modes
@every_block
def test_it_returns_its_input_to_the_bit(name, train, memory_format, dtype):
    block = identity(name, dtype=dtype).train(train).to(memory_format=memory_format)
    # In train mode a batch norm takes no single value.
    shapes = [(2, C, 7, 5), (2, C, 1, 1), (1, C, 3, 2), (5, C, 8, 8), (1, C, 1, 1)]
    for shape in shapes[: 4 if train else 5]:
        x = random_map(*shape, dtype=dtype).contiguous(memory_format=memory_format)
        x[0, 0] = -0.0
        y = block(x)
        assert same_bits(y, x)
        assert y.is_contiguous(memory_format=memory_format)
        with torch.no_grad():
            assert same_bits(block(x), x)


@every_dtype
@pytest.mark.parametrize("gate", [nn.Sigmoid, nn.Hardsigmoid])
@every_block
def test_it_does_so_with_the_usual_gate_functions(name, gate, dtype):
    x = random_map(2, C, 5, 4, dtype=dtype)
    assert same_bits(identity(name, gate_layer=gate, dtype=dtype)(x), x)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@both_modes
@every_block
def test_it_does_so_under_autocast(name, train, dtype):
    block = identity(name).train(train)
    with torch.autocast("cpu", dtype):
        for x in (random_map(2, C, 5, 4), random_map(2, C, 5, 4, dtype=dtype)):
            assert same_bits(block(x), x)


@both_formats
@every_block
def test_large_values_of_float16_do_not_overflow(name, memory_format):
    """2 x 2 x 2 as one factor of the map would."""
    x = random_map(2, C, 7, 5, dtype=torch.float16).contiguous(memory_format=memory_format)
    x[0, ::3, 2, 1], x[1, 1::3, 4, 4] = 6e4, -6e4
    block = identity(name, dtype=torch.float16)
    assert same_bits(block(x), x)
    torch.compiler.reset()
    compiled = torch.compile(block, fullgraph=True, backend="aot_eager")
    assert same_bits(compiled(x), x)


@pytest.mark.parametrize("value", [float("inf"), float("-inf"), float("nan")])
@every_block
def test_a_value_that_is_not_finite_stays_and_reaches_no_other_sample(name, value):
    """Its own sample's means are not finite, so the gates of that are NaN, as in every block."""
    x = random_map(3, C, 5, 4)
    x[1, 3, 2, 1] = value
    y = identity(name).eval()(x)
    assert same_bits(y[::2], x[::2])
    assert not y[1, 3, 2, 1].isfinite()


@every_block
def test_every_gate_is_one_at_the_middle_of_its_range(name):
    block, fresh = identity(name), create_block(name, C)
    for gate in block.gates(random_map(2, C, 5, 4)):
        assert (gate == 1).all()
    state = block.state_dict()
    gains = [key for key in state if key.rpartition(".")[2] == "gain"]
    assert all(state[key] == 2 and state[key].shape == () for key in gains)
    assert [key for key in state if key not in gains] == list(fresh.state_dict())
    zero = {key.rpartition(".")[0] for key, p in block.named_parameters() if (p == 0).all()}
    assert zero == set(LAST[name]) | {k for k in zero if k.endswith("bn1")}
    assert str(recipe(nn.Sequential(block))).count("gain': 2.0") == len(gains)


@every_block
def test_all_other_layers_keep_their_published_start(name):
    block = identity(name)
    torch.manual_seed(0)
    published = create_block(name, C)
    for key, value in published.state_dict().items():
        if key.rpartition(".")[0] not in LAST[name]:
            assert torch.equal(block.state_dict()[key], value), key


@every_block
def test_place_and_training_of_parameters_are_kept(name):
    meta = create_block(name, C, device="meta", dtype=torch.bfloat16).requires_grad_(False)
    meta.start_as_identity()
    for value in meta.state_dict().values():
        assert value.is_meta
        assert value.dtype in (torch.bfloat16, torch.int64)
    assert not any(p.requires_grad for p in meta.parameters())
    block = create_block(name, C)
    with torch.device("meta"):  # of what else is built there
        block.start_as_identity()
    assert not any(value.is_meta for value in block.state_dict().values())
    assert all(p.requires_grad and p.grad_fn is None for p in identity(name).parameters())


class Steep(nn.Module):
    """A gate that is no power of two at 0."""

    def forward(self, z):
        return torch.sigmoid(z + 1)


def test_the_gain_of_another_gate_makes_up_for_it():
    block, x = identity("CBAM", gate_layer=Steep, dtype=torch.float64), random_map(2, C, 4, 4)
    assert float(block.gain) == pytest.approx(1 + torch.e**-1, rel=1e-15)
    torch.testing.assert_close(block(x.double()), x.double(), rtol=1e-15, atol=0)


def test_a_gate_that_cannot_be_one_is_an_error_that_names_it():
    for gate, value in ((nn.Tanh, "0"), (nn.Identity, "0"), (lambda: nn.Threshold(1, -2), "-2")):
        for name in LAST:
            block = create_block(name, C)
            stages = [m for m in block.modules() if isinstance(m, GainedStage)]
            stages[-1].gate = gate()
            match = rf"gates of {type(gate()).__name__} cannot start at 1: .* it is {value}, .*Sigm"
            with pytest.raises(ValueError, match=match):
                block.start_as_identity()


def test_a_gain_that_was_given_is_the_right_one_or_an_error():
    block = CaCo(C, gain=2.0, coord_gain=[2.0] * C)
    block.start_as_identity()
    assert block.coord_gain.shape == (C,)
    x = random_map(2, C, 4, 4)
    assert torch.equal(block(x), x)
    for wrong, values in ((CaCo(C, gain=1.5), "1.5"), (CaCo(C, coord_gain=[2, 1] * 8), "1 to 2")):
        before = snapshot(wrong)
        message = rf"Gate has a gain of {values}, from .* a fit, .*start at 1 with 2: make a fresh"
        with pytest.raises(ValueError, match=message):
            wrong.start_as_identity()
        assert unchanged(wrong, before)  # the stage in front of it, too
    CBAM(C, gain=1.5, device="meta").start_as_identity()  # its values are not known


def test_a_block_of_ones_own_says_how():
    class Mine(AttentionBlock):
        gate_names = ("channel",)

        def gates(self, x):
            return [x.mean((2, 3), keepdim=True).sigmoid()]

    with pytest.raises(NotImplementedError, match=r"Mine has no stage with a gain.*override"):
        Mine(C).start_as_identity()


@pytest.mark.parametrize("norm", [None, lambda c, **kw: nn.BatchNorm2d(c, affine=False, **kw)])
def test_without_a_norm_that_has_weights_the_spatial_convolution_is_zero(norm):
    gate = SpatialGate(norm_layer=norm)
    gate.start_at_one()
    assert (gate.conv.weight == 0).all()
    assert (gate(torch.rand(2, 2, 5, 5)) == 1).all()


@pytest.mark.parametrize("channels", [C, 5])
@every_block
def test_every_layer_learns_from_the_start(name, channels):
    block = identity(name, channels).train()
    x = random_map(8, channels, 6, 7).relu()
    wake(block, x)
    target = random_map(8, channels, 6, 7, seed=1)
    optimizer = torch.optim.SGD(block.parameters(), lr=0.1)
    for step in range(3):
        optimizer.zero_grad()
        (block(x) - target).square().mean().backward()
        grads = {key: p.grad.abs().max() for key, p in block.named_parameters()}
        assert all(grad.isfinite() and grad < 10 for grad in grads.values())
        for key, grad in grads.items():
            behind = key.rpartition(".")[0] in LAST[name]
            in_front_of_a_norm = key.endswith("conv1.bias")
            if (step == 0 and behind) or (step == 2 and not in_front_of_a_norm):
                assert grad > 1e-8, (step, key)
        optimizer.step()
