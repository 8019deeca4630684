"""Run a study, alone or beside other processes, and keep what its arms predict."""

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from filelock import FileLock

from examples.ham10000 import processes
from examples.ham10000.data.index import Image, read_index
from examples.ham10000.paper.runs import Outcome, check_same_options, finished, one_line, run_shared
from examples.ham10000.study.arms import STUDIES, Study
from examples.ham10000.study.predictions import gather, write_predictions
from examples.ham10000.study.report import write_facts, write_study
from examples.ham10000.study.runs import StudyRun, study_runs


def run_study(
    *,
    data: Path,
    study: str,
    begin: Callable[..., object],
    out: Path = Path("runs", "study"),
    rows: list[str] | None = None,
    fold: list[int] | None = None,
    seeds: int | None = None,
    minutes: float | None = None,
    as_paper: bool = False,
    **options: Any,
) -> Outcome:
    """Do the runs that are not finished, and write the predictions of each arm as they come.

    In the end tables and picture are written of all that is there, if both references are.

    Several of these may share a folder: each takes runs that no other one is at. So each run
    should be crowded, as :func:`complete` has it.

    Args:
        data: HAM10000 folder.
        study: one of :data:`STUDIES`.
        begin: does a run, called as ``begin(config, resumed=...)``.
        out: folder for runs and predictions.
        rows: names of the arms to run; None for all.
        fold: the folds to test; None for those of the study.
        seeds: every arm is run with the seeds 0 to ``seeds`` - 1; None for those of the arms.
        minutes: begin no run after so many; None for no end.
        as_paper: train as the paper does.
        **options: of ``train``, for all arms.

    Raises:
        ValueError: an option cannot be followed, or a run in ``out`` has others.
        FileNotFoundError: there is no such data folder.
    """
    began = time.monotonic()
    wanted = STUDIES[study]
    if unknown := [number for number in fold or () if number not in wanted.folds]:
        listed = ", ".join(map(str, wanted.folds))
        raise ValueError(f"--fold of the study {study} must be one of {listed}; got {unknown[0]}")
    runs = study_runs(wanted, data, out, options, rows=rows, seeds=seeds, as_paper=as_paper)
    for run in runs:
        check_same_options(run.config)
    images = read_index(data, allow_missing=True, same_lesion=options.get("same_lesion"))
    out.mkdir(parents=True, exist_ok=True)
    failures: dict[str, str] = {}
    for run in runs:
        if fold is not None and run.fold not in fold:
            continue
        over = minutes is not None and time.monotonic() - began > 60 * minutes
        if processes.once(partial(bool, over)):
            break
        try:
            trained = run_shared(run.name, run.config, False, begin)
        except (ValueError, OSError, FloatingPointError) as error:
            if processes.count() > 1:  # the others may wait for this one
                raise
            failures[run.name] = one_line(error)
        else:
            if trained:
                processes.once(partial(_write, out, runs, images, run))
    # One run for each file: also those of processes that did not come to write it.
    done = {_file(out, run): run for run in runs if finished(run.config.out)}
    files = [processes.once(partial(_write, out, runs, images, run)) for run in done.values()]
    everything = study_runs(wanted, data, out, options, seeds=seeds, as_paper=as_paper)
    files += processes.once(partial(_report, wanted, everything, out))
    count = processes.once(lambda: sum(finished(run.config.out) for run in runs))
    return Outcome(f"study {study}, {count} of {len(runs)} runs finished", files, failures)


def _report(study: Study, runs: list[StudyRun], out: Path) -> list[Path]:
    """Write what there is to say once the references have predictions; give the files."""
    for name in study.against:
        if not any(finished(run.config.out) for run in runs if run.arm.name == name):
            return []
    facts = out / f"{study.name}.json"
    with FileLock(facts.with_suffix(".lock")):
        write_facts(facts, runs)
        return [facts, *write_study(study, out)]


def _file(out: Path, run: StudyRun) -> Path:
    """Where the predictions of the arm of a run are kept, with its seed."""
    return out / f"{run.study}-{run.arm.slug}-seed{run.config.seed}.npz"


def _write(out: Path, runs: list[StudyRun], images: list[Image], of: StudyRun) -> Path:
    """Write what an arm with one seed has predicted until now, on all folds; give the file."""
    file = _file(out, of)
    same = [run for run in runs if _file(out, run) == file]
    # Without the lock, a process could replace a file by what it has read before.
    with FileLock(file.with_suffix(".lock")):
        write_predictions(file, gather(same, images))
    return file
