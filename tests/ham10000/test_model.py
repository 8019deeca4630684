"""Networks by name, with their own weights, and the head for losses with margins."""

from pathlib import Path
from urllib.error import URLError

import pytest
import safetensors.torch
import timm
import torch
import torchvision
from torch import nn

from attnblocks import SE, CaCo, Eca, find_se
from examples.ham10000.config import PAPER_MODELS
from examples.ham10000.model import Network, build_network, check_trains
from tests.helpers import randomized

SMALL = "timm/tf_mobilenetv3_small_075"


def test_the_real_weights_fill_everything_but_the_head_and_new_blocks(imagenet_weights):
    network = build_network(SMALL, 7, str(imagenet_weights), "SE")
    state = safetensors.torch.load_file(imagenet_weights)
    own = network.model.state_dict()
    assert {k for k in own if k not in state} == {"classifier.weight", "classifier.bias"}
    assert all(torch.equal(own[k], v) for k, v in state.items())
    assert own["classifier.weight"].shape == (7, 1024)
    assert (network.mean, network.std) == ((0.5,) * 3, (0.5,) * 3)

    swapped = build_network(SMALL, 7, str(imagenet_weights), "CaCo").model
    assert {type(site.module) for site in find_se(swapped)} == {CaCo}
    kept = [k for k in swapped.state_dict() if ".se." not in k and "classifier" not in k]
    assert len(kept) > 150
    assert all(torch.equal(swapped.state_dict()[k], own[k]) for k in kept)


@pytest.mark.parametrize("name", ["tv/mobilenet_v3_small", "timm/mobilenetv3_small_050"])
def test_attention_says_what_stands_at_the_sites(name):
    models = {
        choice: build_network(name, 7, "none", choice).model
        for choice in ("Eca", "SE", "none", "identity")
    }
    kinds = {choice: {type(s.module) for s in find_se(m)} for choice, m in models.items()}
    assert kinds["Eca"] == {Eca}
    assert kinds["SE"] == kinds["none"]
    assert SE not in kinds["SE"]  # the network's own class, untouched
    assert kinds["identity"] == set()
    assert sum(isinstance(m, nn.Identity) for m in models["identity"].modules()) >= 9


@pytest.mark.parametrize(
    ("name", "num_classes", "attention", "millions"),
    [
        ("ResNet18", 7, "none", 11.18),
        ("ShuffleNetV2", 7, "none", 5.36),
        ("GhostNetV2", 1000, "none", 6.16),
        ("EfficientNetB0", 1000, "none", 5.29),
        ("MobileNetV3-Small", 1000, "CBAM", 2.20),
        ("MobileNetV3-Small", 1000, "SeCo", 2.64),
        ("MobileNetV3-Small", 1000, "Eca", 2.08),
        ("MobileNetV3-Small", 1000, "CaCo", 2.29),
        ("MobileNetV3-Small", 1000, "CoordAtt", 2.18),  # what the paper gives for SE
        ("MobileNetV3-Small", 1000, "SE", 2.54),  # what SE has
    ],
)
def test_the_papers_networks_have_its_parameter_counts(name, num_classes, attention, millions):
    """Tables 3 and 5: the heads of the small networks are those of ImageNet."""
    model = build_network(PAPER_MODELS[name], num_classes, "none", attention).model
    assert round(sum(p.numel() for p in model.parameters()) / 1e6, 2) == millions


def hub_file(monkeypatch, folder: Path, name: str) -> Path:
    """Where torchvision keeps the weights of a network, in a hub folder of our own."""
    monkeypatch.setenv("TORCH_HOME", str(folder))
    weights = next(iter(torchvision.models.get_model_weights(name)))
    path = folder / "hub" / "checkpoints" / Path(weights.url).name
    path.parent.mkdir(parents=True)
    return path


@pytest.mark.parametrize(
    "name", ["resnet18", "shufflenet_v2_x2_0", "efficientnet_b0", "mobilenet_v3_small"]
)
def test_imagenet_weights_of_torchvision_come_from_its_hub_folder(monkeypatch, tmp_path, name):
    state = randomized(torchvision.models.get_model(name)).state_dict()
    torch.save(state, hub_file(monkeypatch, tmp_path, name))
    own = build_network(f"tv/{name}", 7, "imagenet", "none").model.state_dict()
    differing = {k for k, v in own.items() if v.shape != state[k].shape}
    assert len(differing) == 2  # weight and bias of the head
    assert all(torch.equal(v, state[k]) for k, v in own.items() if k not in differing)


def test_imagenet_weights_of_the_papers_ghostnet(monkeypatch, tmp_path):
    state = randomized(timm.create_model("ghostnetv2_100")).state_dict()
    safetensors.torch.save_file(state, tmp_path / "weights.safetensors")
    create = timm.create_model

    def from_file(name, **options):  # in the place of the hub
        overlay = {"file": str(tmp_path / "weights.safetensors")}
        return create(name, pretrained_cfg_overlay=overlay, **options)

    monkeypatch.setattr(timm, "create_model", from_file)
    own = build_network(PAPER_MODELS["GhostNetV2"], 7, "imagenet", "none").model.state_dict()
    kept = [k for k in own if not k.startswith("classifier")]
    assert len(kept) == len(own) - 2
    assert all(torch.equal(own[k], state[k]) for k in kept)


def test_without_network_the_error_names_file_and_place(monkeypatch, tmp_path):
    def offline(*args, **kwargs):
        raise URLError("offline")

    target = hub_file(monkeypatch, tmp_path, "mobilenet_v3_small")
    monkeypatch.setattr(torch.hub, "download_url_to_file", offline)
    url = "https://download.pytorch.org/models/mobilenet_v3_small-047dcff4.pth"
    with pytest.raises(FileNotFoundError, match=f"put {url} at {target}, or"):
        build_network("tv/mobilenet_v3_small", 7, "imagenet", "SE")
    target.write_bytes(b"half a download")
    with pytest.raises(ValueError, match=rf"{target} is damaged .*delete it"):
        build_network("tv/mobilenet_v3_small", 7, "imagenet", "SE")
    monkeypatch.setattr("timm.create_model", offline)
    with pytest.raises(FileNotFoundError, match=r"huggingface\.co/timm/mobilenetv3_small_050"):
        build_network("timm/mobilenetv3_small_050", 7, "imagenet", "SE")


def test_each_torchvision_network_has_the_normalisation_of_its_weights():
    assert build_network("tv/mobilenet_v3_small", 7, "none", "SE").mean == (0.485, 0.456, 0.406)
    assert build_network("tv/efficientnet_v2_l", 7, "none", "SE").mean == (0.5, 0.5, 0.5)


@pytest.mark.parametrize(
    ("name", "size", "batch", "message"),
    [
        ("tv/vit_b_16", 64, 8, "--image-size 64 .*Expected 224"),
        ("tv/googlenet", 64, 8, "returns GoogLeNetOutputs, not 7 logits"),
    ],
)
def test_networks_that_cannot_be_trained_fail_at_once(name, size, batch, message):
    network = build_network(name, 7, "none", "none")
    state = torch.get_rng_state()
    with pytest.raises(ValueError, match=message):
        check_trains(network, 7, size, batch)
    assert torch.equal(torch.get_rng_state(), state)


def test_the_trial_step_leaves_the_network_as_it_was():
    network = build_network("tv/mobilenet_v3_small", 7, "none", "SE")
    before = {k: v.clone() for k, v in network.model.state_dict().items()}
    check_trains(network, 7, 64, 8)
    assert all(torch.equal(v, before[k]) for k, v in network.model.state_dict().items())
    assert all(p.grad is None for p in network.model.parameters())
    with pytest.raises(ValueError, match="not 5 logits"):
        check_trains(Network(network.model, (), (), ()), 5, 64, 8)


NO_SE = "has no SE blocks to replace or keep: use --attention none"


@pytest.mark.parametrize(
    ("name", "weights", "attention", "error", "message"),
    [
        ("mobilenet_v3_small", "none", "SE", ValueError, "must be tv/NAME or timm/NAME"),
        ("hub/x", "none", "SE", ValueError, "must be tv/NAME or timm/NAME"),
        ("tv/mobilenet_v3", "none", "SE", ValueError, "did you mean .*mobilenet_v3_small"),
        ("timm/mobilenetv3_smal_050", "none", "SE", ValueError, "mean mobilenetv3_small_050"),
        ("timm/mobilenetv3_small_050.x", "none", "SE", ValueError, "mean mobilenetv3_small_050"),
        ("timm/starnet_s050", "none", "SEE", ValueError, "--attention must be one of"),
        ("timm/efficientnet_b9", "imagenet", "SE", ValueError, "no ImageNet weights|no model"),
        *(("tv/resnet18", "none", block, ValueError, NO_SE) for block in ("SE", "identity")),
    ],
)
def test_wrong_names_are_explained(name, weights, attention, error, message):
    with pytest.raises(error, match=message):
        build_network(name, 7, weights, attention)
