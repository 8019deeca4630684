"""The differences between runs, and what the test images say about them."""

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from examples.ham10000.comparison.arms import differing_options, read_runs
from examples.ham10000.comparison.gates import describe_gates
from examples.ham10000.comparison.mcnemar import holm, mcnemar
from examples.ham10000.comparison.tested import Tested
from examples.ham10000.comparison.words import notes, verdict
from examples.ham10000.config import NOTICE
from examples.ham10000.evaluation.bootstrap import interval, lesion_bootstrap
from examples.ham10000.evaluation.metrics import HEADLINES, figures

SEED = 0
"""Of the bootstrap: the same lesions are drawn for every run."""

RESAMPLES = 2000
"""For each comparison: the more there are, the further out in the tails their intervals end."""


def compare(folders: Sequence[Path]) -> dict[str, Any]:
    """Compare runs with the first of them, on the test images that they share.

    The runs of folds are pooled: a run of the result is then an arm, with the images of all folds.

    Args:
        folders: of the runs.

    Returns:
        A dict for JSON: ``runs`` with their figures, ``comparisons`` of the others with the first,
        and what is needed to read them. A ``difference`` is that of the figures, other minus
        first; its ``interval`` is from a bootstrap that draws the same lesions for both.

    Raises:
        FileNotFoundError, ValueError: as of
            :func:`examples.ham10000.comparison.arms.read_runs`.
    """
    runs = read_runs(folders)
    first, *others = runs
    resamples = RESAMPLES * len(others)
    level = 1 - 0.05 / len(others)  # Bonferroni
    drawn = [_resampled(run, resamples) for run in runs]
    comparisons = [
        _against(first, other, drawn[0], of_other, level)
        for other, of_other in zip(others, drawn[1:], strict=True)
    ]
    adjusted = holm([comparison["mcnemar"]["p"] for comparison in comparisons])
    for number, (comparison, p) in enumerate(zip(comparisons, adjusted, strict=True), start=2):
        comparison["run"] = number
        comparison["mcnemar"]["p_holm"] = p
        comparison["verdict"] = verdict(comparison)
    names = run_names([run.folder for run in runs])
    folds = first.config.folds
    return {
        "data": first.data,
        "part": "test" if folds is None else f"{folds} folds pooled",
        "images": first.summary["images"],
        "lesions": first.summary["lesions"],
        "runs": [_describe(run, name) for run, name in zip(runs, names, strict=True)],
        "options_that_differ": differing_options(runs),
        "bootstrap": {"seed": SEED, "resamples": resamples, "level": level},
        "comparisons": comparisons,
        "notes": notes(len(others), level, resamples, folds),
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


def _resampled(run: Tested, resamples: int) -> dict[str, Tensor]:
    """The figures of every resample; the draws depend on labels and lesions, not on the run."""
    return figures(
        lesion_bootstrap(
            run.labels,
            run.predicted,
            run.lesions,
            strata=run.folds,
            seed=SEED,
            resamples=resamples,
        )
    )


def _against(
    first: Tested,
    other: Tested,
    of_first: dict[str, Tensor],
    of_other: dict[str, Tensor],
    level: float,
) -> dict[str, Any]:
    differences = {}
    for name in HEADLINES:
        low, high = interval(of_other[name] - of_first[name], level)
        differences[name] = {
            "difference": other.summary[name] - first.summary[name],
            "interval": [low, high],
            "told_apart": low > 0 or high < 0,
        }
    first_right, other_right = first.predicted == first.labels, other.predicted == other.labels
    only_first = int((first_right & ~other_right).sum())
    only_other = int((other_right & ~first_right).sum())
    return {
        "differences": differences,
        "same_prediction": int((first.predicted == other.predicted).sum()),
        "images": len(first.images),
        "mcnemar": {
            "only_first_right": only_first,
            "only_other_right": only_other,
            "p": mcnemar(only_first, only_other),
        },
    }


def _describe(run: Tested, name: str) -> dict[str, Any]:
    return {
        "name": name if run.folds is None else f"{name} and its other folds",
        "network": run.config.network_name,
        "loss": run.config.loss,
        "split": run.config.split_name,
        "leak": run.leak,
        "parameters": run.parameters,
        **{figure: run.summary[figure] for figure in HEADLINES},
        "interval_95": run.summary["interval_95"],
        "gates": describe_gates(run.gates, run.config.folds or 1),
    }
