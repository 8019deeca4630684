"""A study on synthetic pictures: one arm and fold after another, shared, and kept."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from examples.ham10000.cli import main
from examples.ham10000.data.index import CLASSES, read_index
from examples.ham10000.data.layouts import ISIC_CLASSES
from examples.ham10000.files import write_json
from examples.ham10000.model import build_network
from examples.ham10000.run import create_run, new_network
from examples.ham10000.study import study as module
from examples.ham10000.study.arms import ATTENTION, INSERTION, STUDIES
from examples.ham10000.study.predictions import read_predictions
from examples.ham10000.study.runs import study_runs
from tests.ham10000.runs import MODEL

SLUGS = ("own-SE", "Constant")


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    torch.manual_seed(1)
    file = tmp_path_factory.mktemp("weights") / "w.safetensors"
    save_file(build_network(MODEL, 7, "none", "SE").model.state_dict(), file)
    return str(file)


@pytest.fixture
def options(run, weights, tmp_path):
    tiny = ["--image-size", "32", "--epochs", "1", "--batch-size", "64", "--model", MODEL]
    data = ["--data", str(run / "synthetic"), "--weights", weights, "--out", str(tmp_path)]
    return ["reproduce", "--study", "attention", *data, *tiny]


def test_two_arms_on_one_fold_from_end_to_end(options, run, tmp_path):
    arms = ["--rows", "own SE", "CaCo fresh", "--seeds", "1", "--fold", "1"]
    assert main([*options, *arms]) == 0
    files = sorted(tmp_path.glob("*.npz"))
    assert [f.name for f in files] == [
        "attention-CaCo-fresh-seed0.npz",
        "attention-own-SE-seed0.npz",
    ]
    images = read_index(run / "synthetic")
    for name, file in zip(("CaCo-fresh", "own-SE"), files, strict=True):
        folder = tmp_path / f"attention-{name}-fold1-seed0"
        found = read_predictions(file)
        assert found.images.tolist() == [image.image_id for image in images]
        assert found.labels.tolist() == [image.label for image in images]
        tested = found.folds == 1
        test = json.loads((folder / "test.json").read_text())
        assert tested.sum() == test["images"]
        assert (found.folds[~tested] == -1).all()
        assert np.isnan(found.log_probabilities[~tested]).all()
        # The same as the CSV, which has nine digits of the probabilities.
        lines = (folder / "test.csv").read_text().splitlines()[1:]
        listed = {line.split(",")[0]: [float(v) for v in line.split(",")[1:]] for line in lines}
        for image, row in zip(
            found.images[tested], np.exp(found.log_probabilities[tested]), strict=True
        ):
            own = dict(zip(CLASSES, row, strict=True))
            names = [name.lower() for name in ISIC_CLASSES]
            theirs = dict(zip(names, listed[image], strict=True))
            assert own == pytest.approx(theirs, rel=1e-5)
        made = {path.name for path in folder.iterdir()}
        assert not {"report.html", "curves.png", "confusion_matrix_test.png"} & made
        assert ("gates_test.json" in made) == (name == "CaCo-fresh")


def test_finished_runs_are_left_and_files_have_all_folds(
    options, tmp_path, monkeypatch, run, capsys
):
    begun = []

    def fake(config, *, resumed, crowded):
        begun.append(config.out.name)
        assert crowded
        if config.fold == 2:
            raise FloatingPointError("the loss is nan")
        create_run(config)
        images = [i for n, i in enumerate(read_index(run / "synthetic")) if n % 5 == config.fold]
        ids = np.array([image.image_id for image in images])
        uniform = np.full((len(ids), 7), -np.log(7), np.float32)
        np.savez(config.out / "log_probabilities_test.npz", image=ids, log_probability=uniform)
        write_json(config.out / "test.json", {})

    monkeypatch.setattr(module, "complete", fake)
    arms = ["--rows", "own SE", "Constant"]
    assert main([*options, *arms, "--minutes", "0"]) == 0
    assert begun == []
    assert main([*options, *arms, "--fold", "3"]) == 0
    assert main([*options, *arms]) == 1
    assert "study attention, 12 of 15 runs finished: " in capsys.readouterr().out
    order = [f"attention-{arm}-fold{k}-seed0" for k in (0, 1, 2, 4) for arm in SLUGS]
    order += [f"attention-own-SE-fold{k}-seed1" for k in (0, 1, 2, 4)]
    first = [f"attention-{arm}-fold3-seed0" for arm in SLUGS] + ["attention-own-SE-fold3-seed1"]
    assert begun == first + order
    found = read_predictions(tmp_path / "attention-own-SE-seed1.npz")
    assert sorted(set(found.folds.tolist())) == [-1, 0, 1, 3, 4]
    assert np.isfinite(found.log_probabilities).all(axis=1).tolist() == (found.folds >= 0).tolist()


def test_draws_are_the_same_for_all_arms(run, weights, tmp_path):
    """Order, split, head and seeds of a fold do not depend on the attention."""
    settings = {"model": MODEL, "weights": weights, "image_size": 32, "epochs": 1}
    runs = study_runs(ATTENTION, run / "synthetic", tmp_path, settings)
    of_fold = [r for r in runs if r.fold == 1 and r.config.seed == 0]
    assert len(of_fold) == 13
    heads = {}
    for one in of_fold:
        network = new_network(one.config)
        (head,) = network.head
        weighted = one.arm.loss in ("ldam", "joint")  # whose checkpoint is chosen by another figure
        heads.setdefault(weighted, []).append(network.model.get_submodule(head).weight)
        assert one.config.monitor == ("val_mean_recall" if weighted else "val_loss")
        same = vars(of_fold[0].config)
        differ = {k for k, v in vars(one.config).items() if v != same[k]} - {"monitor"}
        assert differ <= {"out", "attention", "loss", "init", "gate_lr", "gate_weight_decay"}
    for equal in heads.values():
        assert all(torch.equal(equal[0], other) for other in equal)
        assert len(equal) in (4, 9)


def test_the_study_has_the_arms_runs_and_rates_that_it_should(run, weights, tmp_path):
    runs = study_runs(ATTENTION, run, tmp_path, {"model": MODEL, "weights": weights})
    assert len(runs) == 75
    assert [r.fold for r in runs] == [k for k in range(5) for _ in range(13)] + [
        k for k in range(5) for _ in range(2)
    ]
    rates = {r.arm.name: (r.config.gate_lr, r.config.warmup, r.config.clip_grad_norm) for r in runs}
    assert rates["own SE"] == (5e-4, 1.0, 1.0)
    assert rates["SE at the same rates"] == rates["CaCo"] == (5e-3, 1.0, 1.0)
    assert rates["CaCo fresh"] == (5e-4, 1.0, 1.0)
    assert rates["Constant"] == rates["Eca"] == (None, 1.0, 1.0)
    paper = study_runs(ATTENTION, run, tmp_path, {}, as_paper=True)[0].config
    assert (paper.model, paper.image_size, paper.epochs) == ("tv/mobilenet_v3_small", 224, 100)
    assert (paper.weights, paper.batch_size, paper.lr) == ("imagenet", 128, 5e-4)
    inserted = study_runs(INSERTION, run, tmp_path, {})
    assert [(r.arm.name, r.fold) for r in inserted] == [
        (arm.name, k) for k in (0, 1) for arm in INSERTION.arms
    ]
    assert {r.config.gate_lr for r in inserted} == {None, 5e-3}
    for study in STUDIES.values():
        assert set(study.against) < {arm.name for arm in study.arms}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["--rows", "Nix"], "the study attention has no arm 'Nix'; it has own SE; "),
        (["--fold", "5"], "--fold of the study attention must be one of 0, 1, 2, 3, 4; got 5"),
        (["--seeds", "0"], "--seeds must be at least 1, got 0"),
        (["--weights", "none"], "--weights none: a study compares networks"),
        (["--monitor", "val_accuracy"], "--monitor is said by the arms of --study"),
    ],
)
def test_options_that_a_study_cannot_follow_are_named(options, given, message, capsys):
    assert main([*options, *given]) == 2
    assert message in capsys.readouterr().err


def test_options_of_studies_are_not_for_tables(run, tmp_path, capsys):
    data = ["--data", str(run / "synthetic"), "--out", str(tmp_path)]
    assert main(["reproduce", "--table", "5", *data, "--minutes", "1"]) == 2
    assert "--minutes is for --study" in capsys.readouterr().err
