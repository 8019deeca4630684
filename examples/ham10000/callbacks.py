"""What happens at each epoch beside the training."""

from itertools import islice
from pathlib import Path
from time import perf_counter
from typing import Any

import lightning as L
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim.swa_utils import update_bn

from examples.ham10000 import processes
from examples.ham10000.data.batches import SkinLesions, center_crop, training_loader
from examples.ham10000.files import write_csv
from examples.ham10000.processes import shows_bars

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


class EpochLog(L.Callback):
    """Write all logged figures of every epoch, and the learning rate after it, to a CSV file.

    Lightning's own CSV logger deletes the file when a run is resumed. Here the rows are part of
    the checkpoint, so that file and checkpoint always agree. Where progress is no bar, each row is
    printed too, with the seconds that the epoch took.

    Args:
        file: the CSV file.
    """

    def __init__(self, file: Path) -> None:
        self.file = file
        self.rows: list[dict[str, float]] = []
        self.start = 0.0

    def state_dict(self) -> dict[str, Any]:
        """The rows so far, for the checkpoint."""
        return {"rows": self.rows}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on after the rows of a checkpoint."""
        self.rows = state_dict["rows"]

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Start the clock."""
        self.start = perf_counter()

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Add the row of this epoch, and write the file anew."""
        figures = {name: float(value) for name, value in trainer.callback_metrics.items()}
        rate = trainer.optimizers[0].param_groups[0]["lr"]
        epoch = trainer.current_epoch + 1
        self.rows.append({"epoch": epoch, "lr": rate, **figures})
        if trainer.is_global_zero:
            write_csv(self.file, list(self.rows[0]), [list(row.values()) for row in self.rows])
        if not shows_bars():
            said = ", ".join(f"{name} {value:.4g}" for name, value in sorted(figures.items()))
            seconds = perf_counter() - self.start
            processes.say(
                f"epoch {epoch}/{trainer.max_epochs}: {said}, lr {rate:.2e}, {seconds:.1f} s"
            )
