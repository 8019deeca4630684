"""Inserted blocks in recipes and model files: the way there and back, and what does not fit."""

import copy
import json
from typing import Any

import pytest
import torch
from safetensors import safe_open
from torch import nn

from attnblocks import (
    SE,
    CaCo,
    apply_recipe,
    find_se,
    insert,
    load_model,
    recipe,
    remove,
    replace_se,
    save_model,
)
from tests.files.networks import TIMM, TV, built, same
from tests.helpers import randomized
from tests.swap.inserted import IMAGES, anatomy, net, same_anatomy

PLACES = {"bn": "CaCo", "stem.1": "CBAM", "stem": "SE", "depthwise": "CoordAtt"}
SMALL = torch.rand(1, 3, 32, 32)


def attended(init: str = "identity") -> nn.Module:
    model = insert(net(), PLACES, example=IMAGES, init=init)
    return insert(model, "Eca", after="bn", example=IMAGES, init=init)


def through_json(model: nn.Module) -> list[dict[str, Any]]:
    return json.loads(json.dumps(recipe(model)))


def rebuilt(model: nn.Module) -> nn.Module:
    """The same from the recipe and the weights, in eval mode."""
    again = apply_recipe(net(1), through_json(model))
    again.load_state_dict(model.state_dict())
    return again.eval()


def places(model: nn.Module) -> list[tuple[str, str | None, type]]:
    return [(site.name, site.after, type(site.module)) for site in find_se(model)]


def test_the_entry_of_an_inserted_block():
    entries = {entry["site"]: entry for entry in recipe(attended("fresh"))}
    assert {site: (entry["block"], entry["after"]) for site, entry in entries.items()} == {
        "stem.1.attention": ("CBAM", "stem.1"),
        "stem.2.stem_attention": ("SE", "stem"),
        "bn.attention": ("CaCo", "bn"),
        "bn.attention_2": ("Eca", "bn"),
        "depthwise.attention": ("CoordAtt", "depthwise"),
    }
    assert "after" not in recipe(nn.Sequential(SE(8)))[0]


@pytest.mark.parametrize("init", ["identity", "fresh"])
def test_a_recipe_builds_the_same_network(init):
    model = randomized(attended(init))
    again = rebuilt(model)
    assert places(again) == places(model)
    assert recipe(again) == recipe(model)
    assert list(again.state_dict()) == list(model.state_dict())
    assert torch.equal(again(IMAGES), model(IMAGES))
    remove(again)
    assert list(again.state_dict()) == list(net().state_dict())


def test_names_and_order_after_some_were_taken_out():
    model = attended("fresh")
    remove(model, "bn.attention")
    for built_again in (model, insert(model, "SeCo", after="bn", example=IMAGES, init="fresh")):
        randomized(built_again)
        again = rebuilt(built_again)
        assert places(again) == places(built_again)
        assert torch.equal(again(IMAGES), built_again(IMAGES))


def test_swapped_and_inserted_ones_together():
    def base() -> nn.Module:
        model = net()
        model.pool = nn.Sequential(SE(8), model.pool)
        return model

    model = replace_se(base(), CaCo)
    insert(model, "Eca", after=["pool.0", "bn"], example=IMAGES)
    replace_se(model, "CBAM", where="bn.attention")
    randomized(model)
    again = apply_recipe(base(), through_json(model))
    again.load_state_dict(model.state_dict())
    assert sorted(places(again)) == sorted(places(model))
    assert torch.equal(again.eval()(IMAGES), model.eval()(IMAGES))


def changed(**fields: Any) -> list[dict[str, Any]]:
    """A recipe with one entry, in which some fields are others."""
    entry = recipe(insert(net(), SE, after="bn", example=IMAGES))[0]
    return [{**entry, **fields}]


@pytest.mark.parametrize(
    ("made_of", "message"),
    [
        (changed(after="norm"), "no module 'norm' in the network, which 'bn.attention' is to"),
        (changed(after=""), "no module '' in the network"),
        (changed(site="norm.attention"), "no module 'norm' in the network, which is to hold"),
        (changed(site="bn.weight"), "'bn.weight' is no name of an inserted block, such as 'bn.att"),
        (changed(site="bn._attention_behind"), "'bn._attention_behind' is no name of"),
        (changed(site="bn"), "'bn' is no name of an inserted block"),
        (changed(site="bn."), "'bn.' is no name of an inserted block"),
        (changed(site=""), "'' is no name of an inserted block"),
        (changed(site="stem.attention"), "'stem' may run all of its children"),
        (changed(block="torch.nn.Conv2d"), "no block 'torch.nn.Conv2d', which is to stand"),
        (changed(block="Nope"), "no block 'Nope'"),
        (changed(after=7), "an entry of a recipe has"),
        (changed(after=None), "an entry of a recipe has"),
        (changed(channels="8"), "an entry of a recipe has"),
        (changed(channels=True), "an entry of a recipe has"),
        ({}, "a recipe is a list of entries"),
        ("bn.attention", "a recipe is a list of entries"),
        (changed(behind="bn"), "an entry of a recipe has"),
        (changed() * 2, "names a site twice"),
        (changed(arguments={"device": "meta"}), "leave out"),
        (changed(arguments={"rd_ratio": -1}), "site 'bn.attention' cannot be made"),
        (changed(arguments={"nope": 1}), "site 'bn.attention' cannot be made"),
        (changed(arguments={"gain": -2}), "site 'bn.attention' cannot be made"),
        (changed(arguments={"gain": [1.0]}), "site 'bn.attention' cannot be made"),
        (changed() + changed(site="bn.attention_2", after="no"), "no module 'no'"),
        (
            changed() + changed(site="head.attention", arguments={"nope": 1}),
            "'head.attention' cannot be made",
        ),
    ],
)
def test_a_recipe_that_does_not_fit_changes_nothing(made_of, message):
    model = net()
    before = anatomy(model)
    with pytest.raises(ValueError, match=message):
        apply_recipe(model, made_of)
    assert same_anatomy(model, before)


def test_a_recipe_for_a_network_that_has_other_blocks_already():
    model = attended()
    with pytest.raises(ValueError, match=r"site 'stem\.1\.attention' is not in the recipe"):
        apply_recipe(copy.deepcopy(model), changed())
    assert places(apply_recipe(copy.deepcopy(model), recipe(model))) == places(model)
    wrong = [{**e, "after": "stem"} if e["site"] == "bn.attention" else e for e in recipe(model)]
    with pytest.raises(ValueError, match=r"site 'bn\.attention' is"):
        apply_recipe(copy.deepcopy(model), wrong)


def header(path) -> dict[str, Any]:
    with safe_open(path, framework="pt") as file:
        return json.loads(file.metadata()["attnblocks"])


@pytest.mark.parametrize(
    ("base", "after"),
    [
        ("torchvision/shufflenet_v2_x0_5", ["stage2", "stage2.0.branch1", "stage3.1.branch2.1"]),
        ("timm/mobilenetv3_small_050", ["blocks.1", "blocks.2.0.bn2", "blocks.2.0"]),
    ],
)
def test_a_file_of_a_named_base(base, after, tmp_path):
    model = built(base, num_classes=7)
    insert(model, "CaCo", after=after, example=SMALL)
    randomized(model)
    save_model(model, tmp_path / "m", base=base, base_kwargs={"num_classes": 7})
    loaded = load_model(tmp_path / "m")
    assert same(loaded, model)
    assert places(loaded) == places(model)
    assert torch.equal(loaded.eval()(SMALL), model.eval()(SMALL))
    assert header(tmp_path / "m")["format"] == 2
    with pytest.raises(ValueError, match=r"(does|do) not fit"):
        save_model(model, tmp_path / "n", base=TV if base != TV else TIMM)


def test_a_file_of_the_users_own_base(tmp_path):
    model = randomized(attended())
    save_model(model, tmp_path / "m")
    base = net()
    before = anatomy(base)
    loaded = load_model(tmp_path / "m", base=base)
    assert same_anatomy(base, before)
    assert same(loaded, model)
    assert torch.equal(loaded.eval()(IMAGES), model.eval()(IMAGES))
    with pytest.raises(ValueError, match="no module 'bn' in the network"):
        load_model(tmp_path / "m", base=nn.Sequential(nn.Conv2d(3, 8, 1)))


def test_only_files_that_version_0_1_0_cannot_read_have_the_new_format(tmp_path):
    for model, number in (
        (insert(net(), SE, after="bn", example=IMAGES, init="fresh"), 2),
        (remove(attended()), 1),
        (nn.Sequential(SE(8)), 1),
        (nn.Sequential(SE(8, gain=2.0)), 2),
    ):
        save_model(model, tmp_path / "m")
        assert header(tmp_path / "m")["format"] == number


def test_a_recipe_that_fails_at_a_swap_takes_the_inserted_blocks_out_again():
    model = nn.Sequential(nn.Conv2d(3, 8, 1), SE(8))
    made_of = recipe(insert(copy.deepcopy(model), "Eca", after="0", example=IMAGES))
    for entry in made_of:
        if entry["block"] == "SE":
            entry["arguments"] = {"nope": 1}
    before = anatomy(model)
    with pytest.raises(ValueError, match="site '1' cannot be made"):
        apply_recipe(model, made_of)
    assert same_anatomy(model, before)
