"""A study on synthetic pictures: one arm and fold after another, shared, kept, and reported."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from sklearn.metrics import accuracy_score, log_loss, recall_score, roc_auc_score

from examples.ham10000.cli import main
from examples.ham10000.data.index import CLASSES, read_index
from examples.ham10000.data.layouts import ISIC_CLASSES
from examples.ham10000.data.splits import draw_split
from examples.ham10000.files import write_json
from examples.ham10000.model import build_network, new_network
from examples.ham10000.run import create_run
from examples.ham10000.study.arms import ATTENTION, INSERTION, STUDIES
from examples.ham10000.study.measures import MEASURES, measure
from examples.ham10000.study.predictions import read_predictions
from examples.ham10000.study.runs import study_runs
from examples.ham10000.study.study import run_study
from tests.ham10000.runs import MODEL

RESULTS = Path(__file__).parents[3] / "docs" / "results" / "insertion"

ON_LESIONS = {0: (0.2, None, 0.3), 1: (0.1, 0.5), 2: (None,)}
"""How much of the attention is on the lesion, at each site, in the runs of a fold."""


@pytest.fixture(scope="module")
def settings(tmp_path_factory):
    """Of a small network."""
    torch.manual_seed(1)
    file = tmp_path_factory.mktemp("weights") / "w.safetensors"
    save_file(build_network(MODEL, 7, "none", "SE").model.state_dict(), file)
    return {"model": MODEL, "weights": str(file), "image_size": 32, "epochs": 1}


@pytest.fixture
def command(run, settings, tmp_path):
    given = {**settings, "data": run / "synthetic", "out": tmp_path, "batch_size": 64}
    options = [f"--{name.replace('_', '-')}={value}" for name, value in given.items()]
    return ["reproduce", "--study", "attention", *options]


@pytest.fixture
def faked(run, settings, tmp_path):
    """Runs a study without training: guesses are random. Fold 2 fails where it is asked to."""
    generator, images = np.random.default_rng(0), read_index(run / "synthetic")

    def study(rows, *, failing=(), **options):
        begun = []

        def begin(config, *, resumed):
            begun.append(config.out.name)
            if config.fold in failing:
                raise FloatingPointError("the loss is nan")
            create_run(config)
            description = json.loads((config.out / "config.json").read_text())
            description |= dict.fromkeys(("data", "attribution", "notice"), "HAM10000")
            write_json(config.out / "config.json", {**description, "parameters": 7, "versions": {}})
            tested = draw_split(images, 0, "lesion", 5, config.fold)["test"]
            ids = np.array([images[i].image_id for i in tested])
            logs = torch.from_numpy(generator.normal(size=(len(ids), 7))).log_softmax(1)
            file = config.out / "log_probabilities_test.npz"
            np.savez(file, image=ids, log_probability=logs.float().numpy())
            (config.out / "metrics.csv").write_text("epoch,val_loss,val_mean_recall\n1,0.5,0.4\n")
            sites = [{"on_where": share} for share in ON_LESIONS.get(config.fold, ())]
            if sites:
                report = {"sites": sites, "area": 0.2, "marked": 3}
                write_json(config.out / "gates_test.json", report)
            write_json(config.out / "test.json", {"data": "HAM10000"})

        fixed = {"data": run / "synthetic", "study": "attention", "out": tmp_path, "begin": begin}
        return run_study(**fixed, rows=rows, **settings, **options), begun

    return study


def test_two_arms_on_one_fold_from_end_to_end(command, run, tmp_path):
    arms = ["--rows", "own SE", "CaCo fresh", "--seeds", "1", "--fold", "1"]
    assert main([*command, *arms]) == 0
    slugs = ["CaCo-fresh", "own-SE"]
    files = sorted(tmp_path.glob("*.npz"))
    assert [f.name for f in files] == [f"attention-{slug}-seed0.npz" for slug in slugs]
    images = read_index(run / "synthetic")
    for slug, file in zip(slugs, files, strict=True):
        folder = tmp_path / f"attention-{slug}-fold1-seed0"
        found = read_predictions(file)
        assert found.images.tolist() == [image.image_id for image in images]
        assert found.labels.tolist() == [image.label for image in images]
        tested = found.folds == 1
        assert tested.sum() == json.loads((folder / "test.json").read_text())["images"]
        assert (found.folds[~tested] == -1).all()
        assert np.isnan(found.log_probabilities[~tested]).all()
        # The same as the CSV, which has nine digits of the probabilities.
        lines = (folder / "test.csv").read_text().splitlines()[1:]
        listed = {line.split(",")[0]: [float(v) for v in line.split(",")[1:]] for line in lines}
        order = [[name.lower() for name in ISIC_CLASSES].index(name) for name in CLASSES]
        theirs = [[listed[image][i] for i in order] for image in found.images[tested]]
        np.testing.assert_allclose(np.exp(found.log_probabilities[tested]), theirs, rtol=1e-5)
        made = {path.name for path in folder.iterdir()}
        assert not {"report.html", "curves.png", "confusion_matrix_test.png"} & made  # crowded
        assert ("gates_test.json" in made) == (slug == "CaCo-fresh")


def test_finished_runs_are_left_and_files_have_all_folds(faked, tmp_path):
    arms = ["own SE", "Constant"]
    assert faked(arms, minutes=0)[1] == []
    _, first = faked(arms, fold=[3])
    outcome, others = faked(arms, failing=[2])
    assert outcome.name == "study attention, 12 of 15 runs finished"
    assert outcome.failures == {
        f"{arm}, fold 2, seed {seed}": "the loss is nan"
        for arm, seed in (("own SE", 0), ("Constant", 0), ("own SE", 1))
    }
    begun = [
        [f"attention-{slug}-fold{k}-seed0" for k in folds for slug in ("own-SE", "Constant")]
        + [f"attention-own-SE-fold{k}-seed1" for k in folds]
        for folds in ([3], [0, 1, 2, 4])
    ]
    assert [first, others] == begun
    found = read_predictions(tmp_path / "attention-own-SE-seed1.npz")
    assert sorted(set(found.folds.tolist())) == [-1, 0, 1, 3, 4]
    assert np.isfinite(found.log_probabilities).all(axis=1).tolist() == (found.folds >= 0).tolist()


def test_what_has_been_run_is_reported(faked, run, tmp_path):
    faked(["own SE"], seeds=1)
    assert not (tmp_path / "attention.md").exists()
    outcome, _ = faked(["SE at the same rates"], seeds=1)
    names = ["attention-SE-at-the-same-rates-seed0.npz", "attention.json"]
    assert [file.name for file in outcome.files] == [*names, "attention.md", "attention.png"]
    text = (tmp_path / "attention.md").read_text()
    assert f"{len(read_index(run / 'synthetic'))} images of" in text
    absent = "Constant, CaCo, SeCo, CBAM, CoordAtt, Eca, CaCo fresh, own SE, joint"
    assert f"Not run yet: {absent}" in text
    facts = json.loads((tmp_path / "attention.json").read_text())
    assert facts["arms"].keys() == {"own SE", "SE at the same rates"}
    assert facts["arms"]["own SE"]["chosen_epochs"] == [1] * 5
    assert str(tmp_path) not in json.dumps(facts)
    # A fifth of the image is lesion; three images in each of two networks have a mask.
    looking = facts["arms"]["own SE"]["on_lesions"]
    times = looking.pop("times_area")
    assert looking == {"networks": 2, "images": 6, "area": 0.2}
    assert times == pytest.approx({"median": 1.25, "least": 0.5, "most": 2.5})
    assert "| own SE | 2 | 6 | 0.200 | 1.250 | 0.500 | 2.500 |" in text


def test_published_tables_are_made_again_to_the_letter(tmp_path, capsys):
    for file in [*RESULTS.glob("*.npz"), RESULTS / "insertion.json"]:
        shutil.copy(file, tmp_path)
    assert main(["reproduce", "--study", "insertion", "--report", str(tmp_path)]) == 0
    assert str(tmp_path / "insertion.md") in capsys.readouterr().out
    assert (tmp_path / "insertion.md").read_text() == (RESULTS / "insertion.md").read_text()
    assert (tmp_path / "insertion.png").stat().st_size > 10_000


def test_draws_are_the_same_for_all_arms(run, settings, tmp_path):
    """Order, split, head and seeds of a fold do not depend on the attention."""
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


def test_the_study_has_the_arms_runs_and_rates_that_it_should(run, settings, tmp_path):
    given = {name: settings[name] for name in ("model", "weights")}
    runs = study_runs(ATTENTION, run, tmp_path, given)
    assert [r.fold for r in runs] == [k for n in (13, 2) for k in range(5) for _ in range(n)]
    rates = {r.arm.name: (r.config.gate_lr, r.config.warmup, r.config.clip_grad_norm) for r in runs}
    assert rates["own SE"] == (5e-4, 1.0, 1.0)
    assert rates["SE at the same rates"] == rates["CaCo"] == (5e-3, 1.0, 1.0)
    assert rates["CaCo fresh"] == (5e-4, 1.0, 1.0)
    assert rates["Constant"] == rates["Eca"] == (None, 1.0, 1.0)
    paper = study_runs(ATTENTION, run, tmp_path, {}, as_paper=True)[0].config
    assert (paper.model, paper.image_size, paper.epochs) == ("tv/mobilenet_v3_small", 224, 100)
    assert (paper.weights, paper.batch_size, paper.lr) == ("imagenet", 128, 5e-4)
    inserted = study_runs(INSERTION, run, tmp_path, {})
    names = [arm.name for arm in INSERTION.arms]
    assert [(r.arm.name, r.fold) for r in inserted] == [(n, k) for k in range(5) for n in names]
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
        (["--report", "DIR"], "leave out --"),
    ],
)
def test_options_that_a_study_cannot_follow_are_named(command, given, message, capsys):
    assert main([*command, *given]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--study attention --report DIR", "attention.json is not of the study attention"),
        ("--study attention --report DIR/none", "no DIR/none/attention.json"),
        ("--study insertion --report DIR", "no predictions of the arm 'as it is'"),
        ("--table 5 --report DIR", "--report is for --study"),
        ("--table 5 --data DIR --minutes 1", "--minutes is for --study"),
        ("--table 5", "give the HAM10000 folder: --data DIR"),
    ],
)
def test_what_cannot_be_written(options, message, tmp_path, capsys):
    shutil.copy(RESULTS / "insertion.json", tmp_path)
    write_json(tmp_path / "attention.json", {"study": "insertion", "arms": {}})
    given = [option.replace("DIR", str(tmp_path)) for option in options.split()]
    assert main(["reproduce", *given]) == 2
    assert message.replace("DIR/", f"{tmp_path}/") in capsys.readouterr().err


def test_each_draw_has_the_figures_of_its_images():
    """With ties, by scikit-learn on the images that are drawn."""
    generator = np.random.default_rng(0)
    labels = (np.arange(140) % 7).astype(np.int8)
    scores = np.round(generator.normal(size=(140, 7)) + 2 * (labels[:, None] == np.arange(7)))
    scores[3] = [0, 0, 0, -20, 0, 0, 0]
    logs = (scores - np.log(np.exp(scores).sum(axis=1, keepdims=True))).astype(np.float32)
    times = generator.integers(0, 4, (140, 9)).astype(np.int16)
    found = measure(logs, labels, times)
    assert tuple(found) == MEASURES
    for draw in range(9):
        rows = np.repeat(np.arange(140), times[:, draw])
        own, truth = logs[rows].astype(float), labels[rows]
        probabilities = np.exp(own) / np.exp(own).sum(axis=1, keepdims=True)
        top, guess = probabilities.max(axis=1), own.argmax(axis=1)
        bounded = np.maximum(np.exp(own)[np.arange(len(rows)), truth], 1e-3)
        bins = (15 * top).astype(int)
        gaps = [abs(top[bins == b].sum() - (guess == truth)[bins == b].sum()) for b in range(15)]
        expected = {
            "log loss": log_loss(truth, probabilities),
            "bounded log loss": -np.log(bounded).mean(),
            "AUC": np.mean([roc_auc_score(truth == c, own[:, c]) for c in range(7)]),
            "mean recall": recall_score(truth, guess, average="macro"),
            "corrected recall": recall_score(truth, guess, average="macro"),  # as common each
            "accuracy": accuracy_score(truth, guess),
            "calibration error": sum(gaps) / len(rows),
        }
        assert {name: found[name][draw] for name in MEASURES} == pytest.approx(expected, abs=1e-6)
    with pytest.raises(ValueError, match="no images of nv: every class needs some"):
        measure(logs[labels != 5], labels[labels != 5], times[labels != 5])
