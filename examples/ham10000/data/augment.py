"""The paper's augmentation on uint8 batches, and the crop that evaluation uses instead."""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as F

Operation = Callable[[Tensor], Tensor]

TURNS: list[Operation | None] = [
    None,
    partial(F.rotate, angle=90),
    partial(F.rotate, angle=180),
]
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
    """Side of the stored square: image_size plus the margin that the random crop moves in.

    The ratio 8/7 is that of ImageNet evaluation, 256 to 224.
    """
    return round(image_size * 8 / 7)


def center_crop(images: Tensor, image_size: int) -> Tensor:
    """The centre of the stored squares, for evaluation."""
    cropped: Tensor = F.center_crop(images, [image_size, image_size])
    return cropped


def augment(images: Tensor, image_size: int, generator: torch.Generator) -> Tensor:
    """Crop, flip, turn and recolour a batch; every image has draws of its own.

    Random crop; horizontal and vertical flip with probability 1/2 each; rotation by 0, 90 or 180
    degrees; brightness, contrast or saturation times one of :data:`FACTORS`, or none of them. The
    crop and the colour change are a reading of damaged text in the paper.

    Args:
        images: uint8, (N, 3, S, S).
        image_size: side of the crop, at most S.
        generator: a CPU generator; the only source of randomness.

    Returns:
        uint8, (N, 3, image_size, image_size).
    """
    count, margin = len(images), images.shape[-1] - image_size

    def draw(options: int) -> Tensor:
        return torch.randint(options, (count,), generator=generator)

    corners = zip(draw(margin + 1).tolist(), draw(margin + 1).tolist(), strict=True)
    size = (image_size, image_size)
    images = torch.stack(
        [F.crop(image, *corner, *size) for image, corner in zip(images, corners, strict=True)]
    )
    for operations in ([None, F.horizontal_flip], [None, F.vertical_flip], TURNS, COLOUR_CHANGES):
        _change(images, draw(len(operations)), operations)
    return images


def _change(images: Tensor, drawn: Tensor, operations: list[Operation | None]) -> None:
    """Apply to each image, in place, the operation that it drew; None leaves it alone."""
    for number, operation in enumerate(operations):
        chosen = (drawn == number).nonzero().squeeze(1).to(images.device)
        if operation is not None and len(chosen):
            images[chosen] = operation(images[chosen])
