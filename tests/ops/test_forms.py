"""Which form runs when: native for plain maps of the CPU while nothing follows the operators."""

import pytest
import torch
from torch import nn
from torch.autograd import forward_ad
from torch.fx.experimental.proxy_tensor import make_fx
from torch.overrides import BaseTorchFunctionMode
from torch.utils.flop_counter import FlopCounterMode

from attnblocks.ops import eager, formulas, functional
from attnblocks.ops.native import functions, kernels
from attnblocks.ops.native.library import library
from tests.helpers import random_map

native = pytest.mark.skipif(library() is None, reason="no kernels here: see ops.forms()")


class Subclass(torch.Tensor):
    pass


NATIVE = {
    "contiguous": lambda: random_map(2, 4, 5, 6),
    "channels-last": lambda: random_map(2, 4, 5, 6).contiguous(memory_format=torch.channels_last),
    "bfloat16": lambda: random_map(2, 4, 5, 6, dtype=torch.bfloat16),
    "images": lambda: random_map(6, 4, 5, 6)[1::2],
    "channels": lambda: random_map(2, 9, 5, 6)[:, 3:7],
    "images, channels-last": lambda: random_map(6, 5, 6, 4)[::3].permute(0, 3, 1, 2),
    "one position": lambda: random_map(2, 4, 1, 1),
    "one expanded image": lambda: random_map(1, 4, 5, 6).expand(1, -1, -1, -1),
    "parameter": lambda: nn.Parameter(random_map(2, 4, 5, 6)),
}
EAGER = {
    "float64": lambda: random_map(2, 4, 5, 6, dtype=torch.float64),
    "float16": lambda: random_map(2, 4, 5, 6, dtype=torch.float16),
    "no image": lambda: random_map(0, 4, 5, 6),
    "expanded images": lambda: random_map(1, 4, 5, 6).expand(3, -1, -1, -1),
    "expanded channels": lambda: random_map(2, 1, 5, 6).expand(-1, 4, -1, -1),
    "rows": lambda: random_map(2, 4, 9, 6)[:, :, ::2],
    "columns": lambda: random_map(2, 4, 5, 12)[..., ::2],
    "channels of channels-last": lambda: random_map(2, 5, 6, 8).permute(0, 3, 1, 2)[:, :4],
    "turned": lambda: random_map(2, 4, 5, 6).transpose(2, 3),
    "interleaved images": lambda: random_map(4, 2, 5, 6).transpose(0, 1),
    "overlapping images": lambda: torch.rand(200).as_strided((2, 4, 5, 6), (60, 30, 6, 1)),
    "of another device": lambda: torch.empty(2, 4, 5, 6, device="meta"),
    "subclass": lambda: random_map(2, 4, 5, 6).as_subclass(Subclass),
    "negated by a flag": lambda: torch._neg_view(random_map(2, 4, 5, 6)),
    "zeros that are not stored": lambda: torch._efficientzerotensor((2, 4, 5, 6)),
}


@native
@pytest.mark.parametrize("make", NATIVE.values(), ids=NATIVE)
def test_maps_that_the_kernels_know(make):
    x = make()
    assert functional.form(x) is functions
    for value, wanted in zip(
        functional.statistics(x, *functional.STATISTICS),
        formulas.statistics(x, functional.STATISTICS),
        strict=True,
    ):
        torch.testing.assert_close(value, wanted)


@pytest.mark.parametrize("make", EAGER.values(), ids=EAGER)
def test_other_maps(make):
    x = make()
    assert functional.form(x) is eager
    gate = x.new_ones((*x.shape[:2], 1, 1))
    assert functional.apply_gates(x, [gate]).shape == x.shape


def test_a_tensor_that_outlived_its_transform():
    kept = []
    torch.func.grad(lambda x: kept.append(x) or x.sum())(random_map(2, 4, 5, 6))
    assert functional.form(kept[0]) is eager


def seen_form() -> tuple[list, object]:
    seen: list = []

    def run(x):
        seen.append(functional.form(x))
        return functional.channel_means(x)

    return seen, run


def test_where_something_follows_the_operators():
    x = random_map(2, 4, 5, 6)
    seen, run = seen_form()
    torch.func.vmap(lambda row: run(row[None]))(x)
    torch.func.vmap(lambda value: run(x).sum() + value)(torch.ones(3))
    torch.func.grad(lambda x: run(x).sum())(x)
    make_fx(run)(x)
    with FlopCounterMode(display=False):
        run(x)
    with BaseTorchFunctionMode():
        run(x)
    assert seen == [eager] * 6


def test_where_operators_are_recorded():
    x = random_map(2, 4, 5, 6)
    seen, run = seen_form()
    torch.jit.trace(run, (x,), check_trace=False)
    with forward_ad.dual_level():
        run(forward_ad.make_dual(x, x))
        run(x)
    assert seen == [formulas] * 3
    graph = torch.export.export(Means(), (x,)).graph
    assert any("mean" in str(node.target) for node in graph.nodes)


class Means(nn.Module):
    def forward(self, x):
        return functional.channel_means(x)


@native
def test_with_autocast_and_in_inference_it_is_native():
    x = random_map(2, 4, 5, 6)
    seen, run = seen_form()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert run(x).dtype == torch.float32
    with torch.inference_mode():
        run(x.clone())
    assert seen == [functions] * 2


@native
def test_a_backward_pass_that_is_followed_is_not_native(monkeypatch):
    x = random_map(2, 4, 5, 6).requires_grad_()
    gates = [random_map(2, 4, 1, 1, seed=1).requires_grad_()]

    def run():
        y = functional.apply_gates(x, gates)
        return (
            y.sum() + functional.channel_maxima(y).sum() + functional.position_statistics(y).sum()
        )

    wanted = torch.autograd.grad(run(), [x, *gates])
    for kernel in ("map_gradient", "gate_gradients", "position_gradient"):
        monkeypatch.setattr(kernels, kernel, None)
    loss = run()
    with FlopCounterMode(display=False):
        found = torch.autograd.grad(loss, [x, *gates], retain_graph=True)
    torch.testing.assert_close(found, wanted)
    found = torch.autograd.grad(loss, [x, *gates], create_graph=True)
    torch.testing.assert_close(found, wanted)
    upstream = torch.ones(3)
    found = torch.autograd.grad(loss, [x, *gates], upstream, is_grads_batched=True)
    torch.testing.assert_close([values[1] for values in found], [*wanted])


@pytest.mark.parametrize("names", [(), ("means",), ("channel_means", "channel_means")])
def test_wrong_names_are_named(names):
    with pytest.raises(ValueError, match=r"names must be one or more of .*channel_maxima.* got"):
        functional.statistics(random_map(2, 4, 5, 6), *names)
