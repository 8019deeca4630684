"""The figures of a run, from one-against-rest counts, each under an unmistakable name."""

from typing import Any

import torch
from torch import Tensor
from torchmetrics import MetricCollection
from torchmetrics.classification import (
    MulticlassAccuracy,
    MulticlassConfusionMatrix,
    MulticlassRecall,
    MulticlassSpecificity,
)

from examples.ham10000.data import CLASSES


def new_metrics() -> MetricCollection:
    """What is counted over the images of a part; predictions are logits (N, 7)."""
    count = len(CLASSES)
    return MetricCollection(
        {
            "accuracy": MulticlassAccuracy(count, average="micro"),
            "sensitivity": MulticlassRecall(count, average="none"),
            "specificity": MulticlassSpecificity(count, average="none"),
            "confusion": MulticlassConfusionMatrix(count),
        }
    )


def summarise(values: dict[str, Tensor]) -> dict[str, Any]:
    """Turn what :func:`new_metrics` computed into the figures of a report.

    ``mean_recall`` is what the ISIC challenges call balanced accuracy, and most likely what the
    paper's BACC column holds. ``bacc_formula`` is the equation that the paper prints,
    (sensitivity + specificity) / 2, here the mean over the classes: another, larger number.

    Args:
        values: accuracy, and per class sensitivity, specificity and confusion counts
            (rows are the true class).

    Returns:
        A dict for JSON. The columns of ``confusion_matrix`` are the true class and sum to 1, its
        rows the prediction, both in the order of ``classes``.
    """
    sensitivity, specificity = values["sensitivity"].double(), values["specificity"].double()
    bacc = (sensitivity + specificity) / 2
    counts = values["confusion"]
    images = counts.sum(dim=1)
    return {
        "images": int(images.sum()),
        "accuracy": values["accuracy"].item(),
        "mean_recall": sensitivity.mean().item(),
        "bacc_formula": bacc.mean().item(),
        "classes": [name.upper() for name in CLASSES],
        "per_class": {
            name.upper(): {
                "images": int(images[i]),
                "sensitivity": sensitivity[i].item(),
                "specificity": specificity[i].item(),
                "bacc_formula": bacc[i].item(),
            }
            for i, name in enumerate(CLASSES)
        },
        "confusion_matrix": (counts.double() / images[:, None]).T.tolist(),
        "confusion_counts": counts.T.to(torch.int64).tolist(),
    }
