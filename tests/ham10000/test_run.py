"""What fitted blocks are, whose stages have a gain for each channel: all that is done with them."""

import json
import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from attnblocks import find_se
from attnblocks.blocks.gain import GainedStage
from examples.ham10000 import run as run_module
from examples.ham10000.cli import main
from examples.ham10000.evaluate import load_best
from examples.ham10000.gates import read_gates
from examples.ham10000.model import build_network
from examples.ham10000.module import LesionClassifier
from tests.ham10000.runs import QUICK
from tests.ham10000.undrawn import undrawn

pytestmark = pytest.mark.usefixtures("undrawn")
# The gates of the smaller network of the other tests hardly differ between images: without a fit
# the blocks are as near as after one of so few steps.
MODEL = "timm/mobilenetv3_small_050"
OPTIONS = [*QUICK, "--model", MODEL, "--epochs", "2", "--batch-size", "64", "--lr", "2e-3"]


def train(out: Path, data: Path, weights: str) -> None:
    """Train a run of CaCo, which is fitted with few steps to few images."""
    with undrawn(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(run_module, "IMAGES", 64)
        patch.setattr("attnblocks.fit.warm_start.STEPS", (2, 2))
        options = ["--data", str(data), "--weights", weights, "--out", str(out)]
        assert main([*OPTIONS, *options]) == 0


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A file of a network with its own SE."""
    file = tmp_path_factory.mktemp("weights") / "w.safetensors"
    torch.manual_seed(0)
    save_file(build_network(MODEL, 7, "none", "SE").model.state_dict(), file)
    return str(file)


@pytest.fixture(scope="module")
def fitted(weights, run):
    """A run of CaCo that was fitted; it is only read."""
    out = Path(weights).parent / "run"
    train(out, run / "synthetic", weights)
    return out


def state_of(run, name="best.ckpt"):
    """The network of a checkpoint."""
    state = torch.load(run / name, weights_only=True)["state_dict"]
    return {k.removeprefix("model."): v for k, v in state.items() if k.startswith("model.")}


def features(model):
    images = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        return model.eval().to(memory_format=torch.contiguous_format).forward_features(images)


def assert_same(found, expected):
    assert found.keys() == expected.keys()
    assert all(torch.equal(value, expected[name]) for name, value in found.items())


def test_a_run_from_weights_is_fitted_and_says_so(fitted):
    test = json.loads((fitted / "test.json").read_text())
    assert test["network"] == f"{MODEL}, attention CaCo (fitted)"
    options = json.loads((fitted / "config.json").read_text())["options"]
    assert options["init"] == "fitted"
    assert (options["gate_lr"], options["warmup"], options["clip_grad_norm"]) == (0.02, 0.25, 1.0)
    fit = json.loads((fitted / "warm_start.json").read_text())
    assert 0 < fit["after"] < fit["before"]
    assert len(fit["sites"]) == 9


@pytest.mark.parametrize("name", ["start.ckpt", "best.ckpt"])
def test_the_network_of_a_run_has_the_gains_of_its_checkpoint(fitted, name):
    state = state_of(fitted, name)
    gains = {k: v for k, v in state.items() if k.endswith(".gain")}
    sites = find_se(build_network(MODEL, 7, "none", "SE").model)
    shapes = {name: tuple(gain.shape) for name, gain in gains.items()}
    assert shapes == {f"{site.name}.coord.gain": (site.channels,) for site in sites}
    assert all(gain.std() > 1e-3 for gain in gains.values())
    found = load_best(fitted, name).model
    assert_same(found.state_dict(), state)
    whole = features(found)
    for stage in found.modules():
        if isinstance(stage, GainedStage):
            stage.gain = None
    assert not torch.allclose(features(found), whole, rtol=1e-2)


def test_a_run_is_evaluated_and_its_gates_are_recorded(fitted, run, tmp_path):
    out = tmp_path / "test"
    options = ["--run", str(fitted), "--data", str(run / "synthetic"), "--out", str(out)]
    assert main(["evaluate", *options]) == 0
    for name in ("test.csv", "test.json"):
        assert (out / name).read_bytes() == (fitted / name).read_bytes()
    moved = [gate.moved for gate in read_gates(fitted).end.gates]
    assert len(moved) == 27
    assert all(0 < value < 0.5 for value in moved)  # without the gains of the start it is far more


def test_a_run_is_resumed_to_the_bit(fitted, run, weights, tmp_path, monkeypatch):
    out, step = tmp_path / "run", LesionClassifier.training_step

    def stop_in_the_second_epoch(module, batch, number):
        if module.current_epoch == 1 and number == 2:
            raise RuntimeError("stop")
        return step(module, batch, number)

    monkeypatch.setattr(LesionClassifier, "training_step", stop_in_the_second_epoch)
    with pytest.raises(RuntimeError, match="stop"):
        train(out, run / "synthetic", weights)
    monkeypatch.setattr(LesionClassifier, "training_step", step)
    monkeypatch.setattr(run_module, "warm_start", None)  # it is not fitted again
    once = [out / "config.json", out / "description.json"]
    written = [file.stat().st_mtime_ns for file in once]
    assert main(["train", "--resume", str(out)]) == 0
    assert [file.stat().st_mtime_ns for file in once] == written
    for name in ("metrics.csv", "test.csv", "gates.json"):
        assert (out / name).read_text() == (fitted / name).read_text()
    for name in ("start.ckpt", "best.ckpt", "last.ckpt"):
        assert_same(state_of(out, name), state_of(fitted, name))
    optimizers = (
        torch.load(folder / "last.ckpt", weights_only=True)["optimizer_states"][0]["state"]
        for folder in (out, fitted)
    )
    for found, expected in zip(*(o.values() for o in optimizers), strict=True):
        assert_same(found, expected)


def test_weights_of_a_run_keep_their_gains(fitted, tmp_path):
    def loaded(file):
        network = build_network(MODEL, 7, str(file), "CaCo")
        state = network.model.state_dict()
        return network, {k: v for k, v in state.items() if not k.startswith("classifier.")}

    file = fitted / "best.ckpt"
    network, found = loaded(file)
    assert network.loaded
    expected = {k: v for k, v in state_of(fitted).items() if not k.startswith("classifier.")}
    assert_same(found, expected)
    assert torch.equal(features(network.model), features(load_best(fitted).model))
    assert not torch.equal(network.model.classifier.weight, state_of(fitted)["classifier.weight"])
    for init in ("fresh", "inherit", "fitted"):
        with pytest.raises(ValueError, match=f"--init {init}: {file} has blocks CaCo already"):
            build_network(MODEL, 7, str(file), "CaCo", init)
    without = {k: v for k, v in expected.items() if not k.endswith(".gain")}
    torch.save(without, tmp_path / "w.pth")
    assert_same(loaded(tmp_path / "w.pth")[1], without)


@pytest.mark.parametrize(
    ("gain", "message"),
    [
        (torch.ones(3), r"do not fit the network: \S+\.gain is unknown"),
        (torch.tensor(math.inf), r"have NaN or inf in \S+\.gain"),
    ],
)
def test_gains_that_no_stage_can_have_are_named(gain, message, fitted, tmp_path):
    state = state_of(fitted)
    name = next(name for name in state if name.endswith(".gain"))
    torch.save({**state, name: gain}, tmp_path / "w.pth")
    with pytest.raises(ValueError, match=message):
        build_network(MODEL, 7, str(tmp_path / "w.pth"), "CaCo")
