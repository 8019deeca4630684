"""The main job from the command line to the run folder."""

import csv
import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from examples.ham10000.batchnorm import RecomputeBatchNorm, statistics_lag
from examples.ham10000.cli import main, parse
from examples.ham10000.data import read_index
from examples.ham10000.dataset import SkinLesions, loader
from examples.ham10000.models import build_network
from examples.ham10000.run import prepare
from examples.ham10000.synthetic import LESIONS, write_synthetic

QUICK = ["train", "--image-size", "32", "--epochs", "2", "--model", "timm/mobilenetv3_small_050"]


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """The folder of a short run on synthetic data."""
    out = tmp_path_factory.mktemp("runs") / "run"
    assert main([*QUICK, "--out", str(out)]) == 0
    return out


def test_every_figure_of_a_synthetic_run_says_so(tmp_path, capsys):
    assert main([*QUICK, "--epochs", "1", "--attention", "SE", "--out", str(tmp_path / "r")]) == 0
    printed = capsys.readouterr().out
    assert re.search(r"Test part, SYNTHETIC .*\n  accuracy 0\.\d+", printed)
    header = (tmp_path / "r" / "metrics.csv").read_text().splitlines()[0].split(",")
    figures = [name for name in header if name not in ("epoch", "step")]
    assert len(figures) == 4
    assert all(name.startswith("SYNTHETIC_") for name in figures)
    for name in ("test.json", "config.json"):
        assert json.loads((tmp_path / "r" / name).read_text())["data"].startswith("SYNTHETIC")


def test_the_run_folder_is_complete(run):
    names = {p.name for p in run.iterdir()}
    assert names == {
        "best.ckpt",
        "config.json",
        "confusion_matrix.png",
        "curves.png",
        "metrics.csv",
        "synthetic",
        "test.json",
    }
    config = json.loads((run / "config.json").read_text())
    assert config["options"]["model"] == "timm/mobilenetv3_small_050"
    assert config["evaluation_transform"][:2] == [
        "resize the shorter side to 37 (bilinear, antialias)",
        "centre crop 32x32",
    ]
    assert config["leak"] == 0
    assert "Not a medical device" in config["notice"]
    rows = list(csv.DictReader((run / "metrics.csv").open()))
    assert {row["epoch"] for row in rows} == {"0", "1"}
    for name in ("curves.png", "confusion_matrix.png"):
        with Image.open(run / name) as picture:
            assert np.asarray(picture.convert("L")).std() > 10  # something is drawn


def test_the_test_figures_are_those_of_the_best_checkpoint(run):
    """Evaluated once more by hand, from the files of the run alone."""
    checkpoint = torch.load(run / "best.ckpt", weights_only=True)
    config, report = (
        checkpoint["hyper_parameters"]["config"],
        json.loads((run / "test.json").read_text()),
    )
    assert config == json.loads((run / "config.json").read_text())
    network = build_network(config["options"]["model"], 7, "none", "CaCo")
    state = checkpoint["state_dict"]
    network.model.load_state_dict(
        {k.removeprefix("model."): v for k, v in state.items() if k.startswith("model.")}
    )
    model = network.model.eval()
    counts = np.zeros((7, 7), int)
    data, _ = prepare(parse([*QUICK, "--data", str(run / "synthetic"), "--out", str(run / "new")]))
    images = read_index(run / "synthetic")
    for position in data.split["test"]:
        pixels = torch.from_numpy(data.pixels[position].copy())[None, :, 2:34, 2:34]
        mean, std = (torch.tensor(v)[:, None, None] for v in (network.mean, network.std))
        with torch.no_grad():
            predicted = model((pixels / 255 - mean) / std).argmax().item()
        counts[predicted, images[position].label] += 1
    (run / "new").rmdir()
    assert counts.tolist() == report["confusion_counts"]
    assert report["accuracy"] == pytest.approx(np.trace(counts) / counts.sum())
    scores = [
        float(r["SYNTHETIC_val_mean_recall"] or 0)
        for r in csv.DictReader((run / "metrics.csv").open())
    ]
    assert report["best_val_mean_recall"] == pytest.approx(max(scores))


def test_a_seed_repeats_a_run_to_the_bit(run, tmp_path):
    def weights(seed: int, out: Path):
        assert main([*QUICK, "--seed", str(seed), "--out", str(out)]) == 0
        return torch.load(out / "best.ckpt", weights_only=True)["state_dict"]

    first = torch.load(run / "best.ckpt", weights_only=True)["state_dict"]
    again, other = weights(0, tmp_path / "again"), weights(1, tmp_path / "other")
    assert all(torch.equal(first[k], again[k]) for k in first)
    assert not all(torch.equal(first[k], other[k]) for k in first)


def test_defaults_are_the_papers_with_data_and_small_without():
    real, synthetic = parse(["train", "--data", "x"]), parse(["train"])
    assert (real.image_size, real.epochs, real.batch_size) == (224, 100, 128)
    assert (real.lr, real.weight_decay, real.split) == (5e-4, 5e-2, "lesion")
    assert (real.model, real.attention) == ("tv/mobilenet_v3_small", "CaCo")
    assert synthetic.image_size < 100
    assert parse(["train", "--epochs", "3"]).epochs == 3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--data", "nowhere"], "no folder nowhere"),
        (["--model", "tv/resnet18"], "no SE block"),
        (["--weights", "nowhere.pth"], "nowhere.pth: no such file"),
        (["--epochs", "0"], "--epochs must be at least 1, got 0"),
        (["--image-size", "-1"], "--image-size must be at least 1, got -1"),
        (["--batch-size", "0"], "--batch-size must be at least 1"),
        (["--lr", "0"], "--lr must be above 0"),
        (["--lr", "nan"], "--lr must be above 0"),
        (["--weight-decay", "-1"], "--weight-decay must not be negative"),
        (["--seed", "-1"], "--seed must not be negative"),
    ],
)
def test_unusable_input_ends_before_training(options, message, tmp_path, capsys):
    out = tmp_path / "run"
    assert main(["train", *options, "--out", str(out)]) == 2
    assert message in capsys.readouterr().err
    assert not (out / "config.json").exists()


def test_a_folder_that_holds_something_is_not_written_to(tmp_path, capsys):
    (tmp_path / "precious").write_text("x")
    assert main([*QUICK, "--out", str(tmp_path)]) == 2
    assert "is not empty" in capsys.readouterr().err
    assert [p.name for p in tmp_path.iterdir()] == ["precious"]


def test_synthetic_pictures_depend_on_the_seed_alone(tmp_path):
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        write_synthetic(tmp_path / name, seed)
    files = sorted(p.relative_to(tmp_path / "a") for p in (tmp_path / "a").rglob("*.jpg"))
    same = [
        (tmp_path / "a" / f).read_bytes() == (tmp_path / other / f).read_bytes()
        for other in ("b", "c")
        for f in files
    ]
    assert all(same[: len(files)])
    assert not any(same[len(files) :])
    images = read_index(tmp_path / "a")
    assert len({i.lesion_id for i in images}) == sum(LESIONS.values()) < len(images)


def test_recomputed_statistics_are_those_of_the_training_images():
    class Module(nn.Module):
        device = torch.device("cpu")

        def __init__(self):
            super().__init__()
            self.bn = nn.BatchNorm2d(3, momentum=0.01)

        def forward(self, pixels):
            return self.bn(pixels.double())

    pixels = np.random.default_rng(0).integers(0, 256, (8, 3, 10, 10), dtype=np.uint8)
    module = Module().double().eval()
    batches = loader(SkinLesions(pixels, [0] * 8, range(8)), 4, seed=0)
    RecomputeBatchNorm(batches, 8).on_validation_start(None, module)
    seen = pixels[:, :, 1:9, 1:9].astype(float)
    np.testing.assert_allclose(module.bn.running_mean, seen.mean((0, 2, 3)))
    expected = np.mean([seen[h].var((0, 2, 3), ddof=1) for h in (slice(4), slice(4, 8))], axis=0)
    np.testing.assert_allclose(module.bn.running_var, expected, rtol=0.02)
    assert not module.training


def test_only_slow_averages_are_recomputed():
    assert statistics_lag(build_network("tv/mobilenet_v3_small", 7, "none", "SE").model)
    assert not statistics_lag(build_network("tv/resnet18", 7, "none", "none").model)
