"""The arms of a study against each other, on the same draws of lesions."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from examples.ham10000.comparison.mcnemar import holm
from examples.ham10000.evaluation.bootstrap import draw_lesions, interval
from examples.ham10000.reproduce.study.arms import Arm, Study
from examples.ham10000.reproduce.study.measures import LOG_LOSS, MEASURES, measure
from examples.ham10000.reproduce.study.predictions import ArmPredictions, read_predictions

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
