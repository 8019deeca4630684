"""Which modules get a block: by name, kind, predicate or mapping; the expected ones by hand."""

from functools import partial
from typing import Any

import pytest
import torch
from torch import nn

import attnblocks
from attnblocks import CBAM, SE, CaCo, Eca, Place, find_places, find_se, insert
from tests.swap.inserted import IMAGES, net

BLUNT = ["stem.0", "stem.1", "stem.2", "stem", "conv", "bn", "pool", "depthwise"]
"""All that returns a map, in the order in which it returns."""


def chosen(after: Any) -> set[str]:
    model = insert(net(), SE, after=after, example=IMAGES)
    return {str(site.after) for site in find_se(model)}


def named(place: Any) -> bool:
    return isinstance(place.module, nn.BatchNorm2d) and place.height == 16


@pytest.mark.parametrize(
    ("after", "expected"),
    [
        ("bn", {"bn"}),
        ("stem", {"stem"}),
        ("stem.?", {"stem.0", "stem.1", "stem.2"}),
        ("*n", {"bn"}),
        (["conv", "bn"], {"conv", "bn"}),
        (("conv", "c*", "co*"), {"conv"}),
        ("residual", {"bn"}),
        ("depthwise", {"depthwise"}),
        (["residual", "depthwise", "stem.0"], {"bn", "depthwise", "stem.0"}),
        (named, {"stem.1", "bn"}),
        (lambda place: place.channels == 8, set(BLUNT)),
        (lambda place: "residual" in place.roles, {"bn"}),
    ],
)
def test_what_names_which_modules(after, expected):
    assert chosen(after) == expected


def test_the_places_that_a_predicate_gets_are_those_of_find_places():
    got: list[Place] = []
    model = net()
    listed = find_places(model, IMAGES)
    assert [place.name for place in listed] == BLUNT
    with pytest.raises(LookupError):
        insert(model, SE, after=lambda place: got.append(place), example=IMAGES)
    assert got == list(listed)


def test_of_a_mapping_the_first_pattern_that_matches_counts():
    model = insert(net(), {"stem.1": SE, "residual": "Eca", "stem.*": CaCo}, example=IMAGES)
    assert {site.after: type(site.module) for site in find_se(model)} == {
        "stem.1": SE,
        "bn": Eca,
        "stem.0": CaCo,
        "stem.2": CaCo,
    }


@pytest.mark.parametrize(
    ("block", "options", "kind", "width"),
    [
        (CaCo, {"rd_channels": 3}, CaCo, 3),
        ("CBAM", {"rd_channels": 2}, CBAM, 2),
        (partial(SE, rd_channels=5), {}, SE, 5),
        (lambda place: SE(place.channels, rd_channels=place.height), {}, SE, 16),
        (attnblocks.create_block, {}, None, None),
    ],
)
def test_how_a_block_is_given(block, options, kind, width):
    model = net()
    if kind is None:  # a function gets the place alone
        with pytest.raises(ValueError, match="cannot be made"):
            insert(model, block, after="bn", example=IMAGES, **options)
        return
    insert(model, block, after="bn", example=IMAGES, **options)
    assert type(model.bn.attention) is kind
    assert model.bn.attention.rd_channels == width
    assert torch.equal(model(IMAGES), net()(IMAGES))


def test_the_example_may_be_arguments_by_position_or_name():
    for example in (IMAGES, (IMAGES,), {"x": IMAGES}, IMAGES[:1]):
        assert {s.after for s in find_se(insert(net(), SE, after="bn", example=example))} == {"bn"}
