"""The arms of a study against each other, on the same draws of lesions."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from examples.ham10000.metrics import draw_lesions
from examples.ham10000.paper.differences import Difference, differ, holm
from examples.ham10000.study.arms import Arm, Study
from examples.ham10000.study.measures import LOG_LOSS, MEASURES, measure
from examples.ham10000.study.predictions import ArmPredictions, read_predictions

SEED, RESAMPLES = 0, 2000

POWER = 2.8
"""A difference of so many standard errors is told apart (5 %, two-sided) four times of five."""

Figures = dict[str, NDArray[np.float64]]
"""For each measure its value, and then that of each draw."""


@dataclass(frozen=True)
class Analysis:
    """What a study found on so many ``images`` of so many ``lesions``, in these ``folds``.

    By the names of the arms that have predictions: ``by_seed`` the figures with each seed,
    ``largest`` the largest loss of an image; and of those with several seeds ``by_fold``, for each
    seed, the figures of each fold.
    """

    study: Study
    by_seed: dict[str, list[Figures]]
    by_fold: dict[str, list[list[Figures]]]
    largest: dict[str, float]
    images: int
    lesions: int
    folds: list[int]

    @cached_property
    def figures(self) -> dict[str, Figures]:
        """Of each arm, the mean over its seeds."""
        return {
            arm: {name: np.mean([seed[name] for seed in seeds], axis=0) for name in MEASURES}
            for arm, seeds in self.by_seed.items()
        }

    def difference(self, one: str, other: str, name: str) -> Difference:
        """Of two arms, in one of the measures."""
        return differ(self.figures[one][name], self.figures[other][name])

    def between_seeds(self, name: str) -> dict[str, Difference]:
        """In one of the measures, the second seed of an arm against its first."""
        return {
            f"{arm}, seed 1 minus 0": differ(seeds[1][name], seeds[0][name])
            for arm, seeds in self.by_seed.items()
            if len(seeds) > 1
        }

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

    def chance(self, name: str) -> float:
        """How far the figures of two arms with one seed each differ if only the seeds differ.

        A standard deviation, from the differences between seeds of the same arm on each fold,
        which are taken for independent.
        """
        figures = [[[f[name][0] for f in of_seed] for of_seed in a] for a in self.by_fold.values()]
        squares = np.concatenate([np.diff(of_arm, axis=0) ** 2 for of_arm in figures])
        return float(np.sqrt(squares.mean() / len(self.folds)))

    def arms(self, loss: str | None = None) -> list[Arm]:
        """Those that have predictions, with this loss or with any."""
        return [a for a in self.study.arms if a.name in self.by_seed and loss in (None, a.loss)]


def analyse(study: Study, folder: Path) -> Analysis:
    """Compare what there is of a study in a folder of predictions.

    Raises:
        FileNotFoundError: there are no predictions of the study's references.
        ValueError: a file is damaged, or the files are of other images, or of other folds.
    """
    read: dict[str, list[ArmPredictions]] = {}
    for arm in study.arms:
        found = sorted(
            folder.glob(f"{study.name}-{arm.slug}-seed*.npz"),
            key=lambda file: int(file.stem.rpartition("seed")[2]),
        )
        if found:
            read[arm.name] = [read_predictions(file) for file in found]
        elif arm.name in study.against:
            raise FileNotFoundError(f"no predictions of the arm {arm.name!r} in {folder}")
    files = [found for of_arm in read.values() for found in of_arm]
    first = files[0]
    for name in ("images", "labels", "lesions"):
        if any(not np.array_equal(getattr(first, name), getattr(f, name)) for f in files):
            raise ValueError(f"the predictions in {folder} are not of the same {name}")
    both = np.all([found.folds >= 0 for found in files], axis=0)
    labels, lesions, folds = first.labels[both], first.lesions[both].tolist(), first.folds[both]
    if not both.any() or any(not np.array_equal(folds, found.folds[both]) for found in files):
        raise ValueError(f"the predictions in {folder} are not of the same folds")
    rows, drawn = draw_lesions(labels, lesions, folds.tolist(), seed=SEED, resamples=RESAMPLES)
    times = np.concatenate([np.ones((len(rows), 1), np.int16), drawn[rows]], axis=1)
    numbers = np.unique(folds).tolist()
    parts = [folds == number for number in numbers]
    truth = np.arange(len(labels)), labels
    logs = {arm: [found.log_probabilities[both] for found in of] for arm, of in read.items()}
    return Analysis(
        study,
        {arm: [measure(one, labels, times) for one in of] for arm, of in logs.items()},
        {
            arm: [[measure(one[p], labels[p], times[p, :1]) for p in parts] for one in of]
            for arm, of in logs.items()
            if len(of) > 1
        },
        {arm: max(float(-one[truth].min()) for one in of) for arm, of in logs.items()},
        len(labels),
        len(drawn),
        numbers,
    )
