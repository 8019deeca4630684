"""One trial: a network is fine-tuned, and its gates are read before and after."""

import time
import warnings
from functools import partial
from typing import Any

import lightning as L
import torch
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from torch.utils.data import DataLoader

from attnblocks import gate_report
from benchmarks.learning.arms import OWN, Arm
from benchmarks.learning.data import Shown
from benchmarks.learning.module import Classifier, Part, augmentation
from benchmarks.lesions import Lesions, Network, center_crop, normalised
from benchmarks.warm_start.setup import BATCH_SIZE, IMAGE_SIZE


def finetune(
    arm: Arm, network: Network, lesions: Lesions, shown: Shown, *, seed: int, epochs: int
) -> dict[str, Any]:
    """Train a network as an arm says.

    Args:
        arm: the rates.
        network: at its start; trained in place.
        lesions: the images.
        shown: those on which gates are read.
        seed: of the order, the augmentation and the dropout.
        epochs: how many.

    Returns:
        A dict for JSON. ``error`` is None, or says that the training broke off with a loss that is
        not finite; ``epochs`` has those before, and ``after`` is None.
    """
    began, error = time.perf_counter(), None
    before = read_gates(arm, network, shown)
    module = Classifier(network, arm)
    order = torch.Generator().manual_seed(seed)
    train = Part(lesions, lesions.train, augmentation(IMAGE_SIZE))
    val = Part(lesions, lesions.val, partial(center_crop, size=IMAGE_SIZE))
    trainer = _new_trainer(max_epochs=epochs, gradient_clip_val=arm.clip)
    L.seed_everything(seed, verbose=False)
    try:
        trainer.fit(
            module,
            DataLoader(train, BATCH_SIZE, shuffle=True, drop_last=True, generator=order),
            DataLoader(val, BATCH_SIZE),
        )
    except FloatingPointError as wrong:
        error = str(wrong)
    return {
        "epochs": module.rows,
        "error": error,
        "before": before,
        "after": read_gates(arm, network, shown) if error is None else None,
        "lesion_area": shown.masks.double().mean().item() if shown.having else None,
        "seconds": time.perf_counter() - began,
        "device": _device_name(),
    }


def read_gates(arm: Arm, network: Network, shown: Shown) -> dict[str, dict[str, Any]]:
    """What each block does to the images; nothing of the network's own SE blocks.

    Returns:
        By site: ``mean`` and ``spread`` of each gate (see :class:`GateStatistics`), and
        ``on_lesion``, the mean share of the attention that lies on the lesion; None for a block
        that gates channels alone, and without masks.
    """
    if arm.start == OWN.start:
        return {}
    device = "cuda" if torch.cuda.is_available() else "cpu"
    network.model.to(device)
    where = None
    if shown.having:
        where = torch.zeros(len(shown.pixels), *shown.masks.shape[1:], dtype=torch.bool)
        where[shown.having] = shown.masks
    report = gate_report(network.model, normalised(network, shown.pixels.to(device)), where=where)
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


def _new_trainer(**options: Any) -> L.Trainer:
    """A trainer on one device, that writes and draws nothing."""
    # One process is enough to load data that are decoded; the other warning is Lightning's own.
    for message in ("does not have many workers", "LeafSpec"):
        warnings.filterwarnings("ignore", message=f".*{message}.*")
    return L.Trainer(
        devices=1,
        plugins=[LightningEnvironment()],  # and not that of a SLURM job, whose tasks it would count
        # On GPUs some layers have no deterministic form: warn of those instead of failing.
        deterministic="warn" if torch.cuda.is_available() else True,
        logger=False,
        num_sanity_val_steps=0,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **options,
    )
