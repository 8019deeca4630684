"""What Lightning trains: a classifier of uint8 images."""

from typing import Any

import lightning as L
import numpy as np
import torch
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor
from torch.nn import functional as F

from examples.ham10000.augment import augment, center_crop
from examples.ham10000.metrics import new_counts, summarise
from examples.ham10000.models import Network

SCHEDULES = ("cosine", "constant")


class LesionClassifier(L.LightningModule):
    """Cross entropy, AdamW, and the metrics of the validation and test parts.

    Args:
        network: the classifier and its normalisation.
        image_size: side of the crop that the network sees.
        seed: of the augmentation, whose draws are a function of seed, epoch and step.
        lr: learning rate of AdamW.
        weight_decay: of AdamW, on every parameter.
        schedule: ``cosine`` lets the rate fall to 0 over all steps, ``constant`` keeps it.
        label: put before the name of every figure, such as ``SYNTHETIC_``.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        network: Network,
        *,
        image_size: int,
        seed: int,
        lr: float,
        weight_decay: float,
        schedule: str,
        label: str,
    ) -> None:
        super().__init__()
        if schedule not in SCHEDULES:
            raise ValueError(f"schedule must be one of {', '.join(SCHEDULES)}; got {schedule!r}")
        self.model = network.model
        self.register_buffer("mean", torch.tensor(network.mean)[:, None, None], persistent=False)
        self.register_buffer("std", torch.tensor(network.std)[:, None, None], persistent=False)
        self.image_size, self.seed = image_size, seed
        self.lr, self.weight_decay, self.schedule, self.label = lr, weight_decay, schedule, label
        self.val_counts, self.test_counts = new_counts(), new_counts()
        self.test_summary: dict[str, Any] = {}

    def forward(self, pixels: Tensor) -> Tensor:
        """Logits (N, 7) of uint8 images (N, 3, image_size, image_size)."""
        logits: Tensor = self.model((pixels / 255 - self.mean) / self.std)
        return logits

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """Cross entropy of one batch; FloatingPointError where it is not finite any more."""
        pixels, labels = batch
        draws = np.random.SeedSequence((self.seed, self.current_epoch, batch_idx))
        generator = torch.Generator().manual_seed(int(draws.generate_state(1)[0]))
        loss = F.cross_entropy(self(augment(pixels, self.image_size, generator)), labels)
        if not torch.isfinite(loss):
            raise FloatingPointError(
                f"the loss is {loss.item()} in epoch {self.current_epoch + 1}, step "
                f"{batch_idx + 1}: lower --lr"
            )
        self.log(f"{self.label}train_loss", loss, on_step=False, on_epoch=True, prog_bar=True)
        return loss

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """Count one batch of the validation part."""
        pixels, labels = batch
        logits = self(center_crop(pixels, self.image_size))
        self.log(f"{self.label}val_loss", F.cross_entropy(logits, labels))
        self.val_counts.update(logits, labels)

    def on_validation_epoch_end(self) -> None:
        """Log the figures of the validation part."""
        figures = summarise(self.val_counts.compute())
        self.val_counts.reset()
        for name in ("accuracy", "mean_recall"):
            self.log(f"{self.label}val_{name}", figures[name], prog_bar=True)

    def test_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """Count one batch of the test part."""
        pixels, labels = batch
        self.test_counts.update(self(center_crop(pixels, self.image_size)), labels)

    def on_test_epoch_end(self) -> None:
        """Keep the figures of the test part in ``test_summary``."""
        self.test_summary = summarise(self.test_counts.compute())

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """AdamW over all parameters; the cosine falls step by step."""
        optimizer = torch.optim.AdamW(self.parameters(), lr=self.lr, weight_decay=self.weight_decay)
        if self.schedule == "constant":
            return optimizer
        scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(
            optimizer, int(self.trainer.estimated_stepping_batches)
        )
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": scheduler, "interval": "step"},
        }
