"""Tables of the trials that are done."""

import math
import statistics
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from benchmarks.files import write_text
from benchmarks.learning.arms import ARMS, OWN, control
from benchmarks.learning.gate_table import gate_table
from benchmarks.learning.results import ABOVE_OWN, RISE, Trial, lost_start, read_trials

STUDENT_T = [12.706, 4.303, 3.182, 2.776]
"""97.5 % quantile of Student's t for 2 to 5 differences, one for each fold."""

Trials = dict[str, dict[tuple[int, int], Trial]]
"""By arm, in the order of the list, and by fold and seed."""


def report(out: Path, against: str) -> None:
    """Write ``report.md`` into the folder of the results.

    Args:
        out: that folder.
        against: name of the arm to whose gates all others are compared.
    """
    trials = by_arm(read_trials(out))
    lines = [
        "Rates of the layers that make gates: tf_mobilenetv3_small_075, ImageNet weights, "
        "fine-tuned on HAM10000 at 200x150, shown at 112 px. "
        "Research code. Not a medical device; not for diagnosis.",
        "",
        *loss_table(trials),
        "",
        "Log loss of the validation part after the last epoch. Differences are paired over folds, "
        "with the mean over the seeds of each and 95 % intervals (Student's t). The control is own "
        "SE with the same factor at its gates, the same warm-up and clipping; where the list of "
        "arms has none, the cell is empty. "
        f"Lost its start: an epoch with a training loss more than {RISE} above that of the epoch "
        f"before, or a log loss more than {ABOVE_OWN} above own SE at the end.",
        "",
        *gate_table(trials, against),
        "",
        *_cost(trials),
    ]
    write_text(out / "report.md", "\n".join(lines) + "\n")


def by_arm(trials: Iterable[Trial]) -> Trials:
    """Sort trials; arms that are in no list any more come last."""
    found: Trials = {}
    for trial in trials:
        found.setdefault(trial.arm, {})[trial.run] = trial
    order = [arm.name for arm in ARMS if arm.name in found]
    return {name: found[name] for name in (*order, *sorted(found.keys() - set(order)))}


def loss_table(trials: Trials) -> list[str]:
    """Log loss by arm and fold, and what it is less the network's own SE."""
    runs = sorted({run for found in trials.values() for run in found})
    seeds = {seed for _, seed in runs}
    heads = [f"fold {fold}" + (f" seed {seed}" if len(seeds) > 1 else "") for fold, seed in runs]
    head = ["arm", *heads, "mean", "less own SE", "less control", "accuracy", "mean recall"]
    lines = [f"| {' | '.join([*head, 'lost its start'])} |", "|---" * (len(head) + 1) + "|"]
    controls = {arm.name: same.name for arm in ARMS if (same := control(arm)) is not None}
    own = trials.get(OWN.name, {})
    for name, found in trials.items():
        cells = [
            *(_number(found[run].losses[-1]) if run in found else "" for run in runs),
            _mean(trial.losses[-1] for trial in found.values()),
            "" if name == OWN.name else difference(found, own),
            difference(found, trials.get(controls[name], {})) if name in controls else "",
            *(_last(found, figure) for figure in ("val_accuracy", "val_mean_recall")),
            _lost(found, own, dict(zip(runs, heads, strict=True))),
        ]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return lines


def difference(found: dict[tuple[int, int], Trial], base: dict[tuple[int, int], Trial]) -> str:
    """Mean of the differences of the last log loss by fold, with its interval from two folds on.

    Seeds are averaged within a fold: its differences share their images.
    """
    by_fold: dict[int, list[float]] = {}
    for run in found.keys() & base.keys():
        by_fold.setdefault(run[0], []).append(found[run].losses[-1] - base[run].losses[-1])
    less = [sum(of) / len(of) for of in by_fold.values()]
    if not less or not all(map(math.isfinite, less)):
        return "-"
    mean = statistics.mean(less)
    if len(less) == 1:
        return f"{mean:+.3f}"
    half = STUDENT_T[len(less) - 2] * statistics.stdev(less) / len(less) ** 0.5
    return f"{mean:+.3f} [{mean - half:+.3f}, {mean + half:+.3f}]"


def _lost(
    found: dict[tuple[int, int], Trial],
    own: dict[tuple[int, int], Trial],
    names: dict[tuple[int, int], str],
) -> str:
    """The folds, by their names, in which an arm lost its start, and after which epoch."""
    said = []
    for run, trial in sorted(found.items()):
        if run not in own:
            said.append(f"{names[run]}: own SE is not done")
        elif epoch := lost_start(trial, own[run]):
            said.append(f"**{names[run]}, epoch {epoch}**")
    return "; ".join(said) or "no"


def _last(found: dict[tuple[int, int], Trial], figure: str) -> str:
    """Mean of a figure after the last epoch; a trial that broke off has none."""
    if any(trial.error for trial in found.values()):
        return "-"
    return _mean(trial.epochs[-1][figure] for trial in found.values())


def _mean(values: Iterable[float]) -> str:
    return _number(statistics.mean(values))


def _number(value: float) -> str:
    return f"{value:.3f}" if math.isfinite(value) else "not finite"


def _cost(trials: Trials) -> list[str]:
    """How many trials each device did, and how long one took."""
    done: Sequence[Trial] = [trial for found in trials.values() for trial in found.values()]
    devices = Counter(trial.device for trial in done)
    return [
        f"{device}: {count} trials of {done[0].of_epochs} epochs, "
        f"{statistics.median(t.seconds for t in done if t.device == device):.0f} s each (median)."
        for device, count in devices.items()
    ]
