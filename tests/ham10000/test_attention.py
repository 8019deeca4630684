"""Blocks that are inserted, from the options to the results of a run; and fixed gates."""

import csv
import json
import re
import shutil
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import nn

from attnblocks import SE, apply_recipe, find_se, insert, recipe, save_model
from examples.ham10000.arguments import parse
from examples.ham10000.attention import Constant, hold_means
from examples.ham10000.cli import main
from examples.ham10000.config import read_description, read_options
from examples.ham10000.data.batches import center_crop
from examples.ham10000.data.index import read_index
from examples.ham10000.data.load import load_data
from examples.ham10000.evaluate import load_best
from examples.ham10000.given import train_config
from examples.ham10000.model import build_network, new_network
from tests.ham10000.runs import QUICK
from tests.ham10000.undrawn import undrawn

MODEL, SMALL = "timm/test_resnet", "timm/mobilenetv3_small_050"
OPTIONS = ["--model", MODEL, "--image-size", "32", "--loss", "ldam"]  # whose head is drawn last
INSERT = ["--attention", "CoordAtt", "--insert", "residual", "layer[12]"]
PLACES = ["layer1.0.bn2", "layer2.0.bn2", "layer3.0.bn3", "layer4.0.bn2", "layer1", "layer2"]
HOMES = ["layer1.0.layer1_attention", "layer2.0.layer2_attention"]
BLOCKS = [f"{name}.attention" for name in PLACES[:4]] + HOMES


def config(*options: str):
    return train_config(vars(parse(["train", *options])))


def train(data: Path, out: Path, *options: str) -> Path:
    """Train for an epoch that changes no weight, only the statistics of batch norms."""
    options = [*OPTIONS, "--epochs", "1", "--lr", "1e-30", *options, "--out", str(out)]
    assert main(["train", "--data", str(data), *options]) == 0
    return out


@pytest.fixture(scope="module")
def data(run) -> Path:
    """Drawn pictures; they are only read."""
    return run / "synthetic"


@pytest.fixture(scope="module")
def inserted(data, tmp_path_factory) -> Path:
    """A run of a network with inserted blocks; it is only read."""
    with undrawn():
        return train(data, tmp_path_factory.mktemp("inserted") / "run", *INSERT)


def test_inserted_blocks_change_nothing_at_the_start():
    plain = new_network(config(*OPTIONS, "--attention", "none")).model
    own = plain.state_dict()
    found = new_network(config(*OPTIONS, *INSERT)).model
    state = found.state_dict()
    assert [name for name in state if name in own] == list(own)
    assert all(torch.equal(state[name], value) for name, value in own.items())
    assert {re.match(r".*?attention", name)[0] for name in state.keys() - own} == set(BLOCKS)
    images = torch.rand(4, 3, 32, 32)
    assert torch.equal(found(images), plain(images))
    fresh = new_network(config(*OPTIONS, *INSERT, "--init", "fresh")).model
    assert not torch.allclose(fresh(images), plain(images))


def test_a_run_says_what_was_inserted_where(inserted):
    description = read_description(inserted)
    assert description["options"]["insert"] == "residual layer[12]"
    assert description["options"]["init"] == "identity"
    sites = {entry["after"]: entry["site"] for entry in description["recipe"]}
    assert sites == dict(zip(PLACES, BLOCKS, strict=True))
    checkpoint = torch.load(inserted / "best.ckpt", weights_only=True)
    assert checkpoint["hyper_parameters"]["config"]["recipe"] == description["recipe"]
    title = f"{MODEL}, attention CoordAtt behind residual layer[12] (identity)"
    assert json.loads((inserted / "test.json").read_text())["network"] == title
    page = (inserted / "report.html").read_text()
    assert "with 6 CoordAtt blocks inserted behind its residual branches and “layer[12]”" in page
    places = re.search(r"<p>Inserted behind (.*)\.</p>\n", page)[1].split(", ")
    assert sorted(places) == sorted(PLACES)
    assert all(f"<td>{name}</td>" in page for name in BLOCKS)  # how open their gates are


def test_the_network_of_a_run_is_built_from_what_it_says(inserted, tmp_path):
    """Not by its patterns, which another version may read otherwise; in the order of the first."""
    network = new_network(config(*OPTIONS, *INSERT)).model
    again = new_network(read_options(inserted), empty=True).model
    assert [n for n, _ in again.named_parameters()] == [n for n, _ in network.named_parameters()]
    shutil.copytree(inserted, tmp_path / "run")
    description, names = read_description(inserted), [*load_best(inserted).state_dict()]
    description["options"]["insert"] = "depthwise"
    for said, problem in (
        (description["recipe"], None),
        (None, "got None"),
        ([{"site": "a"}], "an entry of a recipe has"),
    ):
        (tmp_path / "run" / "description.json").unlink(missing_ok=True)  # older runs have none
        (tmp_path / "run" / "config.json").write_text(json.dumps(description | {"recipe": said}))
        if problem is None:
            assert [*load_best(tmp_path / "run").state_dict()] == names
            continue
        with pytest.raises(ValueError, match=rf"json does not say which blocks .*: .*{problem}"):
            load_best(tmp_path / "run")


@pytest.mark.usefixtures("undrawn")
def test_a_run_is_evaluated_predicted_and_resumed(data, inserted, tmp_path, capsys):
    probabilities = (inserted / "test.csv").read_bytes()
    options = ["--run", str(inserted), "--data", str(data), "--out", str(tmp_path / "test")]
    assert main(["evaluate", *options]) == 0
    assert (tmp_path / "test" / "test.csv").read_bytes() == probabilities

    rows = {row["image"]: row for row in csv.DictReader((inserted / "test.csv").open())}
    image = next(path for path in data.rglob("*.jpg") if path.stem in rows)
    options = ["--run", str(inserted), str(image), "--out", str(tmp_path / "one.csv")]
    assert main(["predict", *options]) == 0
    (row,) = csv.DictReader((tmp_path / "one.csv").open())
    expected = rows[image.stem]
    assert all(float(row[n]) == pytest.approx(float(expected[n]), rel=1e-3) for n in ("MEL", "NV"))

    out = train(data, tmp_path / "run", "--lr", "1e-3", *INSERT)
    probabilities = (out / "test.csv").read_bytes()
    assert probabilities != (inserted / "test.csv").read_bytes()
    (out / "test.json").unlink()  # as if it had been killed before
    assert main(["train", "--resume", str(out)]) == 0
    assert (out / "test.csv").read_bytes() == probabilities

    assert main(["compare", str(inserted), str(out), "--out", str(tmp_path / "compared")]) == 0
    assert "CoordAtt behind residual layer[12] (identity)" in capsys.readouterr().out


def test_the_blocks_of_a_run_are_loaded_where_they_are_asked_for(inserted):
    file = str(inserted / "best.ckpt")
    options = config(*OPTIONS, *INSERT, "--weights", file)
    assert options.init == "loaded"
    best, network = load_best(inserted).model, new_network(options)
    assert network.loaded
    images = torch.rand(2, 3, 32, 32).contiguous(memory_format=torch.channels_last)
    network.model.to(memory_format=torch.channels_last)
    with torch.no_grad():
        features, expected = (m.eval().forward_features(images) for m in (network.model, best))
    assert torch.equal(features, expected)
    other = {"attention": "none"}, {"attention": "CBAM", "insert": "residual layer[12]"}
    other += ({"attention": "CoordAtt", "insert": "residual"},)
    for asked in other:
        with pytest.raises(ValueError, match="holds CoordAtt blocks behind") as caught:
            build_network(MODEL, 7, file, **asked, image_size=32)
        behind = f" --insert {asked['insert']}" if "insert" in asked else ""
        assert str(caught.value) == (
            f"{file} holds CoordAtt blocks behind layer1.0.bn2, layer1, layer2.0.bn2 and 3 "
            f"more; --attention {asked['attention']}{behind} was asked for: give --attention "
            "CoordAtt --insert residual 'layer[12]', or weights of the network as it is built"
        )


def test_inserted_blocks_of_no_run_are_asked_for_by_their_places(tmp_path):
    model, example = timm.create_model("test_resnet"), torch.rand(1, 3, 32, 32)
    file = tmp_path / "w.safetensors"
    insert(model, "Eca", after=["layer1", "layer2"], example=example)
    save_model(model, file)
    with pytest.raises(ValueError, match="holds Eca blocks behind layer1, layer2; --att") as caught:
        build_network(MODEL, 7, str(file), "none", image_size=32)
    assert "give --attention Eca --insert layer1 layer2, or" in str(caught.value)
    insert(model, "CBAM", after="layer3", example=example)  # not to be had with these options
    save_model(model, file)
    with pytest.raises(ValueError, match=r"do not fit .*'CBAM'.* is in the file alone"):
        build_network(MODEL, 7, str(file), "none", image_size=32)
    # They stand where they were asked for: to ask for them again would not help.
    model = timm.create_model("test_resnet")
    insert(model, "Eca", after="layer1", example=example, kernel_size=7)
    save_model(model, file)
    with pytest.raises(ValueError, match=r"'kernel_size': 7.* is in the file alone"):
        build_network(MODEL, 7, str(file), "Eca", insert="layer1", image_size=32)


def test_blocks_are_inserted_beside_the_se_blocks_of_a_network():
    plain = build_network(SMALL, 7, "none", "none").model
    found = build_network(SMALL, 7, "none", "SE", insert="depthwise").model
    keys = plain.state_dict().keys()
    assert keys < found.state_dict().keys()
    assert {key.partition(".attention")[0] for key in found.state_dict().keys() - keys} == {
        name
        for name, layer in plain.named_modules()
        if isinstance(layer, torch.nn.Conv2d) and layer.groups > 1
    }
    assert [*apply_recipe(plain, recipe(found)).state_dict()] == [*found.state_dict()]


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"insert": "l9*"}, r"'l9\*' names no module that returns a map\. Places: residual \(lay"),
        ({"insert": "fc"}, "--insert fc: no block can be put behind 'fc'.* it returns a tensor"),
        ({"insert": "layer1", "attention": "none"}, "--insert puts .* one of CBAM.*, not none"),
        ({}, "use --attention none, or --insert PATTERN, which puts Eca behind modules. Places: "),
        ({}, r"residual \(.*, layer3.0.bn3 and 1 more\), stages \(act1, layer1, layer2 and 2 "),
    ],
)
def test_what_cannot_be_inserted_is_said(asked, message):
    with pytest.raises(ValueError, match=message):
        build_network(MODEL, 7, "none", **{"attention": "Eca", "image_size": 32, **asked})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--insert", "fc", "--init", "fitted"], "--init fitted is for swapped blocks, not for"),
        (["--insert", "fc", "--init", "inherit"], "--init inherit is for swapped blocks, not for"),
        (["--insert", " "], "--insert names no module: give patterns of names"),
    ],
)
def test_options_that_contradict_each_other(options, message):
    with pytest.raises(ValueError, match=message):
        config(*options).check()


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
        layers = block.se_layers()
        (w1, b1), (w2, b2) = (
            (p.weight.flatten(1), p.bias) for p in (layers.squeeze, layers.expand)
        )
        logits = [w2 @ (w1 @ image.mean((1, 2)) + b1).relu() + b2 for image in x]
        return ((torch.stack(logits) + 3) / 6).clip(0, 1)

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
    assert not list(model[1].parameters())  # none is trained
    with pytest.raises(ValueError, match="mean gates need images"):
        hold_means(model, original, [])


@pytest.mark.usefixtures("undrawn")
def test_a_run_holds_the_means_on_its_training_images(run, tmp_path):
    torch.manual_seed(0)
    file = tmp_path / "w.safetensors"
    save_file(build_network(SMALL, 7, "none", "SE").model.state_dict(), file)
    options = [*QUICK, "--model", SMALL, "--batch-size", "64", "--attention", "Constant"]
    options += ["--data", str(run / "synthetic")]
    assert main([*options, "--weights", str(file), "--out", str(tmp_path / "run")]) == 0
    trained = load_best(tmp_path / "run").model
    assert read_options(tmp_path / "run").init is None
    # The weights before the training are known, so that the gates of the first site are.
    own = build_network(SMALL, 7, str(file), "SE")
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
