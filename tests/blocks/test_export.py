"""Compiled, exported and ONNX blocks compute what the eager block computes."""

import numpy as np
import onnxruntime
import pytest
import torch
import torch._dynamo.testing
from torch import nn
from torch.export import Dim

from attnblocks import CoordAtt, create_block
from tests.helpers import (
    BLOCKS,
    both_formats,
    both_modes,
    every_block,
    random_block,
    random_map,
    randomized,
)

# CBAM and CaCo have the stages of the others.
exported_block = pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[pytest.mark.slow] * (name in ("SeCo", "CoordAtt")))
        for name in BLOCKS
    ],
)

OTHER_SIZES = [(1, 5, 7), (3, 12, 9), (4, 7, 16)]  # N, H, W
DYNAMIC = {0: Dim("n", min=1), 2: Dim("h", min=1), 3: Dim("w", min=1)}
EXAMPLE = (2, 16, 8, 6)


@both_modes
@exported_block
def test_compiles_whole_with_dynamic_sizes(name, train):
    torch.compiler.reset()
    block = random_block(name, 16).train(train)
    compiled = torch.compile(block, fullgraph=True, dynamic=True, backend="aot_eager")
    for n, height, width in OTHER_SIZES:
        x = random_map(n, 16, height, width)
        gradients = []
        for forward in (block, compiled):
            x_in = x.clone().requires_grad_()
            y = forward(x_in)
            y.square().sum().backward()
            gradients.append((y.detach(), x_in.grad))
        torch.testing.assert_close(*gradients)


@pytest.mark.parametrize(
    "memory_format",
    [torch.contiguous_format, pytest.param(torch.channels_last, marks=pytest.mark.slow)],
    ids=["contiguous", "channels_last"],
)
def test_the_default_compiler_gives_the_same_numbers(memory_format):
    torch.compiler.reset()
    model = torch.nn.Sequential(*(random_block(name, 16) for name in BLOCKS))
    compiled = torch.compile(model, fullgraph=True)
    x = random_map(2, 16, 9, 7).contiguous(memory_format=memory_format)
    with torch.no_grad():
        torch.testing.assert_close(compiled(x), model(x))


@every_block
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::torch.jit.TracerWarning")
def test_traces_with_any_size(name):
    block = random_block(name, 16)
    traced = torch.jit.trace(block, random_map(*EXAMPLE))
    for n, height, width in OTHER_SIZES:
        x = random_map(n, 16, height, width)
        torch.testing.assert_close(traced(x), block(x))


@exported_block
def test_exports_with_dynamic_batch_height_and_width(name):
    block = random_block(name, 16)
    program = torch.export.export(block, (random_map(*EXAMPLE),), dynamic_shapes=(DYNAMIC,))
    targets = [str(node.target) for node in program.graph.nodes if node.op == "call_function"]
    assert not any(cut in target for target in targets for cut in ("split", "slice", "select"))
    exported = program.module()
    for n, height, width in OTHER_SIZES:
        x = random_map(n, 16, height, width)
        torch.testing.assert_close(exported(x), block(x))


@every_block
def test_exports_with_a_fixed_height_and_width(name):
    """Statistics are poolings then, which runtimes take; none may be those of the example."""
    block = random_block(name, 16)
    sizes = ({0: Dim("n", min=1)},)
    program = torch.export.export(block, (random_map(*EXAMPLE),), dynamic_shapes=sizes)
    x = random_map(5, *EXAMPLE[1:], seed=1)
    torch.testing.assert_close(program.module()(x), block(x))
    reduced = (torch.ops.aten.mean.dim, torch.ops.aten.amax.default)
    dims = [sorted(n.args[1]) for n in program.graph.nodes if n.target in reduced]
    assert all(dim in ([2, 3], [1]) for dim in dims)  # [1]: over the channels, for CBAM


@pytest.mark.parametrize("name", ["CoordAtt", "CaCo"])
@pytest.mark.parametrize(
    "norm",
    [
        lambda width, **place: nn.GroupNorm(1, width, **place),
        lambda width, **place: nn.BatchNorm2d(width, track_running_stats=False, **place),
        lambda width, **place: nn.InstanceNorm2d(width, affine=True, **place),
    ],
    ids=["group norm", "batch norm without statistics", "instance norm"],
)
def test_a_norm_over_rows_and_columns_is_exported_as_one(name, norm):
    """What is normalised together may not be taken apart."""
    block = randomized(create_block(name, 16, norm_layer=norm)).eval()
    program = torch.export.export(block, (random_map(*EXAMPLE),), dynamic_shapes=(DYNAMIC,))
    x = random_map(3, 16, 12, 9)
    torch.testing.assert_close(program.module()(x), block(x))


@exported_block
def test_a_block_in_train_mode_is_exported_with_the_statistics_of_the_batch(name):
    block = random_block(name, 16).train()
    program = torch.export.export(block, (random_map(*EXAMPLE),), dynamic_shapes=(DYNAMIC,))
    x = random_map(3, 16, 12, 9)
    torch.testing.assert_close(program.module()(x), block(x))


class Sharper(CoordAtt):
    def coordinate_gates(self, means, height):
        return tuple(gate**2 for gate in super().coordinate_gates(means, height))


def halved(block, args):
    return args[0] * 0.5, *args[1:]


def replaced(block):
    gates = block.coord.coordinate_gates
    block.coord.coordinate_gates = lambda *args: [gate**2 for gate in gates(*args)]


@pytest.mark.parametrize(
    ("make", "change"),
    [
        (lambda: randomized(Sharper(16)), lambda block: None),
        (lambda: random_block("CaCo", 16), replaced),
        (
            lambda: random_block("CaCo", 16),
            lambda block: block.coord.register_forward_pre_hook(halved),
        ),
    ],
    ids=["method overridden", "method replaced", "hook"],
)
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::torch.jit.TracerWarning")
def test_what_is_changed_in_a_stage_is_exported(make, change):
    block = make().eval()
    change(block)
    program = torch.export.export(block, (random_map(*EXAMPLE),), dynamic_shapes=(DYNAMIC,))
    traced = torch.jit.trace(block, random_map(*EXAMPLE))
    x = random_map(3, 16, 12, 9)
    torch.testing.assert_close(program.module()(x), block(x))
    torch.testing.assert_close(traced(x), block(x))


@pytest.mark.parametrize("free", [2, 3])
def test_exports_with_one_free_side(free):
    block = random_block("CaCo", 16)
    sizes = ({free: Dim("side", min=1)},)
    program = torch.export.export(block, (random_map(*EXAMPLE),), dynamic_shapes=sizes)
    shape = [*EXAMPLE]
    shape[free] += 3
    x = random_map(*shape)
    torch.testing.assert_close(program.module()(x), block(x))


@exported_block
def test_onnx_with_dynamic_sizes_agrees_with_eager(name, tmp_path):
    block = random_block(name, 16)
    path = tmp_path / "block.onnx"
    torch.onnx.export(
        block,
        (random_map(*EXAMPLE),),
        str(path),
        dynamo=True,
        dynamic_shapes=(DYNAMIC,),
        verbose=False,
    )
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    for n, height, width in OTHER_SIZES:
        x = random_map(n, 16, height, width)
        (y,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
        np.testing.assert_allclose(y, block(x).detach().numpy(), atol=1e-5)


@both_formats
@exported_block
def test_sizes_and_widths_need_no_new_compilation(name, memory_format):
    """Sizes are dynamic; and of many blocks of a network, each is compiled as part of it once."""
    torch.compiler.reset()
    frames = torch._dynamo.testing.CompileCounter()
    network = torch.nn.Sequential(random_block(name, 16), random_block(name, 16, seed=1))
    compiled = torch.compile(network, fullgraph=True, dynamic=True, backend=frames)
    with torch.no_grad():
        for n, height, width in OTHER_SIZES[1:]:
            x = random_map(n, 16, height, width).contiguous(memory_format=memory_format)
            torch.testing.assert_close(compiled(x), network(x))
    assert frames.frame_count == 1
