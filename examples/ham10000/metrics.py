"""The figures of a run, from one-against-rest counts, each under an unmistakable name."""

from typing import Any

from torch import Tensor
from torchmetrics.classification import MulticlassConfusionMatrix

from examples.ham10000.data import CLASSES


def new_counts() -> MulticlassConfusionMatrix:
    """What is counted over the images of a part; predictions are logits (N, 7)."""
    return MulticlassConfusionMatrix(len(CLASSES))


def summarise(counts: Tensor) -> dict[str, Any]:
    """Turn what :func:`new_counts` computed into the figures of a report.

    ``mean_recall`` is what the ISIC challenges call balanced accuracy, and most likely what the
    paper's BACC column holds. ``bacc_formula`` is the equation that the paper prints,
    (sensitivity + specificity) / 2, here the mean over the classes: another, larger number.

    Args:
        counts: images by true class (rows) and predicted class (columns), (7, 7); every class has
            images.

    Returns:
        A dict for JSON. The columns of ``confusion_matrix`` are the true class and sum to 1, its
        rows the prediction, both in the order of ``classes``.
    """
    counts = counts.cpu()
    exact = counts.double()
    images, predicted, total = exact.sum(dim=1), exact.sum(dim=0), exact.sum()
    hits = exact.diagonal()  # true positives
    sensitivity = hits / images
    specificity = (total - images - predicted + hits) / (total - images)  # TN / (TN + FP)
    bacc = (sensitivity + specificity) / 2
    return {
        "images": int(total),
        "accuracy": (hits.sum() / total).item(),
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
        "confusion_matrix": (exact / images[:, None]).T.tolist(),
        "confusion_counts": counts.T.tolist(),
    }
