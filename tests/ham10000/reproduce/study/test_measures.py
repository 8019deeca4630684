"""The figures of many draws at once, against scikit-learn on the images that are drawn."""

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, log_loss, recall_score, roc_auc_score

from examples.ham10000.study.analysis import MEASURES, measure


def some_predictions(images=140):
    generator = np.random.default_rng(0)
    labels = (np.arange(images) % 7).astype(np.int8)
    scores = generator.normal(size=(images, 7)) + 2 * (labels[:, None] == np.arange(7))
    scores = np.round(scores)  # with ties
    scores[3] = [0, 0, 0, -20, 0, 0, 0]
    logs = scores - np.log(np.exp(scores).sum(axis=1, keepdims=True))
    times = generator.integers(0, 4, (images, 9)).astype(np.int16)
    times[:, 0] = 1
    return logs.astype(np.float32), labels, times


def test_each_draw_has_the_figures_of_its_images():
    logs, labels, times = some_predictions()
    found = measure(logs, labels, times)
    assert tuple(found) == MEASURES
    for draw in range(9):
        rows = np.repeat(np.arange(len(labels)), times[:, draw])
        own, truth = logs[rows].astype(float), labels[rows]
        probabilities = np.exp(own) / np.exp(own).sum(axis=1, keepdims=True)
        guess = own.argmax(axis=1)
        bounded = np.maximum(np.exp(own)[np.arange(len(rows)), truth], 1e-3)
        expected = {
            "log loss": log_loss(truth, probabilities),
            "bounded log loss": -np.log(bounded).mean(),
            "AUC": np.mean([roc_auc_score(truth == c, own[:, c]) for c in range(7)]),
            "mean recall": recall_score(truth, guess, average="macro"),
            "corrected recall": recall_score(truth, guess, average="macro"),  # as common each
            "accuracy": accuracy_score(truth, guess),
        }
        for name, value in expected.items():
            assert found[name][draw] == pytest.approx(value, abs=1e-6), name
        gap = 0.0
        top, right = probabilities.max(axis=1), guess == truth
        for low in np.arange(15) / 15:
            inside = (top >= low) & (top < low + 1 / 15)
            gap += abs(top[inside].sum() - right[inside].sum())
        assert found["calibration error"][draw] == pytest.approx(gap / len(rows), abs=1e-6)


def test_corrected_recall_does_not_ask_how_common_a_class_is():
    labels = np.array([0] * 20 + list(range(7)), np.int8)
    logs = np.log(np.full((27, 7), 0.05))
    logs[:, 0] = np.log(0.7)  # and its share is 21 of 27
    found = measure(logs.astype(np.float32), labels, np.ones((27, 1), np.int16))
    assert found["mean recall"][0] == pytest.approx(1 / 7)
    logs[20 + np.arange(7), np.arange(7)] = np.log(0.06)
    logs[20] = np.log(0.001)
    logs[20, 0] = np.log(0.99)
    found = measure(logs.astype(np.float32), labels, np.ones((27, 1), np.int16))
    assert found["mean recall"][0] == pytest.approx(1 / 7)
    # 0.06 * 27 is above 0.7 * 27 / 21; for the 20 others 0.05 * 27 is too.
    assert found["corrected recall"][0] == pytest.approx((6 + 1 / 21) / 7)


def test_a_class_without_images():
    logs, labels, times = some_predictions()
    some = labels != 5
    with pytest.raises(ValueError, match="no images of nv: every class needs some"):
        measure(logs[some], labels[some], times[some])
