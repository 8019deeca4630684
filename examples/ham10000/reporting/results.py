"""What is written of the evaluation of a part."""

from pathlib import Path

from examples.ham10000.data.layouts import ISIC_CLASSES
from examples.ham10000.evaluation.evaluate import Evaluation, isic_rows
from examples.ham10000.evaluation.plots import confusion, save_picture
from examples.ham10000.files import write_csv, write_json
from examples.ham10000.reporting.report import write_report


def write_results(folder: Path, evaluation: Evaluation) -> None:
    """Write probabilities (CSV), confusion matrix (PNG), report (HTML), and then figures (JSON).

    The figures come last: where they are, everything is.
    """
    data, config, summary = evaluation.data, evaluation.config, evaluation.summary
    part = evaluation.part
    images = [data.images[i].image_id for i in data.split[part]]
    rows = isic_rows(images, evaluation.probabilities)
    write_csv(folder / f"{part}.csv", ("image", *ISIC_CLASSES), rows)
    title = f"{data.name}\n{config.network_name}"
    if summary["split"] is not None:
        title = f"{data.name}, {summary['split']}\n{config.network_name}, {part} part"
    save_picture(confusion(summary, title), folder / f"confusion_matrix_{part}.png")
    write_report(folder / "report.html", evaluation)
    write_json(folder / f"{part}.json", summary)
