"""How far a figure moves with the lesions that happen to be in a part: a bootstrap."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from examples.ham10000.data.index import CLASSES


def lesion_bootstrap(
    labels: Tensor,
    predicted: Tensor,
    lesions: Sequence[str],
    *,
    strata: Sequence[int] | None = None,
    seed: int,
    resamples: int,
) -> Tensor:
    """Confusion counts of resampled parts, see :func:`draw_lesions`.

    Args:
        labels: true classes, (N,).
        predicted: predicted classes, (N,).
        lesions: the lesion of every image; a lesion belongs to one class.
        strata: the test part that an image is of, where there are several.
        seed: of the draws.
        resamples: how many.

    Returns:
        Images by true class (rows) and predicted class (columns), int64 (resamples, 7, 7).

    Raises:
        ValueError: the lengths differ, or a lesion has two labels or is in two strata.
    """
    strata = [0] * len(lesions) if strata is None else strata
    if not len(labels) == len(predicted) == len(lesions) == len(strata):
        raise ValueError(
            f"got {len(labels)} labels, {len(predicted)} predictions and {len(lesions)} lesions, "
            f"and strata for {len(strata)} images: every image needs one of each"
        )
    truth, guess = labels.cpu().numpy(), predicted.cpu().numpy()
    lesion, times = draw_lesions(truth, lesions, strata, seed=seed, resamples=resamples)
    images = np.zeros((len(times), len(CLASSES)), dtype=np.int64)  # lesion, predicted class
    np.add.at(images, (lesion, guess), 1)
    counts = np.zeros((resamples, len(CLASSES), len(CLASSES)), dtype=np.int64)
    for label in set(truth.tolist()):
        members = np.unique(lesion[truth == label])
        counts[:, label] = times[members].T @ images[members]  # (resamples, size) @ (size, 7)
    return torch.from_numpy(counts)


def draw_lesions(
    labels: NDArray[np.integer],
    lesions: Sequence[object],
    strata: Sequence[int],
    *,
    seed: int,
    resamples: int,
) -> tuple[NDArray[np.intp], NDArray[np.int16]]:
    """How often each lesion is drawn.

    Images of one lesion are alike, so it is lesions that are drawn, with replacement, and all
    images of a drawn lesion count. They are drawn within each class and test part, as many as it
    has: a split is stratified by class, so its class sizes are no accident, and no class can go
    missing. A class with a single lesion therefore never varies.

    The order of the images makes no difference.

    Args:
        labels: true classes, (N,).
        lesions: the lesion of every image; a lesion belongs to one class.
        strata: the test part that an image is of.
        seed: of the draws.
        resamples: how many.

    Returns:
        The row of every image, (N,), among the lesions, and how often these are drawn,
        (lesions, resamples).

    Raises:
        ValueError: a lesion has two labels or is in two strata.
    """
    names, first, lesion = np.unique(
        np.array(lesions, dtype=str), return_index=True, return_inverse=True
    )
    label_of = labels[first]  # by lesion
    mixed = names[lesion[labels != label_of[lesion]]]
    if len(mixed):
        raise ValueError(f"lesion {mixed[0]} has images of two classes")
    stratum = np.array(strata)
    stratum_of = stratum[first]
    mixed = names[lesion[stratum != stratum_of[lesion]]]
    if len(mixed):
        raise ValueError(f"lesion {mixed[0]} is in two folds")
    generator = np.random.default_rng(seed)
    times = np.zeros((len(names), resamples), dtype=np.int16)
    for part, label in sorted(set(zip(stratum_of.tolist(), label_of.tolist(), strict=True))):
        members = (stratum_of == part) & (label_of == label)
        size = int(members.sum())
        times[members] = generator.multinomial(size, np.full(size, 1 / size), size=resamples).T
    return lesion, times


def interval(values: Tensor, level: float = 0.95) -> tuple[float, float]:
    """Percentile interval: what lies below and above it has equal shares.

    Args:
        values: one figure of every resample, (resamples,).
        level: share of the values inside.
    """
    tail = (1 - level) / 2
    shares = torch.tensor([tail, 1 - tail], dtype=torch.float64)
    low, high = torch.quantile(values.double(), shares).tolist()
    return low, high
