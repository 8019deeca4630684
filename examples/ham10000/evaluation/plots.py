"""Pictures of a run: its curves, and its confusion matrix."""

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator


def plot_curves(metrics: Path, label: str, title: str, out: Path) -> None:
    """Draw loss and validation figures by epoch.

    Args:
        metrics: the CSV log of the run.
        label: what stands before the name of every figure in it.
        title: of the picture.
        out: the PNG to write.
    """
    with metrics.open(newline="") as file:
        rows = list(csv.DictReader(file))
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    loss, score = figure.subplots(1, 2)
    for axes, names in (
        (loss, {"train_loss": "training", "val_loss": "validation"}),
        (score, {"val_accuracy": "accuracy", "val_mean_recall": "mean recall"}),
    ):
        for name, text in names.items():
            points = [(int(row["epoch"]), float(row[label + name])) for row in rows]
            axes.plot(*zip(*points, strict=True), marker="o", markersize=3, label=text)
        axes.set_xlabel("epoch")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(alpha=0.3)
        axes.legend()
    loss.set_ylabel("loss")
    loss.set_ylim(bottom=0)
    score.set_ylabel("validation part")
    score.set_ylim(0, 1)
    figure.suptitle(title, fontsize=11)
    figure.savefig(out, dpi=130)


def plot_confusion(summary: dict[str, Any], title: str, out: Path) -> None:
    """Draw the normalised confusion matrix as the paper does: true class along x.

    Args:
        summary: of the test part, see :func:`examples.ham10000.evaluation.metrics.summarise`.
        title: of the picture.
        out: the PNG to write.
    """
    matrix: Sequence[Sequence[float]] = summary["confusion_matrix"]
    names: list[str] = summary["classes"]
    images = [summary["per_class"][name]["images"] for name in names]
    figure = Figure(figsize=(6.4, 5.8), layout="constrained")
    axes = figure.subplots()
    picture = axes.imshow(matrix, cmap="Blues", vmin=0, vmax=1)
    for row, values in enumerate(matrix):
        for column, value in enumerate(values):
            colour = "white" if value > 0.5 else "black"
            axes.text(
                column, row, f"{value:.2f}", ha="center", va="center", color=colour, fontsize=9
            )
    axes.set_xticks(range(len(names)), [f"{n}\n({i})" for n, i in zip(names, images, strict=True)])
    axes.set_yticks(range(len(names)), names)
    axes.set_xlabel("true class (images); each column sums to 1")
    axes.set_ylabel("predicted class")
    axes.set_title(title, fontsize=11)
    figure.colorbar(picture, ax=axes, shrink=0.8)
    figure.savefig(out, dpi=130)
