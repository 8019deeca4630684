"""Whether the training is bound by the network, as it should be, or by the data."""

import copy
from time import perf_counter
from typing import Any

import lightning as L
import torch

from examples.ham10000 import processes
from examples.ham10000.callbacks import EpochLog
from examples.ham10000.data.batches import augment
from examples.ham10000.module import Batch, LesionClassifier
from examples.ham10000.processes import shows_bars


class Throughput(L.Callback):
    """Time some steps of the loop, then the network alone on the same batches, and print both.

    The loop loads, augments, logs and trains; the network alone is a plain PyTorch loop over the
    augmented images: forward, backward, optimiser. It works on a copy, once, in the first epoch.

    Args:
        epoch_log: of the run, whose clock does not count the network alone.
        steps: how many steps are timed.
        warm_up: steps before them.
    """

    def __init__(self, epoch_log: EpochLog, steps: int = 8, warm_up: int = 2) -> None:
        self.epoch_log = epoch_log
        self.steps, self.warm_up = steps, warm_up
        self.batches: list[Batch] = []
        self.start = 0.0

    def on_train_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Batch,
        batch_idx: int,
    ) -> None:
        """Start the clock after the warm-up; stop it, time the network and print at the end."""
        last = min(self.warm_up + self.steps, int(trainer.num_training_batches)) - 1
        if trainer.current_epoch > 0 or last <= self.warm_up or batch_idx > last:
            return
        if batch_idx == self.warm_up - 1:
            self.start = _now()
        elif batch_idx >= self.warm_up:
            self.batches.append(batch)
        if batch_idx == last:
            stopped = _now()
            loop = stopped - self.start
            assert isinstance(pl_module, LesionClassifier)
            alone = _time_alone(pl_module, self.batches, trainer)
            self.epoch_log.start += _now() - stopped
            images = sum(len(labels) for _, labels, _ in self.batches) * processes.count()
            self.batches = []
            under_the_bar = "\n" if shows_bars() else ""
            processes.say(
                f"{under_the_bar}images per second: {images / loop:.0f} in the loop, "
                f"{images / alone:.0f} by the network alone on the same batches, "
                f"ratio {alone / loop:.2f}"
            )


def _time_alone(module: LesionClassifier, batches: list[Batch], trainer: L.Trainer) -> float:
    """Seconds of a plain training loop over the batches; one step before them warms it up."""
    model, loss = copy.deepcopy(module.model), copy.deepcopy(module.loss)
    optimizer = torch.optim.AdamW(model.parameters(), lr=module.lr)
    generator = torch.Generator().manual_seed(module.seed)
    inputs = [
        (augment(pixels, module.image_size, generator), labels) for pixels, labels, _ in batches
    ]
    start = 0.0
    with torch.enable_grad():
        for step, (pixels, labels) in enumerate([inputs[0], *inputs]):
            if step == 1:
                start = _now()
            optimizer.zero_grad()
            with trainer.precision_plugin.forward_context():
                output = loss(model(module.normalise(pixels)), labels)
            output.backward()
            optimizer.step()
    return _now() - start


def _now() -> float:
    """The clock, once the device has done all that it was given."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return perf_counter()
