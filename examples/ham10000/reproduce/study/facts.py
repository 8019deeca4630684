"""What the runs of a study say beside their predictions, in one small file."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from examples.ham10000.comparison.arms import NO_MATTER
from examples.ham10000.comparison.gates import describe_gates
from examples.ham10000.files import write_json
from examples.ham10000.reproduce.results import read_run
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
    found = {run: read_run(run.config) for run in runs if finished(run.config.out)}
    descriptions = [one.description for one in found.values()]
    options = [_options(description) for description in descriptions]
    first = options[0]
    alike = {k: v for k, v in first.items() if all(other[k] == v for other in options)}
    arms: dict[str, Any] = {}
    for arm in dict.fromkeys(run.arm.name for run in found):
        own = {run: one for run, one in found.items() if run.arm.name == arm}
        description = next(iter(own.values())).description
        recorded = [gates for run in own if (gates := read_gates(run.config.out)) is not None]
        arms[arm] = {
            "runs": len(own),
            "parameters": description["parameters"],
            "options": {k: v for k, v in _options(description).items() if k not in alike},
            "chosen_epochs": [one.epoch for one in own.values()],
            "gates": describe_gates(recorded, len(own)),
        }
    versions = [description["versions"] for description in descriptions]
    content = {
        "study": runs[0].study,
        **{k: descriptions[0][k] for k in ("data", "attribution", "notice")},
        "versions": [v for i, v in enumerate(versions) if v not in versions[:i]],
        "options": alike,
        "arms": arms,
    }
    write_json(file, content)


def _options(description: dict[str, Any]) -> dict[str, Any]:
    """Those of an arm; of a file of weights, the name."""
    options = {k: v for k, v in description["options"].items() if k not in OF_RUN}
    return {**options, "weights": Path(options["weights"]).name}
