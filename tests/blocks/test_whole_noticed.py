"""Whatever hangs on a stage or layer is noticed: then layers are called, and nothing is skipped."""

import threading

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.autograd import forward_ad
from torch.nn.modules import module as modules
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import FlopCounterMode

from attnblocks import CaCo, create_block
from attnblocks.blocks.cbam import ChannelGate
from attnblocks.blocks.coord_att import CoordGate
from attnblocks.ops.native.library import library
from tests.blocks.test_whole import BATCH
from tests.helpers import BLOCKS, random_block, random_map

pytestmark = pytest.mark.skipif(library() is None, reason="no kernels here: attnblocks.ops.forms()")

PARTS = [
    (name, part) for name in BLOCKS for part, _ in create_block(name, 16).named_modules() if part
]
every_part = pytest.mark.parametrize(("name", "part"), PARTS)


HOOKS = [
    lambda m, note: m.register_forward_hook(note),
    lambda m, note: m.register_forward_hook(note, with_kwargs=True),
    lambda m, note: m.register_forward_pre_hook(note),
    lambda m, note: m.register_full_backward_hook(note),
    lambda m, note: m.register_full_backward_pre_hook(note),
]


@pytest.mark.parametrize(
    "register", HOOKS, ids=["after", "kwargs", "before", "back", "before back"]
)
@every_part
def test_a_hook_on_any_part(name, part, register, in_one_call):
    block = random_block(name, 16)
    assert in_one_call(block)
    handle = register(block.get_submodule(part), lambda *_: None)
    assert not in_one_call(block)
    handle.remove()
    assert in_one_call(block)


@pytest.mark.parametrize(
    "register",
    [
        modules.register_module_forward_hook,
        modules.register_module_forward_pre_hook,
        modules.register_module_full_backward_hook,
        modules.register_module_full_backward_pre_hook,
    ],
)
def test_a_hook_on_all_modules(register, in_one_call):
    block = random_block("CaCo", 16)
    handle = register(lambda *_: None)
    try:
        assert not in_one_call(block)
    finally:
        handle.remove()
    assert in_one_call(block)


def test_a_hook_on_the_block_itself_takes_nothing_away(in_one_call):
    block, seen = random_block("CaCo", 16), []
    block.register_forward_hook(lambda m, args, y: seen.append(y.shape))
    assert in_one_call(block)
    assert seen == [torch.Size(BATCH)]


@every_part
def test_a_forward_of_its_own(name, part, in_one_call):
    block, called = random_block(name, 16), []
    module = block.get_submodule(part)
    forward = module.forward
    module.forward = lambda *args: called.append(part) or forward(*args)
    assert not in_one_call(block)
    assert called == [part]


def test_gates_of_its_own(in_one_call):
    block = random_block("CaCo", 16)
    block.gates = lambda x: [torch.ones(1, 1, 1, 1)]
    assert not in_one_call(block)
    assert torch.equal(block(x := random_map(*BATCH)), x)


def test_gates_replaced_in_the_class(in_one_call, monkeypatch):
    block = random_block("CaCo", 16)
    monkeypatch.setattr(CaCo, "gates", lambda self, x: [torch.ones(1, 1, 1, 1)])
    assert not in_one_call(block)


def test_a_subclass(in_one_call):
    class Doubled(CaCo):
        def gates(self, x):
            return [gate * 2 for gate in super().gates(x)]

    assert not in_one_call(Doubled(16))
    assert not in_one_call(type("Same", (CaCo,), {})(16))


@every_part
def test_a_part_of_another_class(name, part, in_one_call):
    block = random_block(name, 16)
    module = block.get_submodule(part)
    module.__class__ = type("Other", (type(module),), {})
    assert not in_one_call(block)


class Wrapped(nn.Module):
    def __init__(self, wrapped: nn.Module) -> None:
        super().__init__()
        self.wrapped = wrapped

    def forward(self, *args):
        return self.wrapped(*args)


LAYERS = [(name, part) for name, part in PARTS if "." in part or name in ("SE", "CoordAtt", "Eca")]


@pytest.mark.parametrize(("name", "part"), LAYERS)  # a block asks a stage for its channels
def test_a_wrapper(name, part, in_one_call):
    block = random_block(name, 16)
    block.set_submodule(part, Wrapped(block.get_submodule(part)))
    assert not in_one_call(block)


FUNCTIONS = [
    *[("CaCo", F, name) for name in ("conv2d", "batch_norm", "relu", "hardswish")],
    *[("CaCo", torch, "sigmoid"), ("SE", F, "hardsigmoid"), ("Eca", F, "conv1d")],
]


@pytest.mark.parametrize(("block", "owner", "name"), FUNCTIONS)
def test_a_profiler_that_replaces_functions(block, owner, name, in_one_call, monkeypatch):
    block, real, seen = random_block(block, 16), getattr(owner, name), []
    monkeypatch.setattr(owner, name, lambda *args, **kw: seen.append(name) or real(*args, **kw))
    assert not in_one_call(block)
    assert seen


OWN_METHODS = [
    *[("SE", "", name) for name in ("channel_gate", "times_gain", "check_input")],
    *[("CoordAtt", "", "coordinate_gates"), ("SeCo", "se", "channel_gate")],
    *[("CaCo", "coord", "coordinate_gates"), ("CaCo", "channel", "times_gain")],
    *[("CBAM", "spatial", "times_gain"), ("Eca", "", "times_gain")],
]


@pytest.mark.parametrize("of_class", [False, True])
@pytest.mark.parametrize(("name", "part", "method"), OWN_METHODS)
def test_a_method_that_was_replaced(name, part, method, of_class, in_one_call, monkeypatch):
    block, seen = random_block(name, 16), []
    owner = block.get_submodule(part)
    owner = type(owner) if of_class else owner
    real = getattr(owner, method)
    monkeypatch.setattr(owner, method, lambda *args: seen.append(method) or real(*args))
    assert not in_one_call(block)
    assert seen


def test_a_convolution_that_was_replaced_in_the_class(in_one_call, monkeypatch):
    for owner, name in ((nn.Conv2d, "_conv_forward"), (nn.Conv2d, "__call__")):
        real = getattr(owner, name)
        with monkeypatch.context() as patch:
            patch.setattr(owner, name, lambda *args, real=real: real(*args))
            assert not in_one_call(random_block("CaCo", 16))
    monkeypatch.setattr(nn.Module, "_call_impl", nn.Module._wrapped_call_impl)
    block = random_block("CaCo", 16)
    assert block.whole.run(block, random_map(*BATCH)) is None


@pytest.mark.parametrize("hidden", [False, True])
def test_a_counter_of_batches_that_is_elsewhere(hidden, monkeypatch):
    block = random_block("CaCo", 16).train()
    counter = block.coord.bn1._buffers.pop("num_batches_tracked")
    block.coord.bn1.__dict__["num_batches_tracked"] = counter
    if hidden:
        block.coord.bn1._buffers["num_batches_tracked"] = torch.tensor(5)
    block(random_map(*BATCH))
    assert counter == 1 or block.coord.bn1.__dict__["num_batches_tracked"] == 1


REPLACED = [nn.Module, nn.Conv2d, nn.BatchNorm2d, nn.ReLU, nn.Hardswish, nn.Sigmoid]


@pytest.mark.parametrize("owner", [*REPLACED, ChannelGate, CoordGate])
def test_a_tool_that_replaces_methods(owner, in_one_call, monkeypatch):
    block, seen = random_block("CaCo", 16), []
    name = "__call__" if owner is nn.Module else "forward"
    real = getattr(owner, name)
    monkeypatch.setattr(owner, name, lambda *args: seen.append(owner) or real(*args))
    assert not in_one_call(block)
    assert seen


def test_modes_that_follow_operators(in_one_call):
    block, x = random_block("CaCo", 16), random_map(*BATCH)
    with FlopCounterMode(display=False) as flops:
        assert not in_one_call(block)
    assert flops.get_total_flops() > 0
    with torch.overrides.BaseTorchFunctionMode():
        assert not in_one_call(block)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert not in_one_call(block)
    with forward_ad.dual_level():
        assert not in_one_call(block, forward_ad.make_dual(x, torch.ones_like(x)))
    assert not in_one_call(lambda x: torch.vmap(block)(x[None]))
    assert not in_one_call(lambda x: torch.func.jvp(block, (x,), (x,)))
    assert not in_one_call(lambda x: torch.jit.trace(block, x, check_trace=False))
    assert not in_one_call(lambda x: torch.fx.symbolic_trace(block)(x))
    assert not in_one_call(lambda x: torch.export.export(block, (x,)))
    assert not in_one_call(torch.compile(block, backend="eager", fullgraph=True))
    assert in_one_call(block)


def test_maps_that_the_kernels_do_not_know(in_one_call, checking):
    block, x = random_block("CaCo", 16), random_map(*BATCH)
    assert not in_one_call(block, x.mT.contiguous().mT)
    assert not in_one_call(block, x[:0])
    assert not in_one_call(block.double(), x.double())
    assert not in_one_call(block.half(), x.half())
    assert not in_one_call(block.to("meta"), x.half().to("meta"))


def test_checkpointing_the_block_gives_the_same_gradients():
    block, x = random_block("CaCo", 16).train(), random_map(*BATCH).requires_grad_()
    wanted = torch.autograd.grad(block(x).square().sum(), [x, *block.parameters()])
    for reentrant in (False, True):
        y = checkpoint(block, x, use_reentrant=reentrant)
        block.zero_grad()
        y.square().sum().backward()
        torch.testing.assert_close(x.grad, wanted[0])
        torch.testing.assert_close(tuple(p.grad for p in block.parameters()), wanted[1:])
        x.grad = None


def test_anomaly_mode_and_inference_tensors(in_one_call, checking):
    block = random_block("CaCo", 16)
    with torch.autograd.detect_anomaly(check_nan=True):
        block(random_map(*BATCH)).sum().backward()
    with torch.inference_mode():
        x = random_map(*BATCH)
    assert in_one_call(block, x)
    with pytest.raises(RuntimeError, match="Inference tensors cannot be saved for backward"):
        block(x)


def test_a_default_dtype_of_float64_does_not_reach_the_kernels(in_one_call):
    block, x = random_block("CaCo", 16), random_map(*BATCH)
    with torch.no_grad():
        wanted = block(x), random_block("CBAM", 16)(x)
    cbam = random_block("CBAM", 16)
    torch.set_default_dtype(torch.float64)
    try:
        with torch.no_grad():
            found = block(x), cbam(x)
        assert torch.equal(block(x).detach(), block(x).detach())
        torch.testing.assert_close(block(x).detach(), wanted[0], rtol=1e-5, atol=1e-6)
    finally:
        torch.set_default_dtype(torch.float32)
    torch.testing.assert_close(found, wanted)


def test_parameters_that_another_thread_replaces_stay_until_the_call_is_over():
    block, x = create_block("SE", 256).requires_grad_(False), random_map(16, 256, 16, 16)
    state = block.state_dict()
    wanted, stop = block(x), threading.Event()

    def swap():
        while not stop.is_set():
            block.load_state_dict({k: v.clone() for k, v in state.items()}, assign=True)

    thread = threading.Thread(target=swap)
    thread.start()
    try:
        with torch.no_grad():
            assert all(torch.equal(block(x), wanted) for _ in range(50))
    finally:
        stop.set()
        thread.join()
