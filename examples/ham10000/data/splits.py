"""Training, validation and test parts, 8 : 1 : 1 per class."""

from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np

from examples.ham10000.data.folds import check_folds, deal
from examples.ham10000.data.index import CLASSES, Image

PARTS = ("train", "val", "test")
Split = dict[str, list[int]]
"""For each part the positions of its images in the index."""


def by_lesion(images: Sequence[Image], seed: int) -> Split:
    """Split so that no lesion is in two parts; each class 8 : 1 : 1 as near as lesions allow.

    The lesions of a class are taken in random order; each goes to the test part while it fits
    into floor(0.1 n) images, then to validation likewise, the rest to training. A lesion with
    several ids is taken when the first of them comes, so that the others move little.

    Args:
        images: the index.
        seed: of the random order.

    Raises:
        ValueError: a class has too few images or lesions for three parts.
    """
    return _split(images, seed, lambda image: image.lesion_id, lambda image: image.lesion)


def by_image(images: Sequence[Image], seed: int) -> Split:
    """Split as the paper most likely did: by image, stratified, floor(0.1 n) for test and for val.

    Images of one lesion land in several parts: the test score is too good (:func:`leak`).

    Args:
        images: the index.
        seed: of the random order.

    Raises:
        ValueError: a class has too few images for three parts.
    """
    return _split(images, seed, lambda image: image.image_id, lambda image: image.image_id)


def by_fold(images: Sequence[Image], seed: int, folds: int, fold: int) -> Split:
    """Test one of several folds, which have no lesion in common and do not depend on the seed.

    floor(0.1 n) images of each class are for validation, lesions drawn as :func:`by_lesion` does.

    Args:
        images: the index.
        seed: of the validation part.
        folds: how many there are.
        fold: the one to test, from 0.

    Raises:
        ValueError: a class has too few images or lesions.
    """
    tested = [position for position, of in enumerate(deal(images, folds)) if of == fold]
    return _split(images, seed, lambda image: image.lesion_id, lambda image: image.lesion, tested)


PROTOCOLS: dict[str, Callable[[Sequence[Image], int], Split]] = {
    "lesion": by_lesion,
    "paper": by_image,
}


def draw_split(
    images: Sequence[Image],
    seed: int,
    protocol: str,
    folds: int | None = None,
    fold: int | None = None,
) -> Split:
    """Split by one of :data:`PROTOCOLS`, or test a fold.

    Raises:
        ValueError: the options do not go together, or a class has too few images or lesions.
    """
    check_folds(folds, fold, protocol)
    if folds is None or fold is None:
        return PROTOCOLS[protocol](images, seed)
    return by_fold(images, seed, folds, fold)


def leak(images: Sequence[Image], split: Split) -> float:
    """Share of the test images whose lesion is also in the training part.

    Raises:
        ValueError: there are no test images.
    """
    if not split["test"]:
        raise ValueError("the split has no test images, of which some could leak")
    seen = {images[i].lesion for i in split["train"]}
    return sum(images[i].lesion in seen for i in split["test"]) / len(split["test"])


def count_classes(images: Sequence[Image], split: Split) -> dict[str, dict[str, int]]:
    """Images of each class in each part.

    Raises:
        ValueError: a part has no image of some class, so that its mean recall has no meaning.
    """
    counts: dict[str, dict[str, int]] = {}
    for part in PARTS:
        labels = Counter(images[i].label for i in split[part])
        counts[part] = {name: labels[number] for number, name in enumerate(CLASSES)}
        absent = [name for name, count in counts[part].items() if count == 0]
        if absent:
            raise ValueError(
                f"the {part} part has no image of the class(es) {', '.join(absent)}: every part "
                "needs all classes"
            )
    return counts


def _split(
    images: Sequence[Image],
    seed: int,
    drawn: Callable[[Image], str],
    group: Callable[[Image], str],
    tested: Sequence[int] = (),
) -> Split:
    """Assign whole groups, in the random order of what is drawn; a group belongs to one class.

    The test part is drawn too, unless it is given.
    """
    generator = np.random.default_rng(seed)
    split: Split = {"train": [], "val": [], "test": list(tested)}
    given = set(tested)
    for label, name in enumerate(CLASSES):
        members: dict[str, list[int]] = {}
        for position, image in enumerate(images):
            if image.label == label and position not in given:
                members.setdefault(drawn(image), []).append(position)
        filled = Counter(test=sum(images[i].label == label for i in tested))
        total = sum(map(len, members.values())) + filled["test"]
        room = Counter(test=0 if tested else total // 10, val=total // 10, train=total)
        keys = sorted(members)
        groups: dict[str, list[int]] = {}
        for index in generator.permutation(len(keys)):
            for position in members[keys[index]]:
                groups.setdefault(group(images[position]), []).append(position)
        for positions in groups.values():
            part = next(p for p in ("test", "val", "train") if room[p] >= len(positions))
            room[part] -= len(positions)
            filled[part] += len(positions)
            split[part] += positions
        if any(filled[part] == 0 for part in PARTS):
            raise ValueError(
                f"class {name} has {total} images, of which {len(groups)} can be told apart by "
                "the split: too few for three parts (at least 10 images, and several lesions)"
            )
    return {part: sorted(positions) for part, positions in split.items()}
