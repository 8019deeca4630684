"""The committed drawings are what the script draws, and say what the blocks do; the gallery."""

import re
from xml.etree import ElementTree

import pytest
import torch
import torchvision
from torch import nn

from attnblocks import create_block, insert, list_blocks
from docs import gallery
from docs import insert as insertion
from docs.drawings import DRAWINGS, FOLDER, svg

LETTERS = {1: "1", 3: "N", 14: "H", 20: "W", 512: "C", 128: "S", 32: "h", 16: "m", 2: "2"}
BY_NAME = {drawing.name: drawing for drawing in DRAWINGS}


def texts(drawing) -> list[str]:
    """The lines of text from top to bottom."""
    return [text.text for text in ElementTree.fromstring(svg(drawing)).findall(".//{*}text")]


@pytest.mark.parametrize("name", list_blocks())
def test_the_committed_file_is_what_the_script_draws(name):
    assert (FOLDER / f"{name.lower()}.svg").read_text(encoding="utf-8") == svg(BY_NAME[name])


def test_every_file_is_of_a_block():
    files = sorted(file.name for file in FOLDER.iterdir())
    assert files == sorted(f"{name.lower()}.svg" for name in list_blocks())


@pytest.mark.parametrize("name", list_blocks())
def test_layers_and_gates_are_those_of_the_block(name):
    block = create_block(name, 512)
    drawn = texts(BY_NAME[name])
    joined = "\n".join(drawn)
    layers = {
        path.split(".")[-1]: layer
        for path, layer in block.named_modules()
        if list(layer.parameters(recurse=False))
    }
    assert set(re.findall(r"\b(fc\w|conv\w*|bn\w?):", joined)) == set(layers)
    for layer_name, layer in layers.items():
        if isinstance(layer, nn.Conv2d):
            widths = f"{LETTERS[layer.in_channels]} → {LETTERS[layer.out_channels]}"
            size = "x".join(map(str, layer.kernel_size))
            assert re.search(rf"{layer_name}:\s{size} conv, {widths}", joined)
    for gate in block.gates(torch.rand(3, 512, 14, 20)):
        shape = ", ".join(LETTERS[length] for length in gate.shape)
        assert f"({shape})" in drawn


def test_the_gallery_is_small_and_all_on_its_page():
    files = sorted(gallery.FOLDER.iterdir())
    page = (gallery.FOLDER.parents[1] / "attention.md").read_text(encoding="utf-8")
    shown = re.findall(r"\(images/attention/(.+?)\)", page)
    assert sorted(shown) == [file.name for file in files]
    assert max(file.stat().st_size for file in files) < 150_000


@pytest.mark.slow
def test_the_gallery_is_what_its_script_writes(tmp_path):
    gallery.main(tmp_path, epochs=1)
    names = {file.name for file in gallery.FOLDER.iterdir()}
    assert {file.name for file in tmp_path.iterdir()} == names


def test_the_drawing_of_an_insertion_shows_what_insert_does():
    assert insertion.FILE.read_text(encoding="utf-8") == insertion.svg()
    words = [text.text for text in ElementTree.fromstring(insertion.svg()).findall(".//{*}text")]
    model, example = torchvision.models.resnet18(), torch.rand(1, 3, 32, 32)
    insert(model, "CoordAtt", after="layer1.0.bn2", example=example)
    keys = list(model.state_dict())
    drawn = [word.removesuffix(", ...") for word in words if word.startswith("layer1.0.")]
    assert len([key for key in drawn if key in keys]) == 3
    added = words[words.index("layer1.0.bn2.attention.") + 1].partition(",")[0]
    assert f"layer1.0.bn2.attention.{added}" in keys
    logits = torch.tensor([0.0, 5.0], requires_grad=True)
    gates = logits.sigmoid() * torch.tensor([2.0, 1.0])
    (slopes,) = torch.autograd.grad(gates.sum(), logits)
    assert f"2{insertion.SIGMA}(0) = {gates[0]:g}, slope {slopes[0]:g}" in words
    assert f"{insertion.SIGMA}(5) = {gates[1]:.3f}, slope {slopes[1]:.3f}" in words
