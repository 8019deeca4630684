"""What Lightning trains: a classifier of uint8 images."""

import math
from collections.abc import Sequence
from typing import Any

import lightning as L
import numpy as np
import torch
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torchmetrics.classification import MulticlassConfusionMatrix

from attnblocks import param_groups
from examples.ham10000 import processes
from examples.ham10000.config import SCHEDULES
from examples.ham10000.data.batches import augment, center_crop
from examples.ham10000.metrics import Predictions, figures
from examples.ham10000.model import Network

Batch = tuple[Tensor, Tensor, Tensor]
"""uint8 pixels (N, 3, S, S), classes (N,), positions of the images in some list (N,)."""


class LesionClassifier(L.LightningModule):
    """A loss, AdamW, the figures of the validation part, and the predictions for a test part.

    Any ``L.Trainer`` trains it, on batches as :data:`Batch`, whatever the classes stand for.

    Args:
        network: the classifier and its normalisation.
        loss: of logits (N, num_classes) and classes (N,), for training.
        num_classes: of the network.
        validation_loss: one without class weights, whose mean over the batches is that over the
            images; default: ``loss``.
        image_size: side of the crop that the network sees, at most S.
        seed: augmentation and dropout are functions of it, the epoch, the step and the process.
        schedule: ``cosine`` lets the learning rates fall to 0 over all steps, ``constant`` keeps
            them.
        warmup_epochs: over so many epochs the rates rise first, by the same amount in each step.
        label: put before the name of every figure, such as ``SYNTHETIC_``.
        image_ids: by position, for the error of a batch whose loss is not finite.
        **rates: of the groups of AdamW, as of :func:`attnblocks.param_groups`; by default ``lr`` is
            5e-4 and ``weight_decay`` 5e-2.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        network: Network,
        loss: nn.Module,
        *,
        num_classes: int,
        validation_loss: nn.Module | None = None,
        image_size: int,
        seed: int = 0,
        schedule: str = "cosine",
        warmup_epochs: float = 0.0,
        label: str = "",
        image_ids: Sequence[str] = (),
        **rates: Any,
    ) -> None:
        super().__init__()
        if schedule not in SCHEDULES:
            raise ValueError(f"schedule must be one of {', '.join(SCHEDULES)}; got {schedule!r}")
        if not 0 <= warmup_epochs < math.inf:
            raise ValueError(f"warmup_epochs must be finite and not below 0, got {warmup_epochs}")
        # The faster of torch's two formats, for training on CPUs as on GPUs.
        self.model = network.model.to(memory_format=torch.channels_last)
        self.loss = loss
        self.validation_loss = loss if validation_loss is None else validation_loss
        self.register_buffer("mean", torch.tensor(network.mean)[:, None, None], persistent=False)
        self.register_buffer("std", torch.tensor(network.std)[:, None, None], persistent=False)
        self.image_size, self.seed = image_size, seed
        self.groups = param_groups(self, **{"lr": 5e-4, "weight_decay": 5e-2, **rates})
        self.schedule, self.warmup_epochs = schedule, warmup_epochs
        self.label, self.image_ids = label, image_ids
        self.val_counts = MulticlassConfusionMatrix(num_classes)
        self.predictions = Predictions()

    def forward(self, pixels: Tensor) -> Tensor:
        """Logits (N, num_classes) of uint8 images (N, 3, image_size, image_size)."""
        logits: Tensor = self.model(self.normalise(pixels))
        return logits

    def normalise(self, pixels: Tensor) -> Tensor:
        """What the network sees of uint8 images: (pixels / 255 - mean) / std, channels-last."""
        inputs = (pixels.to(self.device) / 255 - self.mean) / self.std
        return inputs.contiguous(memory_format=torch.channels_last)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """The loss of one batch; FloatingPointError where it is not finite any more."""
        pixels, labels, positions = batch
        draws = np.random.SeedSequence((self.seed, self.current_epoch, batch_idx, processes.rank()))
        for_images, for_dropout = map(int, draws.generate_state(2))
        generator = torch.Generator().manual_seed(for_images)
        torch.manual_seed(for_dropout)  # layers draw from the global generators only
        loss: Tensor = self.loss(self(augment(pixels, self.image_size, generator)), labels)
        if not torch.isfinite(loss):
            places = positions.tolist()
            images = [self.image_ids[i] for i in places] if self.image_ids else map(str, places)
            raise FloatingPointError(
                f"the loss is {loss.item()} in epoch {self.current_epoch + 1}, step "
                f"{batch_idx + 1}: lower --lr. Images of the step: {', '.join(images)}"
            )
        name, size = f"{self.label}train_loss", len(labels)
        self.log(
            name, loss, on_step=False, on_epoch=True, prog_bar=True, sync_dist=True, batch_size=size
        )
        return loss

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Count one batch of the validation part."""
        pixels, labels, _ = batch
        logits = self(center_crop(pixels, self.image_size))
        loss = self.validation_loss(logits, labels)
        self.log(f"{self.label}val_loss", loss, sync_dist=True, batch_size=len(labels))
        self.val_counts.update(logits, labels)

    def on_validation_epoch_end(self) -> None:
        """Log the figures of the validation part."""
        found = figures(self.val_counts.compute())
        self.val_counts.reset()
        for name, shown in (("accuracy", True), ("mean_recall", True), ("macro_f1", False)):
            value = found[name].to(self.device, torch.float32)
            self.log(f"{self.label}val_{name}", value, prog_bar=shown, sync_dist=True)

    def on_test_epoch_start(self) -> None:
        """Forget the predictions of an earlier part."""
        self.predictions.reset()

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        """Keep the logits of one batch in ``predictions``."""
        pixels, _, positions = batch
        logits = self(center_crop(pixels, self.image_size))
        self.predictions.update(positions, logits.float())

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """AdamW over all parameters, in groups; the rates change step by step.

        In the warm-up they rise from 1 / (steps of it + 1) to the 1 of the step behind it.
        """
        # An optimizer writes into the groups that it is given.
        optimizer = torch.optim.AdamW([dict(group) for group in self.groups])
        if self.schedule == "constant" and self.warmup_epochs == 0:
            return optimizer
        steps, epochs = int(self.trainer.estimated_stepping_batches), self.trainer.max_epochs
        assert epochs is not None
        if self.warmup_epochs >= epochs:
            raise ValueError(
                f"warmup_epochs must be below the {epochs} epochs of the training, got "
                f"{self.warmup_epochs:g}"
            )
        # Of few steps, one is left after the warm-up.
        warmup = min(round(self.warmup_epochs * steps / epochs), steps - 1)

        def share(step: int) -> float:
            if step < warmup:
                return (step + 1) / (warmup + 1)
            if self.schedule == "constant":
                return 1.0
            return (1 + math.cos(math.pi * (step - warmup) / (steps - warmup))) / 2

        rates = torch.optim.lr_scheduler.LambdaLR(optimizer, share)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": rates, "interval": "step"}}


class AugmentedOnCPU(LesionClassifier):
    """The same training, with images that stay on the CPU until they are cropped and augmented.

    On a GPU that is some 200 small kernels and 20 waits in each step, which slow down all processes
    that share it; cores to do it instead are there.
    """

    def transfer_batch_to_device(
        self, batch: Batch, device: torch.device, dataloader_idx: int
    ) -> Batch:
        """Move all but the pixels."""
        pixels, labels, positions = batch
        return pixels, labels.to(device), positions
