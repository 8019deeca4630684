"""The command line: the options of a run are those of :class:`Config`, the rest is said here."""

from argparse import SUPPRESS, ArgumentParser, ArgumentTypeError, Namespace
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

from examples.ham10000.config import DEFAULTS, FIELDS, NOTICE, PAPER, PARTS, SYNTHETIC
from examples.ham10000.paper.rows import FIGURES, TABLES
from examples.ham10000.rules import flag
from examples.ham10000.study.arms import STUDIES

GROUPS = {"data": "data", "model": "network", "loss": "loss", "epochs": "training"}
"""The first options of a run that are under a title, and the title."""

ROWS = {
    "data": "HAM10000 folder",
    "out": "folder for the runs and the table; default: runs/paper, of a study runs/study",
    "model": "in the place of MobileNetV3-Small: tv/NAME or timm/NAME",
    "weights": "of MobileNetV3-Small or --model, in rows with pre-training: imagenet, or a file; "
    "default: imagenet",
    "gate_lr": "learning rate of the layers that make gates of rows, columns and positions; with "
    "--attention SE, of the SE blocks; default: --lr",
    "warmup": "epochs in which all learning rates rise, step by step; 0: none; default: 0",
    "clip_grad_norm": "largest norm of the gradient, or none; default: none",
}
"""What options of a run are for ``reproduce``; its rows say the following ones."""
SAID_BY_ROWS = ("split_file", "folds", "fold", "attention", "insert", "loss", "seed")


def parse(arguments: Sequence[str] | None = None) -> Namespace:
    """Parse a command line; ``command`` names the command, the rest is what was given."""
    parser = ArgumentParser(prog="python -m examples.ham10000", description=NOTICE)
    commands = parser.add_subparsers(required=True, metavar="COMMAND", dest="command")

    def command(name: str, text: str) -> ArgumentParser:
        description = f"{text[0].upper()}{text[1:]}."
        # With these two, what was given is to be told from what was not.
        default = SUPPRESS if name in ("train", "reproduce") else None
        return commands.add_parser(
            name,
            help=text,
            description=description,
            allow_abbrev=False,
            argument_default=default,
        )

    options = command("download", "download HAM10000 from the Harvard Dataverse (2.8 GB)")
    _add(options, "--out", "data folder", _path, "DIR", required=True)
    text = "the test set of ISIC 2018 Task 3 instead, for evaluate --ground-truth"
    options.add_argument("--test", action="store_true", help=text)

    options = command("unpack", "write Parquet files of Hugging Face as a data folder")
    _add(options, "--data", "folder of the .parquet files", _path, "DIR", required=True)
    _add(options, "--out", "data folder", _path, "NEW_DIR", required=True)

    options = command("check", "look for everything that could be wrong with a data folder")
    _add(options, "--data", "HAM10000 folder", _path, "DIR", required=True)
    _add_of_run(options, "same_lesion")

    options = command("split", "write training, validation and test part to a CSV file")
    _add(options, "--data", "HAM10000 folder", _path, "DIR", required=True)
    for name in ("same_lesion", "protocol", "folds", "fold"):
        _add_of_run(options, name)
    _add(options, "--out", "new file", _path, "FILE.csv", required=True)
    _add_of_run(options, "seed", "of the random order")

    options = command("train", "train a classifier and test it once")
    text = "go on with a run from its last whole epoch, with the options that it has; only --data "
    text += "may stand beside it, where the images were moved"
    _add(options, "--resume", text, _path, "RUN")
    _add_run(options, {})

    options = command("reproduce", "run a table or figure of the paper; finished rows are skipped")
    which: Any = options.add_mutually_exclusive_group(required=True)
    text = "arms on five folds, each image tested once: blocks in the place of SE, or inserted"
    _add(which, "--table", "of the paper", int, choices=list(TABLES))
    _add(which, "--figure", "of the paper", int, choices=list(FIGURES))
    _add(which, "--study", text, str, choices=list(STUDIES))
    text = "run these rows, or arms of a study, only; the table has all that are finished"
    _add(options, "--rows", text, str, "NAME", nargs="+")
    text = "run every row with the seeds 0 to N - 1; default: 1, in a study those of the arms"
    _add(options, "--seeds", text, int, "N")
    group: Any = options.add_argument_group("studies")
    text = "test these folds only; the files of predictions have all that are finished"
    _add(group, "--fold", text, int, "K", nargs="+")
    _add(group, "--minutes", "begin no run after so many", float, "M")
    text = "train as the paper: its network, 224 pixels, 100 epochs"
    group.add_argument("--as-paper", action="store_true", help=text)
    text = "run nothing: write tables and picture from the predictions in a folder, into it"
    _add(group, "--report", text, _path, "DIR")
    _add_run(options, ROWS, SAID_BY_ROWS)

    options = command("evaluate", "evaluate the best checkpoint of a run")
    _add(options, "--run", "its folder", _path, "RUN", required=True)
    text = "HAM10000 folder; with --ground-truth, images of any size at any depth"
    _add(options, "--data", text, _path, "DIR", required=True)
    which = options.add_mutually_exclusive_group()
    _add(which, "--split", "part of the split; default: test", str, choices=PARTS)
    text = "score other images, by a table of classes as ISIC 2018 Task 3 has it, or of metadata"
    _add(which, "--ground-truth", text, _path, "FILE.csv")
    text = "new folder for figures, probabilities and confusion matrix; default: print only"
    _add(options, "--out", text, _path, "DIR")
    _add_of_run(options, "workers")

    options = command("compare", "compare runs with the first, on the same test images")
    _add(options, "runs", "folders; at least two", _path, "RUN", nargs="+")
    text = "new folder for figures, picture and page; default: print only"
    _add(options, "--out", text, _path, "DIR")

    options = command("predict", "probabilities for images, in the format of ISIC 2018 Task 3")
    _add(options, "--run", "its folder", _path, "RUN", required=True)
    text = "images of any size, and folders of them"
    _add(options, "inputs", text, _path, "IMAGE_OR_FOLDER", nargs="+")
    _add(options, "--out", "new file", _path, "FILE.csv", required=True)
    return parser.parse_args(arguments)


def _add(
    group: Any, name: str, text: str, kind: Any, metavar: str | None = None, **settings: Any
) -> None:
    group.add_argument(name, help=text, type=kind, metavar=metavar, **settings)


def _add_run(
    options: ArgumentParser, texts: Mapping[str, str], left_out: Collection[str] = ()
) -> None:
    """Add the options of a run, some of them with other texts than :class:`Config` has."""
    for name in FIELDS:
        if name in GROUPS:
            group = options.add_argument_group(GROUPS[name])
        if name == "protocol":
            split = group.add_mutually_exclusive_group()
        if name not in left_out:
            place = split if name in ("protocol", "split_file") else group
            _add_of_run(place, name, texts.get(name))


def _add_of_run(group: Any, name: str, text: str | None = None) -> None:
    """Add an option of a run, with its own help or another one."""
    field = FIELDS[name]
    text = text or str(field.description)
    if name in PAPER:
        text += f"; default: {PAPER[name]:g} as in the paper; {SYNTHETIC[name]:g} if synthetic"
    elif "default" not in text and not (DEFAULTS[name] is None or DEFAULTS[name] is False):
        text += f"; default: {DEFAULTS[name]}"
    settings: dict[str, Any] = {"help": text}
    kinds = _kinds(field.annotation)
    if bool in kinds:
        settings["action"] = "store_true"
    else:
        settings |= {"type": TYPES.get(name) or TYPES.get(kinds[0], _text), "metavar": field.title}
        settings["choices"] = [kind for kind in kinds if isinstance(kind, str)] or None
    if name == "insert":
        settings["nargs"] = "+"
    if group.argument_default is None:
        settings["default"] = DEFAULTS[name]
    group.add_argument(flag(name), **settings)


def _kinds(hint: Any) -> list[Any]:
    """The types in the hint of an option, or its choices."""
    return [kind for part in get_args(hint) for kind in _kinds(part)] or [hint]


def _text(given: str) -> str:
    """What a report can hold."""
    try:
        given.encode()
    except UnicodeEncodeError as error:
        raise ArgumentTypeError(f"{given!r} is not UTF-8: rename it") from error
    return given


def _path(given: str) -> Path:
    return Path(_text(given))


def _norm(given: str) -> float | None:
    try:
        return None if given == "none" else float(given)
    except ValueError as error:
        raise ArgumentTypeError(f"{given!r} must be a number above 0, or none") from error


TYPES: dict[Any, Any] = {int: int, float: float, Path: _path, "clip_grad_norm": _norm}
