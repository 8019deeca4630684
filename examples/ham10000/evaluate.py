"""A network and the images of one part: probabilities and figures."""

import warnings
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from examples.ham10000 import processes
from examples.ham10000.checkpoint import read_checkpoint
from examples.ham10000.config import NOTICE, Config, read_description, read_options
from examples.ham10000.data.batches import evaluation_loader
from examples.ham10000.data.ground_truth import read_ground_truth
from examples.ham10000.data.index import CLASSES, SYNTHETIC_ID, is_synthetic, read_index
from examples.ham10000.data.layouts import ISIC_CLASSES
from examples.ham10000.data.load import Data, cache_beside, load_data, load_images
from examples.ham10000.data.splits import COLUMNS, leak, read_split
from examples.ham10000.data.tables import read_table, some
from examples.ham10000.metrics import CHALLENGE_HEADLINES, HEADLINES, summarise
from examples.ham10000.model import new_network
from examples.ham10000.module import LesionClassifier
from examples.ham10000.seen import of_lesions_seen
from examples.ham10000.trainer import new_trainer, signals_raised


@dataclass(frozen=True)
class Evaluation:
    """A network, the images of a part of a split, and what came out.

    ``folder`` is where the data lie, ``logits`` are float32 (N, 7), in the order of the part, and
    ``summary`` has the figures for JSON; its ``part`` says what was evaluated.
    """

    config: Config
    folder: Path
    data: Data
    part: str
    module: LesionClassifier
    logits: Tensor
    summary: dict[str, Any]

    @property
    def probabilities(self) -> Tensor:
        """Of the classes, (N, 7)."""
        return self.logits.softmax(dim=1)


def load_best(run: Path, name: str = "best.ckpt") -> LesionClassifier:
    """The network of a run, with the weights that validated best, or those of another checkpoint.

    FileNotFoundError where there is no run, or no such checkpoint yet; ValueError where its files
    are damaged or do not fit together.
    """
    config = read_options(run)
    file = run / name
    if not file.is_file():
        raise FileNotFoundError(f"no {file}: the run has finished no epoch")
    network = new_network(config, empty=True)
    checkpoint = read_checkpoint(file)
    try:
        weights = {
            name.removeprefix("model."): value
            for name, value in checkpoint["state_dict"].items()
            if name.startswith("model.")
        }
        network.model.load_state_dict(weights)
        for name, value in network.model.state_dict().items():  # with the gains that it has taken
            if name in weights and weights[name].dtype != value.dtype:  # it was rounded
                raise ValueError(f"{name} is {weights[name].dtype}, not {value.dtype}")
            if not value.isfinite().all():  # all probabilities would be NaN
                raise ValueError(f"{name} is not finite")
    except Exception as error:  # what a stranger's file holds can be of any kind
        raise ValueError(f"{file} cannot be loaded: {error}") from error
    size, classes = config.image_size, len(CLASSES)
    return LesionClassifier(network, nn.CrossEntropyLoss(), num_classes=classes, image_size=size)


def evaluate_run(run: Path, folder: Path, part: str, workers: int) -> Evaluation:
    """Evaluate the best checkpoint of a run on a part of its split.

    Other files of the same images, such as larger ones, give a warning. A run or data that cannot
    be used, and a split that is not one of these data, are a FileNotFoundError or a ValueError.
    """
    config, module = read_options(run), load_best(run)
    try:  # an old run may lack it
        digest = dict(read_description(run).get("images_sha256", {})).get(part)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"{run / 'description.json'} or config.json is damaged: images_sha256"
        ) from error
    images = read_index(folder, allow_missing=True, same_lesion=config.same_lesion_copy)
    split = read_split(run / "split.csv", images, complete=False)
    data = load_data(images, run / "split.csv", config.image_size, cache_beside(run), [part])
    if digest not in (None, data.digests[part]):
        warnings.warn(
            f"the images of {folder} are not the files that {run} was trained with", stacklevel=2
        )
    return evaluate_part(module, data, part, config, folder, workers, leak(images, split))


def evaluate_ground_truth(run: Path, folder: Path, file: Path, workers: int) -> Evaluation:
    """Evaluate the best checkpoint of a run on the images of a table of classes.

    They may be in the test part of its split. Where the network was trained or validated on
    lesions that they show, or the run, the table or the images cannot be used, it is a ValueError
    or a FileNotFoundError.
    """
    config, truth = read_options(run), read_ground_truth(file, folder)
    images, rows = truth.images, [row for _, row in read_table(run / "split.csv", COLUMNS)]
    if known := of_lesions_seen(images, rows, ("train", "val"), [config.same_lesion_copy]):
        raise ValueError(
            f"{len(known)} of the {len(images)} images of {file} show lesions of the training or "
            f"validation part of {run}: {some(known)}. "
            "Their figures would be too good: give images that the network has not seen, or "
            "--split test for the test part of the run"
        )
    for image in truth.missing:
        processes.say(f"left out: {image}, which {file} lists and {folder} does not have")
    if truth.ignored:
        processes.say(f"ignored: {truth.ignored} image files in {folder} that {file} does not list")
    # It is the log of the run that the label has to fit.
    drawn = any(row["image_id"].startswith(SYNTHETIC_ID) for row in rows)
    synthetic = "SYNTHETIC: " if drawn or is_synthetic(images) else ""
    data = load_images(
        images,
        {"test": list(range(len(images)))},
        config.image_size,
        cache_beside(run),
        f"{synthetic}{file.name}, {len(images):,} images",
        SYNTHETIC_ID if drawn else "",
        has_lesions=truth.has_lesions,
    )
    found = evaluate_part(load_best(run), data, "test", config, folder, workers, None)
    of_file = {"missing_images": truth.missing, "ignored_files": truth.ignored}
    return replace(found, summary={**found.summary, "part": "ground truth file", **of_file})


def evaluate_part(
    module: LesionClassifier,
    data: Data,
    part: str,
    config: Config,
    folder: Path,
    workers: int,
    leak: float | None,
) -> Evaluation:
    """Predict every image of a part once, in float32, over all processes.

    ``leak`` is the share of the test images whose lesion is in the training part, for the report;
    None for images that do not come from the split of the run.
    """
    trainer = new_trainer()
    batches = evaluation_loader(data.part(part), config.batch_size, workers=workers)
    with signals_raised(trainer):
        trainer.test(module, batches, verbose=False)
    positions, logits = module.predictions.compute()
    if positions != data.split[part]:
        raise RuntimeError(f"{len(positions)} predictions for {len(data.split[part])} images")
    images, logits = [data.images[i] for i in positions], logits.cpu()
    found = summarise(
        logits.softmax(dim=1),
        torch.tensor([image.label for image in images]),
        [image.lesion for image in images],
    )
    summary = {
        "network": config.network_name,
        "data": data.name,
        "split": None if leak is None else config.split_name,
        "leak": leak,
        "part": part,
        "bootstrap_over": "lesions" if data.has_lesions else "images",
        **found,
        "lesions": found["lesions"] if data.has_lesions else None,
        "notice": NOTICE,
    }
    return Evaluation(config, folder, data, part, module, logits, summary)


def isic_rows(images: list[str], probabilities: Tensor) -> list[list[object]]:
    """Rows of an ISIC 2018 Task 3 submission: image and probabilities, in the order of its classes.

    The probabilities, (N, 7), are in the order of :data:`CLASSES`.
    """
    order = [CLASSES.index(name.lower()) for name in ISIC_CLASSES]
    return [
        [image, *(f"{value:.9g}" for value in row)]
        for image, row in zip(images, probabilities[:, order].tolist(), strict=True)
    ]


def format_summary(summary: dict[str, Any]) -> str:
    """The figures of a part as a table for the terminal."""
    over, lesions = summary["bootstrap_over"], f" of {summary['lesions']} lesions"
    if summary["split"] is None:
        headlines, title = CHALLENGE_HEADLINES, f"Ground truth file {summary['data']}"
        title += f"{lesions if over == 'lesions' else ''}, {summary['network']}"
    else:
        headlines, title = HEADLINES, f"{summary['part'].capitalize()} part, {summary['data']}, "
        title += f"{summary['split']}, leak {summary['leak']:.3f}, {summary['network']}, "
        title += f"{summary['images']} images{lesions}"
    lines = [f"{title}; 95 % intervals from a bootstrap over {over}"]
    for name in headlines:
        low, high = summary["interval_95"][name]
        lines.append(f"  {name:18}{summary[name]:.3f}   [{low:.3f}, {high:.3f}]")
    lines.append(f"  {'calibration_error':18}{summary['calibration_error']:.3f}")
    columns = ("sensitivity", "specificity", "bacc_formula", "f1", "roc_auc")
    lines.append(f"  {'class':6}{'images':>8}" + "".join(f"{name:>14}" for name in columns))
    for name, row in summary["per_class"].items():
        values = "".join(f"{row[column]:14.3f}" for column in columns)
        lines.append(f"  {name:6}{row['images']:8}{values}")
    return "\n".join(lines)
