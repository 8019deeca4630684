"""Runs that have been tested, read back from their folders."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from examples.ham10000.config import Config, read_description, read_options
from examples.ham10000.data.index import CLASSES, join, read_pairs
from examples.ham10000.data.layouts import ISIC_CLASSES
from examples.ham10000.data.splits import COLUMNS
from examples.ham10000.data.tables import read_header, read_table
from examples.ham10000.gates import RecordedGates, read_gates
from examples.ham10000.metrics import summarise


@dataclass(frozen=True)
class Tested:
    """A run and its predictions of the test images, which are sorted by their ids.

    Or several runs, one for each fold, with the images of one fold after those of the other.

    Attributes:
        folder: of the run.
        config: its options.
        same_lesion: digest of its own table of lesions with several ids, if it has one.
        is_older: whether it is from before such lesions were joined.
        data: the name of the data.
        digest: of the files of the test images.
        leak: share of the test images whose lesion is in the training part.
        parameters: of the network.
        images: ids.
        lesions: the lesion of every image, under the smallest of its ids.
        labels: true classes, (N,).
        probabilities: of the classes, (N, 7).
        summary: see :func:`examples.ham10000.metrics.summarise`.
        folds: the fold of every image, where those of several runs are pooled.
        gates: what the gates of each network did in training, where it was recorded.
    """

    folder: Path
    config: Config
    same_lesion: str | None
    is_older: bool
    data: str
    digest: str
    leak: float
    parameters: int
    images: list[str]
    lesions: list[str]
    labels: Tensor
    probabilities: Tensor
    summary: dict[str, Any]
    folds: list[int] | None = None
    gates: Sequence[RecordedGates] = ()

    @property
    def split_name(self) -> str:
        """What decides which images are tested, for errors."""
        table = "" if self.same_lesion is None else ", --same-lesion"
        older = ", split before lesions with two ids were joined" if self.is_older else ""
        return f"{self.config.split_name}, seed {self.config.seed}{table}{older}"

    @property
    def predicted(self) -> Tensor:
        """Predicted classes, (N,)."""
        return self.probabilities.argmax(dim=1)

    @property
    def synthetic(self) -> bool:
        """Whether its images were drawn by this example."""
        return self.data.startswith("SYNTHETIC")


def read_run(folder: Path) -> Tested:
    """Read a run that was tested.

    Raises:
        FileNotFoundError: the folder has no run, or one that is not finished.
        ValueError: its files are damaged.
    """
    config, description = read_options(folder), read_description(folder)
    report, table = folder / "test.json", folder / "test.csv"
    for file in (report, table):
        if not file.is_file():
            raise FileNotFoundError(
                f"the run {folder} is not finished, there is no {file}: train --resume it"
            )
    try:
        digest = description["images_sha256"]["test"]
        parameters = int(description["parameters"])
    except KeyError as error:
        raise ValueError(f"{folder / 'config.json'} is damaged: it lacks {error}") from error
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"{folder / 'config.json'} is damaged: images_sha256 or parameters ({error})"
        ) from error
    try:
        tested = json.loads(report.read_text(encoding="utf-8"))
        data, counts = tested["data"], tested["confusion_counts"]
        if not isinstance(data, str):
            raise TypeError(f"data is {data!r}")
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{report} is damaged: {error}") from error
    own = config.same_lesion_copy
    truth, leak = _read_truth(folder, own)
    rows = _read_probabilities(table)
    if truth.keys() != rows.keys():
        raise ValueError(
            f"{table} is damaged: {only(truth, rows)} of the {len(truth)} test images of the "
            f"split.csv beside it are missing, and {only(rows, truth)} others are in it"
        )
    images = sorted(truth)
    lesions = [truth[image][0] for image in images]
    labels = torch.tensor([CLASSES.index(truth[image][1]) for image in images])
    probabilities = torch.tensor([rows[image] for image in images], dtype=torch.float64)
    try:
        summary = summarise(probabilities, labels, lesions)
    except ValueError as error:
        raise ValueError(f"{table} or split.csv beside it is damaged: {error}") from error
    if summary["confusion_counts"] != counts:
        raise ValueError(f"{table} and {report} have other figures: they are not of one test")
    gates = read_gates(folder)
    return Tested(
        folder=folder,
        config=config,
        same_lesion=None if own is None else hashlib.sha256(own.read_bytes()).hexdigest(),
        is_older="same_lesion" not in description["options"],
        data=data,
        digest=digest,
        leak=leak,
        parameters=parameters,
        images=images,
        lesions=lesions,
        labels=labels,
        probabilities=probabilities,
        summary=summary,
        gates=[] if gates is None else [gates],
    )


def _read_truth(run: Path, same_lesion: Path | None) -> tuple[dict[str, tuple[str, str]], float]:
    """Lesion and diagnosis of every test image, and the share whose lesion is in training."""
    file, left_out = run / "split.csv", run / "left_out.csv"
    if not file.is_file():
        raise FileNotFoundError(f"no {file}: the run is not whole")
    rows: dict[str, dict[str, str]] = {}
    for place, row in read_table(file, COLUMNS):
        if row["split"] == "test" and row["dx"] not in CLASSES:
            raise ValueError(f"{place}: unknown diagnosis {row['dx']!r}")
        if row["image_id"] in rows:
            raise ValueError(f"{place}: image {row['image_id']} stands there twice")
        rows[row["image_id"]] = row
    lesion_ids = {image: row["lesion_id"] for image, row in rows.items()}
    if "lesion_id" in read_header(left_out):  # images of --skip-bad may join lesions of others
        for _, row in read_table(left_out, ("image_id", "lesion_id")):
            lesion_ids.setdefault(row["image_id"], row["lesion_id"])
    joined = join(lesion_ids, read_pairs(same_lesion, lesion_ids, complete=False))
    lesions = {name: joined.get(row["lesion_id"], row["lesion_id"]) for name, row in rows.items()}
    trained = {lesions[name] for name, row in rows.items() if row["split"] == "train"}
    truth = {n: (lesions[n], row["dx"]) for n, row in rows.items() if row["split"] == "test"}
    if not truth:
        raise ValueError(f"{file} is damaged: it has no test images")
    return truth, sum(lesion in trained for lesion, _ in truth.values()) / len(truth)


def _read_probabilities(file: Path) -> dict[str, list[float]]:
    """Probabilities of every image, in the order of :data:`CLASSES`."""
    rows: dict[str, list[float]] = {}
    for place, row in read_table(file, ("image", *ISIC_CLASSES)):
        if row["image"] in rows:
            raise ValueError(f"{place}: image {row['image']} stands there twice")
        try:
            rows[row["image"]] = [float(row[name.upper()]) for name in CLASSES]
        except ValueError as error:
            raise ValueError(f"{place}: {error}") from error
    return rows


def only(some: dict[str, Any], others: dict[str, Any]) -> int:
    """How many of some are not among the others."""
    return len(some.keys() - others.keys())
