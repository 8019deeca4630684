"""What the runs of a study say beside their predictions, in one small file."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from examples.ham10000.comparison.arms import NO_MATTER
from examples.ham10000.comparison.gates import describe_gates
from examples.ham10000.config import read_description
from examples.ham10000.files import write_json
from examples.ham10000.reproduce.runs import finished
from examples.ham10000.reproduce.study.runs import StudyRun
from examples.ham10000.training.gates import read_gates

OF_RUN = (*NO_MATTER, "fold", "seed")
"""Options that are no arm's."""


def write_facts(file: Path, runs: Sequence[StudyRun]) -> None:
    """Write what all finished runs have alike, and what is each arm's.

    Args:
        file: JSON.
        runs: of a study.

    Raises:
        ValueError: the files of a run are damaged.
    """
    done = [run for run in runs if finished(run.config.out)]
    described = {run.name: read_description(run.config.out) for run in done}
    options = {run.name: _options(described[run.name]) for run in done}
    alike = {
        name: value
        for name, value in next(iter(options.values())).items()
        if all(other[name] == value for other in options.values())
    }
    arms: dict[str, Any] = {}
    for arm in dict.fromkeys(run.arm.name for run in done):
        own = [run for run in done if run.arm.name == arm]
        first = own[0].name
        recorded = [gates for run in own if (gates := read_gates(run.config.out)) is not None]
        arms[arm] = {
            "runs": len(own),
            "parameters": described[first]["parameters"],
            "options": {k: v for k, v in options[first].items() if k not in alike},
            "gates": describe_gates(recorded, len(own)),
        }
    versions = [description["versions"] for description in described.values()]
    content = {
        "study": done[0].study,
        **{k: described[done[0].name][k] for k in ("data", "attribution", "notice")},
        "versions": [v for i, v in enumerate(versions) if v not in versions[:i]],
        "options": alike,
        "arms": arms,
    }
    write_json(file, content)


def _options(description: dict[str, Any]) -> dict[str, Any]:
    """Those of an arm; of a file of weights, the name."""
    options = {k: v for k, v in description["options"].items() if k not in OF_RUN}
    return {**options, "weights": Path(options["weights"]).name}
