"""The two figures of the paper, from our runs: a picture, and a page that says what it shows."""

from pathlib import Path
from textwrap import fill

from matplotlib.figure import Figure

from examples.ham10000.paper.caption import caption
from examples.ham10000.paper.results import Finished, Results
from examples.ham10000.paper.rows import Row
from examples.ham10000.report.page import drawing, write_page
from examples.ham10000.report.plots import (
    draw_confusion,
    finish_curve,
    read_curve,
    save_picture,
)


def write_figure(results: Results) -> list[Path]:
    """Write a figure as PNG and HTML, and give the files.

    Args:
        results: of a figure; of several seeds of a row the first is drawn.
    """
    picture, page = results.file(".png"), results.file(".html")
    first = {row: runs[0] if runs else None for row, runs in results.rows.items()}
    draw = {6: _curves, 7: _confusions}[results.table.number]
    figure = draw(results, first)
    drawn = drawing(figure, results.title)
    # The page has the caption in letters; the PNG has nothing but itself.
    figure.supxlabel("\n".join(fill(text, 170) for text in caption(results)), fontsize=8)
    save_picture(figure, picture)
    seeds = sorted({run.config.seed for run in first.values() if run})
    write_page(
        page,
        "figure.html",
        synthetic=results.synthetic,
        title=results.title,
        caption=caption(results),
        picture=drawn,
        notes=[f"Drawn are the runs with seed {' and '.join(map(str, seeds))}."] if seeds else [],
        failures=results.failures,
    )
    return [picture, page]


def _curves(results: Results, first: dict[Row, Finished | None]) -> Figure:
    """Figure 6: training loss and validation accuracy by epoch, a line for each finished row."""
    figure = Figure(figsize=(11, 4.4), layout="constrained")
    loss, accuracy = figure.subplots(1, 2)
    for axes, name in ((loss, "train_loss"), (accuracy, "val_accuracy")):
        for row, run in first.items():
            if run is None:
                axes.plot([], [], linestyle="none", label=f"{row.name}: {results.state(row)}")
                continue
            epochs, values = read_curve(run.config.out / "metrics.csv", run.label + name)
            axes.plot(epochs, values, marker="o", markersize=3, label=row.name)
        finish_curve(axes)
    loss.set_ylabel("training loss")
    loss.set_ylim(bottom=0)
    accuracy.set_ylabel("validation accuracy")
    figure.suptitle(_title(results), fontsize=11)
    return figure


def _confusions(results: Results, first: dict[Row, Finished | None]) -> Figure:
    """Figure 7: a normalised confusion matrix for each row, or why there is none."""
    # Squares that the constrained layout would let overlap.
    figure = Figure(figsize=(15, 12.5), layout="compressed")
    for axes, (row, run) in zip(figure.subplots(2, 3).flat, first.items(), strict=True):
        if run is None:
            axes.set_axis_off()
            axes.text(0.5, 0.5, f"{row.name}: {results.state(row)}", ha="center", va="center")
            continue
        draw_confusion(axes, run.test)
        accuracy, recall = (100 * run.test[name] for name in ("accuracy", "mean_recall"))
        axes.set_title(f"{row.name}\naccuracy {accuracy:.2f} %, mean recall {recall:.2f} %")
    figure.suptitle(_title(results))
    return figure


def _title(results: Results) -> str:
    """With the name of the pictures, for whoever sees the picture alone."""
    data = dict.fromkeys(run.test["data"] for run in results.runs)
    return "\n".join([results.title, *data])
