"""Batches of uint8 images, their classes, and their places in the index."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset, DistributedSampler

from examples.ham10000 import processes

Sample = tuple[torch.Tensor, int, int]


class SkinLesions(Dataset[Sample]):
    """One part of a split: image, class, and position in the index.

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

    def __getstate__(self) -> dict[str, Any]:
        """Worker processes open the file of the images again instead of copying it."""
        pixels = self.pixels
        file = pixels.filename if isinstance(pixels, np.memmap) else None
        return {**self.__dict__, "pixels": pixels if file is None else file}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Open the file of the images again."""
        self.__dict__.update(state)
        if not isinstance(self.pixels, np.ndarray):
            self.pixels = np.load(self.pixels, mmap_mode="r")

    def __getitem__(self, index: int) -> Sample:
        position = self.positions[index]
        return torch.from_numpy(self.pixels[position].copy()), self.labels[position], position


def training_loader(
    part: SkinLesions, batch_size: int, *, seed: int, workers: int = 0, shared: bool = True
) -> DataLoader[Sample]:
    """Whole batches in an order that is a function of seed and epoch alone.

    Args:
        part: the images.
        batch_size: images of a step, over all processes.
        seed: of the order; the epoch is set with ``loader.sampler.set_epoch``.
        workers: processes that load data.
        shared: each of several training processes gets its share of every batch; False gives all
            of them the same whole batches.
    """
    count, rank = (processes.count(), processes.rank()) if shared else (1, 0)
    size = batch_size // count
    # The sampler adds the epoch to its seed: seeds that lie far apart share no order.
    spread = int(np.random.SeedSequence(seed).generate_state(1)[0])
    sampler: DistributedSampler[Sample] = DistributedSampler(
        part, count, rank, seed=spread, drop_last=True
    )
    return DataLoader(
        part,
        size,
        sampler=sampler,
        drop_last=len(sampler) >= size,
        num_workers=workers,
        persistent_workers=workers > 0,
    )


def evaluation_loader(
    part: SkinLesions, batch_size: int, *, workers: int = 0
) -> DataLoader[Sample]:
    """Every image once, whatever the number of processes.

    Each process gets every n-th image, in as many batches as the others: all of them meet after
    each batch, and none is left waiting.
    """
    count = processes.count()
    if len(part) < count:
        raise ValueError(f"{len(part)} images cannot be shared by {count} processes")
    most = -(-len(part) // count)
    # Never more batches than the smallest share has images: none of them may be empty.
    number = min(-(-most * count // batch_size), len(part) // count)
    batches = np.array_split(np.arange(processes.rank(), len(part), count), number)
    return DataLoader(
        part,
        batch_sampler=[batch.tolist() for batch in batches],
        num_workers=workers,
        persistent_workers=workers > 0,
    )
