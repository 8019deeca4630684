"""Training, validation and test parts, folds, and their files."""

from collections import Counter
from collections.abc import Collection, Sequence
from pathlib import Path

import numpy as np

from examples.ham10000.config import PARTS
from examples.ham10000.data.index import CLASSES, Image
from examples.ham10000.data.tables import read_table, some
from examples.ham10000.files import write_csv
from examples.ham10000.rules import check_folds

COLUMNS = ("image_id", "lesion_id", "dx", "split")
ORDER = 0  # seed of the order in which lesions of one size are dealt

Split = dict[str, list[int]]
"""For each part the positions of its images in the index."""


def by_lesion(images: Sequence[Image], seed: int) -> Split:
    """Split so that no lesion is in two parts; each class 8 : 1 : 1 as near as lesions allow.

    In random order each lesion goes to the test part while it fits into floor(0.1 n) images, then
    to validation likewise, the rest to training. One with several ids is taken when the first of
    them comes, so that the others move little.
    """
    return _draw(images, seed)


def by_image(images: Sequence[Image], seed: int) -> Split:
    """Split as the paper most likely did: by image, stratified, floor(0.1 n) for test and for val.

    Images of one lesion land in several parts: the test score is too good (:func:`leak`).
    """
    return _draw(images, seed, lesions=False)


PROTOCOLS = {"lesion": by_lesion, "paper": by_image}


def draw_split(
    images: Sequence[Image],
    seed: int,
    protocol: str,
    folds: int | None = None,
    fold: int | None = None,
) -> Split:
    """Split by one of :data:`PROTOCOLS`, or test one fold of :func:`deal`, whatever the seed.

    Beside a fold, floor(0.1 n) images of each class are drawn for validation, by lesion.
    ValueError if the options do not go together, or a class has too few images or lesions.
    """
    check_folds(folds, fold, protocol)
    if folds is None:
        return PROTOCOLS[protocol](images, seed)
    tested = [position for position, of in enumerate(deal(images, folds)) if of == fold]
    return _draw(images, seed, tested)


def deal(images: Sequence[Image], folds: int) -> list[int]:
    """The fold of every image: all images of a lesion in one, all classes shared out evenly.

    The lesions of a class are dealt by size, the largest first, each to the fold that has the
    fewest images of the class so far, or of all. The order of the images does not matter.
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


def _draw(
    images: Sequence[Image], seed: int, tested: Collection[int] = (), *, lesions: bool = True
) -> Split:
    """Assign whole lesions, or images, in random order; the test part too, unless it is given."""
    generator = np.random.default_rng(seed)
    split: Split = {"test": list(tested), "val": [], "train": []}
    tested = set(tested)
    names = [image.lesion_id if lesions else image.image_id for image in images]
    for label, name in enumerate(CLASSES):
        of_class = [position for position, image in enumerate(images) if image.label == label]
        drawn: dict[str, list[int]] = {}
        for position in of_class:
            if position not in tested:
                drawn.setdefault(names[position], []).append(position)
        keys = sorted(drawn)
        groups: dict[str, list[int]] = {}
        for place in generator.permutation(len(keys)):
            key = keys[place]
            group = images[drawn[key][0]].lesion if lesions else key
            groups.setdefault(group, []).extend(drawn[key])
        tenth = len(of_class) // 10
        room = {"test": 0 if tested else tenth, "val": tenth, "train": len(of_class)}
        for positions in groups.values():
            part = next(part for part, free in room.items() if free >= len(positions))
            room[part] -= len(positions)
            split[part] += positions
        if not all(set(of_class) & set(positions) for positions in split.values()):
            raise ValueError(
                f"class {name} has {len(of_class)} images, of which {len(groups)} can be told apart"
                " by the split: too few for three parts (at least 10 images, and several lesions)"
            )
    return {part: sorted(split[part]) for part in PARTS}


def leak(images: Sequence[Image], split: Split) -> float:
    """Share of the test images whose lesion is also in training; ValueError if there are none."""
    if not split["test"]:
        raise ValueError("the split has no test images, of which some could leak")
    seen = {images[i].lesion for i in split["train"]}
    return sum(images[i].lesion in seen for i in split["test"]) / len(split["test"])


def count_classes(images: Sequence[Image], split: Split) -> dict[str, dict[str, int]]:
    """Images of each class in each part; ValueError if a part has none, and so no mean recall."""
    counts: dict[str, dict[str, int]] = {}
    for part in PARTS:
        labels = Counter(images[i].label for i in split[part])
        counts[part] = {name: labels[number] for number, name in enumerate(CLASSES)}
        absent = [name for name, count in counts[part].items() if count == 0]
        if absent:
            which = f"the {part} part has no image of the class(es) {', '.join(absent)}"
            raise ValueError(f"{which}: every part needs all classes")
    return counts


def write_split(file: Path, images: Sequence[Image], split: Split) -> None:
    """Write the images that are in a part as a CSV file, in the order of the index."""
    parts = {position: part for part in PARTS for position in split[part]}
    used = ((images[position], parts[position]) for position in sorted(parts))
    rows = ((i.image_id, i.lesion_id, CLASSES[i.label], part) for i, part in used)
    write_csv(file, COLUMNS, rows)


def read_split(file: Path, images: Sequence[Image], *, complete: bool = True) -> Split:
    """Read a split file, whose rows may be in any order, and hold it against the index.

    What does not fit is a ValueError, where ``complete`` also an image that is in no part.
    """
    if not file.is_file():
        raise FileNotFoundError(f"no split file {file}: write one with the split command")
    positions = {image.image_id: position for position, image in enumerate(images)}
    part_of: dict[str, str] = {}
    for place, row in read_table(file, COLUMNS):
        name, part = row["image_id"], row["split"]
        if part not in PARTS:
            raise ValueError(f"{place}: unknown part {part!r}; known are {', '.join(PARTS)}")
        if name in part_of:
            raise ValueError(f"{place}: image {name} stands there twice; remove one row")
        if name not in positions:
            raise ValueError(f"{place}: image {name} is not in the data: is it their split?")
        image, said = images[positions[name]], f"{row['lesion_id']}, {row['dx']}"
        known = f"{image.lesion_id}, {CLASSES[image.label]}"
        if known != said:
            raise ValueError(f"{place}: image {name} is {said} here and {known} in the data")
        part_of[name] = part
    absent = [name for name in positions if name not in part_of]
    if complete and absent:
        raise ValueError(
            f"{file} has no part for {len(absent)} of {len(images)} images: {some(absent)}"
        )
    return {
        part: sorted(positions[name] for name in part_of if part_of[name] == part) for part in PARTS
    }
