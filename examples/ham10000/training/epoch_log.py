"""The log of a run: one row per epoch, which a resumed run goes on with."""

from pathlib import Path
from time import perf_counter
from typing import Any

import lightning as L

from examples.ham10000 import processes
from examples.ham10000.files import write_csv
from examples.ham10000.progress import shows_bars


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
