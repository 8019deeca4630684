"""Train, keep the checkpoint that validates best, and test it once."""

import os
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import ModelCheckpoint
from torch.utils.data import DistributedSampler

from examples.ham10000 import processes
from examples.ham10000.callbacks import EpochLog, RecomputeBatchNorm
from examples.ham10000.checkpoint import WholeCheckpointIO, read_checkpoint
from examples.ham10000.config import MONITORS, PARTS, Config
from examples.ham10000.data.batches import evaluation_loader, training_loader
from examples.ham10000.data.load import Data
from examples.ham10000.evaluate import (
    new_trainer,
    signals_raised,
)
from examples.ham10000.files import write_json
from examples.ham10000.gates import save_start
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
from examples.ham10000.run import describe
from examples.ham10000.throughput import Throughput


def train(config: Config, data: Data, network: Network, *, crowded: bool = False) -> None:
    """Train, or go on from the last epoch that was finished.

    Args:
        config: the options of the run.
        data: its images.
        network: at its start; trained in place.
        crowded: whether other runs share the machine, see ``pipeline``.

    Raises:
        FloatingPointError: the loss was not finite.
        ValueError: the run cannot go on from where it was.
    """
    last = config.out / "last.ckpt"
    description = describe(config, data, network)
    module = _module(config, data, network, description, crowded=crowded)
    if last.exists():
        _check_checkpoints(config.out, module)
    if processes.rank() == 0:
        write_json(config.out / "config.json", description)
        if config.init is not None and not last.exists():  # with blocks of the library
            save_start(config.out, network.model)
    _fit(config, data, module, description, last if last.exists() else None, crowded=crowded)


def _module(
    config: Config,
    data: Data,
    network: Network,
    description: dict[str, Any],
    *,
    crowded: bool,
) -> LesionClassifier:
    counts = list(description["images"]["train"].values())
    weight = balanced_weights(counts) if config.class_weights == "balanced" else None
    loss, validation_loss = (
        build_loss(
            config.loss,
            counts,
            weight=class_weights,
            focal_weight=config.focal_weight,
            ldam_weight=config.ldam_weight,
        )
        for class_weights in (weight, None)
    )
    module = (AugmentedOnCPU if crowded else LesionClassifier)(
        network,
        loss,
        validation_loss=validation_loss,
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
    module.save_hyperparameters({"config": description}, logger=False)
    return module


def _fit(
    config: Config,
    data: Data,
    module: LesionClassifier,
    description: dict[str, Any],
    last: Path | None,
    *,
    crowded: bool,
) -> None:
    parts = {name: data.part(name) for name in PARTS}
    log = EpochLog(config.out / "metrics.csv")
    callbacks: list[L.Callback] = [log, *_checkpoints(config, data)]
    if last is None and not crowded:
        callbacks.append(Throughput(log))
    if description["batch_norm_recomputed"]:
        callbacks.append(
            RecomputeBatchNorm(
                parts["train"], config.batch_size, config.image_size, seed=config.seed
            )
        )
    loss = module.loss
    if isinstance(loss, LDAM | Joint):
        ldam = loss if isinstance(loss, LDAM) else loss.ldam
        start = round(config.drw_start * config.epochs)
        weights = drw_weights(list(description["images"]["train"].values()))
        callbacks.append(DeferredReweighting(ldam, weights, start))
    trainer = new_trainer(
        max_epochs=config.epochs,
        callbacks=callbacks,
        gradient_clip_val=config.clip_grad_norm,
        precision=config.precision,
        plugins=[WholeCheckpointIO()],
    )
    batches = training_loader(
        parts["train"], config.batch_size, seed=config.seed, workers=config.workers
    )
    if last is not None:
        # Workers load the first batches before Lightning has told the sampler the epoch.
        assert isinstance(batches.sampler, DistributedSampler)
        batches.sampler.set_epoch(read_checkpoint(last)["epoch"] + 1)
    validation = evaluation_loader(parts["val"], config.batch_size, workers=config.workers)
    with signals_raised(trainer):
        trainer.fit(module, batches, validation, ckpt_path=last, weights_only=True)


def _checkpoints(config: Config, data: Data) -> list[L.Callback]:
    """The best weights, then all that is needed to go on; both at the end of an epoch."""
    folder = os.path.realpath(config.out)  # in which no ~ is replaced once more
    best = ModelCheckpoint(
        folder,
        "best",
        monitor=f"{data.label}{config.monitor}",
        mode=MONITORS[config.monitor],
        save_weights_only=True,
        save_on_train_epoch_end=True,
        enable_version_counter=False,
    )
    last = ModelCheckpoint(
        folder, "last", save_on_train_epoch_end=True, enable_version_counter=False
    )
    return [best, last]


def _check_checkpoints(run: Path, module: LesionClassifier) -> None:
    """Raise ValueError unless the run can go on from its last checkpoint.

    The best one so far has to be known at the end, and the optimizer's state to fit.
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
            "that its config.json names, or begin a new run. What it has can be evaluated"
        )
