"""What the runs of a study are, in a JSON file beside their predictions."""

import json
from collections.abc import Sequence
from pathlib import Path
from statistics import mean, median
from typing import Any

from examples.ham10000.files import write_json
from examples.ham10000.paper.finished import Finished, damaged, finished, which_matter
from examples.ham10000.paper.gates import describe_gates
from examples.ham10000.paper.runs import read_own
from examples.ham10000.report.results import GATES_OF_PART
from examples.ham10000.study.arms import Study
from examples.ham10000.study.runs import StudyRun


def write_facts(file: Path, runs: Sequence[StudyRun]) -> None:
    """Write what all finished runs of a study have alike, and what is each arm's.

    Raises:
        ValueError: the files of a run are damaged.
    """
    found = [(r.arm.name, read_own(r.config)) for r in runs if finished(r.config.out)]
    options = [_options(one) for _, one in found]
    alike = {k: v for k, v in options[0].items() if all(other[k] == v for other in options)}
    arms: dict[str, Any] = {}
    for arm in dict.fromkeys(name for name, _ in found):
        own = [one for name, one in found if name == arm]
        arms[arm] = {
            "runs": len(own),
            "parameters": own[0].parameters,
            "options": {k: v for k, v in _options(own[0]).items() if k not in alike},
            "chosen_epochs": [one.chosen[0] for one in own],
            "gates": describe_gates([one.gates for one in own if one.gates], len(own)),
            "on_lesions": _on_lesions(own),
        }
    first, versions = found[0][1].description, [one.description["versions"] for _, one in found]
    content = {"study": runs[0].study, **{k: first[k] for k in ("data", "attribution", "notice")}}
    content["versions"] = [v for i, v in enumerate(versions) if v not in versions[:i]]
    write_json(file, {**content, "options": alike, "arms": arms})


def _options(run: Finished) -> dict[str, Any]:
    """Those of an arm; of a file of weights, the name."""
    options = {k: v for k, v in which_matter(run.config).items() if k not in ("fold", "seed")}
    return {**options, "weights": Path(options["weights"]).name}


def _on_lesions(runs: Sequence[Finished]) -> dict[str, Any] | None:
    """How much attention on images of the test parts is on their lesions, by :data:`GATES_OF_PART`.

    It is over the ``area`` of the lesions, the share of the image: 1 for attention that is the same
    everywhere. None where no run has blocks that look at places, and masks.
    """
    shares, areas, images = [], [], 0
    for file in (run.config.out / GATES_OF_PART.format("test") for run in runs):
        if file.exists():
            with damaged(f"{file} is"):
                report = json.loads(file.read_text(encoding="utf-8"))
                sites = [site["on_where"] for site in report["sites"]]
                if seen := [share / report["area"] for share in sites if share is not None]:
                    shares += seen
                    areas.append(report["area"])
                    images += report["marked"]
    if not shares:
        return None
    times = {"median": median(shares), "least": min(shares), "most": max(shares)}
    return {"networks": len(areas), "images": images, "area": mean(areas), "times_area": times}


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
