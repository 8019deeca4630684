"""What the runs of a study are, in a JSON file beside their predictions."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from examples.ham10000.files import write_json
from examples.ham10000.gates import read_gates
from examples.ham10000.paper.compare import NO_MATTER
from examples.ham10000.paper.gates import describe_gates
from examples.ham10000.paper.results import read_run
from examples.ham10000.paper.runs import finished
from examples.ham10000.study.arms import Study
from examples.ham10000.study.runs import StudyRun

OF_RUN = (*NO_MATTER, "fold", "seed")
"""Options that are no arm's."""


def write_facts(file: Path, runs: Sequence[StudyRun]) -> None:
    """Write what all finished runs of a study have alike, and what is each arm's.

    Raises:
        ValueError: the files of a run are damaged.
    """
    found = [(run, read_run(run.config)) for run in runs if finished(run.config.out)]
    options = [_options(one.description) for _, one in found]
    alike = {k: v for k, v in options[0].items() if all(other[k] == v for other in options)}
    arms: dict[str, Any] = {}
    for arm in dict.fromkeys(run.arm.name for run, _ in found):
        own = [(run, one) for run, one in found if run.arm.name == arm]
        description = own[0][1].description
        recorded = [read_gates(run.config.out) for run, _ in own]
        arms[arm] = {
            "runs": len(own),
            "parameters": description["parameters"],
            "options": {k: v for k, v in _options(description).items() if k not in alike},
            "chosen_epochs": [one.epoch for _, one in own],
            "gates": describe_gates([gates for gates in recorded if gates is not None], len(own)),
        }
    first, versions = found[0][1].description, [one.description["versions"] for _, one in found]
    content = {"study": runs[0].study, **{k: first[k] for k in ("data", "attribution", "notice")}}
    content["versions"] = [v for i, v in enumerate(versions) if v not in versions[:i]]
    write_json(file, {**content, "options": alike, "arms": arms})


def _options(description: dict[str, Any]) -> dict[str, Any]:
    """Those of an arm; of a file of weights, the name."""
    options = {k: v for k, v in description["options"].items() if k not in OF_RUN}
    return {**options, "weights": Path(options["weights"]).name}


def read_facts(file: Path, study: Study) -> dict[str, Any]:
    """Read it; FileNotFoundError where it is not there, ValueError where it is of no use."""
    if not file.is_file():
        raise FileNotFoundError(f"no {file}, which says what the runs are")
    try:
        facts = json.loads(file.read_text(encoding="utf-8"))
        known = facts["study"] == study.name and facts["arms"].keys()
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"{file} is damaged: {error!r}") from error
    if not known:
        raise ValueError(f"{file} is not of the study {study.name}")
    return dict(facts)
