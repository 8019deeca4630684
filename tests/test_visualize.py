"""The attention of a network, against the definition of the blocks and small cases by hand."""

import copy
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
import torchvision
from torch import nn

from attnblocks import AttentionBlock, CaCo, Eca, find_se, replace_se
from attnblocks.visualize import SiteAttention, attention_maps, show_attention, site_statistics
from tests import reference
from tests.helpers import random_block, random_map, randomized, snapshot, unchanged

REFERENCES = {
    "SE": reference.se,
    "Eca": reference.eca,
    "CBAM": reference.cbam,
    "CoordAtt": reference.coord_att,
    "SeCo": reference.seco,
    "CaCo": reference.caco,
}
NAMES = {
    "SE": ["channel"],
    "Eca": ["channel"],
    "CBAM": ["channel", "positions"],
    "CoordAtt": ["rows", "columns"],
    "SeCo": ["channel", "rows", "columns"],
    "CaCo": ["channel", "rows", "columns"],
}


def shape_of(name: str, n: int, c: int, h: int, w: int) -> tuple[int, ...]:
    return {
        "channel": (n, c, 1, 1),
        "rows": (n, c, h, 1),
        "columns": (n, c, 1, w),
        "positions": (n, 1, h, w),
    }[name]


def attention(gate: torch.Tensor, name: str = "channel") -> SiteAttention:
    return SiteAttention({name: gate}, gate.mean(dim=1).expand(-1, 4, 4))


@pytest.mark.parametrize("name", REFERENCES)
def test_the_maps_are_what_the_block_multiplies_by(name):
    block = random_block(name, 8).double()
    x = random_map(3, 8, 5, 7, dtype=torch.float64)
    x = torch.where(x.abs() < 0.1, 0.1, x)  # it is divided by
    factors = REFERENCES[name](reference.weights(block), x.numpy(), train=False) / x.numpy()
    found = attention_maps(block, x)[""]
    assert list(found.gates) == NAMES[name]
    for gate, values in found.gates.items():
        assert values.shape == shape_of(gate, 3, 8, 5, 7)
    product = np.prod(np.broadcast_arrays(*(g.numpy() for g in found.gates.values())), axis=0)
    np.testing.assert_allclose(np.broadcast_to(product, factors.shape), factors, rtol=1e-9)
    np.testing.assert_allclose(found.on_image.numpy(), factors.mean(axis=1), rtol=1e-9)
    assert found.is_spatial == (factors.std(axis=(2, 3)).max() > 1e-6)


def test_a_map_of_one_pixel_has_all_its_gates():
    maps = attention_maps(random_block("CaCo", 8), random_map(2, 8, 1, 1))
    assert {name: tuple(gate.shape) for name, gate in maps[""].gates.items()} == {
        "channel": (2, 8, 1, 1),
        "rows": (2, 8, 1, 1),
        "columns": (2, 8, 1, 1),
    }


def test_the_product_is_upsampled_between_the_centres_of_the_cells():
    class Halve(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return nn.functional.avg_pool2d(x, 2)

    block = random_block("CoordAtt", 3)
    images = random_map(1, 3, 4, 4)
    cells = attention_maps(block, Halve()(images))[""].on_image[0].numpy()  # (2, 2)
    weights = np.array([[1, 0], [0.75, 0.25], [0.25, 0.75], [0, 1]])  # of the cells, by pixel
    found = attention_maps(nn.Sequential(Halve(), block), images)["1"].on_image[0].numpy()
    np.testing.assert_allclose(found, weights @ cells @ weights.T, rtol=1e-5)


def test_all_sites_of_a_network_are_read_and_it_stays_as_it_was():
    model = torchvision.models.mobilenet_v3_small(weights=None)
    sites = [site.name for site in find_se(model)]
    model = randomized(replace_se(model, CaCo, init="fresh"))
    model.train()
    model.features[3].eval()
    before = snapshot(model)
    modes = [module.training for module in model.modules()]
    maps = attention_maps(model, random_map(2, 3, 64, 96))
    assert list(maps) == sites  # and no stage of a block
    assert all(site.on_image.shape == (2, 64, 96) for site in maps.values())
    assert [module.training for module in model.modules()] == modes
    assert not any(module._forward_pre_hooks for module in model.modules())
    assert unchanged(model, before)  # statistics of the batch norms included


def test_gates_of_half_precision_make_maps_of_float32():
    block = random_block("CaCo", 8).bfloat16()
    found = attention_maps(block, random_map(1, 8, 4, 4).bfloat16())[""]
    assert found.gates["rows"].dtype == torch.bfloat16
    assert found.on_image.dtype == torch.float32


def test_what_cannot_be_read_is_an_error():
    with pytest.raises(ValueError, match=r"no block of attnblocks.*replace_se or insert"):
        attention_maps(
            torchvision.models.mobilenet_v3_small(weights=None), torch.rand(1, 3, 32, 32)
        )
    block = CaCo(8)
    twice = nn.Sequential(block, nn.ReLU(), block)
    with pytest.raises(ValueError, match="the block '0' runs twice"):
        attention_maps(twice, torch.rand(1, 8, 4, 4))
    assert not block._forward_pre_hooks


@pytest.mark.parametrize("inside", [False, True], ids=["torch.compile", "model.compile"])
def test_a_compiled_network_that_has_run_is_read(inside):
    model = nn.Sequential(nn.Conv2d(3, 8, 3), random_block("CaCo", 8)).eval()
    x = random_map(2, 3, 9, 8)
    expected = attention_maps(model, x)["1"]
    compiled = copy.deepcopy(model) if inside else torch.compile(model, backend="eager")
    if inside:
        compiled.compile(backend="eager")
    with torch.no_grad():
        compiled(x)
    (found,) = attention_maps(compiled, x).values()
    assert torch.equal(found.on_image, expected.on_image)


def test_another_thread_that_runs_the_network_is_not_read():
    class Other(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.block = random_block("SeCo", 8)

        def forward(self, x):
            with ThreadPoolExecutor(1) as pool:
                pool.submit(self.block, x * 2).result()
            return self.block(x=x)  # by keyword

    model, x = Other(), random_map(2, 8, 5, 4)
    found = attention_maps(model, x)["block"]
    for gate, expected in zip(found.gates.values(), model.block.gates(x), strict=True):
        torch.testing.assert_close(gate, expected)


def test_a_block_of_ones_own_needs_names_for_its_gates():
    class Mean(AttentionBlock):
        def gates(self, x: torch.Tensor) -> list[torch.Tensor]:
            return [x.mean((2, 3), keepdim=True).sigmoid()]

    x = torch.rand(2, 8, 4, 4)
    with pytest.raises(ValueError, match=r"gate_names of Mean must name its 1 gates, got \(\)"):
        attention_maps(Mean(8), x)
    Mean.gate_names = ("channel",)
    found = attention_maps(Mean(8), x)[""].gates["channel"]
    assert torch.equal(found, torch.sigmoid(x.mean((2, 3), keepdim=True)))


def test_a_block_that_does_not_run_has_no_map():
    class Skips(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.used, self.idle = Eca(8), CaCo(8)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.used(x)

    assert list(attention_maps(Skips(), torch.rand(1, 8, 4, 4))) == ["used"]


def test_statistics_of_gates_by_hand():
    # Two images and two channels: one gate never changes, one is shut or wide open.
    gate = torch.tensor([[0.5, 0.0], [0.5, 1.0]])[:, :, None, None]
    (found,) = site_statistics({"layer": attention(gate)})
    assert (found.site, found.gate) == ("layer", "channel")
    assert found.mean == pytest.approx(0.5)
    assert found.spread == pytest.approx((0 + 0.5) / 2)
    assert (found.closed, found.open) == (0.25, 0.25)
    rows = torch.tensor([0.2, 0.4, 0.6, 0.8])[None, None, :, None]  # one image: positions count too
    (found,) = site_statistics({"layer": attention(rows, "rows")})
    assert found.spread == pytest.approx(np.std([0.2, 0.4, 0.6, 0.8]))


def test_the_figure_shows_the_gates_where_their_lines_are():
    images = random_map(2, 3, 20, 30).sigmoid()
    rows, columns = torch.rand(2, 5, 20, 1), torch.rand(2, 5, 1, 30)
    found = SiteAttention({"rows": rows, "columns": columns}, (rows * columns).mean(dim=1))
    figure = show_attention(images[1], found, 1)
    picture, overlay, rows, columns, scale = figure.axes
    for axes, name, length in ((rows, "rows", 20), (columns, "columns", 30)):
        (stairs,) = axes.patches
        values, edges, _ = stairs.get_data()
        means = found.gates[name][1].mean(dim=0).flatten()
        np.testing.assert_allclose(values, means, rtol=1e-6)
        np.testing.assert_allclose(edges, np.arange(length + 1) - 0.5)
        ends = [label.get_text() for label in (*axes.get_xticklabels(), *axes.get_yticklabels())]
        assert ends == [f"{means.min():#.3g}", f"{means.max():#.3g}"]
    assert (rows.get_ylabel(), columns.get_xlabel()) == ("rows", "columns")
    np.testing.assert_allclose(picture.images[0].get_array(), images[1].permute(1, 2, 0))
    # The first row is at the top, in both.
    assert rows.get_ylim() == picture.get_ylim() == (19.5, -0.5)
    np.testing.assert_array_equal(overlay.images[1].get_array(), found.on_image[1])
    ends = [label.get_text() for label in scale.get_yticklabels()]
    assert ends == [f"{found.on_image[1].min():#.3g}", f"{found.on_image[1].max():#.3g}"]
    assert scale.get_ylabel() == "factor of the map"


@pytest.mark.parametrize(
    ("low", "high", "ends", "texts"),
    [
        (0.5, 0.5, (0.495, 0.505), ["0.495", "0.505"]),
        (0.9995, 1.0005, (0.99, 1.01), ["0.990", "1.01"]),  # of gates with a gain of 2
        (4e-4, 4e-4, (3.96e-4, 4.04e-4), ["0.000396", "0.000404"]),
        (0.98, 1.02, (0.98, 1.02), ["0.980", "1.02"]),
        (0, 0, (-0.01, 0.01), ["-0.0100", "0.0100"]),
    ],
)
def test_a_scale_spans_a_hundredth_to_either_side_of_its_middle(low, high, ends, texts):
    rows = torch.linspace(low, high, 8, dtype=torch.float64)[None, None, :, None]  # (1, 1, 8, 1)
    found = SiteAttention({"rows": rows}, rows[:, 0].expand(-1, 8, 8))
    figure = show_attention(torch.rand(3, 8, 8), found)
    figure.canvas.draw()
    _, overlay, bars, scale = figure.axes
    assert overlay.images[1].get_clim() == pytest.approx(ends)
    assert bars.get_xlim() == pytest.approx(ends[::-1])
    assert bars.patches[0].get_data().baseline == pytest.approx(ends[0])
    assert [label.get_text() for label in scale.get_yticklabels()] == texts
    assert [label.get_text() for label in bars.get_xticklabels()] == texts
    assert scale.yaxis.get_offset_text().get_text() == ""  # numbers, and nothing to add to them


def test_the_figure_shows_gates_with_their_gain():
    block = CaCo(3)
    block.start_as_identity()
    image = torch.rand(3, 8, 8)
    figure = show_attention(image, attention_maps(block, image[None])[""])
    figure.canvas.draw()
    _, overlay, rows, *_ = figure.axes
    assert (overlay.images[1].get_array() == 1).all()
    assert (rows.patches[0].get_data().values == 1).all()
    even = overlay.images[1].norm(1.0)
    assert even == pytest.approx(0.5)  # the middle of the colours, neither dark nor bright


def test_the_figure_refuses_what_does_not_fit():
    images = torch.rand(1, 3, 8, 8)
    found = attention_maps(CaCo(3), images)[""]
    with pytest.raises(ValueError, match=r"image must be \(3, 8, 8\), got \(3, 4, 8\)"):
        show_attention(images[0, :, :4], found)
    with pytest.raises(ValueError, match=r"got \(1, 3, 8, 8\)"):
        show_attention(images, found)
    with pytest.raises(IndexError):
        show_attention(images[0], found, 1)


def test_matplotlib_is_loaded_only_to_draw():
    code = "import sys, attnblocks.visualize; print('matplotlib' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
