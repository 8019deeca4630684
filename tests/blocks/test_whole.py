"""A block that runs in one call computes what its layers compute, one by one."""

import copy

import pytest
import torch
from torch import nn

from attnblocks import create_block
from attnblocks.ops.native import kernels
from attnblocks.ops.native import whole as native
from attnblocks.ops.native.library import library
from tests.helpers import (
    BLOCKS,
    FORMATS,
    both_formats,
    both_modes,
    by_reference,
    random_block,
    random_map,
)

pytestmark = pytest.mark.skipif(library() is None, reason="no kernels here: attnblocks.ops.forms()")

WHOLE = [name for name in BLOCKS if name != "CBAM"]  # CBAM is where no derivative is recorded
BATCH = (3, 16, 8, 10)
whole_blocks = pytest.mark.parametrize("name", WHOLE)


def note_calls(monkeypatch) -> list[str]:
    """A list to which the ways in which blocks run in one call are added, one by one."""
    calls: list[str] = []
    within: list[str] = []  # training infers, where norms take their running statistics

    def noting(name, run):
        def noted(*args):
            if not within:
                calls.append(name)
            within.append(name)
            try:
                return run(*args)
            finally:
                within.pop()

        return noted

    def noting_run(*args):
        if (found := run(*args)) is True:
            calls.append("infer" if args[-1] is not None else "infer_gates")
        return found

    for name in ("infer", "infer_gates", "train"):
        monkeypatch.setattr(native, name, noting(name, getattr(native, name)))
    run = native.run
    monkeypatch.setattr(native, "run", noting_run)
    return calls


@pytest.fixture
def runs(monkeypatch):
    return note_calls(monkeypatch)


def by_layers(block: nn.Module) -> nn.Module:
    """A copy that calls its layers, since one of them has a hook."""
    copied = copy.deepcopy(block)
    for module in copied.modules():
        if module is not copied:
            module.register_forward_hook(lambda *_: None)
    return copied


def step(block: nn.Module, x: torch.Tensor) -> dict[str, torch.Tensor]:
    """What a training step returns and changes."""
    x = x.detach().clone(memory_format=torch.preserve_format).requires_grad_()
    block.zero_grad()
    y = block(x)
    (y.square() * torch.linspace(0, 1, y[0].numel()).view(y[0].shape)).sum().backward()
    grads = {f"grad of {name}": p.grad for name, p in block.named_parameters()}
    buffers = {name: b.clone() for name, b in block.named_buffers()}
    return {"y": y.detach(), "grad of x": x.grad, **grads, **buffers}


def assert_same(found, wanted, noise=3e-6):
    """Equal but for rounding: the gradient of a bias in front of a norm is nothing else."""
    assert found.keys() == wanted.keys()
    largest = max(value.abs().max().item() for value in wanted.values() if value is not None)
    for name, value in wanted.items():
        torch.testing.assert_close(
            found[name],
            value,
            rtol=1e-4,
            atol=noise * max(1, largest),
            msg=lambda message, name=name: f"{name}: {message}",
        )


VARIANTS = {
    "SE": [
        {"norm_layer": nn.BatchNorm2d},
        {"act_layer": nn.SiLU, "gate_layer": nn.Sigmoid, "gain": 2.0},
        {"act_layer": nn.Identity, "gate_layer": nn.Identity},
    ],
    "Eca": [{"kernel_size": 7, "gain": 1.5}, {"gate_layer": nn.Hardsigmoid}],
    "CoordAtt": [
        {"norm_layer": None, "act_layer": nn.ReLU6},
        {"gain": [0.5 + i / 16 for i in range(16)], "gate_layer": nn.Hardsigmoid},
        {"norm_layer": lambda width, **place: nn.BatchNorm2d(width, affine=False, **place)},
        {"norm_layer": lambda width, **place: nn.BatchNorm2d(width, momentum=None, **place)},
        {
            "norm_layer": lambda width, **place: nn.BatchNorm2d(
                width, track_running_stats=False, **place
            )
        },
    ],
    "SeCo": [{"gain": 1.5, "coord_gain": 2.0}],
    "CaCo": [{"gain": [1.0 + i / 16 for i in range(16)], "coord_gain": 2.0, "rd_channels": 3}],
}
CASES = [(name, {}) for name in WHOLE]
CASES += [(name, variant) for name, variants in VARIANTS.items() for variant in variants]


OF_CBAM = [{}, {"kernel_size": 3, "gain": 1.5, "spatial_gain": 2.0}, {"norm_layer": None}]


@both_formats
@pytest.mark.parametrize(("name", "arguments"), CASES + [("CBAM", each) for each in OF_CBAM])
def test_inference_is_that_of_the_layers_and_of_the_reference(name, arguments, memory_format, runs):
    block = random_block(name, 16, **arguments)
    x = random_map(*BATCH).contiguous(memory_format=memory_format)
    with torch.inference_mode():
        found, wanted = block(x), by_layers(block)(x)
    batch_alone = any(getattr(m, "running_mean", 0) is None for m in block.modules())
    assert runs == ["train" if batch_alone else "infer"]
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-6)
    assert found.stride() == wanted.stride()
    if not arguments:
        torch.testing.assert_close(
            found, by_reference(name, block, x).float(), rtol=1e-5, atol=1e-6
        )


@both_formats
@pytest.mark.parametrize(("name", "arguments"), CASES)
def test_derivatives_change_no_bit_of_what_a_block_returns(name, arguments, memory_format):
    block = random_block(name, 16, **arguments)
    x = random_map(*BATCH).contiguous(memory_format=memory_format)
    with torch.no_grad():
        wanted = block(x)
    assert torch.equal(block(x), wanted)


@both_modes
@both_formats
@pytest.mark.parametrize(("name", "arguments"), CASES)
def test_a_training_step_is_that_of_the_layers(name, arguments, memory_format, train, runs):
    block = random_block(name, 16, **arguments).train(train)
    layered, x = by_layers(block), random_map(*BATCH).contiguous(memory_format=memory_format)
    for _ in range(2):  # running statistics move, and count
        assert_same(step(block, x), step(layered, x))
    assert runs == ["train", "train"]


def test_the_channel_gate_of_cbam_where_its_spatial_gate_is_hooked(runs):
    block, x = random_block("CBAM", 16, gain=1.5), random_map(*BATCH)
    layered = by_layers(block)
    block.spatial.conv.register_forward_hook(lambda *_: None)
    with torch.no_grad():
        found, wanted = block(x), layered(x)
    assert runs == ["infer_gates"]
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-6)


def test_a_replaced_method_of_the_channel_gate_of_cbam(monkeypatch, runs):
    block, x = random_block("CBAM", 16), random_map(*BATCH)
    block.spatial.conv.register_forward_hook(lambda *_: None)
    monkeypatch.setattr(type(block.channel), "times_gain", lambda self, gate: 0 * gate)
    with torch.no_grad():
        assert block(x).abs().max() == 0
    assert runs == []


def test_a_frozen_norm_in_a_training_block(runs):
    block, x = random_block("CaCo", 16).train(), random_map(*BATCH)
    block.coord.bn1.eval()
    assert_same(step(block, x), step(by_layers(block), x))
    assert runs == ["train"]


@pytest.mark.parametrize("frozen", ["x", "all but one", "all parameters"])
@whole_blocks
def test_what_needs_no_gradient_gets_none(name, frozen, runs):
    block, x = random_block(name, 16).train(), random_map(*BATCH)
    if frozen != "x":
        block.requires_grad_(False)
        x.requires_grad_()
    if frozen == "all but one":
        x.requires_grad_(False)
        next(block.parameters()).requires_grad_()
    layered = by_layers(block)
    for network in (block, layered):
        network(x).square().sum().backward()
    assert runs == ["train"]
    found = [p.grad for p in block.parameters()]
    wanted = [p.grad for p in layered.parameters()]
    for grad, other in zip(found, wanted, strict=True):
        assert (grad is None) == (other is None)
        if grad is not None:
            torch.testing.assert_close(grad, other, rtol=1e-4, atol=1e-4)
    if frozen == "all parameters":
        assert x.grad is not None


SMOOTH = {name: {"gate_layer": nn.Sigmoid} for name in ("SE", "SeCo")}
"""Torch has no second derivative of the hard sigmoid."""


@both_modes
@whole_blocks
def test_second_derivatives(name, train):
    """A gradient penalty, of the block and of its layers in double precision."""
    block = random_block(name, 16, **SMOOTH.get(name, {})).train(train)
    results = []
    for network in (block, by_layers(block).double()):
        x = random_map(*BATCH).to(next(network.parameters()).dtype).requires_grad_()
        (grad,) = torch.autograd.grad(network(x).square().sum(), x, create_graph=True)
        network.zero_grad()
        grad.square().sum().backward()
        seconds = {n: p.grad.float() for n, p in network.named_parameters()}
        results.append(seconds | {"x": x.grad.float()})
    assert_same(*results, noise=1e-5)


@whole_blocks
def test_a_second_backward_and_gradients_of_a_batch_of_directions(name):
    block, x = random_block(name, 16), random_map(*BATCH).requires_grad_()
    y, layered = block(x), by_layers(block)(x)
    first, second = (torch.autograd.grad(y.sum(), x, retain_graph=True)[0] for _ in range(2))
    assert torch.equal(first, second)
    directions = torch.randn(2, *BATCH)
    found, wanted = (
        torch.autograd.grad(each, x, directions, is_grads_batched=True)[0] for each in (y, layered)
    )
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)


def test_train_mode_without_gradients_updates_running_statistics(runs):
    block, x = random_block("CaCo", 16).train(), random_map(*BATCH)
    layered = by_layers(block)
    with torch.no_grad():
        torch.testing.assert_close(block(x), layered(x), rtol=1e-5, atol=1e-5)
    assert runs == ["train"]
    assert_same(dict(block.named_buffers()), dict(layered.named_buffers()))
    assert block.coord.bn1.num_batches_tracked == 1


def test_two_forwards_before_a_backward():
    block, layered = (f(random_block("CoordAtt", 16).train()) for f in (lambda b: b, by_layers))
    a, b = random_map(*BATCH), random_map(2, 16, 5, 6)
    for network in (block, layered):
        (network(a).square().sum() + network(b).square().sum()).backward()
    found, wanted = ({n: p.grad for n, p in m.named_parameters()} for m in (block, layered))
    assert_same(found, wanted)


def test_bfloat16_in_one_call_is_nearer_to_the_reference_than_rounding(runs):
    block = random_block("CaCo", 16, dtype=torch.bfloat16)
    x = random_map(*BATCH).bfloat16()
    with torch.no_grad():
        found = block(x)
    assert runs == ["infer"]
    assert found.dtype == torch.bfloat16
    wanted = by_reference("CaCo", copy.deepcopy(block).float(), x.float()).float()
    torch.testing.assert_close(found.float(), wanted, rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize("size", [(1, 16, 1, 1), (2, 16, 1, 7), (1, 16, 5, 1)])
@whole_blocks
def test_small_maps(name, size, runs):
    block, x = random_block(name, 16), random_map(*size)
    with torch.no_grad():
        torch.testing.assert_close(
            block(x), by_reference(name, block, x).float(), rtol=1e-5, atol=1e-6
        )
    assert runs == ["infer"]


@pytest.mark.parametrize("memory_format", FORMATS.values(), ids=FORMATS)
def test_a_slice_of_a_batch(memory_format, runs):
    block, wide = random_block("CaCo", 16), random_map(4, 16, 6, 7)
    x = wide.contiguous(memory_format=memory_format)[::2]
    with torch.no_grad():
        torch.testing.assert_close(
            block(x), by_reference("CaCo", block, x).float(), rtol=1e-5, atol=1e-6
        )
    assert runs == ["infer"]


def test_starting_as_the_identity_stays_exact(runs):
    for name in WHOLE:
        block, x = create_block(name, 16).eval(), random_map(*BATCH)
        block.start_as_identity()
        with torch.no_grad():
            assert torch.equal(block(x), x)
        assert torch.equal(block(x.requires_grad_()).detach(), x)
    assert {*runs} == {"infer", "train"}


def test_a_single_value_for_a_norm_is_reported_as_by_the_layers():
    block, x = create_block("SE", 16, norm_layer=nn.BatchNorm2d).train(), random_map(1, 16, 4, 4)
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        block(x)


@pytest.mark.parametrize("name", ["CoordAtt", "CaCo"])
def test_a_norm_of_coordinates_sees_many_values_of_one_image(name, runs):
    block, x = random_block(name, 16).train(), random_map(1, 16, 5, 6)
    layered = by_layers(block)
    assert_same(step(block, x), step(layered, x))
    assert runs == ["train"]


def test_a_map_of_other_channels_is_reported():
    with pytest.raises(ValueError, match="built for 16 channels, got 8"):
        create_block("CaCo", 16)(random_map(2, 8, 4, 4))


def test_a_kept_map_may_come_back_in_another_layout():
    """Hooks on what is kept for backward give back what they like."""
    block, x = random_block("CaCo", 16), random_map(*BATCH).requires_grad_()
    wanted = torch.autograd.grad(block(x).square().sum(), x)[0]
    strided = torch.autograd.graph.saved_tensors_hooks(
        lambda t: t.detach(), lambda t: t.mT.contiguous().mT if t.shape == x.shape else t
    )
    with strided:
        y = block(x)
    assert kernels.geometry(x.mT.contiguous().mT) is None
    found = torch.autograd.grad(y.square().sum(), x)[0]
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)
