"""Folds: test parts that together have every image once, the same for every run and seed."""

from collections import Counter
from collections.abc import Sequence

import numpy as np

from examples.ham10000.data.index import CLASSES, Image

ORDER = 0
"""Seed of the order in which lesions of one size are dealt."""


def check_folds(folds: int | None, fold: int | None, protocol: str) -> None:
    """Raise ValueError unless the options go together: a fold of so many, by lesion, or neither."""
    if folds is None and fold is None:
        return
    if folds is None:
        raise ValueError(f"--fold {fold} needs --folds, the number of all folds")
    if folds < 2:
        raise ValueError(f"--folds must be at least 2, got {folds}")
    if fold is None:
        raise ValueError(f"--folds {folds} needs --fold, the one that is tested: 0 to {folds - 1}")
    if not 0 <= fold < folds:
        raise ValueError(f"--fold must be 0 to {folds - 1} with --folds {folds}, got {fold}")
    if protocol != "lesion":
        raise ValueError(f"--folds is for --protocol lesion, not for {protocol}: it would leak")


def deal(images: Sequence[Image], folds: int) -> list[int]:
    """The fold of every image: all images of a lesion in one, all classes shared out evenly.

    The lesions of a class are dealt by size, the largest first, each to the fold that has the
    fewest images of the class so far; then to the one with the fewest images, then to the first.

    Args:
        images: the index, in any order.
        folds: how many.

    Raises:
        ValueError: a class has fewer lesions than there are folds.
    """
    fold_of: dict[str, int] = {}
    filled: Counter[int] = Counter()
    generator = np.random.default_rng(ORDER)
    for label, name in enumerate(CLASSES):
        sizes = Counter(image.lesion for image in images if image.label == label)
        if len(sizes) < folds:
            raise ValueError(f"class {name} has {len(sizes)} lesions: too few for --folds {folds}")
        of_class: Counter[int] = Counter()
        lesions = sorted(sizes)
        order = [lesions[i] for i in generator.permutation(len(lesions))]
        for lesion in sorted(order, key=sizes.__getitem__, reverse=True):  # which keeps the order
            fold = min(range(folds), key=lambda n: (of_class[n], filled[n], n))
            fold_of[lesion] = fold
            of_class[fold] += sizes[lesion]
            filled[fold] += sizes[lesion]
    return [fold_of[image.lesion] for image in images]
