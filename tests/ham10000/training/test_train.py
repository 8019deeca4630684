"""The main job from the command line to the run folder."""

import csv
import json
import re
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from examples.ham10000.cli import main
from examples.ham10000.config import read_options
from examples.ham10000.data import synthetic
from examples.ham10000.data.images import load_image
from examples.ham10000.data.index import read_index
from examples.ham10000.data.load import load_data
from examples.ham10000.data.splits import by_lesion
from examples.ham10000.evaluate import evaluate_part, load_best
from examples.ham10000.model import build_network
from examples.ham10000.module import LesionClassifier
from examples.ham10000.report import plots
from tests.ham10000.runs import EPOCHS, MODEL, QUICK

pytestmark = pytest.mark.usefixtures("undrawn")


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


@pytest.mark.parametrize("allocate", [torch.empty, np.empty])
def test_too_little_memory_says_what_needs_less(allocate, run, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(LesionClassifier, "training_step", lambda *_: allocate(2**50))
    options = ["--data", str(run / "synthetic"), "--out", str(tmp_path / "r")]
    assert main([*QUICK, *options]) == 2
    message = capsys.readouterr().err.splitlines()[-1]
    assert message.startswith("error: a smaller --batch-size or --image-size needs less memory: ")


def test_the_run_folder_is_complete(run):
    names = {p.name for p in run.iterdir()}
    assert names == {
        "best.ckpt",
        "config.json",
        "confusion_matrix_test.png",
        "curves.png",
        "gates.json",
        "last.ckpt",
        "log_probabilities_test.npz",
        "metrics.csv",
        "report.html",
        "split.csv",
        "start.ckpt",
        "synthetic",
        "test.csv",
        "test.json",
    }
    config = json.loads((run / "config.json").read_text())
    assert config["options"]["model"] == MODEL
    assert config["evaluation_transform"][:2] == [
        "resize the shorter side to 55 (bilinear, antialias)",
        "centre crop 48x48",
    ]
    assert config["leak"] == 0
    assert "Not a medical device" in config["notice"]
    rows = list(csv.DictReader((run / "metrics.csv").open()))
    epochs = np.arange(1, EPOCHS + 1)
    assert [int(row["epoch"]) for row in rows] == epochs.tolist()
    rates = [float(row["lr"]) for row in rows]
    assert rates == pytest.approx(1e-3 * (1 + np.cos(np.pi * epochs / EPOCHS)), abs=1e-9)
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


def test_the_curves_are_those_of_the_log(run):
    figure = plots.curves(run / "metrics.csv", "SYNTHETIC_", "title")
    with (run / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    drawn = {
        (axes.get_ylabel(), line.get_label()): line for axes in figure.axes for line in axes.lines
    }
    for (where, what), name in {
        ("loss", "training"): "train_loss",
        ("loss", "validation"): "val_loss",
        ("validation part", "accuracy"): "val_accuracy",
        ("validation part", "mean recall"): "val_mean_recall",
    }.items():
        x, y = drawn.pop((where, what)).get_data()
        assert list(x) == list(range(1, EPOCHS + 1))
        assert list(y) == [float(row[f"SYNTHETIC_{name}"]) for row in rows]
    assert drawn == {}


def test_a_synthetic_folder_given_as_data_is_still_synthetic(run, tmp_path, capsys):
    out = tmp_path / "r"
    options = ["--batch-size", "64", "--lr", "1e-3", "--schedule", "constant", "--workers", "1"]
    assert main([*QUICK, *options, "--data", str(run / "synthetic"), "--out", str(out)]) == 0
    config = json.loads((out / "config.json").read_text())
    assert config["data"].startswith("SYNTHETIC")
    assert config["attribution"] is None
    assert "HAM10000 at" not in capsys.readouterr().out


def test_a_run_that_diverges_is_no_success(run, tmp_path, capsys):
    out = tmp_path / "r"
    options = ["--lr", "1e30", "--epochs", "3", "--data", str(run / "synthetic")]
    assert main([*QUICK, *options, "--out", str(out)]) == 1
    assert "lower --lr" in capsys.readouterr().err
    assert not (out / "test.json").exists()


def test_a_seed_repeats_a_run_to_the_bit(run, tmp_path):
    def weights(seed: int, out: Path):
        options = ["--data", str(run / "synthetic"), "--seed", str(seed), "--out", str(out)]
        assert main([*QUICK, *options]) == 0
        return torch.load(out / "best.ckpt", weights_only=True)["state_dict"]

    first, again, other = (weights(seed, tmp_path / f"{i}") for i, seed in enumerate((0, 0, 1)))
    assert all(torch.equal(first[k], again[k]) for k in first)
    assert not all(torch.equal(first[k], other[k]) for k in first)


def test_synthetic_pictures_depend_on_the_seed_alone(tmp_path, monkeypatch):
    lesions = dict.fromkeys(synthetic.LESIONS, 5)
    monkeypatch.setattr(synthetic, "LESIONS", lesions)
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        synthetic.write_synthetic(tmp_path / name, seed)
    files = sorted(p.relative_to(tmp_path / "a") for p in (tmp_path / "a").rglob("*.jpg"))
    same = [
        (tmp_path / "a" / f).read_bytes() == (tmp_path / other / f).read_bytes()
        for other in ("b", "c")
        for f in files
    ]
    assert all(same[: len(files)])
    assert not any(same[len(files) :])
    images = read_index(tmp_path / "a")
    assert len({i.lesion_id for i in images}) == sum(lesions.values()) < len(images)


def test_evaluate_reads_any_part_of_a_run(run, tmp_path, capsys):
    options = ["--run", str(run), "--data", str(run / "synthetic"), "--out"]
    assert main(["evaluate", *options, str(tmp_path / "test")]) == 0
    again = json.loads((tmp_path / "test" / "test.json").read_text())
    assert again == json.loads((run / "test.json").read_text())
    assert main(["evaluate", *options, str(tmp_path / "val"), "--split", "val"]) == 0
    found = json.loads((tmp_path / "val" / "val.json").read_text())
    rows = list(csv.DictReader((run / "metrics.csv").open()))
    best = max(float(row["SYNTHETIC_val_mean_recall"]) for row in rows)
    assert found["mean_recall"] == pytest.approx(best)
    assert "Val part, SYNTHETIC" in capsys.readouterr().out
    assert main(["evaluate", *options, str(tmp_path / "val")]) == 2
    assert "exists: name a new folder" in capsys.readouterr().err


@pytest.mark.parametrize("tasks", ["1", "4"])
def test_nothing_of_slurm_is_taken_up(run, tasks, tmp_path, monkeypatch):
    """Lightning would load its hpc_ckpt_1.ckpt of the current folder, of whatever run it is."""
    for name in ("PROCID", "LOCALID", "NODEID"):
        monkeypatch.setenv(f"SLURM_{name}", "0")
    monkeypatch.setenv("SLURM_NTASKS", tasks)
    monkeypatch.setenv("SLURM_JOB_NAME", "sweep")
    monkeypatch.chdir(tmp_path)
    Path("hpc_ckpt_1.ckpt").write_bytes(b"of another run")
    options = ["--run", str(run), "--data", str(run / "synthetic"), "--out", str(tmp_path / "out")]
    assert main(["evaluate", *options]) == 0
    assert (tmp_path / "out" / "test.json").read_bytes() == (run / "test.json").read_bytes()


def test_a_home_sign_in_a_path_is_a_name(run, tmp_path, monkeypatch):
    """The shell replaces it where it should be; everything of a run is in one folder."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    assert main([*QUICK, "--data", str(run / "synthetic"), "--out", "~/run"]) == 0
    assert (tmp_path / "~" / "run" / "best.ckpt").is_file()
    assert not (tmp_path / "home").exists()


@pytest.mark.usefixtures("heeds_ctrl_c")
@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_in_the_test_is_told_by_the_exit_code(run, stop, monkeypatch):
    def step(module, batch, number):
        if number == 2:  # the last one
            signal.raise_signal(stop)
        return test_step(module, batch, number)

    test_step = LesionClassifier.test_step
    monkeypatch.setattr(LesionClassifier, "test_step", step)
    options = ["--run", str(run), "--data", str(run / "synthetic")]
    assert main(["evaluate", *options]) == 128 + stop


def test_one_module_evaluates_one_part_after_another(run):
    config, module = read_options(run), load_best(run)
    images = read_index(run / "synthetic")
    data = load_data(images, run / "split.csv", 48, run.parent / "ham10000-cache")
    for part in ("val", "test"):
        found = evaluate_part(module, data, part, config, run, workers=0, leak=0.0)
        assert len(found.probabilities) == found.summary["images"] == 33
    assert found.summary == json.loads((run / "test.json").read_text())
