"""The configuration of a run: what was given, and the defaults for the rest."""

from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

from examples.ham10000.config import PAPER, SYNTHETIC, Config, read_options
from examples.ham10000.data.index import CLASSES
from examples.ham10000.training.attention import OWN_START, gates_with_rate
from examples.ham10000.training.losses import COSINE_LOSSES
from examples.ham10000.training.models import PAPER_MODELS, build_network

DEFAULTS: dict[str, Any] = {
    "data": None,
    "protocol": "lesion",
    "split_file": None,
    "same_lesion": None,
    "folds": None,
    "fold": None,
    "skip_bad": False,
    "model": "tv/mobilenet_v3_small",
    "attention": "CaCo",
    "insert": None,
    "init": None,
    "weights": "none",
    "loss": "cross-entropy",
    "class_weights": "none",
    "focal_weight": 1.0,
    "ldam_weight": 1.0,
    "drw_start": 0.8,
    "weight_decay": 5e-2,
    "gate_lr": None,
    "gate_weight_decay": None,
    "warmup": 0.0,
    "schedule": "cosine",
    "clip_grad_norm": None,
    "precision": "32-true",
    "recompute_bn": "auto",
    "monitor": "val_mean_recall",
    "seed": 0,
    "workers": 0,
}
"""Of ``train``; those of :data:`PAPER` and :data:`SYNTHETIC` come on top."""

GATE_LR_FACTOR = {"inherit": 10, "fitted": 10, "identity": 10}
"""The default of ``gate_lr`` over ``lr`` with pre-trained weights, by the start of the blocks; 1
for all other starts, without weights, and for ``SE``, inserted too: it is the rate of the network's
own as well."""

WARMUP_SHARE, MOST_WARMUP, CLIP_GRAD_NORM = 0.125, 1.0, 1.0
"""The defaults with pre-trained weights: ``warmup`` as a share of the epochs, the most of it, and
``clip_grad_norm``. Without both a network can lose, at these rates, what its weights know."""

LOSSES_WITH = {
    "class_weights": ("cross-entropy", "focal", "joint"),
    "focal_weight": ("joint",),
    "ldam_weight": ("joint",),
    "drw_start": COSINE_LOSSES,
}
"""The losses that use an option; for the others it is an error."""


def train_config(given: dict[str, Any], *, as_paper: bool = False) -> Config:
    """The configuration that the options of ``train`` make.

    Args:
        given: the options.
        as_paper: train with pre-trained weights as without, as ``reproduce`` does.

    Raises:
        ValueError: an option stands beside ``--resume``, or beside a loss that does not use it; or
            the file of weights does not fit.
        FileNotFoundError: there is no run to resume, or no file of weights.
    """
    given = {name: value for name, value in given.items() if name != "command"}
    if "resume" in given:
        return _resumed(**given)
    options = {**DEFAULTS, **(PAPER if "data" in given else SYNTHETIC), **given}
    tuned = options["weights"] != "none" and not as_paper
    if tuned:
        warmup = min(WARMUP_SHARE * options["epochs"], MOST_WARMUP)
        options = {**options, "warmup": warmup, "clip_grad_norm": CLIP_GRAD_NORM, **given}
    for name, losses in LOSSES_WITH.items():
        if name in given and options["loss"] not in losses:
            flag, known = name.replace("_", "-"), ", ".join(losses)
            raise ValueError(f"--{flag} is for --loss {known}, not for {options['loss']}")
    # The run may be resumed from another folder.
    for name in ("data", "split_file", "same_lesion"):
        options[name] = None if options[name] is None else options[name].absolute()
    if options["weights"] not in ("none", "imagenet"):
        options["weights"] = str(Path(options["weights"]).absolute())
    options["model"] = PAPER_MODELS.get(options["model"], options["model"])
    if options["insert"] is not None:
        options["insert"] = " ".join(options["insert"])
    if options["init"] is None:
        options["init"] = _default_init(options)
    if gates_with_rate(options["attention"]):
        if options["gate_lr"] is None:
            faster = tuned and options["attention"] != "SE"
            factor = GATE_LR_FACTOR.get(options["init"], 1) if faster else 1
            options["gate_lr"] = options["lr"] * factor
        if options["gate_weight_decay"] is None:
            options["gate_weight_decay"] = options["weight_decay"]
    if "out" not in options:
        time = datetime.now().strftime("%Y-%m-%d-%H%M%S")
        name = "{model}-{attention}-{loss}-seed{seed}".format(**options).replace("/", "-")
        fold = "" if options["fold"] is None else f"-fold{options['fold']}"
        options["out"] = Path("runs", f"{time}-{name}{fold}")
    return Config(**options)


def _default_init(options: dict[str, Any]) -> str | None:
    """How new blocks start: as near to the weights as they get. None where there are none."""
    weights, attention, insert = options["weights"], options["attention"], options["insert"]
    if insert is None and attention in OWN_START:
        return None
    near = "fitted" if insert is None else "identity"
    if weights == "none":
        return "fresh" if insert is None else near
    if weights == "imagenet" or not Path(weights).is_file():  # which is an error later
        return near
    network = build_network(
        options["model"],
        len(CLASSES),
        weights,
        attention,
        insert=insert,
        image_size=options["image_size"],
    )
    return "loaded" if network.loaded else near


def _resumed(resume: Path, data: Path | None = None, **others: Any) -> Config:
    """The options of a run; its images may have been moved, which their digests will show."""
    if others:
        flags = ", ".join(f"--{name.replace('_', '-')}" for name in others)
        raise ValueError(f"--resume takes the options of {resume}: leave out {flags}")
    config = read_options(resume)
    if data is None:
        return config
    if config.data is None:
        raise ValueError(f"{resume} has drawn its own SYNTHETIC pictures: leave out --data")
    moved = replace(config, data=data.absolute())
    moved.check()
    return moved
