"""The commands: ``python -m examples.ham10000 COMMAND``."""

import argparse
import logging
import shutil
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial

import torch
from lightning.pytorch.utilities.exceptions import SIGTERMException

from examples.ham10000 import processes
from examples.ham10000.config import NOTICE, check_folds, check_outside, check_workers, train_config
from examples.ham10000.data.check import check
from examples.ham10000.data.download import TEST_ADVICE, TEST_FILES, download
from examples.ham10000.data.index import read_index, read_pairs
from examples.ham10000.data.parquet import unpack
from examples.ham10000.data.splits import draw_split, leak, write_split
from examples.ham10000.evaluate import evaluate_ground_truth, evaluate_run, format_summary
from examples.ham10000.options import parse
from examples.ham10000.paper.compare import compare
from examples.ham10000.paper.forest import write_comparison
from examples.ham10000.paper.reproduce import reproduce
from examples.ham10000.paper.words import format_comparison
from examples.ham10000.pipeline import complete
from examples.ham10000.predict import predict
from examples.ham10000.report.results import write_results
from examples.ham10000.study.arms import STUDIES
from examples.ham10000.study.report import write_study
from examples.ham10000.study.study import run_study


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Returns:
        0; 1 after a diverged run, for data that ``check`` finds unusable, where ``predict`` had to
        leave images out or ``reproduce`` could not run a row; 2 for input that cannot be used,
        or that needs more memory than there is; 128 and the number of the signal, as shells do,
        after Ctrl-C and SIGTERM.
    """
    options = parse(arguments)
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)  # its bar says enough
    commands = {
        "download": _download,
        "unpack": _unpack,
        "check": _check,
        "split": _split,
        "train": _train,
        "evaluate": _evaluate,
        "compare": _compare,
        "predict": _predict,
        "reproduce": _reproduce,
    }
    processes.join()
    try:
        return commands[options.command](options)
    except (ValueError, OSError) as error:
        _complain(error)
        return 2
    except (MemoryError, RuntimeError) as error:
        if not _is_out_of_memory(error):
            raise
        _complain(f"a smaller --batch-size or --image-size needs less memory: {error}")
        return 2
    except (KeyboardInterrupt, SIGTERMException) as stop:
        advice = "A run goes on from its last whole epoch with train --resume RUN"
        _complain(f"stopped. {advice}" if options.command == "train" else "stopped")
        return 128 + (signal.SIGINT if isinstance(stop, KeyboardInterrupt) else signal.SIGTERM)
    finally:
        processes.leave()


@contextmanager
def _sigterm_raised() -> Iterator[None]:
    """Let SIGTERM clean up as Ctrl-C does, where no trainer runs to heed it."""

    def stop(*_: object) -> None:
        raise SIGTERMException

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@_sigterm_raised()
def _download(options: argparse.Namespace) -> int:
    if options.test:
        download(options.out, TEST_FILES, advice=TEST_ADVICE)
    else:
        download(options.out)
    return 0


@_sigterm_raised()
def _unpack(options: argparse.Namespace) -> int:
    count = unpack(options.data, options.out)
    print(f"{count} images are in {options.out}. Look at it with: check --data {options.out}")
    return 0


def _check(options: argparse.Namespace) -> int:
    read_pairs(options.same_lesion, (), complete=False)  # its faults are none of the folder
    try:
        report = check(options.data, options.same_lesion)
    except (ValueError, OSError) as error:
        print(f"NOT usable for training: {error}")
        return 1
    print(report)
    return 0 if report.usable else 1


def _split(options: argparse.Namespace) -> int:
    if options.out.exists():
        raise FileExistsError(f"--out {options.out} exists: name a new file")
    if options.seed < 0:
        raise ValueError(f"--seed must not be negative, got {options.seed}")
    check_folds(options.folds, options.fold, options.protocol)  # before all images are listed
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


def _train(options: argparse.Namespace) -> int:
    processes.say(f"HAM10000 skin lesions. {NOTICE}")
    config = processes.once(lambda: train_config(vars(options)))
    resumed = hasattr(options, "resume")
    if resumed and (config.out / "test.json").exists():
        processes.say(f"The run {config.out} is complete")
        return 0
    if config.data is None:
        processes.say(
            "No --data: drawing and using SYNTHETIC pictures. Their figures mean nothing."
        )
    try:
        summary = complete(config, resumed=resumed)
    except FloatingPointError as error:
        _complain(error)
        return 1
    processes.say(format_summary(summary))
    processes.say(f"Figures, pictures and checkpoints are in {config.out}")
    return 0


def _evaluate(options: argparse.Namespace) -> int:
    if options.out is not None and options.out.exists():
        raise FileExistsError(f"--out {options.out} exists: name a new folder")
    if options.out is not None:
        check_outside(options.out, options.data)
    check_workers(options.workers)
    if options.ground_truth is None:
        part = options.split or "test"
        evaluation = evaluate_run(options.run, options.data, part, options.workers)
    else:
        evaluation = evaluate_ground_truth(
            options.run, options.data, options.ground_truth, options.workers
        )
    if options.out is not None and processes.rank() == 0:
        options.out.mkdir(parents=True)
        try:
            write_results(options.out, evaluation)
        except BaseException:
            shutil.rmtree(options.out)
            raise
    processes.say(format_summary(evaluation.summary))
    return 0


def _compare(options: argparse.Namespace) -> int:
    if options.out is not None and options.out.exists():
        raise FileExistsError(f"--out {options.out} exists: name a new folder")
    comparison = compare(options.runs)
    if options.out is not None:
        write_comparison(options.out, comparison)
    print(format_comparison(comparison))
    return 0


@_sigterm_raised()
def _predict(options: argparse.Namespace) -> int:
    print(NOTICE)
    outcome = predict(options.run, options.inputs, options.out)
    for files in outcome.no_row:
        print(f"no row for {files}")
    for problem in outcome.problems:
        print(f"left out: {problem}", file=sys.stderr)
    print(f"{outcome.predicted} images predicted, {len(outcome.problems)} left out: {options.out}")
    return 1 if outcome.problems else 0


def _reproduce(options: argparse.Namespace) -> int:
    processes.say(f"HAM10000 skin lesions. {NOTICE}")
    given = {name: value for name, value in vars(options).items() if name != "command"}
    given_study = [name for name in ("fold", "minutes", "as_paper", "report") if name in given]
    if "study" not in given and given_study:
        raise ValueError(f"--{given_study[0].replace('_', '-')} is for --study")
    if "report" in given:
        if others := given.keys() - {"study", "report"}:
            raise ValueError(f"--report runs nothing: leave out --{min(others).replace('_', '-')}")
        print(*write_study(STUDIES[options.study], options.report), sep="\n")
        return 0
    if "data" not in given:
        raise ValueError("give the HAM10000 folder: --data DIR")
    if "study" in given:
        outcome = run_study(**given, begin=partial(complete, crowded=True))
    else:
        outcome = reproduce(**given)
    for row, problem in outcome.failures.items():
        _complain(f"{row} could not be run: {problem}")
    processes.say(f"{outcome.name}: {', '.join(map(str, outcome.files))}")
    return 1 if outcome.failures else 0


def _is_out_of_memory(error: Exception) -> bool:
    """Whether numpy, or PyTorch on a GPU or on the CPU, could not get memory."""
    known = isinstance(error, MemoryError | torch.OutOfMemoryError)
    return known or "DefaultCPUAllocator" in str(error)


def _complain(error: object) -> None:
    """Print an error, in every process: it may be in one of them only."""
    where = f" in process {processes.rank()}" if processes.count() > 1 else ""
    print(f"error{where}: {error}", file=sys.stderr)
