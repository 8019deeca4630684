"""Gradients of the eager forms: against autograd's own, finite differences, and each other."""

import copy
from functools import partial
from inspect import signature

import pytest
import torch
from torch import nn
from torch.fx.experimental.proxy_tensor import make_fx

from attnblocks import create_block
from attnblocks.blocks.registry import get_block
from attnblocks.ops import formulas, functional
from tests.helpers import (
    FORMATS,
    both_formats,
    both_modes,
    every_block,
    every_form,
    random_block,
    random_map,
)

SHAPES = [(2, 3, 4), (1, 4, 3), (3, 1, 5), (2, 5, 1), (2, 1, 1)]  # N, H, W


@both_formats
@both_modes
@every_block
def test_first_and_second_derivatives(name, train, memory_format):
    gate = {} if name == "Eca" else {"gate_layer": nn.Sigmoid}  # torch has no second one of others
    # Every weight and every value of the map is moved: there are few, but of each kind several.
    arguments = signature(get_block(name)).parameters
    small = {width: 2 for width in arguments if width.endswith("rd_channels")}
    block = random_block(name, 4, dtype=torch.float64, **gate, **small).train(train)
    x = random_map(2, 4, 2, 3, dtype=torch.float64).contiguous(memory_format=memory_format)
    parameters = dict(block.named_parameters())

    def forward(x, *values):
        return torch.func.functional_call(block, dict(zip(parameters, values, strict=True)), x)

    inputs = (x.requires_grad_(), *parameters.values())
    assert torch.autograd.gradcheck(forward, inputs)
    assert torch.autograd.gradgradcheck(forward, inputs)


def plain_gradients(block, x, upstream, monkeypatch):
    """The same block in plain operators, whose formulas of gradients are autograd's own."""
    with monkeypatch.context() as patch:
        patch.setattr(functional, "form", lambda x: formulas)
        return gradients(block, x, upstream)


def gradients(block, x, upstream):
    x = x.clone(memory_format=torch.preserve_format).requires_grad_()
    y = block(x)
    return [y.detach(), *torch.autograd.grad(y, [x, *block.parameters()], upstream)]


@pytest.mark.parametrize("upstream_format", FORMATS.values(), ids=[f"from {f}" for f in FORMATS])
@both_formats
@both_modes
@every_block
def test_gradients_are_those_of_plain_operators(
    name, train, memory_format, upstream_format, monkeypatch
):
    block = random_block(name, 16, dtype=torch.float64).train(train)
    for n, height, width in SHAPES:
        x = random_map(n, 16, height, width, dtype=torch.float64)
        x = x.contiguous(memory_format=memory_format)
        upstream = random_map(*x.shape, seed=1, dtype=torch.float64)
        upstream = upstream.contiguous(memory_format=upstream_format)
        found = gradients(block, x, upstream)
        wanted = plain_gradients(copy.deepcopy(block), x, upstream, monkeypatch)
        torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-11)


@both_formats
@both_modes
@every_block
@every_form
def test_gradients_in_float32_are_near_those_in_float64(name, train, memory_format, form):
    block = random_block(name, 16).train(train)
    for n, height, width in SHAPES[:2]:
        x = random_map(n, 16, height, width).contiguous(memory_format=memory_format)
        upstream = random_map(*x.shape, seed=1)
        wanted = gradients(copy.deepcopy(block).double(), x.double(), upstream.double())
        for value, exact in zip(gradients(block, x, upstream), wanted, strict=True):
            error = (value.double() - exact).norm()
            assert error <= 1e-5 * exact.norm().clamp(min=1)


@both_formats
@every_block
def test_empty_batches_have_no_gradient(name, memory_format):
    block = random_block(name, 8)
    y = block(torch.empty(0, 8, 3, 4).contiguous(memory_format=memory_format))
    assert y.shape == (0, 8, 3, 4)
    assert all((g == 0).all() for g in torch.autograd.grad(y.sum(), block.parameters()))


@every_block
def test_forward_mode_derivatives(name):
    block = random_block(name, 8, dtype=torch.float64)
    x, tangent = (random_map(2, 8, 3, 4, seed=s, dtype=torch.float64) for s in (0, 1))
    _, found = torch.func.jvp(block, (x,), (tangent,))
    step = 1e-6
    expected = (block(x + step * tangent) - block(x - step * tangent)) / (2 * step)
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("name", ["CBAM", "CoordAtt", "SeCo", "CaCo"])
def test_a_symbolic_trace_keeps_no_size(name):
    block = random_block(name, 8)
    state = {**dict(block.named_parameters()), **dict(block.named_buffers())}
    example = random_map(2, 8, 5, 4).contiguous(memory_format=torch.channels_last)
    with torch.no_grad():
        call = partial(torch.func.functional_call, block)
        traced = make_fx(call, tracing_mode="symbolic")(state, (example,))
        x = random_map(3, 8, 7, 6).contiguous(memory_format=torch.channels_last)
        torch.testing.assert_close(traced(state, (x,)), block(x))


def test_a_hook_on_a_layer_does_not_lose_the_gate_of_the_stage_before():
    block = random_block("SeCo", 8)
    x = random_map(2, 8, 5, 4)
    expected = block(x)
    block.coord.conv1.register_forward_pre_hook(lambda _, args: args[0] * 1.0)
    torch.testing.assert_close(block(x), expected)


def test_a_plain_convolution_can_take_the_place_of_a_layer():
    block = random_block("CoordAtt", 8)
    x = random_map(2, 8, 5, 4)
    expected = block(x)
    plain = nn.Conv2d(8, block.rd_channels, 1)
    plain.load_state_dict(block.conv1.state_dict())
    block.conv1 = plain
    torch.testing.assert_close(block(x), expected)


@every_block
def test_gradients_per_sample_by_vmap(name):
    block = random_block(name, 8)
    parameters = dict(block.named_parameters())
    x = random_map(3, 8, 4, 5)

    def loss(parameters, sample):
        return torch.func.functional_call(block, parameters, sample[None]).square().sum()

    per_sample = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0))(parameters, x)
    for i in range(len(x)):
        one = torch.autograd.grad(loss(parameters, x[i]), parameters.values())
        for value, wanted in zip(per_sample.values(), one, strict=True):
            torch.testing.assert_close(value[i], wanted, rtol=1e-4, atol=1e-5)


@both_formats
@every_block
def test_many_upstream_gradients_at_once_by_vmap(name, memory_format):
    block = random_block(name, 8, dtype=torch.float64)
    x = random_map(2, 8, 4, 5, dtype=torch.float64).contiguous(memory_format=memory_format)
    inputs = [x.requires_grad_(), *block.parameters()]
    y = block(x)
    upstream = random_map(3, *y.shape[1:], seed=1, dtype=torch.float64)[:, None].expand(3, *y.shape)
    found = torch.autograd.grad(y, inputs, upstream, is_grads_batched=True, retain_graph=True)
    one_by_one = [torch.autograd.grad(y, inputs, v, retain_graph=True) for v in upstream]
    for values, wanted in zip(found, zip(*one_by_one, strict=True), strict=True):
        torch.testing.assert_close(values, torch.stack(wanted), rtol=1e-9, atol=1e-11)


@every_block
def test_jacobians_by_vmap_backward_and_forward_agree(name):
    block = random_block(name, 8, dtype=torch.float64)
    x = random_map(2, 8, 2, 3, dtype=torch.float64)
    found, wanted = torch.func.jacrev(block)(x), torch.func.jacfwd(block)(x)
    torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-11)


@every_block
def test_vmap_over_one_layer_alone(name):
    """What comes before that layer is computed once; each of its weights has a result."""
    block = random_block(name, 8)
    x = random_map(2, 8, 4, 5)
    for key, value in block.named_parameters():
        several = torch.stack([value.detach() * factor for factor in (0.5, 1, 2)])

        def forward(value, key=key):
            return torch.func.functional_call(block, {key: value}, (x,))

        found = torch.func.vmap(forward)(several)
        torch.testing.assert_close(found, torch.stack([forward(value) for value in several]))


@every_block
@pytest.mark.usefixtures("process_group")
def test_data_parallel_training_gives_the_same_gradients(name):
    block = random_block(name, 8).train()
    alone, x = copy.deepcopy(block), random_map(2, 8, 4, 5)
    nn.parallel.DistributedDataParallel(block)(x).square().sum().backward()
    alone(x).square().sum().backward()
    for ours, wanted in zip(block.parameters(), alone.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, wanted.grad)


@every_block
def test_frozen_blocks_pass_the_gradient_on(name):
    block = random_block(name, 8).requires_grad_(False)
    x = random_map(2, 8, 4, 5).requires_grad_()
    (frozen,) = torch.autograd.grad(block(x).square().sum(), x)
    trained = block.requires_grad_(True)
    (wanted,) = torch.autograd.grad(trained(x).square().sum(), x)
    torch.testing.assert_close(frozen, wanted)


@every_block
def test_the_map_and_the_gates_are_left_as_they_were(name):
    block = create_block(name, 8).eval()
    x = random_map(2, 8, 4, 5)
    before = x.clone()
    gates = block.gates(x)
    copies = [gate.detach().clone() for gate in gates]
    with torch.no_grad():
        functional.apply_gates(x, gates)
        block(x)
    assert torch.equal(x, before)
    assert all(torch.equal(gate, kept) for gate, kept in zip(gates, copies, strict=True))
