"""What is written of the evaluation of a part: tables, pictures, and a page that shows all."""

from collections.abc import Iterator
from dataclasses import asdict
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from attnblocks import find_se, recipe
from examples.ham10000.config import PAPER_MODELS, Config, read_description, read_options
from examples.ham10000.data.batches import center_crop
from examples.ham10000.data.index import CLASSES
from examples.ham10000.data.layouts import ISIC_CLASSES
from examples.ham10000.evaluate import Evaluation, isic_rows
from examples.ham10000.files import moved_into_place, write_csv, write_json
from examples.ham10000.metrics import CHALLENGE_HEADLINES, HEADLINES
from examples.ham10000.report.attention import gates_of_part, read_attention
from examples.ham10000.report.page import drawing, photo, write_page
from examples.ham10000.report.plots import confusion, curves, roc, save_picture

LOG_PROBABILITIES, GATES_OF_PART = "log_probabilities_{}.npz", "gates_{}.json"
DESCRIBED = {
    "data": str,
    "images": dict,
    "parameters": int,
    "training_transform": list,
    "evaluation_transform": list,
    "versions": dict,
}
"""What the page takes from the description of a run."""

MOST_ERRORS = 12


def write_results(folder: Path, evaluation: Evaluation, *, drawn: bool = True) -> None:
    """Write probabilities (CSV), confusion matrix (PNG), report (HTML), and then figures (JSON).

    The figures come last: where they are, everything is. Beside the CSV, in which a very small
    probability can be 0, are the logarithms (NPZ). Where nothing is ``drawn``, what the page says
    of the gates is in a JSON file of its own.
    """
    data, config, summary = evaluation.data, evaluation.config, evaluation.summary
    part = evaluation.part
    images = [data.images[i].image_id for i in data.split[part]]
    rows = isic_rows(images, evaluation.probabilities)
    write_csv(folder / f"{part}.csv", ("image", *ISIC_CLASSES), rows)
    logarithms = evaluation.logits.double().log_softmax(dim=1).float().numpy()
    file = folder / LOG_PROBABILITIES.format(part)
    with moved_into_place(file) as partial, partial.open("xb") as stream:
        np.savez_compressed(stream, image=np.array(images), log_probability=logarithms)
    if drawn:
        title = f"{data.name}\n{config.network_name}"
        if summary["split"] is not None:
            title = f"{data.name}, {summary['split']}\n{config.network_name}, {part} part"
        save_picture(confusion(summary, title), folder / f"confusion_matrix_{part}.png")
        _write_report(folder / "report.html", evaluation)
    elif config.init is not None:
        write_json(folder / GATES_OF_PART.format(part), asdict(gates_of_part(evaluation)))
    write_json(folder / f"{part}.json", summary)


def read_log_probabilities(folder: Path, part: str) -> tuple[list[str], NDArray[np.float32]]:
    """The ids of the images of a part, and the logarithms of their probabilities, (N, 7).

    OSError where there is no such file, ValueError where it is damaged.
    """
    file = folder / LOG_PROBABILITIES.format(part)
    try:
        with np.load(file, allow_pickle=False) as content:
            images, found = content["image"], content["log_probability"]
    except OSError:
        raise
    except Exception as error:  # a damaged file has many kinds
        raise ValueError(f"{file} is damaged: {error}") from error
    if images.ndim != 1 or found.shape != (len(images), len(CLASSES)) or found.dtype != np.float32:
        raise ValueError(f"{file} is damaged: {found.dtype} of shape {found.shape}")
    return images.tolist(), found


def check_described(run: Path) -> None:
    """Raise ValueError for a run that does not say what its page needs, before it is evaluated."""
    read_options(run)  # what is wrong with them is said first
    description = read_description(run)
    for name, kind in DESCRIBED.items():
        if not isinstance(description.get(name), kind):
            raise ValueError(
                f"{run / 'description.json'} does not say {name}: copy it from the folder that the "
                "run was trained in, or leave out --out"
            )


def _write_report(file: Path, evaluation: Evaluation) -> None:
    """Write the page of one part of a run, whose folder has its log and its description."""
    config, data, summary = evaluation.config, evaluation.data, evaluation.summary
    labels = torch.tensor([data.images[i].label for i in data.split[evaluation.part]])
    log = config.out / "metrics.csv"
    write_page(
        file,
        "run.html",
        synthetic=data.name.startswith("SYNTHETIC"),
        summary=summary,
        headlines=HEADLINES if summary["split"] is not None else CHALLENGE_HEADLINES,
        description=read_description(config.out),
        config=config,
        options=_options(config),
        paper_name={code: name for name, code in PAPER_MODELS.items()}.get(config.model),
        blocks=_count_blocks(config, evaluation.module.model),
        **_hits(summary),
        curves=drawing(curves(log, data.label, ""), "loss and validation figures by epoch"),
        confusion=drawing(confusion(summary, ""), "normalised confusion matrix"),
        roc=drawing(roc(evaluation.probabilities, labels), "ROC curve of every class"),
        errors=list(_errors(evaluation, labels)),
        # Of the blocks of the library, where it has any.
        attention=None if config.init is None else read_attention(evaluation),
    )


def _options(config: Config) -> dict[str, object]:
    """The options of the run; of paths the last part, which says enough."""
    options = {n: v for n, v in vars(config).items() if v is not None and n != "out"}
    paths = {"data", "split_file", "weights"} & options.keys()
    return options | {name: Path(options[name]).name for name in paths}


def _count_blocks(config: Config, model: nn.Module) -> int:
    """How many blocks were inserted; else how many SE sites there are, whatever is there now."""
    if config.insert is None:
        return len(find_se(model))
    return [site["block"] for site in recipe(model)].count(config.attention)


def _hits(summary: dict[str, Any]) -> dict[str, Any]:
    """How many images are right, and classes: the most frequent one, and those that fare worst.

    Each has its name, how many of its images are right, and how many it has.
    """
    counts, rows = summary["confusion_counts"], summary["per_class"].items()
    classes = [
        (name, counts[place][place], row["images"]) for place, (name, row) in enumerate(rows)
    ]
    least = min(right / images for _, right, images in classes)
    return {
        "right": sum(right for _, right, _ in classes),
        "most": max(classes, key=itemgetter(2)),
        "weakest": [entry for entry in classes if entry[1] / entry[2] == least],
    }


def _errors(evaluation: Evaluation, labels: Tensor) -> Iterator[dict[str, object]]:
    """The images whose wrong class has the highest probabilities."""
    data, probabilities = evaluation.data, evaluation.probabilities
    confidence, predicted = probabilities.max(dim=1)
    wrong = (predicted != labels).nonzero().flatten()
    worst = wrong[confidence[wrong].argsort(descending=True, stable=True)][:MOST_ERRORS]
    for place in worst.tolist():
        position = data.split[evaluation.part][place]
        image, pixels = data.images[position], torch.from_numpy(data.pixels[position].copy())
        yield {
            "photo": photo(center_crop(pixels, evaluation.config.image_size), image.image_id),
            "image": image.image_id,
            "true": CLASSES[image.label].upper(),
            "predicted": CLASSES[int(predicted[place])].upper(),
            "confidence": float(confidence[place]),
            "of_true": float(probabilities[place, image.label]),
        }
