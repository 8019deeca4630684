"""Gradients of the operations where they are easily wrong: ties, long lines, half precision."""

import torch

from attnblocks.ops import functional
from tests.helpers import both_formats


@both_formats
def test_positions_that_share_the_maximum_share_its_gradient(memory_format):
    x = torch.zeros(1, 2, 2, 3)
    x[0, 1] = torch.tensor([[1.0, 5.0, 5.0], [5.0, 2.0, 5.0]])
    x = x.contiguous(memory_format=memory_format).requires_grad_()
    (grad,) = torch.autograd.grad(functional.channel_maxima(x).sum(), x)
    assert torch.equal(grad[0, 0], torch.full((2, 3), 1 / 6))
    assert torch.equal(grad[0, 1], torch.tensor([[0, 0.25, 0.25], [0.25, 0, 0.25]]))

    gate = torch.tensor([1.0, 2.0]).reshape(1, 2, 1, 1).requires_grad_()
    x = torch.tensor([4.0, 2.0]).reshape(1, 2, 1, 1).requires_grad_()  # times the gate: 4 and 4
    maximum = functional.position_statistics(x, gate)[:, 0].sum()
    grads = torch.autograd.grad(maximum, [x, gate])
    assert torch.equal(grads[0].flatten(), torch.tensor([0.5, 1.0]))  # half of each gate
    assert torch.equal(grads[1].flatten(), torch.tensor([2.0, 1.0]))  # half of each value


def test_compiled_maxima_share_the_gradient_too():
    x = torch.tensor([[[[1.0, 6, 0], [6, 6, 6]]]]).requires_grad_()
    compiled = torch.compile(functional.channel_maxima, backend="aot_eager", fullgraph=True)
    for maxima in (functional.channel_maxima, compiled):
        (grad,) = torch.autograd.grad(maxima(x).sum(), x)
        assert torch.equal(grad[0, 0], torch.tensor([[0, 0.25, 0], [0.25, 0.25, 0.25]]))


def test_more_ties_than_half_precision_counts():
    x = torch.zeros(1, 1, 300, 300, dtype=torch.half).requires_grad_()
    (grad,) = torch.autograd.grad(functional.channel_maxima(x).sum(), x)
    assert abs(grad.double().sum() - 1) < 0.01


def test_small_gradients_of_long_lines_keep_their_digits_in_half_precision():
    x = torch.ones(1, 1, 256, 256, dtype=torch.half)
    rows = torch.ones(1, 1, 256, 1, dtype=torch.half, requires_grad=True)
    columns = torch.ones(1, 1, 1, 256, dtype=torch.half, requires_grad=True)
    upstream = torch.zeros_like(x)
    upstream[0, 0, 5, 7] = 1e-4
    y = functional.apply_gates(x, [rows, columns])
    for grad in torch.autograd.grad(y, [rows, columns], upstream):
        assert grad.double().sum() == upstream.double().sum()
