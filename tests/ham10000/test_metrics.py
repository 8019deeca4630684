"""Every figure against scikit-learn, or against counts made by hand."""

import numpy as np
import pytest
import torch
from sklearn import metrics as sk

from examples.ham10000.metrics import new_counts, summarise


@pytest.fixture(scope="module")
def outcome():
    generator = np.random.default_rng(0)
    labels = np.concatenate([np.arange(7), generator.choice(7, 493, p=[0.04] * 6 + [0.76])])
    logits = generator.normal(size=(500, 7)) + 1.5 * np.eye(7)[labels]
    metrics = new_counts()
    for chosen in np.array_split(np.arange(500), 6):
        metrics.update(torch.from_numpy(logits[chosen]), torch.from_numpy(labels[chosen]))
    return labels, logits.argmax(1), summarise(metrics.compute())


def test_accuracy_and_mean_recall_are_those_of_scikit_learn(outcome):
    labels, predicted, summary = outcome
    assert summary["images"] == 500
    assert summary["accuracy"] == pytest.approx(sk.accuracy_score(labels, predicted))
    assert summary["mean_recall"] == pytest.approx(sk.balanced_accuracy_score(labels, predicted))


def test_sensitivity_and_specificity_are_one_against_rest(outcome):
    labels, predicted, summary = outcome
    formula = []
    for number, row in enumerate(summary["per_class"].values()):
        tn, fp, fn, tp = sk.confusion_matrix(labels == number, predicted == number).ravel()
        assert row["images"] == (labels == number).sum()
        assert row["sensitivity"] == pytest.approx(tp / (tp + fn))
        assert row["specificity"] == pytest.approx(tn / (tn + fp))
        formula.append((tp / (tp + fn) + tn / (tn + fp)) / 2)
        assert row["bacc_formula"] == pytest.approx(formula[-1])
    assert summary["bacc_formula"] == pytest.approx(np.mean(formula))


def test_columns_of_the_confusion_matrix_are_the_true_class(outcome):
    labels, predicted, summary = outcome
    matrix = np.array(summary["confusion_matrix"])
    np.testing.assert_allclose(matrix.sum(axis=0), 1)
    np.testing.assert_allclose(matrix.T, sk.confusion_matrix(labels, predicted, normalize="true"))
    np.testing.assert_array_equal(
        np.array(summary["confusion_counts"]).T, sk.confusion_matrix(labels, predicted)
    )
    assert summary["classes"] == ["AKIEC", "BCC", "BKL", "DF", "MEL", "NV", "VASC"]
