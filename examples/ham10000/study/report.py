"""The tables of a study, and its picture."""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from examples.ham10000.files import whole_file, write_json
from examples.ham10000.gates import read_gates
from examples.ham10000.paper.compare import NO_MATTER
from examples.ham10000.paper.forest import OPEN, TOLD
from examples.ham10000.paper.gates import HEADER, NOTE, describe_gates, gate_rows, idle_blocks
from examples.ham10000.paper.results import read_run
from examples.ham10000.paper.runs import finished
from examples.ham10000.report.plots import save_picture
from examples.ham10000.study.analysis import (
    LEAST,
    LOG_LOSS,
    LOSSES,
    MEASURES,
    POWER,
    RESAMPLES,
    Analysis,
    Difference,
    analyse,
    differ,
)
from examples.ham10000.study.arms import Study
from examples.ham10000.study.runs import StudyRun

SEEDS = "#b5651d"
"""Colour of an arm trained twice."""

FAR = 3
"""Differences of more than so many times the median reach of intervals are drawn as arrows."""


def forest(analysis: Analysis) -> Figure:
    """The arms with cross entropy against each reference, best first, and seeds below.

    Args:
        analysis: of a study.
    """
    against = analysis.study.against
    first = analysis.figures[against[0]][LOG_LOSS]
    names = [arm.name for arm in analysis.arms("cross-entropy")]
    names.sort(key=lambda name: float(analysis.figures[name][LOG_LOSS][0] - first[0]))
    seeds = {
        f"{arm}, seed 1 minus 0": differ(found[1][LOG_LOSS], found[0][LOG_LOSS])
        for arm, found in analysis.by_seed.items()
    }
    lines = [*names, *seeds]
    panels = {
        reference: {
            name: analysis.difference(name, reference, LOG_LOSS)
            for name in names
            if name != reference
        }
        | seeds
        for reference in against
    }
    reaches = sorted(
        max(abs(of.low), abs(of.high)) for panel in panels.values() for of in panel.values()
    )
    near = [reach for reach in reaches if reach <= FAR * reaches[len(reaches) // 2]]
    limit = 1.05 * near[-1]
    figure = Figure(figsize=(6.4 * len(against), 1.5 + 0.34 * len(lines)), layout="constrained")
    for axes, (reference, differences) in zip(
        figure.subplots(1, len(against), sharex=True, sharey=True), panels.items(), strict=True
    ):
        axes.set_xlim(-limit, limit)
        axes.xaxis.set_major_locator(MaxNLocator(5, symmetric=True))
        axes.axvline(0, color="black", linewidth=1)
        for name, of in differences.items():
            told = TOLD if of.low > 0 or of.high < 0 else OPEN
            _draw(axes, lines.index(name), of, SEEDS if name in seeds else told)
        if reference in names:
            axes.text(0, names.index(reference), " reference", va="center", fontsize=9)
        axes.set_xlabel(f"log loss minus that of {reference}; less is better", fontsize=9)
        axes.tick_params(axis="y", length=0)
        axes.spines[["left", "right", "top"]].set_visible(False)
    axes.set_yticks(range(len(lines)), lines, fontsize=9)
    axes.set_ylim(len(lines) - 0.5, -0.5)
    folds = len(analysis.folds)
    figure.suptitle(
        f"Study {analysis.study.name}: {analysis.images:,} test images of {folds} folds, 95 % "
        "intervals over lesions; filled where there is no zero in it",
        fontsize=10,
    )
    return figure


def _draw(axes: Axes, line: int, of: Difference, colour: str) -> None:
    """One difference; one that is far outside is an arrow at the edge."""
    text = f"{of.value:+.4f} [{of.low:+.4f}, {of.high:+.4f}]"
    beside = axes.get_yaxis_transform()  # x from 0 to 1 over the axes, y in lines
    axes.text(1.02, line, text, transform=beside, va="center", fontsize=9)
    limit = axes.get_xlim()[1]
    if abs(of.value) > limit:
        edge = limit if of.value > 0 else -limit
        arrow = {"arrowstyle": "->", "color": colour, "linewidth": 2}
        axes.annotate("", (edge, line), (0.85 * edge, line), arrowprops=arrow)
        return
    axes.plot([of.low, of.high], [line, line], color=colour, linewidth=2)
    fill = colour if of.low > 0 or of.high < 0 else "white"
    axes.plot(of.value, line, marker="o", color=colour, markerfacecolor=fill)


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


UNLIKE = "-"
"""In the place of a log loss of networks that were not trained for it."""


def write_study(study: Study, folder: Path) -> list[Path]:
    """Write tables and picture beside the predictions that they are made from.

    Args:
        study: one of ``STUDIES``.
        folder: of predictions and facts.

    Returns:
        The files.

    Raises:
        FileNotFoundError: predictions of a reference, or the facts, are not there.
        ValueError: a file is damaged, or they do not fit together.
    """
    facts = _read_facts(folder / f"{study.name}.json", study)
    analysis = analyse(study, folder)
    text, picture = folder / f"{study.name}.md", folder / f"{study.name}.png"
    with whole_file(text) as stream:
        stream.write("\n\n".join(_parts(analysis, facts)) + "\n")
    save_picture(forest(analysis), picture)
    return [text, picture]


def _read_facts(file: Path, study: Study) -> dict[str, Any]:
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


def _parts(analysis: Analysis, facts: dict[str, Any]) -> Iterable[str]:
    """The paragraphs and tables."""
    study = analysis.study
    options = facts["options"]
    missing = f" Not run yet: {', '.join(analysis.missing)}." if analysis.missing else ""
    yield f"# Study {study.name}, all tables"
    yield (
        f"{facts['data']}, {options['image_size']} px, {options['epochs']} epochs, "
        f"{options['model']}; {analysis.images:,} images of {analysis.lesions:,} lesions, each "
        f"tested once, in fold(s) {', '.join(map(str, analysis.folds))} by lesion.{missing} "
        f"Intervals are of 95 %, from {RESAMPLES:,} draws of lesions within fold and class, the "
        "same for all arms. They hold the chance of the images, not that of the training. Arms "
        "with several seeds have the mean of their figures. Log loss in nats, all else in percent "
        "and percentage points. The bounded log loss takes probabilities below "
        f"{LEAST} for {LEAST}. Corrected recall: each class's probability divided by its share of "
        "all images. Networks that were trained with another loss than cross entropy give no "
        f"probabilities that are meant to be calibrated: their log loss is {UNLIKE}."
    )
    yield "## Figures"
    head = ["arm", "seeds", "parameters", *MEASURES, "largest loss of an image"]
    yield _table(
        head,
        [
            [arm.name, str(len(analysis.seeds[arm.name]))]
            + [f"{facts['arms'][arm.name]['parameters']:,}"]
            + [_figure(name, analysis.figures[arm.name][name][0], arm.loss) for name in MEASURES]
            + [f"{analysis.largest[arm.name]:.1f}"]
            for arm in analysis.arms()
        ],
    )
    for reference in study.against:
        yield f"## Differences from {reference}"
        yield _table(
            ["arm minus the reference", *MEASURES],
            [
                [arm.name, *_differences(analysis, arm.name, reference, arm.loss)]
                for arm in analysis.arms()
                if arm.name != reference
            ],
        )
    yield f"## Log loss against {study.against[0]}, the family of tests"
    yield (
        "All arms with cross entropy. The smallest difference that could be seen is "
        f"{POWER} standard errors: it is told apart at 5 % four times of five."
    )
    family = analysis.family
    yield _table(
        ["arm", "difference", "p", "p of Holm", "smallest that could be seen"],
        [
            [name, _difference(LOG_LOSS, of), f"{of.p:.4f}", f"{p:.4f}", f"{POWER * of.error:.4f}"]
            for name, p in family.items()
            for of in [analysis.difference(name, study.against[0], LOG_LOSS)]
        ],
    )
    if same := _same_loss(analysis):
        yield "## Blocks, both with the same loss"
        yield _table(["", *MEASURES], same)
    if analysis.by_seed:
        yield "## What another seed does"
        yield (
            "The same arm trained twice. The chance of training is the standard deviation of a "
            "difference between two arms with one seed each if only the seeds differ, from the "
            f"differences on the folds; below it are {POWER} of them."
        )
        rows = []
        for arm, (first, second, *_) in analysis.by_seed.items():
            cells = [_difference(m, differ(second[m], first[m])) for m in MEASURES]
            rows.append([f"{arm}, seed 1 minus 0", *cells])
        chance = {m: analysis.chance(m) or 0 for m in MEASURES}
        rows.append(["chance of training", *(_figure(m, v) for m, v in chance.items())])
        seen = [_figure(m, POWER * v) for m, v in chance.items()]
        rows.append(["smallest that could be seen through it", *seen])
        yield _table(["", *MEASURES], rows)
    yield "## Gates"
    yield NOTE
    recorded = {name: arm["gates"] for name, arm in facts["arms"].items() if arm["gates"]}
    yield _table(
        ["arm", *HEADER, "blocks"],
        [
            [name, *row, idle_blocks(gates)]
            for name, gates in recorded.items()
            for row in gate_rows(gates)
        ],
    )
    yield f"{facts['attribution']}. {facts['notice']}"


def _same_loss(analysis: Analysis) -> list[list[str]]:
    """The arms with another loss than cross entropy against SE with the same."""
    arms = [arm for arm in analysis.arms() if arm.loss != "cross-entropy"]
    plain = {arm.loss: arm.name for arm in arms if arm.attention == "SE"}
    return [
        [
            f"{arm.name} minus {plain[arm.loss]}",
            *_differences(analysis, arm.name, plain[arm.loss], arm.loss),
        ]
        for arm in arms
        if arm.attention != "SE" and arm.loss in plain
    ]


def _differences(analysis: Analysis, one: str, other: str, loss: str) -> list[str]:
    return [
        UNLIKE
        if name in LOSSES and loss != "cross-entropy"
        else _difference(name, analysis.difference(one, other, name))
        for name in MEASURES
    ]


def _difference(name: str, of: Difference) -> str:
    digits, scale = (4, 1) if name in LOSSES else (2, 100)
    value, low, high = (f"{scale * v:+.{digits}f}" for v in (of.value, of.low, of.high))
    return f"{value} [{low}, {high}]"


def _figure(name: str, value: float, loss: str = "cross-entropy") -> str:
    if name in LOSSES:
        return f"{value:.4f}" if loss == "cross-entropy" else UNLIKE
    return f"{100 * value:.2f}"


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    align = ["---", *["--:"] * (len(header) - 1)]
    return "\n".join(f"| {' | '.join(row)} |" for row in [header, align, *rows])
