"""The images, the networks, and what is read off them."""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.metrics import balanced_accuracy_score
from torch import Tensor, nn

from benchmarks.lesions import Lesions, Network
from benchmarks.warm_start.features import PROBED, new_probe
from benchmarks.warm_start.setup import OWN, Arm, original, shown, swapped

BATCH_SIZE = 32
TESTED = 512
"""Images that cosine and recall are read on."""
SWAPPED = ("SE", "SeCo", "CaCo", "CBAM", "CoordAtt", "Eca")
NETWORKS = (OWN, *(Arm(block, init="inherit") for block in SWAPPED))
"""Own SE, and every block in its place, with what it inherits."""

Run = Callable[[Tensor], Tensor]
"""Pooled features (N, F) of images (N, 3, H, W), for any N."""


@dataclass(frozen=True)
class Images:
    """Normalised images, (N, 3, 112, 112) each; those of ``test`` are of other lesions.

    Attributes:
        calibration: what a tool sees, without labels.
        probed: what the probe is trained on, with its labels.
        test: what cosine and recall are read on, with its labels.
    """

    calibration: Tensor
    probed: Tensor
    probed_labels: NDArray[np.int64]
    test: Tensor
    test_labels: NDArray[np.int64]


def load_images(lesions: Lesions, weights: Path, count: int) -> Images:
    """Draw ``count`` training images for calibration, and those that train the probe.

    Raises:
        ValueError: fewer than 2 images, or more than there are besides those of the probe.
    """
    most = len(lesions.train) - PROBED
    if not 2 <= count <= most:  # of one image, torch.export takes the batch for a constant
        raise ValueError(f"images for calibration must be 2 to {most}, got {count}")
    drawn = np.random.default_rng(0).permutation(lesions.train).tolist()
    probed, calibration = drawn[:PROBED], drawn[PROBED : PROBED + count]
    test = np.random.default_rng(1).permutation(lesions.val)[:TESTED].tolist()
    network = original(weights, 0)
    labels = np.array([image.label for image in lesions.images])

    def read(positions: list[int]) -> Tensor:
        return shown(network, lesions, positions).contiguous()

    return Images(read(calibration), read(probed), labels[probed], read(test), labels[test])


def float_features(arm: Arm, weights: Path) -> nn.Module:
    """The float network of an arm in eval mode, which returns what enters its classifier."""
    return without_head(swapped(original(weights, 0), arm))


def without_head(network: Network) -> nn.Module:
    """A copy in eval mode that returns what enters the classifier, (N, F)."""
    model = copy.deepcopy(network.model).eval()
    model.set_submodule(network.head, nn.Identity())
    return model.to(memory_format=torch.contiguous_format)


@torch.no_grad()
def features(run: Run, images: Tensor) -> Tensor:
    """Pooled features, (N, F), float64, computed in batches."""
    return torch.cat([run(batch).double() for batch in torch.split(images, BATCH_SIZE)])


def cosine(found: Tensor, wanted: Tensor) -> float:
    """The cosine between two kinds of features of an image, (N, F) each; mean over the images."""
    return float(torch.cosine_similarity(found, wanted, dim=1).mean())


class Probe:
    """A linear classifier of float features, that reads others too.

    Args:
        features: float features of the images that train it; (N, F).
        labels: theirs.
    """

    def __init__(self, features: Tensor, labels: NDArray[np.int64]) -> None:
        self._fitted = new_probe().fit(features.numpy(), labels)

    def recall(self, features: Tensor, labels: NDArray[np.int64]) -> float:
        """Mean recall of the classes."""
        found = self._fitted.predict(features.numpy())
        return float(balanced_accuracy_score(labels, found))
