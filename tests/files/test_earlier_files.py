"""What version 0.1.0 wrote loads, and computes what it computed then.

``0.1.0`` holds a network of nine blocks as a pickle of the whole module and as a file of
``save_model``; a small MobileNetV3 with five blocks of its own as such a file; and in
``expected.pt`` their state dicts, recipes, and outputs in float64 for the inputs beside them.
"""

import copy
import importlib
from pathlib import Path

import pytest
import torch
import torchvision
from torch import nn

from attnblocks import (
    CBAM,
    SE,
    CaCo,
    CoordAtt,
    Eca,
    SeCo,
    apply_recipe,
    load_model,
    recipe,
    save_model,
)

FILES = Path(__file__).parent / "0.1.0"


@pytest.fixture(scope="module")
def expected():
    return torch.load(FILES / "expected.pt", weights_only=True)


def pickled() -> nn.Module:
    return torch.load(FILES / "blocks.pt", weights_only=False)


def base() -> nn.Module:
    """Any nine blocks, whose places those of the file take."""
    return nn.Sequential(*[SE(16) for _ in range(9)])


def check(model: nn.Module, then: dict) -> None:
    output = model.eval().double()(then["input"].double())
    torch.testing.assert_close(output, then["output"], rtol=1e-9, atol=1e-9)


def test_a_pickled_network_computes_what_it_did(expected):
    model = pickled()
    assert [type(block) for block in model] == [
        *(SE, Eca, CBAM, CoordAtt, SeCo, CaCo),
        *(SE, CBAM, CaCo),
    ]
    assert not model.training
    assert list(model.state_dict()) == list(expected["blocks"]["state"])
    check(model, expected["blocks"])


def test_the_old_module_names_give_the_classes_of_today():
    for module, cls in (("caco", CaCo), ("cbam", CBAM), ("se", SE)):
        found = importlib.import_module(f"attnblocks.{module}")
        assert getattr(found, cls.__name__) is cls


def test_a_pickled_network_is_as_good_as_a_new_one(expected, tmp_path):
    model = pickled()
    assert recipe(model) == expected["blocks"]["recipe"]
    new = apply_recipe(base(), recipe(model))
    assert repr(model) == repr(new.eval())
    for one in (copy.deepcopy(model), torch.load(saved(model, tmp_path), weights_only=False)):
        check(one, expected["blocks"])
    save_model(model, tmp_path / "m")
    check(load_model(tmp_path / "m", base=base()), expected["blocks"])
    y = model.float().train()(expected["blocks"]["input"])
    y.sum().backward()
    assert all(p.grad is not None for p in model.parameters())


def saved(model: nn.Module, folder: Path) -> Path:
    torch.save(model, folder / "again.pt")
    return folder / "again.pt"


def test_a_state_dict_and_a_recipe_go_into_new_blocks(expected):
    model = apply_recipe(base(), expected["blocks"]["recipe"])
    model.load_state_dict(expected["blocks"]["state"])
    check(model, expected["blocks"])


def test_a_file_of_the_users_own_network_loads(expected):
    model = load_model(FILES / "blocks.safetensors", base=base())
    check(model, expected["blocks"])


def test_a_file_that_names_its_base_loads(expected):
    model = load_model(FILES / "network.safetensors")
    assert isinstance(model, torchvision.models.MobileNetV3)
    assert recipe(model) == expected["network"]["recipe"]
    check(model, expected["network"])
