"""What is left to do is done by one process, or shared by several."""

import logging
import os
import time
import traceback
from contextlib import redirect_stdout
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path

from torch import multiprocessing

from benchmarks.files import write_json
from benchmarks.jobs import job
from benchmarks.learning.arms import Arm
from benchmarks.learning.data import Shown, load_fold, show
from benchmarks.learning.start import is_being_fitted, network
from benchmarks.learning.trial import finetune
from benchmarks.lesions import Lesions

FAILED = ".failed"
"""Ending of the file with the traceback of a trial that failed."""


@dataclass(frozen=True)
class Plan:
    """What to do.

    Attributes:
        data: the HAM10000 folder.
        weights: of ImageNet.
        out: the folder of the results.
        arms: what is compared.
        folds: on which.
        seeds: with each of which.
        epochs: of every trial.
        masks: whether attention on the lesion is measured.
        until: the time after which no trial is begun, in seconds since the epoch; None for any.
    """

    data: Path
    weights: Path
    out: Path
    arms: list[Arm]
    folds: list[int]
    seeds: list[int]
    epochs: int
    masks: bool
    until: float | None

    @property
    def trials(self) -> list[tuple[int, int, Arm]]:
        """Arms outermost: those that are done are done on all folds."""
        return [(f, seed, arm) for arm in self.arms for seed in self.seeds for f in self.folds]


def folder_of(out: Path, fold: int, seed: int) -> Path:
    """Where the results of a fold and a seed are."""
    return out / f"fold {fold} seed {seed}"


def work_together(plan: Plan, count: int) -> None:
    """Do what is not done yet, in several processes.

    Raises:
        RuntimeError: some of them failed, with a traceback of their own.
    """
    os.environ["OMP_NUM_THREADS"] = "1"  # read by the new processes
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=work, args=(plan, i), daemon=True) for i in range(count)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    if failed := [i for i, worker in enumerate(workers) if worker.exitcode != 0]:
        raise RuntimeError(f"processes {failed} failed: see what they printed")


def work(plan: Plan, number: int = 0) -> None:
    """Do what no other process does; what Lightning prints goes to a log file."""
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    log = plan.out / f"process {number}.log"
    while True:
        # From the first again after each trial: one that had to wait for a fit is next.
        for trial in plan.trials:
            if plan.until is not None and time.time() > plan.until:
                return
            if _try(plan, *trial, log=log):
                break
        else:
            folders = [(arm.start, folder_of(plan.out, f, seed)) for f, seed, arm in plan.trials]
            if not any(is_being_fitted(start, folder) for start, folder in folders):
                return
            time.sleep(0.5)


def _try(plan: Plan, fold: int, seed: int, arm: Arm, log: Path) -> bool:
    """Do a trial, unless it is done, failed, another process is at it, or it waits for a fit."""
    folder = folder_of(plan.out, fold, seed)
    folder.mkdir(parents=True, exist_ok=True)
    with job(folder / f"{arm.name}.json") as file:
        if file is None or file.with_suffix(FAILED).exists() or is_being_fitted(arm.start, folder):
            return False
        lesions, shown = _load(plan.data, plan.out / "cache", fold, seed, plan.masks)
        try:
            # Without a terminal Lightning draws no bars.
            with log.open("a") as stream, redirect_stdout(stream):
                print(f"{folder.name}: {arm.name}", flush=True)
                start = network(arm.start, plan.weights, seed, lesions, folder)
                found = finetune(arm, start, lesions, shown, seed=seed, epochs=plan.epochs)
        except Exception:  # whatever it is, the other trials go on
            file.with_suffix(FAILED).write_text(traceback.format_exc(), encoding="utf-8")
            print(f"{folder.name}: {arm.name} failed", flush=True)
            return True
        about = {"arm": arm.name, "fields": asdict(arm), "fold": fold, "seed": seed}
        write_json(file, {**about, "of_epochs": plan.epochs, **found})
        print(f"{folder.name}: {arm.name} ({found['seconds']:.0f} s)", flush=True)
    return True


@cache
def _load(data: Path, cache: Path, fold: int, seed: int, masks: bool) -> tuple[Lesions, Shown]:
    """The images of a fold, which are mapped from a file."""
    lesions = load_fold(data, cache, fold, seed)
    return lesions, show(lesions, data if masks else None)
