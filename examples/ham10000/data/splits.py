"""Training, validation and test parts, folds, and their files."""

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from examples.ham10000.config import PARTS
from examples.ham10000.data.index import CLASSES, Image
from examples.ham10000.data.tables import read_table
from examples.ham10000.files import write_csv
from examples.ham10000.rules import check_folds

ORDER = 0
"""Seed of the order in which lesions of one size are dealt."""


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


COLUMNS = ("image_id", "lesion_id", "dx", "split")


def write_split(file: Path, images: Sequence[Image], split: Split) -> None:
    """Write the images that are in a part, in the order of the index.

    Args:
        file: the CSV file, with the columns ``image_id,lesion_id,dx,split``.
        images: the index.
        split: positions in it.
    """
    parts = {position: part for part in PARTS for position in split[part]}
    write_csv(
        file,
        COLUMNS,
        (
            (images[i].image_id, images[i].lesion_id, CLASSES[images[i].label], parts[i])
            for i in sorted(parts)
        ),
    )


def read_split(file: Path, images: Sequence[Image], *, complete: bool = True) -> Split:
    """Read a split file and hold it against the index.

    Args:
        file: as :func:`write_split` writes it, in any order.
        images: the index.
        complete: whether every image of the index has to be in a part.

    Returns:
        For each part the positions of its images in the index.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: a part is none of train, val and test; an image stands twice, is not in the
            index, has another lesion or diagnosis there, or is in no part.
    """
    if not file.is_file():
        raise FileNotFoundError(f"no split file {file}: write one with the split command")
    positions = {image.image_id: position for position, image in enumerate(images)}
    split: Split = {part: [] for part in PARTS}
    seen: set[str] = set()
    for place, row in read_table(file, COLUMNS):
        name, part = row["image_id"], row["split"]
        if part not in PARTS:
            raise ValueError(f"{place}: unknown part {part!r}; known are {', '.join(PARTS)}")
        if name in seen:
            raise ValueError(f"{place}: image {name} stands there twice; remove one row")
        if name not in positions:
            raise ValueError(f"{place}: image {name} is not in the data: is it their split?")
        image = images[positions[name]]
        if (image.lesion_id, CLASSES[image.label]) != (row["lesion_id"], row["dx"]):
            raise ValueError(
                f"{place}: image {name} is {row['lesion_id']}, {row['dx']} here and "
                f"{image.lesion_id}, {CLASSES[image.label]} in the data"
            )
        seen.add(name)
        split[part].append(positions[name])
    absent = [image.image_id for image in images if image.image_id not in seen]
    if complete and absent:
        raise ValueError(
            f"{file} has no part for {len(absent)} of {len(images)} images: "
            f"{', '.join(absent[:5])}{', ...' if len(absent) > 5 else ''}"
        )
    return {part: sorted(split[part]) for part in PARTS}
