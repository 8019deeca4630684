"""Trials of rates: what is in no file is done."""

import json
import math

import numpy as np
import pytest
import torch
from filelock import FileLock
from torch import nn

from attnblocks import find_se
from benchmarks.learning import data, work
from benchmarks.learning.__main__ import main
from benchmarks.learning.results import read_trials
from benchmarks.learning.start import is_being_fitted
from benchmarks.warm_start import setup
from benchmarks.warm_start.setup import Arm as Start
from benchmarks.warm_start.setup import Lesions
from examples.ham10000.data.index import Image, read_index
from examples.ham10000.data.splits import draw_split
from examples.ham10000.module import AugmentedOnCPU, LesionClassifier

MODEL, SIZE, EPOCHS = "timm/test_efficientnet", 32, 2
TRIED = ["own SE x1", "own SE x10", "SeCo inherit x10 warm-up 1 clip 1", "Eca fitted x1"]


def lesions(folder, *_):
    """Two images of each class to train on, and two to validate; noise."""
    pixels = np.random.default_rng(0).integers(0, 256, (28, 3, SIZE + 4, SIZE + 4), dtype=np.uint8)
    images = [Image(f"i{i}", f"l{i}", i % 7, folder / f"{i}.jpg") for i in range(28)]
    return Lesions(images, pixels, list(range(14)), list(range(14, 28)))


@pytest.fixture
def tiny(monkeypatch, tmp_path):
    """The options of the command with a small network and few images."""
    monkeypatch.setattr(setup, "MODEL", MODEL)
    monkeypatch.setattr("benchmarks.learning.start.MODEL", MODEL)
    for module in (data, setup, "benchmarks.learning.trial", "benchmarks.warm_start.features"):
        name = module if isinstance(module, str) else module.__name__
        monkeypatch.setattr(f"{name}.IMAGE_SIZE", SIZE)
    monkeypatch.setattr("benchmarks.learning.trial.BATCH_SIZE", 7)
    monkeypatch.setattr("examples.ham10000.run.IMAGES", 4)
    monkeypatch.setattr("attnblocks.fit.warm_start.STEPS", (2, 2))
    monkeypatch.setattr(work, "load_fold", lesions)
    work._load.cache_clear()
    yield ["--data", "none", "--weights", "none", "--out", str(tmp_path), "--epochs", str(EPOCHS)]
    work._load.cache_clear()


def test_trials_are_done_once(tiny, tmp_path, capsys):
    options = [*tiny, "--folds", "0", "--arms", *TRIED]
    main(options)
    files = {file.stem: file for file in tmp_path.glob("fold 0 seed 0/*.json")}
    assert set(files) == set(TRIED)
    found = {name: json.loads(file.read_text()) for name, file in files.items()}
    model = setup.original("none", 0).model
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

    monkeypatch.setattr("examples.ham10000.module.LesionClassifier.training_step", diverges)
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


def test_augmentation_on_the_cpu_changes_no_number(tiny, tmp_path, monkeypatch):
    found = []
    for kind in (AugmentedOnCPU, LesionClassifier):
        monkeypatch.setattr("benchmarks.learning.trial.AugmentedOnCPU", kind)
        out = tmp_path / kind.__name__
        main([*tiny, "--folds", "0", "--arms", "own SE x1", "--out", str(out)])
        found += [trial.epochs for trial in read_trials(out)]
    assert found[0] == found[1]
    original, options = setup.original("none", 0), {"num_classes": 7, "image_size": SIZE}
    module = AugmentedOnCPU(original, nn.CrossEntropyLoss(), **options)
    batch = (torch.zeros(1, 3, 4, 4), torch.zeros(1), torch.zeros(1))
    moved = module.transfer_batch_to_device(batch, torch.device("meta"), 0)
    assert [part.device.type for part in moved] == ["cpu", "meta", "cpu"]
    assert module.to("meta").normalise(batch[0]).device.type == "meta"


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

    def load_all(paths, *_):
        decoded.extend(paths)
        return np.zeros((len(paths), 3, 4, 4), np.uint8)

    monkeypatch.setattr(data, "load_all", load_all)
    monkeypatch.setattr(data, "file_digests", lambda paths: [])
    found = data.load_fold(ham10000, tmp_path, fold=2, seed=0)
    images = read_index(ham10000)
    split = draw_split(images, 0, "lesion", folds=5, fold=2)
    assert not {images[i].path for i in split["test"]} & set(decoded)
    for part in ("train", "val"):
        ids = [found.images[i].image_id for i in getattr(found, part)]
        assert ids == [images[i].image_id for i in split[part]]


def test_masks_lie_on_the_images(monkeypatch, tmp_path):
    monkeypatch.setattr(data, "IMAGE_SIZE", SIZE)
    with pytest.raises(FileNotFoundError, match="leave --masks out"):
        data.show(lesions(tmp_path), tmp_path)
    shown = data.show(lesions(tmp_path), None)
    assert shown.pixels.shape == (14, 3, SIZE, SIZE)
    torch.testing.assert_close(
        shown.pixels, torch.from_numpy(lesions(tmp_path).pixels[14:, :, 2:-2, 2:-2].copy())
    )
