"""Run a study, alone or beside other processes, and keep what its arms predict."""

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from filelock import FileLock

from examples.ham10000 import processes
from examples.ham10000.data.index import read_index
from examples.ham10000.paper.finished import finished
from examples.ham10000.paper.runs import Outcome, check_same_options, run_shared
from examples.ham10000.study.arms import STUDIES, Study
from examples.ham10000.study.facts import write_facts
from examples.ham10000.study.predictions import write_predictions
from examples.ham10000.study.report import write_study
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

    In the end tables and picture are written of all that is there, if both references are. Several
    of these may share a folder: each takes runs that no other one is at.

    ``begin`` does a run, called with its config and ``resumed``; other runs may be beside it. Of
    ``rows``, the names of arms, and ``fold`` None means all; every arm has the seeds 0 to ``seeds``
    - 1, or its own number; no run is begun after ``minutes``. ``options`` of ``train`` are for all.

    Raises:
        ValueError: an option cannot be followed, or a run in ``out`` has others.
        FileNotFoundError: there is no such data folder.
    """
    began = time.monotonic()
    wanted = STUDIES[study]
    if unknown := [number for number in fold or () if number not in wanted.folds]:
        listed = ", ".join(map(str, wanted.folds))
        raise ValueError(f"--fold of the study {study} must be one of {listed}; got {unknown[0]}")
    all_runs = partial(study_runs, wanted, data, out, options, seeds=seeds, as_paper=as_paper)
    runs = all_runs(rows=rows)
    for run in runs:
        check_same_options(run.config)
    images = read_index(data, allow_missing=True, same_lesion=options.get("same_lesion"))
    out.mkdir(parents=True, exist_ok=True)

    def write(file: Path) -> Path:
        """One process writes what has been predicted until now for a file."""
        of_file = [run for run in runs if run.predictions == file]
        return processes.once(partial(write_predictions, of_file, images))

    failures: dict[str, str] = {}
    for run in runs:
        if fold is not None and run.fold not in fold:
            continue
        over = minutes is not None and time.monotonic() - began > 60 * minutes
        if processes.once(partial(bool, over)):
            break
        if run_shared(run.name, run.config, begin, failures):
            write(run.predictions)
    # Also those of processes that did not come to write them.
    done = dict.fromkeys(run.predictions for run in runs if finished(run.config.out))
    files = [*map(write, done)]
    files += processes.once(partial(_report, wanted, all_runs(), out))
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
