"""The report of gates, against numpy and numbers by hand, on blocks whose gates are the image."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

from attnblocks import CBAM, AttentionBlock, CaCo, create_block, gate_report
from attnblocks.blocks.se import SEGate
from attnblocks.visualize import SiteAttention, attention_maps, site_statistics
from tests.helpers import random_block, random_map


class Planted(AttentionBlock):
    """Gates that are means of the image, times a factor: whoever makes the images knows them."""

    gate_names = ("channel", "rows", "columns")

    def __init__(self, channels: int, factor: float = 1.0) -> None:
        super().__init__(channels)
        self.factor = nn.Parameter(torch.tensor(factor, dtype=torch.float64))

    def gates(self, x):
        return [
            self.factor * x.mean(axes, keepdim=True)
            for axes, name in (((2, 3), "channel"), (3, "rows"), (2, "columns"))
            if name in self.gate_names
        ]


class Looks(AttentionBlock):
    """Gates for positions: the mean of the channels."""

    gate_names = ("positions",)

    def gates(self, x):
        return [x.mean(1, keepdim=True)]


@pytest.fixture
def images():
    generator = torch.Generator().manual_seed(0)
    return torch.rand(11, 3, 6, 8, generator=generator, dtype=torch.float64)


LABELS = [4, 0, 4, 4, 9, 0, 9, 4, 0, 0, 4]


def by_numpy(gate):
    """The statistics of a gate (N, C, L): everything that is said of it but where and before."""
    classes = [gate[np.array(LABELS) == label].mean(axis=(0, 2)) for label in (0, 4, 9)]
    return {
        "mean": gate.mean(),
        "spread": gate.std(axis=(0, 2)).mean(),
        "over_images": gate.mean(axis=2).std(axis=0).mean(),
        "over_positions": np.sqrt(gate.var(axis=2).mean(axis=0)).mean(),
        "between_classes": np.std(classes, axis=0).mean(),
        "closed": np.mean(gate < 0.1),
        "open": np.mean(gate > 0.9),
    }


@pytest.mark.parametrize("batch_size", [1, 4, 11, 32])
def test_every_figure_is_that_of_numpy_whatever_the_batches(images, batch_size):
    images = images * torch.linspace(0, 1.9, 11)[:, None, None, None]  # some shut, some open
    found = gate_report(Planted(3), images, labels=LABELS, batch_size=batch_size)
    assert found.images == 11
    (site,) = found.sites
    values = images.numpy()
    gates = (values.mean(axis=(2, 3))[..., None], values.mean(axis=3), values.mean(axis=2))
    for entry, name, gate in zip(site.gates, Planted.gate_names, gates, strict=True):
        assert (entry.site, entry.gate, entry.moved) == ("", name, None)
        expected = by_numpy(gate)
        assert {key: getattr(entry, key) for key in expected} == pytest.approx(expected, abs=1e-13)
        assert 0 < entry.closed < 1
        assert 0 < entry.open < 1


def test_batches_make_no_difference_in_a_network():
    model = nn.Sequential(nn.Conv2d(3, 8, 3), random_block("CaCo", 8), random_block("CBAM", 8))
    x, before = random_map(7, 3, 9, 8), copy.deepcopy(model)
    with torch.no_grad():
        for parameter in model[1].parameters():
            parameter.add_(0.1)
    options = {"where": x[:, 0] > 0.5, "labels": [0, 1, 2, 0, 1, 2, 0]}
    whole, parts = (gate_report(model, x, before, **options, batch_size=b) for b in (7, 2))
    assert [site.name for site in whole.sites] == ["1", "2"]
    for one, other in zip(whole.gates, parts.gates, strict=True):
        figures = [dict(list(vars(entry).items())[2:]) for entry in (one, other)]
        assert figures[0] == pytest.approx(figures[1], rel=1e-4, abs=1e-6)
    for one, other in zip(whole.sites, parts.sites, strict=True):
        assert one.on_where == pytest.approx(other.on_where, rel=1e-5)
    # And the statistics of maps are of the same formulas.
    for one, other in zip(whole.gates, site_statistics(attention_maps(model, x)), strict=True):
        known = {key: value for key, value in vars(other).items() if value is not None}
        assert {key: vars(one)[key] for key in known} == known


def test_spreads_do_not_cancel_far_from_zero():
    images = 1e6 + torch.rand(5, 2, 4, 4, dtype=torch.float64)
    rows = gate_report(Planted(2), images, batch_size=2).gates[1]
    assert rows.over_images == pytest.approx(images.mean((2, 3)).numpy().std(axis=0).mean())


def test_rows_that_differ_are_spread_over_positions_alone():
    images = torch.linspace(0.2, 0.8, 4)[None, None, :, None].expand(6, 2, 4, 5)
    _, rows, columns = gate_report(Planted(2), images, batch_size=4).gates
    expected = np.std([0.2, 0.4, 0.6, 0.8])
    assert (rows.over_images, rows.over_positions) == pytest.approx((0, expected), abs=1e-7)
    assert rows.spread == pytest.approx(expected)
    assert not rows.is_fixed
    assert columns.spread == pytest.approx(0, abs=1e-7)
    assert columns.is_fixed


@pytest.mark.parametrize("name", ["SE", "Eca", "CBAM", "CoordAtt", "SeCo", "CaCo"])
def test_a_block_that_starts_as_the_identity_does_nothing_and_is_half_open(name):
    block = create_block(name, 8)
    block.start_as_identity()
    report = gate_report(block, random_map(6, 8, 5, 7))
    for gate in report.gates:
        assert (gate.mean, gate.spread, gate.closed, gate.open) == (1, 0, 0, 0)
    assert report.idle == [""]
    moving = gate_report(random_block(name, 8), random_map(6, 8, 5, 7))
    assert moving.idle == []


def test_shares_are_of_the_range_of_each_channel():
    block = CaCo(3, gain=[1.0, 2.0, 4.0], coord_gain=0.5)
    with torch.no_grad():
        for parameter in block.channel.parameters():
            parameter.zero_()
        # Gates of 0.95, 0.5 and 0.05, each times its gain.
        block.channel.fc2.bias.copy_(torch.tensor([0.95, 0.5, 0.05]).logit() / 2)
    x = random_map(4, 3, 5, 5)
    maps = attention_maps(block, x)
    assert torch.equal(maps[""].gains["channel"], torch.tensor([1.0, 2.0, 4.0]))
    channel, rows, _ = gate_report(block, x).gates
    assert channel.mean == pytest.approx((0.95 + 1.0 + 0.2) / 3)
    assert (channel.closed, channel.open) == pytest.approx((1 / 3, 1 / 3))
    inside = maps[""].gates["rows"].numpy() / 0.5
    shares = ((inside < 0.1).mean(), (inside > 0.9).mean())
    assert (rows.closed, rows.open) == pytest.approx(shares)


def test_shares_of_gates_that_can_be_negative_are_of_their_sizes():
    images = torch.tensor([-1.0, -0.95, -0.5, -0.05, 0.0, 0.5, 0.85, 1.0]).view(8, 1, 1, 1)
    (gate,) = gate_report(Looks(1), images, batch_size=3).gates
    assert (gate.closed, gate.open) == (2 / 8, 3 / 8)
    negative = SiteAttention({"channel": -2 * images}, images[:, 0], {"channel": torch.tensor(-2)})
    (gate,) = site_statistics({"a": negative})
    assert (gate.closed, gate.open) == (2 / 8, 3 / 8)


def test_gains_are_those_of_the_stages():
    block = CBAM(8, gain=3.0, spatial_gain=1.5)
    x = torch.rand(2, 8, 4, 4)
    gains = attention_maps(block, x)[""].gains
    assert {name: gain.item() for name, gain in gains.items()} == {"channel": 3, "positions": 1.5}
    assert attention_maps(CaCo(8), x)[""].gains == attention_maps(Planted(8), x)[""].gains == {}


def test_a_gate_that_two_stages_make_has_the_product_of_their_gains():
    class Twice(AttentionBlock):
        gate_names = ("channel",)

        def __init__(self, channels):
            super().__init__(channels)
            self.one, self.other = SEGate(channels, gain=2.0), SEGate(channels, gain=3.0)

        def gates(self, x):
            means = x.mean((2, 3), keepdim=True)
            return [self.one(means) * self.other(means)]

    assert attention_maps(Twice(8), torch.rand(2, 8, 4, 4))[""].gains["channel"] == 6


@pytest.mark.parametrize(("width", "fixed"), [(0.0098, True), (0.0102, False)])
def test_a_gate_is_fixed_up_to_a_spread_of_a_hundredth_of_its_mean(width, fixed):
    values = torch.tensor([0.4 * (1 - width), 0.4 * (1 + width)])  # a spread of width x mean
    gate = values[:, None, None, None]
    (found,) = site_statistics({"a": SiteAttention({"channel": gate}, gate[:, 0])})
    assert found.spread == pytest.approx(0.4 * width, rel=1e-4)
    assert found.is_fixed == fixed


def test_one_gate_that_moves_is_enough_to_do_something(images):
    class Rows(Planted):
        gate_names = ("channel", "rows")

    even = images.mean((2, 3), keepdim=True).mean(0, keepdim=True).expand(11, 3, 6, 8)
    striped = even * torch.tensor([0.9, 1.1] * 3)[:, None]  # the mean stays
    assert gate_report(Rows(3), even).idle == [""]
    report = gate_report(Rows(3), striped)
    assert [gate.is_fixed for gate in report.gates] == [True, False]
    assert report.idle == []
