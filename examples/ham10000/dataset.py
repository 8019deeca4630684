"""Batches of uint8 images and their classes."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset

Sample = tuple[torch.Tensor, int]


class SkinLesions(Dataset[Sample]):
    """One part of a split.

    Args:
        pixels: uint8, (N, 3, S, S), all images.
        labels: class of every image.
        positions: the images of this part.
    """

    def __init__(
        self, pixels: NDArray[np.uint8], labels: Sequence[int], positions: Sequence[int]
    ) -> None:
        self.pixels, self.labels, self.positions = pixels, labels, positions

    def __len__(self) -> int:
        return len(self.positions)

    def __getitem__(self, index: int) -> Sample:
        position = self.positions[index]
        return torch.from_numpy(self.pixels[position].copy()), self.labels[position]


def loader(
    part: SkinLesions, batch_size: int, *, seed: int | None = None, workers: int = 0
) -> DataLoader[Sample]:
    """Batches of a part: shuffled from ``seed`` and all whole, or in order without a seed."""
    shuffled = seed is not None
    generator = None if seed is None else torch.Generator().manual_seed(seed)
    return DataLoader(
        part,
        batch_size,
        shuffle=shuffled,
        drop_last=shuffled and len(part) >= batch_size,
        generator=generator,
        num_workers=workers,
        persistent_workers=workers > 0,
    )
