"""Batches: which images, and how each is cropped, turned and recoloured."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import v2

Sample = tuple[torch.Tensor, int]


def canvas_size(image_size: int) -> int:
    """Side of the stored square: image_size plus the margin that the random crop moves in.

    The ratio 8/7 is that of ImageNet evaluation, 256 to 224.
    """
    return round(image_size * 8 / 7)


def train_transform(image_size: int) -> v2.Transform:
    """The paper's augmentation; its crop and its colour change are a reading of damaged text."""
    return v2.Compose(
        [
            v2.RandomCrop(image_size),
            v2.RandomHorizontalFlip(),
            v2.RandomVerticalFlip(),
            v2.RandomChoice(
                [v2.Identity(), v2.RandomRotation((90, 90)), v2.RandomRotation((180, 180))]
            ),
            v2.ColorJitter(brightness=0.2, contrast=0.2, saturation=0.2),
        ]
    )


def eval_transform(image_size: int) -> v2.Transform:
    """The centre of the stored square."""
    return v2.CenterCrop(image_size)


class SkinLesions(Dataset[Sample]):
    """One part of a split.

    Args:
        pixels: uint8, (N, 3, S, S), all images.
        labels: class of every image.
        positions: the images of this part.
        transform: applied to each image on its own.
    """

    def __init__(
        self,
        pixels: NDArray[np.uint8],
        labels: Sequence[int],
        positions: Sequence[int],
        transform: v2.Transform,
    ) -> None:
        self.pixels, self.labels, self.positions = pixels, labels, positions
        self.transform = transform

    def __len__(self) -> int:
        return len(self.positions)

    def __getitem__(self, index: int) -> Sample:
        position = self.positions[index]
        image = torch.from_numpy(self.pixels[position].copy())  # (3, S, S)
        return self.transform(image), self.labels[position]


def loader(
    part: SkinLesions, batch_size: int, *, seed: int | None = None, workers: int = 0
) -> DataLoader[Sample]:
    """Batches of a part: shuffled from ``seed``, the last one whole; in order without a seed."""
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
