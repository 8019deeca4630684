"""Backward of a block in one call, where something changed since, or hangs on what was kept."""

import pytest
import torch

from attnblocks.ops.native import kernels
from attnblocks.ops.native.library import library
from tests.blocks.test_whole import BATCH, WHOLE
from tests.helpers import BLOCKS, both_modes, random_block, random_map

pytestmark = pytest.mark.skipif(library() is None, reason="no kernels here: attnblocks.ops.forms()")

every_block = pytest.mark.parametrize("name", BLOCKS)


@both_modes
@pytest.mark.parametrize("create_graph", [False, True])
@every_block
def test_inside_an_autocast_that_forward_was_not_in(name, create_graph, train):
    block, x = random_block(name, 16).train(train), random_map(*BATCH).requires_grad_()
    y, upstream, inputs = block(x), random_map(*BATCH, seed=5), [x, *block.parameters()]
    wanted = torch.autograd.grad(y, inputs, upstream, retain_graph=True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = torch.autograd.grad(y, inputs, upstream, create_graph=create_graph)
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("wrong", [torch.ones(4, 4).bfloat16(), torch.ones(4, 8)[:, ::2]])
def test_kernels_take_nothing_but_dense_float32_beside_the_map(wrong):
    with pytest.raises(TypeError, match="dense float32"):
        kernels.place(wrong)


HOOKS = {
    "another layout": (
        lambda t: t.contiguous(memory_format=torch.channels_last) if t.dim() == 4 else t,
        lambda t: t,
    ),
    "half precision": (torch.Tensor.half, torch.Tensor.float),
}


@both_modes
@pytest.mark.parametrize("hooks", HOOKS.values(), ids=HOOKS)
@every_block
def test_hooks_that_change_what_was_kept(name, hooks, train):
    block, x = random_block(name, 16).train(train), random_map(*BATCH).requires_grad_()
    upstream, inputs = random_map(*BATCH, seed=5), [x, *block.parameters()]
    wanted = torch.autograd.grad(block(x), inputs, upstream)
    with torch.autograd.graph.saved_tensors_hooks(*hooks):
        y = block(x)
    found = torch.autograd.grad(y, inputs, upstream)
    for grad, other in zip(found, wanted, strict=True):
        assert (grad - other).norm() <= 0.05 * other.norm() + 1e-3  # a rounded maximum may move


@pytest.mark.parametrize("name", WHOLE)
def test_a_map_that_comes_back_in_bfloat16(name):
    block, x = random_block(name, 16), random_map(*BATCH).requires_grad_()
    upstream = random_map(*BATCH, seed=5)
    (wanted,) = torch.autograd.grad(block(x), x, upstream)
    hooks = (lambda t: t.bfloat16() if t.shape == x.shape else t), (lambda t: t)
    with torch.autograd.graph.saved_tensors_hooks(*hooks):
        y = block(x)
    (found,) = torch.autograd.grad(y, x, upstream)
    assert (found - wanted).norm() <= 0.05 * wanted.norm()


def test_a_gradient_of_another_dtype_is_copied():
    x, grad = random_map(*BATCH), random_map(*BATCH, seed=5)
    assert torch.equal(kernels.in_layout_of(x, grad.double()), grad)
    assert kernels.in_layout_of(x, grad) is grad


def test_running_statistics_that_a_later_batch_changed():
    block, x = random_block("CaCo", 16), random_map(*BATCH).requires_grad_()
    inputs = [x, *block.parameters()]
    wanted = torch.autograd.grad(block(x).sum(), inputs)
    y = block(x)
    block.train()(5 * random_map(*BATCH, seed=5))
    torch.testing.assert_close(torch.autograd.grad(y.sum(), inputs), wanted)
