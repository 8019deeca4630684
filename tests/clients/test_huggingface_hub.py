"""Networks with blocks as folders of the Hugging Face layout: config.json, weights and a card."""

import json

import pytest
import torch
from torch import nn
from torchvision.models import get_model

from attnblocks import apply_recipe, insert, recipe, replace_se
from tests.helpers import randomized

hub = pytest.importorskip(
    "huggingface_hub", reason="huggingface-hub is not installed: pip install '.[clients]'"
)

pytestmark = pytest.mark.clients

IMAGES = torch.rand(2, 3, 48, 64, generator=torch.Generator().manual_seed(0))
NETWORK = {"name": "mobilenet_v3_small", "num_classes": 7}


# As on the page of the docs.
class Network(nn.Module, hub.PyTorchModelHubMixin, tags=["attnblocks"], license="apache-2.0"):
    """A network of torchvision with the blocks of a recipe."""

    def __init__(self, name: str, num_classes: int, recipe: list) -> None:
        super().__init__()
        self.model = apply_recipe(get_model(name, num_classes=num_classes), recipe)

    def forward(self, x):
        return self.model(x)


@pytest.fixture(autouse=True)
def offline(monkeypatch):
    """No test may reach for the network."""

    def refuse(*args, **kwargs):
        raise AssertionError("this test went online")

    monkeypatch.setattr("socket.socket.connect", refuse)


@pytest.fixture(scope="module")
def model():
    """With gains per channel too, those of Eca, which the weights have."""
    model = get_model(**NETWORK)
    replace_se(model, {"features.[14]*": "Eca", "*": "CaCo"})
    insert(model, "CBAM", after="features.3", example=IMAGES)
    return randomized(model).eval()


def saved(model, folder):
    network = Network(**NETWORK, recipe=recipe(model))
    network.model.load_state_dict(model.state_dict())
    network.save_pretrained(folder)
    return folder


def test_the_folder_has_the_recipe_the_weights_and_a_card(model, tmp_path):
    saved(model, tmp_path)
    assert {file.name for file in tmp_path.iterdir()} == {
        "README.md",
        "config.json",
        "model.safetensors",
    }
    assert json.loads((tmp_path / "config.json").read_text()) == {
        **NETWORK,
        "recipe": recipe(model),
    }
    card = (tmp_path / "README.md").read_text()
    assert "- attnblocks\n" in card
    assert "license: apache-2.0" in card


def test_the_folder_gives_the_network_again_to_the_bit(model, tmp_path):
    loaded = Network.from_pretrained(saved(model, tmp_path), strict=True)
    assert not loaded.training
    assert recipe(loaded.model) == recipe(model)
    assert torch.equal(loaded(IMAGES), model(IMAGES))


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("block", "os.system", "os.system"),
        ("arguments", {"act_layer": "os.system"}, "os.system"),
        ("site", "features.99", r"no site 'features\.99'"),
    ],
)
def test_what_a_config_names_is_looked_up_and_never_run(key, value, message, model, tmp_path):
    file = saved(model, tmp_path) / "config.json"
    config = json.loads(file.read_text())
    config["recipe"][0][key] = value
    file.write_text(json.dumps(config))
    with pytest.raises(ValueError, match=message):
        Network.from_pretrained(tmp_path)


def test_weights_of_other_blocks_are_refused(model, tmp_path):
    file = saved(model, tmp_path) / "config.json"
    config = json.loads(file.read_text())
    entry = {"block": "SE", "arguments": {}}
    config["recipe"] = [one | entry for one in config["recipe"]]
    file.write_text(json.dumps(config))
    with pytest.raises(RuntimeError, match=r"(?s)Missing key.*features\.1\.block\.1\.fc1\.weight"):
        Network.from_pretrained(tmp_path, strict=True)
