"""The report of a run: one page that shows what was trained, on what, and what came out."""

from pathlib import Path

import torch
from torch import Tensor

from examples.ham10000.config import Config, read_description
from examples.ham10000.data.batches import center_crop
from examples.ham10000.data.index import CLASSES
from examples.ham10000.evaluate import Evaluation
from examples.ham10000.metrics import CHALLENGE_HEADLINES, HEADLINES
from examples.ham10000.report import plots
from examples.ham10000.report.attention import read_attention
from examples.ham10000.report.page import drawing, photo, write_page

MOST_ERRORS = 12


def write_report(file: Path, evaluation: Evaluation) -> None:
    """Write the page of one part of a run, which needs no network to be read.

    The folder of the run has to have its log, and its description.
    """
    config, data, summary = evaluation.config, evaluation.data, evaluation.summary
    part = evaluation.part
    labels = torch.tensor([data.images[i].label for i in data.split[part]])
    attention = None
    if config.init is not None:  # with blocks of the library
        attention = read_attention(
            evaluation.module, data, part, evaluation.folder, config.out, config.batch_size
        )
    write_page(
        file,
        "run.html",
        synthetic=data.name.startswith("SYNTHETIC"),
        summary=summary,
        headlines=HEADLINES if summary["split"] is not None else CHALLENGE_HEADLINES,
        description=read_description(config.out),
        config=config,
        options=_options(config),
        curves=drawing(
            plots.curves(config.out / "metrics.csv", data.label, ""),
            "loss and validation figures by epoch",
        ),
        confusion=drawing(plots.confusion(summary, ""), "normalised confusion matrix"),
        roc=drawing(plots.roc(evaluation.probabilities, labels), "ROC curve of every class"),
        errors=_errors(evaluation, labels),
        attention=attention,
    )


def _options(config: Config) -> dict[str, object]:
    """The options of the run; of paths the last part, which says enough."""
    options = {name: value for name, value in vars(config).items() if value is not None}
    del options["out"]
    shortened = {
        name: Path(options[name]).name
        for name in ("data", "split_file", "weights")
        if name in options
    }
    return options | shortened


def _errors(evaluation: Evaluation, labels: Tensor) -> list[dict[str, object]]:
    """The images whose wrong class has the highest probabilities."""
    data, probabilities, part = evaluation.data, evaluation.probabilities, evaluation.part
    confidence, predicted = probabilities.max(dim=1)
    wrong = (predicted != labels).nonzero().flatten()
    worst = wrong[confidence[wrong].argsort(descending=True, stable=True)][:MOST_ERRORS]
    errors = []
    for place in worst.tolist():
        position = data.split[part][place]
        image = data.images[position]
        pixels = center_crop(
            torch.from_numpy(data.pixels[position].copy()), evaluation.config.image_size
        )
        errors.append(
            {
                "photo": photo(pixels, image.image_id),
                "image": image.image_id,
                "true": CLASSES[image.label].upper(),
                "predicted": CLASSES[int(predicted[place])].upper(),
                "confidence": float(confidence[place]),
                "of_true": float(probabilities[place, image.label]),
            }
        )
    return errors
