"""How near features stay to the original's, and what a linear probe reads there."""

import sys
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

from attnblocks import warm_start
from benchmarks.lesions import Lesions, Network
from benchmarks.warm_start.setup import BATCH_SIZE, shown

FITTED, FIT_BATCH = 2048, 64
PROBED = 2000


def fit(network: Network, original: Network, lesions: Lesions, seed: int) -> dict[str, Any]:
    """Warm start on 2,048 training images, drawn by the seed; the blocks change in place."""
    start = time.perf_counter()
    count = min(FITTED, len(lesions.train))
    drawn = np.random.default_rng(seed).choice(lesions.train, count, replace=False).tolist()
    batches = torch.split(shown(network, lesions, drawn), FIT_BATCH)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        found = warm_start(
            network.model.to(device),
            original.model.to(device),
            batches,
            seed=seed,
            progress=sys.stderr.isatty(),
        )
    finally:
        network.model.cpu()
        original.model.cpu()
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
    probed = np.random.default_rng(0).choice(lesions.train, PROBED, replace=False).tolist()
    train, val = (_features(network, lesions, part) for part in (probed, lesions.val))
    target = _features(original, lesions, lesions.val)
    labels = np.array([image.label for image in lesions.images])
    probe = new_probe()
    probe.fit(train.numpy(), labels[probed])
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
    hook = model.get_submodule(network.head).register_forward_pre_hook(
        lambda _, args: found.append(args[0].double())
    )
    for start in range(0, len(positions), BATCH_SIZE):
        model(shown(network, lesions, positions[start : start + BATCH_SIZE]))
    hook.remove()
    return torch.cat(found)
