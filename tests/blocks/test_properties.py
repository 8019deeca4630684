"""What holds for every block whatever its input, checked without a reference."""

import copy
import io
import pickle

import pytest
import torch
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.export import Dim
from torch.func import functional_call

from attnblocks import create_block
from tests.helpers import BLOCKS, random_block, random_map

CHANNEL = ["SE", "Eca"]
COORDINATE = ["CoordAtt", "SeCo", "CaCo"]

seeds = st.integers(0, 2**16)
formats = st.sampled_from([torch.contiguous_format, torch.channels_last])
# Usual widths, and some that nothing divides.
channels = st.sampled_from([1, 2, 7, 8, 16, 33, 64, 96])
sides = st.integers(1, 12)


@st.composite
def cases(draw, names=tuple(BLOCKS), dtypes=(torch.float32, torch.float64), batch=(1, 4)):
    """A block in eval mode with random weights, and a map for it."""
    width, seed, dtype = draw(channels), draw(seeds), draw(st.sampled_from(dtypes))
    block = random_block(draw(st.sampled_from(names)), width, seed=seed).to(dtype)
    shape = (draw(st.integers(*batch)), width, draw(sides), draw(sides))
    x = random_map(*shape, seed=seed + 1, dtype=dtype)
    scale = draw(st.sampled_from([0.0, 1.0, 30.0]))
    return block, (x * scale).contiguous(memory_format=draw(formats))


def near(dtype: torch.dtype) -> dict[str, float]:
    return {"rtol": 1e-9, "atol": 1e-9} if dtype == torch.float64 else {"rtol": 1e-4, "atol": 1e-4}


@given(cases(batch=(2, 4)), seeds)
def test_samples_of_a_batch_do_not_influence_each_other(case, seed):
    block, x = case
    y = block(x)
    torch.testing.assert_close(block(x[:1]), y[:1], **near(x.dtype))
    others = x.clone()
    others[1:] = random_map(*x.shape, seed=seed, dtype=x.dtype)[1:]
    torch.testing.assert_close(block(others)[:1], y[:1], **near(x.dtype))
    order = torch.arange(len(x)).flip(0)
    torch.testing.assert_close(block(x[order]), y[order], **near(x.dtype))


@given(cases(COORDINATE), st.sampled_from([(2,), (3,), (2, 3)]))
def test_flipping_commutes_with_coordinate_attention(case, dims):
    block, x = case
    torch.testing.assert_close(block(x.flip(dims)), block(x).flip(dims), **near(x.dtype))


@given(cases(COORDINATE))
def test_a_turned_map_needs_turned_gates(case):
    """Rows and columns share the first layer: with their last layers exchanged, H and W are too."""
    block, x = case
    turned = copy.deepcopy(block)
    coord = getattr(turned, "coord", turned)
    coord.conv_h, coord.conv_w = coord.conv_w, coord.conv_h
    torch.testing.assert_close(turned(x.transpose(2, 3)), block(x).transpose(2, 3), **near(x.dtype))


@given(cases(CHANNEL), seeds)
def test_channel_gates_do_not_see_where_anything_is(case, seed):
    block, x = case
    order = torch.randperm(x[0, 0].numel(), generator=torch.Generator().manual_seed(seed))
    shuffled = x.flatten(2)[:, :, order].unflatten(2, x.shape[2:])
    for gate, other in zip(block.gates(x), block.gates(shuffled), strict=True):
        torch.testing.assert_close(gate, other, **near(x.dtype))


@given(cases(dtypes=(torch.float64, torch.float32, torch.bfloat16, torch.float16)))
def test_gates_lie_between_0_and_1_and_multiply_the_map(case):
    block, x = case
    y = block(x)
    assert y.dtype == x.dtype
    assert (y.abs() <= x.abs()).all()
    assert ((y * x) >= 0).all()
    for gate in block.gates(x):
        assert gate.min() >= 0
        assert gate.max() <= 1


@given(cases(dtypes=(torch.bfloat16, torch.float16)), st.floats(1, 1000))
def test_half_precision_stays_finite_up_to_a_thousand(case, most):
    block, x = case
    x = (x.sign() * most).to(x.dtype)  # the largest means and maxima that there can be
    assert block(x).isfinite().all()


@given(st.floats(0, 38), st.sampled_from(BLOCKS), seeds, formats)
def test_finite_wherever_the_se_of_torchvision_is(exponent, name, seed, memory_format):
    theirs = torchvision.ops.SqueezeExcitation(16, 8)
    x = random_map(2, 16, 5, 6, seed=seed).contiguous(memory_format=memory_format)
    x = x.clamp(-3, 3) / 3 * 10.0**exponent
    if theirs(x).isfinite().all():
        block = create_block(name, 16).eval()
        assert block(x).isfinite().all()


@given(cases())
def test_every_way_to_copy_a_block_computes_the_same(case):
    block, x = case
    expected = block(x)
    buffer = io.BytesIO()
    torch.save(block.state_dict(), buffer)
    buffer.seek(0)
    name, width = type(block).__name__, block.channels
    loaded = create_block(name, width, dtype=x.dtype).eval()
    loaded.load_state_dict(torch.load(buffer, weights_only=True))
    copies = (copy.deepcopy(block), pickle.loads(pickle.dumps(block)), loaded)
    for other in (*copies, copy.deepcopy(block).share_memory()):
        assert torch.equal(other(x), expected)


@pytest.mark.slow
@settings(max_examples=30)
@given(cases(dtypes=(torch.float32,)))
def test_eager_compiled_exported_and_onnx_agree(case):
    """Made for other sizes than those that they are then given."""
    block, x = case
    expected = block(x).detach()
    example = (random_map(2, block.channels, 8, 6),)
    sizes = ({0: Dim("n", min=1), 2: Dim("h", min=1), 3: Dim("w", min=1)},)
    torch.compiler.reset()
    compiled = torch.compile(block, fullgraph=True, dynamic=True, backend="aot_eager")
    compiled(*example)
    torch.testing.assert_close(compiled(x), expected, **near(x.dtype))
    exported = torch.export.export(block, example, dynamic_shapes=sizes).module()
    torch.testing.assert_close(exported(x), expected, **near(x.dtype))
    program = torch.onnx.export(block, example, dynamo=True, dynamic_shapes=sizes, verbose=False)
    (found,) = program(x)  # runs in ONNX Runtime
    torch.testing.assert_close(found, expected, **near(x.dtype))


@given(cases(), seeds)
def test_functional_call_computes_with_the_given_weights(case, seed):
    block, x = case
    other = random_block(type(block).__name__, block.channels, seed=seed).to(x.dtype)
    found = functional_call(block, other.state_dict(), (x,))
    torch.testing.assert_close(found, other(x), **near(x.dtype))


@settings(max_examples=30)
@given(cases(), st.booleans())
def test_equal_inputs_give_equal_bits(case, train):
    block, x = case
    if train and x.numel() == x.shape[1]:
        return  # a single value: batch norm refuses it
    results = []
    torch.use_deterministic_algorithms(True)
    try:
        for _ in range(2):
            copied = copy.deepcopy(block).train(train)
            leaf = x.clone().requires_grad_()
            y = copied(leaf)
            y.square().sum().backward()
            grads = [p.grad for p in copied.parameters()]
            results.append([y.detach(), leaf.grad, *grads, *copied.buffers()])
    finally:
        torch.use_deterministic_algorithms(False)
    first, second = results
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
