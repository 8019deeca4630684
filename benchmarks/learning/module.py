"""What a trial trains: a network at the rates of its arm, with figures after every epoch."""

import math
from collections.abc import Callable, Sequence

import lightning as L
import torch
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import Dataset
from torchmetrics.classification import MulticlassAccuracy
from torchvision.transforms import v2

from attnblocks import param_groups
from benchmarks.learning.arms import Arm
from benchmarks.lesions import CLASSES, Lesions, Network, normalised

FIGURES = ("train_loss", "val_loss", "val_accuracy", "val_mean_recall")
FACTORS = (0.8, 0.9, 1.1, 1.2)

Batch = tuple[Tensor, Tensor]
"""uint8 pixels (N, 3, S, S), classes (N,)."""


def augmentation(image_size: int) -> v2.Transform:
    """Random crop; flips; a turn by 0, 90 or 180 degrees; a change of the colours, or none."""
    kinds = ("brightness", "contrast", "saturation")
    colours = [v2.ColorJitter(**{kind: (f, f)}) for kind in kinds for f in FACTORS]
    turns = [v2.RandomRotation((angle, angle)) for angle in (90, 180)]
    return v2.Compose(
        [
            v2.RandomCrop(image_size),
            v2.RandomHorizontalFlip(),
            v2.RandomVerticalFlip(),
            v2.RandomChoice([v2.Identity(), *turns]),
            v2.RandomChoice([v2.Identity(), *colours]),
        ]
    )


class Part(Dataset[tuple[Tensor, int]]):
    """Some of the images, each as a transform gives it, and their classes."""

    def __init__(
        self, lesions: Lesions, positions: Sequence[int], transform: Callable[[Tensor], Tensor]
    ) -> None:
        self.lesions, self.positions, self.transform = lesions, positions, transform

    def __len__(self) -> int:
        return len(self.positions)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        position = self.positions[index]
        pixels = torch.from_numpy(self.lesions.pixels[position].copy())
        return self.transform(pixels), self.lesions.images[position].label


class Classifier(L.LightningModule):
    """Cross entropy and AdamW in groups; ``rows`` has the figures of every epoch that ended."""

    def __init__(self, network: Network, arm: Arm) -> None:
        super().__init__()
        # The faster of torch's two formats, for training on CPUs as on GPUs.
        self.model = network.model.to(memory_format=torch.channels_last)
        self.network, self.arm = network, arm
        self.val_accuracy = MulticlassAccuracy(len(CLASSES), average="micro")
        self.val_mean_recall = MulticlassAccuracy(len(CLASSES), average="macro")
        self.rows: list[dict[str, float]] = []

    def forward(self, pixels: Tensor) -> Tensor:
        """Logits (N, 7) of uint8 images (N, 3, S, S)."""
        logits: Tensor = self.model(normalised(self.network, pixels))
        return logits

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """The loss of one batch; FloatingPointError where it is not finite any more."""
        pixels, labels = batch
        loss = F.cross_entropy(self(pixels), labels)
        if not torch.isfinite(loss):
            epoch, step = self.current_epoch + 1, batch_idx + 1
            raise FloatingPointError(f"the loss is {loss.item()} in epoch {epoch}, step {step}")
        self.log("train_loss", loss, on_step=False, on_epoch=True, batch_size=len(labels))
        return loss

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Count one batch."""
        pixels, labels = batch
        logits = self(pixels)
        self.log("val_loss", F.cross_entropy(logits, labels), batch_size=len(labels))
        for name in ("val_accuracy", "val_mean_recall"):
            metric = getattr(self, name)
            metric.update(logits, labels)
            self.log(name, metric)

    def on_train_epoch_end(self) -> None:
        """Keep the figures of the epoch."""
        found = self.trainer.callback_metrics
        figures = {name: float(found[name]) for name in FIGURES}
        self.rows.append({"epoch": self.current_epoch + 1, **figures})

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """AdamW, whose rates rise over the warm-up and then fall to 0 along a cosine."""
        optimizer = torch.optim.AdamW(param_groups(self.model, **self.arm.rates()))
        steps, epochs = int(self.trainer.estimated_stepping_batches), self.trainer.max_epochs
        assert epochs is not None
        warmup = min(round(self.arm.warmup_epochs * steps / epochs), steps - 1)

        def share(step: int) -> float:
            if step < warmup:
                return (step + 1) / (warmup + 1)
            return (1 + math.cos(math.pi * (step - warmup) / (steps - warmup))) / 2

        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, share)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}
