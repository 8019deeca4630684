"""Run folders made by hand, as they are when a run has been tested."""

import json
import os
from pathlib import Path
from typing import Any

from examples.ham10000.config import DEFAULTS, PAPER

OPTIONS = {**DEFAULTS, **PAPER, "data": "/data", "attention": "SE", "weights": "imagenet"}
"""Those of the row SE of Table 5, with the defaults for the rest."""

NEW = ("same_lesion", "folds", "fold", "insert", "gate_lr", "gate_weight_decay", "warmup")
"""Those that the files of older runs do not have."""

EPOCHS = [
    {"val_loss": 0.9, "val_accuracy": 0.70, "val_mean_recall": 0.50, "train_loss": 1.2},
    {"val_loss": 0.6, "val_accuracy": 0.82, "val_mean_recall": 0.55, "train_loss": 0.8},
    {"val_loss": 0.7, "val_accuracy": 0.80, "val_mean_recall": 0.65, "train_loss": 0.5},
    {"val_loss": 0.8, "val_accuracy": 0.82, "val_mean_recall": 0.65, "train_loss": 0.4},
]

SE = "mobilenet_v3_small-pretrained-SE-cross-entropy"
"""How the folders of the row SE begin: its split and its seed follow."""

CLASSES = ["AKIEC", "BCC", "BKL", "DF", "MEL", "NV", "VASC"]


def begin(run: Path, **options: Any) -> None:
    """A run folder with nothing but its options."""
    options = {**OPTIONS, "out": run, **options}
    if options["attention"] not in ("none", "identity", "Eca"):
        for name, plain in (("gate_lr", "lr"), ("gate_weight_decay", "weight_decay")):
            options[name] = options[plain] if options[name] is None else options[name]
    content = {"options": {k: str(v) if isinstance(v, Path) else v for k, v in options.items()}}
    _put(run, "config.json", json.dumps(content))


def finish(
    run: Path,
    *,
    figures: dict[str, float] | None = None,
    intervals: dict[str, tuple[float, float]] | None = None,
    pictures: str = "HAM10000 at 600x450",
    leak: float = 0.0,
    images: int = 10_015,
    parameters: int = 1_525_000,
    log: list[dict[str, float]] = EPOCHS,
    hit: float = 0.75,
    **options: Any,
) -> None:
    """A run folder with what results are read from: options, log and figures.

    ``hit`` is on the diagonal of the confusion matrix; the next class is predicted for the rest.
    """
    begin(run, **options)
    config = json.loads((run / "config.json").read_text())
    config |= {"parameters": parameters, "images": {"train": {"nv": images - 1}, "val": {"df": 1}}}
    _put(run, "config.json", json.dumps(config))
    label = "SYNTHETIC_" if "SYNTHETIC" in pictures else ""
    lines = [["epoch", *(label + name for name in log[0])]]
    lines += [[number, *row.values()] for number, row in enumerate(log, start=1)]
    _put(run, "metrics.csv", "".join(",".join(map(str, line)) + "\n" for line in lines))
    names = ("accuracy", "mean_recall", "bacc_formula", "macro_f1")
    matrix = [[0.0] * 7 for _ in range(7)]
    for true in range(7):
        matrix[true][true] = hit
        matrix[(true + 1) % 7][true] = 1 - hit
    test = {
        "data": pictures,
        "leak": leak,
        "images": 998,
        **dict.fromkeys(names, 0.5),
        **(figures or {}),
        "interval_95": {**dict.fromkeys(names, (0.4, 0.6)), **(intervals or {})},
        "classes": CLASSES,
        "per_class": {name: {"images": 10 + place} for place, name in enumerate(CLASSES)},
        "confusion_matrix": matrix,
    }
    _put(run, "test.json", json.dumps(test))


def make_older(run: Path) -> None:
    """As a version wrote it that knew no lesions with two ids, no folds and no rate of gates."""
    description = json.loads((run / "config.json").read_text())
    for name in NEW:
        description["options"].pop(name, None)
    _put(run, "config.json", json.dumps(description))


def _put(run: Path, name: str, text: str) -> None:
    """Write a file of a run, both at once: others may be looking."""
    partial = run.with_name(f".{run.name}.partial")
    partial.mkdir(parents=True)
    (partial / name).write_text(text)
    if run.exists():
        os.replace(partial / name, run / name)
        partial.rmdir()
    else:
        partial.rename(run)
