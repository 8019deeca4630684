"""One file per model: round trips are exact, and what could not be loaded is not saved."""

import itertools
import os
import re
import stat
import sys

import pytest
import torch
from torch import nn

from attnblocks import SE, CaCo, list_blocks, load_model, replace_se, save_model
from tests.files.networks import TIMM, TV, Tied, built, same, trained
from tests.helpers import make_pipe, randomized, snapshot, unchanged

SEVEN = {"num_classes": 7}


@pytest.mark.parametrize(
    ("base", "block"),
    [
        *itertools.product([TV, TIMM], list_blocks()),
        ("timm/rexnet_100", "SE"),  # with a norm inside
        ("torchvision/regnet_y_400mf", "CaCo"),  # cannot be built on the meta device
    ],
)
def test_a_round_trip_is_exact(base, block, tmp_path):
    model = trained(base, block, **SEVEN)
    save_model(model, tmp_path / "m.safetensors", base=base, base_kwargs=SEVEN)
    loaded = load_model(tmp_path / "m.safetensors")
    assert same(loaded, model)
    assert loaded.training
    # In double precision, which has one form: timm's own classes of functions are in no kernel.
    x = torch.rand(2, 3, 64, 64, dtype=torch.float64)
    with torch.no_grad():
        assert torch.equal(loaded.double().eval()(x), model.double().eval()(x))
    assert os.listdir(tmp_path) == ["m.safetensors"]


def test_a_network_without_a_swap_and_one_in_half_precision(tmp_path):
    for model in (randomized(built(TV)), trained(TV, CaCo).bfloat16()):
        save_model(model, tmp_path / "m", base=TV)
        assert same(load_model(tmp_path / "m"), model)


class Shared(nn.Module):
    """The same block in two places."""

    def __init__(self) -> None:
        super().__init__()
        self.first = SE(16)
        self.second = self.first
        self.register_buffer("scale", torch.ones(2, dtype=torch.int32))

    def forward(self, x):
        return self.second(self.first(x))


def test_a_network_of_the_users_own_with_a_shared_block(tmp_path):
    model = randomized(replace_se(Shared(), CaCo))
    save_model(model, tmp_path / "m.safetensors")
    base = Shared()
    before = snapshot(base)
    loaded = load_model(tmp_path / "m.safetensors", base=base)
    assert unchanged(base, before)
    assert same(loaded, model)
    assert loaded.first is loaded.second
    with pytest.raises(ValueError, match="a network of its author's own: give it as base"):
        load_model(tmp_path / "m.safetensors")
    with pytest.raises(ValueError, match="does not fit: no site 'first' in the network"):
        load_model(tmp_path / "m.safetensors", base=nn.Sequential(nn.ReLU()))


@pytest.mark.parametrize(
    ("base", "kwargs", "error", "message"),
    [
        ("keras/x", {}, ValueError, "base must be timm/NAME or torchvision/NAME, got 'keras/x'"),
        ("timm/mobilenetv3_smal_050", {}, LookupError, "did you mean 'mobilenetv3_small_050'"),
        ("torchvision/../../x", {}, LookupError, "has no model"),
        ("timm/hf-hub:someone/model", {}, LookupError, "has no model"),
        ("torchvision/fasterrcnn_resnet50_fpn", {}, ValueError, "the recipe does not fit: no site"),
        (TIMM, {"num_classes": 7}, ValueError, r"do not fit base .*shape \(1000, 1024\), not \(7"),
        ("timm/mobilenetv3_small_075", {}, ValueError, "has 96 channels, not 64"),
        ("timm/resnet18", {}, ValueError, "the recipe does not fit: no site 'blocks.0.0.se'"),
        (TIMM, {"pretrained": True}, ValueError, "not pretrained=True"),
        (TIMM, {"checkpoint_path": "x.pth"}, ValueError, "not checkpoint_path='x.pth'"),
        (TIMM, {"act_layer": nn.ReLU}, ValueError, "plain values of the structure, not act_layer"),
        (TIMM, {"no_such": 1}, ValueError, "cannot be built with"),
        (TIMM, {"act_layer": "nope"}, ValueError, "cannot be built with"),
        (TIMM, {"global_pool": "max"}, ValueError, "'global_pool.pool' is .*Avg.* there; is an a"),
        (None, {"num_classes": 7}, ValueError, "go with a base"),
    ],
)
def test_what_could_not_be_loaded_is_not_saved(base, kwargs, error, message, tmp_path):
    model = trained(TIMM, CaCo)
    with pytest.raises(error, match=message):
        save_model(model, tmp_path / "m", base=base, base_kwargs=kwargs)
    assert not os.listdir(tmp_path)


@pytest.mark.parametrize("block", [None, CaCo])
def test_an_se_that_was_changed_by_hand_is_no_network_of_the_base(block, tmp_path):
    model = built(TV)
    if block is not None:
        replace_se(model, block, where="features.4.*")
    model.features[1].block[1].scale_activation = nn.Sigmoid()
    with pytest.raises(ValueError, match=r"'features\.1\.block\.1\.scale_activation' is Sigmoid"):
        save_model(model, tmp_path / "m", base=TV)


def test_half_precision_is_that_of_the_whole_network(tmp_path):
    """Buffers that are in no file, too: without them the network could not run."""

    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.se, self.fc = SE(4), nn.Linear(4, 2)
            self.register_buffer("scale", torch.full((4,), 2.0), persistent=False)

        def forward(self, x):
            return self.fc(self.se(x).mean((2, 3)) * self.scale)

    model = randomized(replace_se(Scaled(), CaCo)).bfloat16().eval()
    save_model(model, tmp_path / "m")
    loaded = load_model(tmp_path / "m", base=Scaled()).eval()
    x = torch.rand(2, 4, 5, 5).bfloat16()
    assert torch.equal(loaded(x), model(x))


class OfAnotherKind(torch.Tensor):
    """As the weights that torchao makes."""


def test_other_errors_of_saving(tmp_path):
    with pytest.raises(FileNotFoundError, match="there is no folder"):
        save_model(nn.ReLU(), tmp_path / "no" / "m")
    with pytest.raises(IsADirectoryError, match=f"cannot write {re.escape(str(tmp_path))}: it is"):
        save_model(nn.ReLU(), tmp_path)
    with pytest.raises(ValueError, match="has no data that could be saved"):
        save_model(SE(16, device="meta"), tmp_path / "m")
    other = nn.Linear(4, 4)
    other.weight = nn.Parameter(torch.rand(4, 4).as_subclass(OfAnotherKind))
    with pytest.raises(ValueError, match=r"'weight' is a OfAnotherKind.* before it is quantized"):
        save_model(other, tmp_path / "m")
    file = tmp_path / "m"
    file.write_text("kept")
    overlapping = nn.Linear(4, 4, bias=False)
    overlapping.register_buffer("row", overlapping.weight.detach()[1:])
    with pytest.raises(RuntimeError):
        save_model(overlapping, file)
    assert [p.read_text() for p in tmp_path.iterdir()] == ["kept"]


def test_tied_weights_stay_tied_and_others_do_not_become_so(tmp_path):
    save_model(randomized(Tied(True)), tmp_path / "tied")
    save_model(randomized(Tied(False)), tmp_path / "loose")
    loaded = load_model(tmp_path / "tied", base=Tied(True))
    assert loaded.a.weight is loaded.b.weight
    with pytest.raises(ValueError, match=r"'a\.weight' and 'b\.weight' are one tensor in the base"):
        load_model(tmp_path / "loose", base=Tied(True))
    with pytest.raises(ValueError, match="base is on the meta device"):
        load_model(tmp_path / "tied", base=Tied(True).to("meta"))


@pytest.mark.skipif(sys.platform == "win32", reason="needs modes of files")
def test_what_lies_at_the_path_is_respected(tmp_path):
    model = Tied(True)
    (tmp_path / "plain").touch()
    save_model(model, tmp_path / "new")
    assert (tmp_path / "new").stat().st_mode == (tmp_path / "plain").stat().st_mode
    (tmp_path / "new").chmod(0o640)
    (tmp_path / "link").symlink_to(tmp_path / "new")
    save_model(randomized(model), tmp_path / "link")
    assert (tmp_path / "link").is_symlink()
    assert stat.S_IMODE((tmp_path / "new").stat().st_mode) == 0o640
    assert same(load_model(tmp_path / "new", base=Tied(True)), model)
    make_pipe(tmp_path / "pipe")
    with pytest.raises(ValueError, match="pipe: it is no regular file"):
        save_model(model, tmp_path / "pipe")
    assert stat.S_ISFIFO((tmp_path / "pipe").stat().st_mode)
