"""Pictures of a run: its curves, its confusion matrix, its ROC curves."""

import csv
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.ticker import MaxNLocator
from torch import Tensor
from torchmetrics.functional.classification import multiclass_auroc, multiclass_roc

from examples.ham10000.data.index import CLASSES
from examples.ham10000.files import moved_into_place


def save_picture(figure: Figure, file: Path) -> None:
    """Write a PNG, whole or not at all."""
    with moved_into_place(file) as partial:
        figure.savefig(partial, format="png", dpi=130)


def read_curve(metrics: Path, name: str) -> tuple[list[int], list[float]]:
    """The epochs, and a figure of each, from the ``metrics.csv`` of a run."""
    with metrics.open(newline="") as file:
        rows = list(csv.DictReader(file))
    return [int(row["epoch"]) for row in rows], [float(row[name]) for row in rows]


def curves(metrics: Path, label: str, title: str) -> Figure:
    """Loss and validation figures by epoch; in the log, ``label`` is before each name."""
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    loss, score = figure.subplots(1, 2)
    for axes, names in (
        (loss, {"train_loss": "training", "val_loss": "validation"}),
        (score, {"val_accuracy": "accuracy", "val_mean_recall": "mean recall"}),
    ):
        for name, text in names.items():
            axes.plot(*read_curve(metrics, label + name), marker="o", markersize=3, label=text)
        finish_curve(axes)
    loss.set(ylabel="loss")
    loss.set_ylim(bottom=0)
    score.set(ylabel="validation part", ylim=(0, 1))
    figure.suptitle(title, fontsize=11, parse_math=False)  # it may name a file with $
    return figure


def finish_curve(axes: Axes) -> None:
    """Grid, legend and whole epochs."""
    axes.set_xlabel("epoch")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(alpha=0.3)
    axes.legend()


def roc(probabilities: Tensor, labels: Tensor) -> Figure:
    """The ROC curve of each class against the others; every class of the labels (N,) has images."""
    figure = Figure(figsize=(5.4, 5), layout="constrained")
    axes = figure.subplots()
    probabilities = probabilities.double()
    false, true, _ = multiclass_roc(probabilities, labels, len(CLASSES))
    areas = multiclass_auroc(probabilities, labels, len(CLASSES), average=None)
    for name, x, y, area in zip(CLASSES, false, true, areas.tolist(), strict=True):
        axes.plot(x.numpy(), y.numpy(), label=f"{name.upper()} {area:.3f}", linewidth=1.3)
    axes.plot((0, 1), (0, 1), color="grey", linestyle=":", linewidth=1)
    axes.set(xlabel="1 - specificity", ylabel="sensitivity", aspect="equal")
    axes.grid(alpha=0.3)
    axes.legend(title="class, area", loc="lower right")
    return figure


def confusion(summary: dict[str, Any], title: str) -> Figure:
    """The normalised confusion matrix of a part, see :func:`draw_confusion`."""
    figure = Figure(figsize=(6.4, 5.8), layout="constrained")
    axes = figure.subplots()
    picture = draw_confusion(axes, summary)
    axes.set_title(title, fontsize=11, parse_math=False)
    figure.colorbar(picture, ax=axes, shrink=0.8)
    return figure


def draw_confusion(axes: Axes, summary: dict[str, Any]) -> AxesImage:
    """Draw the normalised confusion matrix of a part as the paper does: true class along x."""
    matrix, names = summary["confusion_matrix"], summary["classes"]
    picture = axes.imshow(matrix, cmap="Blues", vmin=0, vmax=1)
    for row, values in enumerate(matrix):
        for column, value in enumerate(values):
            colour = "white" if value > 0.5 else "black"
            axes.text(
                column, row, f"{value:.2f}", ha="center", va="center", color=colour, fontsize=9
            )
    images = [summary["per_class"][name]["images"] for name in names]
    axes.set_xticks(range(len(names)), [f"{n}\n({i})" for n, i in zip(names, images, strict=True)])
    axes.set_yticks(range(len(names)), names)
    axes.set(xlabel="true class (images); each column sums to 1", ylabel="predicted class")
    return picture
