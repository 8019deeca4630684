"""Wrapped and converted networks are saved as what they are without that, and load."""

import copy

import pytest
import timm
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

from attnblocks import CaCo, SeCo, load_model, recipe, replace_se, save_model
from tests.files.networks import TIMM, TV, built, same, trained

WRAPPERS = {
    "compiled": lambda model: torch.compile(model, backend="eager"),
    "DataParallel": nn.DataParallel,
    "averaged": AveragedModel,
    "twice": lambda model: nn.DataParallel(torch.compile(model, backend="eager")),
}


@pytest.mark.parametrize("wrap", WRAPPERS.values(), ids=WRAPPERS)
def test_a_wrapped_network_is_saved_as_the_one_inside(wrap, tmp_path):
    path, model = tmp_path / "model.safetensors", trained(TV, CaCo, num_classes=5)
    save_model(wrap(copy.deepcopy(model)), path, base=TV, base_kwargs={"num_classes": 5})
    assert same(load_model(path), model)
    save_model(wrap(copy.deepcopy(model)), path)
    for base in (built(TV, num_classes=5), wrap(built(TV, num_classes=5))):
        loaded = load_model(path, base=base)
        assert same(loaded, model)
        assert type(loaded) is type(model)


def test_a_network_that_is_compiled_in_place_is_saved(tmp_path):
    path, model = tmp_path / "model.safetensors", trained(TV, CaCo)
    model.compile(backend="eager")
    save_model(model, path, base=TV)
    assert same(load_model(path), model)
    base = built(TV)
    base.compile(backend="eager")
    assert same(load_model(path, base=base), model)


@pytest.mark.parametrize(
    ("base", "convert"),
    [
        (TV, nn.SyncBatchNorm.convert_sync_batchnorm),
        (TIMM, timm.layers.convert_sync_batchnorm),
    ],
)
def test_synchronised_norms_are_saved_as_plain_ones(base, convert, tmp_path):
    path, model = tmp_path / "model.safetensors", trained(base, SeCo)
    kinds = [type(module) for module in model.modules()]
    before = recipe(model)
    converted = convert(copy.deepcopy(model))
    assert recipe(converted) == before
    save_model(converted, path, base=base)
    loaded = load_model(path)
    assert same(loaded, model)
    assert [type(module) for module in loaded.modules()] == kinds
    x = torch.rand(2, 3, 64, 64)
    torch.testing.assert_close(loaded.eval()(x), model.eval()(x))


def test_a_conversion_that_lost_activations_is_refused_with_the_reason(tmp_path):
    """Torch's own knows nothing of the activations in timm's norms."""
    model = nn.SyncBatchNorm.convert_sync_batchnorm(
        replace_se(timm.create_model("efficientnet_b0"), CaCo)
    )
    with pytest.raises(ValueError, match=r"'bn1' is .*drops the activations.*that of timm\.layers"):
        save_model(model, tmp_path / "model.safetensors", base="timm/efficientnet_b0")
    assert list(tmp_path.iterdir()) == []


def test_lazy_layers_that_have_not_run_are_named(tmp_path):
    path = tmp_path / "model.safetensors"
    lazy = nn.Sequential(nn.Conv2d(3, 16, 1), nn.Flatten(), nn.LazyLinear(5))
    with pytest.raises(ValueError, match=r"'2\.weight' has no data that could be saved"):
        save_model(lazy, path)
    save_model(nn.Sequential(nn.Conv2d(3, 16, 1), nn.Flatten(), nn.Linear(16, 5)), path)
    with pytest.raises(ValueError, match=r"base has no shape yet at '2\.weight': run it once"):
        load_model(path, base=lazy)
