"""The commands: ``python -m examples.ham10000 COMMAND``.

What takes seconds to import is imported by the commands, after a look at the options.
"""

import logging
import signal
import sys
from argparse import Namespace
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

from pydantic import ValidationError

from examples.ham10000 import processes
from examples.ham10000.arguments import parse
from examples.ham10000.config import FIELDS, NOTICE, Config
from examples.ham10000.files import moved_into_place
from examples.ham10000.given import train_config
from examples.ham10000.rules import check_folds, check_outside, flag, said
from examples.ham10000.study.arms import STUDIES


@contextmanager
def _sigterm_raised() -> Iterator[None]:
    """Let SIGTERM clean up as Ctrl-C does, where no trainer runs to heed it."""

    def stop(*_: object) -> None:
        raise SystemExit

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@_sigterm_raised()
def _download(options: Namespace) -> int:
    from examples.ham10000.data import download as source

    if options.test:
        source.download(options.out, source.TEST_FILES, advice=source.TEST_ADVICE)
    else:
        source.download(options.out)
    return 0


@_sigterm_raised()
def _unpack(options: Namespace) -> int:
    from examples.ham10000.data.parquet import unpack

    count = unpack(options.data, options.out)
    print(f"{count} images are in {options.out}. Look at it with: check --data {options.out}")
    return 0


def _check(options: Namespace) -> int:
    from examples.ham10000.data.check import check
    from examples.ham10000.data.index import read_pairs

    read_pairs(options.same_lesion, (), complete=False)  # its faults are none of the folder
    try:
        report = check(options.data, options.same_lesion)
    except (ValueError, OSError) as error:
        print(f"NOT usable for training: {error}")
        return 1
    print(report)
    return 0 if report.usable else 1


def _split(options: Namespace) -> int:
    _check_new(options.out, "file")
    check_folds(options.folds, options.fold, options.protocol)  # before all images are listed
    from examples.ham10000.data.index import read_index
    from examples.ham10000.data.splits import draw_split, leak, write_split

    images = read_index(options.data, same_lesion=options.same_lesion)
    asked = (options.seed, options.protocol, options.folds, options.fold)
    split = draw_split(images, *asked)
    write_split(options.out, images, split)
    print(f"{', '.join(f'{len(split[part])} {part}' for part in split)} images")
    by_id = [replace(image, joined=None) for image in images]
    print(
        f"leak: {leak(images, split):.3f} of the test images show a lesion that is in train "
        f"({leak(by_id, split):.3f} by lesion_id alone)"
    )
    if options.protocol == "lesion":
        joined = len({image.lesion_id for image in images if image.joined is not None})
        print(
            f"{joined} lesion_ids are joined with others; had they not been, the split would leak "
            f"{leak(images, draw_split(by_id, *asked)):.3f}"
        )
    return 0


def _train(options: Namespace) -> int:
    processes.say(f"HAM10000 skin lesions. {NOTICE}")
    config = processes.once(lambda: train_config(vars(options)))
    resumed = hasattr(options, "resume")
    if resumed and (config.out / "test.json").exists():
        processes.say(f"The run {config.out} is complete")
        return 0
    if config.data is None:
        processes.say("No --data: drawing and using SYNTHETIC pictures, whose figures mean nothing")
    from examples.ham10000.evaluate import format_summary
    from examples.ham10000.pipeline import complete

    processes.say(format_summary(complete(config, resumed=resumed)))
    processes.say(f"Figures, pictures and checkpoints are in {config.out}")
    return 0


def _reproduce(options: Namespace) -> int:
    processes.say(f"HAM10000 skin lesions. {NOTICE}")
    given = {name: value for name, value in vars(options).items() if name != "command"}
    of_study = [name for name in ("fold", "minutes", "as_paper", "report") if name in given]
    if "study" not in given and of_study:
        raise ValueError(f"{flag(of_study[0])} is for --study")
    if "report" in given:
        if others := given.keys() - {"study", "report"}:
            raise ValueError(f"--report runs nothing: leave out {flag(min(others))}")
        from examples.ham10000.study.report import write_study

        print(*write_study(STUDIES[options.study], options.report), sep="\n")
        return 0
    if "data" not in given:
        raise ValueError("give the HAM10000 folder: --data DIR")
    from examples.ham10000.paper.reproduce import reproduce
    from examples.ham10000.pipeline import complete
    from examples.ham10000.study.study import run_study

    if "study" in given:
        outcome = run_study(**given, begin=partial(complete, crowded=True))
    else:
        outcome = reproduce(**given, begin=complete)
    for row, problem in outcome.failures.items():
        _complain(f"{row} could not be run: {problem}")
    processes.say(f"{outcome.name}: {', '.join(map(str, outcome.files))}")
    return 1 if outcome.failures else 0


def _evaluate(options: Namespace) -> int:
    _check_new(options.out, "folder")
    if options.out is not None:
        check_outside(options.out, options.data)
    from examples.ham10000.evaluate import evaluate_ground_truth, evaluate_run, format_summary
    from examples.ham10000.report.results import check_described, write_results

    if options.out is not None:
        check_described(options.run)
    run, data, truth = options.run, options.data, options.ground_truth
    if truth is None:
        evaluation = evaluate_run(run, data, options.split or "test", options.workers)
    else:
        evaluation = evaluate_ground_truth(run, data, truth, options.workers)
    if options.out is not None and processes.rank() == 0:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        with moved_into_place(options.out) as folder:
            folder.mkdir()
            write_results(folder, evaluation)
    processes.say(format_summary(evaluation.summary))
    return 0


def _compare(options: Namespace) -> int:
    _check_new(options.out, "folder")
    from examples.ham10000.paper.compare import compare
    from examples.ham10000.paper.forest import write_comparison
    from examples.ham10000.paper.words import format_comparison

    comparison = compare(options.runs)
    if options.out is not None:
        write_comparison(options.out, comparison)
    print(format_comparison(comparison))
    return 0


@_sigterm_raised()
def _predict(options: Namespace) -> int:
    print(NOTICE, flush=True)
    from examples.ham10000.predict import predict

    outcome = predict(options.run, options.inputs, options.out)
    for files in outcome.no_row:
        print(f"no row for {files}")
    for problem in outcome.problems:
        print(f"left out: {problem}", file=sys.stderr)
    print(f"{outcome.predicted} images predicted, {len(outcome.problems)} left out: {options.out}")
    return 1 if outcome.problems else 0


COMMANDS = {
    "download": _download,
    "unpack": _unpack,
    "check": _check,
    "split": _split,
    "train": _train,
    "reproduce": _reproduce,
    "evaluate": _evaluate,
    "compare": _compare,
    "predict": _predict,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Returns 0; 1 after a diverged run, for data that ``check`` finds unusable, where ``predict`` had
    to leave images out or ``reproduce`` could not run a row; 2 for input that cannot be used, or
    that needs more memory than there is; 128 and the number of the signal, as shells do, after
    Ctrl-C and SIGTERM.
    """
    options = parse(arguments)
    logging.disable(logging.INFO)  # Lightning's bar says enough
    try:
        numbers = {k: v for k, v in vars(options).items() if type(v) in (int, float)}
        Config(out=Path(), **{k: v for k, v in numbers.items() if k in FIELDS})
        processes.join()
        return COMMANDS[options.command](options)
    except (ValueError, OSError, FloatingPointError) as error:
        _complain(said(error) if isinstance(error, ValidationError) else error)
        return 1 if isinstance(error, FloatingPointError) else 2
    except (MemoryError, RuntimeError) as error:
        known = isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"
        if not known and "DefaultCPUAllocator" not in str(error):  # which PyTorch says on the CPU
            raise
        _complain(f"a smaller --batch-size or --image-size needs less memory: {error}")
        return 2
    except (KeyboardInterrupt, SystemExit) as stop:  # SystemExit: SIGTERM
        advice = "A run goes on from its last whole epoch with train --resume RUN"
        _complain(f"stopped. {advice}" if options.command == "train" else "stopped")
        return 128 + (signal.SIGINT if isinstance(stop, KeyboardInterrupt) else signal.SIGTERM)
    finally:
        logging.disable(logging.NOTSET)
        processes.leave()


def _check_new(out: Path | None, kind: str) -> None:
    if out is not None and out.exists():
        raise FileExistsError(f"--out {out} exists: name a new {kind}")


def _complain(error: object) -> None:
    """Print an error, in every process: it may be in one of them only."""
    where = f" in process {processes.rank()}" if processes.count() > 1 else ""
    print(f"error{where}: {error}", file=sys.stderr)
