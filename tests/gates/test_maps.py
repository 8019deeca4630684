"""Gates read at every site: those that no image changes, and networks that draw random numbers."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from attnblocks import AttentionBlock, CaCo, gate_report
from attnblocks.visualize import attention_maps
from tests.gates.test_statistics import LABELS, Looks

SHAPES = {"channel": [(1, 3, 1, 1), (3, 1, 1), (1, 1, 1, 1), ()], "positions": [(1, 1, 6, 8)]}


class Constant(AttentionBlock):
    """One gate, which is a parameter: the same for each image, and of any shape that broadcasts."""

    def __init__(self, name, shape):
        super().__init__(3)
        self.gate_names = (name,)
        self.weight = nn.Parameter(torch.linspace(0.2, 0.7, max(1, torch.Size(shape).numel())))
        self.shape = shape

    def gates(self, x):
        return [self.weight.view(self.shape)]


CASES = [(name, shape) for name, shapes in SHAPES.items() for shape in shapes]


@pytest.mark.parametrize(("name", "shape"), CASES)
def test_a_gate_that_no_image_changes_is_there_for_each_image(name, shape):
    block, images = Constant(name, shape), torch.rand(5, 3, 6, 8)
    found = attention_maps(block, images)[""]
    gate = found.gates[name]
    assert gate.shape == (5, *((1,) * 4 + shape)[-3:])
    assert torch.equal(images * gate, block(images))
    assert found.on_image.shape == (5, 6, 8)
    mean = block.weight.view(shape).expand(5, 3, 6, 8).mean(1)
    torch.testing.assert_close(found.on_image, mean.detach())


@pytest.mark.parametrize("batch_size", [1, 4, 11])
@pytest.mark.parametrize(("name", "shape"), CASES)
def test_it_is_reported_whatever_the_batches(name, shape, batch_size):
    block, images = Constant(name, shape), torch.rand(11, 3, 6, 8)
    where = torch.zeros(11, 6, 8, dtype=torch.bool)
    where[:7, :2] = True
    report = gate_report(block, images, where=where, labels=LABELS, batch_size=batch_size)
    (gate,) = report.gates
    weight = block.weight.detach().double()
    assert gate.mean == pytest.approx(weight.mean().item())
    assert (gate.over_images, gate.between_classes) == pytest.approx((0, 0), abs=1e-7)
    assert (gate.closed, gate.open) == (0, 0)
    if name == "positions":
        share = weight[:16].sum() / weight.sum()  # two of six rows
        assert report.sites[0].on_where == pytest.approx(share.item())


def test_a_gate_that_no_image_changes_beside_one_that_is_the_image():
    model = nn.Sequential(Looks(3), Constant("channel", (1, 3, 1, 1)))
    images = torch.linspace(0, 1, 5)[:, None, None, None].expand(5, 3, 6, 8)
    looks, constant = gate_report(model, images, batch_size=4, labels=[0, 0, 0, 0, 1]).gates
    assert looks.between_classes == pytest.approx((1 - 0.375) / 2)
    assert constant.mean == pytest.approx(0.45)


class Drops(nn.Module):
    """Draws random numbers in eval mode, too, and keeps what it gave."""

    def forward(self, x):
        self.given = F.dropout(x, 0.5, training=True)
        return self.given


def test_the_random_state_is_left_as_it_was():
    model, x = nn.Sequential(Drops(), CaCo(3)), torch.rand(5, 3, 6, 8)
    before = torch.get_rng_state()
    attention_maps(model, x)
    assert torch.equal(torch.get_rng_state(), before)
    # It was drawn from, not set to a state of its own.
    assert torch.equal(model[0].given, F.dropout(x, 0.5))
    assert not torch.equal(torch.get_rng_state(), before)
    model.append(nn.Linear(5, 5))
    before = torch.get_rng_state()
    with pytest.raises(RuntimeError):
        attention_maps(model, x)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("batch_size", [2, 5])
def test_an_unchanged_copy_has_not_moved_even_if_the_network_draws(batch_size):
    model, x = nn.Sequential(Drops(), CaCo(3)), torch.rand(5, 3, 6, 8)
    state = torch.get_rng_state()
    report = gate_report(model, x, copy.deepcopy(model), batch_size=batch_size)
    assert [gate.moved for gate in report.gates] == [0, 0, 0]
    assert torch.equal(torch.get_rng_state(), state)
