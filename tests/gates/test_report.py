"""What the report of gates says of a region, of a network before, and of what does not fit."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

from attnblocks import SE, CaCo, Eca, GateReport, gate_report
from tests.gates.test_statistics import Looks, Planted
from tests.helpers import random_block, random_map, snapshot, unchanged


def test_attention_in_a_region_beside_its_area():
    images = torch.full((4, 3, 2, 4), 0.2)
    images[0, :, :, :1] = 0.6  # a quarter of the image has half of the attention
    where = torch.zeros(4, 2, 4, dtype=torch.bool)
    where[0, :, 0] = where[1, :, :2] = where[2] = True  # the last image has no region
    images[2] = 0
    model = nn.Sequential(Looks(3), Eca(3))
    for batch_size in (1, 3, 4):
        report = gate_report(model, images, where=where, batch_size=batch_size)
        looks, eca = report.sites
        assert (report.images, report.marked) == (4, 3)
        assert report.area == pytest.approx((1 / 4 + 1 / 2 + 1) / 3)
        # Half of the attention, that which is even, and that of an image that nothing passes.
        assert looks.on_where == pytest.approx((1 / 2 + 1 / 2 + 1) / 3)
        assert eca.on_where is None
    assert "would be 0.583 inside" in str(report)
    assert "over 4 images, 3 of them with a region" in str(report)


@pytest.mark.parametrize("batch_size", [1, 3])
def test_attention_that_is_negative_has_no_share_in_a_region(batch_size):
    images, where = torch.full((3, 3, 2, 4), 0.5), torch.ones(3, 2, 4, dtype=torch.bool)
    looks, _ = gate_report(nn.Sequential(Looks(3), Eca(3)), images, where=where).sites
    assert looks.on_where == 1
    images[1, :, 1, 1] = -0.5
    report = gate_report(
        nn.Sequential(Looks(3), Eca(3)), images, where=where, batch_size=batch_size
    )
    assert [site.on_where for site in report.sites] == [None, None]


def test_how_far_gates_moved():
    images = random_map(5, 3, 6, 8, dtype=torch.float64).sigmoid()
    model = nn.Sequential(Planted(3, 0.6))
    before = nn.Sequential(Planted(3, 0.5))
    state = snapshot(before)
    for batch_size in (2, 5):
        report = gate_report(model, images, before, batch_size=batch_size)
        rows = 0.6 * images.mean(3).numpy()  # the row gates
        moved = np.sqrt(np.mean((rows / 6) ** 2))
        assert report.gates[1].moved == pytest.approx(moved)
        assert report.gates[1].moved_share == pytest.approx(moved / rows.mean())
    assert unchanged(before, state)
    assert [gate.moved for gate in gate_report(model, images, copy.deepcopy(model)).gates] == [
        0
    ] * 3
    assert gate_report(model, images).gates[0].moved_share is None


def test_the_networks_stay_as_they_were():
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), random_block("CaCo", 8)).train()
    before = copy.deepcopy(model)
    states = snapshot(model), snapshot(before)
    gate_report(torch.compile(model, backend="eager"), random_map(6, 3, 7, 7), before, batch_size=2)
    assert unchanged(model, states[0])
    assert unchanged(before, states[1])
    assert all(module.training for net in (model, before) for module in net.modules())


def test_a_network_before_that_does_not_fit():
    images = torch.rand(2, 8, 6, 6)
    model = nn.Sequential(CaCo(8))
    with pytest.raises(ValueError, match="before is model itself: give a deep copy"):
        gate_report(model, images, torch.compile(model, backend="eager"))
    said = r"^before must have the same blocks .* gates: columns of '0', rows of '0'$"
    with pytest.raises(ValueError, match=said):
        gate_report(model, images, nn.Sequential(SE(8)))
    with pytest.raises(ValueError, match=r"only one of them has the gates: channel of '1'$"):
        gate_report(model, images, nn.Sequential(CaCo(8), SE(8)))
    with pytest.raises(ValueError, match=r"rows of '1' is \(2, 8, 3, 1\), and was \(2, 8, 6, 1\)"):
        gate_report(
            nn.Sequential(nn.AvgPool2d(2), CaCo(8)), images, nn.Sequential(nn.ReLU(), CaCo(8))
        )


IMAGES = torch.rand(4, 8, 6, 5)
MASKS = torch.ones(4, 6, 5, dtype=torch.bool)


@pytest.mark.parametrize(
    ("error", "said", "images", "options"),
    [
        (ValueError, r"images must be \(N, C, H, W\).*got \(8, 6, 5\)", IMAGES[0], {}),
        (ValueError, r"none of them 0, got \(0, 8, 6, 5\)", IMAGES[:0], {}),
        (TypeError, r"images must be a tensor \(N, C, H, W\), got list", [IMAGES], {}),
        (ValueError, "batch_size must be at least 1, got 0", IMAGES, {"batch_size": 0}),
        (TypeError, "batch_size must be an int, got 2.0", IMAGES, {"batch_size": 2.0}),
        (TypeError, "where must be a tensor of .*ndarray", IMAGES, {"where": MASKS.numpy()}),
        (ValueError, r"where must be \(4, 6, 5\).*got \(3, 6, 5\)", IMAGES, {"where": MASKS[:3]}),
        (ValueError, r"where must be .*got \(4, 1, 6, 5\)", IMAGES, {"where": MASKS[:, None]}),
        (TypeError, "where must be of torch.bool, .*float32", IMAGES, {"where": MASKS.float()}),
        (ValueError, "where marks no region in any image", IMAGES, {"where": ~MASKS}),
        (ValueError, r"labels must be \(4,\), .*got \(3,\)", IMAGES, {"labels": [0, 1, 0]}),
        (TypeError, "labels must be integers.*float32", IMAGES, {"labels": [0.0, 1, 0, 1]}),
        (TypeError, "labels must be integers.*bool", IMAGES, {"labels": [True] * 4}),
        (TypeError, r"labels must be integers.*got \['a', 'b'", IMAGES, {"labels": [*"abab"]}),
        (TypeError, r"labels must be integers.*got \[\[0\], \[", IMAGES, {"labels": [[0], [1, 0]]}),
        (ValueError, "at least two classes, got only 3", IMAGES, {"labels": [3] * 4}),
    ],
)
def test_what_does_not_fit_is_an_error(error, said, images, options):
    with pytest.raises(error, match=said):
        gate_report(CaCo(8), images, **options)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_images_go_to_the_dtype_of_each_network(dtype):
    model = nn.Sequential(Counts(), random_block("CaCo", 8).to(dtype))
    before = copy.deepcopy(model).float()
    found = gate_report(model, IMAGES, before, labels=torch.arange(4, dtype=torch.uint8))
    expected = gate_report(model, IMAGES.to(dtype), before)
    for one, other in zip(found.gates, expected.gates, strict=True):
        assert one.mean == other.mean
        assert 0 < one.moved < 1e-2
    # Images of integers are left to the network.
    whole = gate_report(nn.Sequential(Cast(dtype), *model), (IMAGES * 255).to(torch.uint8))
    assert whole.gates[0].mean > 0


class Counts(nn.Module):
    """A network's first parameter may be of integers, which says nothing of its images."""

    def __init__(self):
        super().__init__()
        self.seen = nn.Parameter(torch.zeros((), dtype=torch.int64), requires_grad=False)

    def forward(self, x):
        return x


class Cast(nn.Module):
    """Takes bytes."""

    def __init__(self, dtype):
        super().__init__()
        self.dtype = dtype

    def forward(self, x):
        assert x.dtype == torch.uint8
        return x.to(self.dtype) / 255


def test_a_network_without_blocks_is_an_error():
    with pytest.raises(ValueError, match="no block of attnblocks"):
        gate_report(nn.Conv2d(8, 8, 1), IMAGES)


def test_the_table_has_the_columns_that_are_known():
    block = CaCo(8)
    block.start_as_identity()
    model = nn.Sequential(random_block("SE", 8), block)
    images, labels = random_map(4, 8, 6, 5), [0, 1, 0, 1]
    report = gate_report(model, images, copy.deepcopy(model), MASKS, labels=labels)
    assert isinstance(report, GateReport)
    head, *rows, area, last = str(report).splitlines()
    words = "site gate mean over images over positions spread between classes moved closed open"
    assert " ".join(head.split()) == f"{words} inside"
    assert [row.split()[:2] for row in rows] == [
        ["0", "channel"],
        ["1", "channel"],
        ["1", "rows"],
        ["1", "columns"],
    ]
    gate = report.gates[0]
    figures = (gate.over_images, gate.over_positions, gate.spread, gate.between_classes, gate.moved)
    assert rows[0].split()[2:] == [
        f"{gate.mean:.3f}",
        *(f"{figure:.4f}" for figure in figures),
        f"{gate.closed:.3f}",
        f"{gate.open:.3f}",
    ]
    assert rows[1].split()[-1] == "1.000"  # the region is the whole image
    assert area == "attention that is the same everywhere would be 1.000 inside"
    assert last == "over 4 images, 4 of them with a region; blocks that do nothing: '1'"
    plain = str(gate_report(model[0], images)).splitlines()
    assert (
        " ".join(plain[0].split()) == "site gate mean over images over positions spread closed open"
    )
    assert plain[-1] == "over 4 images; blocks that do nothing: none"
