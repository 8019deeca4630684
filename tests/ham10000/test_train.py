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

from examples.ham10000.callbacks import RecomputeBatchNorm
from examples.ham10000.cli import main
from examples.ham10000.config import read_description, read_options
from examples.ham10000.data import synthetic
from examples.ham10000.data.images import load_image
from examples.ham10000.data.index import read_index
from examples.ham10000.data.load import load_data
from examples.ham10000.data.splits import by_lesion
from examples.ham10000.evaluate import evaluate_part, load_best
from examples.ham10000.gates import read_gates
from examples.ham10000.model import build_network
from examples.ham10000.module import LesionClassifier
from examples.ham10000.report import plots
from tests.ham10000.runs import EPOCHS, MODEL, QUICK

pytestmark = pytest.mark.usefixtures("undrawn")


@pytest.fixture
def trained(run, tmp_path):
    """Trains on drawn pictures with some options, and gives the run folder."""

    def train(*options: str, code: int = 0) -> Path:
        out, data = tmp_path / "trained", str(run / "synthetic")
        assert main([*QUICK, "--data", data, "--out", str(out), *options]) == code
        return out

    return train


def log_of(run: Path) -> list[dict[str, float]]:
    with (run / "metrics.csv").open(newline="") as file:
        rows = [*csv.DictReader(file)]
    return [{name: float(value) for name, value in row.items()} for row in rows]


def test_the_run_folder_is_complete(run):
    names = {p.name for p in run.iterdir()}
    files = "best.ckpt config.json confusion_matrix_test.png curves.png description.json gates.json"
    files += " last.ckpt log_probabilities_test.npz metrics.csv report.html split.csv start.ckpt"
    assert names == {*files.split(), "synthetic", "test.csv", "test.json"}
    assert json.loads((run / "config.json").read_text()).keys() == {"options"}
    described = read_description(run)
    assert described["options"]["model"] == MODEL
    resized, cropped = described["evaluation_transform"][:2]
    assert resized == "resize the shorter side to 55 (bilinear, antialias)"
    assert cropped == "centre crop 48x48"
    assert described["leak"] == 0
    assert "Not a medical device" in described["notice"]
    rows, epochs = log_of(run), np.arange(1, EPOCHS + 1)
    assert [row["epoch"] for row in rows] == epochs.tolist()
    expected = 1e-3 * (1 + np.cos(np.pi * epochs / EPOCHS))
    assert [row["lr"] for row in rows] == pytest.approx(expected, abs=1e-9)
    for name in ("curves.png", "confusion_matrix_test.png"):
        with Image.open(run / name) as picture:
            assert np.asarray(picture.convert("L")).std() > 10  # something is drawn


def test_every_figure_of_synthetic_pictures_says_so_given_as_data_too(run, trained, capsys):
    options = ["--batch-size", "64", "--lr", "1e-3", "--schedule", "constant", "--workers", "1"]
    given = trained("--attention", "SE", *options)
    printed = capsys.readouterr().out
    assert re.search(r"Test part, SYNTHETIC .*\n  accuracy +0\.\d+", printed)
    assert "HAM10000 at" not in printed
    assert not (given / "start.ckpt").exists()  # of blocks of the library alone
    assert read_gates(given) is None
    for folder in (run, given):
        assert sum(name.startswith("SYNTHETIC_") for name in log_of(folder)[0]) == 5
        assert len(log_of(folder)[0]) == 7
        assert read_description(folder)["data"].startswith("SYNTHETIC")
        assert read_description(folder)["attribution"] is None
        assert json.loads((folder / "test.json").read_text())["data"].startswith("SYNTHETIC")


def test_the_test_figures_are_those_of_the_best_checkpoint(run):
    """Evaluated once more by hand, from the files of the run alone."""
    checkpoint = torch.load(run / "best.ckpt", weights_only=True)
    report = json.loads((run / "test.json").read_text())
    assert checkpoint["hyper_parameters"]["config"] == read_description(run)
    network = build_network(MODEL, 7, "none", "CaCo")
    state = checkpoint["state_dict"]
    own = {k.removeprefix("model."): v for k, v in state.items() if k.startswith("model.")}
    network.model.load_state_dict(own)
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
    scores = [row["SYNTHETIC_val_mean_recall"] for row in log_of(run)]
    assert checkpoint["epoch"] == int(np.argmax(scores))


def test_the_curves_are_those_of_the_log(run):
    figure = plots.curves(run / "metrics.csv", "SYNTHETIC_", "title")
    drawn = {
        f"{axes.get_ylabel()}: {line.get_label()}": [[*values] for values in line.get_data()]
        for axes in figure.axes
        for line in axes.lines
    }
    columns = {"loss: training": "train_loss", "loss: validation": "val_loss"}
    columns["validation part: accuracy"] = "val_accuracy"
    columns["validation part: mean recall"] = "val_mean_recall"
    epochs = list(range(1, EPOCHS + 1))
    assert drawn == {
        line: [epochs, [row[f"SYNTHETIC_{name}"] for row in log_of(run)]]
        for line, name in columns.items()
    }


@pytest.mark.parametrize("allocate", [torch.empty, np.empty])
def test_too_little_memory_says_what_needs_less(allocate, trained, capsys, monkeypatch):
    monkeypatch.setattr(LesionClassifier, "training_step", lambda *_: allocate(2**50))
    trained(code=2)
    message = capsys.readouterr().err.splitlines()[-1]
    assert message.startswith("error: a smaller --batch-size or --image-size needs less memory: ")


def test_a_run_that_diverges_is_no_success(trained, capsys):
    out = trained("--lr", "1e30", "--epochs", "3", code=1)
    assert "lower --lr" in capsys.readouterr().err
    assert not (out / "test.json").exists()


def test_a_seed_repeats_a_run_to_the_bit(trained, tmp_path):
    def weights(seed: str, name: str) -> dict[str, torch.Tensor]:
        out = trained("--seed", seed).rename(tmp_path / name)
        return torch.load(out / "best.ckpt", weights_only=True)["state_dict"]

    first, again, other = weights("0", "first"), weights("0", "again"), weights("1", "other")
    assert all(torch.equal(first[k], again[k]) for k in first)
    assert not all(torch.equal(first[k], other[k]) for k in first)


def test_synthetic_pictures_depend_on_the_seed_alone(tmp_path, monkeypatch):
    lesions = dict.fromkeys(synthetic.LESIONS, 5)
    monkeypatch.setattr(synthetic, "LESIONS", lesions)
    drawn = []
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        root = tmp_path / name
        synthetic.write_synthetic(root, seed)
        drawn.append({p.relative_to(root): p.read_bytes() for p in root.rglob("*.jpg")})
    first, again, other = drawn
    assert first == again
    assert first.keys() == other.keys()
    assert not any(first[file] == other[file] for file in first)
    images = read_index(tmp_path / "a")
    assert len({i.lesion_id for i in images}) == sum(lesions.values()) < len(images)


@pytest.mark.parametrize(("choice", "count"), [("yes", 2), ("auto", 0)])
def test_statistics_are_recomputed_before_each_validation_if_asked(
    trained, monkeypatch, choice, count
):
    calls = []
    monkeypatch.setattr(RecomputeBatchNorm, "on_validation_start", lambda *args: calls.append(1))
    trained("--epochs", "2", "--recompute-bn", choice)
    assert len(calls) == count


@pytest.mark.parametrize(
    "loss", [*(pytest.param(name, marks=pytest.mark.slow) for name in ("focal", "ldam")), "joint"]
)
def test_every_loss_trains(trained, loss):
    options = ["--loss", loss, "--epochs", "6", "--monitor", "val_loss", "--batch-size", "16"]
    options += ["--class-weights", "balanced"] if loss == "focal" else ["--drw-start", "0.9"]
    out = trained(*options, "--lr", "1e-3", "--recompute-bn", "yes")
    train = [row["SYNTHETIC_train_loss"] for row in log_of(out)]
    assert train[-2] < train[0]
    assert loss == "focal" or train[-1] > train[-2]  # class weights, from the last epoch on
    checkpoint = torch.load(out / "best.ckpt", weights_only=True)
    assert checkpoint["epoch"] == int(np.argmin([r["SYNTHETIC_val_loss"] for r in log_of(out)]))
    assert ("model.classifier.bias" in checkpoint["state_dict"]) == (loss == "focal")


def test_mixed_precision_trains_in_bfloat16_and_the_gradient_is_clipped(trained, monkeypatch):
    seen, norms, forward = [], [], LesionClassifier.forward

    def record(self, pixels):
        logits = forward(self, pixels)
        seen.append((self.training, self.trainer.testing, logits.dtype))
        return logits

    def measure(self, optimizer):
        grads = [p.grad for group in optimizer.param_groups for p in group["params"]]
        if grads[0] is not None:  # before the first step there are none
            norms.append(float(torch.stack([g.norm() for g in grads]).norm()))

    monkeypatch.setattr(LesionClassifier, "forward", record)
    monkeypatch.setattr(LesionClassifier, "on_before_zero_grad", measure)
    trained("--precision", "bf16-mixed", "--clip-grad-norm", "0.01")
    assert {dtype for training, _, dtype in seen if training} == {torch.bfloat16}
    assert {dtype for _, testing, dtype in seen if testing} == {torch.float32}
    assert max(norms) == pytest.approx(0.01, rel=1e-3)


def test_the_validation_loss_is_that_of_the_whole_part_without_class_weights(
    run, trained, tmp_path
):
    """Batches of few classes: weights that each batch divides by their own sum would cancel."""
    options = ["--class-weights", "balanced", "--batch-size", "16", "--image-size", "64"]
    out = trained(*options, "--lr", "1e-5")
    options = ["--data", str(run / "synthetic"), "--split", "val", "--out", str(tmp_path / "val")]
    assert main(["evaluate", "--run", str(out), *options]) == 0
    split = csv.DictReader((out / "split.csv").open())
    truth = {row["image_id"]: row["dx"].upper() for row in split}
    rows = csv.DictReader((tmp_path / "val" / "val.csv").open())
    expected = -np.mean([np.log(float(row[truth[row["image"]]])) for row in rows])
    (row,) = log_of(out)
    assert row["SYNTHETIC_val_loss"] == pytest.approx(expected, rel=1e-5)


def test_any_part_of_a_run_is_evaluated_and_one_after_another(run, tmp_path, capsys):
    options = ["--run", str(run), "--data", str(run / "synthetic"), "--split", "val"]
    command = ["evaluate", *options, "--out", str(tmp_path / "val")]
    assert main(command) == 0
    summary = json.loads((tmp_path / "val" / "val.json").read_text())
    best = max(row["SYNTHETIC_val_mean_recall"] for row in log_of(run))
    assert summary["mean_recall"] == pytest.approx(best)
    assert "Val part, SYNTHETIC" in capsys.readouterr().out
    assert main(command) == 2
    assert "exists: name a new folder" in capsys.readouterr().err
    config, module = read_options(run), load_best(run)
    images = read_index(run / "synthetic")
    data = load_data(images, run / "split.csv", 48, run.parent / "ham10000-cache")
    for part, expected in (("val", summary), ("test", json.loads((run / "test.json").read_text()))):
        found = evaluate_part(module, data, part, config, run, workers=0, leak=0.0)
        assert found.summary == expected
        assert len(found.probabilities) == 33


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


def test_a_home_sign_in_a_path_is_a_name(trained, tmp_path, monkeypatch):
    """The shell replaces it where it should be; everything of a run is in one folder."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    trained("--out", "~/run")
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
