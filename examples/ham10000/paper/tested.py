"""Runs with their predictions of the test images, or the folds of an arm as one."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from examples.ham10000.config import Config
from examples.ham10000.data.index import CLASSES, join, read_pairs
from examples.ham10000.data.layouts import ISIC_CLASSES
from examples.ham10000.data.splits import COLUMNS
from examples.ham10000.data.tables import read_header, read_table
from examples.ham10000.metrics import summarise
from examples.ham10000.paper.finished import Finished, damaged, read_finished, unfinished

Truth = dict[str, tuple[str, int]]
"""The lesion of every image, under the smallest of its ids, and its class, by the image's id."""


@dataclass(frozen=True)
class Tested:
    """A run and its predictions of the test images, which are sorted by their ids.

    Or several ``runs``, one for each fold, with the images of one fold after those of the other;
    ``folds`` is then the fold of every image. ``probabilities`` are (N, 7), ``leak`` is the share
    of images whose lesion is in the training part, ``same_lesion`` the digest of the run's own
    table of lesions with several ids.
    """

    runs: Sequence[Finished]
    config: Config
    same_lesion: str | None
    leak: float
    truth: Truth
    probabilities: Tensor
    folds: list[int] | None = None

    @property
    def folder(self) -> Path:
        """That of the first run."""
        return self.config.out

    @property
    def data(self) -> str:
        """What the images are."""
        return self.runs[0].data

    @property
    def split_name(self) -> str:
        """What decides which images are tested, for errors."""
        name = f"{self.config.split_name}, seed {self.config.seed}"
        if "same_lesion" not in self.runs[0].description["options"]:
            return f"{name}, split before lesions with two ids were joined"
        return name if self.same_lesion is None else f"{name}, --same-lesion"

    @property
    def lesions(self) -> list[str]:
        """The lesion of every image."""
        return [lesion for lesion, _ in self.truth.values()]

    @property
    def labels(self) -> Tensor:
        """True classes, (N,)."""
        return torch.tensor([label for _, label in self.truth.values()])

    @property
    def predicted(self) -> Tensor:
        """Predicted classes, (N,)."""
        return self.probabilities.argmax(dim=1)

    @cached_property
    def summary(self) -> dict[str, Any]:
        """The figures; ValueError where a row of the probabilities, or a lesion, cannot be."""
        return summarise(self.probabilities, self.labels, self.lesions, strata=self.folds)


def read_run(folder: Path) -> Tested:
    """Read a run that was tested.

    FileNotFoundError: the folder has no run, or one that is not finished. ValueError: its files
    are damaged.
    """
    run = read_finished(folder)
    table, split = folder / "test.csv", folder / "split.csv"
    for file in (table, split):
        if not file.is_file():
            raise unfinished(file)
    if run.digest is None:
        raise ValueError(f"{folder / 'config.json'} is damaged: no images_sha256 of the test part")
    own = run.config.same_lesion_copy
    truth, leak = _read_truth(split, own)
    digest = None if own is None else hashlib.sha256(own.read_bytes()).hexdigest()
    probabilities = _read_probabilities(table, truth)
    tested = Tested([run], run.config, digest, leak, truth, probabilities)
    with damaged(f"{table} or split.csv beside it is"):
        counts = tested.summary["confusion_counts"]
    if counts != run.test.get("confusion_counts"):
        report = folder / "test.json"
        raise ValueError(f"{table} and {report} have other figures: they are not of one test")
    return tested


def _read_truth(split: Path, same_lesion: Path | None) -> tuple[Truth, float]:
    """Lesion and class of every test image, and the share whose lesion is in training."""
    rows = _by_image(split, COLUMNS)
    lesion_ids = {image: row["lesion_id"] for image, (_, row) in rows.items()}
    left_out = split.with_name("left_out.csv")
    if "lesion_id" in read_header(left_out):  # images of --skip-bad may join lesions of others
        for _, row in read_table(left_out, ("image_id", "lesion_id")):
            lesion_ids.setdefault(row["image_id"], row["lesion_id"])
    joined = join(lesion_ids, read_pairs(same_lesion, lesion_ids, complete=False))
    truth, trained = {}, set()
    for image, (place, row) in sorted(rows.items()):
        lesion = joined.get(row["lesion_id"], row["lesion_id"])
        if row["split"] == "train":
            trained.add(lesion)
        elif row["split"] == "test":
            if row["dx"] not in CLASSES:
                raise ValueError(f"{place}: unknown diagnosis {row['dx']!r}")
            truth[image] = lesion, CLASSES.index(row["dx"])
    if not truth:
        raise ValueError(f"{split} is damaged: it has no test images")
    return truth, sum(lesion in trained for lesion, _ in truth.values()) / len(truth)


def _read_probabilities(table: Path, truth: Truth) -> Tensor:
    rows = _by_image(table, ("image", *ISIC_CLASSES))
    if truth.keys() != rows.keys():
        raise ValueError(
            f"{table} is damaged: {len(truth.keys() - rows.keys())} of the {len(truth)} test "
            f"images of the split.csv beside it are missing, and {len(rows.keys() - truth.keys())} "
            "others are in it"
        )
    found = []
    for image in truth:
        place, row = rows[image]
        with damaged(f"{place} is"):
            found.append([float(row[name.upper()]) for name in CLASSES])
    return torch.tensor(found, dtype=torch.float64)


def _by_image(file: Path, columns: tuple[str, ...]) -> dict[str, tuple[str, dict[str, str]]]:
    """The rows of a table, with their places, by the image in the first of the columns."""
    rows: dict[str, tuple[str, dict[str, str]]] = {}
    for place, row in read_table(file, columns):
        image = row[columns[0]]
        if image in rows:
            raise ValueError(f"{place}: image {image} stands there twice")
        rows[image] = place, row
    return rows


def pool(arm: Sequence[Tested]) -> Tested:
    """The predictions of all folds as one test."""
    first = arm[0]
    for run in arm:
        if run.data != first.data:
            raise ValueError(
                f"{first.folder} and {run.folder} are no folds of one arm: they are of "
                f"{first.data} and {run.data}"
            )
    truth: Truth = {}
    for run in arm:
        if twice := truth.keys() & run.truth.keys():
            raise ValueError(
                f"the folds of {first.folder} are not of one division of the data: image "
                f"{min(twice)} is tested in two of them"
            )
        truth |= run.truth
    return replace(
        first,
        runs=[run.runs[0] for run in arm],
        config=replace(first.config, fold=None),
        leak=sum(run.leak * len(run.truth) for run in arm) / len(truth),
        truth=truth,
        probabilities=torch.cat([run.probabilities for run in arm]),
        folds=[number for number, run in enumerate(arm) for _ in run.truth],
    )


def check_same_images(first: Tested, other: Tested) -> None:
    """Raise ValueError that says what differs."""
    both = f"{first.folder} and {other.folder}"
    if first.data.startswith("SYNTHETIC") != other.data.startswith("SYNTHETIC"):
        raise ValueError(f"{both} cannot be compared: they are of {first.data} and {other.data}")
    truth, others = first.truth, other.truth
    if truth.keys() != others.keys():
        ours, theirs = len(truth.keys() - others.keys()), len(others.keys() - truth.keys())
        raise ValueError(
            f"{both} have other test images: {ours} of {len(truth)} are only in the first "
            f"({first.split_name}), {theirs} of {len(others)} only in the second "
            f"({other.split_name})"
        )
    differ = [image for image in truth if truth[image] != others[image]]
    if differ:
        raise ValueError(
            f"{both} have another lesion or diagnosis for {len(differ)} of {len(truth)} test "
            f"images, such as {differ[0]}: is it the same data, with the same --same-lesion?"
        )
    if first.runs[0].digest != other.runs[0].digest:
        raise ValueError(
            f"{both} were tested on other files of the same images ({first.data} and "
            f"{other.data}): images_sha256 of what they say of themselves differs"
        )
