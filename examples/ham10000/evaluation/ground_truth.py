"""A run and the images of a ground truth file, scored as ISIC 2018 Task 3 was."""

from dataclasses import replace
from pathlib import Path

from examples.ham10000 import processes
from examples.ham10000.config import read_options
from examples.ham10000.data.ground_truth import read_ground_truth
from examples.ham10000.data.index import SYNTHETIC_ID, is_synthetic
from examples.ham10000.data.load import load_images
from examples.ham10000.data.split_file import COLUMNS
from examples.ham10000.data.tables import read_table
from examples.ham10000.evaluation.evaluate import Evaluation, evaluate_part, load_best
from examples.ham10000.training.seen import of_lesions_seen

PART = "ground truth file"
"""What figures call the images, which are in no part of a split."""


def evaluate_ground_truth(run: Path, folder: Path, file: Path, workers: int) -> Evaluation:
    """Evaluate the best checkpoint of a run on images that are in no part for training.

    Images that are in the test part of its split may be among them.

    Args:
        run: the folder of the run.
        folder: the images, see :func:`examples.ham10000.data.ground_truth.read_ground_truth`.
        file: their classes.
        workers: processes that load data.

    Raises:
        FileNotFoundError, ValueError: the run, the table or the images cannot be used, or the
            network was trained or validated on lesions that the images show.
    """
    config, truth = read_options(run), read_ground_truth(file, folder)
    images, rows = truth.images, [row for _, row in read_table(run / "split.csv", COLUMNS)]
    if known := of_lesions_seen(images, rows, ("train", "val"), [config.same_lesion_copy]):
        raise ValueError(
            f"{len(known)} of the {len(images)} images of {file} show lesions of the training or "
            f"validation part of {run}: {', '.join(known[:5])}{', ...' if len(known) > 5 else ''}. "
            "Their figures would be too good: give images that the network has not seen, or "
            "--split test for the test part of the run"
        )
    for image in truth.missing:
        processes.say(f"left out: {image}, which {file} lists and {folder} does not have")
    if truth.ignored:
        processes.say(f"ignored: {truth.ignored} image files in {folder} that {file} does not list")
    # It is the log of the run that the label has to fit.
    drawn = any(row["image_id"].startswith(SYNTHETIC_ID) for row in rows)
    label = SYNTHETIC_ID if drawn else ""
    name = f"{file.name}, {len(images):,} images"
    data = load_images(
        images,
        {"test": list(range(len(images)))},
        config.image_size,
        run.resolve().parent / "ham10000-cache",
        f"SYNTHETIC: {name}" if label or is_synthetic(images) else name,
        label,
        has_lesions=truth.has_lesions,
    )
    evaluation = evaluate_part(load_best(run), data, "test", config, folder, workers, None)
    summary = {
        **evaluation.summary,
        "part": PART,
        "missing_images": truth.missing,
        "ignored_files": truth.ignored,
    }
    return replace(evaluation, summary=summary)
