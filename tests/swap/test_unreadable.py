"""SE blocks without the layers of their class: the error names the site, everywhere."""

import pickle

import pytest
import timm
import torch
import torchvision
from torch import nn

from attnblocks import (
    SE,
    CaCo,
    SELayers,
    find_se,
    recipe,
    register_se,
    replace_se,
    save_model,
    summary,
    warm_start,
)
from tests.helpers import small_network, snapshot, unchanged


class Adapter(nn.Module):
    """Wraps a layer as PEFT does, and has none of its attributes."""

    def __init__(self, base: nn.Module) -> None:
        super().__init__()
        self.base_layer = base

    def forward(self, x):
        return self.base_layer(x)


def pickled_by_an_old_torchvision() -> nn.Module:
    model = small_network()
    for site in find_se(model):
        site.module.relu = site.module.activation
        del site.module.activation
    return pickle.loads(pickle.dumps(model))


def pickled_by_an_old_timm() -> nn.Module:
    model = timm.create_model("mobilenetv3_small_050", num_classes=5)
    for site in find_se(model):
        del site.module.gate
    return model


def with_wrapped_layers() -> nn.Module:
    model = small_network()
    block = model.features[4].block[2]
    block.fc1 = Adapter(block.fc1)
    return model


UNREADABLE = {
    "old torchvision": (
        pickled_by_an_old_torchvision,
        r"'features\.1\.block\.1' \(torchvision\.ops\.misc\.SqueezeExcitation\).*no attribute "
        r"'activation'.*build it anew and load its state dict",
    ),
    "old timm": (
        pickled_by_an_old_timm,
        r"'blocks\.0\.0\.se' \(timm\.models\._efficientnet_blocks\.SqueezeExcite\).*no attribute "
        r"'gate'",
    ),
    "wrapped": (
        with_wrapped_layers,
        r"'features\.4\.block\.2' \(torchvision.*'Adapter' object has no attribute 'in_channels'"
        r".*as PEFT does, merge or remove that first",
    ),
}


@pytest.mark.parametrize(("make", "message"), UNREADABLE.values(), ids=UNREADABLE)
def test_the_site_is_named_by_every_function(make, message, tmp_path):
    model = make()
    before = snapshot(model)
    images = [torch.rand(2, 3, 32, 32)]
    for read in (
        lambda: find_se(model),
        lambda: summary(model),
        lambda: recipe(model),
        lambda: replace_se(model, CaCo),
        lambda: save_model(model, tmp_path / "file.safetensors"),
        lambda: warm_start(model, model, images),
    ):
        with pytest.raises(ValueError, match=message):
            read()
    assert unchanged(model, before)
    assert list(tmp_path.iterdir()) == []


def test_blocks_that_are_read_by_their_own_class_are_named_too():
    model = nn.Sequential(SE(16))
    del model[0].gate
    with pytest.raises(ValueError, match=r"'0' \(attnblocks\.blocks\.se\.SE\).* attribute 'gate'"):
        find_se(model)


def test_an_adapter_of_the_users_own_that_raises_is_named():
    class Mine(nn.Module):
        pass

    def layers(m: Mine) -> SELayers:
        raise KeyError("nothing there")

    register_se(Mine, layers)
    with pytest.raises(ValueError, match=r"'a'.*Mine.*nothing there") as caught:
        find_se(nn.ModuleDict({"a": Mine()}))
    assert isinstance(caught.value.__cause__, KeyError)


def test_a_whole_network_beside_it_is_read():
    """Only what is a known SE block has to be whole."""
    model = torchvision.models.mobilenet_v3_small()
    del model.features[0][2].inplace
    assert len(find_se(model)) == 9
