"""The options of the command line."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from examples.ham10000.config import (
    ATTENTION,
    CLASS_WEIGHTS,
    CLIP_GRAD_NORM,
    DEFAULTS,
    GATE_LR_FACTOR,
    INITS,
    LOSSES,
    MONITORS,
    MOST_WARMUP,
    NOTICE,
    PAPER,
    PAPER_MODELS,
    PARTS,
    PRECISIONS,
    RECOMPUTE_BN,
    SCHEDULES,
    SYNTHETIC,
    WARMUP_SHARE,
)
from examples.ham10000.data.splits import PROTOCOLS
from examples.ham10000.paper.rows import BACKBONE, FIGURES, TABLES
from examples.ham10000.run import IMAGES
from examples.ham10000.study.options import add_study_options


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse a command line; ``command`` names the command."""
    parser = argparse.ArgumentParser(prog="python -m examples.ham10000", description=NOTICE)
    commands = parser.add_subparsers(required=True, metavar="COMMAND", dest="command")

    def command(name: str, text: str) -> argparse.ArgumentParser:
        description = f"{text[0].upper()}{text[1:]}."
        return commands.add_parser(name, help=text, description=description, allow_abbrev=False)

    options = command("download", "download HAM10000 from the Harvard Dataverse (2.8 GB)")
    options.add_argument("--out", type=_path, required=True, metavar="DIR", help="data folder")
    text = "the test set of ISIC 2018 Task 3 instead, for evaluate --ground-truth"
    options.add_argument("--test", action="store_true", help=text)

    options = command("unpack", "write Parquet files of Hugging Face as a data folder")
    text = "folder of the .parquet files"
    options.add_argument("--data", type=_path, required=True, metavar="DIR", help=text)
    options.add_argument("--out", type=_path, required=True, metavar="NEW_DIR", help="data folder")

    options = command("check", "look for everything that could be wrong with a data folder")
    _add_data(options)
    options.add_argument("--same-lesion", type=_path, metavar="FILE.csv", help=_SAME_LESION)

    options = command("split", "write training, validation and test part to a CSV file")
    _add_data(options)
    options.add_argument("--same-lesion", type=_path, metavar="FILE.csv", help=_SAME_LESION)
    options.add_argument(
        "--protocol",
        choices=list(PROTOCOLS),
        default="lesion",
        help=f"{_PROTOCOL}; default: lesion",
    )
    options.add_argument("--folds", type=int, metavar="N", help=_FOLDS)
    options.add_argument("--fold", type=int, metavar="K", help=_FOLD)
    options.add_argument("--out", type=_path, required=True, metavar="FILE.csv", help="new file")
    options.add_argument("--seed", type=int, default=0, help="of the random order; default: 0")

    options = command("train", "train a classifier and test it once")
    text = "go on with a run from its last whole epoch, with the options that it has; only --data "
    text += "may stand beside it, where the images were moved"
    _add(options, "--resume", text, type=_path, metavar="RUN")
    _add_run_options(options, rows=False)

    options = command("reproduce", "run a table or figure of the paper; finished rows are skipped")
    _add_reproduce_options(options)

    options = command("evaluate", "evaluate the best checkpoint of a run")
    options.add_argument("--run", type=_path, required=True, metavar="RUN", help="its folder")
    text = "HAM10000 folder; with --ground-truth, images of any size at any depth"
    options.add_argument("--data", type=_path, required=True, metavar="DIR", help=text)
    which = options.add_mutually_exclusive_group()
    which.add_argument("--split", choices=PARTS, help="part of the split; default: test")
    text = "score other images, by a table of classes as ISIC 2018 Task 3 has it, or of metadata"
    which.add_argument("--ground-truth", type=_path, metavar="FILE.csv", help=text)
    text = "new folder for figures, probabilities and confusion matrix; default: print only"
    options.add_argument("--out", type=_path, metavar="DIR", help=text)
    options.add_argument("--workers", type=int, default=0, help=f"{_WORKERS}; default: 0")

    options = command("compare", "compare runs with the first, on the same test images")
    options.add_argument("runs", type=_path, nargs="+", metavar="RUN", help="folders; at least two")
    text = "new folder for figures, picture and page; default: print only"
    options.add_argument("--out", type=_path, metavar="DIR", help=text)

    options = command("predict", "probabilities for images, in the format of ISIC 2018 Task 3")
    options.add_argument("--run", type=_path, required=True, metavar="RUN", help="its folder")
    text = "images of any size, and folders of them"
    options.add_argument("inputs", type=_path, nargs="+", metavar="IMAGE_OR_FOLDER", help=text)
    options.add_argument("--out", type=_path, required=True, metavar="FILE.csv", help="new file")
    return parser.parse_args(arguments)


_PROTOCOL = "lesion: no lesion in two parts; paper: by image, which leaks"
_FOLDS = "test one of N folds by lesion, which are the same for every seed, in place of a tenth"
_FOLD = "the fold that is tested, 0 to N - 1"
_SAME_LESION = "more pairs of images that show one lesion: columns image_id_1,image_id_2"
_WORKERS = "processes that load data"


def _text(given: str) -> str:
    """What a report can hold."""
    try:
        given.encode()
    except UnicodeEncodeError as error:
        raise argparse.ArgumentTypeError(f"{given!r} is not UTF-8: rename it") from error
    return given


def _path(given: str) -> Path:
    return Path(_text(given))


def _norm(given: str) -> float | None:
    return None if given == "none" else float(given)


def _add_data(options: argparse.ArgumentParser) -> None:
    options.add_argument("--data", type=_path, required=True, metavar="DIR", help="HAM10000 folder")


def _add(group: Any, flag: str, text: str, **settings: Any) -> None:
    """Add an option without a default, so that what was given can be told from what was not."""
    name = flag.strip("-").replace("-", "_")
    if name in PAPER:
        text = f"{text}; " if text else ""
        text += f"default: {PAPER[name]:g} as in the paper; {SYNTHETIC[name]:g} if synthetic"
    elif "default" not in text and not (DEFAULTS.get(name) is None or DEFAULTS[name] is False):
        text += f"; default: {DEFAULTS[name]}"
    group.add_argument(flag, default=argparse.SUPPRESS, help=text, **settings)


def _add_reproduce_options(options: argparse.ArgumentParser) -> None:
    which = options.add_mutually_exclusive_group(required=True)
    _add(which, "--table", "of the paper", type=int, choices=list(TABLES))
    _add(which, "--figure", "of the paper", type=int, choices=list(FIGURES))
    add_study_options(which, options)
    text = "run these rows, or arms of a study, only; the table has all that are finished"
    _add(options, "--rows", text, nargs="+", metavar="NAME")
    text = "run every row with the seeds 0 to N - 1; default: 1, in a study those of the arms"
    _add(options, "--seeds", text, type=int, metavar="N")
    _add_run_options(options, rows=True)


def _add_run_options(options: argparse.ArgumentParser, *, rows: bool) -> None:
    """Those of ``train``, or of ``reproduce``, whose rows say the others."""
    group = options.add_argument_group("data")
    text = (
        "HAM10000 folder" if rows else "HAM10000 folder; without it, SYNTHETIC pictures are drawn"
    )
    _add(group, "--data", text, type=_path, metavar="DIR")
    text = "new folder for the run, which keeps decoded images beside it; default: runs/TIME-..."
    if rows:
        text = "folder for the runs and the table; default: runs/paper, of a study runs/study"
    _add(group, "--out", text, type=_path, metavar="DIR")
    split = group.add_mutually_exclusive_group()
    _add(split, "--protocol", _PROTOCOL, choices=list(PROTOCOLS))
    if not rows:
        text = "CSV as the split command writes it"
        _add(split, "--split-file", text, type=_path, metavar="FILE.csv")
        _add(group, "--folds", _FOLDS, type=int, metavar="N")
        _add(group, "--fold", _FOLD, type=int, metavar="K")
    _add(group, "--same-lesion", _SAME_LESION, type=_path, metavar="FILE.csv")
    text = "leave out missing and unreadable images instead of stopping"
    _add(group, "--skip-bad", text, action="store_true")
    _add(group, "--workers", _WORKERS, type=int)

    group = options.add_argument_group("network")
    text = f"tv/NAME, timm/NAME, or of the paper: {', '.join(PAPER_MODELS)}"
    if rows:
        text = f"in the place of {BACKBONE}: tv/NAME or timm/NAME"
    _add(group, "--model", text, metavar="NAME")
    if not rows:
        text = "the block at every SE site; SE: the network's own; Constant: its mean gate for "
        text += "each channel; none: as it is; identity: no SE"
        _add(group, "--attention", text, choices=ATTENTION)
        text = "put the block behind these modules, not in the place of SE blocks: patterns of "
        text += "names, such as 'layer?.*.bn2', or residual, stages, depthwise"
        _add(group, "--insert", text, type=_text, nargs="+", metavar="PATTERN")
    text = "how a block starts; fresh: as published; inherit: from the SE it replaces; "
    text += f"fitted: to it, on {IMAGES:,} training images without labels; "
    text += "identity: one of --insert, "
    text += "changing nothing; loaded: as in the file of weights; default: loaded where the file "
    text += "has the block, identity with --insert, fitted with other weights, else fresh"
    _add(group, "--init", text, choices=INITS)
    if rows:
        text = (
            f"of {BACKBONE} or --model, in rows with pre-training: imagenet, or a file; default: "
        )
        text += "imagenet"
        group.add_argument(
            "--weights", type=_text, default=argparse.SUPPRESS, help=text, metavar="WEIGHTS"
        )
    else:
        text = "none, imagenet, or a file of PyTorch, torchvision, timm, Lightning, save_model or "
        text += "a run (best.ckpt); its classifier is left out"
        _add(group, "--weights", text, type=_text, metavar="WEIGHTS")
    _add(group, "--image-size", "in pixels", type=int)
    text = "batch norm statistics from training images before each validation; auto: where the "
    text += "network's own average lags (momentum below 0.1)"
    _add(group, "--recompute-bn", text, choices=RECOMPUTE_BN)

    group = options.add_argument_group("loss")
    if not rows:
        _add(group, "--loss", "ldam and joint come with a cosine classifier", choices=LOSSES)
    text = "of cross entropy and focal loss; balanced: inverse to the images of a class"
    _add(group, "--class-weights", text, choices=CLASS_WEIGHTS)
    _add(group, "--focal-weight", "of the focal term of the joint loss", type=float)
    _add(group, "--ldam-weight", "of the LDAM term of the joint loss", type=float)
    text = "share of the epochs before LDAM's class weights are switched on (1: never)"
    _add(group, "--drw-start", text, type=float)

    group = options.add_argument_group("training")
    _add(group, "--epochs", "", type=int)
    _add(group, "--batch-size", "images of a step, over all processes", type=int)
    _add(group, "--lr", "learning rate of AdamW", type=float)
    _add(group, "--weight-decay", "of AdamW, on all but biases and norms", type=float)
    text = "learning rate of the layers that make gates of rows, columns and positions; with "
    text += f"--attention SE, of the SE blocks; default: {'' if rows else _times()}--lr"
    _add(group, "--gate-lr", text, type=float)
    text = "of these layers; default: that of --weight-decay"
    _add(group, "--gate-weight-decay", text, type=float)
    text = "epochs in which all learning rates rise, step by step; 0: none; default: "
    tuned = f"with --weights {WARMUP_SHARE:g} of the epochs, at most {MOST_WARMUP:g}; else "
    text += f"{'' if rows else tuned}{DEFAULTS['warmup']:g}"
    _add(group, "--warmup", text, type=float, metavar="EPOCHS")
    _add(group, "--schedule", "of the learning rates", choices=SCHEDULES)
    tuned = f"with --weights {CLIP_GRAD_NORM:g}; else "
    text = f"largest norm of the gradient, or none; default: {'' if rows else tuned}none"
    _add(group, "--clip-grad-norm", text, type=_norm, metavar="NORM")
    _add(group, "--precision", "of the training", choices=PRECISIONS)
    _add(group, "--monitor", "figure that chooses the checkpoint", choices=list(MONITORS))
    if not rows:
        text = "of split, initial weights, order, augmentation and dropout"
        _add(group, "--seed", text, type=int)


def _times() -> str:
    """By what ``--lr`` is multiplied where blocks start from weights."""
    factors = (f"{factor:g} ({init})" for init, factor in GATE_LR_FACTOR.items())
    return f"with --weights --lr times {', '.join(factors)}; else "
