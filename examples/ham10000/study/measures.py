"""The figures of predictions, for many draws of images at once."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from examples.ham10000.data.index import CLASSES

LOG_LOSS, BOUNDED = "log loss", "bounded log loss"
LOSSES = (LOG_LOSS, BOUNDED)
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
    """An array (draws,) for each of :data:`MEASURES`.

    A single image with a probability near 0 can move the mean of the log loss; the bounded one
    has no such images. ``AUC`` is the mean over the classes, each against the others. ``corrected
    recall`` is the mean recall where each class's probability is divided by its share of all
    images: the mean recall does not ask how common a class is. ``calibration error`` is the
    expected one of the top label.

    Args:
        found: log-probabilities, (N, 7).
        labels: true classes, (N,); ValueError where a class has no images.
        times: how often each image counts in each draw, (N, draws).
    """
    shares = np.bincount(labels, minlength=len(CLASSES)) / len(labels)
    if missing := [name for name, share in zip(CLASSES, shares, strict=True) if not share]:
        raise ValueError(f"no images of {missing[0]}: every class needs some")
    logs = found.astype(np.float64)
    right = logs.argmax(axis=1) == labels
    corrected = (logs - np.log(shares)).argmax(axis=1) == labels
    confidence = np.exp(logs.max(axis=1))
    bins = np.minimum((BINS * confidence).astype(int), BINS - 1)
    in_class = labels == np.arange(len(CLASSES))[:, None]
    in_bin = bins == np.arange(BINS)[:, None]
    of_truth = logs[np.arange(len(labels)), labels]
    # All but the areas are made of sums over images.
    sums = [
        np.ones((1, len(labels))),
        np.stack([-of_truth, -np.maximum(of_truth, np.log(LEAST))]),
        in_class,
        in_class & right,
        in_class & corrected,
        in_bin * (right - confidence),
    ]
    ends = np.cumsum([len(rows) for rows in sums])[:-1]
    # Sums of integers, one after another, whatever library multiplies.
    total, loss, images, hits, hits_corrected, gaps = np.split(
        np.concatenate(sums).astype(np.float64) @ times.astype(np.float64), ends
    )
    return {
        **dict(zip(LOSSES, loss / total, strict=True)),
        "AUC": np.concatenate(list(_areas(logs, labels, times))),
        "mean recall": (hits / images).mean(axis=0),
        "corrected recall": (hits_corrected / images).mean(axis=0),
        "accuracy": hits.sum(axis=0) / total[0],
        "calibration error": np.abs(gaps).sum(axis=0) / total[0],
    }


def _areas(
    logs: NDArray[np.float64], labels: NDArray[np.int8], times: NDArray[np.int16]
) -> Iterator[NDArray[np.float64]]:
    """The macro AUC of each draw, some draws at a time."""
    for begin in range(0, times.shape[1], AT_ONCE):
        some = times[:, begin : begin + AT_ONCE].astype(np.float32)  # exact for these sums
        areas = np.zeros((len(CLASSES), some.shape[1]))
        for c in range(len(CLASSES)):
            own, others = np.flatnonzero(labels == c), np.flatnonzero(labels != c)
            others = others[np.argsort(logs[others, c])]
            below = np.zeros((len(others) + 1, some.shape[1]), np.float32)
            np.cumsum(some[others], axis=0, out=below[1:])
            scores = logs[others, c]
            less, up_to = (
                np.searchsorted(scores, logs[own, c], side) for side in ("left", "right")
            )
            pairs = np.einsum("nd,nd->d", some[own], below[less] + below[up_to], dtype=np.float64)
            areas[c] = pairs / 2 / some[own].sum(axis=0, dtype=np.float64) / below[-1]
        yield areas.mean(axis=0)
