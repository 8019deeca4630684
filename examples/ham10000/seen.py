"""Images that a network has seen before: their lesions were in parts of an earlier run."""

from collections.abc import Collection, Iterable, Sequence
from pathlib import Path

from examples.ham10000 import processes
from examples.ham10000.config import Config, read_options
from examples.ham10000.data.index import Image, join, read_pairs
from examples.ham10000.data.splits import COLUMNS, Split
from examples.ham10000.data.tables import read_table, some


def of_lesions_seen(
    images: Iterable[Image],
    rows: Sequence[dict[str, str]],
    parts: Collection[str],
    tables: Iterable[Path | None],
) -> list[str]:
    """Ids of the images that show a lesion of some parts of a split, under any of its ids.

    The images may be in the split, whose rows are given, or not; ``tables`` are of images that
    show one lesion, see :func:`read_pairs`.
    """
    images = list(images)
    lesion_ids = {image.image_id: image.lesion_id for image in images}
    lesion_ids |= {row["image_id"]: row["lesion_id"] for row in rows}
    pairs = [pair for table in tables for pair in read_pairs(table, lesion_ids, complete=False)]
    joined = join(lesion_ids, pairs)
    seen = {row["lesion_id"] for row in rows if row["split"] in parts}
    seen = {joined.get(name, name) for name in seen}
    ids = {image.image_id: {image.lesion_id, lesion_ids[image.image_id]} for image in images}
    return [image for image, own in ids.items() if seen & {joined.get(name, name) for name in own}]


def check_unseen(config: Config, images: Sequence[Image], split: Split, *, of_run: bool) -> None:
    """Raise ValueError if a run validates or tests on what its weights were trained with.

    Also on what the weights of that earlier run were trained with, and so on. ``of_run`` says that
    ``--weights`` is the checkpoint of a run.
    """
    weights, checked = config.weights, set[Path]()
    while weights not in ("none", "imagenet"):
        run = Path(weights).resolve().parent
        if run in checked:  # it was trained anew in its place
            return
        checked.add(run)
        if not ((run / "split.csv").is_file() and (run / "config.json").is_file()):
            if of_run:
                processes.say(
                    f"Weights: it cannot be checked whether {weights} has learned from images that "
                    "are tested here: it is not in the folder of its run, beside split.csv"
                )
            return
        _check_run(run, config, images, split)
        weights = read_options(run).weights
        of_run = not Path(weights).is_file()  # what it was cannot be known any more


def _check_run(run: Path, config: Config, images: Sequence[Image], split: Split) -> None:
    rows = [row for _, row in read_table(run / "split.csv", COLUMNS)]
    copy = run / "same_lesion.csv"
    tables = [copy if copy.is_file() else None, config.same_lesion]
    for part, parts in (("test", ("train", "val")), ("val", ("train",))):
        # A lesion that is among the run's own training images too is counted as its leak instead.
        own = {images[i].lesion for name in parts for i in split[name]}
        there = {row["image_id"] for row in rows if row["split"] in parts}
        tested = [images[i] for i in split[part]]
        fresh = [i for i in tested if i.lesion not in own or i.image_id in there]
        if known := of_lesions_seen(fresh, rows, parts, tables):
            raise ValueError(
                f"{len(known)} of the {len(tested)} {part} images show lesions of the "
                f"{' or '.join(parts)} part of {run}, from which --weights {config.weights} has "
                f"learned: {some(known)}. Their figures would be too good: give the best.ckpt "
                "of a run with the same split (seed, folds and fold), or weights from elsewhere"
            )
