"""What an arm says of every image: one file of log-probabilities for each arm and seed."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from filelock import FileLock
from numpy.typing import NDArray

from examples.ham10000.data.index import CLASSES, Image
from examples.ham10000.files import moved_into_place
from examples.ham10000.paper.finished import finished
from examples.ham10000.report.results import read_log_probabilities
from examples.ham10000.study.runs import StudyRun

ENTRIES = ("image", "label", "lesion", "fold", "log_probability")
"""Of the file, in the order of :class:`ArmPredictions`."""


class ArmPredictions(NamedTuple):
    """The predictions of an arm with one seed, for all images in the order of the index.

    ``images`` are ids, ``labels`` the true classes, int8 (N,), and ``lesions`` numbers, int32 (N,).
    ``folds``, int8 (N,), is the fold in which an image was tested, and ``log_probabilities``,
    float32 (N, 7), what was said of it; -1 and NaN where it has not been tested yet.
    """

    images: NDArray[np.str_]
    labels: NDArray[np.int8]
    lesions: NDArray[np.int32]
    folds: NDArray[np.int8]
    log_probabilities: NDArray[np.float32]


def write_predictions(runs: Sequence[StudyRun], images: Sequence[Image]) -> Path:
    """Write what is finished of the runs of an arm with one seed, one for each fold; give the file.

    Raises:
        ValueError: the files of a run are damaged or are of other images, or an image was tested
            in two folds.
    """
    file = runs[0].predictions
    # Without the lock, a process could replace a file by what it has read before.
    with FileLock(file.with_suffix(".lock")):
        content: dict[str, Any] = dict(zip(ENTRIES, _gather(runs, images), strict=True))
        with moved_into_place(file) as partial, partial.open("xb") as stream:
            np.savez_compressed(stream, **content)
    return file


def _gather(runs: Sequence[StudyRun], images: Sequence[Image]) -> ArmPredictions:
    place = {image.image_id: i for i, image in enumerate(images)}
    folds = np.full(len(images), -1, np.int8)
    log_probabilities = np.full((len(images), len(CLASSES)), np.nan, np.float32)
    for run in runs:
        if not finished(run.config.out):
            continue
        tested, found = read_log_probabilities(run.config.out, "test")
        if unknown := [name for name in tested if name not in place]:
            raise ValueError(f"{run.config.out} has tested {unknown[0]}, which the data lack")
        positions = [place[name] for name in tested]
        if (folds[positions] >= 0).any():
            raise ValueError(f"{run.config.out} has tested images of another fold")
        folds[positions] = run.fold
        log_probabilities[positions] = found
    numbers = {lesion: i for i, lesion in enumerate(sorted({image.lesion for image in images}))}
    return ArmPredictions(
        np.array([image.image_id for image in images]),
        np.array([image.label for image in images], np.int8),
        np.array([numbers[image.lesion] for image in images], np.int32),
        folds,
        log_probabilities,
    )


def read_predictions(file: Path) -> ArmPredictions:
    """Read such a file; nothing in it is executed.

    Raises:
        OSError: it cannot be read.
        ValueError: it is damaged, or says something impossible.
    """
    try:
        with np.load(file, allow_pickle=False) as content:
            read = ArmPredictions(*(content[name] for name in ENTRIES))
    except OSError:
        raise
    except Exception as error:  # a damaged file has many kinds
        raise ValueError(f"{file} is damaged: {error}") from error
    count, found = len(read.images), read.log_probabilities
    shapes = tuple(array.shape for array in read[1:])
    if shapes != (*[(count,)] * 3, (count, len(CLASSES))) or found.dtype != np.float32:
        raise ValueError(f"{file} is damaged: {count} images have arrays of shapes {shapes}")
    tested = read.folds >= 0
    sums = np.exp(found[tested].astype(np.float64)).sum(axis=1)
    if not (np.isnan(found[~tested]).all() and (np.abs(sums - 1) < 1e-4).all()):
        raise ValueError(f"{file} is damaged: it holds rows that are no log-probabilities")
    return read
