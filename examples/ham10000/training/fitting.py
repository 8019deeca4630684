"""Starts that are read off training images, which need no labels for it."""

import numpy as np
import torch
from torch import Tensor

from attnblocks import WarmStart, warm_start
from examples.ham10000 import processes
from examples.ham10000.data.augment import center_crop
from examples.ham10000.data.dataset import SkinLesions
from examples.ham10000.progress import shows_bars
from examples.ham10000.training.constant import hold_means
from examples.ham10000.training.models import Network

IMAGES = 2048
BATCH = 64


def fit_blocks(
    network: Network, original: Network, part: SkinLesions, image_size: int, *, seed: int
) -> WarmStart:
    """Fit the swapped blocks to the original on 2,048 training images.

    Args:
        network: after the swap; its blocks are changed in place.
        original: before it.
        part: the training images, fewer if there are no more.
        image_size: side of the crop that the networks see.
        seed: of the choice of images and of the order of the batches.

    Returns:
        What was achieved on these images.
    """
    images, device = _batches(network, part, image_size, seed), _device()
    try:
        return warm_start(
            network.model.to(device),
            original.model.to(device),
            images,
            seed=seed,
            progress=shows_bars() and processes.rank() == 0,
        )
    finally:
        network.model.cpu()
        original.model.cpu()


def average_gates(
    network: Network, original: Network, part: SkinLesions, image_size: int, *, seed: int
) -> None:
    """Give the constant gates of a network the means of its SE on 2,048 training images.

    Args: as of :func:`fit_blocks`.
    """
    device = _device()
    images = [batch.to(device) for batch in _batches(network, part, image_size, seed)]
    try:
        hold_means(network.model, original.model.to(device), images)
    finally:
        original.model.cpu()


def _batches(network: Network, part: SkinLesions, image_size: int, seed: int) -> tuple[Tensor, ...]:
    """Some training images as the networks see them."""
    count = min(IMAGES, len(part))
    drawn = np.random.default_rng(seed).choice(len(part), count, replace=False)
    pixels = center_crop(torch.stack([part[i][0] for i in drawn]), image_size)
    mean, std = (torch.tensor(v)[:, None, None] for v in (network.mean, network.std))
    batches: tuple[Tensor, ...] = ((pixels / 255 - mean) / std).split(BATCH)  # type: ignore[no-untyped-call]
    return batches


def _device() -> str:
    return f"cuda:{processes.rank_here()}" if torch.cuda.is_available() else "cpu"
