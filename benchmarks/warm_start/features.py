"""How near features stay to the original's, and what a linear probe reads there."""

import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor

from benchmarks.warm_start.setup import BATCH_SIZE, IMAGE_SIZE, Lesions, normalised
from examples.ham10000.model import Network
from examples.ham10000.run import fit_blocks

PROBED = 2000


def fit(network: Network, original: Network, lesions: Lesions, seed: int) -> dict[str, Any]:
    """Warm start as in the pipeline; the seed draws the images too."""
    start = time.perf_counter()
    part = lesions.part(lesions.train)
    found = fit_blocks(network, original, part, IMAGE_SIZE, seed=seed)
    return {
        "seconds": time.perf_counter() - start,
        "threads": torch.get_num_threads(),
        "fitted_to": found.after,
        "sites": {site.name: [site.before, site.after] for site in found.sites},
    }


def measure(network: Network, original: Network, lesions: Lesions) -> dict[str, float]:
    """Relative L2 error of the pooled features on the validation part, and a probe's mean recall.

    The probe is a logistic regression with balanced class weights on standardised features of
    2,000 training images, read on the validation part. Pooled features are what enters the
    classifier.
    """
    shown = np.random.default_rng(0).choice(lesions.train, PROBED, replace=False).tolist()
    train, val = (_features(network, lesions, part) for part in (shown, lesions.val))
    target = _features(original, lesions, lesions.val)
    labels = np.array([image.label for image in lesions.images])
    probe = new_probe()
    probe.fit(train.numpy(), labels[shown])
    return {
        "error": float((val - target).norm() / target.norm()),
        "probe": balanced_accuracy_score(labels[lesions.val], probe.predict(val.numpy())),
    }


def new_probe() -> Pipeline:
    """An untrained logistic regression on standardised features; all classes weigh the same."""
    return make_pipeline(
        StandardScaler(), LogisticRegression(C=1e-3, class_weight="balanced", max_iter=1000)
    )


@torch.no_grad()
def _features(network: Network, lesions: Lesions, positions: Sequence[int]) -> Tensor:
    """What enters the classifier; (N, F), float64."""
    model = network.model.eval()
    found: list[Tensor] = []
    (head,) = network.head
    hook = model.get_submodule(head).register_forward_pre_hook(
        lambda _, args: found.append(args[0].double())
    )
    for start in range(0, len(positions), BATCH_SIZE):
        model(normalised(network, lesions, positions[start : start + BATCH_SIZE]))
    hook.remove()
    return torch.cat(found)
