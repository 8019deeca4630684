"""What the gates of runs do, a line for each kind of gate: medians over the sites."""

from collections.abc import Sequence
from statistics import median
from typing import Any

from attnblocks import GateReport
from attnblocks.swap.table import lay_out
from examples.ham10000.gates import RecordedGates

NOTE = (
    "Gates are factors of the maps, with their gain; medians over all sites, on images of the "
    "training part. The spread is over images and positions. Moved is the root mean square of the "
    "change in training. A block does nothing if the spread of each of its gates is at most 1 % of "
    "the gate's mean."
)

HEADER = ["gate", "mean", "spread at the start", "spread", "between classes", "moved"]


def describe_gates(recorded: Sequence[RecordedGates], networks: int = 1) -> dict[str, Any] | None:
    """Figures of the gates of a run, or of all folds of an arm, for JSON; None without any.

    ``recorded`` are those of the ``networks`` that have recorded them. Blocks are counted over all
    of these; ``did_nothing`` at the start is None unless each of them has kept it. Of every kind
    of gate there are medians, None where nothing is known.
    """
    if not recorded:
        return None
    ends = [gates.end for gates in recorded]
    starts = [gates.start for gates in recorded if gates.start is not None]
    idle = sum(len(start.idle) for start in starts)
    return {
        "images": ends[0].images,
        "networks": len(ends),
        "of_networks": networks,
        "blocks": sum(len(end.sites) for end in ends),
        "do_nothing": sum(len(end.idle) for end in ends),
        "did_nothing": idle if len(starts) == len(ends) else None,
        "kinds": {
            kind: {
                "mean": _median(ends, kind, "mean"),
                "spread_at_start": _median(starts, kind, "spread"),
                "spread": _median(ends, kind, "spread"),
                "between_classes": _median(ends, kind, "between_classes"),
                "moved": _median(ends, kind, "moved"),
            }
            for kind in dict.fromkeys(gate.gate for end in ends for gate in end.gates)
        },
    }


def _median(reports: Sequence[GateReport], kind: str, name: str) -> float | None:
    """Of a figure, as far as it is known; None where it is not."""
    gates = [gate for report in reports for gate in report.gates if gate.gate == kind]
    known = [value for gate in gates if (value := getattr(gate, name)) is not None]
    return median(known) if known else None


def gate_rows(gates: dict[str, Any] | None) -> list[list[str]]:
    """The kinds of gates of a run as cells below :data:`HEADER`; none where none are recorded."""
    kinds = {} if gates is None else gates["kinds"]
    return [
        [kind, f"{mean:.3f}", *("-" if value is None else f"{value:.4f}" for value in values)]
        for kind, (mean, *values) in ((kind, row.values()) for kind, row in kinds.items())
    ]


def idle_blocks(gates: dict[str, Any] | None) -> str:
    """Such as ``2 of 9 blocks do nothing (9 at the start)``."""
    if gates is None:
        return "no gates recorded"
    recorded, of = gates["networks"], gates["of_networks"]
    share = f"{recorded}" if recorded == of else f"{recorded} of {of}"
    networks = f" in {share} networks" if of > 1 else ""
    start = "" if gates["did_nothing"] is None else f" ({gates['did_nothing']} at the start)"
    return f"{gates['do_nothing']} of {gates['blocks']} blocks{networks} do nothing{start}"


def format_gates(runs: Sequence[dict[str, Any]]) -> list[str]:
    """Lines for the terminal, of the runs that have recorded their gates; none if none has."""
    known = {f"run {number}": run["gates"] for number, run in enumerate(runs, start=1)}
    rows = [[name, *row] for name, gates in known.items() for row in gate_rows(gates)]
    if not rows:
        return []
    table = lay_out([["run", *HEADER], *rows], words={"run", "gate"})
    idle = "; ".join(f"{name}: {idle_blocks(gates)}" for name, gates in known.items())
    return ["Gates", *(f"  {line}" for line in table.splitlines()), f"  {idle}"]
