"""The differences between runs, and what the test images say about them."""

import itertools
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binomtest

from examples.ham10000.config import NOTICE
from examples.ham10000.metrics import HEADLINES, figures, lesion_bootstrap
from examples.ham10000.paper.differences import differ, holm
from examples.ham10000.paper.finished import which_matter
from examples.ham10000.paper.gates import describe_gates
from examples.ham10000.paper.tested import Tested, check_same_images, pool, read_run
from examples.ham10000.paper.words import notes, verdict

SEED = 0
"""Of the bootstrap: the same lesions are drawn for every run."""

RESAMPLES = 2000
"""For each comparison: the more there are, the further out in the tails their intervals end."""


def read_runs(folders: Sequence[Path]) -> list[Tested]:
    """Read runs that were tested on the same images; those of folds are pooled to arms.

    Runs that differ in nothing but the fold are an arm, which has the test images of all its folds.
    FileNotFoundError: a folder has no run, or one that is not finished. ValueError: there are fewer
    than two runs or arms, a run is given twice, its files are damaged, the test images of two runs
    differ, or an arm lacks a fold.
    """
    if len(folders) < 2:
        raise ValueError("give at least two runs to compare")
    for folder, other in itertools.combinations(folders, 2):
        if folder.resolve() == other.resolve():
            raise ValueError(f"{folder} and {other} are the same run")
    runs = [read_run(folder) for folder in folders]
    plain = [run for run in runs if run.config.folds is None]
    if len(plain) == len(runs):
        for run in runs[1:]:
            check_same_images(runs[0], run)
        return runs
    if plain:
        fold = next(run for run in runs if run.config.folds is not None)
        raise ValueError(
            f"{fold.folder} was tested on {fold.config.split_name}, {plain[0].folder} on "
            f"{plain[0].config.split_name}: folds are compared with folds only"
        )
    first, *others = arms = _arms(runs)
    if not others:
        raise ValueError(
            f"all {len(folders)} runs are folds of one arm, that of {folders[0]}: give the folds "
            "of another arm too"
        )
    for arm in others:
        if len(arm) != len(first):
            raise ValueError(
                f"the arms of {first[0].folder} and {arm[0].folder} have other folds: "
                f"{len(first)} and {len(arm)} of them"
            )
        for one, same in zip(first, arm, strict=True):
            check_same_images(one, same)
    return [pool(arm) for arm in arms]


def _arms(runs: Sequence[Tested]) -> list[list[Tested]]:
    """The folds of each arm in their order."""
    arms: dict[str, list[Tested]] = {}
    for run in runs:
        # Of a file of weights, one for each fold, the name is what they have alike.
        alike = {"fold": None, "weights": Path(run.config.weights).name}
        arms.setdefault(str({**_options(run), **alike}), []).append(run)
    differ = [name for name in differing_options(runs) if name != "fold"]
    for arm in arms.values():
        _check_folds(arm, f". The runs given differ in {', '.join(differ)}" if differ else "")
    return [sorted(arm, key=lambda run: run.config.fold or 0) for arm in arms.values()]


def _check_folds(arm: Sequence[Tested], hint: str) -> None:
    """Raise ValueError unless each fold is there once."""
    config, given = arm[0].config, Counter(str(run.config.fold) for run in arm)
    folds = [str(fold) for fold in range(config.folds or 0)]
    missing = ", ".join(fold for fold in folds if given[fold] == 0)
    twice = ", ".join(fold for fold in folds if given[fold] > 1)
    faults = [f"fold(s) {missing} missing"] if missing else []
    faults += [f"fold(s) {twice} given twice"] if twice else []
    if faults:
        raise ValueError(
            f"the arm of {arm[0].folder} ({config.network_name}, {config.loss}, seed "
            f"{config.seed}) has {' and '.join(faults)}: give each of its {config.folds} folds "
            f"once, with the same options{hint}"
        )


def _options(run: Tested) -> dict[str, Any]:
    """The options that make a difference; of a table of lesions, what is in it."""
    return {**which_matter(run.config), "same_lesion": run.same_lesion}


def differing_options(runs: Sequence[Tested]) -> dict[str, list[Any]]:
    """The options that are not the same in all runs, with the value of each run."""
    options = [_options(run) for run in runs]
    values = {name: [of_run[name] for of_run in options] for name in options[0]}
    return {name: found for name, found in values.items() if len(set(found)) > 1}


def compare(folders: Sequence[Path]) -> dict[str, Any]:
    """Compare runs with the first of them, on the test images that they share.

    The runs of folds are pooled: a run of the result is then an arm, with the images of all folds.
    The result is for JSON: ``runs`` with their figures, ``comparisons`` of the others with the
    first, and what is needed to read them. A ``difference`` is that of the figures, other minus
    first; its ``interval`` is from a bootstrap that draws the same lesions for both. Errors are
    those of :func:`read_runs`.
    """
    runs = read_runs(folders)
    number = len(runs) - 1
    folds = runs[0].config.folds
    resamples, level = RESAMPLES * number, 1 - 0.05 / number  # Bonferroni
    drawn = [_resampled(run, resamples) for run in runs]
    comparisons = []
    for run, figures_of_run in zip(runs[1:], drawn[1:], strict=True):
        differences = {}
        for name in HEADLINES:
            of = differ(figures_of_run[name], drawn[0][name], level)
            differences[name] = {
                "difference": of.value,
                "interval": [of.low, of.high],
                "told_apart": of.told_apart,
            }
        comparisons.append({"differences": differences, **_counts(runs[0], run)})
    adjusted = holm([comparison["mcnemar"]["p"] for comparison in comparisons])
    for place, (comparison, p) in enumerate(zip(comparisons, adjusted, strict=True), start=2):
        comparison["run"] = place
        comparison["mcnemar"]["p_holm"] = p
        comparison["verdict"] = verdict(comparison)
    names = run_names([run.folder for run in runs])
    return {
        "data": runs[0].data,
        "part": "test" if folds is None else f"{folds} folds pooled",
        "images": runs[0].summary["images"],
        "lesions": runs[0].summary["lesions"],
        "runs": [_describe(run, name) for run, name in zip(runs, names, strict=True)],
        "options_that_differ": differing_options(runs),
        "bootstrap": {"seed": SEED, "resamples": resamples, "level": level},
        "comparisons": comparisons,
        "notes": notes(number, level, resamples, folds),
        "notice": NOTICE,
    }


def run_names(folders: Sequence[Path]) -> list[str]:
    """The names of different folders, with as many of those above as tell them apart."""
    paths = [folder.resolve() for folder in folders]
    for depth in itertools.count(1):
        names = [str(Path(*path.parts[-depth:])) for path in paths]
        if len(set(names)) == len(names):
            break
    return names


def _resampled(run: Tested, resamples: int) -> dict[str, NDArray[np.float64]]:
    """Each figure, and then that of every resample, whose lesions do not depend on the run."""
    of_run = (run.labels, run.predicted, run.lesions)
    drawn = lesion_bootstrap(*of_run, strata=run.folds, seed=SEED, resamples=resamples)
    return {n: np.array([run.summary[n], *of.tolist()]) for n, of in figures(drawn).items()}


def _counts(first: Tested, other: Tested) -> dict[str, Any]:
    """How many images two runs predict alike, or only one has right, with McNemar's test."""
    first_right, other_right = first.predicted == first.labels, other.predicted == other.labels
    only_first = int((first_right & ~other_right).sum())
    only_other = int((other_right & ~first_right).sum())
    tosses = only_first + only_other  # heads or tails, were both right equally often
    return {
        "same_prediction": int((first.predicted == other.predicted).sum()),
        "images": len(first.truth),
        "mcnemar": {
            "only_first_right": only_first,
            "only_other_right": only_other,
            "p": float(binomtest(only_first, tosses, 0.5).pvalue) if tosses else 1.0,
        },
    }


def _describe(run: Tested, name: str) -> dict[str, Any]:
    recorded = [network.gates for network in run.runs if network.gates is not None]
    return {
        "name": name if run.folds is None else f"{name} and its other folds",
        "network": run.config.network_name,
        "loss": run.config.loss,
        "split": run.config.split_name,
        "leak": run.leak,
        "parameters": run.runs[0].parameters,
        **{figure: run.summary[figure] for figure in HEADLINES},
        "interval_95": run.summary["interval_95"],
        "gates": describe_gates(recorded, run.config.folds or 1),
    }
