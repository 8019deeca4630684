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
from examples.ham10000.config import Config
from examples.ham10000.data.batches import SkinLesions, center_crop, training_loader
from examples.ham10000.files import write_csv


def recomputes_bn(config: Config, model: nn.Module) -> bool:
    """Whether batch norm statistics are recomputed before each validation.

    ``auto`` says so where some average over more steps than PyTorch's default does: those of
    torchvision's MobileNetV3 lag for epochs. ValueError for ``yes`` where there are none.
    """
    momenta = [layer.momentum for layer in model.modules() if isinstance(layer, _BatchNorm)]
    if config.recompute_bn == "yes" and not momenta:
        raise ValueError(f"--recompute-bn yes: {config.model} has no batch norm")
    if config.recompute_bn == "auto":
        return any(momentum is not None and momentum < 0.1 for momentum in momenta)
    return config.recompute_bn == "yes"


class RecomputeBatchNorm(L.Callback):
    """Compute the running statistics anew on training images before each validation.

    They are of ``count`` batches with the crop of the evaluation, whose side is ``image_size``: the
    same in every epoch and in every process, so that all processes validate one network.
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
        if not processes.shows_bars():
            said = ", ".join(f"{name} {value:.4g}" for name, value in sorted(figures.items()))
            seconds = perf_counter() - self.start
            processes.say(
                f"epoch {epoch}/{trainer.max_epochs}: {said}, lr {rate:.2e}, {seconds:.1f} s"
            )
