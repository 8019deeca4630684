"""Passes over the map and bytes kept for backward, counted by hand."""

import pytest
import torch
import torchvision
from torch import nn

from benchmarks.blocks import count
from benchmarks.candidates import build_network
from benchmarks.counting import map_traffic, saved_by_training, saved_bytes
from benchmarks.models import flops_per_image
from benchmarks.published import published
from tests.benchmarks.made import MAP, site_of


@pytest.mark.parametrize(
    ("name", "reads", "writes"),
    [
        ("SE", 2, 1),  # mean; product
        ("Eca", 2, 1),
        ("CBAM", 6, 2),  # mean, maximum, product; and again over the channels
        ("CoordAtt", 4, 2),  # rows, columns, two products
        ("SeCo", 6, 3),
        ("CaCo", 7, 3),
    ],
)
def test_passes_of_the_published_forms_over_the_map(name, reads, writes):
    block = published(name, site_of(16)).eval()
    with torch.no_grad():
        traffic = map_traffic(block, torch.rand(2, 16, 9, 9))
    assert (traffic.reads, traffic.writes, traffic.maps) == (reads, writes, reads + writes)


VECTOR = torch.rand(2, 3, 1, 1)
MATRIX = torch.rand(150, 3)  # larger than the map; what it computes is not


@pytest.mark.parametrize(
    ("run", "reads", "writes"),
    [
        (lambda x: x.relu(), 1, 1),
        (lambda x: x + x, 2, 1),
        (lambda x: x.mean((2, 3)), 1, 0),
        (lambda x: x.flatten(2).transpose(1, 2), 0, 0),
        (lambda x: VECTOR.expand_as(x) * x, 1, 1),
        (lambda x: x.clone().mul_(2), 2, 2),
        (lambda x: torch.mul(x, 2, out=torch.empty_like(x)), 1, 1),
        (lambda x: nn.functional.linear(x.mean((2, 3)), MATRIX), 1, 0),
    ],
)
def test_passes_over_the_map_counted_by_hand(run, reads, writes):
    traffic = map_traffic(run, MAP, [MATRIX])
    assert (traffic.reads, traffic.writes) == (reads, writes)


def test_a_weight_larger_than_the_map_counts_unless_it_is_named():
    def run(x):
        return nn.functional.linear(x.mean((2, 3)), MATRIX)

    assert map_traffic(run, MAP).maps == 2
    assert map_traffic(run, MAP, [MATRIX.T]).maps == 1


KEPT = {
    "the output of relu": (lambda x, y: x.relu(), 1),
    "both factors": (lambda x, y: x * y, 2),
    "a square keeps one": (lambda x, y: x * x, 1),
    "nothing of a sum": (lambda x, y: x + y, 0),
    "the same map twice": (lambda x, y: (x * 2.0).relu().relu(), 2),
    "shared by two operators": (lambda x, y: x * y + x * y.detach(), 2),
    "in place": (lambda x, y: (x + y).relu_(), 1),
    "the whole storage of a view": (lambda x, y: x[:1] * y[:1], 2),
    "nothing without a graph": (lambda x, y: x.detach() * y.detach(), 0),
}


@pytest.mark.parametrize("case", KEPT)
def test_bytes_kept_for_backward_counted_by_hand(case):
    run, maps = KEPT[case]
    x, y = (torch.rand(2, 3, 8, 8, requires_grad=True) for _ in range(2))
    assert saved_bytes(lambda: run(x, y)) == maps * x.nbytes


def test_what_is_there_anyway_is_not_kept_for_backward():
    x, y = (torch.rand(2, 3, 8, 8, requires_grad=True) for _ in range(2))
    assert saved_bytes(lambda: x * y, but=[x]) == y.nbytes
    assert saved_bytes(lambda: x * y, but=[x[0], y]) == 0
    layer = nn.Linear(8, 8, bias=False)  # keeps input and weight
    assert saved_by_training(nn.Sequential(layer, nn.ReLU()), x) == x.nbytes


@pytest.mark.parametrize("name", ["mobilenet_v3_small", "mobilenet_v3_large"])
def test_flops_are_those_that_torchvision_publishes(name):
    weights_of_name = torchvision.models.get_model_weights(name).DEFAULT
    flops = flops_per_image(build_network(name), torch.rand(2, 3, 224, 224))
    assert flops / 2e9 == pytest.approx(weights_of_name.meta["_ops"], abs=5e-4)  # given in MACs


def test_counted_figures_of_a_block():
    block, x = published("SE", site_of(16)), torch.rand(4, 16, 9, 9)
    forward = count([block, block], [x, x[:1]], None, compiled=False)
    assert forward["maps"] == 3
    assert forward["map_bytes"] == x.nbytes * 5 / 4
    assert forward["parameters"] == 2 * sum(p.numel() for p in block.parameters())
    step = count([block.train()], [x], [x], compiled=False)
    assert "maps" not in step
    assert x.nbytes < step["saved_bytes"] < 1.1 * x.nbytes  # the map, and vectors
    assert count([nn.ReLU()], [x], [x], compiled=False)["saved_bytes"] == x.nbytes
