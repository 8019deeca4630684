"""Every figure against scikit-learn, exact distributions, or counts by hand."""

import json
import re
import sys

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn import metrics as sk

from examples.ham10000.metrics import (
    HEADLINES,
    Predictions,
    figures,
    interval,
    lesion_bootstrap,
    summarise,
)
from tests.ham10000.children import collect_in_two

NAMES = ["AKIEC", "BCC", "BKL", "DF", "MEL", "NV", "VASC"]


def some_labels(generator, number=500):
    frequent = generator.choice(7, number - 7, p=[0.04] * 5 + [0.76, 0.04])
    return np.concatenate([np.arange(7), frequent])


def some_probabilities(generator, labels):
    logits = 2 * generator.normal(size=(len(labels), 7)) + 2 * np.eye(7)[labels]
    return np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)


def summary_of(probabilities, labels, lesions=None, **options):
    """Of images that each show a lesion of their own, unless they are named."""
    lesions = range(len(labels)) if lesions is None else lesions
    names = [f"L{number}" for number in lesions]
    return summarise(torch.tensor(probabilities), torch.tensor(labels), names, **options)


def headlines(labels, predicted, k=7):
    """The headline figures from scikit-learn."""
    pairs = [
        sk.recall_score(labels == c, predicted == c, average=None, zero_division=0)
        for c in range(k)
    ]
    return {
        "accuracy": sk.accuracy_score(labels, predicted),
        "mean_recall": sk.balanced_accuracy_score(labels, predicted),
        "bacc_formula": np.mean(pairs),  # specificity and sensitivity
        "macro_f1": sk.f1_score(labels, predicted, average="macro", zero_division=0),
    }


@pytest.mark.parametrize("ties", [False, True])
def test_figures_of_a_summary_are_those_of_scikit_learn(ties):
    """In steps of 1/8 many images tie in a class, and many classes in an image."""
    generator = np.random.default_rng(0)
    labels = some_labels(generator)
    probabilities = some_probabilities(generator, labels)
    if ties:
        weights = (probabilities + 1 / 7) / 2
        probabilities = np.stack([generator.multinomial(8, row) for row in weights]) / 8
    summary = summary_of(probabilities, labels)
    predicted = probabilities.argmax(1)
    found = {name: summary[name] for name in HEADLINES}
    assert found == pytest.approx(headlines(labels, predicted), rel=1e-9)
    assert list(summary["per_class"]) == summary["classes"] == NAMES
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
    counts = sk.confusion_matrix(labels, predicted)  # its rows are the true class
    np.testing.assert_array_equal(np.array(summary["confusion_counts"]).T, counts)
    shares = sk.confusion_matrix(labels, predicted, normalize="true")
    np.testing.assert_allclose(np.array(summary["confusion_matrix"]).T, shares)
    confidence, hit = probabilities.max(axis=1), predicted == labels
    bins = np.minimum(np.floor(confidence * 15), 14)
    gaps = [abs((hit[bins == b] - confidence[bins == b]).sum()) for b in np.unique(bins)]
    assert summary["calibration_error"] == pytest.approx(sum(gaps) / len(labels), abs=1e-6)
    assert json.loads(json.dumps(summary, allow_nan=False)) == summary


@pytest.mark.parametrize("k", [2, 3, 7, 12])
def test_headline_figures_of_a_batch_of_counts(k):
    """Of any number of classes, one of which is never predicted."""
    generator = np.random.default_rng(1)
    labels = [np.concatenate([np.arange(k), generator.choice(k, 50)]) for _ in range(6)]
    predicted = [generator.choice(k - 1, 50 + k) for _ in range(6)]
    counts = [
        sk.confusion_matrix(*pair, labels=range(k)) for pair in zip(labels, predicted, strict=True)
    ]
    batch = torch.from_numpy(np.stack(counts)).view(2, 3, k, k)
    expected = [headlines(*pair, k) for pair in zip(labels, predicted, strict=True)]
    for name, values in figures(batch).items():
        wanted = np.reshape([row[name] for row in expected], (2, 3))
        np.testing.assert_allclose(values, wanted, rtol=1e-9)
    batch[1, 2, k - 1] = 0
    with pytest.raises(ValueError, match=f"no images of class {k - 1}: "):
        figures(batch)


def test_areas_tell_apart_what_float32_cannot():
    """Each class has one image that is nearly certain, and one that is even more so."""
    labels = np.repeat(np.arange(7), 2)
    small = np.where(np.arange(14) % 2, 1e-12, 1e-9)[:, None]
    probabilities = np.where(np.eye(7)[np.roll(labels, 1)] == 1, 1 - 6 * small, small)
    areas = [row["roc_auc"] for row in summary_of(probabilities, labels)["per_class"].values()]
    expected, single = (
        [sk.roc_auc_score(labels == c, values[:, c]) for c in range(7)]
        for values in (probabilities, probabilities.astype(np.float32))
    )
    assert areas == pytest.approx(expected, abs=1e-6)
    assert single != pytest.approx(expected, abs=1e-3)


def test_a_rounding_error_above_1_changes_nothing():
    generator = np.random.default_rng(3)
    labels = some_labels(generator, 100)
    probabilities = some_probabilities(generator, labels)
    probabilities[0] = np.eye(7)[0]
    expected = summary_of(probabilities, labels)
    probabilities[0, 0] += 1e-7
    assert summary_of(probabilities, labels) == expected


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_certain_images_fall_in_the_last_bin(dtype):
    """Half of the images have confidence 1 and are wrong, half have 0.95 and are right."""
    labels = np.arange(7).repeat(2)
    probabilities = np.eye(7)[labels]
    probabilities[::2] = np.roll(probabilities[::2], 1, axis=1)
    probabilities[1::2] = 0.95 * probabilities[1::2] + 0.05 * np.roll(probabilities[1::2], 1, 1)
    summary = summary_of(probabilities.astype(dtype), labels)
    assert summary["calibration_error"] == pytest.approx(0.975 - 0.5, abs=1e-6)


def changed(values, index, value):
    values = np.array(values)
    values[index] = value
    return values


LABELS, EVEN, STRATA = np.repeat(np.arange(7), 3), np.full((21, 7), 1 / 7), [0] * 20


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"labels": changed(LABELS, slice(9, 12), 2)}, "no images of df"),
        ({"probabilities": EVEN[:, :6]}, "probabilities (21, 6) for 21 labels"),
        ({"probabilities": EVEN[1:]}, "probabilities (20, 7) for 21 labels"),
        ({"lesions": range(20)}, "21 labels, 21 predictions and 20 lesions"),
        ({"strata": STRATA}, "21 lesions, and strata for 20 images"),
        ({"probabilities": changed(EVEN, (4, 2), np.nan)}, "row 4 must be finite"),
        ({"probabilities": changed(EVEN, (4, 2), np.inf)}, "row 4 must be finite"),
        ({"probabilities": EVEN * 1.01}, "sum to 1"),
        ({"probabilities": EVEN - [0.2, -0.2, 0, 0, 0, 0, 0]}, "not negative"),
        ({"labels": changed(LABELS, 0, 7)}, "labels must be 0 to 6"),
        ({"labels": changed(LABELS, 0, -1)}, "labels must be 0 to 6"),
        ({"lesions": [20, *range(1, 21)]}, "lesion L20 has images of two classes"),
        ({"lesions": [1, *range(1, 21)], "strata": [1, *STRATA]}, "lesion L1 is in two folds"),
    ],
)
def test_input_that_cannot_be_summarised(change, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        summary_of(**{"probabilities": EVEN, "labels": LABELS, **change})


def test_intervals_are_of_the_lesions_and_the_seed_that_are_given():
    generator = np.random.default_rng(4)
    first = some_labels(generator, 120)
    lesions = np.concatenate([np.arange(120), generator.choice(120, 80)])
    labels = first[lesions]
    probabilities = some_probabilities(generator, labels)
    summary = summary_of(probabilities, labels, lesions)
    assert (summary["images"], summary["lesions"]) == (200, 120)
    counts = resample(
        [*zip(lesions.tolist(), labels.tolist(), probabilities.argmax(1).tolist(), strict=True)]
    )
    for name, values in figures(counts).items():
        assert summary["interval_95"][name] == pytest.approx(
            np.quantile(values, [0.025, 0.975]), abs=0.01
        )
    other = summary_of(probabilities, labels, lesions, seed=1)
    assert other["interval_95"] != summary["interval_95"]
    single = summary_of(probabilities, labels, lesions, resamples=1)["interval_95"]
    assert all(low == high for low, high in single.values())


def resample(images, *, seed=0, resamples=2000):
    """Counts from rows of lesion, label and predicted class."""
    lesions, labels, predicted = zip(*images, strict=True)
    return lesion_bootstrap(
        torch.tensor(labels), torch.tensor(predicted), lesions, seed=seed, resamples=resamples
    )


def test_mean_and_covariance_are_exact():
    """What n draws with replacement from the n lesions of a class must give."""
    generator = np.random.default_rng(0)
    images = [
        (f"{label}-{lesion}", label, int(generator.choice(7)))
        for label in range(7)
        for lesion in range((label + 1) * 2)
        for _ in range(generator.integers(1, 5))
    ]
    of_lesion = {name: np.zeros((7, 7)) for name, _, _ in images}
    for name, label, guess in images:
        of_lesion[name][label, guess] += 1
    mean, covariance = np.zeros(49), np.zeros((49, 49))
    for label in range(7):
        own = np.array([c.ravel() for name, c in of_lesion.items() if name[0] == str(label)])
        mean += own.sum(axis=0)
        covariance += len(own) * np.cov(own.T, bias=True)
    found = resample(images, resamples=40_000).view(-1, 49).numpy()
    deviation = np.sqrt(covariance.diagonal().max())
    np.testing.assert_allclose(found.mean(axis=0), mean, atol=0.02 * deviation)
    np.testing.assert_allclose(np.cov(found.T), covariance, atol=0.03 * deviation**2)
    counts = resample(images, resamples=50)  # the seed and not the order of the images decides
    assert torch.equal(resample(images[::-1], resamples=50), counts)
    assert not torch.equal(resample(images, resamples=50, seed=1), counts)


copies = st.tuples(st.integers(1, 4), st.integers(1, 4))


@given(st.lists(st.tuples(copies, copies, copies), min_size=7, max_size=7), st.randoms())
def test_lesions_stay_whole(classes, random):
    """Lesion j of a class is predicted as class 2j and 2j + 1, and no other lesion of it is."""
    images = [
        (f"{label}-{j}", label, 2 * j + side)
        for label, lesions in enumerate(classes)
        for j, pair in enumerate(lesions)
        for side in (0, 1)
        for _ in range(pair[side])
    ]
    random.shuffle(images)
    counts = resample(images, resamples=20)
    for label, lesions in enumerate(classes):
        times = counts[:, label, :6].view(-1, 3, 2) / torch.tensor(lesions)
        assert torch.equal(times[..., 0], times[..., 1])  # how often each lesion was drawn
        assert torch.equal(times[..., 0], times[..., 0].round())
        assert (times[..., 0].sum(dim=1) == 3).all()  # as many as the class has


def test_lesions_are_drawn_within_strata():
    """Right in one stratum, wrong in the other: as many of each in every draw."""
    labels, predicted = torch.zeros(8, dtype=torch.long), torch.tensor([0] * 4 + [1] * 4)
    lesions, options = [f"l{n}" for n in range(8)], {"seed": 0, "resamples": 200}
    strata = [3] * 4 + [7] * 4
    counts = lesion_bootstrap(labels, predicted, lesions, strata=strata, **options)
    assert counts[:, 0].tolist() == [[4, 4, 0, 0, 0, 0, 0]] * 200
    assert len(lesion_bootstrap(labels, predicted, lesions, **options)[:, 0].unique(dim=0)) > 3


def test_an_interval_leaves_as_much_below_as_above():
    values = torch.from_numpy(np.random.default_rng(2).permutation(1001))
    assert interval(values) == pytest.approx((25, 975))
    assert interval(values, 0.5) == pytest.approx((250, 750))


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
