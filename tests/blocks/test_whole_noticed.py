"""Whatever hangs on a stage or layer is noticed: then layers are called, and nothing is skipped."""

import copy
import pickle
import warnings

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.autograd import forward_ad
from torch.nn.modules import module as modules
from torch.nn.utils import parametrizations, parametrize, prune
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import FlopCounterMode

from attnblocks import CaCo, Eca, create_block
from attnblocks.blocks.cbam import ChannelGate
from attnblocks.blocks.coord_att import CoordGate
from attnblocks.ops import functional
from attnblocks.ops.native import host
from attnblocks.ops.native.library import library
from tests.blocks.test_called_layers import Adapter, weight_norm_of_old
from tests.blocks.test_whole import BATCH, note_calls
from tests.helpers import BLOCKS, random_block, random_map

pytestmark = pytest.mark.skipif(library() is None, reason="no kernels here: attnblocks.ops.forms()")

PARTS = [
    (name, part)
    for name in BLOCKS
    for part, _ in create_block(name, 16).named_modules()
    if part and not (name == "CBAM" and part.startswith("spatial"))
]
every_part = pytest.mark.parametrize(("name", "part"), PARTS)


@pytest.fixture
def in_one_call(monkeypatch):
    """A function from a block to whether it runs in one call, on a map where it could."""
    calls = note_calls(monkeypatch)

    def runs(block, x=None):
        calls.clear()
        with torch.no_grad():
            block(random_map(*BATCH) if x is None else x)
        return bool(calls)

    return runs


@pytest.fixture(params=["by C", "by Python"])
def checking(request, monkeypatch):
    """Who checks the tensors of the layers: a torch before 2.10 describes none to C."""
    if request.param == "by Python":
        monkeypatch.setattr(host, "view", lambda: 0)
    host.host.cache_clear()
    yield
    host.host.cache_clear()


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
        block.channel.fc2,
        "weight",
        nn.Parameter(torch.randn(16, 2, 1, 1)[:, [1, 0]].repeat(1, 2, 1, 1)[:, ::3]),
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
def test_a_change_of_a_layer(change, in_one_call, checking, monkeypatch):
    block = random_block("CaCo", 16)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        CHANGES[change](block)
    # Whether or not its layers can run then.
    monkeypatch.setattr(CaCo, "check_input", lambda self, x: None)
    monkeypatch.setattr(functional, "apply_gates", lambda x, gates: x)
    monkeypatch.setattr(ChannelGate, "forward", lambda self, *_: torch.ones(1))
    monkeypatch.setattr(CoordGate, "forward", lambda self, *_: [])
    assert not in_one_call(block.eval())


def test_a_convolution_over_channels_of_another_form(in_one_call, checking):
    for change in (
        {"padding_mode": "circular"},
        {"bias": True},
        {"dilation": 2, "padding": 2},
    ):
        block = Eca(16)
        block.conv = nn.Conv1d(1, 1, 3, **{"padding": 1, "bias": False, **change})
        assert not in_one_call(block)


@pytest.mark.parametrize("name", ["conv2d", "batch_norm", "relu"])
def test_a_profiler_that_replaces_functions(name, in_one_call, monkeypatch):
    block, real, seen = random_block("CaCo", 16), getattr(F, name), []
    monkeypatch.setattr(F, name, lambda *args, **kw: seen.append(name) or real(*args, **kw))
    assert not in_one_call(block)
    assert seen


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
