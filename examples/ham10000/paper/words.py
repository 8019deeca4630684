"""A comparison in words, and as a text for the terminal."""

import textwrap
from typing import Any

from examples.ham10000.metrics import HEADLINES
from examples.ham10000.paper import gates

NAMES = {
    "accuracy": "accuracy",
    "mean_recall": "mean recall",
    "bacc_formula": "BACC by the formula",
    "macro_f1": "macro F1",
}
"""What to call the headline figures in a sentence."""


def verdict(comparison: dict[str, Any]) -> str:
    """Whether the test images can tell a run from the first one, in a sentence or two."""
    if comparison["same_prediction"] == comparison["images"]:
        return "Both predict the same class for every test image: nothing tells them apart."
    told, others = [], []
    for name, row in comparison["differences"].items():
        (low, high), difference = row["interval"], row["difference"]
        if row["told_apart"]:
            higher, (near, far) = "higher" if low > 0 else "lower", sorted((abs(low), abs(high)))
            text = f"{higher} in {NAMES[name]} by {abs(difference):.3f} [{near:.3f}, {far:.3f}]"
            told.append(text)
        else:
            text = f"from {low:+.3f} to {high:+.3f} in {NAMES[name]} (here {difference:+.3f})"
            others.append(text)
    rest = f"the difference may be anything {', '.join(others)}."
    if not told:
        return f"The test images cannot tell them apart: {rest}"
    sentence = f"The test images tell them apart: run {comparison['run']} is {', '.join(told)}."
    return f"{sentence} In the rest they cannot: {rest}" if others else sentence


def notes(comparisons: int, level: float, resamples: int, folds: int | None) -> list[str]:
    """What has to be known to read so many comparisons, with intervals of a level from a bootstrap.

    ``folds`` is how many are pooled; None for a plain test part.
    """
    together = ""
    if comparisons > 1:
        together = (
            f" Each has {format_percent(level)}, so that those of a figure hold for all "
            f"{comparisons} comparisons together with 95 % (Bonferroni)."
        )
    within, trained = "each class", "It is one training run each."
    if folds is not None:
        within = "each class of each fold"
        trained = (
            f"Here a run is an arm of {folds} trained networks, one for each fold: every image is "
            "predicted by the one that did not train with it. It is one training run per fold."
        )
    return [
        "Differences are a run minus run 1. Their intervals are from a paired bootstrap: "
        f"{resamples} times, lesions are drawn with replacement within {within}, the same ones "
        f"for every run.{together} The four figures are not corrected for one another.",
        "McNemar's exact test takes images as independent, although several show one lesion, so "
        "that its p-value tends to be too small: rely on the intervals, which draw whole lesions. "
        "Only where a handful of images makes the difference are the intervals too narrow.",
        f"{trained} Another seed moves the figures too, which neither intervals "
        "nor p-values contain: they are about these trained networks, not about their designs.",
    ]


def format_p(p: float) -> str:
    """Such as ``p = 0.042``."""
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}"


def format_percent(level: float) -> str:
    """Such as ``97.5 %``."""
    return f"{100 * level:.4g} %"


def format_comparison(comparison: dict[str, Any]) -> str:
    """A comparison as tables for the terminal."""
    part = "Test part" if comparison["part"] == "test" else comparison["part"]
    lines = [
        f"{part}, {comparison['data']}, {comparison['images']} images of {comparison['lesions']} "
        "lesions; 95 % intervals from a bootstrap over lesions"
    ]
    table = ["  " + " " * 8 + "".join(f"{name:23}" for name in HEADLINES)]
    for number, run in enumerate(comparison["runs"], start=1):
        lines.append(f"  run {number}: {run['name']}")
        options = f"{run['network']}, {run['loss']}, {run['split']}"
        lines.append(f"      {options}, leak {run['leak']:.3f}")
        cells = "{:.3f} [{:.3f}, {:.3f}]"
        row = [cells.format(run[name], *run["interval_95"][name]) for name in HEADLINES]
        table.append(f"  {f'run {number}':8}" + "".join(f"{cell:23}" for cell in row))
    lines += [line.rstrip() for line in table]
    level = format_percent(comparison["bootstrap"]["level"])
    for pair in comparison["comparisons"]:
        lines.append(f"Run {pair['run']} minus run 1, {level} intervals from a paired bootstrap")
        for name, row in pair["differences"].items():
            low, high = row["interval"]
            lines.append(f"  {name:18}{row['difference']:+.3f}   [{low:+.3f}, {high:+.3f}]")
        test, several = pair["mcnemar"], len(comparison["comparisons"]) > 1
        holm = f", after Holm {format_p(test['p_holm'])}" if several else ""
        lines.append(
            f"  only run 1 right: {test['only_first_right']} images, only run {pair['run']} right: "
            f"{test['only_other_right']}; McNemar's exact {format_p(test['p'])}{holm}"
        )
        lines.append(_wrapped(pair["verdict"], "  "))
    of_gates = gates.format_gates(comparison["runs"])
    texts = [*comparison["notes"], *([gates.NOTE] if of_gates else [])]
    lines += [*of_gates, *map(_wrapped, texts), comparison["notice"]]
    return "\n".join(lines)


def _wrapped(text: str, indent: str = "") -> str:
    return textwrap.fill(text, 100, initial_indent=indent, subsequent_indent=indent)
