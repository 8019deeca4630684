"""Every kind of network of torchvision as a base, built without the network and checked."""

import subprocess
import sys
from pathlib import Path

import pytest
import timm
import torch
from torch import nn
from torchvision import models, ops

from attnblocks import CaCo, load_model, replace_se, save_model
from attnblocks.files.builders import build, build_on_meta, no_larger_than
from attnblocks.files.checks import describe
from tests.helpers import randomized

SWAPPED = {
    "deeplabv3_mobilenet_v3_large": {"num_classes": 3, "aux_loss": True},
    "lraspp_mobilenet_v3_large": {"num_classes": 3},
    "ssdlite320_mobilenet_v3_large": {"num_classes": 3, "score_thresh": 0.25, "nms_thresh": 0.5},
}
SSDLITE = "torchvision/ssdlite320_mobilenet_v3_large"
QUANTIZABLE = models.list_models(module=models.quantization)
OTHERS = sorted({*models.list_models()} - {*models.list_models(module=models), *QUANTIZABLE})

# Sockets are what every download needs, whatever function asks for it.
OFFLINE = """
import socket
def refuse(*args, **kwargs):
    raise AssertionError("a connection was made")
socket.socket.connect = socket.getaddrinfo = refuse
"""

LOAD = """
import sys
import torch
from attnblocks import load_model
x, *paths = sys.argv[1:]
for path in paths:
    model = load_model(path).eval()
    with torch.no_grad():
        outputs = model(torch.load(x))
    torch.save((model.state_dict(), outputs), f"{path}.loaded")
"""


@pytest.fixture(autouse=True)
def offline(monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("something was to be downloaded")

    monkeypatch.setattr("socket.socket.connect", refuse)
    monkeypatch.setattr("socket.getaddrinfo", refuse)
    monkeypatch.setattr("urllib.request.urlopen", refuse)
    monkeypatch.setattr("torch.hub.load_state_dict_from_url", refuse)
    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", refuse)


def made(name: str, **kwargs) -> nn.Module:
    """The network as a user makes it, without weights."""
    return models.get_model(name, weights=None, weights_backbone=None, **kwargs)


def same(a: object, b: object) -> bool:
    """Equal to the last bit, through lists and dictionaries."""
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return list(a) == list(b) and all(same(a[key], b[key]) for key in a)
    return len(a) == len(b) and all(map(same, a, b))


def test_round_trips_through_a_process_without_network(tmp_path):
    x = torch.rand(2, 3, 64, 64)
    torch.save(x, tmp_path / "x.pt")
    trained = {}
    for name, kwargs in SWAPPED.items():
        trained[name] = randomized(replace_se(made(name, **kwargs), CaCo))
        path = tmp_path / name
        save_model(trained[name], path, base=f"torchvision/{name}", base_kwargs=kwargs)
    paths = [str(tmp_path / name) for name in ("x.pt", *SWAPPED)]
    command = [sys.executable, "-c", OFFLINE + LOAD, *paths]
    subprocess.run(command, cwd=Path(__file__).parents[2], check=True, timeout=300)
    for name, model in trained.items():
        state, outputs = torch.load(tmp_path / f"{name}.loaded", weights_only=False)
        assert same(state, model.state_dict())
        with torch.no_grad():
            assert same(outputs, model.eval()(x))
        assert len(outputs) == (1 if name.startswith("lraspp") else 2)  # with the auxiliary head


@pytest.mark.parametrize("name", OTHERS)
def test_all_but_quantizable_networks_are_built_without_data_or_network(name):
    network = build_on_meta(f"torchvision/{name}", {})
    assert {value.device.type for value in network.state_dict().values()} == {"meta"}


@pytest.mark.parametrize("name", ["s3d", "raft_small"])
def test_networks_of_videos_and_of_two_images_are_saved_too(name, tmp_path):
    model = randomized(models.get_model(name, weights=None))
    save_model(model, tmp_path / "m", base=f"torchvision/{name}")
    assert same(load_model(tmp_path / "m").state_dict(), model.state_dict())


@pytest.mark.parametrize(
    ("base", "kwargs"),
    [
        (SSDLITE, {}),
        ("torchvision/fasterrcnn_mobilenet_v3_large_fpn", {"min_size": 64, "max_size": 96}),
    ],
)
def test_the_text_of_a_network_has_its_settings_and_not_what_it_saw(base, kwargs):
    network, empty = build(base, kwargs), build_on_meta(base, kwargs)
    before = {place: describe(layer) for place, layer in network.named_modules()}
    assert before == {place: describe(layer) for place, layer in empty.named_modules()}
    images = [torch.rand(3, 90, 80), torch.rand(3, 60, 70)]
    box = {"boxes": torch.tensor([[1.0, 2.0, 30.0, 40.0]]), "labels": torch.tensor([1])}
    network.train()(images, [box, box])
    network.eval()(images)
    assert before == {place: describe(layer) for place, layer in network.named_modules()}
    text = " ".join(before.values())
    for setting in ("score_thresh=", "nms_thresh=", "aspect_ratios=[[", "image_mean=["):
        assert setting in text


def test_the_text_of_layers_of_torchvision_has_their_arguments_and_not_their_children():
    for fewer, more in [
        (ops.StochasticDepth(0.1, "row"), ops.StochasticDepth(0.2, "row")),
        (ops.MultiScaleRoIAlign(["0"], 7, 2), ops.MultiScaleRoIAlign(["0"], 7, 4)),
        (ops.FrozenBatchNorm2d(4), ops.FrozenBatchNorm2d(4, eps=1e-3)),
    ]:
        assert describe(fewer) != describe(more)
    assert describe(ops.Conv2dNormActivation(3, 4)) == describe(ops.Conv2dNormActivation(3, 8))


def anchors(network: nn.Module) -> None:
    network.anchor_generator.aspect_ratios = [[2, 4] for _ in range(6)]


def threshold(network: nn.Module) -> None:
    network.score_thresh = 0.7


def matching(network: nn.Module) -> None:
    network.proposal_matcher.high_threshold = 0.6


def mean(network: nn.Module) -> None:
    network.transform.image_mean = [0.4, 0.4, 0.4]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (anchors, r"'anchor_generator' is DefaultBoxGenerator\(aspect_ratios=\[\[2, 4\]"),
        (threshold, "'' is SSD.*score_thresh=0.7.* in the model and .*score_thresh=0.001"),
        (matching, "'' is SSD.*high_threshold=0.6.* in the model"),
        (mean, r"'transform' is Gen.*image_mean=\[0.4, 0.4, 0.4\]"),
    ],
)
def test_what_a_detector_does_besides_its_layers_is_checked(change, message, tmp_path):
    network = replace_se(made("ssdlite320_mobilenet_v3_large"), CaCo)
    change(network)
    with pytest.raises(ValueError, match=f"{message}.*is an argument missing in base_kwargs"):
        save_model(network, tmp_path / "m", base=SSDLITE)
    assert not (tmp_path / "m").exists()


def test_settings_in_base_kwargs_are_those_of_the_loaded_network(tmp_path):
    kwargs = {"num_classes": 3, "score_thresh": 0.7, "image_mean": [0.4, 0.4, 0.4]}
    as_written = {**kwargs, "image_mean": (0.4, 0.4, 0.4)}  # JSON has no tuples
    network = replace_se(made("ssdlite320_mobilenet_v3_large", **as_written), CaCo)
    save_model(network, tmp_path / "m", base=SSDLITE, base_kwargs=kwargs)
    loaded = load_model(tmp_path / "m")
    assert loaded.score_thresh == 0.7
    assert loaded.transform.image_mean == [0.4, 0.4, 0.4]


def test_the_auxiliary_head_is_checked_like_other_layers(tmp_path):
    base = "torchvision/deeplabv3_mobilenet_v3_large"
    network = made("deeplabv3_mobilenet_v3_large", aux_loss=True)
    with pytest.raises(ValueError, match=r"aux_classifier\.0\.weight is unknown"):
        save_model(network, tmp_path / "m", base=base)
    network.aux_classifier[3].p = 0.5
    with pytest.raises(ValueError, match=r"'aux_classifier\.3' is Dropout\(p=0\.5"):
        save_model(network, tmp_path / "m", base=base, base_kwargs={"aux_loss": True})
    network.aux_classifier[3].p = 0.1
    network.backbone.return_layers["3"] = network.backbone.return_layers.pop("4")
    with pytest.raises(ValueError, match=r"'backbone' is IntermediateLayerGetter.*\"3\": \"aux\""):
        save_model(network, tmp_path / "m", base=base, base_kwargs={"aux_loss": True})
    assert not (tmp_path / "m").exists()


@pytest.mark.parametrize("name", QUANTIZABLE)
def test_quantizable_networks_are_known_and_not_supported(name, tmp_path):
    """The message says what to do, and names no other network."""
    with pytest.raises(ValueError, match=f"torchvision has '{name}', but not as a base: ") as error:
        save_model(nn.ReLU(), tmp_path / "m", base=f"torchvision/{name}")
    assert "save the float network, and quantize it" in str(error.value)
    assert "leave out base" in str(error.value)
    assert "did you mean" not in str(error.value)


def test_the_advice_for_quantizable_networks_works(tmp_path):
    model, base = (models.quantization.mobilenet_v2(num_classes=3) for _ in range(2))
    save_model(randomized(model), tmp_path / "m")
    assert same(load_model(tmp_path / "m", base=base).state_dict(), model.state_dict())


def test_a_deprecated_name_of_timm_is_known_and_its_present_name_told(tmp_path):
    renamed = timm.models.get_deprecated_models()
    for old, new in [*renamed.items()][::40]:
        with pytest.raises(ValueError, match=f"timm has '{old}', but not .* now called '{new}'"):
            build_on_meta(f"timm/{old}", {})
    build_on_meta(f"timm/{renamed['tf_efficientnet_b0_ns']}", {})


def test_a_name_that_timm_removed_is_known(monkeypatch):
    monkeypatch.setattr("timm.models.get_deprecated_models", lambda: {"old": None})
    with pytest.raises(ValueError, match="timm has 'old', but not as a base: timm has removed it"):
        build_on_meta("timm/old", {})


@pytest.mark.parametrize(
    ("name", "near"),
    [("deeplabv3_mobilnet_v3_large", "deeplabv3_mobilenet_v3_large"), ("raft_smal", "raft_small")],
)
def test_a_misspelt_name_is_unknown_and_the_nearest_is_told(name, near):
    with pytest.raises(LookupError, match=f"has no model '{name}'; did you mean '{near}'"):
        build_on_meta(f"torchvision/{name}", {})


@pytest.mark.parametrize(
    "key", ["weights", "weights_backbone", "pretrained", "pretrained_backbone"]
)
def test_no_argument_asks_for_weights(key):
    with pytest.raises(ValueError, match=f"not {key}=True"):
        build(SSDLITE, {key: True})


def test_a_head_too_large_for_the_weights_of_a_file_is_not_built():
    state = made("lraspp_mobilenet_v3_large").state_dict()
    for kwargs in ({"num_classes": 10**9}, {"num_classes": 10**9, "aux_loss": False}):
        with pytest.raises(ValueError, match="is too much for"), no_larger_than(state, kwargs):
            build_on_meta("torchvision/lraspp_mobilenet_v3_large", kwargs)


@pytest.mark.parametrize(
    ("base", "changed", "same"),
    [
        ("torchvision/googlenet", {"transform_input": True}, {"init_weights": False}),
        ("timm/vit_tiny_patch16_224", {"num_heads": 6}, {"num_classes": 3}),
    ],
)
def test_settings_that_layers_do_not_print_are_checked(base, changed, same, tmp_path):
    model = build(base, {**same, **changed})
    with pytest.raises(ValueError, match=rf"{next(iter(changed))}.*missing in base_kwargs"):
        save_model(model, tmp_path / "m", base=base, base_kwargs=same)
    save_model(model, tmp_path / "m", base=base, base_kwargs={**same, **changed})
