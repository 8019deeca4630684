"""Blocks in transformers' wrapper around a network of timm."""

import copy

import pytest
import torch

from attnblocks import apply_recipe, insert, load_model, recipe, replace_se, save_model
from tests.helpers import randomized

transformers = pytest.importorskip(
    "transformers", reason="transformers is not installed: pip install '.[clients]'"
)

pytestmark = pytest.mark.clients

IMAGES = torch.rand(2, 3, 48, 64, generator=torch.Generator().manual_seed(0))


# As on the page of the docs.
class AttendedForImageClassification(transformers.TimmWrapperForImageClassification):
    """With the blocks of the recipe in its config; transformers chooses the loss by this name."""

    def __init__(self, config):
        super().__init__(config)
        apply_recipe(self.timm_model, config.recipe)


def wrapped():
    config = {"architecture": "mobilenetv3_small_050", "num_classes": 3, "label_names": [*"abc"]}
    config = transformers.TimmWrapperConfig.from_dict(config)
    return transformers.TimmWrapperForImageClassification(config)


@pytest.fixture(scope="module")
def built():
    model = wrapped()
    replace_se(model.timm_model, "CaCo")
    insert(model.timm_model, "CBAM", after="blocks.1.0", example=IMAGES)
    return randomized(model).eval()


@pytest.fixture
def model(built):
    return copy.deepcopy(built)


def test_its_folder_gives_the_network_again(model, tmp_path):
    model.config.recipe = recipe(model.timm_model)
    model.save_pretrained(tmp_path)
    assert {file.name for file in tmp_path.iterdir()} == {"config.json", "model.safetensors"}
    loaded, report = AttendedForImageClassification.from_pretrained(
        tmp_path, output_loading_info=True
    )
    assert not any(report.values())
    assert recipe(loaded.timm_model) == recipe(model.timm_model)
    for name, value in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value), name
    # Not to the bit: weights that are mapped from a file lie elsewhere, and sums go otherwise.
    wanted = model(IMAGES, labels=torch.tensor([0, 2]))
    found = loaded(IMAGES, labels=torch.tensor([0, 2]))
    torch.testing.assert_close(found.logits, wanted.logits)
    torch.testing.assert_close(found.loss, wanted.loss)


def test_without_the_recipe_its_report_names_what_is_missing(model, tmp_path):
    model.save_pretrained(tmp_path)
    _, report = type(model).from_pretrained(tmp_path, output_loading_info=True)
    assert {name.split(".")[-2] for name in report["missing_keys"]} == {
        "conv_reduce",
        "conv_expand",
    }
    assert any("attention" in name for name in report["unexpected_keys"])


def test_the_file_of_this_library_takes_the_wrapper_as_a_base(model, tmp_path):
    save_model(model, tmp_path / "model.safetensors")
    loaded = load_model(tmp_path / "model.safetensors", base=wrapped()).eval()
    assert torch.equal(loaded(IMAGES).logits, model(IMAGES).logits)


def test_its_hidden_states_are_those_behind_the_blocks(model):
    model.config.do_pooling = False
    hidden = model(IMAGES, output_hidden_states=True).hidden_states
    wanted = model.timm_model.forward_intermediates(IMAGES, intermediates_only=True)
    assert len(hidden) == len(wanted) > 3
    for found, expected in zip(hidden, wanted, strict=True):
        assert torch.equal(found, expected)
