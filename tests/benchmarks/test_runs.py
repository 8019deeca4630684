"""What is run and timed computes what it should, and nothing more."""

import pytest
import torch
from torch import nn

from benchmarks.blocks import Pass, new_run
from benchmarks.operators import FORMATS, QUESTIONS, inputs
from benchmarks.published import published
from benchmarks.timing import (
    every_graph_kept,
)
from tests.benchmarks.made import MAP, site_of


@pytest.mark.parametrize("memory_format", FORMATS.values(), ids=FORMATS)
@pytest.mark.parametrize("question", QUESTIONS)
def test_the_operators_that_are_compared_compute_the_same(question, memory_format):
    given = inputs(question, (8, 6, 5), 2, memory_format)
    first, *others = (answer(*given) for answer in QUESTIONS[question].values())
    for other in others:
        torch.testing.assert_close(other, first)


class Spy(nn.Module):
    """Multiplies by a weight, and notes what happens."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.full((1,), 3.0))
        self.seen: list[tuple[str, object]] = []
        self.weight.register_hook(lambda g: self.seen.append(("weight", g.item())))

    def forward(self, x):
        y = x * self.weight
        self.seen.append(("forward", y.requires_grad))
        if y.requires_grad:
            x.register_hook(lambda g: self.seen.append(("map", g.clone())))
        return y


def test_a_forward_run_keeps_no_graph():
    spy = Spy()
    new_run([spy, spy], [MAP, MAP], None, compiled=False)()
    assert spy.seen == [("forward", False)] * 2


def test_a_step_computes_the_gradients_of_map_and_parameters_and_adds_nothing_up():
    spy, gradient = Spy(), torch.full_like(MAP, 2.0)
    run = new_run([spy], [MAP], [gradient], compiled=False)
    for _ in range(2):
        run()
    seen = dict(spy.seen)
    assert len(spy.seen) >= 6
    assert seen["forward"] is True
    assert seen["weight"] == pytest.approx(2.0 * MAP.sum().item(), rel=1e-5)
    assert torch.equal(seen["map"], torch.full_like(MAP, 6.0))
    assert spy.weight.grad is None
    assert MAP.grad is None


def test_a_pass_runs_every_block_on_its_map():
    blocks = [published(name, site_of(16)).eval() for name in ("SE", "Eca")]
    maps = [torch.rand(1, 16, size, size) for size in (4, 6)]
    torch.testing.assert_close(
        Pass(blocks)(maps), [block(x) for block, x in zip(blocks, maps, strict=True)]
    )


def test_more_candidates_of_one_class_are_compiled_than_torch_would():
    compiled = []

    def backend(graph, inputs):
        compiled.append(graph)
        return graph.forward

    with every_graph_kept():
        for channels in range(1, 13):
            block = Pass([nn.BatchNorm2d(channels).eval()])
            torch.compile(block, backend=backend, dynamic=False)([torch.rand(1, channels, 4, 4)])
    assert len(compiled) == 12
