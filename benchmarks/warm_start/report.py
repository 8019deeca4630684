"""The table of what was measured."""

import json
import statistics
from collections.abc import Sequence
from pathlib import Path

from benchmarks.files import write_text
from benchmarks.warm_start.setup import COMPARED, OWN, Arm


def report(out: Path, seeds: Sequence[int]) -> None:
    """Write ``report.md`` into the folder of the results."""
    write_text(out / "report.md", "\n".join(_features_table(out, seeds)) + "\n")


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


def _spread(values: Sequence[float]) -> str:
    mean, deviation = statistics.mean(values), statistics.stdev(values)
    return f"{mean:.3f} ± {deviation:.3f}" if mean < 10 else f"{mean:.0f} ± {deviation:.0f}"
