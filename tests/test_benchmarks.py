"""The benchmark measures what it says it measures."""

import torch

from attnblocks import list_blocks
from benchmarks.blocks import PEER, candidates, measure, sites_and_maps


def test_candidates_stand_at_the_sites_of_the_network():
    sites = sites_and_maps(2, torch.channels_last)
    assert len(sites) == 9
    assert {tuple(x.shape[2:]) for _, x in sites} == {(56, 56), (14, 14), (7, 7)}
    for site, x in sites:
        blocks = {name: make(site).eval() for name, make in candidates().items()}
        size = {n: sum(p.numel() for p in b.parameters()) for n, b in blocks.items()}
        assert size["SE"] == size[PEER]
        assert size["Eca"] == size["timm eca"]
        # timm's two are as wide as ours, but have no biases
        assert size["CBAM"] - size["timm cbam"] == blocks["CBAM"].rd_channels + site.channels
        width = blocks["CoordAtt"].rd_channels
        assert size["CoordAtt"] - size["timm coord"] == width + 2 * site.channels
        assert all(block(x).shape == x.shape for block in blocks.values())


def test_every_candidate_is_timed():
    seconds = measure(1, torch.contiguous_format, rounds=1)
    assert set(list_blocks()) < set(seconds) == set(candidates())
    assert all(value > 0 for value in seconds.values())
