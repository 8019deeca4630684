"""A table of the paper with our figures beside its own: text, page and numbers."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from examples.ham10000.config import NOTICE
from examples.ham10000.data.index import ATTRIBUTION
from examples.ham10000.files import whole_file, write_csv
from examples.ham10000.metrics import HEADLINES
from examples.ham10000.paper.caption import caption, notes
from examples.ham10000.paper.results import Finished, Results, Value, headline, summary
from examples.ham10000.paper.rows import Row
from examples.ham10000.report.page import write_page


def write_numbers(results: Results) -> list[Path]:
    """Write both files of a table, and give them.

    Args:
        results: of a table.
    """
    by_row, by_run = results.file(".csv"), results.file("-runs.csv")
    _write_rows(by_row, results)
    _write_runs(by_run, results)
    return [by_row, by_run]


def _write_rows(file: Path, results: Results) -> None:
    """A line per row, finished or not."""
    header = ["row", "accuracy_percent_paper", "bacc_percent_paper", "parameters_million_paper"]
    for name in HEADLINES:
        header += [f"{name}_percent{end}" for end in ("", "_sd", "_low", "_high")]
    header += ["parameters", "validation_mean_recall_percent", "validation_mean_recall_percent_sd"]
    lines: list[list[object]] = []
    for row, runs in results.rows.items():
        line: list[object] = [row.name, row.accuracy, row.bacc, row.parameters]
        if runs:
            for name in HEADLINES:
                value = headline(runs, name)
                line += [value.mean, value.sd, *(value.interval or (None, None))]
            value = summary([run.validation for run in runs])
            line += [runs[0].description["parameters"], value.mean, value.sd]
        lines.append([*line, *[None] * (len(header) - len(line)), len(runs)])
    write_csv(file, [*header, "seeds"], lines)


def _write_runs(file: Path, results: Results) -> None:
    """A line per finished run."""
    header = ["row", "seed", "run", "chosen_epoch", "validation_mean_recall_percent"]
    for name in HEADLINES:
        header += [f"{name}_percent{end}" for end in ("", "_low", "_high")]
    lines: list[list[object]] = []
    for row, runs in results.rows.items():
        for run in runs:
            line: list[object] = [row.name, run.config.seed, run.config.out.name]
            line += [run.epoch, run.validation]
            for name in HEADLINES:
                value = headline([run], name)
                line += [value.mean, *(value.interval or (None, None))]
            data = (run.test["data"], run.test["leak"], run.test["images"])
            lines.append([*line, run.description["parameters"], *data])
    write_csv(file, [*header, "parameters", "data", "leak", "test_images"], lines)


COLUMNS = (
    "row",
    "accuracy %, paper",
    "accuracy %, ours",
    "BACC %, paper",
    "mean recall %, ours",
    "bacc_formula %, ours",
    "macro F1 %, ours",
    "parameters M, paper",
    "parameters M, ours",
    "validation %, ours",
    "seeds",
)


class Cell(NamedTuple):
    """What stands in a cell: a figure, and how far it may be off."""

    figure: str
    spread: str = ""


def write_table(results: Results) -> list[Path]:
    """Write a table as Markdown and HTML.

    Args:
        results: of a table.

    Returns:
        The files.
    """
    markdown, page = results.file(".md"), results.file(".html")
    rows = [_cells(row, runs, results.state(row)) for row, runs in results.rows.items()]
    with whole_file(markdown) as stream:
        stream.write(_markdown(results, rows))
    write_page(
        page,
        "table.html",
        synthetic=results.synthetic,
        title=results.title,
        caption=caption(results),
        rows=rows,
        notes=notes(results),
        failures=results.failures,
    )
    return [markdown, page]


def _cells(row: Row, runs: Sequence[Finished], state: str) -> list[Cell]:
    """The cells of a row, in the order of :data:`COLUMNS`; ``state`` stands where none are ours."""
    accuracy, recall, formula, f1, parameters, validation = [Cell(state), *[Cell("")] * 5]
    if runs:
        accuracy, recall, formula, f1 = (_cell(headline(runs, name)) for name in HEADLINES)
        parameters = Cell(f"{runs[0].description['parameters'] / 1e6:.3f}")
        validation = _cell(summary([run.validation for run in runs]))
    return [
        Cell(row.name),
        Cell(f"{row.accuracy:.2f}"),
        accuracy,
        Cell(f"{row.bacc:.2f}"),
        recall,
        formula,
        f1,
        Cell(f"{row.parameters:.2f}"),
        parameters,
        validation,
        Cell(str(len(runs))),
    ]


def _cell(value: Value) -> Cell:
    spread = ""
    if value.sd is not None:
        spread = f"± {value.sd:.2f}"
    elif value.interval is not None:
        spread = f"[{value.interval[0]:.2f}, {value.interval[1]:.2f}]"
    return Cell(f"{value.mean:.2f}", spread)


def _markdown(results: Results, rows: list[list[Cell]]) -> str:
    """The table as text that can be read as it is."""
    lines = [list(COLUMNS), *([" ".join(cell).strip() for cell in row] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
    table = [
        "| "
        + " | ".join(
            text.rjust(width) if column else text.ljust(width)
            for column, (text, width) in enumerate(zip(line, widths, strict=True))
        )
        + " |"
        for line in [lines[0], rule, *lines[1:]]
    ]
    paragraphs = [f"# {results.title}"]
    if results.synthetic:
        paragraphs.append("**SYNTHETIC pictures: no figure says anything about skin lesions.**")
    paragraphs += [*caption(results), "\n".join(table)]
    paragraphs.append("\n".join(f"- {note}" for note in notes(results)))
    if results.failures:
        paragraphs.append("What went wrong:")
        paragraphs.append("\n".join(f"- {row}: {why}" for row, why in results.failures.items()))
    paragraphs.append(NOTICE)
    if not results.synthetic:
        paragraphs.append(f"Images and labels: {ATTRIBUTION}.")
    return "\n\n".join(paragraphs) + "\n"
