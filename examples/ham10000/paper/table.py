"""A table or figure of the paper with our figures beside its own: text, page, numbers, picture."""

from pathlib import Path
from statistics import mean, stdev
from textwrap import fill
from typing import Any

from matplotlib.figure import Figure

from examples.ham10000.config import NOTICE
from examples.ham10000.data.index import ATTRIBUTION
from examples.ham10000.files import whole_file, write_csv
from examples.ham10000.metrics import HEADLINES
from examples.ham10000.paper.caption import caption, notes
from examples.ham10000.paper.finished import Finished
from examples.ham10000.paper.results import Results
from examples.ham10000.paper.rows import Row
from examples.ham10000.report.page import drawing, write_page
from examples.ham10000.report.plots import draw_confusion, finish_curve, read_curve, save_picture

COLUMNS = {
    "row": "row",
    "accuracy %, paper": "accuracy_percent_paper",
    "accuracy %, ours": "accuracy_percent",
    "BACC %, paper": "bacc_percent_paper",
    "mean recall %, ours": "mean_recall_percent",
    "bacc_formula %, ours": "bacc_formula_percent",
    "macro F1 %, ours": "macro_f1_percent",
    "parameters M, paper": "parameters_million_paper",
    "parameters M, ours": "parameters",
    "validation %, ours": "validation_mean_recall_percent",
    "seeds": "seeds",
}
"""Those to be read, with those of the CSV file."""

OF_RUN = (
    *("row", "seed", "run", "chosen_epoch", "validation_mean_recall_percent"),
    *(f"{name}_percent{end}" for name in HEADLINES for end in ("", "_low", "_high")),
    *("parameters", "data", "leak", "test_images"),
)
"""Columns of the CSV file by run."""

Record = dict[str, Any]
"""A line of a CSV file, by column."""


def write_table(results: Results) -> list[Path]:
    """Write a table as Markdown, page, and CSV by row and by run; give the files."""
    markdown, by_row, by_run = (results.file(end) for end in (".md", ".csv", "-runs.csv"))
    of_runs = {row: [_of_run(row, run) for run in runs] for row, runs in results.rows.items()}
    of_rows = {row: _of_row(row, runs) for row, runs in of_runs.items()}
    cells = [
        [_cell(record, name, results.state(row)) for name in COLUMNS.values()]
        for row, record in of_rows.items()
    ]
    with whole_file(markdown) as stream:
        stream.write(_markdown(results, cells))
    page = _write_page(results, "table.html", rows=cells, notes=notes(results))
    lines = [[*record.values()] for record in of_rows.values()]
    write_csv(by_row, [*of_rows[results.table.rows[0]]], lines)
    write_csv(by_run, OF_RUN, [[*run.values()] for runs in of_runs.values() for run in runs])
    return [markdown, page, by_row, by_run]


def _of_run(row: Row, run: Finished) -> Record:
    line = [row.name, run.config.seed, run.config.out.name, *run.chosen]
    for name in HEADLINES:
        line += [100 * value for value in (run.test[name], *run.test["interval_95"][name])]
    line.append(run.parameters)
    line += [run.test[name] for name in ("data", "leak", "images")]
    return dict(zip(OF_RUN, line, strict=True))


def _of_row(row: Row, runs: list[Record]) -> Record:
    """The paper's figures, and ours as far as there are runs; an interval is that of one run."""
    record: Record = {
        "row": row.name,
        "accuracy_percent_paper": row.accuracy,
        "bacc_percent_paper": row.bacc,
        "parameters_million_paper": row.parameters,
    }
    for name in (f"{headline}_percent" for headline in HEADLINES):
        record |= _mean(runs, name)
        for end in ("_low", "_high"):
            record[name + end] = runs[0][name + end] if len(runs) == 1 else None
    record["parameters"] = runs[0]["parameters"] if runs else None
    return {**record, **_mean(runs, "validation_mean_recall_percent"), "seeds": len(runs)}


def _mean(runs: list[Record], name: str) -> Record:
    """Mean and sample standard deviation over the seeds."""
    values = [run[name] for run in runs]
    spread = stdev(values) if len(values) > 1 else None
    return {name: mean(values) if values else None, f"{name}_sd": spread}


def _cell(record: Record, name: str, state: str) -> tuple[str, str]:
    """A figure of a row, and how far it may be off; where none are ours, ``state`` stands once."""
    value = record[name]
    if value is None:
        return (state if name == "accuracy_percent" else ""), ""
    if name == "parameters":
        return f"{value / 1e6:.3f}", ""
    if not isinstance(value, float):
        return str(value), ""
    sd, low, high = (record.get(name + end) for end in ("_sd", "_low", "_high"))
    spread = "" if low is None else f"[{low:.2f}, {high:.2f}]"
    return f"{value:.2f}", spread if sd is None else f"± {sd:.2f}"


def _write_page(results: Results, template: str, **content: object) -> Path:
    file = results.file(".html")
    write_page(
        file,
        template,
        synthetic=results.synthetic,
        title=results.title,
        caption=caption(results),
        failures=results.failures,
        **content,
    )
    return file


def _markdown(results: Results, rows: list[list[tuple[str, str]]]) -> str:
    """The table as text that can be read as it is."""
    lines = [list(COLUMNS), *([" ".join(cell).strip() for cell in row] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    lines.insert(1, ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])])
    table = []
    for first, *others in lines:
        cells = [text.rjust(width) for text, width in zip(others, widths[1:], strict=True)]
        table.append(f"| {' | '.join([first.ljust(widths[0]), *cells])} |")
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


def write_figure(results: Results) -> list[Path]:
    """Write a figure as PNG and page; of several seeds of a row the first is drawn."""
    figure = _curves(results) if results.table.number == 6 else _confusions(results)
    # With the name of the pictures, for whoever sees the picture alone.
    data = dict.fromkeys(run.test["data"] for run in results.runs)
    figure.suptitle("\n".join([results.title, *data]))
    drawn = drawing(figure, results.title)
    # The page has the caption in letters; the PNG has nothing but itself.
    figure.supxlabel("\n".join(fill(text, 170) for text in caption(results)), fontsize=8)
    picture = results.file(".png")
    save_picture(figure, picture)
    seeds = sorted({runs[0].config.seed for runs in results.rows.values() if runs})
    said = [f"Drawn are the runs with seed {' and '.join(map(str, seeds))}."] if seeds else []
    return [picture, _write_page(results, "figure.html", picture=drawn, notes=said)]


def _curves(results: Results) -> Figure:
    """Figure 6: training loss and validation accuracy by epoch, a line for each finished row."""
    figure = Figure(figsize=(11, 4.4), layout="constrained")
    loss, accuracy = figure.subplots(1, 2)
    for axes, name in ((loss, "train_loss"), (accuracy, "val_accuracy")):
        for row, runs in results.rows.items():
            if not runs:
                axes.plot([], [], linestyle="none", label=f"{row.name}: {results.state(row)}")
                continue
            epochs, values = read_curve(runs[0].config.out / "metrics.csv", runs[0].label + name)
            axes.plot(epochs, values, marker="o", markersize=3, label=row.name)
        finish_curve(axes)
    loss.set_ylabel("training loss")
    loss.set_ylim(bottom=0)
    accuracy.set_ylabel("validation accuracy")
    return figure


def _confusions(results: Results) -> Figure:
    """Figure 7: a normalised confusion matrix for each row, or why there is none."""
    # Squares that the constrained layout would let overlap.
    figure = Figure(figsize=(15, 12.5), layout="compressed")
    for axes, (row, runs) in zip(figure.subplots(2, 3).flat, results.rows.items(), strict=True):
        if not runs:
            axes.set_axis_off()
            axes.text(0.5, 0.5, f"{row.name}: {results.state(row)}", ha="center", va="center")
            continue
        test = runs[0].test
        draw_confusion(axes, test)
        accuracy, recall = (100 * test[name] for name in ("accuracy", "mean_recall"))
        axes.set_title(f"{row.name}\naccuracy {accuracy:.2f} %, mean recall {recall:.2f} %")
    return figure
