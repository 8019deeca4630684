"""One run: check everything, train, test the best checkpoint once, write the run folder."""

import json
import math
import os
import platform
import shutil
import warnings
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import timm
import torch
import torchvision
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from numpy.typing import NDArray

import attnblocks
from examples.ham10000.augment import FACTORS, canvas_size
from examples.ham10000.batchnorm import RecomputeBatchNorm, statistics_lag
from examples.ham10000.data import ATTRIBUTION, CLASSES, Image, is_synthetic, read_index
from examples.ham10000.dataset import SkinLesions, loader
from examples.ham10000.images import load_all, source_size
from examples.ham10000.lit import LesionClassifier
from examples.ham10000.models import Network, build_network, check_trains
from examples.ham10000.plots import plot_confusion, plot_curves
from examples.ham10000.splits import PARTS, PROTOCOLS, Split, leak
from examples.ham10000.synthetic import write_synthetic

NOTICE = "Research code. Not a medical device; not for diagnosis."


@dataclass(frozen=True)
class Config:
    """The options of ``train``; ``data`` None stands for the synthetic set."""

    data: Path | None
    out: Path
    model: str
    attention: str
    weights: str
    image_size: int
    epochs: int
    batch_size: int
    lr: float
    weight_decay: float
    schedule: str
    recompute_bn: str
    split: str
    seed: int
    workers: int


@dataclass(frozen=True)
class Data:
    """Index, parts and pixels, and what to call them wherever a figure shows."""

    images: list[Image]
    split: Split
    pixels: NDArray[np.uint8]
    name: str
    label: str

    def part(self, name: str) -> SkinLesions:
        """One part of the split as a data set."""
        labels = [image.label for image in self.images]
        return SkinLesions(self.pixels, labels, self.split[name])


def prepare(config: Config) -> tuple[Data, Network]:
    """Make the run folder, check the options, read and decode the data, build the network.

    Raises:
        ValueError, LookupError, OSError: whatever training would stumble over; the run folder is
            removed again.
    """
    _check_numbers(config)
    if config.data is not None and config.data.resolve() in config.out.resolve().parents:
        raise ValueError(f"--out {config.out} is inside --data: keep the data folder as it is")
    try:
        config.out.mkdir(parents=True)  # exclusive: no other run writes there
    except FileExistsError:
        raise FileExistsError(f"--out {config.out} exists: name a new folder") from None
    try:
        return _prepare(config)
    except BaseException:
        shutil.rmtree(config.out)
        raise


def _prepare(config: Config) -> tuple[Data, Network]:
    folder = config.data
    if folder is None:
        folder = config.out / "synthetic"
        write_synthetic(folder)
    images = read_index(folder)
    split = PROTOCOLS[config.split](images, config.seed)
    L.seed_everything(config.seed, verbose=False)
    network = build_network(config.model, len(CLASSES), config.weights, config.attention)
    check_trains(network, len(CLASSES), config.image_size, config.batch_size)
    paths = [image.path for image in images]
    size = canvas_size(config.image_size)
    pixels = load_all(paths, size, config.out.parent / "ham10000-cache")
    width, height = source_size(paths[0])
    synthetic = is_synthetic(images)
    name = f"{'SYNTHETIC pictures' if synthetic else 'HAM10000'} at {width}x{height}"
    return Data(images, split, pixels, name, "SYNTHETIC_" if synthetic else ""), network


def train(config: Config, data: Data, network: Network) -> dict[str, Any]:
    """Train, test the checkpoint that validated best once, and fill the run folder.

    Returns:
        The content of ``test.json``.
    """
    description = describe(config, data, network)
    write_json(config.out / "config.json", description)
    module = LesionClassifier(
        network,
        image_size=config.image_size,
        seed=config.seed,
        lr=config.lr,
        weight_decay=config.weight_decay,
        schedule=config.schedule,
        label=data.label,
    )
    module.save_hyperparameters({"config": description}, logger=False)
    parts = {name: data.part(name) for name in PARTS}
    size, workers = config.batch_size, config.workers
    best = ModelCheckpoint(
        config.out,
        "best",
        monitor=f"{data.label}val_mean_recall",
        mode="max",
        save_weights_only=True,
    )
    callbacks: list[L.Callback] = [best]
    if recomputes_bn(config, network):
        batches = loader(parts["train"], size, seed=config.seed)
        callbacks.append(RecomputeBatchNorm(batches, config.image_size))
    # A debugging aid of deterministic mode, which costs a fifth of an epoch on a CPU.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    trainer = L.Trainer(
        max_epochs=config.epochs,
        logger=CSVLogger(config.out, name="", version=""),
        callbacks=callbacks,
        devices=1,
        deterministic=True,
        num_sanity_val_steps=0,
        log_every_n_steps=1,
        enable_model_summary=False,
    )
    with warnings.catch_warnings():
        # One process is enough: decoding is done, and augmentation runs on the device.
        warnings.filterwarnings("ignore", message=".*does not have many workers.*")
        warnings.filterwarnings("ignore", message=".*exists and is not empty.*")
        warnings.filterwarnings("ignore", message=".*LeafSpec.*")  # Lightning's own
        trainer.fit(
            module,
            loader(parts["train"], size, seed=config.seed, workers=workers),
            loader(parts["val"], size, workers=workers),
        )
        trainer.test(
            module,
            loader(parts["test"], size, workers=workers),
            ckpt_path=best.best_model_path,
            weights_only=True,
            verbose=False,
        )
    assert best.best_model_score is not None
    summary = {
        "data": data.name,
        "split": config.split,
        "best_val_mean_recall": best.best_model_score.item(),
        **module.test_summary,
        "notice": NOTICE,
    }
    write_json(config.out / "test.json", summary)
    title = f"{data.name}, {config.split} split\n{config.model}, attention {config.attention}"
    plot_curves(config.out / "metrics.csv", data.label, title, config.out / "curves.png")
    plot_confusion(summary, f"{title}, test part", config.out / "confusion_matrix.png")
    return summary


def describe(config: Config, data: Data, network: Network) -> dict[str, Any]:
    """What is needed to understand the run, for JSON."""
    size = config.image_size
    options = {k: str(v) if isinstance(v, Path) else v for k, v in asdict(config).items()}
    labels = {part: [data.images[i].label for i in data.split[part]] for part in PARTS}
    counts = {
        part: {name: labels[part].count(number) for number, name in enumerate(CLASSES)}
        for part in PARTS
    }
    return {
        "options": options,
        "data": data.name,
        "attribution": None if is_synthetic(data.images) else ATTRIBUTION,
        "notice": NOTICE,
        "images": counts,
        "leak": leak(data.images, data.split),
        "evaluation_transform": [
            f"resize the shorter side to {canvas_size(size)} (bilinear, antialias)",
            f"centre crop {size}x{size}",
            f"(x / 255 - {list(network.mean)}) / {list(network.std)}",
        ],
        "training_transform": [
            f"resize the shorter side to {canvas_size(size)} (bilinear, antialias), centre square",
            f"random crop {size}x{size}",
            "horizontal and vertical flip with probability 1/2, rotation by 0, 90 or 180 degrees",
            f"brightness, contrast or saturation times one of {list(FACTORS)}, or none of them",
        ],
        "batch_norm_recomputed": recomputes_bn(config, network),
        "parameters": sum(p.numel() for p in network.model.parameters()),
        "versions": {
            "attnblocks": attnblocks.__version__,
            "torch": str(torch.__version__),
            "torchvision": torchvision.__version__,
            "timm": timm.__version__,
            "lightning": L.__version__,
            "python": platform.python_version(),
        },
    }


def recomputes_bn(config: Config, network: Network) -> bool:
    """Whether batch norm statistics are recomputed before each validation."""
    if config.recompute_bn == "auto":
        return statistics_lag(network.model)
    return config.recompute_bn == "yes"


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write a JSON file under a temporary name and move it into place."""
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(content, indent=2) + "\n")
    os.replace(partial, path)


def _check_numbers(config: Config) -> None:
    for name in ("image_size", "epochs", "batch_size"):
        value = getattr(config, name)
        if value < 1:
            raise ValueError(f"--{name.replace('_', '-')} must be at least 1, got {value}")
    if not 0 < config.lr < math.inf:
        raise ValueError(f"--lr must be above 0 and finite, got {config.lr}")
    if not 0 <= config.weight_decay < math.inf:
        raise ValueError(f"--weight-decay must be finite and not below 0: {config.weight_decay}")
    if config.workers < 0 or config.seed < 0:
        raise ValueError("--workers and --seed must not be negative")
