"""The command line: ``python -m examples.ham10000 train``."""

import argparse
import logging
import sys
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from examples.ham10000.lit import SCHEDULES
from examples.ham10000.models import ATTENTION
from examples.ham10000.run import NOTICE, Config, prepare, train
from examples.ham10000.splits import PROTOCOLS

# The paper's settings, and those of the synthetic set: small enough for two minutes on two cores.
PAPER = {"image_size": 224, "epochs": 100, "batch_size": 128, "lr": 5e-4, "weight_decay": 5e-2}
SYNTHETIC = {"image_size": 64, "epochs": 12, "batch_size": 32, "lr": 2e-3, "weight_decay": 5e-2}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return 0, 1 after a diverged run, 2 for input that cannot be used."""
    config = parse(arguments)
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)  # its bar says enough
    print(f"HAM10000 skin lesions. {NOTICE}")
    if config.data is None:
        print("No --data: drawing and using SYNTHETIC pictures. Their figures mean nothing.")
    try:
        data, network = prepare(config)
    except (ValueError, LookupError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    sizes = ", ".join(f"{len(positions)} {part}" for part, positions in data.split.items())
    print(f"{data.name}: {sizes} images, {config.split} split. Run folder: {config.out}")
    try:
        summary = train(config, data, network)
    except FloatingPointError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(format_summary(summary))
    print(f"Figures, pictures and checkpoint are in {config.out}")
    return 0


def parse(arguments: Sequence[str] | None = None) -> Config:
    """Options of ``train`` with their defaults."""
    parser = argparse.ArgumentParser(prog="python -m examples.ham10000", description=NOTICE)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    options = commands.add_parser(
        "train",
        help="train a classifier and test it once",
        description="Train a classifier on HAM10000, or on synthetic pictures without --data.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = options.add_argument
    hidden = argparse.SUPPRESS  # the default depends on other options, and the help says how
    text = "HAM10000 folder; default: a small synthetic set"
    add("--data", type=Path, help=text, metavar="DIR", default=hidden)
    text = "new folder for the run, which keeps decoded images beside it; default: runs/TIME-..."
    add("--out", type=Path, help=text, metavar="DIR", default=hidden)
    add("--model", default="tv/mobilenet_v3_small", help="tv/NAME or timm/NAME")
    text = "a fresh block at every SE site; SE: the network's own; none: as it is; identity: no SE"
    add("--attention", default="CaCo", choices=ATTENTION, help=text)
    add("--weights", default="none", help="none, imagenet, or a file")
    for name, kind in (
        ("image_size", int),
        ("epochs", int),
        ("batch_size", int),
        ("lr", float),
        ("weight_decay", float),
    ):
        text = f"default: {PAPER[name]:g} as in the paper; {SYNTHETIC[name]:g} for synthetic data"
        add(f"--{name.replace('_', '-')}", type=kind, help=text, default=hidden)
    add("--schedule", default="cosine", choices=SCHEDULES, help="of the learning rate")
    add(
        "--recompute-bn",
        default="auto",
        choices=("auto", "yes", "no"),
        help="batch norm statistics from training images before each validation; auto: where "
        "the network's own average lags (momentum below 0.1)",
    )
    add("--split", default="lesion", choices=list(PROTOCOLS), help="paper: by image, which leaks")
    add("--seed", type=int, default=0, help="of split, initial weights, order and augmentation")
    add(
        "--workers",
        type=int,
        default=0,
        help="processes that load data; a seed repeats a run with as many",
    )
    given: dict[str, Any] = vars(parser.parse_args(arguments))
    defaults = {"data": None, **(PAPER if "data" in given else SYNTHETIC)}
    time = datetime.now().strftime("%Y-%m-%d-%H%M%S")
    name = "{model}-{attention}-{split}-seed{seed}".format(**given).replace("/", "-")
    return Config(**{"out": Path("runs", f"{time}-{name}"), **defaults, **given})


def format_summary(summary: dict[str, Any]) -> str:
    """The figures of the test part as a table for the terminal."""
    lines = [
        f"Test part, {summary['data']}, {summary['split']} split, {summary['images']} images",
        f"  accuracy {summary['accuracy']:.3f}   mean_recall {summary['mean_recall']:.3f}   "
        f"bacc_formula {summary['bacc_formula']:.3f}",
        f"  {'class':6}{'images':>8}{'sensitivity':>13}{'specificity':>13}",
    ]
    lines += [
        f"  {name:6}{row['images']:8}{row['sensitivity']:13.3f}{row['specificity']:13.3f}"
        for name, row in summary["per_class"].items()
    ]
    return "\n".join(lines)
