"""What the gates of runs do, a line for each kind of gate: medians over the sites."""

from collections.abc import Sequence
from statistics import median
from typing import Any

from attnblocks import GateReport
from attnblocks.swap.table import lay_out
from attnblocks.visualize import GateStatistics
from examples.ham10000.gates import RecordedGates

NOTE = (
    "Gates are factors of the maps, with their gain; medians over all sites, on images of the "
    "training part. The spread is over images and positions. Moved is the root mean square of the "
    "change in training. A block does nothing if the spread of each of its gates is at most 1 % of "
    "the gate's mean."
)

HEADER = ["gate", "mean", "spread at the start", "spread", "between classes", "moved"]


def describe_gates(recorded: Sequence[RecordedGates], networks: int = 1) -> dict[str, Any] | None:
    """Figures of the gates of a run, or of all folds of an arm, for JSON.

    Args:
        recorded: of each network that has recorded them.
        networks: how many the run or arm has.

    Returns:
        ``blocks`` of all networks, how many of them ``do_nothing``, and ``did_nothing`` at the
        start, None unless each of them has kept it; ``kinds`` of gates with the medians of
        their figures. None where nothing was recorded.
    """
    if not recorded:
        return None
    ends = [gates.end for gates in recorded]
    starts = [gates.start for gates in recorded if gates.start is not None]
    of_start = _by_kind(starts)
    return {
        "images": ends[0].images,
        "networks": len(ends),
        "of_networks": networks,
        "blocks": sum(len(end.sites) for end in ends),
        "do_nothing": sum(len(end.idle) for end in ends),
        "did_nothing": (
            sum(len(start.idle) for start in starts) if len(starts) == len(ends) else None
        ),
        "kinds": {
            kind: {
                "mean": _median([gate.mean for gate in gates]),
                "spread_at_start": _median([gate.spread for gate in of_start.get(kind, [])]),
                "spread": _median([gate.spread for gate in gates]),
                "between_classes": _median([gate.between_classes for gate in gates]),
                "moved": _median([gate.moved for gate in gates]),
            }
            for kind, gates in _by_kind(ends).items()
        },
    }


def gate_rows(gates: dict[str, Any] | None) -> list[list[str]]:
    """The kinds of gates of a run as cells below :data:`HEADER`; none where none are recorded."""
    if gates is None:
        return []
    return [
        [kind, f"{row['mean']:.3f}"]
        + ["-" if v is None else f"{v:.4f}" for name, v in row.items() if name != "mean"]
        for kind, row in gates["kinds"].items()
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


def _by_kind(reports: Sequence[GateReport]) -> dict[str, list[GateStatistics]]:
    kinds: dict[str, list[GateStatistics]] = {}
    for report in reports:
        for gate in report.gates:
            kinds.setdefault(gate.gate, []).append(gate)
    return kinds


def _median(values: Sequence[float | None]) -> float | None:
    """Of what is known; None where nothing is."""
    known = [value for value in values if value is not None]
    return median(known) if known else None
