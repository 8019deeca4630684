"""Train a run, from its start or from the last epoch that was finished."""

import os
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import ModelCheckpoint
from torch.utils.data import DistributedSampler

from examples.ham10000.callbacks import EpochLog, RecomputeBatchNorm, recomputes_bn
from examples.ham10000.checkpoint import WholeCheckpointIO, read_checkpoint
from examples.ham10000.config import MONITORS, Config, read_description
from examples.ham10000.data.batches import evaluation_loader, training_loader
from examples.ham10000.data.load import Data
from examples.ham10000.data.splits import count_classes
from examples.ham10000.losses import (
    LDAM,
    DeferredReweighting,
    Joint,
    balanced_weights,
    build_loss,
    drw_weights,
)
from examples.ham10000.model import Network
from examples.ham10000.module import AugmentedOnCPU, LesionClassifier
from examples.ham10000.rules import gates_with_rate
from examples.ham10000.trainer import new_trainer, signals_raised


def train(config: Config, data: Data, network: Network, *, crowded: bool = False) -> None:
    """Train to ``best.ckpt`` and ``last.ckpt``, from which a run that was stopped goes on.

    The network is trained in place; ``crowded`` says that other runs share the machine.
    FloatingPointError if the loss is not finite; ValueError if the run cannot go on from where it
    was.
    """
    counts = list(count_classes(data.images, data.split)["train"].values())
    module = _module(config, data, network, counts, crowded=crowded)
    part, size = data.part("train"), config.batch_size
    batches = training_loader(part, size, seed=config.seed, workers=config.workers)
    validation = evaluation_loader(data.part("val"), size, workers=config.workers)
    last = config.out / "last.ckpt"
    resumed = last.exists()
    if resumed:
        # Workers load the first batches before Lightning has told the sampler the epoch.
        assert isinstance(batches.sampler, DistributedSampler)
        batches.sampler.set_epoch(_epochs_done(config.out, module))
    callbacks: list[L.Callback] = [
        EpochLog(config.out / "metrics.csv"),
        *_checkpoints(config.out, f"{data.label}{config.monitor}", MONITORS[config.monitor]),
    ]
    if recomputes_bn(config, network.model):
        callbacks.append(RecomputeBatchNorm(part, size, config.image_size, seed=config.seed))
    if isinstance(loss := module.loss, LDAM | Joint):
        ldam = loss if isinstance(loss, LDAM) else loss.ldam
        start = round(config.drw_start * config.epochs)
        callbacks.append(DeferredReweighting(ldam, drw_weights(counts), start))
    trainer = new_trainer(
        max_epochs=config.epochs,
        callbacks=callbacks,
        gradient_clip_val=config.clip_grad_norm,
        precision=config.precision,
        plugins=[WholeCheckpointIO()],
    )
    with signals_raised(trainer):
        trainer.fit(
            module, batches, validation, ckpt_path=last if resumed else None, weights_only=True
        )


def _module(
    config: Config, data: Data, network: Network, counts: list[int], *, crowded: bool
) -> LesionClassifier:
    balanced = balanced_weights(counts) if config.class_weights == "balanced" else None
    terms = {"focal_weight": config.focal_weight, "ldam_weight": config.ldam_weight}
    module = (AugmentedOnCPU if crowded else LesionClassifier)(
        network,
        build_loss(config.loss, counts, weight=balanced, **terms),
        num_classes=len(counts),
        validation_loss=build_loss(config.loss, counts, weight=None, **terms),
        image_size=config.image_size,
        seed=config.seed,
        lr=config.lr,
        weight_decay=config.weight_decay,
        gate_lr=config.gate_lr,
        gate_weight_decay=config.gate_weight_decay,
        gates=gates_with_rate(config.attention),
        schedule=config.schedule,
        warmup_epochs=config.warmup,
        label=data.label,
        image_ids=[image.image_id for image in data.images],
    )
    module.save_hyperparameters({"config": read_description(config.out)}, logger=False)
    return module


def _checkpoints(run: Path, monitor: str, mode: str) -> list[L.Callback]:
    """The best weights, then all that is needed to go on; both at the end of an epoch."""
    folder = os.path.realpath(run)  # in which no ~ is replaced once more
    each: dict[str, Any] = {"save_on_train_epoch_end": True, "enable_version_counter": False}
    best = ModelCheckpoint(
        folder, "best", monitor=monitor, mode=mode, save_weights_only=True, **each
    )
    return [best, ModelCheckpoint(folder, "last", **each)]


def _epochs_done(run: Path, module: LesionClassifier) -> int:
    """After how many epochs a run goes on.

    ValueError if it cannot: the best checkpoint so far has to be known at the end, and the state of
    the optimizer to fit.
    """
    if not (run / "best.ckpt").exists():
        raise ValueError(f"{run / 'best.ckpt'} is gone: put it back, or begin a new run")
    # Lightning forgets which one it was when the folder has another path.
    checkpoint = read_checkpoint(run / "last.ckpt")
    states = checkpoint["callbacks"]
    for folder in {s["dirpath"] for name, s in states.items() if name.startswith("ModelCheck")}:
        if folder != os.path.realpath(run):
            raise ValueError(f"the run was moved: to resume it, move it back to {folder}")
    begun = [len(group["params"]) for group in checkpoint["optimizer_states"][0]["param_groups"]]
    groups = [len(group["params"]) for group in module.groups]
    if begun != groups:
        raise ValueError(
            f"{run / 'last.ckpt'} has the state of an optimizer with groups of {begun} parameters, "
            f"and this version trains groups of {groups}: go on with the version of attnblocks "
            "that its config.json or description.json names, or begin a new run. What it has can "
            "be evaluated"
        )
    epochs: int = checkpoint["epoch"] + 1
    return epochs
