"""Gates that are the same for every image, against gates that are averaged by hand."""

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from attnblocks import SE, find_se
from examples.ham10000.attention import Constant, hold_means
from examples.ham10000.cli import main
from examples.ham10000.config import read_options
from examples.ham10000.data.batches import center_crop
from examples.ham10000.data.index import read_index
from examples.ham10000.data.load import load_data
from examples.ham10000.evaluate import load_best
from examples.ham10000.model import build_network
from tests.ham10000.runs import QUICK

MODEL = "timm/mobilenetv3_small_050"


def test_the_gates_are_the_means_of_those_of_se():
    torch.manual_seed(0)
    original = nn.Sequential(nn.Conv2d(3, 8, 1), SE(8), nn.BatchNorm2d(8), SE(8)).train()
    for parameter in original.parameters():
        nn.init.normal_(parameter)
    model = nn.Sequential(original[0], Constant(8), original[2], Constant(8))
    images = torch.randn(7, 3, 5, 6)
    hold_means(model, original, images.split(3))  # of unequal batches
    assert original.training

    def by_hand(block, x):
        squeezed = [x[i].mean((1, 2)) for i in range(len(x))]
        (w1, b1), (w2, b2) = ((p.flatten(1), q) for p, q in _layers(block))
        return torch.stack(
            [((w2 @ (w1 @ v + b1).relu() + b2 + 3) / 6).clip(0, 1) for v in squeezed]
        )

    with torch.no_grad():
        original.eval()
        x = original[0](images)
        first = by_hand(original[1], x)
        second = by_hand(original[3], original[2](x * first[..., None, None]))
    for block, gates in ((model[1], first), (model[3], second)):
        torch.testing.assert_close(block.gate.flatten(), gates.mean(0))
        y = torch.randn(2, 8, 3, 3)
        torch.testing.assert_close(block(y), y * gates.mean(0)[:, None, None])
    assert gates.std(0).max() > 0.01  # they do differ between images


def _layers(block):
    layers = block.se_layers()
    return [(layer.weight, layer.bias) for layer in (layers.squeeze, layers.expand)]


def test_the_gates_are_not_trained():
    block = Constant(4)
    assert list(block.parameters()) == []
    assert list(block.state_dict()) == ["gate"]


def test_means_of_no_images_are_refused():
    with pytest.raises(ValueError, match="mean gates need images"):
        hold_means(nn.Sequential(Constant(8)), nn.Sequential(SE(8)), [])


@pytest.mark.usefixtures("undrawn")
def test_a_run_holds_the_means_on_its_training_images(run, tmp_path, capsys):
    torch.manual_seed(0)
    file = tmp_path / "w.safetensors"
    save_file(build_network(MODEL, 7, "none", "SE").model.state_dict(), file)
    options = [*QUICK, "--model", MODEL, "--batch-size", "64", "--attention", "Constant"]
    options += ["--data", str(run / "synthetic")]
    assert main([*options, "--out", str(tmp_path / "none")]) == 2
    assert "give --weights" in capsys.readouterr().err
    assert main([*options, "--weights", str(file), "--out", str(tmp_path / "run")]) == 0
    trained = load_best(tmp_path / "run").model
    assert read_options(tmp_path / "run").init is None
    # The weights before the training are known, so that the gates of the first site are.
    own = build_network(MODEL, 7, str(file), "SE")
    module = load_best(tmp_path / "run")
    module.model = own.model.eval()
    images = read_index(run / "synthetic")
    data = load_data(images, tmp_path / "run" / "split.csv", 32, tmp_path / "ham10000-cache")
    pixels = center_crop(torch.from_numpy(data.pixels[data.split["train"]]), 32)
    site = find_se(own.model)[0]
    seen = []
    site.layers.gate.register_forward_hook(lambda *of: seen.append(of[2]))
    with torch.no_grad():
        module(pixels)
    gate = trained.get_submodule(site.name).gate
    torch.testing.assert_close(gate, seen[0].mean(0, keepdim=True), rtol=1e-4, atol=1e-5)
