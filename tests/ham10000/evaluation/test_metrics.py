"""Every figure against scikit-learn, the ISIC scoring program, or counts made by hand."""

import json
import re
import sys

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn import metrics as sk

from examples.ham10000.metrics import HEADLINES, Predictions, figures, summarise
from tests.ham10000.children import collect_in_two
from tests.ham10000.isic import isic_score

NAMES = ["AKIEC", "BCC", "BKL", "DF", "MEL", "NV", "VASC"]


def some_labels(generator, number=500):
    frequent = generator.choice(7, number - 7, p=[0.04] * 5 + [0.76, 0.04])
    return np.concatenate([np.arange(7), frequent])


def some_probabilities(generator, labels):
    logits = 2 * generator.normal(size=(len(labels), 7)) + 2 * np.eye(7)[labels]
    return np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)


def summary_of(probabilities, labels, **options):
    """Of images that each show a lesion of their own."""
    lesions = [f"L{number}" for number in range(len(labels))]
    return summarise(torch.tensor(probabilities), torch.tensor(labels), lesions, **options)


def specificity(labels, predicted, number):
    return sk.recall_score(labels != number, predicted != number)


def headline(name, labels, predicted):
    """A headline figure from scikit-learn."""
    recalls = sk.recall_score(labels, predicted, average=None, labels=range(7), zero_division=0)
    pairs = [(recalls[c], specificity(labels, predicted, c)) for c in range(7)]
    return {
        "accuracy": lambda: sk.accuracy_score(labels, predicted),
        "mean_recall": lambda: sk.balanced_accuracy_score(labels, predicted),
        "bacc_formula": lambda: np.mean(pairs),
        "macro_f1": lambda: sk.f1_score(labels, predicted, average="macro", zero_division=0),
    }[name]()


@pytest.fixture(scope="module")
def outcome():
    generator = np.random.default_rng(0)
    labels = some_labels(generator)
    probabilities = some_probabilities(generator, labels)
    return labels, probabilities, summary_of(probabilities, labels)


@pytest.mark.parametrize("name", HEADLINES)
def test_headline_figures_are_those_of_scikit_learn(outcome, name):
    labels, probabilities, summary = outcome
    expected = headline(name, labels, probabilities.argmax(1))
    assert summary[name] == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("name", HEADLINES)
def test_headline_figures_of_a_batch_of_counts(name):
    generator = np.random.default_rng(1)
    labels = [some_labels(generator, 60) for _ in range(6)]
    predicted = [generator.choice(5, 60) for _ in range(6)]  # never class 5 or 6
    counts = [
        sk.confusion_matrix(*pair, labels=range(7)) for pair in zip(labels, predicted, strict=True)
    ]
    batch = torch.from_numpy(np.stack(counts)).view(2, 3, 7, 7)
    expected = [headline(name, *pair) for pair in zip(labels, predicted, strict=True)]
    np.testing.assert_allclose(figures(batch)[name], np.reshape(expected, (2, 3)), rtol=1e-9)


def test_figures_of_every_class_are_one_against_rest(outcome):
    labels, probabilities, summary = outcome
    predicted = probabilities.argmax(1)
    assert list(summary["per_class"]) == NAMES
    for number, row in enumerate(summary["per_class"].values()):
        tn, fp, fn, tp = sk.confusion_matrix(labels == number, predicted == number).ravel()
        assert row == pytest.approx(
            {
                "images": (labels == number).sum(),
                "sensitivity": tp / (tp + fn),
                "specificity": tn / (tn + fp),
                "bacc_formula": (tp / (tp + fn) + tn / (tn + fp)) / 2,
                "f1": sk.f1_score(labels == number, predicted == number),
                "roc_auc": sk.roc_auc_score(labels == number, probabilities[:, number]),
            }
        )


def test_ties():
    """Probabilities in steps of 1/8: many images tie in a class, many classes in an image."""
    generator = np.random.default_rng(2)
    labels = some_labels(generator, 200)
    weights = (some_probabilities(generator, labels) + 1 / 7) / 2
    probabilities = np.stack([generator.multinomial(8, row) for row in weights]) / 8
    summary = summary_of(probabilities, labels)
    expected = [sk.roc_auc_score(labels == c, probabilities[:, c]) for c in range(7)]
    areas = [row["roc_auc"] for row in summary["per_class"].values()]
    assert areas == pytest.approx(expected, abs=1e-6)
    top = probabilities.max(axis=1, keepdims=True)
    assert ((probabilities == top).sum(axis=1) > 1).sum() > 20
    assert summary["accuracy"] == sk.accuracy_score(labels, probabilities.argmax(1))  # the first


def test_areas_tell_apart_what_float32_cannot():
    """Each class has one image that is nearly certain, and one that is even more so."""
    labels = np.repeat(np.arange(7), 2)
    small = np.where(np.arange(14) % 2, 1e-12, 1e-9)[:, None]
    probabilities = np.where(np.eye(7)[np.roll(labels, 1)] == 1, 1 - 6 * small, small)
    summary = summary_of(probabilities, labels)
    expected = [sk.roc_auc_score(labels == c, probabilities[:, c]) for c in range(7)]
    areas = [row["roc_auc"] for row in summary["per_class"].values()]
    assert areas == pytest.approx(expected, abs=1e-6)
    single = [
        sk.roc_auc_score(labels == c, probabilities[:, c].astype(np.float32)) for c in range(7)
    ]
    assert single != pytest.approx(expected, abs=1e-3)


def test_a_rounding_error_above_1_changes_nothing():
    generator = np.random.default_rng(3)
    labels = some_labels(generator, 100)
    probabilities = some_probabilities(generator, labels)
    probabilities[0] = np.eye(7)[0]
    expected = summary_of(probabilities, labels)
    probabilities[0, 0] += 1e-7
    assert summary_of(probabilities, labels) == expected


def calibration_error(probabilities, labels):
    confidence, hit = probabilities.max(axis=1), probabilities.argmax(axis=1) == labels
    bins = np.minimum(np.floor(confidence * 15), 14)
    gaps = [(hit[bins == b].mean() - confidence[bins == b].mean(), b) for b in np.unique(bins)]
    return sum(abs(gap) * (bins == b).mean() for gap, b in gaps)


def test_calibration_error(outcome):
    labels, probabilities, summary = outcome
    expected = calibration_error(probabilities, labels)
    assert summary["calibration_error"] == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_certain_images_fall_in_the_last_bin(dtype):
    """Half of the images have confidence 1 and are wrong, half have 0.95 and are right."""
    labels = np.arange(7).repeat(2)
    probabilities = np.eye(7)[labels]
    probabilities[::2] = np.roll(probabilities[::2], 1, axis=1)
    probabilities[1::2] = 0.95 * probabilities[1::2] + 0.05 * np.roll(probabilities[1::2], 1, 1)
    summary = summary_of(probabilities.astype(dtype), labels)
    assert summary["calibration_error"] == pytest.approx(0.975 - 0.5, abs=1e-6)


def test_columns_of_the_confusion_matrix_are_the_true_class(outcome):
    labels, probabilities, summary = outcome
    predicted = probabilities.argmax(1)
    matrix = np.array(summary["confusion_matrix"])
    np.testing.assert_allclose(matrix.sum(axis=0), 1)
    np.testing.assert_allclose(matrix.T, sk.confusion_matrix(labels, predicted, normalize="true"))
    np.testing.assert_array_equal(
        np.array(summary["confusion_counts"]).T, sk.confusion_matrix(labels, predicted)
    )
    assert summary["classes"] == NAMES


def test_intervals_are_those_of_a_plain_bootstrap_over_lesions():
    generator = np.random.default_rng(4)
    first = some_labels(generator, 120)
    lesions = np.concatenate([np.arange(120), generator.choice(120, 80)])
    labels = first[lesions]
    probabilities = some_probabilities(generator, labels)
    predicted = probabilities.argmax(1)
    summary = summarise(
        torch.tensor(probabilities), torch.tensor(labels), [f"L{name}" for name in lesions]
    )
    assert (summary["images"], summary["lesions"]) == (200, 120)
    images = [np.flatnonzero(lesions == lesion) for lesion in range(120)]
    counts = np.zeros((600, 7, 7))
    for resample in counts:
        for number in range(7):
            own = np.flatnonzero(first == number)
            for lesion in generator.choice(own, len(own)):
                for image in images[lesion]:
                    resample[labels[image], predicted[image]] += 1
    expected = {
        name: np.quantile(values, [0.025, 0.975])
        for name, values in figures(torch.from_numpy(counts)).items()
    }
    for name, (low, high) in expected.items():
        assert summary["interval_95"][name] == pytest.approx([low, high], abs=0.15 * (high - low))


def test_options_of_the_bootstrap_reach_it(outcome):
    labels, probabilities, summary = outcome
    assert summary_of(probabilities, labels) == summary
    assert summary_of(probabilities, labels, seed=1)["interval_95"] != summary["interval_95"]
    single = summary_of(probabilities, labels, resamples=1)["interval_95"]
    assert all(low == high for low, high in single.values())


def test_a_summary_survives_json(outcome):
    summary = outcome[2]
    assert json.loads(json.dumps(summary, allow_nan=False)) == summary


ISIC_NAMES = ["MEL", "NV", "BCC", "AKIEC", "BKL", "DF", "VASC"]


def write_isic(path, values):
    table = pd.DataFrame(values, columns=NAMES)[ISIC_NAMES]
    table.insert(0, "image", [f"ISIC_{number:07}" for number in range(len(values))])
    table.to_csv(path, index=False)


@pytest.mark.parametrize("certain", [False, True])
def test_the_isic_program_agrees(tmp_path, certain):
    """It sets a threshold of 0.5 for sensitivity: the argmax where each row has one 1."""
    generator = np.random.default_rng(5)
    labels = some_labels(generator, 300)
    probabilities = some_probabilities(generator, labels)
    if certain:
        probabilities = np.eye(7)[probabilities.argmax(1)]
    write_isic(tmp_path / "truth.csv", np.eye(7)[labels])
    write_isic(tmp_path / "prediction.csv", probabilities)
    score = isic_score(tmp_path / "truth.csv", tmp_path / "prediction.csv")
    summary = summary_of(probabilities, labels)
    assert summary["mean_recall"] == pytest.approx(score.overall)
    ours = {"auc": "roc_auc"}
    if certain:
        ours |= {"sensitivity": "sensitivity", "specificity": "specificity"}
    for theirs, name in ours.items():
        found = {category: row[name] for category, row in summary["per_class"].items()}
        assert found == pytest.approx(score.per_category[theirs].to_dict())


def changed(values, index, value):
    values = np.array(values)
    values[index] = value
    return values


@pytest.mark.parametrize(
    ("break_one", "message"),
    [
        (lambda p, y, n: (p[y != 3], y[y != 3], n[: (y != 3).sum()]), "no images of df"),
        (lambda p, y, n: (p[:, :6], y, n), "probabilities (21, 6) for 21 labels"),
        (lambda p, y, n: (p[1:], y, n), "probabilities (20, 7) for 21 labels"),
        (lambda p, y, n: (p, y, n[1:]), "20 lesions"),
        (lambda p, y, n: (changed(p, (4, 2), np.nan), y, n), "row 4 must be finite"),
        (lambda p, y, n: (changed(p, (4, 2), np.inf), y, n), "row 4 must be finite"),
        (lambda p, y, n: (p * 1.01, y, n), "sum to 1"),
        (lambda p, y, n: (p - [0.2, -0.2, 0, 0, 0, 0, 0], y, n), "not negative"),
        (lambda p, y, n: (p, changed(y, 0, 7), n), "labels must be 0 to 6"),
        (lambda p, y, n: (p, changed(y, 0, -1), n), "labels must be 0 to 6"),
        (lambda p, y, n: (p, y, [n[20], *n[1:]]), "lesion L20 has images of two classes"),
    ],
)
def test_input_that_cannot_be_summarised(break_one, message):
    labels = np.repeat(np.arange(7), 3)
    probabilities = np.full((21, 7), 1 / 7)
    names = [f"L{number}" for number in range(21)]
    probabilities, labels, names = break_one(probabilities, labels, names)
    with pytest.raises(ValueError, match=re.escape(message)):
        summarise(torch.tensor(probabilities), torch.tensor(labels), names)


def test_predictions_come_back_in_order_after_every_reset():
    generator = np.random.default_rng(6)
    predictions = Predictions()
    for number in (9, 1):
        expected = torch.from_numpy(generator.random((number, 7)))
        order = torch.from_numpy(generator.permutation(number))
        for chosen in (*order.split(4), order[:0]):
            predictions.update(chosen, expected[chosen])
        positions, probabilities = predictions.compute()
        assert positions == list(range(number))
        assert torch.equal(probabilities, expected)
        predictions.reset()


def test_predictions_refuse_an_image_twice_and_batches_that_do_not_fit():
    predictions = Predictions()
    predictions.update(torch.tensor([4, 7]), torch.ones(2, 7))
    with pytest.raises(ValueError, match="3 positions for 2 images"):
        predictions.update(torch.tensor([1, 2, 3]), torch.ones(2, 7))
    predictions.update(torch.tensor([9, 7]), torch.ones(2, 7))
    with pytest.raises(ValueError, match="image 7 was predicted twice"):
        predictions.compute()


@pytest.mark.skipif(sys.platform == "win32", reason="needs forkserver")
def test_predictions_of_two_processes_come_together(tmp_path):
    collect_in_two(tmp_path)
    for rank in range(2):
        for positions, probabilities in torch.load(tmp_path / f"{rank}.pt"):
            assert positions == list(range(9))
            assert torch.equal(probabilities, torch.arange(63.0).view(9, 7))
