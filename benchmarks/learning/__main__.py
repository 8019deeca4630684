"""Try at which rate the gates of swapped-in blocks learn: ``python -m benchmarks.learning``.

Every trial fine-tunes one network on one of five folds and reads its log loss on the validation
part; the test part of the fold stays unread. Started again, it goes on with what is missing;
started twice at once, the two share the work. A trial takes about ten minutes on two cores.
"""

import argparse
import time
from fnmatch import fnmatchcase
from pathlib import Path

from benchmarks.learning.arms import ARMS, OPEN, Arm
from benchmarks.learning.report import report
from benchmarks.learning.results import read_trials
from benchmarks.learning.work import FAILED, Plan, work, work_together
from benchmarks.lesions import FOLDS


def main(arguments: list[str] | None = None) -> None:
    """Do what is not done yet, then write the report of all that is done."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.learning",
        description=__doc__,
        epilog=f"Arms: {'; '.join(arm.name for arm in ARMS)}.",
    )
    parser.add_argument("--data", type=Path, required=True, help="HAM10000 folder")
    parser.add_argument("--weights", type=Path, required=True, help="ImageNet weights")
    parser.add_argument("--out", type=Path, required=True, help="folder of the results")
    parser.add_argument(
        "--folds",
        type=int,
        nargs="*",
        default=[0, 1, 2],
        help="of 0 to 4; none for the report alone",
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--arms", nargs="+", default=["*"], metavar="PATTERN", help="such as SeCo*")
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--processes", type=int, default=1, help="that share the work, or the GPU")
    parser.add_argument("--masks", action="store_true", help="measure the attention on lesions too")
    parser.add_argument("--minutes", type=float, help="begin no trial after so many")
    parser.add_argument("--against", default=OPEN.name, help="arm that spreads are compared to")
    options = parser.parse_args(arguments)
    if wrong := [fold for fold in options.folds if not 0 <= fold < FOLDS]:
        parser.error(f"argument --folds: must be 0 to {FOLDS - 1}, got {wrong[0]}")
    for name in ("epochs", "processes"):
        if getattr(options, name) < 1:
            parser.error(f"argument --{name}: must be at least 1, got {getattr(options, name)}")
    done = read_trials(options.out)
    if options.against not in (known := {arm.name for arm in ARMS} | {t.arm for t in done}):
        parser.error(f"argument --against: {options.against!r} is none of {sorted(known)}")
    if others := {t.of_epochs for t in done} - {options.epochs}:
        parser.error(
            f"argument --epochs: {options.out} has trials of {min(others)} epochs, not "
            f"{options.epochs}: give them, or another --out"
        )
    arms = _chosen(options.arms, parser)
    if short := [arm.name for arm in arms if arm.warmup_epochs >= options.epochs]:
        parser.error(f"argument --epochs: must be above the warm-up of {short[0]!r}")
    plan = Plan(
        options.data,
        options.weights,
        options.out,
        arms,
        options.folds,
        options.seeds,
        options.epochs,
        options.masks,
        None if options.minutes is None else time.time() + 60 * options.minutes,
    )
    options.out.mkdir(parents=True, exist_ok=True)
    for file in options.out.glob(f"fold * seed */*{FAILED}"):  # they are tried again
        file.unlink()
    try:
        if options.processes == 1:
            work(plan)
        else:
            work_together(plan, options.processes)
    finally:
        report(options.out, options.against)
    if failed := sorted(options.out.glob(f"fold * seed */*{FAILED}")):
        parser.exit(1, f"{len(failed)} trials failed, such as {failed[0]}, which says why\n")


def _chosen(patterns: list[str], parser: argparse.ArgumentParser) -> list[Arm]:
    """The arms that fit a pattern, in the order of the list."""
    for pattern in patterns:
        if not any(fnmatchcase(arm.name, pattern) for arm in ARMS):
            parser.error(f"argument --arms: {pattern!r} fits none of {[a.name for a in ARMS]}")
    return [arm for arm in ARMS if any(fnmatchcase(arm.name, pattern) for pattern in patterns)]


if __name__ == "__main__":
    main()
