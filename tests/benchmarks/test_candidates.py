"""What is measured: the published forms, the sites, the networks."""

import pytest
import torch

from attnblocks import find_se, list_blocks
from benchmarks.candidates import at_sites, build_network, in_networks, places, random_maps, seeded
from benchmarks.models import variants
from benchmarks.published import published
from benchmarks.results import BLOCKS
from tests.benchmarks.made import site_of
from tests.helpers import by_reference, random_map, randomized
from tests.reference import REFERENCE


@pytest.mark.parametrize("train", [False, True], ids=["eval", "train"])
@pytest.mark.parametrize("name", sorted(REFERENCE))
def test_published_forms_compute_the_formulas(name, train):
    block = randomized(published(name, site_of(48)).double()).train(train)
    x = random_map(2, 48, 7, 5, dtype=torch.float64)
    expected = by_reference(name, block, x, train)
    torch.testing.assert_close(block(x), expected, rtol=1e-9, atol=1e-10)


def test_candidates_stand_at_the_sites_of_the_network():
    found = places(build_network("mobilenet_v3_small"), 224)
    assert [place.shape for place in found] == [
        (16, 56, 56),
        (96, 14, 14),
        *[(240, 14, 14)] * 2,
        (120, 14, 14),
        (144, 14, 14),
        (288, 7, 7),
        *[(576, 7, 7)] * 2,
    ]
    maps = random_maps(found, 2, torch.channels_last, {"dtype": torch.float32})
    for place, x in zip(found, maps, strict=True):
        assert x.shape == (2, *place.shape)
        assert x.is_contiguous(memory_format=torch.channels_last)
        blocks = {name: make(place.site).eval() for name, make in at_sites().items()}
        size = {n: sum(p.numel() for p in b.parameters()) for n, b in blocks.items()}
        assert size["SE"] == size["torchvision SE"] == size["timm se"]
        assert size["Eca"] == size["timm eca"]
        # timm's two are as wide as ours, but have no biases
        assert size["CBAM"] - size["timm cbam"] == blocks["CBAM"].rd_channels + place.channels
        width = blocks["CoordAtt"].rd_channels
        assert size["CoordAtt"] - size["timm coord"] == width + 2 * place.channels
        assert all(size[name] == size[f"published {name}"] for name in BLOCKS)
        assert size["identity"] == size["copy"] == 0
        assert all(block(x).shape == x.shape for block in blocks.values())
        assert blocks["identity"](x) is x
        assert blocks["copy"](x).data_ptr() != x.data_ptr()


def test_all_blocks_of_the_library_are_measured():
    assert sorted(BLOCKS) == sorted(list_blocks()) == sorted(REFERENCE)
    assert {*BLOCKS, *(f"published {name}" for name in BLOCKS)} < set(at_sites())


def test_a_site_of_other_channels_has_the_widths_of_the_network():
    found = places(build_network("mobilenet_v3_large"), 64)
    for place in found:
        other = found[0].with_channels(place.channels)
        assert other.shape == (place.channels, *found[0].shape[1:])
        assert other.site.rd_channels == place.site.rd_channels
        assert other.site.module.fc1.in_channels == other.channels == place.channels


def test_weights_come_out_of_the_seed_and_leave_the_random_state_alone():
    place = places(build_network("mobilenet_v3_small"), 64)[0]
    weights_drawn = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        state = torch.get_rng_state()
        weights_drawn.append(seeded(at_sites()["CaCo"])(place.site).channel.fc1.weight)
        assert torch.equal(state, torch.get_rng_state())
    assert torch.equal(*weights_drawn)


def test_variants_differ_at_the_sites_only():
    network = build_network("mobilenet_v3_small")
    models = variants(network, list(in_networks()))
    se = sum(p.numel() for site in find_se(network) for p in site.module.parameters())
    total = sum(p.numel() for p in network.parameters())
    sizes = {name: sum(p.numel() for p in m.parameters()) for name, m in models.items()}
    assert sizes["own SE"] == sizes["SE"] == sizes["published SE"] == total
    assert sizes["identity"] == total - se
    assert all(sizes[name] == sizes[f"published {name}"] for name in BLOCKS)
    assert all(models[name].training is False for name in models)
