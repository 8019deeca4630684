"""Batch norm statistics that show what a network has learned."""

from itertools import islice

import lightning as L
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim.swa_utils import update_bn

from examples.ham10000.data.augment import center_crop
from examples.ham10000.data.dataset import SkinLesions, training_loader

USUAL_MOMENTUM = 0.1
"""PyTorch's default. torchvision's MobileNetV3 has 0.01, and its statistics lag for epochs."""


def batch_norms(model: nn.Module) -> list[_BatchNorm]:
    """All batch norms of a network."""
    return [module for module in model.modules() if isinstance(module, _BatchNorm)]


def statistics_lag(model: nn.Module) -> bool:
    """Whether some batch norm averages over more steps than PyTorch's default does."""
    momenta = [module.momentum for module in batch_norms(model)]
    return any(momentum is not None and momentum < USUAL_MOMENTUM for momentum in momenta)


class RecomputeBatchNorm(L.Callback):
    """Compute the running statistics anew on training images before each validation.

    The images are the same in every epoch and in every process, so that all processes validate
    one network.

    Args:
        part: training images; they get the crop of the evaluation.
        batch_size: images of a batch.
        image_size: side of that crop.
        seed: of the choice of images.
        count: how many batches to use.
    """

    def __init__(
        self, part: SkinLesions, batch_size: int, image_size: int, *, seed: int, count: int = 32
    ) -> None:
        self.batches = training_loader(part, batch_size, seed=seed, shared=False)
        self.image_size, self.count = image_size, count

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Replace the statistics of all batch norms of the module."""
        batches = islice(self.batches, self.count)
        images = (center_crop(pixels, self.image_size) for pixels, _, _ in batches)
        update_bn(images, pl_module, pl_module.device)
