"""One trial: a network is fine-tuned, and its gates are read before and after."""

import time
from pathlib import Path
from typing import Any

import torch
from torch import nn

from attnblocks import gate_report
from benchmarks.learning.arms import OWN, Arm
from benchmarks.learning.data import Shown
from benchmarks.warm_start.setup import BATCH_SIZE, IMAGE_SIZE, Lesions
from examples.ham10000.callbacks import EpochLog
from examples.ham10000.data.batches import evaluation_loader, training_loader
from examples.ham10000.data.index import CLASSES
from examples.ham10000.model import Network
from examples.ham10000.module import AugmentedOnCPU, LesionClassifier
from examples.ham10000.trainer import new_trainer

SCHEDULE = "cosine"
FIGURES = ("train_loss", "val_loss", "val_accuracy", "val_mean_recall")


def finetune(
    arm: Arm, network: Network, lesions: Lesions, shown: Shown, *, seed: int, epochs: int, log: Path
) -> dict[str, Any]:
    """Train a network as an arm says.

    Args:
        arm: the rates.
        network: at its start; trained in place.
        lesions: the images.
        shown: those on which gates are read.
        seed: of the training.
        epochs: how many.
        log: a file for the log of the epochs, which is gone at the end.

    Returns:
        A dict for JSON. ``error`` is None, or says that the training broke off with a loss that is
        not finite; ``epochs`` has those before, and ``after`` is None.
    """
    began = time.perf_counter()
    module = AugmentedOnCPU(
        network,
        nn.CrossEntropyLoss(),
        num_classes=len(CLASSES),
        image_size=IMAGE_SIZE,
        seed=seed,
        schedule=SCHEDULE,
        **arm.rates(),
    )
    epoch_log, error = EpochLog(log), None
    before = read_gates(arm, module, shown)
    trainer = new_trainer(
        max_epochs=epochs,
        callbacks=[epoch_log],
        enable_checkpointing=False,
        gradient_clip_val=arm.clip,
    )
    try:
        trainer.fit(
            module,
            training_loader(lesions.part(lesions.train), BATCH_SIZE, seed=seed),
            evaluation_loader(lesions.part(lesions.val), BATCH_SIZE),
        )
    except FloatingPointError as wrong:
        error = str(wrong)
    log.unlink(missing_ok=True)
    return {
        "epochs": [
            {"epoch": row["epoch"], **{name: row[name] for name in FIGURES}}
            for row in epoch_log.rows
        ],
        "error": error,
        "before": before,
        "after": read_gates(arm, module, shown) if error is None else None,
        "lesion_area": shown.masks.double().mean().item() if shown.having else None,
        "seconds": time.perf_counter() - began,
        "device": _device_name(),
    }


def read_gates(arm: Arm, module: LesionClassifier, shown: Shown) -> dict[str, dict[str, Any]]:
    """What each block does to the images; nothing of the network's own SE blocks.

    Returns:
        By site: ``mean`` and ``spread`` of each gate (see :class:`GateStatistics`), and
        ``on_lesion``, the mean share of the attention that lies on the lesion; None for a block
        that gates channels alone, and without masks.
    """
    if arm.start == OWN.start:
        return {}
    module.to("cuda" if torch.cuda.is_available() else "cpu")
    where = None
    if shown.having:
        where = torch.zeros(len(shown.pixels), *shown.masks.shape[1:], dtype=torch.bool)
        where[shown.having] = shown.masks
    report = gate_report(module.model, module.normalise(shown.pixels), where=where)
    return {
        site.name: {
            "mean": {gate.gate: gate.mean for gate in site.gates},
            "spread": {gate.gate: gate.spread for gate in site.gates},
            "on_lesion": site.on_where,
        }
        for site in report.sites
    }


def _device_name() -> str:
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    return f"CPU, {torch.get_num_threads()} threads"
