"""The arms of a study against each other, on the same draws of lesions."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from examples.ham10000.data.index import CLASSES
from examples.ham10000.metrics import draw_lesions, interval
from examples.ham10000.paper.compare import holm
from examples.ham10000.study.arms import Arm, Study
from examples.ham10000.study.predictions import ArmPredictions, read_predictions

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
    """The figures of predictions.

    A single image with a probability near 0 can move the mean of the log loss; the bounded one
    has no such images. ``AUC`` is the mean over the classes, each against the others. ``corrected
    recall`` is the mean recall where each class's probability is divided by its share of all
    images: the mean recall does not ask how common a class is. ``calibration error`` is the
    expected one of the top label.

    Args:
        found: log-probabilities, (N, 7).
        labels: true classes, (N,); each has images.
        times: how often each image counts in each draw, (N, draws).

    Returns:
        An array (draws,) for each of :data:`MEASURES`.
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


SEED, RESAMPLES = 0, 2000

POWER = 2.8
"""A difference of so many standard errors is told apart (5 %, two-sided) four times of five."""

Figures = dict[str, NDArray[np.float64]]
"""For each measure its value, and then that of each draw."""


@dataclass(frozen=True)
class Difference:
    """The figures of one minus those of another, on the same images.

    Attributes:
        value: for the images as they are.
        low: where the 95 % interval begins.
        high: where it ends.
        error: the standard deviation over the draws.
        p: twice the share of the draws on the other side of zero.
    """

    value: float
    low: float
    high: float
    error: float
    p: float


@dataclass(frozen=True)
class Analysis:
    """What a study found.

    Attributes:
        study: which.
        seeds: of each arm that has predictions, the seeds.
        figures: of each arm, the mean over its seeds.
        by_seed: of each arm with several seeds, those of each.
        by_fold: for each of those, the figures of each fold.
        largest: of each arm, the largest loss of an image.
        images: how many are compared.
        lesions: how many they show.
        folds: which they are of.
        missing: arms without predictions.
    """

    study: Study
    seeds: dict[str, list[int]]
    figures: dict[str, Figures]
    by_seed: dict[str, list[Figures]]
    by_fold: dict[str, list[list[Figures]]]
    largest: dict[str, float]
    images: int
    lesions: int
    folds: list[int]
    missing: list[str]

    def difference(self, one: str, other: str, name: str) -> Difference:
        """Of two arms, in one of the measures."""
        return differ(self.figures[one][name], self.figures[other][name])

    @property
    def family(self) -> dict[str, float]:
        """Holm's p-values of the log loss against the study's first reference.

        The family is all arms with cross entropy: the others' probabilities are not made to be
        calibrated.
        """
        first = self.study.against[0]
        names = [arm.name for arm in self.arms("cross-entropy") if arm.name != first]
        p_values = [self.difference(name, first, LOG_LOSS).p for name in names]
        return dict(zip(names, holm(p_values), strict=True))

    def chance(self, name: str) -> float | None:
        """How far the figures of two arms with one seed each differ if only the seeds differ.

        A standard deviation, from the differences between seeds of the same arm on each fold,
        which are taken for independent; None where no arm has several seeds.
        """
        if not self.by_fold:
            return None
        figures = [[[f[name][0] for f in of_seed] for of_seed in a] for a in self.by_fold.values()]
        squares = np.concatenate([np.diff(of_arm, axis=0) ** 2 for of_arm in figures])
        return float(np.sqrt(squares.mean() / len(self.folds)))

    def arms(self, loss: str | None = None) -> list[Arm]:
        """Those that have predictions, with this loss or with any."""
        return [a for a in self.study.arms if a.name in self.figures and loss in (None, a.loss)]


def differ(one: NDArray[np.float64], other: NDArray[np.float64]) -> Difference:
    """What the draws say of a difference.

    Args:
        one: a figure, and then that of each draw.
        other: the same of what it is compared with.
    """
    value, draws = float(one[0] - other[0]), one[1:] - other[1:]
    low, high = interval(torch.from_numpy(draws))
    tail = min((draws <= 0).sum(), (draws >= 0).sum())
    p = min(1.0, 2 * float(tail + 1) / (len(draws) + 1))
    return Difference(value, low, high, float(draws.std(ddof=1)), p)


def analyse(study: Study, folder: Path) -> Analysis:
    """Compare what there is of a study.

    Args:
        study: one of ``STUDIES``.
        folder: of the files of predictions.

    Raises:
        FileNotFoundError: there are no predictions of the study's references.
        ValueError: a file is damaged, or the files are of other images, or of other folds.
    """
    read = {arm.name: _read(study, arm, folder) for arm in study.arms}
    for name in study.against:
        if not read[name]:
            raise FileNotFoundError(f"no predictions of the arm {name!r} in {folder}")
    files = [found for of_arm in read.values() for found in of_arm.values()]
    first = files[0]
    for other in files[1:]:
        for name in ("images", "labels", "lesions"):
            if not np.array_equal(getattr(first, name), getattr(other, name)):
                raise ValueError(f"the predictions in {folder} are not of the same {name}")
    both = np.all([found.folds >= 0 for found in files], axis=0)
    folds = first.folds[both]
    if not both.any() or any(not np.array_equal(folds, found.folds[both]) for found in files):
        raise ValueError(f"the predictions in {folder} are not of the same folds")
    labels, lesions = first.labels[both], first.lesions[both]
    rows, drawn = draw_lesions(
        labels, lesions.tolist(), folds.tolist(), seed=SEED, resamples=RESAMPLES
    )
    times = np.concatenate([np.ones((len(rows), 1), np.int16), drawn[rows]], axis=1)
    figures, by_seed, by_fold, largest = {}, {}, {}, {}
    numbers = np.unique(folds).tolist()
    for arm, of_arm in read.items():
        if not of_arm:
            continue
        logs = [found.log_probabilities[both] for found in of_arm.values()]
        found = [measure(one, labels, times) for one in logs]
        figures[arm] = {name: np.mean([f[name] for f in found], axis=0) for name in MEASURES}
        largest[arm] = max(float(-one[np.arange(len(labels)), labels].min()) for one in logs)
        if len(found) > 1:
            by_seed[arm] = found
            parts = [(folds == number, labels[folds == number]) for number in numbers]
            by_fold[arm] = [
                [measure(one[part], own, times[part, :1]) for part, own in parts] for one in logs
            ]
    return Analysis(
        study,
        {arm: list(of_arm) for arm, of_arm in read.items() if of_arm},
        figures,
        by_seed,
        by_fold,
        largest,
        len(labels),
        len(drawn),
        numbers,
        [arm for arm, of_arm in read.items() if not of_arm],
    )


def _read(study: Study, arm: Arm, folder: Path) -> dict[int, ArmPredictions]:
    """The predictions of an arm by seed."""
    start = f"{study.name}-{arm.slug}-seed"
    files = {file.stem.removeprefix(start): file for file in folder.glob(f"{start}*.npz")}
    return {int(seed): read_predictions(file) for seed, file in sorted(files.items())}
