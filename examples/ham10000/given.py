"""From the options that are given to all the options of a run."""

from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

from examples.ham10000.config import (
    DEFAULTS,
    PAPER,
    PAPER_MODELS,
    SYNTHETIC,
    Config,
    Init,
    read_options,
)
from examples.ham10000.rules import FASTER, LOSSES_WITH, OWN_START, flag, gates_with_rate

FASTER_STARTS = ("inherit", "fitted", "identity")
"""The starts of blocks with a faster ``gate_lr`` by default; not of ``SE``, inserted too: it would
be the rate of the network's own as well."""
WARMUP_SHARE, MOST_WARMUP, CLIP_GRAD_NORM = 0.125, 1.0, 1.0
"""The defaults with pre-trained weights: ``warmup`` as a share of the epochs, the most of it, and
``clip_grad_norm``. Without both a network can lose, at these rates, what its weights know."""


def train_config(given: dict[str, Any], *, as_paper: bool = False) -> Config:
    """The configuration that the options of ``train`` make.

    ``as_paper`` trains with pre-trained weights as without, as ``reproduce`` does. Raises
    ValueError for an option that is out of range, contradicts another, or stands beside
    ``--resume`` or a loss that does not use it; OSError where there is no run to resume.
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
            known = ", ".join(losses)
            raise ValueError(f"{flag(name)} is for --loss {known}, not for {options['loss']}")
    # The run may be resumed from another folder.
    for name in ("data", "split_file", "same_lesion"):
        options[name] = None if options[name] is None else options[name].absolute()
    if options["weights"] not in ("none", "imagenet"):
        options["weights"] = str(Path(options["weights"]).absolute())
    options["model"] = PAPER_MODELS.get(options["model"], options["model"])
    if options["insert"] is not None:
        options["insert"] = " ".join(options["insert"])
    if "out" not in options:
        time = datetime.now().strftime("%Y-%m-%d-%H%M%S")
        name = "{model}-{attention}-{loss}-seed{seed}".format(**options).replace("/", "-")
        fold = "" if options["fold"] is None else f"-fold{options['fold']}"
        options["out"] = Path("runs", f"{time}-{name}{fold}")
    config = Config(**options)
    config.check()
    if config.init is None:
        config = replace(config, init=_default_init(config))
    if gates_with_rate(config.attention):
        faster = tuned and config.attention != "SE" and config.init in FASTER_STARTS
        lr, decay = config.gate_lr, config.gate_weight_decay
        config = replace(
            config,
            gate_lr=config.lr * (FASTER if faster else 1) if lr is None else lr,
            gate_weight_decay=config.weight_decay if decay is None else decay,
        )
    return config


def _default_init(config: Config) -> Init | None:
    """How new blocks start: as near to the weights as they get. None where there are none."""
    if config.insert is None and config.attention in OWN_START:
        return None
    near: Init = "fitted" if config.insert is None else "identity"
    if config.weights == "none":
        return "fresh" if config.insert is None else near
    if config.weights == "imagenet" or not Path(config.weights).is_file():  # an error later
        return near
    from examples.ham10000.data.index import CLASSES
    from examples.ham10000.model import build_network

    network = build_network(
        config.model,
        len(CLASSES),
        config.weights,
        config.attention,
        insert=config.insert,
        image_size=config.image_size,
    )
    return "loaded" if network.loaded else near


def _resumed(resume: Path, data: Path | None = None, **others: Any) -> Config:
    """The options of a run; its images may have been moved, which their digests will show."""
    if others:
        flags = ", ".join(map(flag, others))
        raise ValueError(f"--resume takes the options of {resume}: leave out {flags}")
    config = read_options(resume)
    if data is None:
        return config
    if config.data is None:
        raise ValueError(f"{resume} has drawn its own SYNTHETIC pictures: leave out --data")
    moved = replace(config, data=data.absolute())
    moved.check()
    return moved
