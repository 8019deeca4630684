"""The options of ``reproduce`` for studies."""

import argparse
from pathlib import Path
from typing import Any

from examples.ham10000.study.arms import STUDIES


def add_study_options(which: Any, options: argparse.ArgumentParser) -> None:
    """Add them.

    Args:
        which: the group of what can be reproduced, of which one is chosen.
        options: of the command.
    """
    text = "arms on five folds, each image tested once: blocks in the place of SE, or inserted"
    which.add_argument("--study", choices=list(STUDIES), default=argparse.SUPPRESS, help=text)
    group = options.add_argument_group("studies")

    def add(flag: str, text: str, **settings: Any) -> None:
        group.add_argument(flag, default=argparse.SUPPRESS, help=text, **settings)

    text = "test these folds only; the files of predictions have all that are finished"
    add("--fold", text, type=int, nargs="+", metavar="K")
    add("--minutes", "begin no run after so many", type=float, metavar="M")
    text = "train as the paper: its network, 224 pixels, 100 epochs"
    add("--as-paper", text, action="store_true")
    text = "run nothing: write tables and picture from the predictions in a folder, into it"
    add("--report", text, type=Path, metavar="DIR")
