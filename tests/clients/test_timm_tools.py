"""What timm does with networks: averages, checkpointing, folders for its hub."""

import copy
import json

import pytest
import timm
import torch
from timm.utils import ModelEmaV3

from attnblocks import apply_recipe, find_se, insert, recipe, replace_se
from tests.helpers import randomized

pytestmark = pytest.mark.clients

IMAGES = torch.rand(2, 3, 48, 64, generator=torch.Generator().manual_seed(0))
NAME, CLASSES = "mobilenetv3_small_050", 7


@pytest.fixture(scope="module")
def built():
    model = timm.create_model(NAME, num_classes=CLASSES, drop_rate=0.0)
    replace_se(model, {"blocks.[02]*": "Eca", "*": "CaCo"})
    insert(model, "CBAM", after=["blocks.1.0", "blocks.2.1.bn2"], example=IMAGES)
    return randomized(model).eval()


@pytest.fixture
def model(built):
    return copy.deepcopy(built)


def test_an_average_of_weights_has_the_blocks(model):
    average = ModelEmaV3(model, decay=0.75)
    before = copy.deepcopy(model.state_dict())
    randomized(model, seed=1)
    average.update(model)
    for name, value in model.state_dict().items():
        if value.is_floating_point():
            wanted = 0.75 * before[name] + 0.25 * value
            torch.testing.assert_close(average.module.state_dict()[name], wanted)
    assert recipe(average) == recipe(average.module)
    plain = apply_recipe(timm.create_model(NAME, num_classes=CLASSES), recipe(average)).eval()
    plain.load_state_dict(average.module.state_dict())
    assert torch.equal(average.module(IMAGES), plain(IMAGES))


def test_checkpointing_gives_the_same_gradients(model):
    checkpointed = copy.deepcopy(model)
    checkpointed.set_grad_checkpointing()
    outputs = [network.train()(IMAGES) for network in (model, checkpointed)]
    assert torch.equal(*outputs)
    for output in outputs:
        output.square().mean().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        torch.testing.assert_close(checkpointed.get_parameter(name).grad, parameter.grad)


@pytest.mark.parametrize(
    ("name", "places"),
    [(NAME, ["blocks.1", "blocks.3.1", "blocks.3"]), ("resnet18", ["layer1", "layer1.1"])],
)
def test_checkpointing_runs_blocks_behind_stages(name, places):
    """It calls what is in a stage, and not the stage."""
    model = timm.create_model(name, num_classes=CLASSES, drop_rate=0.0)
    for place in places:
        insert(model, "CBAM", after=place, example=IMAGES, init="fresh")
    calls = []
    for site in find_se(randomized(model)):
        if site.after is not None:
            site.module.register_forward_hook(lambda module, args, output: calls.append(module))
    checkpointed = copy.deepcopy(model)
    checkpointed.set_grad_checkpointing()
    outputs = [model.train()(IMAGES)]
    assert len(calls) == len(places)
    outputs.append(checkpointed.train()(IMAGES))
    assert len(calls) == 2 * len(places)
    torch.testing.assert_close(*outputs)
    for output in outputs:
        output.square().mean().backward()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(checkpointed.get_parameter(name).grad, parameter.grad)


def test_a_folder_for_its_hub_gives_the_network_again(model, tmp_path):
    """As on the page of the docs."""
    timm.models.save_for_hf(
        model, tmp_path, model_config={"recipe": recipe(model)}, safe_serialization=True
    )
    assert {file.name for file in tmp_path.iterdir()} == {"config.json", "model.safetensors"}

    config = json.loads((tmp_path / "config.json").read_text())
    loaded = apply_recipe(timm.create_model(f"local-dir:{tmp_path}"), config["recipe"])
    timm.models.load_checkpoint(loaded, f"{tmp_path}/model.safetensors")
    assert recipe(loaded) == recipe(model)
    assert torch.equal(loaded.eval()(IMAGES), model(IMAGES))


def test_without_the_recipe_the_weights_are_refused(model, tmp_path):
    timm.models.save_for_hf(
        model, tmp_path, model_config={"recipe": recipe(model)}, safe_serialization=True
    )
    with pytest.raises(RuntimeError, match="Missing key"):
        timm.create_model(f"local-dir:{tmp_path}", pretrained=True)
