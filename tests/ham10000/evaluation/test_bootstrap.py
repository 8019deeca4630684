"""The resamples against their exact distribution, and against what must hold in each."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from examples.ham10000.metrics import figures, interval, lesion_bootstrap


def resample(images, *, seed=0, resamples=2000):
    """Counts from rows of lesion, label and predicted class."""
    lesions, labels, predicted = zip(*images, strict=True)
    return lesion_bootstrap(
        torch.tensor(labels), torch.tensor(predicted), lesions, seed=seed, resamples=resamples
    )


def some_images(generator, lesions=8):
    """Classes of 1 to 7 times ``lesions`` lesions, which have one to four images."""
    return [
        (f"{label}-{lesion}", label, int(generator.choice(7)))
        for label in range(7)
        for lesion in range((label + 1) * lesions)
        for _ in range(generator.integers(1, 5))
    ]


def test_mean_and_covariance_are_exact():
    """What n draws with replacement from the n lesions of a class must give."""
    images = some_images(np.random.default_rng(0), lesions=2)
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


def test_images_of_few_lesions_say_less():
    """Four alike images to a lesion: the interval of independent images is half as wide."""
    rows = [(label, k, label if k % 3 else 6 - label) for label in range(7) for k in range(24)]
    alone = [(f"{label}-{k}-{c}", label, guess) for label, k, guess in rows for c in range(4)]
    together = [(f"{label}-{k}", label, guess) for label, k, guess in rows for _ in range(4)]
    low, high = interval(figures(resample(alone))["accuracy"])
    lower, higher = interval(figures(resample(together))["accuracy"])
    assert (higher - lower) / (high - low) == pytest.approx(2, abs=0.25)


def test_the_seed_and_not_the_order_of_the_images_decides():
    images = some_images(np.random.default_rng(1))
    counts = resample(images, resamples=50)
    assert torch.equal(resample(images, resamples=50), counts)
    assert torch.equal(resample(images[::-1], resamples=50), counts)
    assert not torch.equal(resample(images, resamples=50, seed=1), counts)


def test_an_interval_leaves_as_much_below_as_above():
    values = torch.from_numpy(np.random.default_rng(2).permutation(1001))
    assert interval(values) == pytest.approx((25, 975))
    assert interval(values, 0.5) == pytest.approx((250, 750))


def test_images_that_do_not_fit():
    classes = torch.arange(3)
    with pytest.raises(ValueError, match="3 labels, 3 predictions and 2 lesions"):
        lesion_bootstrap(classes, classes, ["a", "b"], seed=0, resamples=1)
    with pytest.raises(ValueError, match="3 labels, 2 predictions and 3 lesions"):
        lesion_bootstrap(classes, classes[1:], ["a", "b", "c"], seed=0, resamples=1)
    with pytest.raises(ValueError, match="lesion b has images of two classes"):
        lesion_bootstrap(classes, classes, ["a", "b", "b"], seed=0, resamples=1)
    with pytest.raises(ValueError, match="3 lesions, and strata for 2 images"):
        lesion_bootstrap(classes, classes, ["a", "b", "c"], strata=[0, 1], seed=0, resamples=1)
    same = torch.zeros(3, dtype=torch.long)
    with pytest.raises(ValueError, match="lesion b is in two folds"):
        lesion_bootstrap(same, same, ["a", "b", "b"], strata=[0, 0, 1], seed=0, resamples=1)


def test_lesions_are_drawn_within_strata():
    """Right in one stratum, wrong in the other: as many of each in every draw."""
    labels, predicted = torch.zeros(8, dtype=torch.long), torch.tensor([0] * 4 + [1] * 4)
    lesions, strata = [f"l{n}" for n in range(8)], [3] * 4 + [7] * 4
    options = {"seed": 0, "resamples": 200}
    counts = lesion_bootstrap(labels, predicted, lesions, strata=strata, **options)
    assert counts[:, 0].tolist() == [[4, 4, 0, 0, 0, 0, 0]] * 200
    assert len(lesion_bootstrap(labels, predicted, lesions, **options)[:, 0].unique(dim=0)) > 3
    one = lesion_bootstrap(labels, predicted, lesions, strata=[5] * 8, **options)
    assert torch.equal(one, lesion_bootstrap(labels, predicted, lesions, **options))
