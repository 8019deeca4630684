"""Batches of uint8 images: order, augmentation, and the crop that evaluation uses."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, DistributedSampler
from torchvision.transforms.v2 import functional as F

from examples.ham10000 import processes

Operation = Callable[[Tensor], Tensor]

FLIPS: list[list[Operation | None]] = [[None, F.horizontal_flip], [None, F.vertical_flip]]
TURNS: list[Operation | None] = [None, *(partial(F.rotate, angle=angle) for angle in (90, 180))]
FACTORS = (0.8, 0.9, 1.1, 1.2)
# A few fixed factors, so that the images that drew the same change are changed together: on a CPU
# that takes a fifth of the time of one call per image.
COLOUR_CHANGES: list[Operation | None] = [
    None,
    *(partial(F.adjust_brightness, brightness_factor=f) for f in FACTORS),
    *(partial(F.adjust_contrast, contrast_factor=f) for f in FACTORS),
    *(partial(F.adjust_saturation, saturation_factor=f) for f in FACTORS),
]


def canvas_size(image_size: int) -> int:
    """Side of the stored square, in which the random crop moves: 256 for 224, as of ImageNet."""
    return round(image_size * 8 / 7)


def center_crop(images: Tensor, image_size: int) -> Tensor:
    """The centre of the stored squares, for evaluation."""
    cropped: Tensor = F.center_crop(images, [image_size, image_size])
    return cropped


def augment(images: Tensor, image_size: int, generator: torch.Generator) -> Tensor:
    """Crop, flip, turn and recolour a batch; every image has draws of its own.

    From uint8, (N, 3, S, S), to (N, 3, image_size, image_size). The crop and the colour change are
    a reading of damaged text in the paper. ``generator``, of the CPU, is the only randomness.
    """
    count, places = len(images), images.shape[-1] - image_size + 1

    def draw(options: int) -> Tensor:
        return torch.randint(options, (count,), generator=generator)

    corners = zip(draw(places).tolist(), draw(places).tolist(), strict=True)
    size = (image_size, image_size)
    images = torch.stack(
        [F.crop(image, *corner, *size) for image, corner in zip(images, corners, strict=True)]
    )
    for operations in (*FLIPS, TURNS, COLOUR_CHANGES):
        drawn = draw(len(operations))
        for number, operation in enumerate(operations):
            chosen = (drawn == number).nonzero().squeeze(1).to(images.device)
            if operation is not None and len(chosen):
                images[chosen] = operation(images[chosen])
    return images


Sample = tuple[torch.Tensor, int, int]


class SkinLesions(Dataset[Sample]):
    """One part of a split: image, class, and position in the index.

    ``pixels``, uint8 (N, 3, S, S), and ``labels`` are of all images, ``positions`` of the part's.
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

    The epoch is set with ``loader.sampler.set_epoch``. Each of several training processes gets its
    share of every batch of ``batch_size`` images, or the same whole batches unless ``shared``.
    """
    count, rank = (processes.count(), processes.rank()) if shared else (1, 0)
    size = batch_size // count
    # The sampler adds the epoch to its seed: seeds that lie far apart share no order.
    spread = int(np.random.SeedSequence(seed).generate_state(1)[0])
    sampler: DistributedSampler[Sample] = DistributedSampler(
        part, count, rank, seed=spread, drop_last=True
    )
    whole = len(sampler) >= size
    return _loader(part, workers, batch_size=size, sampler=sampler, drop_last=whole)


def evaluation_loader(
    part: SkinLesions, batch_size: int, *, workers: int = 0
) -> DataLoader[Sample]:
    """Every image once; each process gets every n-th image, in as many batches as the others.

    All of them meet after each batch, and none may be left waiting.
    """
    count = processes.count()
    if len(part) < count:
        raise ValueError(f"{len(part)} images cannot be shared by {count} processes")
    most = -(-len(part) // count)
    # Never more batches than the smallest share has images: none of them may be empty.
    number = min(-(-most * count // batch_size), len(part) // count)
    batches = np.array_split(np.arange(processes.rank(), len(part), count), number)
    return _loader(part, workers, batch_sampler=[batch.tolist() for batch in batches])


def _loader(part: SkinLesions, workers: int, **order: Any) -> DataLoader[Sample]:
    return DataLoader(part, num_workers=workers, persistent_workers=workers > 0, **order)
