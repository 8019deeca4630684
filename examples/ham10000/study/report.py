"""The tables of a study, and its picture."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from examples.ham10000.files import whole_file
from examples.ham10000.paper.differences import Difference
from examples.ham10000.paper.gates import HEADER, NOTE, gate_rows, idle_blocks
from examples.ham10000.report.plots import save_picture
from examples.ham10000.study.analysis import POWER, RESAMPLES, Analysis, analyse
from examples.ham10000.study.arms import Arm, Study
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
    study, arms, options = analysis.study, analysis.arms(), facts["options"]
    absent = ", ".join(arm.name for arm in study.arms if arm not in arms)
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
    rows = []
    for arm in arms:
        figures = analysis.figures[arm.name]
        parameters = f"{facts['arms'][arm.name]['parameters']:,}"
        cells = [arm.name, str(len(analysis.by_seed[arm.name])), parameters]
        cells += [_figure(m, figures[m][0], arm) for m in MEASURES]
        rows.append([*cells, f"{analysis.largest[arm.name]:.1f}"])
    yield _table(["arm", "seeds", "parameters", *MEASURES, "largest loss of an image"], rows)
    for reference in study.against:
        yield f"## Differences from {reference}"
        others = [arm for arm in arms if arm.name != reference]
        rows = [[arm.name, *_differences(analysis, arm, reference)] for arm in others]
        yield _table(["arm minus the reference", *MEASURES], rows)
    yield f"## Log loss against {study.against[0]}, the family of tests"
    yield (
        "All arms with cross entropy. The smallest difference that could be seen is "
        f"{POWER} standard errors: it is told apart at 5 % four times of five."
    )
    rows = []
    for name, p in analysis.family.items():
        of = analysis.difference(name, study.against[0], LOG_LOSS)
        ends = (f"{value:.4f}" for value in (of.p, p, POWER * of.error))
        rows.append([name, _difference(LOG_LOSS, of), *ends])
    yield _table(["arm", "difference", "p", "p of Holm", "smallest that could be seen"], rows)
    plain = {a.loss: a.name for a in arms if a.attention == "SE" and a.loss != "cross-entropy"}
    blocks = [arm for arm in arms if arm.attention != "SE" and arm.loss in plain]
    if blocks:
        yield "## Blocks, both with the same loss"
        pairs = [(arm, plain[arm.loss]) for arm in blocks]
        rows = [[f"{a.name} minus {se}", *_differences(analysis, a, se)] for a, se in pairs]
        yield _table(["", *MEASURES], rows)
    if analysis.by_fold:
        yield "## What another seed does"
        yield (
            "The same arm trained twice. The chance of training is the standard deviation of a "
            "difference between two arms with one seed each if only the seeds differ, from the "
            f"differences on the folds; below it are {POWER} of them."
        )
        columns = [
            [_difference(m, of) for of in analysis.between_seeds(m).values()] for m in MEASURES
        ]
        rows = [list(row) for row in zip(analysis.between_seeds(LOG_LOSS), *columns, strict=True)]
        for title, factor in (
            ("chance of training", 1),
            ("smallest that could be seen through it", POWER),
        ):
            rows.append([title, *(_figure(m, factor * analysis.chance(m)) for m in MEASURES)])
        yield _table(["", *MEASURES], rows)
    yield "## Gates"
    yield NOTE
    recorded = {name: arm["gates"] for name, arm in facts["arms"].items()}
    rows = [
        [n, *row, idle_blocks(gates)] for n, gates in recorded.items() for row in gate_rows(gates)
    ]
    yield _table(["arm", *HEADER, "blocks"], rows)
    yield from _on_lesions(facts)
    yield f"{facts['attribution']}. {facts['notice']}"


def _on_lesions(facts: dict[str, Any]) -> Iterable[str]:
    """How much attention is on the lesion, of the arms of which that is known."""
    rows = []
    for name, arm in facts["arms"].items():
        if of := arm["on_lesions"]:
            times = of["times_area"]
            shares = (of["area"], times["median"], times["least"], times["most"])
            counts = (f"{of['networks']}", f"{of['images']:,}")
            rows.append([name, *counts, *(f"{share:.3f}" for share in shares)])
    if rows:
        yield "## Attention on the lesion"
        yield (
            "Of blocks that gate rows, columns or positions, at each site: the share of the "
            "attention that is on the lesion, over the share of the image that the lesion covers. "
            "1 is attention that is the same everywhere. On images of the test part with masks."
        )
        columns = ["networks", "images", "area of the lesion", "median over sites", "least", "most"]
        yield _table(["arm", *columns], rows)


def _differences(analysis: Analysis, arm: Arm, other: str) -> list[str]:
    found = {name: analysis.difference(arm.name, other, name) for name in MEASURES}
    return [
        UNLIKE if name in LOSSES and arm.loss != "cross-entropy" else _difference(name, of)
        for name, of in found.items()
    ]


def _difference(name: str, of: Difference) -> str:
    digits, scale = (4, 1) if name in LOSSES else (2, 100)
    return of.text(digits, scale)


def _figure(name: str, value: float, arm: Arm | None = None) -> str:
    if name in LOSSES:
        return f"{value:.4f}" if arm is None or arm.loss == "cross-entropy" else UNLIKE
    return f"{100 * value:.2f}"


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    align = ["---", *["--:"] * (len(header) - 1)]
    return "\n".join(f"| {' | '.join(row)} |" for row in [header, align, *rows])
