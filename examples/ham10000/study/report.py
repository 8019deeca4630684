"""The tables of a study, and its picture."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from examples.ham10000.files import whole_file
from examples.ham10000.paper.gates import HEADER, NOTE, gate_rows, idle_blocks
from examples.ham10000.report.plots import save_picture
from examples.ham10000.study.analysis import POWER, RESAMPLES, Analysis, Difference, analyse
from examples.ham10000.study.arms import Study
from examples.ham10000.study.facts import read_facts
from examples.ham10000.study.forest import forest
from examples.ham10000.study.measures import LEAST, LOG_LOSS, LOSSES, MEASURES

UNLIKE = "-"
"""In the place of a log loss of networks that were not trained for it."""


def write_study(study: Study, folder: Path) -> list[Path]:
    """Write tables and picture beside the predictions that they are made from; give the files.

    Raises:
        FileNotFoundError: predictions of a reference, or the facts, are not there.
        ValueError: a file is damaged, or they do not fit together.
    """
    facts = read_facts(folder / f"{study.name}.json", study)
    analysis = analyse(study, folder)
    text, picture = folder / f"{study.name}.md", folder / f"{study.name}.png"
    with whole_file(text) as stream:
        stream.write("\n\n".join(_parts(analysis, facts)) + "\n")
    save_picture(forest(analysis), picture)
    return [text, picture]


def _parts(analysis: Analysis, facts: dict[str, Any]) -> Iterable[str]:
    """The paragraphs and tables."""
    study = analysis.study
    options = facts["options"]
    absent = ", ".join(arm.name for arm in study.arms if arm.name not in analysis.figures)
    missing = f" Not run yet: {absent}." if absent else ""
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
            [arm.name, str(len(analysis.by_seed[arm.name]))]
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
    if analysis.by_fold:
        yield "## What another seed does"
        yield (
            "The same arm trained twice. The chance of training is the standard deviation of a "
            "difference between two arms with one seed each if only the seeds differ, from the "
            f"differences on the folds; below it are {POWER} of them."
        )
        seeds = {m: analysis.between_seeds(m) for m in MEASURES}
        chance = {m: analysis.chance(m) for m in MEASURES}
        yield _table(
            ["", *MEASURES],
            [
                *(
                    [of, *(_difference(m, seeds[m][of]) for m in MEASURES)]
                    for of in seeds[LOG_LOSS]
                ),
                ["chance of training", *(_figure(m, v) for m, v in chance.items())],
                [
                    "smallest that could be seen through it",
                    *(_figure(m, POWER * v) for m, v in chance.items()),
                ],
            ],
        )
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
