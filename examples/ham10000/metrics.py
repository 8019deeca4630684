"""The figures of a run, each under an unmistakable name, and how far lesions move them."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.functional import classification
from torchmetrics.utilities import dim_zero_cat

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


HEADLINES = ("accuracy", "mean_recall", "bacc_formula", "macro_f1")
"""The figures of a whole part, see :func:`figures`."""


CHALLENGE_HEADLINES = ("mean_recall", "accuracy", "bacc_formula", "macro_f1")
"""The same, the figure that ranked the entries of ISIC 2018 Task 3 first."""


def figures(counts: Tensor) -> dict[str, Tensor]:
    """The headline figures of confusion counts; ValueError where a class has no images.

    ``mean_recall`` is what the ISIC challenges call balanced accuracy, and most likely what the
    paper's BACC column holds. ``bacc_formula`` is the equation that the paper prints,
    (sensitivity + specificity) / 2, here the mean over the classes: another, larger number.
    ``macro_f1`` is a mean over the classes too; a class that is never predicted has 0.

    Args:
        counts: images by true class (rows) and predicted class (columns), (..., 7, 7).

    Returns:
        A float64 tensor (...) on the CPU for each of :data:`HEADLINES`.
    """
    counts = counts.cpu().double()  # in this order: not every device has float64
    by_class = _one_against_rest(counts)
    hits = counts.diagonal(dim1=-2, dim2=-1).sum(dim=-1)
    return {
        "accuracy": hits / counts.sum(dim=(-2, -1)),
        "mean_recall": by_class["sensitivity"].mean(dim=-1),
        "bacc_formula": by_class["bacc_formula"].mean(dim=-1),
        "macro_f1": by_class["f1"].mean(dim=-1),
    }


def summarise(
    probabilities: Tensor,
    labels: Tensor,
    lesions: Sequence[str],
    *,
    strata: Sequence[int] | None = None,
    seed: int = 0,
    resamples: int = 2000,
) -> dict[str, Any]:
    """Turn the predictions for a part into the figures of a report.

    Args:
        probabilities: of the classes for every image, (N, 7).
        labels: true classes, (N,).
        lesions: the lesion of every image.
        strata: as of :func:`examples.ham10000.metrics.lesion_bootstrap`.
        seed: of the bootstrap over lesions that ``interval_95`` is read from.
        resamples: of the bootstrap.

    Returns:
        A dict for JSON. ``calibration_error`` is the expected one of the top label, in 15 bins.
        The columns of ``confusion_matrix`` are the true class and sum to 1, its rows the
        prediction, both in the order of ``classes``.

    Raises:
        ValueError: a row of probabilities is none, a label is no class, a class has no images,
            the lengths differ, or a lesion has two labels or is in two strata.
    """
    probabilities, labels = probabilities.detach().cpu().double(), labels.cpu()
    _check(probabilities, labels)
    # A rounding error above 1 would make torchmetrics take the probabilities for logits.
    probabilities = probabilities.clamp(max=1)
    predicted, number = probabilities.argmax(dim=1), len(CLASSES)
    counts = classification.multiclass_confusion_matrix(predicted, labels, number)
    headlines = figures(counts)
    drawn = figures(
        lesion_bootstrap(labels, predicted, lesions, strata=strata, seed=seed, resamples=resamples)
    )
    by_class = {
        "images": counts.sum(dim=1),
        **_one_against_rest(counts.double()),
        "roc_auc": classification.multiclass_auroc(probabilities, labels, number, average=None),
    }
    # It would count confidences that are 1 in float32 in a sixteenth bin.
    below_1 = probabilities.clamp(max=1 - 2**-24)
    error = classification.multiclass_calibration_error(below_1, labels, number, n_bins=15)
    return {
        "images": len(labels),
        "lesions": len(set(lesions)),
        **{name: headlines[name].item() for name in HEADLINES},
        "interval_95": {name: list(interval(drawn[name])) for name in HEADLINES},
        "calibration_error": error.item(),
        "classes": [name.upper() for name in CLASSES],
        "per_class": {
            name.upper(): {figure: values[i].item() for figure, values in by_class.items()}
            for i, name in enumerate(CLASSES)
        },
        "confusion_matrix": (counts.double() / counts.sum(dim=1, keepdim=True)).T.tolist(),
        "confusion_counts": counts.T.tolist(),
    }


class Predictions(Metric):
    """Collects the logits of images over batches and processes, each of which must see a batch."""

    full_state_update = False
    positions: list[Tensor]
    logits: list[Tensor]

    def __init__(self) -> None:
        super().__init__()
        self.add_state("positions", [], dist_reduce_fx="cat")
        self.add_state("logits", [], dist_reduce_fx="cat")

    def update(self, positions: Tensor, logits: Tensor) -> None:
        """Add a batch, which may be empty: positions (N,), int64, and logits (N, 7)."""
        if positions.shape != logits.shape[:1]:
            raise ValueError(f"{len(positions)} positions for {len(logits)} images")
        self.positions.append(positions)
        self.logits.append(logits)

    def compute(self) -> tuple[list[int], Tensor]:
        """Positions in ascending order, and their logits; ValueError for one twice."""
        positions, order = dim_zero_cat(self.positions).sort()
        twice = positions[1:][positions[1:] == positions[:-1]].tolist()
        if twice:
            raise ValueError(f"image {twice[0]} was predicted twice: does the sampler fill up?")
        # A list, because torchmetrics takes the dimension from a tensor of one element.
        return positions.tolist(), dim_zero_cat(self.logits)[order]


def _one_against_rest(counts: Tensor) -> dict[str, Tensor]:
    """Figures of every class, (..., 7), from float64 counts."""
    images, predicted = counts.sum(dim=-1), counts.sum(dim=-2)
    empty = (images == 0).reshape(-1, counts.shape[-1]).any(dim=0).tolist()
    if any(empty):
        place = empty.index(True)
        name = CLASSES[place] if len(empty) == len(CLASSES) else f"class {place}"
        raise ValueError(f"no images of {name}: every class needs some")
    rest = images.sum(dim=-1, keepdim=True) - images
    hits = counts.diagonal(dim1=-2, dim2=-1)  # true positives
    sensitivity, specificity = hits / images, (rest - predicted + hits) / rest  # TN / (TN + FP)
    return {
        "sensitivity": sensitivity,
        "specificity": specificity,
        "bacc_formula": (sensitivity + specificity) / 2,
        "f1": 2 * hits / (images + predicted),
    }


def _check(probabilities: Tensor, labels: Tensor) -> None:
    """ValueError where torchmetrics would fail obscurely, or not at all."""
    if probabilities.shape != (len(labels), len(CLASSES)):
        raise ValueError(f"probabilities {tuple(probabilities.shape)} for {len(labels)} labels")
    fine = (probabilities >= 0).all(dim=1) & ((probabilities.sum(dim=1) - 1).abs() < 1e-3)
    if not fine.all():  # so it is where one is not finite
        row = fine.tolist().index(False)
        raise ValueError(f"row {row} must be finite, not negative and sum to 1, within 0.001")
    if ((labels < 0) | (labels >= len(CLASSES))).any():
        raise ValueError(f"labels must be 0 to {len(CLASSES) - 1}")
