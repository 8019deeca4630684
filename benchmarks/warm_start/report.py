"""Tables and curves of what was measured."""

import csv
import json
import statistics
from collections.abc import Sequence
from pathlib import Path

from matplotlib import colormaps
from matplotlib.figure import Figure

from benchmarks.warm_start.setup import COMPARED, FINETUNED, OWN, Arm
from examples.ham10000.files import whole_file

READ_AFTER = (1, 2, 4, 8)  # epochs
STUDENT_T = {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776}
"""97.5 % quantile of Student's t for that many seeds."""


def report(out: Path, seeds: Sequence[int]) -> None:
    """Write ``report.md`` and ``curves.png`` into the folder of the results."""
    recalls = {arm: [_recalls(out / f"{arm.name} {s}.csv") for s in seeds] for arm in FINETUNED}
    lines = [*_features_table(out, seeds), "", *_finetuning_table(recalls)]
    with whole_file(out / "report.md") as stream:
        stream.write("\n".join(lines) + "\n")
    _draw(recalls, out / "curves.png")


def _features_table(out: Path, seeds: Sequence[int]) -> list[str]:
    """Relative error and probe, mean and standard deviation over the seeds."""
    lines = [
        "| network | relative L2 error | probe: mean recall | probe, less own SE |",
        "|---|---|---|---|",
    ]

    def read(arm: Arm, figure: str) -> list[float]:
        return [json.loads((out / f"{arm.name} {s}.json").read_text())[figure] for s in seeds]

    own = read(OWN, "probe")
    for arm in COMPARED:
        errors, probes = read(arm, "error"), read(arm, "probe")
        less = [probe - base for probe, base in zip(probes, own, strict=True)]
        cells = [_spread(errors), _spread(probes), f"{statistics.mean(less):+.3f}"]
        lines.append(f"| {arm.name} | {' | '.join(cells)} |")
    return lines


def _finetuning_table(recalls: dict[Arm, list[dict[int, float]]]) -> list[str]:
    """Mean recall after some epochs, and the paired difference to the network's own SE."""
    lines = [
        f"| network | {' | '.join(f'epoch {epoch}' for epoch in READ_AFTER)} | less own SE |",
        f"|---{'|---' * len(READ_AFTER)}|---|",
    ]
    for arm, runs in recalls.items():
        cells = [f"{statistics.mean(run[epoch] for run in runs):.3f}" for epoch in READ_AFTER]
        less = [
            statistics.mean(run[epoch] - own[epoch] for epoch in READ_AFTER)
            for run, own in zip(runs, recalls[OWN], strict=True)
        ]
        half = STUDENT_T[len(less)] * statistics.stdev(less) / len(less) ** 0.5
        mean = statistics.mean(less)
        difference = f"{mean:+.3f} [{mean - half:+.3f}, {mean + half:+.3f}]"
        lines.append(f"| {arm.name} | {' | '.join(cells)} | {'' if arm == OWN else difference} |")
    return lines


def _recalls(file: Path) -> dict[int, float]:
    with file.open(newline="") as stream:
        return {int(r["epoch"]): float(r["val_mean_recall"]) for r in csv.DictReader(stream)}


def _spread(values: Sequence[float]) -> str:
    mean, deviation = statistics.mean(values), statistics.stdev(values)
    return f"{mean:.3f} ± {deviation:.3f}" if mean < 10 else f"{mean:.0f} ± {deviation:.0f}"


def _draw(recalls: dict[Arm, list[dict[int, float]]], file: Path) -> None:
    """The mean of the seeds as a line, every seed as a point."""
    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.subplots()
    for number, (arm, runs) in enumerate(recalls.items()):
        color = colormaps["tab10"](number)
        epochs = list(runs[0])
        means = [statistics.mean(run[epoch] for run in runs) for epoch in epochs]
        axes.plot(epochs, means, color=color, label=arm.name, linewidth=2)
        for run in runs:
            axes.plot(epochs, list(run.values()), ".", color=color, markersize=4, alpha=0.5)
    axes.set(
        xlabel="epoch",
        ylabel="mean recall, validation part",
        title="Fine-tuning on HAM10000 (200x150, 112 px), tf_mobilenetv3_small_075, ImageNet\n"
        f"constant learning rate; mean and points of {len(next(iter(recalls.values())))} seeds",
    )
    figure.legend(loc="outside lower center", ncols=3)
    axes.grid(alpha=0.3)
    figure.savefig(file, dpi=120)
