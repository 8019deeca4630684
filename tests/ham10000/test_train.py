"""The main job from the command line to the run folder."""

import csv
import json
import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from examples.ham10000 import lit
from examples.ham10000.batchnorm import RecomputeBatchNorm, statistics_lag
from examples.ham10000.cli import main
from examples.ham10000.data import read_index
from examples.ham10000.dataset import SkinLesions, evaluation_loader, training_loader
from examples.ham10000.images import load_image
from examples.ham10000.lit import LesionClassifier
from examples.ham10000.models import build_network
from examples.ham10000.options import parse, train_config
from examples.ham10000.splits import by_lesion
from examples.ham10000.synthetic import LESIONS, write_synthetic
from tests.ham10000.runs import MODEL, QUICK


def test_every_figure_of_a_synthetic_run_says_so(tmp_path, capsys):
    assert main([*QUICK, "--attention", "SE", "--out", str(tmp_path / "r")]) == 0
    printed = capsys.readouterr().out
    assert re.search(r"Test part, SYNTHETIC .*\n  accuracy +0\.\d+", printed)
    header = (tmp_path / "r" / "metrics.csv").read_text().splitlines()[0].split(",")
    figures = [name for name in header if name not in ("epoch", "lr")]
    assert len(figures) == 5
    assert all(name.startswith("SYNTHETIC_") for name in figures)
    for name in ("test.json", "config.json"):
        assert json.loads((tmp_path / "r" / name).read_text())["data"].startswith("SYNTHETIC")


def test_the_run_folder_is_complete(run):
    names = {p.name for p in run.iterdir()}
    assert names == {
        "best.ckpt",
        "config.json",
        "confusion_matrix_test.png",
        "curves.png",
        "last.ckpt",
        "metrics.csv",
        "split.csv",
        "synthetic",
        "test.csv",
        "test.json",
    }
    config = json.loads((run / "config.json").read_text())
    assert config["options"]["model"] == "timm/mobilenetv3_small_050"
    assert config["evaluation_transform"][:2] == [
        "resize the shorter side to 55 (bilinear, antialias)",
        "centre crop 48x48",
    ]
    assert config["leak"] == 0
    assert "Not a medical device" in config["notice"]
    rows = list(csv.DictReader((run / "metrics.csv").open()))
    assert [row["epoch"] for row in rows] == list("123456")
    rates = [float(row["lr"]) for row in rows]
    assert rates == pytest.approx(1e-3 * (1 + np.cos(np.pi * np.arange(1, 7) / 6)), abs=1e-9)
    for name in ("curves.png", "confusion_matrix_test.png"):
        with Image.open(run / name) as picture:
            assert np.asarray(picture.convert("L")).std() > 10  # something is drawn


def test_the_test_figures_are_those_of_the_best_checkpoint(run):
    """Evaluated once more by hand, from the files of the run alone."""
    checkpoint = torch.load(run / "best.ckpt", weights_only=True)
    report = json.loads((run / "test.json").read_text())
    assert checkpoint["hyper_parameters"]["config"] == json.loads((run / "config.json").read_text())
    network = build_network(MODEL, 7, "none", "CaCo")
    network.model.load_state_dict(
        {
            name.removeprefix("model."): value
            for name, value in checkpoint["state_dict"].items()
            if name.startswith("model.")
        }
    )
    model = network.model.eval()
    images = read_index(run / "synthetic")
    counts = np.zeros((7, 7), int)
    for position in by_lesion(images, 0)["test"]:
        pixels = load_image(images[position].path, 55)[None, :, 4:52, 4:52]  # 3.5 rounds to 4
        mean, std = (torch.tensor(v)[:, None, None] for v in (network.mean, network.std))
        with torch.no_grad():
            predicted = model((pixels / 255 - mean) / std).argmax().item()
        counts[predicted, images[position].label] += 1
    assert counts.tolist() == report["confusion_counts"]
    assert (counts.sum(axis=1) > 0).sum() >= 4  # no trivial answer
    assert report["mean_recall"] > 0.4
    assert report["accuracy"] == pytest.approx(np.trace(counts) / counts.sum())
    with (run / "metrics.csv").open() as file:
        scores = [float(row["SYNTHETIC_val_mean_recall"]) for row in csv.DictReader(file)]
    assert checkpoint["epoch"] == int(np.argmax(scores))


def test_a_synthetic_folder_given_as_data_is_still_synthetic(run, tmp_path, capsys):
    out = tmp_path / "r"
    options = ["--batch-size", "64", "--lr", "1e-3", "--schedule", "constant", "--workers", "1"]
    assert main([*QUICK, *options, "--data", str(run / "synthetic"), "--out", str(out)]) == 0
    config = json.loads((out / "config.json").read_text())
    assert config["data"].startswith("SYNTHETIC")
    assert config["attribution"] is None
    assert "HAM10000 at" not in capsys.readouterr().out


def test_a_part_holds_the_images_and_classes_of_its_positions():
    pixels = np.arange(10, dtype=np.uint8).repeat(3 * 4 * 4).reshape(10, 3, 4, 4)
    part = SkinLesions(pixels, [10 + i for i in range(10)], [7, 2, 5])
    assert [(int(image[0, 0, 0]), *rest) for image, *rest in part] == [
        (7, 17, 7),
        (2, 12, 2),
        (5, 15, 5),
    ]
    batches = training_loader(part, 2, seed=0)
    assert [len(labels) for _, labels, _ in batches] == [2]  # whole batches only
    seen = [i for *_, positions in evaluation_loader(part, 2) for i in positions.tolist()]
    assert seen == [7, 2, 5]


def test_the_order_is_a_function_of_seed_and_epoch():
    part = SkinLesions(np.zeros((40, 3, 4, 4), np.uint8), [0] * 40, range(40))

    def order(seed: int, epoch: int, workers: int = 0) -> list[int]:
        batches = training_loader(part, 8, seed=seed, workers=workers)
        batches.sampler.set_epoch(epoch)
        return [i for *_, positions in batches for i in positions.tolist()]

    orders = [order(seed, epoch) for seed in (0, 1) for epoch in (0, 1)]
    assert all(sorted(one) == list(range(40)) for one in orders)
    assert len({tuple(one) for one in orders}) == 4
    assert order(1, 1) == order(1, 1, workers=2) == orders[3]


def new_module(**options) -> LesionClassifier:
    network = build_network(MODEL, 7, "none", "SE")
    return LesionClassifier(network, nn.CrossEntropyLoss(), **{"image_size": 8, **options})


def test_the_network_sees_normalised_pixels(monkeypatch):
    module = new_module()
    monkeypatch.setattr(module, "model", nn.Identity())
    pixels = torch.randint(0, 256, (2, 3, 8, 8), dtype=torch.uint8)
    mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    expected = (pixels.permute(0, 2, 3, 1).numpy() / 255 - mean) / std
    np.testing.assert_allclose(module(pixels).permute(0, 2, 3, 1), expected, atol=1e-5)


def test_augmentation_and_dropout_are_functions_of_seed_epoch_and_step(monkeypatch):
    seen = []

    def record(pixels, image_size, generator):
        seen.append([int(torch.randint(2**31, (), generator=generator))])
        return pixels

    def loss(logits, labels):
        seen[-1].append(int(torch.randint(2**31, ())))  # where dropout would draw
        return logits.sum()

    monkeypatch.setattr(lit, "augment", record)
    monkeypatch.setattr(LesionClassifier, "log", lambda *args, **kwargs: None)
    batch = (torch.zeros(2, 3, 32, 32, dtype=torch.uint8), torch.tensor([0, 1]), torch.arange(2))
    for seed, epoch, step in [(0, 0, 0), (0, 0, 1), (0, 1, 0), (1, 0, 0), (0, 0, 0)]:
        monkeypatch.setattr(LesionClassifier, "current_epoch", epoch)
        module = new_module(seed=seed)
        module.loss = loss
        torch.rand(1)  # the state before a step does not matter
        module.training_step(batch, step)
    for draws in zip(*seen, strict=True):
        assert len(set(draws[:4])) == 4
        assert draws[4] == draws[0]
    assert all(images != dropout for images, dropout in seen)


def test_a_run_that_diverges_is_no_success(run, tmp_path, capsys):
    out = tmp_path / "r"
    options = ["--lr", "1e30", "--epochs", "3", "--data", str(run / "synthetic")]
    assert main([*QUICK, *options, "--out", str(out)]) == 1
    assert "lower --lr" in capsys.readouterr().err
    assert not (out / "test.json").exists()


def test_a_seed_repeats_a_run_to_the_bit(tmp_path):
    def weights(seed: int, out: Path):
        assert main([*QUICK, "--seed", str(seed), "--out", str(out)]) == 0
        return torch.load(out / "best.ckpt", weights_only=True)["state_dict"]

    first, again, other = (weights(seed, tmp_path / f"{i}") for i, seed in enumerate((0, 0, 1)))
    assert all(torch.equal(first[k], again[k]) for k in first)
    assert not all(torch.equal(first[k], other[k]) for k in first)


def config(*options: str):
    return train_config(vars(parse(["train", *options])))


def test_defaults_are_the_papers_with_data_and_small_without():
    real, synthetic = config("--data", "x"), config()
    assert (real.image_size, real.epochs, real.batch_size) == (224, 100, 128)
    assert (real.lr, real.weight_decay, real.protocol) == (5e-4, 5e-2, "lesion")
    assert (real.model, real.attention) == ("tv/mobilenet_v3_small", "CaCo")
    assert synthetic.image_size < 100
    assert config("--epochs", "3").epochs == 3
    assert config("--model", "ShuffleNetV2").model == "tv/shufflenet_v2_x2_0"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--data", "nowhere"], "no folder nowhere"),
        (["--model", "tv/resnet18"], "use --attention none"),
        (["--weights", "nowhere.pth"], "nowhere.pth: no such file"),
        (["--epochs", "0"], "--epochs must be at least 1, got 0"),
        (["--image-size", "-1"], "--image-size must be at least 1, got -1"),
        (["--batch-size", "0"], "--batch-size must be at least 1"),
        (["--lr", "0"], "--lr must be above 0"),
        (["--lr", "nan"], "--lr must be above 0"),
        (["--lr", "inf"], "--lr must be above 0 and finite"),
        (["--weight-decay", "-1"], "--weight-decay must be finite and not below 0"),
        (["--batch-size", "1", "--image-size", "32"], "cannot be trained at --image-size 32"),
        (["--seed", "-1"], "--seed must not be negative"),
        (["--clip-grad-norm", "0"], "--clip-grad-norm must be above 0"),
        (["--drw-start", "2", "--loss", "ldam"], "--drw-start is a share of the epochs"),
        (["--drw-start", "0.5"], "--drw-start is for --loss ldam, joint, not for cross-entropy"),
        (["--class-weights", "balanced", "--loss", "ldam"], "--class-weights is for --loss"),
        (["--ldam-weight", "2", "--loss", "ldam"], "--ldam-weight is for --loss joint"),
        (
            ["--loss", "joint", "--focal-weight", "0", "--ldam-weight", "0"],
            "--focal-weight and --ldam-weight are both 0",
        ),
        (["--loss", "ldam", "--model", "tv/squeezenet1_0", "--attention", "none"], "one Linear"),
        (["--split-file", "nowhere.csv"], "no split file nowhere.csv"),
        (["--precision", "16-mixed"], "needs a GPU"),
    ],
)
def test_unusable_input_ends_before_training(options, message, tmp_path, capsys):
    out = tmp_path / "run"
    assert main(["train", *options, "--out", str(out)]) == 2
    assert message in capsys.readouterr().err
    assert list(tmp_path.glob("*run*")) == []


def test_a_folder_that_exists_is_not_written_to(folder, tmp_path, capsys):
    out = tmp_path / "out"
    out.mkdir()
    (out / "precious").write_text("x")
    for path, message in [
        (out, "exists: name a new folder, or --resume it"),
        (folder / "r", "inside --data"),
    ]:
        assert main([*QUICK, "--data", str(folder), "--out", str(path)]) == 2
        assert message in capsys.readouterr().err
    assert [p.name for p in out.iterdir()] == ["precious"]
    assert not (folder / "r").exists()


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
    part = SkinLesions(pixels, [0] * 8, range(8))
    trainer = SimpleNamespace(current_epoch=0)
    RecomputeBatchNorm(part, 4, 8, seed=0).on_validation_start(trainer, module)
    seen = pixels[:, :, 1:9, 1:9].astype(float)
    np.testing.assert_allclose(module.bn.running_mean, seen.mean((0, 2, 3)))
    expected = np.mean([seen[h].var((0, 2, 3), ddof=1) for h in (slice(4), slice(4, 8))], axis=0)
    np.testing.assert_allclose(module.bn.running_var, expected, rtol=0.02)
    assert not module.training


@pytest.mark.parametrize(("choice", "count"), [("yes", 2), ("no", 0), ("auto", 0)])
def test_statistics_are_recomputed_before_each_validation_if_asked(
    run, tmp_path, monkeypatch, choice, count
):
    calls = []
    monkeypatch.setattr(RecomputeBatchNorm, "on_validation_start", lambda *args: calls.append(1))
    options = ["--epochs", "2", "--recompute-bn", choice, "--data", str(run / "synthetic")]
    assert main([*QUICK, *options, "--out", str(tmp_path / "r")]) == 0
    assert len(calls) == count


def test_only_slow_averages_are_recomputed():
    assert statistics_lag(build_network("tv/mobilenet_v3_small", 7, "none", "SE").model)
    assert not statistics_lag(build_network("tv/resnet18", 7, "none", "none").model)
