"""The table of what gates do before and after the fine-tuning."""

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.learning.results import Trial

GATES = ("rows", "columns", "positions")

TIMES = 5
"""A gate has learned where its spread is that many times the one that it is compared to."""

Sites = Mapping[str, Mapping[str, Any]]
Runs = Mapping[tuple[int, int], Trial]


def gate_table(trials: Mapping[str, Runs], against: str) -> list[str]:
    """Spread of the gates, and the attention on the lesion less the lesion's area.

    Args:
        trials: by arm, by fold and seed.
        against: name of the arm to whose spread after the training all others are compared.
    """
    columns = [column for gate in GATES for column in (gate, f"{TIMES} x")]
    head = ["arm", *columns, "on the lesion, less its area", "at the sites"]
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    base = trials.get(against, {})
    for name, runs in trials.items():
        done = {run: trial for run, trial in runs.items() if trial.after}
        if not done:
            continue
        before, after = ([side(t) for t in done.values()] for side in (_before, _after))
        cells = []
        for gate in GATES:
            cells += [_arrow(spread(before, gate), spread(after, gate)), learned(done, base, gate)]
        less = on_lesion(done)
        ends = [f"{value:+.3f}" for value in (min(less), max(less))] if less else []
        mean = f"{statistics.mean(less):+.3f}" if less else ""
        measured = sum(trial.lesion_area is not None for trial in done.values())
        if 0 < measured < len(done):  # the others were done without masks
            mean += f" ({measured} of {len(done)} trials)"
        lines.append(f"| {name} | {' | '.join([*cells, mean, ' to '.join(ends)])} |")
    return [
        *lines,
        "",
        "Spread of a gate over images and positions, averaged over its channels: median over the "
        f"sites, mean over the folds, before → after. {TIMES} x: sites of all folds whose spread "
        f"is at least {TIMES} times that of *{against}* after the same training. Share of the "
        "attention on the lesion after it, less the lesion's share of the image: mean over sites "
        "and folds, and the least and the most of a site.",
    ]


def spread(sides: Sequence[Sites], gate: str) -> float | None:
    """Median over the sites, mean over the folds; None for an arm without such gates."""
    found = [list(_spreads(sites, gate).values()) for sites in sides]
    return statistics.mean(map(statistics.median, found)) if all(found) else None


def learned(runs: Runs, base: Runs, gate: str) -> str:
    """At how many sites of all folds the spread is many times that of another arm."""
    ratios = []
    for run, trial in runs.items():
        if run in base:
            compared = _spreads(_after(base[run]), gate)
            own = _spreads(_after(trial), gate)
            ratios += [own[site] >= TIMES * compared[site] for site in own if site in compared]
    return f"{sum(ratios)} of {len(ratios)}" if ratios else ""


def on_lesion(runs: Runs) -> list[float]:
    """At every site of every fold, the share of the attention on the lesion less its area."""
    return [
        site["on_lesion"] - trial.lesion_area
        for trial in runs.values()
        if trial.lesion_area is not None
        for site in _after(trial).values()
        if site["on_lesion"] is not None
    ]


def _before(trial: Trial) -> Sites:
    return trial.before


def _after(trial: Trial) -> Sites:
    return trial.after or {}


def _spreads(sites: Sites, gate: str) -> dict[str, float]:
    return {name: site["spread"][gate] for name, site in sites.items() if gate in site["spread"]}


def _arrow(before: float | None, after: float | None) -> str:
    return "" if before is None or after is None else f"{before:.4f} → {after:.4f}"
