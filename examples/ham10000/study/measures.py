"""The figures of predictions, for many draws of images at once."""

import numpy as np
from numpy.typing import NDArray

from examples.ham10000.data.index import CLASSES

LOSSES = (LOG_LOSS, BOUNDED) = ("log loss", "bounded log loss")
SHARES = ("AUC", "mean recall", "corrected recall", "accuracy", "calibration error")
MEASURES = (*LOSSES, *SHARES)
"""The names of :func:`measure`."""

LEAST = 1e-3
"""The bounded log loss takes probabilities below it for it."""

BINS = 15
"""Of the calibration error, as the report of a run has it."""

AT_ONCE = 500
"""Draws for which areas under curves are computed together: more need more memory."""


def measure(
    found: NDArray[np.float32], labels: NDArray[np.int8], times: NDArray[np.int16]
) -> dict[str, NDArray[np.float64]]:
    """An array (draws,) for each of :data:`MEASURES`; ValueError where a class has no images.

    A single image with a probability near 0 can move the mean of the log loss; the bounded one
    has no such images. ``AUC`` is the mean over the classes, each against the others. ``corrected
    recall`` is the mean recall where each class's probability is divided by its share of all
    images: the mean recall does not ask how common a class is. ``calibration error`` is the
    expected one of the top label.

    Args:
        found: log-probabilities, (N, 7).
        labels: true classes, (N,).
        times: how often each image counts in each draw, (N, draws).
    """
    shares = np.bincount(labels, minlength=len(CLASSES)) / len(labels)
    if missing := [name for name, share in zip(CLASSES, shares, strict=True) if not share]:
        raise ValueError(f"no images of {missing[0]}: every class needs some")
    logs, weights = found.astype(np.float64), times.astype(np.float64)

    def mean(values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Of values of the images, (..., N), in each draw."""
        of_draws: NDArray[np.float64] = values @ weights / weights.sum(axis=0)
        return of_draws

    right = logs.argmax(axis=1) == labels
    corrected = (logs - np.log(shares)).argmax(axis=1) == labels
    confidence = np.exp(logs.max(axis=1))
    in_class = 1.0 * (labels == np.arange(len(CLASSES))[:, None])
    in_bin = np.minimum((BINS * confidence).astype(int), BINS - 1) == np.arange(BINS)[:, None]
    of_truth = logs[np.arange(len(labels)), labels]
    starts = range(0, times.shape[1], AT_ONCE)
    areas = [_area(logs, labels, times[:, start : start + AT_ONCE]) for start in starts]
    return {
        LOG_LOSS: mean(-of_truth),
        BOUNDED: mean(-np.maximum(of_truth, np.log(LEAST))),
        "AUC": np.concatenate(areas),
        "mean recall": (mean(in_class * right) / mean(in_class)).mean(axis=0),
        "corrected recall": (mean(in_class * corrected) / mean(in_class)).mean(axis=0),
        "accuracy": mean(1.0 * right),
        "calibration error": np.abs(mean(in_bin * (right - confidence))).sum(axis=0),
    }


def _area(
    logs: NDArray[np.float64], labels: NDArray[np.int8], times: NDArray[np.int16]
) -> NDArray[np.float64]:
    """The macro AUC of each draw."""
    weights = times.astype(np.float32)  # exact for these sums
    areas = []
    for c in range(len(CLASSES)):
        own, others = np.flatnonzero(labels == c), np.flatnonzero(labels != c)
        others = others[np.argsort(logs[others, c])]
        below = np.zeros((len(others) + 1, weights.shape[1]), np.float32)
        np.cumsum(weights[others], axis=0, out=below[1:])
        less, up_to = (np.searchsorted(logs[others, c], logs[own, c], s) for s in ("left", "right"))
        pairs = np.einsum("nd,nd->d", weights[own], below[less] + below[up_to], dtype=np.float64)
        areas.append(pairs / 2 / weights[own].sum(axis=0, dtype=np.float64) / below[-1])
    mean: NDArray[np.float64] = np.mean(areas, axis=0)
    return mean
