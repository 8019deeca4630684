"""Trials of rates: what is in no file is done."""

import json
import math

import numpy as np
import pytest
import timm
import torch
from filelock import FileLock
from PIL import Image as Picture
from safetensors.torch import save_file
from torch.nn import functional as F
from torchvision.transforms.v2 import functional as TF

from attnblocks import find_se
from benchmarks.learning import data, work
from benchmarks.learning.__main__ import main
from benchmarks.learning.module import Classifier, augmentation
from benchmarks.learning.results import read_trials
from benchmarks.learning.start import is_being_fitted
from benchmarks.lesions import Image, Lesions, read_index, split
from benchmarks.warm_start import setup
from benchmarks.warm_start.setup import Arm as Start

MODEL, SIZE, EPOCHS = "timm/test_efficientnet", 32, 2
TRIED = ["own SE x1", "own SE x10", "SeCo inherit x10 warm-up 1 clip 1", "Eca fitted x1"]


def lesions(folder, *_):
    """Two images of each class to train on, and two to validate; noise."""
    pixels = np.random.default_rng(0).integers(0, 256, (28, 3, SIZE + 4, SIZE + 4), dtype=np.uint8)
    images = [Image(f"i{i}", f"l{i}", f"l{i}", i % 7, folder / f"{i}.jpg") for i in range(28)]
    return Lesions(images, pixels, list(range(14)), list(range(14, 28)))


@pytest.fixture
def tiny(monkeypatch, tmp_path):
    """The options of the command with a small network and few images."""
    monkeypatch.setattr(setup, "MODEL", MODEL)
    monkeypatch.setattr("benchmarks.learning.start.MODEL", MODEL)
    for name in ("learning.data", "warm_start.setup", "learning.trial"):
        monkeypatch.setattr(f"benchmarks.{name}.IMAGE_SIZE", SIZE)
    monkeypatch.setattr("benchmarks.learning.trial.BATCH_SIZE", 7)
    monkeypatch.setattr("benchmarks.warm_start.features.FITTED", 4)
    monkeypatch.setattr("attnblocks.fit.warm_start.STEPS", (2, 2))
    monkeypatch.setattr(work, "load_fold", lesions)
    work._load.cache_clear()
    weights = tmp_path / "weights.safetensors"
    save_file(timm.create_model(MODEL.removeprefix("timm/")).state_dict(), weights)
    yield [
        "--data",
        "none",
        "--weights",
        str(weights),
        "--out",
        str(tmp_path),
        "--epochs",
        str(EPOCHS),
    ]
    work._load.cache_clear()


def test_trials_are_done_once(tiny, tmp_path, capsys):
    options = [*tiny, "--folds", "0", "--arms", *TRIED]
    main(options)
    files = {file.stem: file for file in tmp_path.glob("fold 0 seed 0/*.json")}
    assert set(files) == set(TRIED)
    found = {name: json.loads(file.read_text()) for name, file in files.items()}
    model = setup.original(tmp_path / "weights.safetensors", 0).model
    sites = [site.name for site in find_se(model)]
    for name, trial in found.items():
        assert [epoch["epoch"] for epoch in trial["epochs"]] == [1, 2]
        assert all(math.isfinite(epoch["val_loss"]) for epoch in trial["epochs"])
        assert (trial["arm"], trial["fold"], trial["seed"], trial["error"]) == (name, 0, 0, None)
        assert trial["seconds"] > 0
        assert trial["device"]
        expected = [] if name.startswith("own") else sites
        assert list(trial["before"]) == list(trial["after"]) == expected
    assert found["own SE x1"]["epochs"] != found["own SE x10"]["epochs"]
    seco = found["SeCo inherit x10 warm-up 1 clip 1"]
    assert seco["after"][sites[0]]["spread"].keys() == {"channel", "rows", "columns"}
    assert seco["before"] != seco["after"]
    # Only what is missing is done again, and to the same numbers.
    times = {name: file.stat().st_mtime_ns for name, file in files.items()}
    start = tmp_path / "fold 0 seed 0" / "Eca published fitted.safetensors"
    fitted = start.stat().st_mtime_ns
    files["Eca fitted x1"].unlink()
    capsys.readouterr()
    main(options)
    assert "SeCo" not in capsys.readouterr().out
    again = json.loads(files["Eca fitted x1"].read_text())
    assert again["epochs"] == found["Eca fitted x1"]["epochs"]
    del times["Eca fitted x1"]
    assert times == {name: files[name].stat().st_mtime_ns for name in times}
    assert start.stat().st_mtime_ns == fitted
    assert "| Eca fitted x1 |" in (tmp_path / "report.md").read_text()
    with pytest.raises(SystemExit):
        main([*options, "--epochs", "3"])
    assert "has trials of 2 epochs, not 3" in capsys.readouterr().err


def test_a_loss_that_is_not_finite_is_a_result(tiny, tmp_path, monkeypatch):
    def diverges(self, batch, batch_idx):
        raise FloatingPointError("the loss is nan in epoch 1")

    monkeypatch.setattr("benchmarks.learning.module.Classifier.training_step", diverges)
    main([*tiny, "--folds", "0", "--arms", "own SE x1"])
    (trial,) = read_trials(tmp_path)
    assert trial.error == "the loss is nan in epoch 1"
    assert trial.losses == [math.inf] * EPOCHS
    assert "| own SE x1 | not finite |" in (tmp_path / "report.md").read_text()


def test_one_trial_that_fails_keeps_no_other(tiny, tmp_path, monkeypatch, capsys):
    def fails(network, *_, **__):
        raise RuntimeError("out of memory")

    options = [*tiny, "--folds", "0", "--arms", "own SE x1", "Eca fitted x1"]
    with monkeypatch.context() as broken:
        broken.setattr("benchmarks.learning.start.fit", fails)
        with pytest.raises(SystemExit, match="1"):
            main(options)
    assert "Eca fitted x1.failed" in capsys.readouterr().err
    assert "out of memory" in (tmp_path / "fold 0 seed 0" / "Eca fitted x1.failed").read_text()
    assert [trial.arm for trial in read_trials(tmp_path)] == ["own SE x1"]
    main(options)  # tries it again
    assert len(read_trials(tmp_path)) == 2


def test_a_trial_waits_for_the_fit_of_another_process(tiny, tmp_path, monkeypatch):
    """The others are done first, and then the one that waited."""
    folder = tmp_path / "fold 0 seed 0"
    folder.mkdir()
    lock = FileLock(folder / "Eca published fitted.fit.lock")
    lock.acquire()
    assert is_being_fitted(Start("Eca"), folder)
    assert not is_being_fitted(Start("Eca", init="inherit"), folder)
    waited = []

    def sleep(seconds):
        waited.extend(trial.arm for trial in read_trials(tmp_path))
        lock.release()

    monkeypatch.setattr(work.time, "sleep", sleep)
    main([*tiny, "--folds", "0", "--arms", "Eca fitted x1", "own SE x1"])
    assert waited == ["own SE x1"]
    assert {trial.arm for trial in read_trials(tmp_path)} == {"own SE x1", "Eca fitted x1"}


def test_augmented_images_are_crops_flips_and_turns_with_at_most_one_change_of_colour():
    """Told by which of all that are possible each is; each of 13 colours is as likely."""
    torch.manual_seed(0)
    image = torch.randint(60, 180, (3, 9, 9), dtype=torch.uint8)
    crops = [image[:, i : i + 8, j : j + 8] for i in (0, 1) for j in (0, 1)]
    turned = [torch.rot90(crop, k, (1, 2)) for crop in crops for k in range(4)]
    turned += [crop.flip(2) for crop in turned]
    adjust = (TF.adjust_brightness, TF.adjust_contrast, TF.adjust_saturation)
    changed = [c(t, f) for t in turned for c in adjust for f in (0.8, 0.9, 1.1, 1.2)]
    known = torch.stack([*turned, *changed]).short()
    draw, found = augmentation(8), []
    for _ in range(1300):
        least, place = (known - draw(image)).abs().amax((1, 2, 3)).min(0)
        assert least <= 1  # the mean of a contrast is rounded
        found.append(int(place))
    assert {i if i < 32 else (i - 32) // 12 for i in found} == set(range(32))
    assert np.mean(np.array(found) < 32) == pytest.approx(1 / 13, abs=0.03)
    counts = np.bincount([(i - 32) % 12 for i in found if i >= 32], minlength=12)
    assert counts == pytest.approx(np.full(12, 100), rel=0.45)


def test_rates_losses_and_figures_of_a_trial(tiny, tmp_path, monkeypatch):
    """Warm-up and cosine step by step; the last figures anew from the network at the end."""
    rates, kept = [], []

    def step(self, batch, batch_idx, before=Classifier.training_step):
        kept.append(self)
        rates.append([group["lr"] for group in self.optimizers().param_groups])
        return before(self, batch, batch_idx)

    monkeypatch.setattr(Classifier, "training_step", step)
    main([*tiny, "--folds", "0", "--arms", "SeCo inherit x10 warm-up 1 clip 1", "own SE x1"])
    own, seco = (list(map(max, rates[i : i + 4])) for i in (0, 4))
    assert own == pytest.approx([5e-4 * (1 + math.cos(math.pi * i / 4)) / 2 for i in range(4)])
    assert seco == pytest.approx([5e-3 / 3, 5e-3 * 2 / 3, 5e-3, 5e-3 / 2])
    module = kept[0].cpu().eval()
    shown = lesions(tmp_path)
    pixels = torch.from_numpy(shown.pixels[14:, :, 2:-2, 2:-2].copy())
    labels = torch.tensor([image.label for image in shown.images[14:]])
    with torch.no_grad():
        logits = module(pixels)
    last = next(t for t in read_trials(tmp_path) if t.arm == "own SE x1").epochs[-1]
    right = logits.argmax(1) == labels
    assert last["val_loss"] == pytest.approx(F.cross_entropy(logits, labels).item(), rel=1e-4)
    assert last["val_accuracy"] == pytest.approx(right.float().mean().item())
    recalls = [right[labels == c].float().mean().item() for c in range(7)]
    assert last["val_mean_recall"] == pytest.approx(np.mean(recalls))


def test_nothing_is_begun_when_the_time_is_over(tiny, tmp_path):
    main([*tiny, "--minutes", "0", "--arms", "own*"])
    assert read_trials(tmp_path) == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--folds", "0", "5"], "argument --folds: must be 0 to 4, got 5"),
        (["--epochs", "0"], "argument --epochs: must be at least 1, got 0"),
        (["--processes", "0"], "argument --processes: must be at least 1, got 0"),
        (["--arms", "Nix*"], "argument --arms: 'Nix*' fits none of"),
        (["--against", "CaCo"], "argument --against: 'CaCo' is none of ['CBAM fitted x1'"),
        (["--epochs", "1"], "must be above the warm-up of 'SeCo inherit x10 warm-up 1'"),
    ],
)
def test_options_that_cannot_be_followed_are_named(tiny, options, message, capsys):
    with pytest.raises(SystemExit, match="2"):
        main([*tiny, *options])
    assert message in capsys.readouterr().err


def test_the_test_part_of_a_fold_is_not_decoded(ham10000, monkeypatch, tmp_path):
    decoded = []

    def load_all(images, *_):
        decoded.extend(images)
        return np.zeros((len(images), 3, 4, 4), np.uint8)

    monkeypatch.setattr(data, "load_all", load_all)
    found = data.load_fold(ham10000, tmp_path, fold=2, seed=0)
    images = read_index(ham10000)
    parts = split(images, 0, fold=2)
    assert not {images[i] for i in parts["test"]} & set(decoded)
    for part in ("train", "val"):
        own = [found.images[i] for i in getattr(found, part)]
        assert own == [images[i] for i in parts[part]]


def test_masks_lie_on_the_images(monkeypatch, tmp_path):
    monkeypatch.setattr(data, "IMAGE_SIZE", SIZE)
    with pytest.raises(FileNotFoundError, match="leave --masks out"):
        data.show(lesions(tmp_path), tmp_path)
    shown = data.show(lesions(tmp_path), None)
    assert shown.pixels.shape == (14, 3, SIZE, SIZE)
    torch.testing.assert_close(
        shown.pixels, torch.from_numpy(lesions(tmp_path).pixels[14:, :, 2:-2, 2:-2].copy())
    )
    mask = np.zeros((40, 60), np.uint8)
    mask[:20] = 255
    (tmp_path / "masks").mkdir()
    for i in (15, 20):
        Picture.fromarray(mask).save(tmp_path / "masks" / f"i{i}_segmentation.png")
    shown = data.show(lesions(tmp_path), tmp_path)
    assert shown.having == [1, 6]
    assert shown.masks.shape == (2, SIZE, SIZE)
    assert shown.masks[:, : SIZE // 2 - 1].all()
    assert not shown.masks[:, SIZE // 2 + 1 :].any()
